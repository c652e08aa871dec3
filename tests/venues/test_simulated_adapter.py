"""The simulated venue behind the venue port: pace, back-pressure, warm-up, epochs, subscriptions."""

import asyncio
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from oddstream_server.application.ports import CatalogPage, VenueAdapter, VenueItem
from oddstream_server.domain.fees import schedule_at
from oddstream_server.domain.market import Market, MarketState
from oddstream_server.domain.money import MICROS
from oddstream_server.domain.quote import Quote, Trade
from oddstream_server.strategies.kinds.mean_reversion import MEAN_REVERSION
from oddstream_server.venues.simulated import Feed, SimulatedConfig, SimulatedVenue, World
from tests.emulator.collecting import CollectingSink, following

START_US = 1_795_000_500_000_000
AT_ONCE = SimulatedConfig(seed=3, start_time_us=START_US, speed=None, gap_interval_us=None)


def now_us() -> int:
    return time.time_ns() // 1_000


class SlowSink:
    """Takes one item each time it is allowed to, and counts what it was offered."""

    def __init__(self) -> None:
        self.taken: list[VenueItem] = []
        self.waiting = 0
        self.allowed = asyncio.Semaphore(0)

    async def put(self, item: VenueItem) -> None:
        self.waiting += 1
        await self.allowed.acquire()
        self.waiting -= 1
        self.taken.append(item)


def test_it_fulfils_the_venue_port() -> None:
    venue: VenueAdapter = SimulatedVenue(AT_ONCE, now_us)
    assert venue.breaker_state() == "closed"


async def test_discovery_pushes_the_catalogue() -> None:
    venue, sink = SimulatedVenue(AT_ONCE, now_us), CollectingSink()
    assert await venue.reachable()
    report = await venue.discover(sink)
    assert report.events == len(sink.events) > 20
    assert report.markets == len(sink.markets) > 60
    assert {m.event_id for m in sink.markets.values()} == set(sink.events)


async def test_following_at_once_pushes_what_the_feed_has_and_stops_at_the_end() -> None:
    span_us = 20_000_000
    venue, sink = SimulatedVenue(replace(AT_ONCE, run_for_us=span_us), now_us), CollectingSink()
    reference = Feed(World(replace(AT_ONCE, run_for_us=span_us), START_US), first_epoch=1)
    expected = [i for i in reference.advance(START_US + span_us) if isinstance(i, Quote | Trade)]
    async with following(venue, sink):
        await sink.until(lambda: len(sink.quotes) + len(sink.trades) >= len(expected), "the whole span came")
    got = [replace(i, epoch=1) if isinstance(i, Quote) else i for i in sink.items if isinstance(i, Quote | Trade)]
    assert got == expected


async def test_in_real_time_the_world_keeps_pace_with_the_clock() -> None:
    clock_us = START_US
    venue = SimulatedVenue(replace(AT_ONCE, speed=1.0), lambda: clock_us)
    sink = CollectingSink()
    async with following(venue, sink):
        await sink.until(lambda: bool(sink.quotes), "the first books came")
        for _ in range(4):
            clock_us += 1_000_000
            before = clock_us
            await sink.until(
                lambda at=before: sink.newest_tick_us > at - 200_000,  # type: ignore[misc]  # mypy can't infer a lambda's default
                "the world follows the clock",
            )
            assert sink.quotes[-1].receive_time_us <= clock_us + AT_ONCE.feed_latency_us


async def test_speed_makes_the_world_run_faster_than_the_clock() -> None:
    clock_us = START_US
    venue = SimulatedVenue(replace(AT_ONCE, speed=60.0), lambda: clock_us)
    sink = CollectingSink()
    async with following(venue, sink):
        await sink.until(lambda: bool(sink.quotes), "the first books came")
        clock_us += 1_000_000
        await sink.until(lambda: sink.newest_tick_us > START_US + 59_000_000, "a second brought a minute of ticks")


async def test_a_slow_sink_slows_the_world_and_memory_does_not_grow() -> None:
    venue, sink = SimulatedVenue(replace(AT_ONCE, activity_ppm=50_000_000), now_us), SlowSink()
    task = asyncio.create_task(venue.follow(sink))

    async def take(count: int) -> None:
        target = len(sink.taken) + count
        for _ in range(count):
            sink.allowed.release()
        while len(sink.taken) < target:
            await asyncio.sleep(0)

    try:
        await take(1_500)
        assert sink.waiting == 1, "one item waits, no more are queued"
        sink.taken.clear()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(5):
            await take(1_500)
            sink.taken.clear()
        after, _ = tracemalloc.get_traced_memory()
        assert after - before < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_default_begins_with_a_warm_up_that_ends_at_the_present() -> None:
    clock_us = START_US
    venue, sink = SimulatedVenue(SimulatedConfig(seed=4), lambda: clock_us), CollectingSink()
    async with following(venue, sink):
        await sink.until(lambda: sink.newest_tick_us > clock_us - 300_000, "the past was pushed")
    assert sink.quotes[0].receive_time_us < clock_us - 700_000_000
    assert sink.quotes[-1].receive_time_us <= clock_us + 2_000


async def test_a_warm_up_begins_behind_what_an_earlier_session_left() -> None:
    clock_us = START_US
    left_us = clock_us - 5_000_000
    venue = SimulatedVenue(SimulatedConfig(seed=4), lambda: clock_us, not_before_us=left_us)
    sink = CollectingSink()
    async with following(venue, sink):
        await sink.until(lambda: sink.newest_tick_us > clock_us - 300_000, "the past was pushed")
    assert min(i.receive_time_us for i in sink.items if isinstance(i, Quote | Trade)) > left_us


