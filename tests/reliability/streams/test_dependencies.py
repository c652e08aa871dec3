"""Streams while PostgreSQL restarts and crashes, and while Redis is gone."""

import asyncio
import os
import random
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

import oddstream
from oddstream.v1 import signal_service_pb2
from oddstream_server.embedded.redis_server import RedisServer
from oddstream_server.embedded.services import EmbeddedServices
from oddstream_server.storage.database import READ_RETRY_BUDGET_SECONDS
from oddstream_server.storage.migrate import upgrade_async
from tests.reliability.conftest import data_folder, made_data_folder, new_data_folder  # noqa: F401  # fixtures
from tests.reliability.streams.processes import Stage, drill, stage
from tests.reliability.streams.subscribers import Subscriber, complaints, complaints_about_writes, read_log

pytestmark = pytest.mark.timeout(600)

SUBSCRIBERS = 8
RETRIED_SECONDS = READ_RETRY_BUDGET_SECONDS - 0.3
"""A read is tried for at least as long; the last pause may end before the budget does."""


@asynccontextmanager
async def embedded_stage(folder: Path) -> AsyncIterator[tuple[Stage, EmbeddedServices]]:
    """Over the embedded services, which are started again as in a server of one command."""
    # A process that is killed loses nothing that it wrote; only the machine's end would.
    services = EmbeddedServices(folder, postgres_settings={"fsync": "off"})
    urls = await services.start(print)
    try:
        await upgrade_async(urls.database_url)
        async with stage(urls.database_url, urls.redis_url) as here:
            yield here, services
    finally:
        await services.stop(print)


