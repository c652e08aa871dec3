"""Small random worlds for strategy tests: markets, events and quotes that make every built-in kind speak."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache

from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.fitted import FittedObject
from oddstream_server.domain.market import (
    Declared,
    Event,
    LinkRelation,
    LinkState,
    Market,
    MarketLink,
    MarketState,
    Outcome,
    PriceRange,
    Strike,
    Venue,
)
from oddstream_server.domain.quote import Quote, SourceKind, TickSource, Trade
from oddstream_server.domain.signal import Leg, SignalEvent
from oddstream_server.strategies.fitting import (
    HOUR_US,
    CalibrationSample,
    VolumeSample,
    fit_calibration,
    fit_volume_baseline,
)

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
    prints: tuple[Trade, ...] = ()
    prices: tuple[Quote, ...] = ()
    """Of the underlying."""
    links: tuple[MarketLink, ...] = ()
    fitted: tuple[FittedObject, ...] = ()

    @property
    def ticks(self) -> tuple[Quote | Trade, ...]:
        """Everything in the order in which it comes: of one instant prices first, then quotes, then prints."""
        return tuple(sorted((*self.prices, *self.quotes, *self.prints), key=lambda tick: tick.receive_time_us))

    def until(self, end_us: int) -> "World":
        """The world up to an instant, which is still in it."""
        return replace(
            self,
            quotes=tuple(t for t in self.quotes if t.receive_time_us <= end_us),
            prints=tuple(t for t in self.prints if t.receive_time_us <= end_us),
            prices=tuple(t for t in self.prices if t.receive_time_us <= end_us),
        )


def a_world(seed: int, instants: int = 400, pace: Fraction = Fraction(1)) -> World:
    """Three markets of one exclusive and exhaustive event whose mids wander, jump, and lose touch with each other.

    About one row in fifty lacks a side, is crossed, shows a placeholder book or begins a new epoch.

    :param pace: factor of the time from instant to instant, which is 27 seconds on average at 1.
    """
    rng = random.Random(seed)
    markets = tuple(a_market(i) for i in range(3))
    mids, epochs = [0.30, 0.34, 0.36], [1, 1, 1]
    now = START_US
    quotes: list[Quote] = []
    for _ in range(instants):
        now += int(rng.choice((1_000_000, 20_000_000, 60_000_000)) * pace)
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


LOOSE: Mapping[str, Mapping[str, int]] = {
    "stat.mean_reversion": {"minimum_rows": 8, "minimum_buckets": 3},
    "stat.momentum": {
        "minimum_buckets": 2, "minimum_change_e4": 300, "z_enter_ppm": 600_000, "z_exit_ppm": 300_000,
        "time_to_live_us": 36_000_000_000,
    },
    "book.imbalance": {
        "ratio_enter_ppm": 700_000, "ratio_full_ppm": 3_000_000, "ratio_exit_ppm": 200_000, "minimum_rows": 3,
    },
    "flow.large_trade": {
        "minimum_prints": 20, "percentile_ppm": 900_000, "ratio_enter_ppm": 200_000, "ratio_exit_ppm": 100_000,
        "time_to_live_us": 600_000_000,
    },
    "flow.volume_spike": {"z_enter_ppm": 1_000_000, "z_exit_ppm": 600_000, "minimum_hours": 5},
    "calib.longshot": {"minimum_edge_micros": 1_000},
    "decay.expiry": {"minimum_edge_micros": 10_000, "maximum_age_us": 100_000_000, "time_to_live_us": 600_000_000},
    "surface.mispricing": {"minimum_members": 3, "z_enter_ppm": 1_100_000},
}  # fmt: skip
"""Parameters at which a small world is enough to make a kind speak."""


@cache
def a_world_for(kind: str, seed: int, instants: int = 400) -> World:
    """A world that makes a kind speak, with what the kind needs besides quotes."""
    makers: Mapping[str, Callable[[int, int], World]] = {
        "stat.momentum": lambda s, n: a_world(s, 2 * n, Fraction(40)),
        "book.imbalance": lambda s, n: a_world(s, 2 * n, Fraction(1, 25)),
        "flow.large_trade": lambda s, n: with_prints(a_world(s, n), s),
        "flow.volume_spike": lambda s, n: with_prints(with_fitted(a_world(s, n)), s),
        "calib.longshot": lambda s, n: with_fitted(a_world(s, n)),
        "decay.expiry": lambda s, n: with_prices(with_strikes(a_world(s, n)), s),
        "arb.monotone": lambda s, n: with_strikes(a_world(s, n)),
        "surface.mispricing": lambda s, n: with_strikes(a_world(s, n)),
        "arb.cross_venue": lambda s, n: with_a_link(a_world(s, n)),
    }
    return makers.get(kind, a_world)(seed, instants)


def with_strikes(world: World) -> World:
    """The markets as a ladder: the dearer one pays above the lower strike. It closes a day after the start."""
    markets = tuple(
        replace(
            market,
            strike=Strike("greater", floor_micros=(1_030 - 10 * i) * 100_000, underlying_id=UNDERLYING),
            close_time_us=START_US + 20_000_000_000,
        )
        for i, market in enumerate(world.markets)
    )
    return replace(world, markets=markets)


UNDERLYING = "kalshi:underlying.TEST"


def with_prices(world: World, seed: int) -> World:
    """An underlying about 100 that moves at every second instant."""
    rng, price, prices = random.Random(f"prices {seed}"), 101_000_000, list[Quote]()
    for i, at_us in enumerate(sorted({q.receive_time_us for q in world.quotes})):
        price += rng.randrange(-60_000, 60_001)
        if rng.random() < 0.7:
            prices.append(a_quote(UNDERLYING, at_us, price, price, None, None, key=1_000_000 + i))
    return replace(world, prices=tuple(prices))


def with_prints(world: World, seed: int) -> World:
    """A print after about every second quote, a few of them large, some without a taker, some of them blocks."""
    rng, prints = random.Random(f"prints {seed}"), list[Trade]()
    for i, quote in enumerate(world.quotes):
        if quote.ask_price_micros is None or rng.random() < 0.5:
            continue
        size = rng.randrange(1, 9) * 1_000_000 * (30 if rng.random() < 0.08 else 1)
        taker = rng.choice((0, 0, 1, None)) if i % 400 < 200 else rng.choice((0, 1, 1, None))
        prints.append(
            Trade(
                quote.market_id,
                quote.receive_time_us + rng.choice((0, 300_000)),
                quote.ask_price_micros,
                size,
                taker,
                TickSource(Venue.KALSHI, SourceKind.TRADES, "trades"),
                f"t{i}",
                block=rng.random() < 0.02,
            )
        )
    prints.sort(key=lambda trade: trade.receive_time_us)
    return replace(world, prints=tuple(prints))


def with_fitted(world: World) -> World:
    """A calibration by which 30 to 35 cents are worth more than they cost, and a baseline of quiet hours."""
    before_us = START_US - 40 * 86_400_000_000
    samples = [
        CalibrationSample("", 40_000_000_000, mid, payout, before_us)
        for mid, payouts in ((320_000, 47), (370_000, 30), (280_000, 25))
        for n in range(200)
        for payout in [1_000_000 if n % 100 < payouts else 0]
    ]
    hours = [VolumeSample("kalshi", "", before_us + n * HOUR_US, (3, 8, 20, 30, 55)[n % 5]) for n in range(168 * 5)]
    fit_time_us = START_US - 1_000_000_000
    fitted = (fit_calibration(samples, fit_time_us, 1), fit_volume_baseline(hours, fit_time_us, 1))
    markets = tuple(replace(m, close_time_us=START_US + 86_400_000_000) for m in world.markets)
    return replace(world, markets=markets, fitted=fitted)


def with_a_link(world: World) -> World:
    """The third market is on another venue and says the same as the second."""
    other = replace(
        world.markets[2], market_id="polymarket:0x2", venue=Venue.POLYMARKET, venue_market_id="0x2", event_id=None
    )
    source = TickSource(Venue.POLYMARKET, SourceKind.WEBSOCKET, "other")
    quotes = tuple(
        replace(q, market_id=other.market_id, source=source) if q.market_id == world.markets[2].market_id else q
        for q in world.quotes
    )
    link = MarketLink(
        "lnk_" + "a" * 26,
        world.markets[1].market_id,
        other.market_id,
        LinkRelation.EQUIVALENT,
        ((0, 0), (1, 1)),
        world.markets[1].rules_digest,
        other.rules_digest,
        LinkState.CONFIRMED,
    )
    markets = (*world.markets[:2], other)
    return replace(world, markets=markets, event=an_event(markets[:2]), quotes=quotes, links=(link,))


def entry_of(event: SignalEvent, leg: Leg) -> tuple[object, ...]:
    """What a backtest's intent says of a leg too."""
    signal = event.signal
    return (
        signal.input_time_us,
        leg.market_id,
        leg.outcome_index,
        signal.strength_ppm,
        signal.net_edge_micros or 0,
        signal.expire_time_us,
        leg.limit_price_micros,
        -1 if leg.available_size_micros is None else leg.available_size_micros,
    )


def bodies(events: Sequence[SignalEvent]) -> list[bytes]:
    return [event.canonical_bytes() for event in events]
