"""Polymarket's REST rows as the domain reads them."""

import hashlib
import json
from typing import Any

import pytest

from oddstream_server.domain.fees import FeeFormula, Liquidity, schedule_at
from oddstream_server.domain.market import CollateralRule, Declared, MarketState, PriceRange, SettlementState, Venue
from oddstream_server.venues.polymarket import catalog
from oddstream_server.venues.polymarket.settlements import (
    clob_settlement,
    market_state,
    resolution_settlement,
    settlement,
)
from oddstream_server.venues.polymarket.ticks import (
    FillKeys,
    book,
    book_hash_holds,
    data_trade,
    printed_trade,
    tokens_of,
)
from oddstream_server.venues.rows import Quarantine, QuarantineReason, RowError, exact_json
from oddstream_server.venues.times import utc_us
from tests.venues.bodies import (
    CONDITION,
    NO_TOKEN,
    YES_TOKEN,
    clob_book,
    gamma_event_row,
    gamma_market_row,
    polymarket_market,
)

NOW = 1_786_000_000_000_000


@pytest.fixture
def quarantine() -> Quarantine:
    return Quarantine(Venue.POLYMARKET, "test", NOW)


def wired(row: dict[str, Any]) -> Any:
    """The row as it comes from the wire, with its numbers kept exact."""
    return exact_json(json.dumps(row))


def read(quarantine: Quarantine, event: dict[str, Any] | None = None, **fields: Any) -> Any:
    above = gamma_event_row() if event is None else event
    return catalog.market(wired(gamma_market_row(**fields)), wired(above), quarantine, NOW)


def test_a_gamma_row_becomes_a_market(quarantine: Quarantine) -> None:
    market = read(quarantine, negRisk=True)
    assert not quarantine.rows
    assert market.market_id == f"polymarket:{CONDITION}"
    assert market.event_id == "polymarket:77"
    assert [(o.label, o.venue_instrument_id) for o in market.outcomes] == [("Yes", YES_TOKEN), ("No", NO_TOKEN)]
    assert market.price_ranges == (PriceRange(0, 1_000_000, 1_000),)
    assert market.minimum_size_micros == 5_000_000
    assert market.taker_delay_us == 3_000_000
    assert market.volume_micros == 123_456_789_012
    assert market.category == "Infrastructure"
    assert market.series_id == "bridges-series"
    assert market.neg_risk
    assert dict(market.venue_ids)["gamma_id"] == "501"
    assert market.state is MarketState.OPEN
    assert market.settlement is None


def test_a_market_alone_names_its_event_itself(quarantine: Quarantine) -> None:
    row = gamma_market_row(events=[{"id": "91", "title": "An event"}])
    assert catalog.market(wired(row), None, quarantine, NOW).event_id == "polymarket:91"
    assert catalog.market(wired(gamma_market_row()), None, quarantine, NOW).event_id is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"conditionId": ""}, QuarantineReason.FIELD_MISSING),
        ({"conditionId": "0x12"}, QuarantineReason.IDENTITY_MISSING),
        ({"clobTokenIds": None}, QuarantineReason.IDENTITY_MISSING),
        ({"clobTokenIds": '["1"]'}, QuarantineReason.OUTCOMES_INCONSISTENT),
        ({"clobTokenIds": '["1", "1"]'}, QuarantineReason.OUTCOMES_INCONSISTENT),
        ({"clobTokenIds": '["1", "x"]'}, QuarantineReason.IDENTITY_MISSING),
        ({"clobTokenIds": '["1", '}, QuarantineReason.NOT_JSON),
        ({"outcomes": '["Only"]'}, QuarantineReason.OUTCOMES_INCONSISTENT),
        ({"orderPriceMinTickSize": 0}, QuarantineReason.PRICE_OUT_OF_RANGE),
        ({"umaResolutionStatus": "pondered"}, QuarantineReason.ENUM_UNKNOWN),
        ({"endDate": "2026-05-31"}, QuarantineReason.TIME_INVALID),
        ({"active": "true"}, QuarantineReason.FIELD_TYPE),
    ],
)
def test_a_market_that_can_not_be_traded_on_is_refused(
    quarantine: Quarantine, fields: dict[str, Any], reason: QuarantineReason
) -> None:
    with pytest.raises(RowError) as refused:
        read(quarantine, **fields)
    assert refused.value.reason is reason


