"""The rules of an honest run, one scene each."""

from dataclasses import replace

import pytest

from oddstream_server.backtesting.config import FillModel, Sizing
from oddstream_server.backtesting.result import PositionExit, equity_curve
from oddstream_server.backtesting.shards import FillAssumption
from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.market import CollateralRule, Declared, Event, Settlement, SettlementState, Venue
from oddstream_server.domain.quote import BookLevel, OrderBook
from tests.backtesting.scenes import (
    CENT,
    END_US,
    SECOND,
    CueParams,
    Scene,
    a_recorded,
    blotter_of,
    cheap_market,
    cue,
    holding,
)
from tests.strategies.worlds import START_US

pytestmark = pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines


def a_settlement(
    payout: int | None, known_s: int, paid_s: int | None, revision: int = 1, void: bool = False
) -> Settlement:
    state = SettlementState.FINAL if revision == 1 else SettlementState.AMENDED
    paid_us = None if paid_s is None else START_US + paid_s * SECOND
    return Settlement(
        state, payout, revision, known_time_us=START_US + known_s * SECOND, paid_time_us=paid_us, void=void
    )


def test_an_order_fills_at_the_first_quote_after_signal_and_latency() -> None:
    scene = Scene([a_recorded()]).quote(1, 40, 41, cue=1).quote(1.2, 42, 43, cue=1).quote(2, 44, 45, cue=1)
    (trade,) = blotter_of(scene.run(holding()))
    assert (trade.entry_time_us - START_US, trade.entry_price_micros) == (2 * SECOND, 450_001)
    assert trade.slippage_micros == 4 * CENT
    assert trade.signal_time_us == START_US + SECOND


def test_the_quote_that_triggered_fills_only_when_asked_for() -> None:
    scene = Scene([a_recorded()]).quote(1, 40, 41, cue=1)
    assert blotter_of(scene.run(holding(), latency_us=0)) == []
    (trade,) = blotter_of(scene.run(holding(), fill_on_trigger_quote=True))
    assert trade.entry_time_us == trade.signal_time_us


def test_latency_is_never_below_the_venues_taker_delay() -> None:
    slow = a_recorded(cheap_market(taker_delay_us=3 * SECOND))
    scene = Scene([slow]).quote(1, 40, 41, cue=1).quote(2, 42, 43, cue=1).quote(4, 44, 45, cue=1)
    (trade,) = blotter_of(scene.run(holding(), latency_us=0))
    assert trade.entry_time_us == START_US + 4 * SECOND


def test_an_entry_lapses_with_its_signal_and_an_exit_waits_on() -> None:
    brief = cue(params=CueParams(time_to_live_us=5 * SECOND))
    scene = Scene([a_recorded()]).quote(1, 40, 41, cue=1).quote(6, 40, 41)
    assert blotter_of(scene.run(brief)) == []
    scene = Scene([a_recorded()]).quote(1, 40, 41, cue=1).quote(2, 40, 41, cue=1).quote(3, 40, 41)
    scene.quote(100, None, 41).quote(200, 50, 51)
    (trade,) = blotter_of(scene.run(brief))
    assert (trade.exit, trade.exit_price_micros) == (PositionExit.SOLD, 50 * CENT)
    assert trade.exit_time_us == START_US + 200 * SECOND


def test_fills_take_what_the_touch_shows_and_no_more() -> None:
    scene = Scene([a_recorded()]).quote(1, 40, 41, cue=1).quote(2, 40, 41, cue=1, ask_size=3)
    (trade,) = blotter_of(scene.run(holding()))
    assert trade.size_micros == 3_000_000
    scene = Scene([a_recorded()]).quote(1, 40, 41, cue=1).quote(2, 40, 41, cue=1, ask_size=None)
    (trade,) = blotter_of(scene.run(holding()))
    assert trade.size_micros == 24_000_000  # 10 USD at 41 cents and a micro, whole contracts


