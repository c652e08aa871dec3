import pytest

from oddstream.cli import checking
from oddstream.cli.views.markets import market_page, markets_table
from oddstream.cli.views.signals import signal_page, signals_table
from oddstream.cli.views.status import SystemView, status_page
from oddstream.cli.views.strategies import strategies_table, strategy_page
from oddstream.v1 import feed_status_pb2, market_pb2, settlement_pb2, signal_service_pb2, strategy_pb2, venue_pb2
from tests.client.cli.messages import (
    DATA_SET,
    NOW_US,
    a_book,
    a_feed,
    a_leg,
    a_market,
    a_signal,
    a_stretch,
    evidence,
    sig,
)
from tests.client.cli.screens import lines_of

WIDTHS = pytest.mark.parametrize("columns", [80, 140])


def flat(renderable, columns):
    return " ".join(" ".join(lines_of(renderable, columns)).split())


def compact(renderable, columns):
    """Without the line breaks that a folded id has."""
    return "".join(flat(renderable, columns).split())


@WIDTHS
def test_a_list_of_markets_shows_whole_ids_titles_states_and_times(columns):
    long_id = f"polymarket:0x{'ab' * 32}"
    other = a_market(long_id, data_origin=venue_pb2.DATA_ORIGIN_SIMULATED)
    table = markets_table([a_market(), other], NOW_US, columns)
    text = flat(table, columns)
    assert "kalshi:NBA" in text
    assert "SIM Will the Lakers win?" in text
    assert "in 2h 00m" in text
    # the id folds inside of its column, so its pieces come line by line
    pieces = "".join(line[: line.find("  ")] if "  " in line else line for line in lines_of(table, columns))
    assert long_id in pieces.replace(" ", "")


@WIDTHS
def test_a_market_s_page_has_all_that_an_order_needs(columns):
    text = flat(market_page(a_market(), a_book(), "", NOW_US, 2), columns)
    for part in (
        "venue's id NBA",
        "ticker NBA-26",
        "series KXNBA",
        "0 to 0.1 in steps of 0.001",
        "0.1 to 1 in steps of 0.01",
        "minimum size 1 contract",
        "size step 0.01 contracts",
        "taker delay 3s",
        "1s old, epoch 4",
        "50 0.41 0.42 30.5",
        "- - 0.43 10",
        "and 1 more",
        "this resolves to Lakers.",
    ):
        assert part in text


def test_the_fee_schedule_in_force_is_marked_and_the_others_are_not():
    lines = lines_of(market_page(a_market(), a_book(), "", NOW_US, 2), 140)
    (now,) = [line for line in lines if "July 2026" in line]
    (before,) = [line for line in lines if "of 2025" in line]
    assert now.strip().startswith("►")
    assert "0.07 × C × p × (1 - p)" in now
    assert "further notice" in now
    assert "►" not in before
    assert "0.035 × C × p × (1 - p)" in before
    assert "2026-04-28" in before


def test_a_market_without_book_or_fees_says_why():
    market = a_market()
    del market.fee_schedules[:]
    market.ClearField("fee_schedule")
    text = flat(market_page(market, None, "no book is held", NOW_US, 2), 80)
    assert "no book is held" in text
    assert "no schedule is known" in text


@pytest.mark.parametrize(
    ("settlement", "words"),
    [
        ({"yes_payout_micros": 1_000_000, "state": settlement_pb2.SETTLEMENT_STATE_FINAL}, '"Lakers" pays 1'),
        ({"yes_payout_micros": 500_000, "void": True}, 'void: "Lakers" pays 0.5'),
        ({"void": True}, "void: stakes are returned"),
    ],
)
def test_a_settlement_says_what_was_paid(settlement, words):
    market = a_market(settlement=settlement_pb2.Settlement(revision=2, **settlement))
    text = flat(market_page(market, a_book(), "", NOW_US, 2), 80)
    assert f"result {words}" in text
    assert "revision 2" in text


@pytest.mark.parametrize(
    ("strike", "words"),
    [
        (
            market_pb2.Strike(relation=market_pb2.STRIKE_RELATION_GREATER, floor_value_micros=81_250_500_000),
            "greater 81,250.5",
        ),
        (
            market_pb2.Strike(
                relation=market_pb2.STRIKE_RELATION_BETWEEN, floor_value_micros=1_000_000, cap_value_micros=2_000_000
            ),
            "between 1 and 2",
        ),
    ],
)
def test_a_ladder_s_strike_reads_with_its_bounds(strike, words):
    assert f"strike {words}" in flat(market_page(a_market(strike=strike), a_book(), "", NOW_US, 2), 80)


