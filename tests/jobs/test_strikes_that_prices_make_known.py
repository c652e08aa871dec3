"""A strike that is the price of an instant: nobody uses it before it is known, and everybody from then on."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from oddstream_server.application import as_of
from oddstream_server.application.ports import TimeRange
from oddstream_server.domain.market import Market
from oddstream_server.domain.signal import SignalEvent
from oddstream_server.pipeline.deciding.replay import replayed_events
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from oddstream_server.storage.database import Database
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.tick_store.ticks import TickStore
from tests.jobs.test_backtests_read_what_live_saw import Recorder, configured, found, said, spec_of
from tests.strategies.worlds import START_US, World, a_world_for

pytestmark = pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines

KIND = "decay.expiry"


@pytest.fixture
async def recorder(database_url: str, tmp_path: Path) -> AsyncIterator[Recorder]:
    database = Database(database_url)
    yield Recorder(database, tmp_path)
    await database.close()


def middle_of(world: World) -> int:
    """Place of the first tick of an instant about halfway."""
    middle = len(world.ticks) // 2
    while world.ticks[middle].receive_time_us == world.ticks[middle - 1].receive_time_us:
        middle += 1
    return middle


def with_openings(markets: Sequence[Market], opening_us: int) -> tuple[Market, ...]:
    """The markets as those that compare with the price of an instant, with that price."""
    return tuple(
        replace(m, strike=replace(m.strike, kind="greater_or_equal", opening_time_us=opening_us))
        for m in markets
        if m.strike is not None
    )


def before_openings(markets: Sequence[Market]) -> tuple[Market, ...]:
    return tuple(replace(m, strike=replace(m.strike, floor_micros=None)) for m in markets if m.strike is not None)


async def test_a_strike_holds_from_when_prices_made_it_known_live_resumed_and_in_a_backtest(recorder: Recorder) -> None:
    world, strategies = a_world_for(KIND, 1), [configured(KIND)]
    middle = middle_of(world)
    opening_us = world.ticks[middle].receive_time_us - 2_000_000
    known = with_openings(world.markets, opening_us)
    unknown = before_openings(known)
    await recorder.facts(unknown, [world.event], START_US - 1)
    runner = StrategyRunner(strategies)
    runner.offer_catalog([world.event], unknown)
    assert await recorder.live(runner, world.ticks[:middle]) == [], "without a strike there is nothing to say"

    await recorder.facts(known, [], opening_us + 1_000_000)
    await recorder.facts(unknown, [], opening_us + 1_500_000)  # a page that was read before
    catalog = CatalogStore(recorder.database)
    stored = await catalog.markets_by_id([m.market_id for m in known])
    assert {m.market_id: m.strike for m in stored.values()} == {m.market_id: m.strike for m in known}
    runner.offer_catalog([], list(stored.values()))
    third = middle + (len(world.ticks) - middle) // 3
    while world.ticks[third].receive_time_us == world.ticks[third - 1].receive_time_us:
        third += 1
    events = await recorder.live(runner, world.ticks[middle:third])
    resumed = StrategyRunner(strategies)
    resumed.restore(await PostgresPipelineStore(recorder.database).load_states(resumed.strategy_ids))
    events += await recorder.live(resumed, world.ticks[third:])

    expected = said(events)
    assert len(expected) > 5, "the world has to make the strategy speak"
    spec = spec_of([KIND], world.ticks[-1].receive_time_us + 1)
    run, shards = await recorder.read(spec)
    assert found(strategies, run, shards, spec) == expected


async def test_of_imported_ticks_a_strike_is_not_known_before_its_instant(recorder: Recorder) -> None:
    world, strategies = a_world_for(KIND, 1), [configured(KIND)]
    opening_us = world.ticks[middle_of(world)].receive_time_us
    known = with_openings(world.markets, opening_us)
    await recorder.facts(known, [world.event], START_US - 1)
    assert await recorder.live(StrategyRunner([]), world.ticks) == []  # no live run saw these markets
    spec = spec_of([KIND], world.ticks[-1].receive_time_us + 1)
    run, shards = await recorder.read(spec)
    in_batch = found(strategies, run, shards, spec)
    assert len(in_batch) > 5
    assert min(entry[1] for entry in in_batch) >= opening_us + as_of.TOLD_AFTER_US

    replayed: list[SignalEvent] = []
    async for events in replayed_events(
        TickStore(recorder.database),
        CatalogStore(recorder.database),
        as_of.Journal(),
        strategies,
        TimeRange(START_US, spec.end_us),
    ):
        replayed += events
    assert said(replayed) == in_batch