def test_two_strategies_share_what_a_quote_shows() -> None:
    scene = Scene([a_recorded()]).quote(1, 40, 41, cue=1).quote(2, 40, 41, cue=1, ask_size=30)
    sizes = [t.size_micros for t in blotter_of(scene.run(holding("test.a"), holding("test.b")))]
    assert sizes == [24_000_000, 6_000_000]


def test_a_recorded_book_is_walked_and_pays_each_level() -> None:
    scene = Scene([a_recorded()]).quote(1, 40, 41, cue=1).quote(2, 40, 42, ask_size=5, cue=1)
    levels = tuple(BookLevel(42 * CENT + 1 + k * CENT, 5_000_000) for k in range(3))
    scene.books.append(OrderBook("kalshi:M0", (), levels, 1, START_US + 2 * SECOND))
    found = blotter_of(scene.run(holding(), fill_model=FillModel.BOOK_WALK))
    assert [(t.entry_price_micros, t.size_micros) for t in found] == [
        (420_001, 5_000_000),
        (430_001, 5_000_000),
        (440_001, 5_000_000),
    ]


def test_a_book_that_does_not_agree_with_the_touch_is_left_alone() -> None:
    scene = Scene([a_recorded()]).quote(1, 40, 41, cue=1).quote(2, 40, 42, ask_size=5, cue=1)
    levels = (BookLevel(41 * CENT, 5_000_000), BookLevel(42 * CENT, 5_000_000))
    scene.books.append(OrderBook("kalshi:M0", (), levels, 1, START_US + SECOND))
    (trade,) = blotter_of(scene.run(holding(), fill_model=FillModel.BOOK_WALK))
    assert trade.size_micros == 5_000_000


def _resting(second_size: int = 10) -> Scene:
    """An order that rests at 40 from second 2 on, behind ten contracts."""
    return Scene([a_recorded()]).quote(1, 40, 45, cue=1).quote(2, 40, 45, cue=1, bid_size=second_size)


def _filled(scene: Scene) -> list[tuple[int, int]]:
    found = blotter_of(scene.run(holding(), fill_model=FillModel.MAKER_QUEUE))
    assert all(t.maker and t.entry_price_micros == 40 * CENT for t in found)
    return [(t.entry_time_us - START_US, t.size_micros) for t in found]


def test_a_resting_order_waits_for_the_queue_before_it() -> None:
    assert _filled(_resting().print(3, 40, 10, taker=1).quote(4, 40, 45, cue=1)) == []
    assert _filled(_resting().print(3, 40, 7, taker=1).print(5, 40, 7, taker=1).quote(9, 40, 45, cue=1)) == [
        (5 * SECOND, 4_000_000)
    ]


def test_prints_of_the_other_side_or_an_unknown_taker_move_no_queue() -> None:
    scene = _resting().print(3, 40, 30, taker=0).print(4, 40, 30, taker=None).quote(9, 40, 45, cue=1)
    assert _filled(scene) == []


def test_a_print_through_the_price_fills_whatever_stands_before() -> None:
    assert _filled(_resting().print(3, 39, 6, taker=1).quote(9, 40, 45, cue=1)) == [(3 * SECOND, 6_000_000)]


def test_a_decrease_that_a_print_of_the_same_time_explains_counts_once() -> None:
    # the book falls from 10 to 4 as 6 are printed: 4 still stand before
    scene = _resting().quote(3, 40, 45, cue=1, bid_size=4).print(3, 40, 6, taker=1).print(4, 40, 5, taker=1)
    assert _filled(scene.quote(9, 40, 45, cue=1)) == [(4 * SECOND, 1_000_000)]


def test_a_cancelled_size_moves_the_queue_and_a_later_print_counts_in_full() -> None:
    scene = _resting().quote(3, 40, 45, cue=1, bid_size=4).print(4, 40, 6, taker=1)
    assert _filled(scene.quote(9, 40, 45, cue=1)) == [(4 * SECOND, 2_000_000)]


