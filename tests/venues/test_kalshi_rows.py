"""Kalshi's REST rows as the domain reads them."""

import dataclasses
from typing import Any

import pytest

from oddstream_server.domain.fees import FeeFormula, Liquidity, schedule_at
from oddstream_server.domain.market import (
    CollateralRule,
    Declared,
    MarketState,
    PriceRange,
    SettlementState,
    Strike,
    Venue,
)
from oddstream_server.domain.quote import SourceKind, TickSource
from oddstream_server.venues.kalshi import catalog
from oddstream_server.venues.kalshi.fees import SeriesFee, fee_schedules, series_fee_changes
from oddstream_server.venues.kalshi.settlements import lifecycle_update, settlement, settlement_update
from oddstream_server.venues.kalshi.ticks import polled_quote, rest_book, trade
from oddstream_server.venues.rows import Quarantine, QuarantineReason, RowError, exact_json
from oddstream_server.venues.times import utc_us
from tests.venues.bodies import kalshi_event_row, kalshi_market_row, kalshi_series_row

NOW = 1_786_000_000_000_000
_POLL = TickSource(Venue.KALSHI, SourceKind.POLL, "GET /markets")


@pytest.fixture
def quarantine() -> Quarantine:
    return Quarantine(Venue.KALSHI, "test", NOW)


def read(quarantine: Quarantine, event: dict[str, Any] | None = None, **fields: Any) -> Any:
    series = catalog.series(kalshi_series_row(), quarantine)
    return catalog.market(kalshi_market_row(**fields), event or kalshi_event_row(), series, quarantine, NOW)


# --- markets and events ---------------------------------------------------------------------------------------------


def test_a_market_row_becomes_a_market(quarantine: Quarantine) -> None:
    row = exact_json('{"floor_strike": 2.5}')
    market = read(quarantine, **row)
    assert not quarantine.rows
    assert market.market_id == "kalshi:KXRAIN-26AUG01-T2"
    assert market.event_id == "kalshi:KXRAIN-26AUG01"
    assert market.state is MarketState.OPEN
    assert [(o.index, o.label, o.venue_instrument_id) for o in market.outcomes] == [
        (0, "Above 2 inches", "KXRAIN-26AUG01-T2"),
        (1, "No", "KXRAIN-26AUG01-T2"),
    ]
    assert market.strike == Strike("greater", 2_500_000, None)
    assert market.volume_micros == 1_204_250_000
    assert market.size_step_micros == market.minimum_size_micros == 10_000
    assert market.series_id == "KXRAIN"
    assert market.category == "Climate and Weather"
    assert market.rules_text.endswith("resolves to Yes.")
    assert market.expected_settlement_time_us == utc_us(2026, 8, 2) + 14 * 3_600_000_000 + 500_000
    assert market.settlement is None


def test_price_ranges_are_the_ticks_whatever_the_label_says(quarantine: Quarantine) -> None:
    market = read(quarantine, floor_strike=None, price_level_structure="a_new_one")
    assert market.price_ranges == (
        PriceRange(0, 100_000, 1_000),
        PriceRange(100_000, 900_000, 10_000),
        PriceRange(900_000, 1_000_000, 1_000),
    )
    assert market.tick_micros(50_000) == 1_000
    assert market.tick_micros(500_000) == 10_000
    assert market.tick_micros(100_000) == 1_000


