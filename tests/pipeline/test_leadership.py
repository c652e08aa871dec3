"""The whole pipeline on a real database: one leader, its lease, its way out, and what it does when things break."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import pytest

from oddstream_server.application.ports import (
    BatchResult,
    CatalogPage,
    Decision,
    Fenced,
    Lease,
    QuarantinedRow,
    SettlementUpdate,
    TimeRange,
)
from oddstream_server.domain.errors import Unavailable
from oddstream_server.domain.market import MarketState, Settlement, SettlementState, Venue
from oddstream_server.domain.quote import BookLevel, FeedState, FeedStatus, OrderBook, Quote, Trade
from oddstream_server.domain.signal import DataOrigin, SignalEvent, SignalEventType, SignalState
from oddstream_server.pipeline.deciding.replay import load_journal, replay, replayed_events
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from oddstream_server.pipeline.disk import DETAIL
from oddstream_server.pipeline.leader import Pipeline, PipelineSettings
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.strategies.registry import ConfiguredStrategy, Registry
from tests.pipeline.conftest import ScriptedVenue, Stores, Watcher
from tests.strategies.worlds import World, a_world, bodies

FAST = PipelineSettings(
    lease_seconds=10.0, sweep_seconds=0.05, books_seconds=0.02, disk_seconds=0.02, venue_retry_seconds=0.02
)


def now_us() -> int:
    return time.time_ns() // 1_000


def strategies() -> list[ConfiguredStrategy]:
    registry = Registry()
    return [
        registry.configure("arb.event_sum"),
        registry.configure("stat.mean_reversion", {"minimum_rows": 8, "minimum_buckets": 3}),
    ]


def recent(world: World) -> World:
    """The same world with its last row now, so that receive times look like a live run's."""
    shift = now_us() - 5_000_000 - world.quotes[-1].receive_time_us
    quotes = tuple(replace(q, receive_time_us=q.receive_time_us + shift) for q in world.quotes)
    return replace(world, quotes=quotes)


class MemoryBooks:
    def __init__(self) -> None:
        self.published: dict[str, OrderBook] = {}
        self.away = False

    async def publish(self, books: Sequence[OrderBook]) -> None:
        if self.away:
            raise Unavailable("away")
        self.published |= {book.market_id: book for book in books}

    async def get(self, market_id: str) -> OrderBook | None:
        return self.published.get(market_id)


@asynccontextmanager
async def running(pipeline: Pipeline) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(pipeline.run())
    try:
        yield task
    finally:
        pipeline.stop()
        async with asyncio.timeout(20):
            await task


def a_pipeline(
    stores: Stores,
    venue: ScriptedVenue,
    watcher: Watcher,
    *,
    holder: str = "one",
    store: PostgresPipelineStore | None = None,
    settings: PipelineSettings = FAST,
    **more: object,
) -> Pipeline:
    return Pipeline(
        holder=holder,
        store=store or stores.store,
        catalog=stores.catalog,
        adapters=[venue],
        strategies=strategies(),
        clock=now_us,
        log=stores.log,
        observer=watcher,
        settings=settings,
        **more,  # type: ignore[arg-type]  # further arguments by name
    )


def a_venue(world: World) -> ScriptedVenue:
    return ScriptedVenue(Venue.KALSHI, [world.event], world.markets)


async def discovered(venue: ScriptedVenue, watcher: Watcher) -> None:
    await watcher.until(lambda: ("discover", False) in watcher.runs)
    assert sorted(venue.subscribed) == sorted(m.market_id for m in venue.markets)