def test_a_makers_fill_pays_the_makers_rate() -> None:
    fees = (FeeSchedule(FeeFormula.QUADRATIC, 70_000, 17_500),)
    scene = _resting()
    scene.markets[0] = a_recorded(cheap_market(fee_schedules=fees))
    scene.print(3, 39, 6, taker=1)
    (trade,) = blotter_of(scene.quote(9, 40, 45, cue=1).run(holding(), fill_model=FillModel.MAKER_QUEUE))
    assert trade.fee_micros == 25_200  # 0.0175 x 6 x 0.4 x 0.6


def test_the_end_of_the_signal_sells_at_the_bid() -> None:
    scene = Scene([a_recorded()]).quote(1, 40, 41, cue=1).quote(2, 40, 41, cue=1).quote(3, 50, 51).quote(4, 52, 53)
    outcome = scene.run()
    (trade,) = blotter_of(outcome)
    assert (trade.exit, trade.exit_price_micros) == (PositionExit.SOLD, 52 * CENT)
    assert trade.profit_micros == 24 * (52 * CENT - 410_001)
    assert outcome.account.final_equity_micros == 100_000_000 + trade.profit_micros


def test_outcome_1_is_bought_from_the_bids_and_sold_to_the_asks() -> None:
    scene = Scene([a_recorded()]).quote(1, 60, 61, cue=2).quote(2, 60, 61, cue=2).quote(3, 50, 51).quote(4, 52, 53)
    (trade,) = blotter_of(scene.run())
    assert (trade.outcome_index, trade.entry_price_micros, trade.exit_price_micros) == (1, 40 * CENT, 47 * CENT)


def test_a_payout_is_a_number_and_locks_cash_until_it_is_paid() -> None:
    settled = a_recorded(settlements=[a_settlement(333_333, 1_500, 5_000)], close_s=1_000)
    outcome = Scene([settled]).quote(1, 40, 41, cue=1).quote(2, 40, 41, cue=1).run(holding())
    (trade,) = blotter_of(outcome)
    cost = 24 * 410_001
    assert (trade.exit, trade.exit_price_micros) == (PositionExit.SETTLED, 333_333)
    assert trade.exit_time_us == START_US + 5_000 * SECOND
    assert trade.profit_micros == 24 * 333_333 - cost
    at = {p.time_us - START_US: p for p in equity_curve(outcome)}
    known = at[2_000 * SECOND]  # a full hour of UTC
    assert (known.locked_micros, known.cash_micros) == (cost, 100_000_000 - cost)
    assert known.equity_micros == 100_000_000 - cost + 24 * 333_333
    assert at[END_US - START_US].locked_micros == 0


def test_a_payout_that_is_known_and_not_yet_paid_stays_open_at_its_worth() -> None:
    settled = a_recorded(settlements=[a_settlement(1_000_000, 3_000, None)], close_s=2_000)
    outcome = Scene([settled]).quote(1, 40, 41, cue=1).quote(2, 40, 41, cue=1).run(holding())
    (trade,) = blotter_of(outcome)
    assert (trade.exit, trade.exit_price_micros) == (PositionExit.OPEN, 1_000_000)
    assert outcome.account.equity["locked_micros"][-1] == 24 * 410_001


def test_a_void_returns_the_stake_without_the_fee() -> None:
    fees = (FeeSchedule(FeeFormula.FLAT, 10_000, 0),)
    void = a_recorded(cheap_market(fee_schedules=fees), [a_settlement(None, 3_000, 3_000, void=True)], 2_000)
    outcome = Scene([void]).quote(1, 40, 41, cue=1).quote(2, 40, 41, cue=1).run(holding())
    (trade,) = blotter_of(outcome)
    assert (trade.exit, trade.exit_price_micros) == (PositionExit.VOIDED, trade.entry_price_micros)
    assert trade.profit_micros == -trade.fee_micros == -23 * 10_000


