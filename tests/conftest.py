"""What every rung of the ladder shares: a PostgreSQL and a Redis of the test process's own.

Each pytest process (each xdist worker) starts one of each when a test first asks, in a throw-away folder, and stops it
at the end; the kernel does so if the process is killed. A test gets a database of its own, cloned from a migrated one.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import asyncpg
import pytest

from oddstream_server.embedded.launch.binaries import postgres_programs, redis_program
from oddstream_server.embedded.launch.placement import Placement, Programs, place
from oddstream_server.embedded.layout import DataFolder
from oddstream_server.embedded.postgres.cluster import PostgresAddress, PostgresCluster
from oddstream_server.embedded.redis_server import RedisServer
from oddstream_server.storage.migrate import upgrade
from tests import coverage_pauses, log_check
from tests.folders import throw_away_folder
from tests.log_check import keep_logs

T = TypeVar("T")

_TEMPLATE = "migrated_template"
_database_numbers = itertools.count(1)

# Data of a test is worth nothing after it: durability would be paid for and never used.
_FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "wal_compression": "off",
    "autovacuum": "off",
}


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(log_check, "log_check")
    config.pluginmanager.register(coverage_pauses, "coverage_pauses")


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of its own, without touching the loop that pytest-asyncio keeps for the test."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


@pytest.fixture(scope="session")
def service_placement() -> Iterator[Placement]:
    """Where this process's PostgreSQL and Redis live: a short path that the user nobody can reach."""
    root = throw_away_folder()
    folder = DataFolder.at(root)
    folder.create()
    try:
        yield run_apart(place(folder, Programs(postgres_programs(), redis_program())))
    finally:
        keep_logs(root)
        shutil.rmtree(root)


@pytest.fixture(scope="session")
def postgres_address(
    service_placement: Placement, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PostgresAddress]:
    """A running PostgreSQL without any database of ours but the empty `oddstream`."""
    password_file = tmp_path_factory.mktemp("keys") / "postgres_password"
    cluster = PostgresCluster(service_placement, password_file=password_file, settings=_FAST)
    run_apart(cluster.start(print))
    try:
        yield cluster.address
    finally:
        run_apart(cluster.stop(print))


@pytest.fixture(scope="session")
def migrated_template(postgres_address: PostgresAddress) -> str:
    """The name of a database with the newest schema, to be cloned and never connected to."""
    _execute(postgres_address, f"CREATE DATABASE {_TEMPLATE}")
    upgrade(postgres_address.url(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture
def database_url(postgres_address: PostgresAddress, migrated_template: str) -> Iterator[str]:
    """SQLAlchemy's URL of a migrated database that is this test's alone."""
    name = _new_database(postgres_address, template=migrated_template)
    yield postgres_address.url(name)
    _drop_database(postgres_address, name)


@pytest.fixture
def database_dsn(database_url: str) -> str:
    """The same database for raw asyncpg or psycopg."""
    return database_url.replace("postgresql+asyncpg://", "postgresql://", 1)


@pytest.fixture
def empty_database_url(postgres_address: PostgresAddress) -> Iterator[str]:
    """SQLAlchemy's URL of a database without any table."""
    name = _new_database(postgres_address, template="template1")
    yield postgres_address.url(name)
    _drop_database(postgres_address, name)


@pytest.fixture(scope="session")
def redis_server(service_placement: Placement) -> Iterator[RedisServer]:
    """A running Redis of this process."""
    server = RedisServer(service_placement)
    run_apart(server.start(print))
    try:
        yield server
    finally:
        run_apart(server.stop(print))


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of a Redis that is empty when the test begins (a process runs one test at a time)."""
    redis_server.command("FLUSHALL")
    return redis_server.url


def _new_database(address: PostgresAddress, *, template: str) -> str:
    name = f"test_{next(_database_numbers)}"
    _execute(address, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    return name


def _drop_database(address: PostgresAddress, name: str) -> None:
    # FORCE: a test that fails may leave a session open, and the next test isn't to blame.
    _execute(address, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(address: PostgresAddress, statement: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(address.dsn("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    run_apart(execute())