def test_a_market_of_the_cents_dialect_is_read_by_its_keys(quarantine: Quarantine) -> None:
    row = {k: v for k, v in kalshi_market_row(floor_strike=None).items() if not k.endswith(("_dollars", "_fp"))} | {
        "yes_bid": 1,
        "yes_ask": 3,
        "volume": 7,
        "open_interest": 5,
        "notional_value": 100,
        "tick_size": 1,
    }
    del row["price_ranges"]
    market = catalog.market(row, None, None, quarantine, NOW)
    assert market.volume_micros == 7_000_000
    assert market.payout_micros == 1_000_000
    assert market.price_ranges == (PriceRange(0, 1_000_000, 10_000),)
    assert market.size_step_micros == 1_000_000
    quote = polled_quote(row, _POLL, 1, NOW, 0)
    assert (quote.bid_price_micros, quote.ask_price_micros) == (10_000, 30_000)
    assert quote.bid_size_micros is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ticker": ""}, QuarantineReason.FIELD_MISSING),
        ({"status": "sleeping"}, QuarantineReason.ENUM_UNKNOWN),
        ({"market_type": "ternary"}, QuarantineReason.ENUM_UNKNOWN),
        ({"price_ranges": []}, QuarantineReason.FIELD_MISSING),
        ({"price_ranges": [{"start": "0", "end": "1", "step": "0"}]}, QuarantineReason.PRICE_OUT_OF_RANGE),
        ({"close_time": "soon"}, QuarantineReason.TIME_INVALID),
        ({"volume_fp": "-1.00"}, QuarantineReason.SIZE_OUT_OF_RANGE),
        ({"notional_value_dollars": "0.0000"}, QuarantineReason.PRICE_OUT_OF_RANGE),
        ({"title": 5}, QuarantineReason.FIELD_TYPE),
        ({"status": "finalized", "result": "maybe"}, QuarantineReason.ENUM_UNKNOWN),
        (
            {"status": "finalized", "result": "yes", "settlement_value_dollars": "0.0000"},
            QuarantineReason.SETTLEMENT_INCONSISTENT,
        ),
    ],
)
def test_a_market_that_can_not_be_traded_on_is_refused(
    quarantine: Quarantine, fields: dict[str, Any], reason: QuarantineReason
) -> None:
    with pytest.raises(RowError) as refused:
        read(quarantine, floor_strike=None, **{k: v for k, v in fields.items() if k != "floor_strike"})
    assert refused.value.reason is reason


def test_a_field_nobody_needs_to_trade_is_quarantined_alone(quarantine: Quarantine) -> None:
    market = read(quarantine, strike_type="crooked")
    assert market.strike is None
    assert market.fee_schedules
    assert [row.reason for row in quarantine.rows] == ["enum_unknown"]


def test_an_event_tells_exclusivity_with_its_source_and_nothing_of_exhaustiveness(quarantine: Quarantine) -> None:
    event = catalog.event(kalshi_event_row(), ["KXRAIN-26AUG01-T2"], quarantine)
    assert event.exclusivity is Declared.YES
    assert event.exclusivity_source
    assert event.exhaustiveness is Declared.UNKNOWN
    assert event.collateral_rule is CollateralRule.MUTUALLY_EXCLUSIVE
    assert event.market_ids == ("kalshi:KXRAIN-26AUG01-T2",)
    ladder = catalog.event(
        kalshi_event_row(mutually_exclusive=False, collateral_return_type="DIRECNET"), [], quarantine
    )
    assert ladder.exclusivity is Declared.NO
    assert ladder.collateral_rule is CollateralRule.DIRECTIONAL
    assert not quarantine.rows


def test_an_unknown_collateral_rule_is_quarantined_and_margins_in_full(quarantine: Quarantine) -> None:
    event = catalog.event(kalshi_event_row(collateral_return_type="NEWNET"), [], quarantine)
    assert event.collateral_rule is CollateralRule.NONE
    assert [row.reason for row in quarantine.rows] == ["enum_unknown"]


# --- fees -----------------------------------------------------------------------------------------------------------


def test_the_fee_of_a_contract_follows_the_dated_rounding(quarantine: Quarantine) -> None:
    schedules = read(quarantine, floor_strike=None).fee_schedules

    def fee(instant: int) -> int:
        held = schedule_at(schedules, instant)
        assert held is not None
        return held.fill_fee_micros(55_000, 1_000_000)

    # 0.07 x 0.055 x 0.945 = 0.00363825 USD
    assert fee(utc_us(2026, 7, 2)) == 10_000
    assert fee(utc_us(2026, 7, 3)) == 3_700
    # 0.055 and 0.003639 make 0.058639: the balance moves by 0.06
    assert fee(utc_us(2026, 9, 18)) == 5_000
    direct = fee_schedules((SeriesFee("quadratic", 1_000_000),), "KXRAIN", balance_step_micros=100)
    held = schedule_at(direct, utc_us(2026, 9, 18))
    assert held is not None
    assert held.fill_fee_micros(55_000, 1_000_000) == 3_700