def test_an_amended_result_is_paid_again_by_the_difference() -> None:
    revisions = [a_settlement(1_000_000, 1_500, 1_500), a_settlement(0, 2_500, None, revision=2)]
    outcome = (
        Scene([a_recorded(settlements=revisions, close_s=1_000)])
        .quote(1, 40, 41, cue=1)
        .quote(2, 40, 41, cue=1)
        .run(holding())
    )
    (trade,) = blotter_of(outcome)
    assert (trade.exit_price_micros, trade.profit_micros) == (0, -24 * 410_001)
    cash = dict(zip(outcome.account.equity["time_us"], outcome.account.equity["cash_micros"], strict=True))
    assert cash[START_US + 2_000 * SECOND] == 100_000_000 - 24 * 410_001 + 24_000_000
    assert outcome.account.final_equity_micros == 100_000_000 - 24 * 410_001


def test_a_settlement_comes_before_a_fill_of_the_same_instant() -> None:
    settled = a_recorded(settlements=[a_settlement(1_000_000, 2, 2)])
    outcome = Scene([settled]).quote(1, 40, 41, cue=1).quote(2, 40, 41, cue=1).run(holding(), latency_us=0)
    assert blotter_of(outcome) == []


def test_cash_comes_back_before_it_is_needed_at_the_same_instant() -> None:
    first = a_recorded(settlements=[a_settlement(1_000_000, 100, 100)], close_s=50)
    second = a_recorded(cheap_market(1))
    scene = Scene([first, second]).quote(1, 40, 41, cue=1).quote(2, 40, 41, cue=1)
    scene.quote(99, 40, 41, cue=1, number=1).quote(100, 40, 41, cue=1, number=1)
    found = blotter_of(scene.run(holding(), bankroll=10_000_000))
    assert [t.market_id for t in found] == ["kalshi:M0", "kalshi:M1"]


def test_a_market_closes_before_the_book_of_the_same_instant() -> None:
    scene = Scene([a_recorded(close_s=2)]).quote(1, 40, 41, cue=1).quote(2, 40, 41, cue=1)
    assert blotter_of(scene.run(holding(), latency_us=0)) == []


def test_one_bankroll_pays_for_everything() -> None:
    scene = Scene([a_recorded(cheap_market(i)) for i in range(3)])
    for i in range(3):
        scene.quote(1, 40, 41, cue=1, number=i).quote(2, 40, 41, cue=1, number=i)
    found = blotter_of(scene.run(holding(), bankroll=15_000_000))
    assert [t.size_micros for t in found] == [24_000_000, 12_000_000]


def test_opposite_outcomes_of_two_strategies_merge_into_money() -> None:
    scene = Scene([a_recorded()]).quote(1, 40, 41, cue=1).quote(2, 40, 41, cue=1)
    buyer = holding("test.buyer")
    seller = cue("test.seller", edge_kind=True, step=_contrary)
    scene.quote(3, 60, 61).quote(4, 60, 61, cue=3).quote(5, 60, 61)
    found = blotter_of(scene.run(buyer, seller))
    merged = [t for t in found if t.exit is PositionExit.MERGED]
    assert [(t.kind, t.exit_price_micros, t.profit_micros) for t in merged] == [
        ("test.buyer", 60 * CENT, 24 * (60 * CENT - 410_001)),
        ("test.seller", 40 * CENT, 0),
    ]
    (rest,) = (t for t in found if t.exit is PositionExit.OPEN)
    assert (rest.kind, rest.size_micros) == ("test.seller", 1_000_000)


def _contrary(state: object, params: object, row: object, out: object) -> None:
    if row["ask_price_micros"] % 10 == 3:  # type: ignore[index]  # records, as kernels get them
        out["side"] = 2  # type: ignore[index]
        out["entry"] = 1  # type: ignore[index]
        out["net_edge_micros"] = 1  # type: ignore[index]
        out["time_to_live_us"] = 3_600_000_000  # type: ignore[index]


