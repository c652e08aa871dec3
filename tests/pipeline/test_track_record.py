"""From ticks to the track record: what the service answers is what plain Python makes of the log and the ticks."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from oddstream_server.application.ports import SettlementUpdate, TimeRange, TrackRecordQuery
from oddstream_server.domain.market import Market, MarketState, Settlement, SettlementState, Venue
from oddstream_server.domain.quote import Quote
from oddstream_server.domain.signal import DataOrigin, SignalEvent, SignalEventType
from oddstream_server.domain.track_record import Figures, Horizon, TrackRecord
from oddstream_server.storage.track_record.performance import TrackRecordStore
from tests.pipeline.conftest import Stores, Watcher
from tests.pipeline.test_leadership import FAST, a_pipeline, a_venue, discovered, now_us, recent, running, strategies
from tests.strategies.worlds import World, a_world

CALM = replace(FAST, lease_seconds=30.0)  # nobody contends, and a busy machine loses no lease
MADE = (SignalEventType.CREATED, SignalEventType.REVISED)


def settled(market: Market, revision: int, state: SettlementState, paid: int | None) -> SettlementUpdate:
    void = paid is None
    settlement = Settlement(state, paid, revision, now_us(), now_us(), now_us(), void=void)
    return SettlementUpdate(market.market_id, MarketState.SETTLED, settlement)


async def recorded(stores: Stores, kind: str, **more: Any) -> TrackRecord:
    query = replace(TrackRecordQuery(kind, 1, DataOrigin.LIVE, TimeRange()), **more)
    return await TrackRecordStore(stores.database).track_record(query, now_us())


# --- the same by plain Python, from the log and the ticks ---


def fee_micros(price: int, market: Market) -> int:
    """0.07 p (1 - p) of one contract, up to the ten-thousandth, as the world's one schedule says."""
    (schedule,) = market.fee_schedules
    exact = Fraction(schedule.taker_rate_ppm, 10**6) * Fraction(price, 10**6) * (1 - Fraction(price, 10**6))
    return math.ceil(exact * 10**4) * 100


def edge_of(leg: Any, price: int, market: Market, paid: int) -> int:
    payout = paid if leg.outcome_index == 0 else 1_000_000 - paid
    assert leg.action.value == "buy"
    return payout - price - fee_micros(price, market)


def touch_after(quotes: Sequence[Quote], market_id: str, after_us: int) -> tuple[int, int] | None:
    for quote in quotes:
        bid, ask = quote.bid_price_micros, quote.ask_price_micros
        if quote.market_id == market_id and quote.receive_time_us > after_us and None not in (bid, ask) and bid < ask:
            return bid, ask
    return None


