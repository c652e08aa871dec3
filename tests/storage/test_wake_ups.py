"""Readers hear of commits at once, and of everything they may have missed after a reconnect."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from oddstream_server.application.ports import Decision, Lease, StoredKey
from oddstream_server.domain.market import Venue
from oddstream_server.domain.principal import Principal, Role, Scopes
from oddstream_server.domain.quote import FeedState, FeedStatus
from oddstream_server.embedded.postgres.cluster import PostgresAddress
from oddstream_server.storage.connector import Connector
from oddstream_server.storage.database import Database
from oddstream_server.storage.keys import ApiKeyStore
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from oddstream_server.storage.wake_ups import KINDS, WakeUps


@pytest.fixture
async def heard(log: SignalLogStore) -> "AsyncIterator[asyncio.Queue[str]]":
    queue: asyncio.Queue[str] = asyncio.Queue()
    listening = asyncio.create_task(log.wake_ups(queue.put_nowait).run())
    await every_kind(queue)
    yield queue
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def every_kind(queue: "asyncio.Queue[str]") -> None:
    async with asyncio.timeout(10):
        assert {await queue.get() for _ in KINDS} == set(KINDS)


async def test_each_kind_of_commit_wakes_its_readers(
    samples: Any,
    pipeline: PostgresPipelineStore,
    lease: Lease,  # before the listener, which would hear of it
    heard: "asyncio.Queue[str]",
    database: Database,
    log: SignalLogStore,
) -> None:
    await pipeline.append_events(lease, [samples.created("a")])
    assert await heard.get() == "signals"
    await pipeline.append_events(lease, [samples.created("a")])
    await pipeline.store_batch(lease, [samples.quote(1)], lambda _: Decision(events=(samples.created("b"),)))
    assert {await heard.get(), await heard.get()} == {"quotes", "signals"}
    status = FeedStatus(Venue.KALSHI, FeedState.GAP, samples.t0, 2, samples.t0 + 1, "seq 4 missing", ("kalshi:A",))
    await pipeline.save_feed_status(status)
    assert await heard.get() == "feed"
    assert await log.feed_statuses() == [status]
    key = StoredKey("k1", "ops", b"\x00" * 32, 1, Principal("k1", Role.TRADER, Scopes(), "k1"), samples.t0, None, None)
    await ApiKeyStore(database).create(key)
    assert await heard.get() == "keys"
    assert heard.empty()


async def test_a_killed_listener_comes_back_and_wakes_everyone(heard: "asyncio.Queue[str]", database_dsn: str) -> None:
    killer = await asyncpg.connect(database_dsn)
    for _ in range(3):
        killed = await killer.fetchval(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
            "WHERE application_name = 'oddstream listener' AND datname = current_database()"
        )
        assert killed == 1
        await every_kind(heard)
    await killer.close()


class Relay:
    """Sits between a listener and PostgreSQL; its first connection can go deaf: open to look at, and nothing passes."""

    def __init__(self, upstream: Path) -> None:
        self.deaf = False
        self.connections = 0
        self._upstream = upstream
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        first = self.connections == 1
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._upstream)
        self._writers += [writer, upstream_writer]
        await asyncio.gather(self._pump(reader, upstream_writer, False), self._pump(upstream_reader, writer, first))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, can_go_deaf: bool) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65_536):
                if not (can_go_deaf and self.deaf):
                    sink.write(data)
                    await sink.drain()
        sink.close()

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with suppress(ConnectionError):
                await writer.wait_closed()


async def test_a_connection_that_went_deaf_is_found_out_by_its_ping(
    postgres_address: PostgresAddress, database_dsn: str
) -> None:
    relay = Relay(postgres_address.sockets / f".s.PGSQL.{postgres_address.port}")
    with tempfile.TemporaryDirectory() as folder:
        server = await asyncio.start_unix_server(relay.serve, Path(folder) / ".s.PGSQL.5432")
        dsn = make_url(database_dsn).set(query={"host": folder, "port": "5432"})
        queue: asyncio.Queue[str] = asyncio.Queue()
        wake_ups = WakeUps(Connector(dsn.render_as_string(hide_password=False)), queue.put_nowait, ping_seconds=0.1)
        listening = asyncio.create_task(wake_ups.run())
        await every_kind(queue)
        relay.deaf = True
        await every_kind(queue)
        assert relay.connections > 1
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await relay.close()
        server.close()
        await server.wait_closed()


async def test_a_listener_waits_for_a_database_that_is_not_there_yet(
    postgres_address: PostgresAddress, database_dsn: str
) -> None:
    relay = Relay(postgres_address.sockets / f".s.PGSQL.{postgres_address.port}")
    with tempfile.TemporaryDirectory() as folder:
        dsn = make_url(database_dsn).set(query={"host": folder, "port": "5432"})
        queue: asyncio.Queue[str] = asyncio.Queue()
        wake_ups = WakeUps(Connector(dsn.render_as_string(hide_password=False)), queue.put_nowait)
        listening = asyncio.create_task(wake_ups.run())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await queue.get()
        server = await asyncio.start_unix_server(relay.serve, Path(folder) / ".s.PGSQL.5432")
        await every_kind(queue)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await relay.close()
        server.close()
        await server.wait_closed()