@pytest.mark.parametrize("rule", [CollateralRule.NONE, CollateralRule.MUTUALLY_EXCLUSIVE])
def test_exclusive_outcomes_are_margined_once(rule: CollateralRule) -> None:
    ids = ("kalshi:M0", "kalshi:M1")
    event = Event("kalshi:E", Venue.KALSHI, "E", "E", market_ids=ids, exclusivity=Declared.YES, collateral_rule=rule)
    scene = Scene([a_recorded(cheap_market(i, "kalshi:E")) for i in range(2)], (event,))
    for i in range(2):
        scene.quote(1, 60, 61, cue=2, number=i).quote(2, 60, 61, cue=2, number=i)
    outcome = scene.run(holding())
    assert [t.size_micros for t in blotter_of(outcome)] == [25_000_000] * 2
    cost, sure = 2 * 25 * 40 * CENT, 25_000_000
    expected = cost if rule is CollateralRule.NONE else cost - sure
    assert outcome.account.equity["locked_micros"][-1] == expected
    assert outcome.account.equity["equity_micros"][-1] == 100_000_000 - cost + 2 * 25 * 389_998


def test_an_events_cost_stays_below_its_limit() -> None:
    event = Event("kalshi:E", Venue.KALSHI, "E", "E", market_ids=("kalshi:M0", "kalshi:M1"))
    scene = Scene([a_recorded(cheap_market(i, "kalshi:E")) for i in range(2)], (event,))
    for i in range(2):
        scene.quote(1, 40, 41, cue=1, number=i).quote(2, 40, 41, cue=1, number=i)
    found = blotter_of(scene.run(holding(), maximum_event_cost_micros=12_000_000))
    assert [t.size_micros for t in found] == [24_000_000, 5_000_000]


def test_a_fill_pays_the_fee_of_its_own_date() -> None:
    cut_us = START_US + 10 * SECOND
    eras = (
        FeeSchedule(FeeFormula.FLAT, 10_000, 0, valid_to_us=cut_us),
        FeeSchedule(FeeFormula.FLAT, 20_000, 0, valid_from_us=cut_us),
    )
    scene = Scene([a_recorded(cheap_market(fee_schedules=eras))]).quote(9, 40, 41, cue=1).quote(10, 40, 41, cue=1)
    (trade,) = blotter_of(scene.run(holding()))
    assert trade.fee_micros == trade.size_micros // 1_000_000 * 20_000


def test_a_fill_whose_fee_nobody_knows_is_not_made_and_is_counted() -> None:
    eras = (FeeSchedule(FeeFormula.FLAT, 10_000, 0, valid_to_us=START_US + 10 * SECOND),)
    scene = Scene([a_recorded(cheap_market(fee_schedules=eras))]).quote(9, 40, 41, cue=1).quote(10, 40, 41, cue=1)
    outcome = scene.run(holding())
    assert blotter_of(outcome) == []
    assert outcome.account.unpriced_offer_count == 1


def test_the_same_signals_earn_less_at_each_rung_of_the_ladder() -> None:
    fees = (FeeSchedule(FeeFormula.FLAT, 10_000, 0),)
    won = [a_settlement(1_000_000, 3_000, 3_000)]
    scene = Scene([a_recorded(cheap_market(fee_schedules=fees), won, 2_000)])
    scene.quote(1, 40, 42, cue=1).quote(2, 44, 46, cue=1).quote(3, 48, 50, cue=1)
    outcome = scene.run(holding(), latency_us=1_500_000)
    prices = {a: outcome.accounts[a].entries["price_micros"].tolist() for a in FillAssumption}
    assert prices == {
        FillAssumption.MID_WITHOUT_FEE: [410_000],
        FillAssumption.TOUCH_WITHOUT_FEE: [420_001],
        FillAssumption.TOUCH_WITH_FEE: [420_001],
        FillAssumption.NEXT_QUOTE_WITH_FEE: [460_001],
        FillAssumption.CONFIGURED: [500_001],
    }
    profits = [outcome.accounts[a].profit_micros for a in FillAssumption]
    assert profits == sorted(profits, reverse=True)


