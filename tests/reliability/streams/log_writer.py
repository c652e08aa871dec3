"""Six connections that write the signal log through the production store, with stale and true epochs in random order.

Run as a program: ``log_writer.py DSN SEED EVENTS_PER_S [PLANT]``. It says ``ready``, writes until a line comes,
finishes what is unfinished, and prints what it did as JSON. The plant ``unfenced`` lets every epoch write: a bug to be
caught.
"""

import asyncio
import json
import random
import sys
import time
from collections import deque
from typing import Any

from loadtests.stream.signals import made_event
from oddstream_server.application.ports import Fenced, Lease
from oddstream_server.domain.errors import OddstreamError
from oddstream_server.domain.signal import SignalEvent
from oddstream_server.storage.database import Database
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals import appending

CONNECTIONS = 6
LEASE_US = 60_000_000
EVENTS_A_PARTITION = 2_000


class Writers:
    def __init__(self, dsn: str, seed: int, events_per_s: float) -> None:
        self.databases = [Database(dsn, pool_size=1, max_overflow=0) for _ in range(CONNECTIONS)]
        self.rng = random.Random(seed)
        self.pause_s = CONNECTIONS * 10.5 / events_per_s
        self.lease: Lease | None = None
        self.unfinished: deque[list[SignalEvent]] = deque()
        self.made = 0
        self.stopping = False
        self.acknowledged: dict[str, tuple[int, int]] = {}
        """By event key: sequence and the epoch that wrote it."""
        self.said = {"fenced": 0, "doubtful": 0, "leaders": 0}

    async def run(self) -> None:
        await self._lead(self.databases[0])
        async with asyncio.TaskGroup() as group:
            for database in self.databases:
                group.create_task(self._write(database, random.Random(self.rng.random())))
            asked = asyncio.Event()
            asyncio.get_running_loop().add_reader(sys.stdin, asked.set)
            await asked.wait()
            self.stopping = True
        await self._lead(self.databases[0])
        store = PostgresPipelineStore(self.databases[0])
        while self.unfinished:
            assert self.lease is not None
            await self._append(store, self.lease, self.unfinished.popleft())
        for database in self.databases:
            await database.close()

    async def _lead(self, database: Database) -> None:
        """Become the leader, so that every epoch before is stale; the new epoch is the others' to learn."""
        while True:
            try:
                lease = await PostgresPipelineStore(database).acquire_lease("writers", LEASE_US)
            except OddstreamError:
                await asyncio.sleep(0.1)
                continue
            assert lease is not None
            if self.lease is None or lease.epoch > self.lease.epoch:
                self.lease = lease
            self.said["leaders"] += 1
            return

    async def _write(self, database: Database, rng: random.Random) -> None:
        store = PostgresPipelineStore(database, events_a_partition=EVENTS_A_PARTITION)
        mine = self.lease
        while not self.stopping:
            await asyncio.sleep(rng.uniform(0, 2 * self.pause_s))
            if rng.random() < 0.02:
                await self._lead(database)
            if rng.random() < 0.15:  # else it goes on with what it believes, which may be stale
                mine = self.lease
            assert mine is not None
            if self.unfinished and rng.random() < 0.5:
                batch = self.unfinished.popleft()
            else:
                batch = [self._next() for _ in range(rng.randint(1, 20))]
            known = [] if self.made < 100 else [made_event(rng.randrange(self.made), _now_us()) for _ in range(2)]
            await self._append(store, mine, batch, known)

    async def _append(
        self,
        store: PostgresPipelineStore,
        lease: Lease,
        batch: list[SignalEvent],
        known: list[SignalEvent] | None = None,
    ) -> None:
        try:
            appended = await store.append_events(lease, [*batch, *(known or ())])
        except Fenced:
            self.said["fenced"] += 1
            self.unfinished.append(batch)
        except OddstreamError:  # committed or not: to be written again
            self.said["doubtful"] += 1
            self.unfinished.append(batch)
            await asyncio.sleep(0.05)
        else:
            for event in appended:
                self.acknowledged[event.event_key] = (event.sequence, lease.epoch)

    def _next(self) -> SignalEvent:
        self.made += 1
        return made_event(self.made - 1, _now_us())


def _now_us() -> int:
    return time.time_ns() // 1000


def _unfenced() -> None:
    append = appending.append

    async def append_with_any_epoch(driver: Any, _epoch: int, *rest: Any) -> Any:
        return await append(driver, await driver.fetchval("SELECT epoch FROM signal_log_head"), *rest)

    appending.append = append_with_any_epoch  # type: ignore[assignment]  # the same arguments, more loosely


async def main() -> None:
    dsn, seed, events_per_s, *plant = sys.argv[1:]
    if plant == ["unfenced"]:
        _unfenced()
    writers = Writers(dsn, int(seed), float(events_per_s))
    print("ready", flush=True)
    await writers.run()
    body = {**writers.said, "made": writers.made, "acknowledged": writers.acknowledged}
    print(json.dumps(body), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