def test_maker_fees_multipliers_and_event_overrides_are_laid_over_the_series(quarantine: Quarantine) -> None:
    def held(event: dict[str, Any], **series: Any) -> Any:
        read_series = catalog.series(kalshi_series_row(**series), quarantine)
        market = catalog.market(kalshi_market_row(floor_strike=None), event, read_series, quarantine, NOW)
        return schedule_at(market.fee_schedules, utc_us(2026, 8, 1))

    plain = held(kalshi_event_row(), fee_type="quadratic_with_maker_fees", fee_multiplier=exact_json("0.5"))
    assert (plain.taker_rate_ppm, plain.maker_rate_ppm, plain.multiplier_ppm) == (70_000, 17_500, 500_000)
    # 0.5 x 0.0175 x 100 x 0.25 = 0.21875 USD
    assert plain.fill_fee_micros(500_000, 100_000_000, Liquidity.MAKER) == 218_800
    combo = held(kalshi_event_row(fee_type_override="quadratic_with_combo_maker_fees"))
    assert combo.maker_rate_ppm == 35_000
    waived = held(kalshi_event_row(fee_multiplier_override=0))
    assert waived.fill_fee_micros(500_000, 1_000_000) == 0
    assert not quarantine.rows


def test_an_unknown_fee_type_is_quarantined_and_leaves_the_market_without_a_schedule(quarantine: Quarantine) -> None:
    for series in (kalshi_series_row(fee_type="flat"), kalshi_series_row(fee_type="logarithmic")):
        market = catalog.market(
            kalshi_market_row(floor_strike=None),
            kalshi_event_row(),
            catalog.series(series, quarantine),
            quarantine,
            NOW,
        )
        assert market.fee_schedules == ()
    assert [row.reason for row in quarantine.rows] == ["fee_unknown"] * 2


def test_a_series_without_readable_fees_gives_its_markets_none(quarantine: Quarantine) -> None:
    row = kalshi_series_row()
    del row["fee_multiplier"]
    assert catalog.series(row, quarantine).fees == ()
    assert [r.reason for r in quarantine.rows] == ["fee_unknown"]


def test_a_waiver_frees_the_market_until_it_ends_and_never_overlaps(quarantine: Quarantine) -> None:
    waiver = utc_us(2026, 8, 15)
    schedules = read(quarantine, floor_strike=None, fee_waiver_expiration_time="2026-08-15T00:00:00Z").fee_schedules
    before, after = schedule_at(schedules, waiver - 1), schedule_at(schedules, waiver)
    assert before is not None
    assert after is not None
    assert before.formula is FeeFormula.NONE
    assert after.taker_rate_ppm == 70_000
    assert all(sum(s.holds_at(at) for s in schedules) == 1 for at in (0, waiver - 1, waiver, utc_us(2027, 1, 1)))


def test_dated_fee_changes_hold_each_in_its_time_and_nothing_before_the_first(quarantine: Quarantine) -> None:
    rows = [
        {"fee_type": "quadratic", "fee_multiplier": 2, "scheduled_ts": "2026-08-01T00:00:00Z"},
        {"fee_type": "quadratic", "fee_multiplier": 1, "scheduled_ts": "2026-06-01T00:00:00Z"},
    ]
    fees = series_fee_changes(rows, SeriesFee("quadratic", 2_000_000))
    schedules = fee_schedules(fees, "KXRAIN")
    assert schedule_at(schedules, utc_us(2026, 5, 31)) is None
    june, august = schedule_at(schedules, utc_us(2026, 6, 1)), schedule_at(schedules, utc_us(2026, 8, 1))
    assert june is not None
    assert august is not None
    assert (june.multiplier_ppm, august.multiplier_ppm) == (1_000_000, 2_000_000)
    assert series_fee_changes([], SeriesFee("quadratic", 1)) == (SeriesFee("quadratic", 1),)


def test_index_series_paid_half_until_july_2026() -> None:
    schedules = fee_schedules((SeriesFee("quadratic_with_maker_fees", 1_000_000),), "KXINXU")
    old, new = schedule_at(schedules, utc_us(2026, 7, 2)), schedule_at(schedules, utc_us(2026, 7, 3))
    assert old is not None
    assert new is not None
    assert (old.taker_rate_ppm, old.maker_rate_ppm) == (35_000, 8_750)
    assert new.taker_rate_ppm == 70_000


