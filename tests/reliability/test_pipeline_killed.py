"""The pipeline is killed with -9 again and again in the middle of its work, and goes on to the same signals."""

import asyncio
import random
import sys
from pathlib import Path

import pytest

from oddstream_server.application.ports import TimeRange
from oddstream_server.domain.signal import SignalEventType
from oddstream_server.pipeline.deciding.replay import load_journal, replayed_events
from oddstream_server.storage.database import Database
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from oddstream_server.storage.tick_store.ticks import TickStore
from tests.reliability.pipeline_process import strategies
from tests.strategies.worlds import a_world, bodies

KILLS = 8
SEED = 41
INSTANTS = 1_200
ROOT = Path(__file__).parents[2]


async def a_process(url: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.reliability.pipeline_process", url, str(SEED), str(INSTANTS), cwd=ROOT
    )


async def grown(ticks: TickStore, process: asyncio.subprocess.Process, wanted: int) -> int:
    """Wait until that many ticks are stored; answers how many there are."""
    async with asyncio.timeout(60):
        while (head := await ticks.live_head()) < wanted:
            assert process.returncode is None, "the process ended by itself"
            await asyncio.sleep(0.005)  # the database is what is watched: there is no event to wait for
    return head


@pytest.mark.timeout(300)
async def test_a_pipeline_killed_again_and_again_ends_with_the_signals_of_an_undisturbed_one(
    database_url: str,
) -> None:
    rng = random.Random(SEED)
    database = Database(database_url)
    ticks = TickStore(database)
    world = a_world(SEED, INSTANTS)
    total = len(world.quotes)
    heads: list[int] = []
    try:
        for _ in range(KILLS):
            process = await a_process(database_url)
            head = await grown(ticks, process, (heads[-1] if heads else 0) + rng.randint(1, total // (KILLS + 3)))
            process.kill()
            await process.wait()
            heads.append(head)
        assert heads[-1] < total, "the last kill has to come before the end"
        process = await a_process(database_url)
        await grown(ticks, process, total)
        process.terminate()
        await process.wait()
        assert await ticks.live_head() == total, "every row once"
        logged = list(await SignalLogStore(database).read(0, 100_000))
        assert [e.sequence for e in logged] == list(range(1, len(logged) + 1))
        live = [e for e in logged if e.type.from_kernel]
        assert len([e for e in live if e.type is SignalEventType.CREATED]) > 50
        journal = await load_journal(PostgresPipelineStore(database, ticks))
        undisturbed = replayed_events(ticks, CatalogStore(database), journal, strategies(), TimeRange())
        assert bodies(live) == bodies([event async for events in undisturbed for event in events])
    finally:
        await database.close()
