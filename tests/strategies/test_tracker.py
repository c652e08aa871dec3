"""The life of an opportunity, rule by rule."""

from dataclasses import replace

import pytest

from oddstream_server.domain.market import Market, Venue
from oddstream_server.domain.quote import Quote
from oddstream_server.domain.signal import DataOrigin, Direction, SignalEvent
from oddstream_server.strategies.legs import basket_size_micros, leg_at_ask, leg_at_bid, rows_digest
from oddstream_server.strategies.tracker import Subject, Verdict, checkpoint, from_checkpoint, observe
from tests.strategies.worlds import START_US, a_market, a_quote

SUBJECT = Subject("test.kind", "test.kind", 1, "0" * 64, "kalshi:M0", None, DataOrigin.LIVE)
MARKET = a_market(event_id=None)
TTL_US = 10_000_000


def verdict(
    at_us: int = START_US,
    ask: int = 400_000,
    size: int | None = 50_000_000,
    direction: Direction = Direction.UP,
    opens: bool = True,
    markets: tuple[Market, ...] = (MARKET,),
) -> Verdict:
    quote = a_quote("", at_us, ask - 10_000, ask, ask_size=size, bid_size=size)
    quotes = [replace(quote, market_id=m.market_id) for m in markets]
    make = leg_at_bid if direction is Direction.DOWN else leg_at_ask
    return Verdict(
        direction=direction,
        opens=opens,
        strength_ppm=500_000,
        net_edge_micros=ask // 10,
        fair_value_micros=None,
        time_to_live_us=TTL_US,
        legs=tuple(make(m, q, size) for m, q in zip(markets, quotes, strict=True)),
        evidence=(),
        input_time_us=at_us,
        input_digest=lambda: rows_digest(quotes),
        venue=Venue.KALSHI,
        all_or_none=False,
        lockup_until_us=None,
    )


def opened() -> SignalEvent:
    event, _ = observe(SUBJECT, None, verdict(), START_US)
    assert event is not None
    return event


def types(events: tuple[SignalEvent, ...]) -> list[str]:
    return [e.type.value for e in events]


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (verdict(START_US + 1), []),
        (verdict(START_US + 1, ask=409_999), []),
        (verdict(START_US + 1, ask=410_000), ["revised"]),
        (verdict(START_US + 1, ask=390_000), ["revised"]),
        (verdict(START_US + 1, size=59_999_999), []),
        (verdict(START_US + 1, size=60_000_000), ["revised"]),
        (verdict(START_US + 1, size=40_000_000), ["revised"]),
        (verdict(START_US + 1, size=None), ["revised"]),
        (verdict(START_US + 1, opens=False), []),
        (verdict(START_US + 1, direction=Direction.DOWN), ["superseded", "created"]),
        (verdict(START_US + 1, markets=(MARKET, a_market(1))), ["superseded", "created"]),
        (verdict(START_US + 1, direction=Direction.DOWN, opens=False), ["withdrawn"]),
        (None, ["withdrawn"]),
        (verdict(START_US + TTL_US - 1), []),
    ],
)
def test_what_a_further_row_does_to_an_open_opportunity(changed: Verdict | None, found: list[str]) -> None:
    at_us = START_US + 1 if changed is None else changed.input_time_us
    assert types(observe(SUBJECT, opened(), changed, at_us)[1]) == found


def test_an_opportunity_past_its_expire_time_is_over_without_an_event() -> None:
    late_us = START_US + TTL_US
    assert observe(SUBJECT, opened(), None, late_us) == (None, ())
    again, events = observe(SUBJECT, opened(), verdict(late_us), late_us)
    assert types(events) == ["created"]
    assert again is not None
    assert again.signal.opportunity_id != opened().signal.opportunity_id
    assert observe(SUBJECT, opened(), verdict(late_us, opens=False), late_us) == (None, ())


def test_a_condition_that_only_holds_opens_nothing() -> None:
    assert observe(SUBJECT, None, verdict(opens=False), START_US) == (None, ())


def test_revisions_keep_the_id_and_the_opening_values_and_name_what_they_supersede() -> None:
    first = opened()
    second, (event,) = observe(SUBJECT, first, verdict(START_US + 5, ask=450_000), START_US + 5)
    assert event is second
    assert event.signal.opportunity_id == first.signal.opportunity_id
    assert (event.signal.revision, event.signal.supersedes_signal_id) == (2, first.signal.signal_id)
    assert event.opening_net_edge_micros == first.signal.net_edge_micros != event.signal.net_edge_micros
    assert event.signal.expire_time_us == START_US + 5 + TTL_US


def test_the_superseded_one_names_its_successor() -> None:
    _, (old, new) = observe(SUBJECT, opened(), verdict(START_US + 5, direction=Direction.DOWN), START_US + 5)
    assert old.signal == opened().signal
    assert old.superseded_by_opportunity_id == new.signal.opportunity_id


def test_small_moves_add_up_against_the_last_revision() -> None:
    event: SignalEvent | None = opened()
    found = []
    for i in range(1, 25):
        event, events = observe(SUBJECT, event, verdict(START_US + i, ask=400_000 + 1_000 * i), START_US + i)
        found += types(events)
    assert found == ["revised", "revised"]


def test_an_open_opportunity_goes_through_its_checkpoint() -> None:
    assert from_checkpoint(checkpoint(opened())) == opened()
    assert from_checkpoint(checkpoint(None)) is None


def test_the_digest_of_the_rows_leaves_out_what_live_and_replay_differ_in() -> None:
    row: Quote = a_quote("kalshi:M0", START_US, 400_000, 410_000)
    assert rows_digest([row]) == rows_digest([replace(row, ingest_sequence=77, source_key=5)])
    assert rows_digest([row]) != rows_digest([replace(row, epoch=1)])
    assert rows_digest([row]) != rows_digest([replace(row, bid_size_micros=None)])


@pytest.mark.parametrize(
    ("steps", "sizes", "common"),
    [
        ((10_000, 10_000), (5_004_321, 9_000_000), 5_000_000),
        ((1_000_000, 10_000), (5_990_000, 9_000_000), 5_000_000),
        ((300_000, 200_000), (5_990_000, 6_100_000), 5_400_000),
        ((10_000, 10_000), (5_000_000, None), None),
        ((10_000, 10_000), (990_000, 9_000_000), 0),
    ],
)
def test_a_basket_has_the_size_of_its_smallest_leg_on_every_legs_grid(
    steps: tuple[int, int], sizes: tuple[int | None, ...], common: int | None
) -> None:
    legs = [(a_market(i, size_step_micros=step), size) for i, (step, size) in enumerate(zip(steps, sizes, strict=True))]
    assert basket_size_micros(legs) == common


def test_a_leg_on_the_bids_is_complete() -> None:
    market = a_market(neg_risk=True, taker_delay_us=3_000_000)
    quote = a_quote(market.market_id, START_US, 300_000, 320_000, epoch=4)
    leg = leg_at_bid(market, quote, 10_000_000)
    assert (leg.outcome_index, leg.limit_price_micros, leg.book_price_micros) == (1, 700_000, 300_000)
    assert (leg.book_side.value, leg.action.value, leg.venue_instrument_id) == ("bid", "buy", "M0")
    assert leg.expected_fee_micros == 147_000  # 0.07 x 10 x 0.3 x 0.7
    assert (leg.tick_micros, leg.neg_risk, leg.taker_delay_us) == (10_000, True, 3_000_000)
    assert (leg.book_epoch, leg.book_receive_time_us, leg.book_venue_time_us) == (4, START_US, START_US - 1_000)