# --- settlement -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "result", "value", "state", "settled", "payout", "void"),
    [
        ("determined", "yes", None, MarketState.DETERMINED, SettlementState.PROVISIONAL, 1_000_000, False),
        ("disputed", "no", "0.0000", MarketState.DISPUTED, SettlementState.PROVISIONAL, 0, False),
        ("amended", "no", None, MarketState.DETERMINED, SettlementState.AMENDED, 0, False),
        ("finalized", "yes", "1.0000", MarketState.SETTLED, SettlementState.FINAL, 1_000_000, False),
        ("finalized", "scalar", "0.3700", MarketState.SETTLED, SettlementState.FINAL, 370_000, False),
        ("finalized", "void", None, MarketState.SETTLED, SettlementState.FINAL, None, True),
    ],
)
def test_a_settlement_is_what_the_venue_pays(
    status: str,
    result: str,
    value: str | None,
    state: MarketState,
    settled: SettlementState,
    payout: int | None,
    void: bool,
) -> None:
    row = kalshi_market_row(status=status, result=result, settlement_value_dollars=value, last_price_dollars="0.9900")
    update = settlement_update(row, NOW)
    assert update.state is state
    assert update.settlement is not None
    assert update.settlement.state is settled
    assert (update.settlement.yes_payout_micros, update.settlement.void) == (payout, void)
    assert update.settlement.known_time_us == NOW


def test_no_result_is_no_settlement_whatever_the_last_price_says() -> None:
    for status in ("active", "closed", "inactive", "initialized"):
        assert settlement(kalshi_market_row(status=status, last_price_dollars="0.9900"), NOW) is None
    assert settlement(kalshi_market_row(status="finalized", result=""), NOW) is None


def test_lifecycle_messages_tell_states_and_the_settled_one_makes_the_determined_one_final() -> None:
    determined = lifecycle_update(
        {
            "event_type": "determined",
            "market_ticker": "A",
            "determination_ts": 100,
            "result": "scalar",
            "settlement_value": "0.2500",
        },
        None,
        NOW,
    )
    assert determined is not None
    assert determined.settlement is not None
    assert determined.settlement.state is SettlementState.PROVISIONAL
    assert determined.settlement.yes_payout_micros == 250_000
    paid = lifecycle_update(
        {"event_type": "settled", "market_ticker": "A", "settled_ts": 200}, determined.settlement, NOW + 5
    )
    assert paid is not None
    assert paid.state is MarketState.SETTLED
    assert paid.settlement == dataclasses.replace(
        determined.settlement, state=SettlementState.FINAL, paid_time_us=200_000_000
    )
    assert lifecycle_update({"event_type": "metadata_updated", "market_ticker": "A"}, None, NOW) is None
    with pytest.raises(RowError):
        lifecycle_update({"event_type": "exploded", "market_ticker": "A"}, None, NOW)


# --- books, quotes, trades ------------------------------------------------------------------------------------------


def test_a_bids_only_book_becomes_one_book_in_yes_prices() -> None:
    body = {
        "orderbook_fp": {
            "yes_dollars": [["0.4000", "5.00"], ["0.4100", "120.50"]],
            "no_dollars": [["0.5600", "7.00"], ["0.5700", "10.00"]],
        }
    }
    book = rest_book(body)
    assert book.top() == (410_000, 120_500_000, 430_000, 10_000_000)
    assert book.asks == {440_000: 7_000_000, 430_000: 10_000_000}