async def test_a_restart_has_another_session_and_a_higher_epoch() -> None:
    seen: list[Quote] = []
    for start_us in (START_US, START_US + 3_000_000):
        venue, sink = SimulatedVenue(SimulatedConfig(seed=4, warm_up_us=0), lambda at=start_us: at), CollectingSink()  # type: ignore[misc]  # mypy can't infer a lambda's default
        async with following(venue, sink):
            await sink.until(lambda s=sink: bool(s.quotes), "books came")  # type: ignore[misc]  # as above
        seen.append(sink.quotes[0])
    assert seen[0].source != seen[1].source
    assert seen[0].epoch < seen[1].epoch


async def test_a_subscription_takes_effect_while_following() -> None:
    venue, sink = SimulatedVenue(AT_ONCE, now_us), CollectingSink()
    await venue.discover(sink)
    markets = [m for m in sink.markets.values() if m.state is MarketState.OPEN]
    await venue.subscribe(markets[:1])
    async with following(venue, sink):
        await sink.until(lambda: bool(sink.quotes), "the one market's quotes came")
        assert {q.market_id for q in sink.quotes} == {markets[0].market_id}
        await venue.subscribe(markets)
        await sink.until(lambda: {q.market_id for q in sink.quotes} == {m.market_id for m in markets}, "all came")
        book = venue.order_book(markets[0].market_id)
        assert book is not None
        assert not book.crossed


async def test_a_market_that_settled_while_the_server_was_down_is_told_when_it_is_subscribed() -> None:
    first, sink = SimulatedVenue(AT_ONCE, now_us), CollectingSink()
    await first.discover(sink)
    left_open = [m for m in sink.markets.values() if m.state is MarketState.OPEN and "SIMPAIR" in m.market_id]
    later_us = START_US + 86_400_000_000
    second, sink = SimulatedVenue(replace(AT_ONCE, start_time_us=later_us), now_us), CollectingSink()
    await second.subscribe(left_open)
    async with following(second, sink):
        await sink.until(lambda: {m.market_id for m in left_open} <= sink.settlements.keys(), "the results came")
    assert {sink.settlements[m.market_id].state for m in left_open} == {MarketState.SETTLED}


async def test_following_ends_when_the_venue_is_closed() -> None:
    venue, sink = SimulatedVenue(replace(AT_ONCE, run_for_us=1_000_000), now_us), CollectingSink()
    task = asyncio.create_task(venue.follow(sink))
    await sink.until(lambda: bool(sink.quotes), "quotes came")
    await venue.close()
    async with asyncio.timeout(5):
        await task


# --- signals within thirty seconds ------------------------------------------------------------------------------------


@pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_within_thirty_seconds_of_a_default_start_a_mean_reversion_opens(seed: int) -> None:
    config = SimulatedConfig(seed=seed)
    start_us = START_US - config.warm_up_us
    feed = Feed(World(config, start_us))
    thin = {
        m.market_id: m
        for page in feed.pages()
        for m in page.markets
        if m.state is MarketState.OPEN and m.market_id.startswith("simulated:SIMTHIN")
    }
    assert thin
    feed.subscribe(thin.values())
    states = {market_id: np.zeros(1, MEAN_REVERSION.state_dtype)[0] for market_id in thin}
    params = {
        spec: getattr(MEAN_REVERSION.params_type(), spec) for spec in MEAN_REVERSION.params_type.__dataclass_fields__
    }
    step = MEAN_REVERSION.step
    assert step is not None
    for item in feed.advance(START_US + 30_000_000):
        if isinstance(item, Quote) and item.market_id in thin:
            out: dict[str, int] = {}
            step(states[item.market_id], params, _row(item, thin[item.market_id]), out)
            if item.receive_time_us > START_US and out.get("entry") == 1:
                return
    raise AssertionError("no market left its mean")


def _row(quote: Quote, market: Market) -> dict[str, int]:
    schedule = schedule_at(market.fee_schedules, quote.receive_time_us)
    assert schedule is not None
    bid, ask = quote.bid_price_micros, quote.ask_price_micros
    assert bid is not None
    assert ask is not None
    return {
        "receive_time_us": quote.receive_time_us,
        "bid_price_micros": bid,
        "ask_price_micros": ask,
        "bid_fee_micros": schedule.fill_fee_micros(bid, MICROS),
        "ask_fee_micros": schedule.fill_fee_micros(ask, MICROS),
        "payout_micros": market.payout_micros,
    }


# --- volume -----------------------------------------------------------------------------------------------------------


@pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines
def test_ten_times_the_activity_is_ten_times_the_ticks() -> None:
    def ticks(activity_ppm: int) -> int:
        config = SimulatedConfig(seed=2, activity_ppm=activity_ppm, gap_interval_us=None)
        return sum(isinstance(i, Quote) for i in Feed(World(config, START_US)).advance(START_US + 20_000_000))

    once, tenfold = ticks(MICROS), ticks(10 * MICROS)
    assert 6 * once < tenfold < 14 * once


def test_many_events_make_a_large_catalogue_in_pages() -> None:
    feed = Feed(World(SimulatedConfig(seed=2, events=400, gap_interval_us=None), START_US))
    pages = feed.pages()
    assert all(isinstance(p, CatalogPage) and len(p.events) <= 100 for p in pages)
    opened = [m for p in pages for m in p.markets if m.state is MarketState.OPEN]
    assert len({m.event_id for m in opened}) == 400
    assert len({m.market_id for p in pages for m in p.markets}) == sum(len(p.markets) for p in pages)