def test_a_book_that_is_only_the_latest_quote_or_comes_from_a_dead_feed_says_so():
    book = a_book(age_ms=90_000, top_only=True)
    book.feed_status.CopyFrom(a_feed(feed_status_pb2.FEED_STATE_DOWN))
    text = flat(market_page(a_market(), book, "", NOW_US, 2), 140)
    assert "1m 30s old" in text
    assert "only the best level of each side" in text
    assert "FEED DOWN kalshi" in text


def a_check(signal=None, market=None, book=None):
    if signal is None:
        signal = a_signal()
        signal.evidence.extend(evidence())
    answer = signal_service_pb2.GetSignalResponse(signal=signal, sequence=12)
    legs = [checking.LegCheck(leg, market or a_market(), "", book or a_book(), "") for leg in signal.legs]
    return checking.check(answer, legs)


@WIDTHS
def test_a_signal_s_page_computes_everything_again_and_finds_it_equal(columns):
    text = flat(signal_page(a_check(), "Will the Lakers win?", NOW_US, columns), columns)
    for part in (
        'BUY "Lakers" ≤ 0.43 × 120',
        "40ms after the trigger",
        "z_ppm 3.25 3250000 ppm derived",
        "ask_price_micros 0.43 430000 micros kalshi:NBA",
        "0.43 × 120 0.42 -0.01",
        "40.5 at or inside the limit",
        "0.07 x 120 x 0.43 x 0.57 = 2.05884",
        "rounded up to a multiple of 0.01 = 2.06",
        "stated 2.06 equal",
        "fair value +0.4625",
        "net edge +0.0125, stated +0.0125 equal",
        "strength 0.625, stated 0.625 equal",
        "computed again: equal",
    ):
        assert part in text
    assert "NOT EQUAL" not in text


def test_a_signal_that_does_not_add_up_is_said_to_be_wrong():
    signal = a_signal(net_edge_micros=12_501, legs=[a_leg(expected_fee_micros=2_050_000)])
    signal.evidence.extend(evidence())
    text = flat(signal_page(a_check(signal), "", NOW_US, 80), 80)
    assert "stated 2.05 NOT EQUAL" in text
    assert "net edge +0.0125, stated +0.012501 NOT EQUAL" in text
    assert "computed again: NOT EQUAL" in text


def test_a_signal_that_can_not_be_computed_again_says_why():
    text = flat(signal_page(a_check(a_signal(kind="own.kind")), "", NOW_US, 80), 80)
    assert "not possible: this version of oddstream doesn't know the formula of own.kind version 1" in text


def test_a_leg_whose_market_is_gone_says_so_and_the_rest_stays():
    signal = a_signal()
    signal.evidence.extend(evidence())
    answer = signal_service_pb2.GetSignalResponse(signal=signal, sequence=12)
    leg = checking.LegCheck(signal.legs[0], None, "the market is gone", None, "the market is gone")
    text = flat(signal_page(checking.check(answer, [leg]), "", NOW_US, 80), 80)
    assert text.count("the market is gone") == 2
    assert "computed again: equal" in text


def test_a_check_as_json_has_integers_and_the_verdicts():
    plain = checking.as_json(a_check())
    assert plain["computed_again"]["equal"] is True
    assert plain["computed_again"]["net_edge_micros"] == 12_500
    (leg,) = plain["legs_now"]
    assert leg["size_inside_limit_micros"] == 40_500_000
    assert leg["best_book_price_micros"] == 420_000
    assert leg["fee_micros"] == 2_060_000
    assert leg["fee_equal"] is True


def test_a_leg_that_takes_bids_is_measured_on_the_bids():
    leg = a_leg(book_side=1, book_price_micros=410_000)
    check = checking.LegCheck(leg, a_market(), "", a_book(), "")
    assert check.now() == (410_000, 50_000_000)