def test_only_a_plain_neg_risk_event_is_exclusive_and_exhaustive_with_the_rule_as_its_source() -> None:
    plain = catalog.event(gamma_event_row(), ["polymarket:a"])
    assert (plain.exclusivity, plain.exhaustiveness) == (Declared.YES, Declared.YES)
    assert "negRisk" in plain.exclusivity_source
    assert "negRisk" in plain.exhaustiveness_source
    assert plain.collateral_rule is CollateralRule.NEG_RISK
    augmented = catalog.event(gamma_event_row(negRiskAugmented=True), [])
    assert (augmented.exclusivity, augmented.exhaustiveness) == (Declared.UNKNOWN, Declared.UNKNOWN)
    assert augmented.neg_risk_augmented
    assert augmented.collateral_rule is CollateralRule.NEG_RISK
    other = catalog.event(gamma_event_row(negRisk=False, enableNegRisk=False), [])
    assert (other.exclusivity, other.exhaustiveness) == (Declared.UNKNOWN, Declared.UNKNOWN)
    assert other.collateral_rule is CollateralRule.NONE


def test_outcomes_whose_meaning_may_change_are_placeholders(quarantine: Quarantine) -> None:
    augmented = gamma_event_row(negRiskAugmented=True)
    assert read(quarantine, augmented, groupItemTitle="Person Q").placeholder
    assert read(quarantine, augmented, groupItemTitle="Other", negRiskOther=True).placeholder
    assert not read(quarantine, augmented, groupItemTitle="Ada Lovelace").placeholder
    assert not read(quarantine, groupItemTitle="Person Q").placeholder


# --- fees -----------------------------------------------------------------------------------------------------------


def test_a_market_without_fees_is_free_at_any_time(quarantine: Quarantine) -> None:
    (schedule,) = read(quarantine, feesEnabled=False).fee_schedules
    assert schedule.formula is FeeFormula.NONE
    assert schedule.holds_at(0)
    assert schedule.holds_at(utc_us(2030, 1, 1))


def test_a_markets_own_schedule_is_its_fee_and_takers_alone_pay(quarantine: Quarantine) -> None:
    held = schedule_at(read(quarantine).fee_schedules, utc_us(2026, 5, 1))
    assert held is not None
    # 100 x 0.05 x 0.3 x 0.7 = 1.05 USD; a dust fill pays the least fee
    assert held.fill_fee_micros(300_000, 100_000_000) == 1_050_000
    assert held.fill_fee_micros(300_000, 10_000) == 110
    assert held.fill_fee_micros(1_000, 10_000) == 10
    assert held.fill_fee_micros(300_000, 100_000_000, Liquidity.MAKER) == 0


def test_the_present_schedule_is_never_applied_to_the_time_before_it(quarantine: Quarantine) -> None:
    schedules = read(quarantine, createdAt="2026-02-01T00:00:00Z").fee_schedules
    assert schedule_at(schedules, utc_us(2026, 3, 29)) is None
    crypto = read(
        quarantine, createdAt="2026-03-07T00:00:00Z", feeType="crypto_fees", feeSchedule={"rate": 0.07, "exponent": 1}
    ).fee_schedules
    old, new = schedule_at(crypto, utc_us(2026, 3, 29)), schedule_at(crypto, utc_us(2026, 3, 30))
    assert old is not None
    assert new is not None
    assert (old.formula, old.taker_rate_ppm, old.exponent) == (FeeFormula.QUADRATIC_POWER, 250_000, 2)
    # 100 x 0.5 x 0.25 x 0.25^2 = 0.78125 USD
    assert old.fill_fee_micros(500_000, 100_000_000) == 781_300
    assert (new.formula, new.taker_rate_ppm) == (FeeFormula.QUADRATIC, 70_000)


def test_fifteen_minute_crypto_markets_paid_from_19_january_2026_on(quarantine: Quarantine) -> None:
    schedules = read(
        quarantine, slug="btc-updown-15m-1768687200", feeSchedule=None, createdAt="2026-01-16T22:07:02Z"
    ).fee_schedules
    before, after = schedule_at(schedules, utc_us(2026, 1, 18)), schedule_at(schedules, utc_us(2026, 1, 19))
    assert before is not None
    assert after is not None
    assert before.formula is FeeFormula.NONE
    assert after.taker_rate_ppm == 250_000
    assert schedule_at(schedules, utc_us(2026, 3, 30)) is None, "nothing is known of it then"


