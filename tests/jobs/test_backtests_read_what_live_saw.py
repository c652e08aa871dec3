"""A recorded stretch through the service's own reading gives the signals that the live run gave, for every kind."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from oddstream_server.backtesting.config import BacktestConfig, Sizing
from oddstream_server.backtesting.passes.intents import Terms
from oddstream_server.backtesting.records.columns import Shard
from oddstream_server.backtesting.records.universe import Universe
from oddstream_server.backtesting.shards import find_intents
from oddstream_server.domain.backtest import BacktestSpec, StrategySelection
from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.fitted import FittedObject
from oddstream_server.domain.market import Event, LinkState, Market, MarketState, PriceRange
from oddstream_server.domain.quote import BookLevel, OrderBook, Quote, Trade
from oddstream_server.domain.signal import SignalEvent, SignalEventType
from oddstream_server.jobs.reading import FrozenMarkets, RunData, find_data, read_shard
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from oddstream_server.storage.backtests.archive import DAY_US, Archive
from oddstream_server.storage.backtests.recorded import RecordedRows
from oddstream_server.storage.database import Database
from oddstream_server.storage.fitted import FittedStore
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.strategies.registry import ConfiguredStrategy, Registry
from oddstream_server.venues.simulated.config import SimulatedConfig
from oddstream_server.venues.simulated.feed import Feed
from oddstream_server.venues.simulated.world import World as SimulatedWorld
from tests.strategies.worlds import LOOSE, START_US, World, a_quote, a_world, a_world_for, entry_of, with_a_link

pytestmark = pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines

KINDS = [kind.kind for kind in Registry()]
HOUR_US = 3_600_000_000


@dataclass
class Recorder:
    """Records as the leader does: ticks, what the runner makes of them, and its checkpoints, in one transaction."""

    database: Database
    root: Path

    async def facts(self, markets: Sequence[Market], events: Sequence[Event], at_us: int) -> None:
        await CatalogStore(self.database).upsert(list(events), list(markets), at_us)

    async def live(self, runner: StrategyRunner, ticks: Sequence[Quote | Trade]) -> list[SignalEvent]:
        store = PostgresPipelineStore(self.database)
        lease = await store.acquire_lease("test", 60_000_000)
        assert lease is not None
        found: list[SignalEvent] = []

        def decide(stored: Sequence[Quote | Trade]) -> Any:
            decision = runner.decide(stored)
            found.extend(decision.events)
            return replace(decision, events=())

        await store.store_batch(lease, ticks, decide)
        runner.commit()
        return found

    async def books(self, books: Sequence[OrderBook], levels: int = 10) -> None:
        store = PostgresPipelineStore(self.database)
        lease = await store.acquire_lease("test", 60_000_000)
        assert lease is not None
        await store.record_books(lease, books, levels)

    @property
    def data(self) -> RecordedRows:
        return RecordedRows(self.database, self.root)

    async def read(self, spec: BacktestSpec, warm_up_us: int = 0) -> tuple[RunData, list[Shard]]:
        run = await find_data(self.data, spec, warm_up_us, 10_000_000)
        return run, [await read_shard(self.data, run, shard) for shard in run.shards]


@pytest.fixture
async def recorder(database_url: str, tmp_path: Path) -> AsyncIterator[Recorder]:
    database = Database(database_url)
    yield Recorder(database, tmp_path)
    await database.close()


def configured(kind: str) -> ConfiguredStrategy:
    return Registry().configure(kind, LOOSE.get(kind, {}))


async def keep_fitted(recorder: Recorder, objects: Sequence[FittedObject]) -> None:
    for held in objects:
        await FittedStore(recorder.database).add(held.name, partial(_again, held))


def _again(held: FittedObject, version: int) -> FittedObject:
    return replace(held, version=version)


async def recorded(recorder: Recorder, world: World, strategies: Sequence[ConfiguredStrategy]) -> list[SignalEvent]:
    """A world lived through and recorded, with what reviewers and fits decided before it."""
    await recorder.facts(world.markets, [world.event], START_US - 1)
    for link in world.links:
        await CatalogStore(recorder.database).save_link(replace(link, review_time_us=START_US - 1))
    await keep_fitted(recorder, world.fitted)
    runner = StrategyRunner(strategies)
    runner.offer_catalog([world.event], world.markets, world.links)
    runner.offer_fitted(world.fitted)
    return await recorder.live(runner, world.ticks)


def spec_of(kinds: Sequence[str], end_us: int, *, simulated: bool = False, start_us: int = START_US) -> BacktestSpec:
    selections = tuple(StrategySelection(kind) for kind in kinds)
    return BacktestSpec(selections, start_us, end_us, 1_000_000_000, simulated=simulated)


def config_of(strategies: Sequence[ConfiguredStrategy], spec: BacktestSpec) -> BacktestConfig:
    return BacktestConfig(tuple(strategies), spec.start_us, spec.end_us, 1_000_000_000, sizing=Sizing(stake_micros=1))


Entry = tuple[object, ...]


def said(events: Sequence[SignalEvent]) -> list[Entry]:
    created = (e for e in events if e.type is SignalEventType.CREATED)
    return sorted((e.signal.kind, *entry_of(e, leg)) for e in created for leg in e.signal.legs)


def found(strategies: Sequence[ConfiguredStrategy], run: RunData, shards: Sequence[Shard], spec: BacktestSpec) -> Any:
    config, universe = config_of(strategies, spec), run.universe
    rows: list[Entry] = []
    for shard in shards:
        intents, _ = find_intents(config, Terms(universe), shard)
        rows += [
            (
                config.strategies[int(i["strategy"])].kind.kind,
                int(i["time_us"]),
                universe.market_ids[i["market"]],
                int(i["outcome"]),
                int(i["strength_ppm"]),
                int(i["net_edge_micros"]),
                int(i["expire_us"]),
                int(i["price_micros"]),
                int(i["size_micros"]),
            )
            for i in intents
            if i["kind"] == 1
        ]
    return sorted(rows)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_service_reads_what_the_live_run_saw(recorder: Recorder, kind: str) -> None:
    world = a_world_for(kind, 1)
    strategies = [configured(kind)]
    events = await recorded(recorder, world, strategies)
    spec = spec_of([kind], world.ticks[-1].receive_time_us + 1)
    run, shards = await recorder.read(spec)
    expected = said(events)
    assert len(expected) > 5, "the world has to make the strategy speak"
    assert found(strategies, run, shards, spec) == expected

    # The same from the archive alone.
    later = spec.end_us + 60 * DAY_US
    archive = Archive(recorder.database, recorder.root)
    assert await archive.archive_closed(later)
    assert await archive.drop_before(later)
    again, archived = await recorder.read(spec)
    assert found(strategies, again, archived, spec) == expected
    assert [s.digests(again.universe.instrument_of) for s in archived] == [
        s.digests(run.universe.instrument_of) for s in shards
    ]


async def test_a_simulated_session_gives_the_same_signals_live_and_in_the_service(recorder: Recorder) -> None:
    start_us, length_us = START_US, HOUR_US // 3
    world = SimulatedWorld(SimulatedConfig(seed=5, events=6, start_time_us=start_us, gap_interval_us=None), start_us)
    feed = Feed(world, first_epoch=1)
    pages = feed.pages()
    markets, events = [m for p in pages for m in p.markets], [e for p in pages for e in p.events]
    feed.subscribe(markets)
    ticks: list[Quote | Trade] = []
    while world.now_us < start_us + length_us:
        ticks += [item for item in feed.advance(world.now_us + 10_000_000) if isinstance(item, Quote | Trade)]
        ticks += feed.prices()
    ticks.sort(key=lambda tick: tick.receive_time_us)
    strategies = [configured(kind) for kind in KINDS]
    await recorder.facts(markets, events, start_us - 1)
    runner = StrategyRunner(strategies)
    runner.offer_catalog(events, markets)
    said_live = said(await recorder.live(runner, ticks))
    spec = spec_of(KINDS, start_us + 2 * length_us, simulated=True, start_us=start_us - 1)
    run, shards = await recorder.read(spec)
    assert {entry[0] for entry in said_live} >= {"arb.event_sum", "flow.large_trade", "decay.expiry"}
    assert found(strategies, run, shards, spec) == said_live


async def test_a_link_is_used_while_it_was_confirmed_and_no_longer(recorder: Recorder) -> None:
    world = with_a_link(a_world(3))
    kind, catalog = "arb.cross_venue", CatalogStore(recorder.database)
    strategies = [configured(kind)]
    await recorder.facts(world.markets, [world.event], START_US - 1)
    (link,) = world.links
    middle = world.ticks[len(world.ticks) // 2].receive_time_us
    quarter = world.ticks[len(world.ticks) // 4].receive_time_us
    await catalog.save_link(replace(link, review_time_us=quarter, revision=2))
    runner = StrategyRunner(strategies)
    runner.offer_catalog([world.event], world.markets)
    await recorder.live(runner, world.ticks)
    await recorder.facts([replace(world.markets[1], rules_text="another rule")], [], middle)
    (history,) = await recorder.data.links([m.market_id for m in world.markets])
    assert history.link.state is LinkState.PROPOSED
    assert history.changes == ((quarter, LinkState.CONFIRMED), (middle, LinkState.PROPOSED))
    spec = spec_of([kind], world.ticks[-1].receive_time_us + 1)
    run, shards = await recorder.read(spec)
    assert len(shards) == 1
    times = [entry[1] for entry in found(strategies, run, shards, spec)]
    whole = Universe(run.universe.markets, run.universe.events, [replace(link, review_time_us=None)])
    always = [entry[1] for entry in found(strategies, replace(run, universe=whole), shards, spec)]
    assert times, "it has to speak while the link holds"
    assert min(times) >= quarter
    assert max(times) < middle
    assert min(always) < quarter
    assert max(always) > middle


@pytest.mark.parametrize(
    "kind", ["calib.longshot", "decay.expiry", "stat.mean_reversion", "arb.event_sum", "arb.monotone"]
)
async def test_terms_that_the_venue_changes_hold_from_when_the_live_run_had_them(recorder: Recorder, kind: str) -> None:
    world = a_world_for(kind, 1)
    strategies = [configured(kind)]
    await recorder.facts(world.markets, [world.event], START_US - 1)
    await keep_fitted(recorder, world.fitted)
    runner = StrategyRunner(strategies)
    runner.offer_catalog([world.event], world.markets, world.links)
    runner.offer_fitted(world.fitted)
    middle = len(world.ticks) // 2
    while world.ticks[middle].receive_time_us == world.ticks[middle - 1].receive_time_us:
        middle += 1  # terms hold from an instant on, not from one of its rows
    events = await recorder.live(runner, world.ticks[:middle])
    changed = [
        replace(
            market,
            close_time_us=None if market.close_time_us is None else market.close_time_us + 30 * HOUR_US,
            fee_schedules=(FeeSchedule(FeeFormula.QUADRATIC, 140_000, 0, rounding_step_micros=10_000),),
            price_ranges=(PriceRange(0, 1_000_000, 50_000),),
        )
        for market in world.markets
    ]
    runner.offer_catalog([world.event], changed, world.links)
    events += await recorder.live(runner, world.ticks[middle:])
    spec = spec_of([kind], world.ticks[-1].receive_time_us + 1)
    run, shards = await recorder.read(spec)
    assert len(run.universe.revisions) > 0
    expected = said(events)
    assert len(expected) > 5
    assert found(strategies, run, shards, spec) == expected
    stale = [replace(m, revisions=()) for m in run.universe.markets]
    universe = Universe(stale, run.universe.events, run.universe.spans, run.universe.fitted)
    if kind != "stat.mean_reversion":  # its entries hang on neither close nor tick, and little on the fee
        assert found(strategies, replace(run, universe=universe), shards, spec) != expected
    assert FrozenMarkets.from_bytes(FrozenMarkets.of(run.universe).to_bytes()).terms_digest == run.universe.terms_digest
    assert universe.terms_digest != run.universe.terms_digest


async def test_what_was_fitted_or_confirmed_after_the_end_is_not_known(recorder: Recorder) -> None:
    world = a_world_for("calib.longshot", 1)
    await recorded(recorder, world, [configured("calib.longshot")])
    late = replace(world.fitted[0], version=2, fit_time_us=2 * START_US, effective_time_us=2 * START_US + 1)
    await keep_fitted(recorder, [late])
    run, _ = await recorder.read(spec_of(["calib.longshot"], world.ticks[-1].receive_time_us + 1))
    assert sorted((o.name, o.version) for o in run.universe.fitted) == sorted((o.name, 1) for o in world.fitted)


async def test_a_close_that_came_early_is_no_term_that_a_strategy_sees(recorder: Recorder) -> None:
    world = a_world(2)
    close_us = START_US + HOUR_US
    closed = [replace(m, close_time_us=close_us, state=MarketState.CLOSED) for m in world.markets]
    await recorder.facts(closed, [world.event], START_US - 1)
    runner = StrategyRunner([])  # an import: no live run saw these markets
    await recorder.live(runner, world.quotes)
    run, _ = await recorder.read(spec_of(["calib.longshot"], world.quotes[-1].receive_time_us + 1))
    for market in run.universe.markets:
        assert market.market.close_time_us is None
        assert [state for _, state in market.states] == [MarketState.OPEN, MarketState.CLOSED]


async def test_recorded_books_come_back_level_by_level_before_and_after_the_archive(recorder: Recorder) -> None:
    world = a_world(2)
    market_id = world.markets[0].market_id
    await recorder.facts(world.markets, [world.event], START_US - 1)
    await recorder.live(StrategyRunner([]), [a_quote(market_id, START_US, 400_000, 410_000)])
    books = [
        OrderBook(
            market_id,
            tuple(BookLevel(400_000 - 10_000 * i, 1_000_000 * (i + 1)) for i in range(4)),
            tuple(BookLevel(410_000 + 10_000 * i, 2_000_000 * (i + 1)) for i in range(n)),
            epoch=1,
            receive_time_us=START_US + n,
        )
        for n in range(3)
    ]
    await recorder.books(books, levels=2)
    await recorder.books(books[:1], levels=2)  # a sample that was stored before is stored once
    spec = spec_of(["stat.mean_reversion"], START_US + HOUR_US)
    run, (shard,) = await recorder.read(spec)
    place = run.universe.index[market_id]
    rows = list(
        zip(
            shard.books.market.tolist(),
            shard.books.receive_time_us.tolist(),
            shard.books.book.tolist(),
            shard.books.side.tolist(),
            shard.books.price_micros.tolist(),
            shard.books.size_micros.tolist(),
            strict=True,
        )
    )
    bids = [(0, 400_000, 1_000_000), (0, 390_000, 2_000_000)]
    asks = [(1, 410_000, 2_000_000), (1, 420_000, 4_000_000)]
    assert rows == [(place, START_US + n, n, *level) for n in range(3) for level in [*bids, *asks[:n]]]
    later = spec.end_us + 60 * DAY_US
    archive = Archive(recorder.database, recorder.root)
    (day,) = await archive.archive_closed(later)
    assert day.book_count == 9
    assert [name for name in await archive.drop_before(later) if name.startswith("books_live")]
    _, (archived,) = await recorder.read(spec)
    assert archived.digests() == shard.digests()
    assert archived.books.book.tolist() == shard.books.book.tolist()
    # A late sample of a dropped day is seen, and makes the next generation.
    late = replace(books[0], receive_time_us=START_US + 9)
    await recorder.books([late], levels=2)
    _, (with_late,) = await recorder.read(spec)
    assert len(with_late.books) == 11
    (again,) = await archive.archive_closed(later)
    assert (again.generation, again.book_count) == (2, 11)
    assert await archive.archive_closed(later) == []
    _, (kept,) = await recorder.read(spec)
    assert kept.digests() == with_late.digests()


async def test_a_sweep_freezes_links_and_fitted_objects_with_its_markets(recorder: Recorder) -> None:
    world = with_a_link(a_world_for("calib.longshot", 1))
    await recorded(recorder, world, [configured("arb.cross_venue")])
    run, _ = await recorder.read(spec_of(["arb.cross_venue"], world.ticks[-1].receive_time_us + 1))
    frozen = FrozenMarkets.of(run.universe).to_bytes()
    thawed = await asyncio.to_thread(FrozenMarkets.from_bytes, frozen)
    assert (thawed.spans, thawed.fitted, thawed.terms_digest) == (
        run.universe.spans,
        run.universe.fitted,
        run.universe.terms_digest,
    )
    assert len(thawed.spans) == 1
    assert thawed.fitted
