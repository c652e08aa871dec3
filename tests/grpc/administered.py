"""A server whose mutations are over PostgreSQL, and keys of a test's own besides the stored ones."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg

from oddstream.v1 import admin_service_pb2_grpc
from oddstream_server.app.administration import administration
from oddstream_server.application.access.denials import Denials
from oddstream_server.application.backtests import Backtests
from oddstream_server.application.ports import StoredKey
from oddstream_server.domain.principal import Role
from oddstream_server.embedded.keys import Keyring
from oddstream_server.feed.runs import RunFeed
from oddstream_server.feed.streams import StreamRegistry
from oddstream_server.interceptors.assembly import ChainSettings
from oddstream_server.jobs.planning import Planner
from oddstream_server.storage.administration.audit_log import AuditLogStore
from oddstream_server.storage.backtests.recorded import RecordedRows
from oddstream_server.storage.backtests.runs import RunRecords
from oddstream_server.storage.database import Database
from oddstream_server.storage.keys import ApiKeyStore
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from oddstream_server.storage.track_record.executions import ExecutionStore
from oddstream_server.storage.track_record.performance import TrackRecordStore
from oddstream_server.strategies.registry import Registry
from oddstream_server.transport.administration.service import AdminService
from oddstream_server.transport.backtest_service import BacktestService
from tests.grpc.memory_ports import MemoryKeys
from tests.grpc.running_server import PEPPERS, QuietProcess, Running, World, bearer, now_us, running

KEYRING = Keyring(peppers=PEPPERS.by_version, data_keys={1: b"d" * 32})


class BothKeys(MemoryKeys):
    """The test's own keys, and behind them those of the database."""

    def __init__(self, stored: ApiKeyStore) -> None:
        super().__init__()
        self.stored = stored

    async def find(self, key_id: str) -> StoredKey | None:
        return await super().find(key_id) or await self.stored.find(key_id)

    async def touch(self, key_ids: Sequence[str], now_us: int) -> None:
        await self.stored.touch(key_ids, now_us)


@dataclass
class Administered:
    server: Running
    database: Database
    dsn: str
    use_cases: Any

    @property
    def admin(self) -> Any:
        return admin_service_pb2_grpc.AdminServiceStub(self.server.channel)

    @property
    def auth(self) -> tuple[tuple[str, str], ...]:
        """Of an admin."""
        return self.server.auth

    def auth_of(self, role: Role) -> tuple[tuple[str, str], ...]:
        return bearer(self.server.world.issue(role).key.text)

    async def rows(self, query: str, *values: Any) -> list[Any]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()


@asynccontextmanager
async def administered(
    url: str, folder: Path, change: Callable[[Any], Any] = lambda use_cases: use_cases
) -> AsyncIterator[Administered]:
    """:param change: may replace use cases by others, e.g. ones that fail."""
    database = Database(url, pool_size=8)
    keys = BothKeys(ApiKeyStore(database))
    world = World(keys=keys, settings=ChainSettings(units_per_minute=1_000_000))
    use_cases = change(administration(database, KEYRING, Registry(), SignalLogStore(database), folder, QuietProcess()))
    world.admin_service = AdminService(use_cases, now_us)
    world.catalog, world.mutations = CatalogStore(database), use_cases.mutations
    runs = RunRecords(database)
    world.backtest_service = BacktestService(
        Backtests(runs, RecordedRows(database, folder), Planner(Registry()), quota=100_000),
        RunFeed(runs, StreamRegistry(now_us)),
        now_us,
        use_cases.mutations,
    )
    world.executions, world.outcomes = ExecutionStore(database), TrackRecordStore(database)
    world.denials = Denials(AuditLogStore(database), world.limiter)
    async with running(world) as server:
        server.key = world.issue(Role.ADMIN)
        listener = SignalLogStore(database).wake_ups(
            lambda kind: server.authenticator.forget() if kind == "keys" else None
        )
        listening = asyncio.create_task(listener.run())
        try:
            yield Administered(server, database, url.replace("postgresql+asyncpg://", "postgresql://", 1), use_cases)
        finally:
            listening.cancel()
            await asyncio.wait([listening])
    await database.close()


def request_id() -> str:
    return str(uuid4())
