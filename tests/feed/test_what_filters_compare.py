"""What a filter compares is fixed when an opportunity opens, so whoever saw its start sees its end."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from oddstream_server.domain.market import Market, Venue
from oddstream_server.domain.signal import DataOrigin, Direction, SignalEvent
from oddstream_server.feed.signals.filters import EventFacts, facts_of
from oddstream_server.strategies.legs import leg_at_ask, leg_at_bid, rows_digest
from oddstream_server.strategies.tracker import Subject, Verdict, observe
from tests.strategies.worlds import START_US, a_market, a_quote

SUBJECT = Subject("test.kind", "test.kind", 1, "0" * 64, "kalshi:E", "kalshi:E", DataOrigin.LIVE)
KALSHI = [a_market(0), a_market(1)]
POLYMARKET = replace(a_market(2), market_id="polymarket:M2", venue=Venue.POLYMARKET)
STEP_US = 400_000


@st.composite
def verdicts(draw: st.DrawFn) -> list[Verdict | None]:
    """What a kernel may say of one subject, row after row: other prices, sizes, sides, legs and orders of legs."""
    found: list[Verdict | None] = []
    for number in range(draw(st.integers(2, 25))):
        if draw(st.integers(0, 9)) == 0:
            found.append(None)
            continue
        markets: list[Market] = draw(st.permutations([*KALSHI, POLYMARKET]))[: draw(st.integers(1, 3))]
        direction = draw(st.sampled_from([Direction.UP, Direction.DOWN]))
        make = leg_at_bid if direction is Direction.DOWN else leg_at_ask
        at_us, ask = START_US + number * STEP_US, draw(st.integers(20, 80)) * 10_000
        size = draw(st.sampled_from([None, 10_000_000, 50_000_000]))
        quotes = [a_quote(m.market_id, at_us, ask - 10_000, ask, bid_size=size, ask_size=size) for m in markets]
        found.append(
            Verdict(
                direction=direction,
                opens=draw(st.booleans()),
                strength_ppm=draw(st.integers(0, 1_000_000)),
                net_edge_micros=draw(st.integers(-50_000, 50_000)),
                fair_value_micros=None,
                time_to_live_us=3 * STEP_US,
                legs=tuple(make(m, q, size) for m, q in zip(markets, quotes, strict=True)),
                evidence=(),
                input_time_us=at_us,
                input_digest=lambda rows=tuple(quotes): rows_digest(rows),
                venue=markets[0].venue,
                all_or_none=False,
                lockup_until_us=None,
            )
        )
    return found


@given(verdicts())
def test_all_events_of_an_opportunity_carry_the_facts_of_its_opening(rows: list[Verdict | None]) -> None:
    opened: SignalEvent | None = None
    facts: dict[str, EventFacts] = {}
    for number, verdict in enumerate(rows):
        opened, events = observe(SUBJECT, opened, verdict, START_US + number * STEP_US)
        for event in events:
            compared = replace(facts_of(event), offers=True, expire_time_us=0)
            assert facts.setdefault(event.signal.opportunity_id, compared) == compared