async def crashes(folder: Path, count: int, at_least: int, plant: str = "") -> list[str]:
    """Restart and crash PostgreSQL in turns while bots stream, writers write and calls are made."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    async with embedded_stage(folder) as (here, services):
        server = await here.serve(plant=plant)
        start = await here.from_the_beginning()
        bots = [Subscriber(server.target, here.key, start) for _ in range(SUBSCRIBERS)]
        writer = await here.write(seed, 600.0)
        reads = Reads(server.target, here.key)
        try:
            for bot in bots:
                bot.begin()
            reads.begin()
            for number in range(count):
                # The next blow falls when reads and writes have found their way back.
                await here.wait_for_head(await here.head() + 100)
                await asyncio.sleep(rng.uniform(0.3, 1.0))
                postgres = services.health.postgres
                assert postgres is not None
                assert postgres.pid is not None
                os.kill(postgres.pid, signal.SIGKILL if number % 2 else signal.SIGINT)
                await _until(partial(_restarted, services, postgres.restarts))
            await here.wait_for_head(at_least, 120)
            written = await writer.stop()
            head = await here.head()
            await asyncio.gather(*(bot.reach(head) for bot in bots))
        finally:
            await reads.end()
            await asyncio.gather(*(bot.end() for bot in bots))
        log = await read_log(here.dsn)
        assert server.alive()
    found = complaints_about_writes(written, log)
    for bot in bots:
        found += complaints(bot.received, log, bot.failure)
        if bot.reconnects:
            found.append(f"a stream broke: {bot.breaks}")
    if reads.failed:
        found.append(f"{len(reads.failed)} reads failed: {reads.failed[:2]}")
    if reads.refused and min(reads.refused)[0] < RETRIED_SECONDS:
        found.append("a read was refused after {:.2f} s of trying: {}".format(*min(reads.refused)))
    assert reads.done >= 10 * count, "too few reads to say anything"
    assert len(log) >= at_least
    assert written["doubtful"] >= count, "the writers hardly felt it"
    print(
        f"{len(log)} events, {reads.done} reads, slowest {reads.slowest_s:.2f} s, {len(reads.refused)} refused, "
        f"{written['doubtful']} doubtful writes"
    )
    return found


class Reads:
    """Unary calls one after the other; a failure is kept, and how long was tried where the database is away."""

    def __init__(self, target: str, key: str) -> None:
        self._client = oddstream.AsyncClient(target, api_key=key)
        self.done = 0
        self.failed: list[str] = []
        self.refused: list[tuple[float, str]] = []
        self.slowest_s = 0.0
        self.last_s = 0.0

    def begin(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._client.close()

    async def _run(self) -> None:
        request = signal_service_pb2.ListSignalsRequest(page_size=5)
        while True:
            began = time.monotonic()
            try:
                await self._client.signals.ListSignals(request)
            except oddstream.OddstreamError as error:
                tried_s = time.monotonic() - began
                if error.reason == "DEPENDENCY_UNAVAILABLE":
                    self.refused.append((tried_s, str(error)))
                else:
                    self.failed.append(f"{error} after {tried_s:.2f} s")
            else:
                self.done += 1
                self.last_s = time.monotonic()
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            await asyncio.sleep(0.02)


def _restarted(services: EmbeddedServices, known: int) -> bool:
    health = services.health.postgres
    return health is not None and health.healthy and health.restarts > known


async def _until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_postgres_restarts_and_crashes_and_streams_stay_open_and_whole(data_folder: Path) -> None:  # noqa: F811
    assert await crashes(data_folder, drill(4, 20), drill(2_000, 10_000)) == []


async def test_a_planted_event_that_is_forgotten_after_a_crash_is_caught(data_folder: Path) -> None:  # noqa: F811
    found = await crashes(data_folder, 1, 300, "forget_after_crash")
    assert any("lost 1 of" in complaint for complaint in found), found


async def without_redis(
    database_url: str, redis_server: RedisServer, redis_url: str, seconds: float, plant: str = ""
) -> list[str]:
    """Take Redis away for a while; answers what was wrong with streams and calls meanwhile and afterwards."""
    async with stage(database_url, redis_url) as here:
        server = await here.serve(plant=plant)
        start = await here.from_the_beginning()
        bots = [Subscriber(server.target, here.key, start) for _ in range(SUBSCRIBERS)]
        writer = await here.write(secrets.randbits(32), 300.0)
        reads = Reads(server.target, here.key)
        late = Subscriber(server.target, here.key, start)
        try:
            for bot in bots:
                bot.begin()
            reads.begin()
            await here.wait_for_head(100)
            await redis_server.stop(print)
            try:
                at = await here.head()
                late.begin()
                await asyncio.sleep(seconds)
                during = await here.head() - at
            finally:
                await redis_server.start(print)
            back = time.monotonic()
            await _until(lambda: reads.last_s > back or len(reads.failed) + len(reads.refused) > 3)
            recovered_s = time.monotonic() - back
            await writer.stop()
            head = await here.head()
            await asyncio.gather(*(bot.reach(head) for bot in (*bots, late)))
        finally:
            await reads.end()
            await asyncio.gather(*(bot.end() for bot in (*bots, late)))
        log = await read_log(here.dsn)
    assert during >= 100, "too little traffic to say anything"
    assert reads.done + len(reads.failed) + len(reads.refused) >= 20
    found = [complaint for bot in (*bots, late) for complaint in complaints(bot.received, log, bot.failure)]
    if any(bot.reconnects for bot in (*bots, late)):
        found.append("a stream broke")
    if reads.failed:
        found.append(f"{len(reads.failed)} reads failed: {reads.failed[0]}")
    if reads.refused:
        found.append(f"{len(reads.refused)} reads were refused")
    if recovered_s > 2:
        found.append(f"it took {recovered_s:.1f} s to recover")
    print(
        f"{during} events without it; {reads.done} reads, slowest {reads.slowest_s:.2f} s; back in {recovered_s:.2f} s"
    )
    return found


async def test_without_redis_streams_go_on_and_calls_and_keys_are_served(
    database_url: str, redis_server: RedisServer, redis_url: str
) -> None:
    assert await without_redis(database_url, redis_server, redis_url, drill(4, 30)) == []


async def test_a_planted_need_of_redis_is_caught(database_url: str, redis_server: RedisServer, redis_url: str) -> None:
    found = await without_redis(database_url, redis_server, redis_url, 2, "need_redis")
    assert any("reads were refused" in complaint for complaint in found), found