@pytest.mark.parametrize(
    "fields",
    [
        {"feeSchedule": None},
        {"feeSchedule": {"rate": 0.05, "exponent": 2, "takerOnly": True}},
        {"feeSchedule": {"rate": 0.05, "exponent": 1, "takerOnly": False}},
        {"feeSchedule": {"rate": 7, "exponent": 1}},
    ],
)
def test_a_fee_rule_that_is_not_known_leaves_the_market_without_a_schedule(
    quarantine: Quarantine, fields: dict[str, Any]
) -> None:
    assert read(quarantine, **fields).fee_schedules == ()
    assert [row.reason for row in quarantine.rows] == ["fee_unknown"]


# --- states and settlements -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, MarketState.OPEN),
        ({"acceptingOrders": False}, MarketState.PAUSED),
        ({"active": False}, MarketState.UNOPENED),
        ({"archived": True}, MarketState.CLOSED),
        ({"umaResolutionStatus": "proposed"}, MarketState.OPEN),
        ({"umaResolutionStatus": "disputed"}, MarketState.DISPUTED),
        ({"closed": True}, MarketState.CLOSED),
        ({"closed": True, "umaResolutionStatus": "proposed"}, MarketState.CLOSED),
        ({"closed": True, "umaResolutionStatus": "resolved"}, MarketState.SETTLED),
        ({"endDate": "2020-01-01T00:00:00Z"}, MarketState.OPEN),
    ],
)
def test_a_state_is_what_closed_and_the_resolution_say(fields: dict[str, Any], state: MarketState) -> None:
    assert market_state(gamma_market_row(**fields)) is state


@pytest.mark.parametrize(
    ("prices", "payout"),
    [
        ('["1", "0"]', 1_000_000),
        ('["0", "1"]', 0),
        ('["0.5", "0.5"]', 500_000),
        ('["0.9999996051", "0.0000003949"]', 1_000_000),
        ('["0", "0"]', None),
        ('["0.58", "0.42"]', None),
        ('["1", "1"]', None),
        (None, None),
    ],
)
def test_only_prices_of_a_resolved_market_that_are_payouts_settle_it(prices: str | None, payout: int | None) -> None:
    row = gamma_market_row(
        closed=True,
        umaResolutionStatus="resolved",
        outcomePrices=prices,
        closedTime="2026-05-12 05:03:11+00",
        umaEndDate="2026-05-12T05:00:00Z",
    )
    settled = settlement(row, NOW)
    assert (settled.yes_payout_micros if settled else None) == payout
    if settled is not None:
        assert settled.state is SettlementState.FINAL
        assert settled.paid_time_us == utc_us(2026, 5, 12) + (5 * 3_600 + 191) * 1_000_000
    for unresolved in ({"closed": False}, {"umaResolutionStatus": "proposed"}, {"umaResolutionStatus": None}):
        assert settlement(row | unresolved, NOW) is None


def test_the_clob_settles_by_its_winner_and_the_data_api_by_payouts_in_millionths() -> None:
    def tokens(first: bool, second: bool) -> list[dict[str, Any]]:
        return [{"token_id": NO_TOKEN, "winner": second}, {"token_id": YES_TOKEN, "winner": first}]

    def paid(row: dict[str, Any]) -> int | None:
        settled = clob_settlement(row, YES_TOKEN, NOW)
        return settled.yes_payout_micros if settled else None

    assert paid({"closed": True, "tokens": tokens(True, False)}) == 1_000_000
    assert paid({"closed": True, "tokens": tokens(False, True)}) == 0
    assert paid({"closed": True, "tokens": tokens(False, False)}) is None
    assert paid({"closed": True, "is_50_50_outcome": True, "tokens": tokens(False, False)}) == 500_000
    assert paid({"closed": False, "tokens": tokens(True, False)}) is None
    with pytest.raises(RowError):
        clob_settlement({"closed": True, "tokens": tokens(True, False)}, "12", NOW)
    resolved = resolution_settlement({"status": "resolved", "payouts": [250_000, 750_000]}, NOW)
    assert resolved is not None
    assert resolved.yes_payout_micros == 250_000
    assert resolution_settlement({"status": "proposed", "payouts": [1_000_000, 0]}, NOW) is None
    for wrong in ([69, 0], [1_000_000], ["1", "0"], [-1, 1_000_001]):
        with pytest.raises(RowError):
            resolution_settlement({"status": "resolved", "payouts": wrong}, NOW)