def test_stakes_shares_and_kelly_say_what_an_entry_may_cost() -> None:
    scene = Scene([a_recorded()]).quote(1, 39, 40, cue=1).quote(2, 39, 40, cue=1)

    def size(sizing: Sizing) -> int:
        return sum(t.size_micros for t in blotter_of(scene.run(holding(), sizing=sizing)))

    assert size(Sizing(stake_micros=4_000_100)) == 10_000_000
    assert size(Sizing(fraction_ppm=50_000)) == 12_000_000  # 5 USD at 40 cents and a micro
    # fair 0.60 at 0.40: Kelly is a third of the bankroll, a tenth of that is 3.33 USD
    assert size(Sizing(kelly_multiplier_ppm=100_000)) == 8_000_000
    assert size(Sizing(kelly_multiplier_ppm=1_000_000, kelly_cap_ppm=20_000)) == 4_000_000


def test_rows_before_the_range_warm_up_and_are_no_performance() -> None:
    scene = Scene([a_recorded()]).quote(-5, 40, 41, cue=1).quote(-4, 40, 41, cue=1)
    outcome = scene.run(holding())
    assert blotter_of(outcome) == []
    assert (outcome.signal_count, outcome.log.counts.warm_up_rows) == (0, 2)


def test_the_final_row_is_processed_and_rows_at_the_end_are_not() -> None:
    scene = Scene([a_recorded()]).quote(7_000, 40, 41, cue=1).quote(7_199, 42, 43, cue=1).quote(7_200, 44, 45, cue=1)
    (trade,) = blotter_of(scene.run(holding(), latency_us=0))
    assert (trade.entry_time_us - START_US, trade.exit_price_micros) == (7_199 * SECOND, 42 * CENT)


def test_a_gap_lowers_coverage_and_nothing_is_filled_forward() -> None:
    scene = Scene([a_recorded(close_s=1_000)]).quote(100, 40, 41).quote(200, 40, 41).quote(300, 40, 41, epoch=2)
    covered = scene.run().log.coverage
    assert (covered.gap_count, covered.row_count, covered.market_count) == (1, 3, 1)
    assert covered.uncovered_us == 200 * SECOND  # before the first row, and the gap
    assert covered.open_us == 1_000 * SECOND
    assert covered.ratio == 0.8


def test_a_gap_ends_the_position_of_a_signal_that_it_withdraws() -> None:
    scene = Scene([a_recorded()]).quote(1, 40, 41, cue=1).quote(2, 40, 41, cue=1)
    scene.quote(3, 50, 51, cue=1, epoch=2).quote(4, 52, 53, cue=1, epoch=2)
    first = blotter_of(scene.run())[0]
    assert (first.exit, first.exit_price_micros) == (PositionExit.SOLD, 52 * CENT)


def test_a_crossed_or_placeholder_book_fills_nothing() -> None:
    scene = Scene([a_recorded()]).quote(1, 40, 41, cue=1).quote(2, 45, 44, cue=1).quote(3, 1, 99, cue=1)
    assert blotter_of(scene.run(holding())) == []


def test_a_market_unknown_at_an_instant_does_not_exist_at_it() -> None:
    unknown = replace(a_recorded(), states=((START_US + 10 * SECOND, a_recorded().states[0][1]),))
    scene = Scene([unknown]).quote(1, 40, 41, cue=1).quote(2, 40, 41, cue=1).quote(11, 50, 51, cue=1)
    scene.quote(12, 50, 51, cue=1)
    (trade,) = blotter_of(scene.run(holding()))
    assert trade.signal_time_us == START_US + 11 * SECOND


def test_a_fee_that_the_venue_changes_is_paid_from_then_on_and_no_sooner() -> None:
    market = cheap_market()
    dear = replace(market, fee_schedules=(FeeSchedule(FeeFormula.FLAT, 10_000, 0),))
    changed = replace(a_recorded(market), revisions=((START_US + 50 * SECOND, dear),))
    scene = Scene([changed])
    for begin in (0, 60):
        scene.quote(begin + 1, 40, 41, cue=1).quote(begin + 2, 40, 41).quote(begin + 10, 40, 41)
    free, charged = blotter_of(scene.run())
    assert free.fee_micros == 0
    scene.markets[0] = a_recorded(dear)
    assert [t.fee_micros for t in blotter_of(scene.run())][1] == charged.fee_micros > 0
