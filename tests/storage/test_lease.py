"""One leader at a time; who lost the lease can write nothing more."""

import asyncio
from typing import Any

import asyncpg
import pytest

from oddstream_server.application.ports import Decision, Fenced
from oddstream_server.storage.database import Database
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.tick_store.ticks import TickStore


async def test_a_lease_is_held_by_one_until_it_is_released(pipeline: PostgresPipelineStore) -> None:
    first = await pipeline.acquire_lease("one", 60_000_000)
    assert first is not None
    assert await pipeline.acquire_lease("two", 60_000_000) is None
    renewed = await pipeline.renew_lease(first, 90_000_000)
    assert renewed.epoch == first.epoch
    assert renewed.expire_time_us > first.expire_time_us
    await pipeline.release_lease(renewed)
    second = await pipeline.acquire_lease("two", 60_000_000)
    assert second is not None
    assert second.epoch > first.epoch


async def test_of_many_that_want_it_at_once_one_gets_it(database_dsn: str) -> None:
    pools = [Database(database_dsn, pool_size=1, max_overflow=0) for _ in range(6)]
    stores = [PostgresPipelineStore(p) for p in pools]
    found = await asyncio.gather(*(s.acquire_lease(f"h{n}", 60_000_000) for n, s in enumerate(stores)))
    assert len([lease for lease in found if lease is not None]) == 1
    for pool in pools:
        await pool.close()


async def test_an_expired_lease_can_be_taken_and_its_holder_is_fenced_off(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore
) -> None:
    old = await pipeline.acquire_lease("old", 0)
    new = await pipeline.acquire_lease("new", 60_000_000)
    assert old is not None
    assert new is not None
    with pytest.raises(Fenced):
        await pipeline.renew_lease(old, 1)
    with pytest.raises(Fenced):
        await pipeline.append_events(old, [samples.created("a")])
    with pytest.raises(Fenced):
        await pipeline.store_batch(old, [samples.quote(1)], lambda _: Decision(events=(samples.created("a"),)))
    await pipeline.release_lease(old)
    assert await pipeline.acquire_lease("third", 1) is None, "who was fenced off can't give the lease away"
    assert await ticks.live_head() == 0
    result = await pipeline.store_batch(new, [samples.quote(1)], lambda _: Decision(events=(samples.created("a"),)))
    assert (result.quotes_inserted, [e.sequence for e in result.events]) == (1, [1])


async def test_a_leader_that_stands_still_in_mid_transaction_does_not_hold_its_successor_up(
    samples: Any, pipeline: PostgresPipelineStore, database_dsn: str
) -> None:
    old = await pipeline.acquire_lease("old", 1)
    assert old is not None
    # What a stopped process leaves behind: its transaction is open and holds the head's lock.
    stopped = await asyncpg.connect(database_dsn)
    await stopped.execute("BEGIN")
    await stopped.execute("SELECT pg_advisory_xact_lock_shared($1, $2)", 0x0DD5_0003, old.epoch)
    await stopped.execute("UPDATE signal_log_head SET sequence = sequence + 1")
    async with asyncio.timeout(2):
        new = await pipeline.acquire_lease("new", 60_000_000)
        assert new is not None
        (event,) = await pipeline.append_events(new, [samples.created("a")])
    assert event.sequence == 1
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
        await stopped.execute("COMMIT")
    stopped.terminate()
