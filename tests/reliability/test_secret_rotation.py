"""Passwords of the database change in a Vault while calls are served; then the Vault goes away.

``ODDSTREAM_DRILL_SECONDS=60 ODDSTREAM_DRILL_PAUSE_SECONDS=5`` is the long form (``make drill-rotation``).
"""

import asyncio
import os
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import asyncpg
import grpc
import pytest

from oddstream.v1 import market_service_pb2, market_service_pb2_grpc
from oddstream_server.embedded.launch.binaries import postgres_programs, redis_program
from oddstream_server.embedded.launch.placement import Programs, place
from oddstream_server.embedded.layout import DataFolder
from oddstream_server.embedded.postgres.cluster import PostgresCluster
from oddstream_server.storage.migrate import upgrade_async
from tests.log_check import keep_logs
from tests.secret_stores import VaultServer, free_port, vault_server
from tests.serving_process import Serving, serving

LONG = float(os.environ.get("ODDSTREAM_DRILL_SECONDS", "0"))
PAUSE = float(os.environ.get("ODDSTREAM_DRILL_PAUSE_SECONDS", "0.8"))
ROTATIONS = max(3, int(LONG / PAUSE)) if LONG else 3
CALLERS = 6

POLICY = """
path "secret/data/database" { capabilities = ["read"] }
path "database/creds/oddstream" { capabilities = ["read"] }
"""

pytestmark = pytest.mark.timeout(120 + int(LONG) * 2)


@dataclass
class Networked:
    """A PostgreSQL that wants passwords, on a port."""

    dsn: str
    """The operator's."""
    port: int

    async def execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    @property
    def application_url(self) -> str:
        """Without user and password: those come from the Vault."""
        return f"postgresql://127.0.0.1:{self.port}/oddstream"


@asynccontextmanager
async def networked_postgres() -> AsyncIterator[Networked]:
    with tempfile.TemporaryDirectory(prefix="oddstream-tests-") as root:
        Path(root).chmod(0o711)
        folder = DataFolder.at(Path(root) / "data")
        folder.create()
        placement = await place(folder, Programs(postgres_programs(), redis_program()))
        port = free_port()
        cluster = PostgresCluster(
            placement,
            password_file=folder.keys / "postgres_password",
            settings={"fsync": "off", "shared_buffers": "32MB"},
            tcp_port=port,
        )
        await cluster.start(print)
        try:
            assert cluster.tcp_dsn is not None
            await upgrade_async(cluster.tcp_dsn)
            yield Networked(cluster.tcp_dsn, port)
        finally:
            await cluster.stop(print)
            keep_logs(Path(root))


@dataclass
class Load:
    """Callers that read a page from the database, again and again."""

    server: Serving
    calls: int = 0
    failures: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}") as channel:
            stop = asyncio.Event()
            tasks = [asyncio.create_task(self._call(channel, stop)) for _ in range(CALLERS)]
            try:
                yield
            finally:
                stop.set()
                await asyncio.gather(*tasks)

    async def _call(self, channel: grpc.aio.Channel, stop: asyncio.Event) -> None:
        markets = market_service_pb2_grpc.MarketServiceStub(channel)
        request = market_service_pb2.ListMarketsRequest()
        while not stop.is_set():
            try:
                await markets.ListMarkets(request, metadata=self.server.auth, timeout=10)
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{error.code()}: {error.details()}")
            self.calls += 1
            await asyncio.sleep(0.01)  # the load is to be steady, not heavy

    async def more(self, count: int) -> None:
        """Wait until so many further calls were answered."""
        until = self.calls + count
        async with asyncio.timeout(30):
            while self.calls < until:
                await asyncio.sleep(0.02)


async def fetched(server: Serving, outcome: str, store: str) -> float:
    text = (await server.worker.metrics()).decode()
    wanted = f'oddstream_secret_fetches_total{{outcome="{outcome}",store="{store}"}} '
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(wanted))


def settings_of(vault: VaultServer, login: str) -> dict[str, str]:
    return {
        "database_login": login,
        "vault_url": vault.url,
        "vault_role_id": vault.role_id,
        "vault_secret_id": vault.secret_id,
        # One connection stays and the others are made and closed as calls come, so that logins happen all the time.
        "database_pool_size": "1",
        "database_max_overflow": "8",
        "calls_per_minute": "1000000",
    }