@WIDTHS
def test_a_list_of_signals_has_ids_to_go_on_with(columns):
    text = flat(signals_table([a_signal(1), a_signal(2, simulated=True)], NOW_US, columns), columns)
    assert sig(1) in text
    assert 'SIM BUY "Lakers"' in text


PIPELINE = {
    "ready": True,
    "leader": True,
    "epoch": 4,
    "queue": 12,
    "queue_capacity": 1000,
    "last_batch_age_us": 250_000,
    "venues": {
        "kalshi": {
            "state": "LIVE",
            "last_receive_age_us": 1_200_000,
            "epoch": 7,
            "gaps": 2,
            "breaker": "open",
            "markets": 250,
        }
    },
}
SERVE = {
    "ready": True,
    "streams": {"signals": 3, "quotes": 0},
    "head_sequence": 1_230,
    "redis": "up",
    "database_connections": 1,
    "database_connections_maximum": 10,
}


def a_view(operations=None, stream=None):
    return SystemView(
        "localhost:50051",
        stream,
        "" if stream else "is not answering [UNAVAILABLE]",
        "http://127.0.0.1:9464",
        operations,
        "" if operations else "is not answering",
    )


@WIDTHS
def test_the_status_shows_feeds_breakers_leader_queue_and_lag(columns):
    operations = {
        "ready": True,
        "version": "0.1.0",
        "draining": False,
        "workers": {"serve-0": SERVE, "pipeline": PIPELINE},
    }
    stream = a_stretch(0, 0, head=1_234, started=True, feeds=[a_feed(venue=venue_pb2.VENUE_POLYMARKET)])
    text = flat(status_page(a_view(operations, stream), NOW_US, columns), columns)
    for part in (
        "localhost:50051 streams",
        f"{DATA_SET}, head 1,234",
        "kalshi LIVE 1s ago 7 2 open 250",
        "polymarket LIVE 12s ago 7",
        "leader this server",
        "lease epoch 4",
        "queue 12 of 1,000",
        "last batch 250ms ago",
        "serve-0 ready 3 signals, 0 quotes 1,230 4 1 of 10 busy up",
    ):
        assert part in text


def test_the_status_goes_on_without_the_operations_port():
    stream = a_stretch(0, 0, head=9, started=True, feeds=[a_feed(feed_status_pb2.FEED_STATE_GAP)])
    text = flat(status_page(a_view(stream=stream), NOW_US, 80), 80)
    assert "http://127.0.0.1:9464 is not answering" in text
    assert "kalshi GAP 12s ago 7" in text
    assert "only the operations port tells" in text


def test_the_status_goes_on_with_workers_that_do_not_answer_and_fields_that_are_not_told():
    operations = {"ready": False, "workers": {"serve-0": None, "pipeline": None, "serve-1": {"ready": False}}}
    text = flat(status_page(a_view(operations), NOW_US, 80), 80)
    assert "not ready" in text
    assert "the pipeline worker doesn't answer" in text
    assert "serve-0 not answering" in text
    assert "serve-1 not ready" in text


def test_a_paused_ingest_and_an_older_form_of_a_worker_s_state_are_shown():
    serve = {"ready": True, "streams": 2, "database": False, "redis": "away"}
    operations = {"ready": True, "workers": {"serve-0": serve, "pipeline": {"ready": True, "ingest_paused": True}}}
    text = flat(status_page(a_view(operations), NOW_US, 80), 80)
    assert "paused: the disk is almost full" in text
    assert "serve-0 ready 2 - - down away" in text


def a_strategy():
    value = strategy_pb2.ParameterValue
    return strategy_pb2.Strategy(
        strategy_id="stat.mean_reversion",
        kind="stat.mean_reversion",
        kind_version=1,
        display_name="Mean reversion",
        description="z = (x - m) / s",
        enabled=True,
        params={"z_enter": value(micros_value=2_500_000)},
        parameters=[
            strategy_pb2.ParameterDeclaration(
                name="z_enter",
                description="opens from here",
                unit="deviations",
                default_value=value(micros_value=2_000_000),
            )
        ],
    )


def test_strategies_show_their_formula_and_the_parameters_that_they_run_with():
    assert "Mean reversion: z = (x - m) / s" in flat(strategies_table([a_strategy()]), 80)
    text = flat(strategy_page(a_strategy(), NOW_US), 80)
    assert "z_enter 2.5 2 deviations opens from here" in text
