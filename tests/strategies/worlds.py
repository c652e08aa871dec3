"""Small random worlds for strategy tests: markets, events and quotes that make every built-in kind speak."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.market import Declared, Event, Market, MarketState, Outcome, PriceRange, Venue
from oddstream_server.domain.quote import Quote, SourceKind, TickSource
from oddstream_server.domain.signal import SignalEvent

START_US = 1_780_000_000_000_000
SOURCE = TickSource(Venue.KALSHI, SourceKind.WEBSOCKET, "session")
FEES = (
    FeeSchedule(FeeFormula.QUADRATIC, taker_rate_ppm=70_000, maker_rate_ppm=0, rounding_step_micros=100, source="test"),
)


def a_market(number: int = 0, event_id: str | None = "kalshi:E", **changes: object) -> Market:
    native = f"M{number}"
    market = Market(
        market_id=f"kalshi:{native}",
        venue=Venue.KALSHI,
        venue_market_id=native,
        event_id=event_id,
        title=native,
        outcomes=(Outcome(0, "Yes", native), Outcome(1, "No", native)),
        state=MarketState.OPEN,
        price_ranges=(PriceRange(0, 1_000_000, 10_000),),
        minimum_size_micros=1_000_000,
        size_step_micros=10_000,
        fee_schedules=FEES,
        expected_settlement_time_us=START_US + 86_400_000_000,
    )
    return replace(market, **changes)  # type: ignore[arg-type]  # the fields of Market by name


def an_event(markets: Iterable[Market], **changes: object) -> Event:
    event = Event(
        event_id="kalshi:E",
        venue=Venue.KALSHI,
        venue_event_id="E",
        title="E",
        series_id="S",
        market_ids=tuple(m.market_id for m in markets),
        exclusivity=Declared.YES,
        exclusivity_source="test",
        exhaustiveness=Declared.YES,
        exhaustiveness_source="test",
    )
    return replace(event, **changes)  # type: ignore[arg-type]  # the fields of Event by name


def a_quote(
    market_id: str,
    at_us: int,
    bid: int | None,
    ask: int | None,
    bid_size: int | None = 50_000_000,
    ask_size: int | None = 50_000_000,
    epoch: int = 0,
    key: int = 0,
) -> Quote:
    return Quote(
        market_id=market_id,
        receive_time_us=at_us,
        bid_price_micros=bid,
        bid_size_micros=None if bid is None else bid_size,
        ask_price_micros=ask,
        ask_size_micros=None if ask is None else ask_size,
        source=SOURCE,
        source_key=key or at_us,
        venue_time_us=at_us - 1_000,
        epoch=epoch,
    )


@dataclass(frozen=True)
class World:
    markets: tuple[Market, ...]
    event: Event
    quotes: tuple[Quote, ...]


def a_world(seed: int, instants: int = 400) -> World:
    """Three markets of one exclusive and exhaustive event whose mids wander, jump, and lose touch with each other.

    About one row in fifty lacks a side, is crossed, shows a placeholder book or begins a new epoch.
    """
    rng = random.Random(seed)
    markets = tuple(a_market(i) for i in range(3))
    mids, epochs = [0.30, 0.34, 0.36], [1, 1, 1]
    now = START_US
    quotes: list[Quote] = []
    for _ in range(instants):
        now += rng.choice((1_000_000, 20_000_000, 60_000_000))
        for i in rng.sample(range(3), rng.choice((1, 1, 2, 3))):
            anchor = (0.30, 0.34, 0.36)[i]
            jump = rng.choice((-0.12, 0.12)) if rng.random() < 0.03 else 0.0
            mids[i] = min(0.95, max(0.05, mids[i] + 0.2 * (anchor - mids[i]) + rng.gauss(0, 0.004) + jump))
            cents = round(mids[i] * 100)
            bid: int | None = (cents - 1) * 10_000
            ask: int | None = (cents + (0 if rng.random() < 0.5 else 1)) * 10_000
            size = rng.choice((5, 5, 5, 40, 41, 0.005)) * 1_000_000
            fate = rng.random()
            if fate < 0.005:
                bid = None
            elif fate < 0.010:
                bid, ask = ask, bid
            elif fate < 0.013:
                bid, ask = 10_000, 990_000
            elif fate < 0.018:
                epochs[i] += 1
            quotes.append(
                a_quote(
                    markets[i].market_id,
                    now,
                    bid,
                    ask,
                    bid_size=int(size) if rng.random() < 0.95 else None,
                    ask_size=int(size),
                    epoch=epochs[i],
                    key=len(quotes) + 1,
                )
            )
    return World(markets, an_event(markets), tuple(quotes))


def bodies(events: Sequence[SignalEvent]) -> list[bytes]:
    return [event.canonical_bytes() for event in events]