async def assert_a_replay_agrees(stores: Stores, live: list[SignalEvent]) -> None:
    """The stored ticks give the live events byte for byte, and the log knows all of them."""
    journal = await load_journal(stores.store)
    replayed = replayed_events(stores.ticks, stores.catalog, journal, strategies(), TimeRange())
    again = [event async for events in replayed for event in events]
    assert bodies(again) == bodies(live)
    assert {event.signal.data_origin for event in again} == {DataOrigin.REPLAY}
    lease = await stores.store.acquire_lease("replayer", 60_000_000)
    assert lease is not None
    result = await replay(
        reader=stores.ticks,
        catalog=stores.catalog,
        store=stores.store,
        lease=lambda: lease,
        strategies=strategies(),
        span=TimeRange(),
    )
    assert (result.ticks, result.events, result.appended) == (await stores.ticks.live_head(), len(live), 0)


async def test_ticks_become_signals_and_a_replay_appends_nothing_new(stores: Stores, watcher: Watcher) -> None:
    world = recent(a_world(21))
    venue = a_venue(world)
    async with running(a_pipeline(stores, venue, watcher)):
        await discovered(venue, watcher)
        venue.say(*world.quotes)
        await watcher.until(lambda: watcher.quotes == len(world.quotes))
    live = [e for e in await stores.logged() if e.type.from_kernel]
    assert len(live) > 20
    assert {e.signal.kind for e in live} == {"arb.event_sum", "stat.mean_reversion"}
    await assert_a_replay_agrees(stores, live)


async def test_the_same_ticks_twice_are_stored_once_and_say_nothing_twice(stores: Stores, watcher: Watcher) -> None:
    world = recent(a_world(22, instants=120))
    venue = a_venue(world)
    async with running(a_pipeline(stores, venue, watcher)):
        await discovered(venue, watcher)
        venue.say(*world.quotes)
        await watcher.until(lambda: watcher.quotes == len(world.quotes))
        before = [e for e in await stores.logged() if e.type.from_kernel]
        venue.say(*world.quotes)
        await watcher.until(lambda: sum(b[2] for b in watcher.batches) == len(world.quotes))
    assert [e for e in await stores.logged() if e.type.from_kernel] == before
    assert await stores.ticks.live_head() == len(world.quotes)