def expected(events: Sequence[SignalEvent], kind: str, world: World, paid: dict[str, int | None]) -> dict[str, Any]:
    markets = {market.market_id: market for market in world.markets}
    signals = [e.signal for e in events if e.type in MADE and e.signal.kind == kind]
    graded, voids = [], 0
    for signal in signals:
        if any(leg.market_id not in paid for leg in signal.legs):
            continue
        payouts = [paid[leg.market_id] for leg in signal.legs]
        if None in payouts:
            voids += 1
            continue
        edge, later = 0, 0
        for leg, payout in zip(signal.legs, payouts, strict=True):
            edge += edge_of(leg, leg.limit_price_micros, markets[leg.market_id], payout)
            touch = touch_after(world.quotes, leg.market_id, signal.input_time_us)
            if later is None or touch is None:
                later = None
            else:
                price = touch[1] if leg.outcome_index == 0 else 1_000_000 - touch[0]
                later += edge_of(leg, price, markets[leg.market_id], payout)
        graded.append((signal, edge, later))
    laters = [later for _, _, later in graded if later is not None]
    answer = {
        "signal_count": len(signals),
        "graded_count": len(graded),
        "void_count": voids,
        "hit_rate": sum(edge > 0 for _, edge, _ in graded) / len(graded),
        "mean_realized_edge_micros": math.floor(Fraction(sum(e for _, e, _ in graded), len(graded)) + Fraction(1, 2)),
        "mean_next_quote_edge_micros": math.floor(Fraction(sum(laters), len(laters)) + Fraction(1, 2)),
    }
    single = [
        signal for signal, _, _ in graded if len(signal.legs) == 1 and paid[signal.legs[0].market_id] in (0, 10**6)
    ]
    if single:
        said, crowd, bins = [], [], defaultdict(list)
        for signal in single:
            (leg,) = signal.legs
            happened = (paid[leg.market_id] == 10**6) == (leg.outcome_index == 0)
            fair = signal.fair_value_micros
            fair = None if fair is None else (fair if leg.outcome_index == 0 else 10**6 - fair)
            crowd.append((Fraction(leg.limit_price_micros, 10**6) - happened) ** 2)
            if fair is not None:
                said.append((Fraction(fair, 10**6) - happened) ** 2)
            best = leg.limit_price_micros if fair is None else fair
            bins[min(max(best // 50_000, 0), 19)].append((best, happened))
        answer["brier"] = float(sum(said) / len(said)) if said else None
        answer["brier_crowd"] = float(sum(crowd) / len(crowd))
        answer["calibration"] = {
            number * 50_000: (len(inside), sum(b for b, _ in inside) / len(inside) / 10**6,
                              sum(h for _, h in inside) / len(inside))
            for number, inside in bins.items()
        }  # fmt: skip
    return answer


def answered(figures: Figures, keys: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {key: getattr(figures, key) for key in keys}
    if "calibration" in found:
        assert len(figures.calibration) == 20
        found["calibration"] = {
            b.start_price_micros: (b.count, b.mean_forecast, b.frequency) for b in figures.calibration if b.count
        }
    return found


async def test_the_record_is_what_plain_python_makes_of_log_and_ticks(stores: Stores, watcher: Watcher) -> None:
    world = recent(a_world(41))
    end_us = now_us() + 7_200_000_000
    world = replace(world, markets=tuple(replace(m, expected_settlement_time_us=end_us) for m in world.markets))
    venue = a_venue(world)
    one, other, last = world.markets
    half = len(world.quotes) // 2
    async with running(a_pipeline(stores, venue, watcher, settings=CALM)) as leading:
        await discovered(venue, watcher)
        venue.say(*world.quotes[:half])
        await watcher.until(lambda: watcher.quotes == half)
    # Another leader goes on: what waits for its next quote is in the database.
    async with running(a_pipeline(stores, venue, watcher, holder="two", settings=CALM)) as leading:
        await watcher.until(lambda: watcher.runs.count(("discover", False)) == 2)
        venue.say(*world.quotes[half:])
        await watcher.until(lambda: watcher.quotes == len(world.quotes))
        venue.say(*(settled(m, 1, SettlementState.FINAL, p) for m, p in ((one, 10**6), (other, 0), (last, 0))))
        await watcher.until(lambda: sum(g for _, g in watcher.ended) > 0)
        paid: dict[str, int | None] = {one.market_id: 10**6, other.market_id: 0, last.market_id: 0}
        events = await stores.logged()
        for kind in (s.strategy_id for s in strategies()):
            wanted = expected(events, kind, world, paid)
            record = await recorded(stores, kind)
            assert wanted["graded_count"] > 10
            assert answered(record.overall, list(wanted)) == wanted
            assert record.overall.graded_count == record.overall.signal_count
            both = [s for s in record.slices if s.venue and s.horizon]
            assert {(s.venue, s.horizon) for s in both} <= {(Venue.KALSHI, h) for h in Horizon}
            assert sum(s.figures.graded_count for s in both) == record.overall.graded_count
            triggers = [e.signal.input_time_us for e in events if e.type in MADE and e.signal.kind == kind]
            assert (record.first_trigger_us, record.last_trigger_us) == (min(triggers), max(triggers))

        # An amendment is another record; a void is none.
        grades = sum(g for _, g in watcher.ended)
        venue.say(settled(one, 2, SettlementState.AMENDED, 0), settled(last, 2, SettlementState.AMENDED, None))
        await watcher.until(lambda: sum(g for _, g in watcher.ended) > grades)
        paid |= {one.market_id: 0, last.market_id: None}
        for kind in (s.strategy_id for s in strategies()):
            wanted = expected(events, kind, world, paid) if kind != "arb.event_sum" else None
            record = await recorded(stores, kind)
            if wanted is None:
                assert (record.overall.graded_count, record.overall.void_count) == (0, record.overall.signal_count)
                assert record.overall.hit_rate is record.overall.mean_realized_edge_micros is None
            else:
                assert wanted["void_count"] > 0
                assert answered(record.overall, list(wanted)) == wanted
        assert not leading.done()
    assert not watcher.failures


def renamed(world: World) -> World:
    """The same again on other markets, from now on: the settlements of the first moved the feed's time to now."""
    shift = now_us() + 1_000_000 - world.quotes[0].receive_time_us
    quotes = tuple(
        replace(q, market_id=q.market_id.replace(":M", ":N"), receive_time_us=q.receive_time_us + shift)
        for q in world.quotes
    )
    markets = tuple(
        replace(m, market_id=m.market_id.replace(":M", ":N"), event_id="kalshi:F", venue_market_id=f"N{i}")
        for i, m in enumerate(world.markets)
    )
    event = replace(
        world.event, event_id="kalshi:F", venue_event_id="F", market_ids=tuple(m.market_id for m in markets)
    )
    return World(markets, event, quotes)


async def test_a_record_of_a_hundred_signals_is_the_confidence_of_the_next(stores: Stores, watcher: Watcher) -> None:
    world = recent(a_world(43, instants=1_100))
    venue = a_venue(world)
    async with running(a_pipeline(stores, venue, watcher, settings=CALM)):
        await discovered(venue, watcher)
        venue.say(*world.quotes)
        await watcher.until(lambda: watcher.quotes == len(world.quotes))
        # Two are settled: what needs the third waits for its grade.
        venue.say(*(settled(m, 1, SettlementState.FINAL, 10**6) for m in world.markets[:2]))
        await watcher.until(lambda: sum(g for _, g in watcher.ended) > 0)
    first = await stores.logged()
    assert {e.signal.confidence_ppm for e in first} == {None}
    reverting, sums = [(await recorded(stores, s.strategy_id)).overall for s in reversed(strategies())]
    assert reverting.graded_count >= 100, "or this test shows nothing"
    assert sums.graded_count == 0
    assert reverting.hit_rate is not None

    # The next leader reads the record when it begins.
    later = renamed(world)
    again = a_venue(later)
    async with running(a_pipeline(stores, again, watcher, holder="two", settings=CALM)):
        await watcher.until(lambda: watcher.runs.count(("discover", False)) == 2)
        again.say(*later.quotes)
        await watcher.until(lambda: watcher.quotes == 2 * len(world.quotes))
    new = [e for e in (await stores.logged())[len(first) :] if e.type in MADE]
    assert {(e.signal.kind, e.signal.confidence_ppm) for e in new} == {
        ("stat.mean_reversion", int(reverting.hit_rate * 10**6)), ("arb.event_sum", None),
    }  # fmt: skip
    made = {e.signal.signal_id: e for e in new}
    assert [(rate.strategy_id, rate.graded_count) for rate in watcher.rates[-1]] == [
        ("stat.mean_reversion", reverting.graded_count)
    ]
    assert all(b"confidence" not in e.canonical_bytes() for e in made.values()), "a replay has no record to look at"