# --- books and trades -----------------------------------------------------------------------------------------------


def test_a_book_of_either_token_is_the_same_book() -> None:
    yes = clob_book([(".40", "10"), ("0.41", "5")], [("0.45", "7"), ("0.43", "2.5")])
    no = clob_book([("0.55", "7"), ("0.57", "2.5")], [("0.60", "10"), ("0.59", "5")], NO_TOKEN)
    first, second = book(yes, 0), book(no, 1)
    assert first.top() == second.top() == (410_000, 5_000_000, 430_000, 2_500_000)
    assert (first.bids, first.asks) == (second.bids, second.asks)


def test_sides_under_their_old_names_are_read_and_a_missing_side_is_another_format() -> None:
    assert book(clob_book([("0.4", "1")], [], names=("buys", "sells")), 0).top() == (400_000, 1_000_000, None, None)
    row = clob_book([("0.4", "1")], [])
    del row["asks"]
    with pytest.raises(RowError) as refused:
        book(row, 0)
    assert refused.value.reason is QuarantineReason.FIELD_MISSING


def test_a_rest_books_hash_is_checked_over_its_own_content() -> None:
    row = {"market": CONDITION, "asset_id": YES_TOKEN, "timestamp": "5", "hash": "", "bids": [], "asks": []}
    compact = json.dumps(row, separators=(",", ":"))
    row["hash"] = hashlib.sha1(compact.encode()).hexdigest()
    assert book_hash_holds(row)
    assert not book_hash_holds(row | {"timestamp": "6"})


@pytest.mark.parametrize(
    ("token", "side", "own_price", "told", "bought"),
    [
        (YES_TOKEN, "BUY", "0.42", 420_000, 0),
        (YES_TOKEN, "SELL", "0.42", 420_000, 1),
        (NO_TOKEN, "BUY", "0.58", 420_000, 1),
        (NO_TOKEN, "SELL", "0.58", 420_000, 0),
    ],
)
def test_a_print_of_either_token_is_told_in_outcome_0_prices(
    token: str, side: str, own_price: str, told: int, bought: int
) -> None:
    tokens = tokens_of([polymarket_market()])
    row = {"asset_id": token, "price": own_price, "size": "3", "side": side, "timestamp": "1786000000000"}
    trade = printed_trade(row, tokens[token], FillKeys(), NOW)
    assert (trade.price_micros, trade.taker_outcome_index, trade.size_micros) == (told, bought, 3_000_000)


def test_a_fill_has_one_key_whoever_brings_it_and_equal_fills_of_a_transaction_count_each() -> None:
    tokens = tokens_of([polymarket_market()])
    socket_row = {
        "asset_id": YES_TOKEN,
        "price": "0.42",
        "size": "3",
        "side": "BUY",
        "timestamp": "1786000000000",
        "transaction_hash": "0xfeed",
    }
    v2 = wired(
        {
            "token_id": YES_TOKEN,
            "price": 0.42,
            "size": 3,
            "side": "BUY",
            "timestamp": 1_786_000_000,
            "transaction_hash": "0xfeed",
            "proxy_wallet": "0x1",
        }
    )
    v1 = wired(
        {
            "asset": YES_TOKEN,
            "price": 0.42,
            "size": 3.0,
            "side": "BUY",
            "timestamp": 1_786_000_000,
            "transactionHash": "0xfeed",
        }
    )
    keys = FillKeys()
    printed = [printed_trade(socket_row, tokens[YES_TOKEN], keys, NOW).source_key for _ in range(2)]
    assert printed[0] != printed[1]
    for row in (v2, v1):
        fresh = FillKeys()
        read_rows = [data_trade(row, tokens, fresh, NOW) for _ in range(2)]
        assert [t.source_key for t in read_rows if t] == printed
    assert data_trade(v2 | {"token_id": "5"}, tokens, keys, NOW) is None
    with pytest.raises(RowError):
        data_trade(v2 | {"side": "HOLD"}, tokens, keys, NOW)
