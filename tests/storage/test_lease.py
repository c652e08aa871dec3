"""One leader at a time; who lost the lease can write nothing more."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from oddstream_server.application.ports import Decision, Fenced, Lease
from oddstream_server.domain.quote import OrderBook
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
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


class Stoppable(Database):
    """A process that is stopped when it is about to commit: its transaction stays open and holds its locks."""

    stops = False
    reached: asyncio.Event

    @asynccontextmanager
    async def transaction(self, **options: Any) -> AsyncIterator[Transaction]:
        async with super().transaction(**options) as transaction:
            yield transaction
            if self.stops:
                self.reached.set()
                await asyncio.Event().wait()


Write = Callable[[Any, PostgresPipelineStore, Lease, int], Awaitable[Any]]
WRITES: dict[str, Write] = {
    "a renewal": lambda samples, store, lease, n: store.renew_lease(lease, 60_000_000),
    "a batch": lambda samples, store, lease, n: store.store_batch(lease, [samples.quote(n)], lambda _: Decision()),
    "events": lambda samples, store, lease, n: store.append_events(lease, [samples.created(f"old {n}")]),
    "states": lambda samples, store, lease, n: store.delete_states(lease, ["kalshi:A"]),
    "books": lambda samples, store, lease, n: store.record_books(
        lease, [OrderBook("kalshi:A", (), (), n, samples.t0)], 10
    ),
    "a release": lambda samples, store, lease, n: store.release_lease(lease),
}


@pytest.mark.parametrize("write", list(WRITES))
async def test_a_leader_that_stands_still_in_mid_transaction_does_not_hold_its_successor_up(
    samples: Any, pipeline: PostgresPipelineStore, database: Database, database_dsn: str, write: str
) -> None:
    stoppable = Stoppable(database_dsn)
    stoppable.reached = asyncio.Event()
    store = PostgresPipelineStore(stoppable, events_a_partition=1_000)
    old = await store.acquire_lease("old", 60_000_000)
    assert old is not None
    await WRITES[write](samples, store, old, 1)  # with all that is made once
    head = await SignalLogStore(database).bounds()
    async with database.transaction() as transaction:
        await transaction.driver.execute("UPDATE leases SET expire_time = timestamptz 'epoch'")
    stoppable.stops = True
    writing = asyncio.create_task(WRITES[write](samples, store, old, 2))
    await stoppable.reached.wait()
    async with asyncio.timeout(2):
        new = await pipeline.acquire_lease("new", 60_000_000)
        assert new is not None
        (event,) = await pipeline.append_events(new, [samples.created("new")])
    assert event.sequence == head.head_sequence + 1
    writing.cancel()
    await asyncio.wait([writing])
    await stoppable.close()