async def test_the_databases_password_changes_under_load_and_no_call_fails_nor_when_the_vault_goes_away(
    tmp_path: Path, redis_url: str
) -> None:
    planted = f"planted-{secrets.token_hex(8)}"
    async with networked_postgres() as postgres, vault_server() as vault:
        await postgres.execute(f"CREATE ROLE app LOGIN PASSWORD '{planted}-0' IN ROLE oddstream")
        await vault.allow(POLICY)
        await vault.put("database", username="app", password=f"{planted}-0")
        settings = settings_of(vault, "vault:secret/database") | {"database_role": "oddstream"}
        async with serving(tmp_path, postgres.application_url, redis_url, settings, owner_url=postgres.dsn) as server:
            load = Load(server)
            async with load.running():
                for number in range(1, ROTATIONS + 1):
                    # Both orders in turn: for a moment either the store or the database is ahead.
                    password = f"{planted}-{number}"
                    change = f"ALTER ROLE app PASSWORD '{password}'"
                    if number % 2:
                        await postgres.execute(change)
                    await vault.put("database", username="app", password=password)
                    if not number % 2:
                        await asyncio.sleep(0.1)
                        await postgres.execute(change)
                    # And those who are connected have to come again.
                    await postgres.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'"
                    )
                    began = time.monotonic()
                    await load.more(50)
                    await asyncio.sleep(max(0.0, PAUSE - (time.monotonic() - began)))
                logins = await fetched(server, "fetched", "vault")

                vault.process.kill()
                await asyncio.to_thread(vault.process.wait)
                await postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
                await load.more(100)
                state = await server.state()
            held = await fetched(server, "held", "vault")
        log = server.log.read_text()
    print(
        f"{ROTATIONS} rotations, {load.calls} calls, {len(load.failures)} failed; the password was fetched "
        f"{logins:.0f} times, and {held:.0f} times what was held did while the Vault was stopped"
    )
    assert load.failures == []
    assert load.calls >= 250
    assert logins >= ROTATIONS * 3, "connections were hardly made anew, so nothing was shown"
    assert held > 0
    assert not state["secrets"]["vault"]["up"]
    assert state["ready"]
    assert "the store of secrets is away; going on with what is held" in log
    assert planted not in log
    assert vault.secret_id not in log


async def test_a_login_that_the_vault_makes_is_replaced_before_its_lease_ends(tmp_path: Path, redis_url: str) -> None:
    lease_seconds = 10
    async with networked_postgres() as postgres, vault_server() as vault:
        await vault.allow(POLICY)
        await vault.call("POST", "sys/mounts/database", type="database")
        operator = f"planted-{secrets.token_hex(8)}"
        await postgres.execute(f"CREATE ROLE vault SUPERUSER LOGIN PASSWORD '{operator}'")
        await vault.call(
            "POST",
            "database/config/oddstream",
            plugin_name="postgresql-database-plugin",
            allowed_roles="oddstream",
            connection_url="postgresql://{{username}}:{{password}}@"
            f"127.0.0.1:{postgres.port}/oddstream?sslmode=disable",
            username="vault",
            password=quote(operator),
        )
        await vault.call(
            "POST",
            "database/roles/oddstream",
            db_name="oddstream",
            creation_statements=[
                "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE oddstream"
            ],
            default_ttl=f"{lease_seconds}s",
            max_ttl=f"{lease_seconds}s",
        )
        settings = settings_of(vault, "vault-database:database/oddstream") | {"database_role": "oddstream"}
        async with serving(tmp_path, postgres.application_url, redis_url, settings, owner_url=postgres.dsn) as server:
            load = Load(server)
            users: set[str] = set()
            connection = await asyncpg.connect(postgres.dsn)
            async with load.running():
                until = time.monotonic() + lease_seconds * 1.3
                while time.monotonic() < until:
                    rows = await connection.fetch(
                        "SELECT DISTINCT usename FROM pg_stat_activity "
                        "WHERE usename LIKE 'v-%' AND datname = 'oddstream'"
                    )
                    users |= {row["usename"] for row in rows}
                    await asyncio.sleep(0.2)
            first_left = await connection.fetchval("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'")
            await connection.close()
            logins = await fetched(server, "fetched", "vault-database")
    assert load.failures == []
    assert len(users) >= 3
    assert logins < 10, "a login was made for each connection"
    assert first_left < len(users), "no lease ended while the load ran"