async def test_a_replay_sees_facts_as_they_were_known_when_the_ticks_came(stores: Stores, watcher: Watcher) -> None:
    world = recent(a_world(35))
    venue = a_venue(world)
    thirds = [world.quotes[i * len(world.quotes) // 4 : (i + 1) * len(world.quotes) // 4] for i in range(4)]
    paused = replace(world.markets[1], state=MarketState.PAUSED)
    dear = replace(world.markets[0], fee_schedules=(replace(world.markets[0].fee_schedules[0], taker_rate_ppm=1),))
    changes = [[paused], [world.markets[1], dear], []]
    stored = 0

    def holds(quotes: int) -> bool:
        return watcher.quotes == quotes

    async with running(a_pipeline(stores, venue, watcher)):
        await discovered(venue, watcher)
        for quotes, change in zip(thirds, [*changes, []], strict=True):
            stored += len(quotes)
            venue.say(*quotes)
            await watcher.until(partial(holds, stored))
            if change:
                venue.say(CatalogPage(Venue.KALSHI, (), tuple(change)))
    live = [e for e in await stores.logged() if e.type.from_kernel]
    assert len(live) > 20
    await assert_a_replay_agrees(stores, live)


class Faulty(PostgresPipelineStore):
    """Loses the answer of some commits and fails other transactions before they commit."""

    faults: int = 0

    async def store_batch(
        self,
        lease: Lease,
        ticks: Sequence[Quote | Trade],
        decide: Callable[[Sequence[Quote | Trade]], Decision],
        controls_revision: int | None = None,
    ) -> BatchResult:
        self.faults += 1
        if self.faults % 3 == 1:

            def broken(stored: Sequence[Quote | Trade]) -> Decision:
                decide(stored)
                raise Unavailable("the connection broke before the commit")

            return await super().store_batch(lease, ticks, broken, controls_revision)
        result = await super().store_batch(lease, ticks, decide, controls_revision)
        if self.faults % 3 == 2:
            raise Unavailable("the answer of the commit was lost")
        return result


async def test_failed_and_doubtful_commits_change_no_signal(stores: Stores, watcher: Watcher) -> None:
    world = recent(a_world(23))
    venue = a_venue(world)
    store = Faulty(stores.database, stores.ticks)
    async with running(a_pipeline(stores, venue, watcher, store=store, settings=replace(FAST, batch_ticks=40))):
        await discovered(venue, watcher)
        venue.say(*world.quotes)
        await watcher.until(lambda: sum(b[0] + b[2] for b in watcher.batches) == len(world.quotes), 60)
    assert watcher.retries > 10
    assert await stores.ticks.live_head() == len(world.quotes)
    live = [e for e in await stores.logged() if e.type.from_kernel]
    assert len(live) > 20
    await assert_a_replay_agrees(stores, live)


async def test_slow_strategies_before_a_backlog_do_not_cost_the_lease(
    stores: Stores, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = recent(a_world(29, instants=400))
    lease_seconds = 1.5
    decide, seconds_a_tick = StrategyRunner.decide, 3 * lease_seconds / len(world.quotes)

    def slowly(runner: StrategyRunner, ticks: Sequence[Quote | Trade], now_us: int | None = None) -> Decision:
        time.sleep(seconds_a_tick * len(ticks))  # computing holds the loop, and with it the lease's renewal
        return decide(runner, ticks, now_us)

    monkeypatch.setattr(StrategyRunner, "decide", slowly)
    venue = a_venue(world)
    pipeline = a_pipeline(stores, venue, watcher, settings=replace(FAST, lease_seconds=lease_seconds))
    async with running(pipeline):
        await discovered(venue, watcher)
        for quote in world.quotes:
            await pipeline._queue.put(quote)
        await watcher.until(lambda: watcher.quotes == len(world.quotes))
    assert (watcher.lost_leases, watcher.fences) == (0, 0)
    assert len(watcher.epochs) == 2, "one leadership, and its end"


async def test_a_stop_stores_what_was_pushed_and_gives_the_lease_back(stores: Stores, watcher: Watcher) -> None:
    world = recent(a_world(24, instants=100))
    venue = a_venue(world)
    pipeline = a_pipeline(stores, venue, watcher)
    async with running(pipeline):
        await discovered(venue, watcher)
        for quote in world.quotes:
            await pipeline._queue.put(quote)  # what an adapter had pushed when the stop came
    assert await stores.ticks.live_head() == len(world.quotes)
    assert await stores.store.acquire_lease("next", 1_000_000) is not None


async def test_a_cancelled_run_drains_as_well(stores: Stores, watcher: Watcher) -> None:
    world = recent(a_world(25, instants=100))
    venue = a_venue(world)
    pipeline = a_pipeline(stores, venue, watcher)
    task = asyncio.create_task(pipeline.run())
    await discovered(venue, watcher)
    for quote in world.quotes:
        await pipeline._queue.put(quote)  # what an adapter had pushed when the cancellation came
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await stores.ticks.live_head() == len(world.quotes)
    assert await stores.store.acquire_lease("next", 1_000_000) is not None


async def test_a_second_candidate_waits_and_takes_over_when_the_first_one_stops(
    stores: Stores, watcher: Watcher
) -> None:
    world = recent(a_world(26))
    half = len(world.quotes) // 2
    first, second, late = a_venue(world), a_venue(world), Watcher()
    leader = a_pipeline(stores, first, watcher)
    async with running(leader):
        await discovered(first, watcher)
        async with running(a_pipeline(stores, second, late, holder="two")):
            first.say(*world.quotes[:half])
            await watcher.until(lambda: watcher.quotes == half)
            assert late.epochs == []
            leader.stop()
            await late.until(lambda: late.epochs != [])
            await discovered(second, late)
            second.say(*world.quotes[half - 5 :])
            await late.until(lambda: late.quotes == len(world.quotes) - half)
    live = [e for e in await stores.logged() if e.type.from_kernel]
    assert len(live) > 20
    await assert_a_replay_agrees(stores, live)


async def test_a_fenced_leader_stops_writing_drops_its_state_and_contends_again(
    stores: Stores, watcher: Watcher
) -> None:
    world = recent(a_world(27, instants=60))
    venue = a_venue(world)
    async with running(a_pipeline(stores, venue, watcher)):
        await discovered(venue, watcher)
        # Another holder takes over although the lease still runs, as after a long pause of this process.
        async with stores.database.transaction() as transaction:
            await transaction.driver.execute("UPDATE leases SET expire_time = timestamptz 'epoch', holder = ''")
        other = await stores.store.acquire_lease("other", 300_000)
        assert other is not None
        venue.say(*world.quotes)
        await watcher.until(lambda: watcher.fences == 1)
        assert watcher.quotes == 0
        await watcher.until(lambda: len([e for e in watcher.epochs if e is not None]) == 2)
        with pytest.raises(Fenced):
            await stores.store.renew_lease(other, 1_000_000)
        venue.say(*world.quotes)
        await watcher.until(lambda: watcher.quotes == len(world.quotes))


async def test_opportunities_expire_by_the_sweep_and_only_once(stores: Stores, watcher: Watcher) -> None:
    world = recent(a_world(28, instants=200))
    venue = a_venue(world)
    pipeline = a_pipeline(stores, venue, watcher)
    pipeline._strategies = tuple(  # short lives, so that the test needs no wait
        Registry().configure(s.kind.kind, {"time_to_live_us": 1_000_000, **loose})
        for s, loose in zip(strategies(), ({}, {"minimum_rows": 8, "minimum_buckets": 3}), strict=True)
    )
    async with running(pipeline):
        await discovered(venue, watcher)
        venue.say(*world.quotes)
        await watcher.until(lambda: watcher.quotes == len(world.quotes))
        events = await stores.logged()
        created = {e.signal.opportunity_id for e in events if e.type is SignalEventType.CREATED}
        ended = {
            e.signal.opportunity_id for e in events if e.type in (SignalEventType.WITHDRAWN, SignalEventType.SUPERSEDED)
        }
        assert created - ended
        await watcher.until(lambda: sum(e for e, _ in watcher.ended) == len(created - ended))
    events = await stores.logged()
    expired = [e for e in events if e.type is SignalEventType.EXPIRED]
    assert {e.signal.opportunity_id for e in expired} == created - ended
    assert len(expired) == len(created - ended)
    assert await stores.store.active_signals() == []


async def test_a_settlement_grades_every_signal_of_its_market_and_an_amendment_again(
    stores: Stores, watcher: Watcher
) -> None:
    world = recent(a_world(29))
    venue = a_venue(world)

    def settled(yes: int, state: SettlementState) -> list[SettlementUpdate]:
        return [
            SettlementUpdate(m.market_id, MarketState.SETTLED, Settlement(state, yes if i == 0 else 1_000_000 - yes, 1))
            for i, m in enumerate(world.markets)
        ]

    async with running(a_pipeline(stores, venue, watcher)):
        await discovered(venue, watcher)
        venue.say(*world.quotes)
        await watcher.until(lambda: watcher.quotes == len(world.quotes))
        signals = {
            e.signal.signal_id
            for e in await stores.logged()
            if e.type in (SignalEventType.CREATED, SignalEventType.REVISED)
        }
        venue.say(*settled(1_000_000, SettlementState.FINAL))
        await watcher.until(lambda: sum(g for _, g in watcher.ended) == len(signals))
        venue.say(*settled(0, SettlementState.AMENDED))
        await watcher.until(lambda: sum(g for _, g in watcher.ended) > len(signals))
    grades = [e for e in await stores.logged() if e.type is SignalEventType.GRADED]
    first = {e.signal.signal_id: e.grade for e in grades if e.grade is not None and e.grade.revision == 1}
    again = {e.signal.signal_id: e.grade for e in grades if e.grade is not None and e.grade.revision == 2}
    assert set(first) == signals
    for event in {e.signal.signal_id: e for e in grades}.values():  # the last grade of each
        stored = await stores.log.get_signal(event.signal.signal_id)
        assert stored is not None
        assert event.graded_state is stored.state or event.graded_state is SignalState.ACTIVE
    assert {e.graded_state for e in grades} >= {SignalState.SUPERSEDED, SignalState.WITHDRAWN}
    assert again
    for signal_id, grade in again.items():
        assert grade.realized_edge_micros != first[signal_id].realized_edge_micros
    up = next(e for e in grades if e.signal.kind == "stat.mean_reversion" and e.signal.legs[0].market_id == "kalshi:M0")
    assert up.grade is not None
    leg = up.signal.legs[0]
    payout = 1_000_000 if leg.outcome_index == 0 else 0
    fee = -(-7 * leg.limit_price_micros * (1_000_000 - leg.limit_price_micros) // (10**8 * 100)) * 100
    assert up.grade.realized_edge_micros == payout - leg.limit_price_micros - fee


async def test_an_almost_full_disk_stops_ingest_says_so_and_goes_on_by_itself(stores: Stores, watcher: Watcher) -> None:
    world = recent(a_world(30, instants=40))
    venue = a_venue(world)
    free = [500_000]
    async with running(a_pipeline(stores, venue, watcher, free_disk_ppm=lambda: free[0])):
        await discovered(venue, watcher)
        venue.say(FeedStatus(Venue.KALSHI, FeedState.LIVE, now_us(), 1, now_us(), "connected"))
        await watcher.until(lambda: any(s.state is FeedState.LIVE for s in watcher.statuses))
        free[0] = 49_999
        await watcher.until(lambda: watcher.pauses == [True])
        venue.say(*world.quotes)
        await watcher.until(lambda: watcher.statuses[-1].state is FeedState.DOWN)
        (status,) = await stores.log.feed_statuses()
        assert (status.state, status.detail) == (FeedState.DOWN, DETAIL)
        assert watcher.quotes == 0
        free[0] = 60_000
        await watcher.until(lambda: watcher.quotes == len(world.quotes))
        assert watcher.pauses == [True, False]
    (status,) = await stores.log.feed_statuses()
    assert status.state is FeedState.LIVE


async def test_books_are_published_as_they_are_last_and_again_after_the_cache_was_away(
    stores: Stores, watcher: Watcher
) -> None:
    world = recent(a_world(31, instants=20))
    venue, cache = a_venue(world), MemoryBooks()
    cache.away = True
    market = world.markets[0]
    venue.books[market.market_id] = OrderBook(
        market.market_id, (BookLevel(300_000, 5),), (BookLevel(320_000, 7),), 1, now_us()
    )
    async with running(a_pipeline(stores, venue, watcher, books=cache)):
        await discovered(venue, watcher)
        venue.say(*world.quotes)
        await watcher.until(lambda: any(where == "books" for where, _ in watcher.failures))
        cache.away = False
        await watcher.until(lambda: watcher.books > 0)
    assert cache.published == venue.books


async def test_books_that_changed_are_recorded_for_backtests_and_by_the_leader_alone(
    stores: Stores, watcher: Watcher
) -> None:
    world = recent(a_world(31, instants=20))
    venue = a_venue(world)
    market, crossed = world.markets[0].market_id, world.markets[1].market_id
    levels = tuple(BookLevel(300_000 - 10_000 * i, 5) for i in range(4))
    venue.books[market] = OrderBook(market, levels, (BookLevel(320_000, 7),), 3, now_us())
    venue.books[crossed] = OrderBook(crossed, (BookLevel(330_000, 5),), (BookLevel(320_000, 7),), 1, now_us())
    pipeline = a_pipeline(stores, venue, watcher)
    pipeline._settings = replace(pipeline._settings, depth_seconds=0.05, depth_levels=3)
    async with running(pipeline):
        await discovered(venue, watcher)
        venue.say(*world.quotes)
        async with asyncio.timeout(20):
            while not (rows := await recorded_books(stores)):
                await asyncio.sleep(0.05)
    assert rows == [(market, 3, [300_000, 290_000, 280_000], [320_000])]
    with pytest.raises(Fenced):
        await stores.store.record_books(Lease(1_000_000, "nobody", 0), list(venue.books.values()), 3)


async def recorded_books(stores: Stores) -> list[tuple[Any, ...]]:
    async with stores.database.reading() as transaction:
        rows = await transaction.driver.fetch(
            "SELECT market_id, epoch, bid_prices_micros, ask_prices_micros FROM books_live JOIN market_keys "
            "USING (market_key)"
        )
    return [tuple(row) for row in rows]


async def test_a_quiet_markets_book_is_published_when_it_is_followed_and_again_without_a_tick(
    stores: Stores, watcher: Watcher
) -> None:
    world = recent(a_world(35, instants=2))
    venue, cache = a_venue(world), MemoryBooks()
    for market in world.markets:
        venue.books[market.market_id] = OrderBook(market.market_id, (BookLevel(300_000, 5),), (), 1, now_us())
    pipeline = a_pipeline(stores, venue, watcher, books=cache)
    pipeline._settings = replace(pipeline._settings, books_again_seconds=0.05)
    async with running(pipeline):
        await discovered(venue, watcher)
        await watcher.until(lambda: cache.published == venue.books)
        cache.published.clear()
        await watcher.until(lambda: cache.published == venue.books)
    assert watcher.quotes == 0


async def test_a_market_that_the_feed_lists_is_followed_without_another_pass(stores: Stores, watcher: Watcher) -> None:
    world = recent(a_world(36, instants=2))
    venue = a_venue(world)
    pipeline = a_pipeline(stores, venue, watcher)
    pipeline._settings = replace(pipeline._settings, resubscribe_seconds=0.01)
    async with running(pipeline):
        await discovered(venue, watcher)
        passes = venue.discoveries
        listed = replace(world.markets[0], market_id="kalshi:NEXT", venue_market_id="NEXT", event_id=None)
        venue.say(CatalogPage(Venue.KALSHI, (), (listed,)))
        async with asyncio.timeout(20):
            while "kalshi:NEXT" not in venue.subscribed:
                await asyncio.sleep(0.01)
        assert venue.discoveries == passes


def until_something_is_open(world: World) -> list[Quote]:
    """The world's first quotes, up to an instant that opens an opportunity."""
    runner, seen = StrategyRunner(strategies()), list[Quote]()
    runner.offer_catalog([world.event], world.markets)
    for _, instant in groupby(world.quotes, key=lambda q: q.receive_time_us):
        seen += (quotes := list(instant))
        events = runner.decide(quotes).events
        runner.commit()
        if len(seen) > 100 and events and events[-1].type is SignalEventType.CREATED:
            break
    return seen


async def test_a_checkpoint_of_another_layout_is_dropped_and_its_signal_withdrawn_instead_of_a_crash(
    stores: Stores, watcher: Watcher
) -> None:
    world = recent(a_world(21))
    quotes = until_something_is_open(world)
    venue = a_venue(world)
    first = a_pipeline(stores, venue, watcher)
    first._settings = replace(first._settings, sweep_seconds=3_600.0)
    async with running(first):
        await discovered(venue, watcher)
        venue.say(*quotes)
        await watcher.until(lambda: watcher.quotes == len(quotes))
    active = [e for e in await stores.store.active_signals() if e.signal.expire_time_us > quotes[-1].receive_time_us]
    assert active
    async with stores.database.transaction() as transaction:
        await transaction.driver.execute(
            "UPDATE strategy_states SET kernel = kernel || '\\x00'::bytea WHERE strategy_id NOT LIKE 'runner.%'"
        )
        await transaction.driver.execute(
            "UPDATE strategy_states SET kernel = set_byte(kernel, 0, (get_byte(kernel, 0) + 1) % 256) "
            "WHERE strategy_id NOT LIKE 'runner.%'"
        )
    second = a_pipeline(stores, venue, watcher)
    second._settings = replace(second._settings, sweep_seconds=3_600.0)
    async with running(second):
        await watcher.until(lambda: len(watcher.dropped) > 0)
        last = quotes[-1]
        venue.say(replace(last, receive_time_us=last.receive_time_us + 1, source_key=last.source_key + 10_000))
        await watcher.until(lambda: watcher.quotes == len(quotes) + 1)
    ends = [e for e in await stores.logged() if e.reason == "STRATEGY_CHANGED"]
    assert {e.signal.opportunity_id for e in ends} == {e.signal.opportunity_id for e in active}


async def test_checkpoints_of_markets_that_are_over_are_pruned_and_those_of_others_stay(
    stores: Stores, watcher: Watcher
) -> None:
    world = recent(a_world(38, instants=40))
    venue = a_venue(world)
    pipeline = a_pipeline(stores, venue, watcher)
    pipeline._settings = replace(pipeline._settings, prune_seconds=0.05, keep_states_days=0)
    over = world.markets[0]

    async def subjects() -> set[str]:
        async with stores.database.reading() as transaction:
            rows = await transaction.driver.fetch("SELECT DISTINCT subject_id FROM strategy_states")
        return {row[0] for row in rows}

    async with running(pipeline):
        await discovered(venue, watcher)
        venue.say(*world.quotes)
        await watcher.until(lambda: watcher.quotes == len(world.quotes))
        assert over.market_id in await subjects()
        venue.say(SettlementUpdate(over.market_id, MarketState.SETTLED, Settlement(SettlementState.FINAL, 0, 1)))
        async with asyncio.timeout(20):
            while over.market_id in await subjects():
                await asyncio.sleep(0.02)
    assert {m.market_id for m in world.markets[1:]} <= await subjects()


async def test_an_adapter_that_breaks_is_started_again_and_says_down_meanwhile(
    stores: Stores, watcher: Watcher
) -> None:
    world = recent(a_world(32, instants=20))
    venue = a_venue(world)
    async with running(a_pipeline(stores, venue, watcher)):
        await discovered(venue, watcher)
        venue.say(RuntimeError("a bug"))
        await watcher.until(lambda: venue.follows == 2)
        venue.say(*world.quotes)
        await watcher.until(lambda: watcher.quotes == len(world.quotes))
    assert [w for w, e in watcher.failures if isinstance(e, RuntimeError)] == ["venue kalshi"]
    assert any(s.state is FeedState.DOWN for s in watcher.statuses)


async def test_a_failed_discovery_is_a_failed_run_without_the_exceptions_text(stores: Stores, watcher: Watcher) -> None:
    venue = a_venue(a_world(33, instants=2))
    venue.discovery_error = RuntimeError("password=hunter2")
    async with running(a_pipeline(stores, venue, watcher)):
        await watcher.until(lambda: ("discover", True) in watcher.runs)
    async with stores.database.reading() as transaction:
        row = await transaction.driver.fetchrow("SELECT state, stage, error FROM pipeline_runs")
    assert row is not None
    assert (row["state"], row["stage"]) == ("failed", "discover")
    assert row["error"] == "the pass stopped with RuntimeError; the log has the details"


async def test_poison_rows_are_kept_and_counted(stores: Stores, watcher: Watcher) -> None:
    venue = a_venue(a_world(34, instants=2))
    async with running(a_pipeline(stores, venue, watcher)):
        await discovered(venue, watcher)
        venue.say(QuarantinedRow(Venue.KALSHI, "GET /markets", "price_out_of_range", "the bid is 1.2", b"{}", now_us()))
        await watcher.until(lambda: watcher.reasons == ["price_out_of_range"])
    async with stores.database.reading() as transaction:
        assert await transaction.driver.fetchval("SELECT count(*) FROM quarantine") == 1