def test_legacy_books_are_read_by_their_keys_and_null_sides_are_empty() -> None:
    assert rest_book({"orderbook": {"yes": [[41, 3]], "no": None}}).top() == (410_000, 3_000_000, None, None)
    both = {"orderbook": {"yes": [[41, 3]], "no": None, "yes_dollars": [["0.4150", 3]], "no_dollars": None}}
    assert rest_book(both).top() == (415_000, 3_000_000, None, None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"order_book": {}}, QuarantineReason.FIELD_MISSING),
        ({"orderbook_fp": {"yes": [], "no": []}}, QuarantineReason.FIELD_MISSING),
        ({"orderbook_fp": {"yes_dollars": [["1.0000", "1"]], "no_dollars": []}}, QuarantineReason.PRICE_OUT_OF_RANGE),
        ({"orderbook_fp": {"yes_dollars": [["0.5", "-1"]], "no_dollars": []}}, QuarantineReason.SIZE_OUT_OF_RANGE),
        ({"orderbook_fp": {"yes_dollars": [["0.5"]], "no_dollars": []}}, QuarantineReason.FIELD_TYPE),
        (
            {"orderbook_fp": {"yes_dollars": [["0.5", "1"]], "no_dollars": [["0.5", "1"]]}},
            QuarantineReason.BOOK_CROSSED,
        ),
    ],
)
def test_a_book_in_another_format_is_never_read_as_an_empty_one(body: Any, reason: QuarantineReason) -> None:
    with pytest.raises(RowError) as refused:
        rest_book(body)
    assert refused.value.reason is reason


def test_zero_and_the_payout_are_empty_sides_of_a_quote() -> None:
    row = kalshi_market_row(yes_bid_dollars="0.0000", yes_ask_dollars="1.0000")
    quote = polled_quote(row, _POLL, 1, NOW, 4)
    assert (quote.bid_price_micros, quote.bid_size_micros, quote.ask_price_micros, quote.ask_size_micros) == (None,) * 4
    assert quote.epoch == 4


def test_a_polled_quote_is_the_same_one_only_in_the_same_slot_with_the_same_content() -> None:
    row = kalshi_market_row()
    first = polled_quote(row, _POLL, 1, NOW, 0)
    assert polled_quote(row, _POLL, 1, NOW + 1, 0).source_key == first.source_key
    assert polled_quote(row, _POLL, 2, NOW, 0).source_key != first.source_key
    assert polled_quote(kalshi_market_row(yes_bid_size_fp="1"), _POLL, 1, NOW, 0).source_key != first.source_key
    assert -(2**63) <= first.source_key < 2**63


def test_trades_of_rest_and_socket_are_one_trade_by_id() -> None:
    rest = trade(
        {
            "trade_id": "t-1",
            "ticker": "A",
            "count_fp": "2.50",
            "yes_price_dollars": "0.4200",
            "no_price_dollars": "0.5800",
            "taker_outcome_side": "no",
            "created_time": "2026-08-06T08:26:40Z",
            "is_block_trade": True,
        },
        NOW,
    )
    socket = trade(
        {
            "trade_id": "t-1",
            "market_ticker": "A",
            "count_fp": "2.50",
            "yes_price_dollars": "0.4200",
            "taker_side": "no",
            "ts_ms": 1_786_004_800_000,
        },
        NOW,
    )
    assert (rest.market_id, rest.source, rest.source_key) == (socket.market_id, socket.source, socket.source_key)
    assert rest.price_micros == 420_000
    assert rest.size_micros == 2_500_000
    assert rest.taker_outcome_index == 1
    assert rest.block
    assert not socket.block


def test_a_legacy_trade_is_read_in_cents() -> None:
    read_trade = trade(
        {"trade_id": "t", "ticker": "A", "count": 3, "yes_price": 6, "no_price": 94, "price": 0.06, "ts": 5}, NOW
    )
    assert (read_trade.price_micros, read_trade.size_micros, read_trade.taker_outcome_index) == (
        60_000,
        3_000_000,
        None,
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"no_price_dollars": "0.5000"}, QuarantineReason.PRICES_INCONSISTENT),
        ({"yes_price_dollars": "1.2000"}, QuarantineReason.PRICE_OUT_OF_RANGE),
        ({"count_fp": "0.00"}, QuarantineReason.SIZE_OUT_OF_RANGE),
        ({"trade_id": ""}, QuarantineReason.FIELD_MISSING),
        ({"taker_outcome_side": "maybe"}, QuarantineReason.ENUM_UNKNOWN),
    ],
)
def test_a_poison_trade_is_refused_with_its_reason(fields: dict[str, Any], reason: QuarantineReason) -> None:
    row = {
        "trade_id": "t",
        "ticker": "A",
        "count_fp": "1",
        "yes_price_dollars": "0.4000",
        "created_time": "2026-08-06T00:00:00Z",
    }
    with pytest.raises(RowError) as refused:
        trade(row | fields, NOW)
    assert refused.value.reason is reason
