"""A connection always comes back whole, a deadline reaches PostgreSQL, and its errors become ours."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from oddstream_server.application.calls.request import RequestContext, current_request
from oddstream_server.domain.errors import Aborted, DeadlineExceeded, Unavailable
from oddstream_server.storage.database import Database, DatabaseAway, Transaction, translate


async def sessions(dsn: str, condition: str) -> list[str]:
    """Queries of the sessions of this database that match, seen from a connection of the test's own."""
    connection = await asyncpg.connect(dsn, server_settings={"application_name": "onlooker"})
    rows = await connection.fetch(
        f"SELECT state || ': ' || query AS what FROM pg_stat_activity WHERE datname = current_database() "
        f"AND application_name <> 'onlooker' AND backend_type = 'client backend' AND {condition}"
    )
    await connection.close()
    return [row["what"] for row in rows]


async def eventually(check: Callable[[], object], within_seconds: float = 5.0) -> None:
    give_up = time.monotonic() + within_seconds
    while not check():
        assert time.monotonic() < give_up, "it never came true"
        await asyncio.sleep(0.01)


async def test_a_thousand_calls_cancelled_in_mid_query_leave_nothing_running_and_a_working_pool(
    database_dsn: str, seeded: random.Random
) -> None:
    database = Database(database_dsn, pool_size=4, max_overflow=2, pool_timeout_seconds=30)
    reached = 0

    async def slow(write: bool) -> None:
        nonlocal reached
        opened = database.transaction() if write else database.reading()
        async with opened as transaction:
            reached += 1
            await transaction.driver.execute("SELECT pg_sleep(30)")

    rounds = 0
    while rounds < 50 or (reached <= 50 and rounds < 500):  # a busy machine reaches its queries more slowly
        rounds += 1
        tasks = [asyncio.create_task(slow(seeded.random() < 0.5)) for _ in range(20)]
        await asyncio.sleep(seeded.uniform(0, 0.02))
        for task in tasks:
            task.cancel()
            if seeded.random() < 0.2:  # impatient: cancelled again while it is cleaning up
                asyncio.get_running_loop().call_later(0.001, task.cancel)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(e, asyncio.CancelledError) for e in ended), ended
    assert reached > 50, "too few were in mid query"
    await eventually(lambda: database.connections_in_use() == 0)
    # Where a cancellation overtook its query the connection was cut, and the server finds out within a second.
    give_up = time.monotonic() + 5
    while running := await sessions(database_dsn, "state <> 'idle'"):
        assert time.monotonic() < give_up, running
    assert len(await sessions(database_dsn, "true")) <= database.maximum_connections

    async def works(_: int) -> int:
        async with database.reading() as transaction:
            return int(await transaction.driver.fetchval("SELECT 1"))

    assert await asyncio.gather(*(works(n) for n in range(60))) == [1] * 60
    await database.close()


async def test_a_transaction_commits_at_the_end_and_rolls_back_on_any_exception(database: Database) -> None:
    insert = "INSERT INTO market_keys (market_id) VALUES ($1)"
    async with database.transaction() as transaction:
        await transaction.driver.execute(insert, "kept")

    async def fail() -> None:
        async with database.transaction() as transaction:
            await transaction.driver.execute(insert, "lost")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    async with database.reading() as transaction:
        assert [r[0] for r in await transaction.driver.fetch("SELECT market_id FROM market_keys")] == ["kept"]


async def test_reading_can_not_write(database: Database) -> None:
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        async with database.reading() as transaction:
            await transaction.driver.execute("INSERT INTO market_keys (market_id) VALUES ('x')")


async def test_what_is_left_of_the_deadline_bounds_the_statement(database: Database) -> None:
    began = time.monotonic()
    current_request.set(RequestContext("/m", "corr-1", "", deadline_seconds=began + 0.3))
    with pytest.raises(DeadlineExceeded):
        async with database.reading() as transaction:
            await transaction.driver.execute("SELECT pg_sleep(30)")
    assert time.monotonic() - began < 3
    current_request.set(RequestContext("/m", "corr-1", "", deadline_seconds=began))
    with pytest.raises(DeadlineExceeded):
        async with database.reading():
            pytest.fail("a call without time left reached the database")


async def test_a_running_query_leads_back_to_its_call(database: Database, database_dsn: str) -> None:
    current_request.set(RequestContext("/m", "corr-'7; DROP", ""))
    async with database.reading():
        (found,) = await sessions(database_dsn, "application_name = 'oddstream corr-7DROP'")
    assert "correlation_id=corr-7DROP" in found
    current_request.set(None)
    async with database.reading():
        assert await sessions(database_dsn, "application_name LIKE '%corr%'") == []


async def test_a_timeout_of_one_transaction_does_not_stay_on_its_connection(database_dsn: str) -> None:
    database = Database(database_dsn, pool_size=1, max_overflow=0)
    async with database.reading(timeout_seconds=5) as transaction:
        assert await transaction.driver.fetchval("SHOW statement_timeout") == "5s"
    async with database.reading() as transaction:
        assert await transaction.driver.fetchval("SHOW statement_timeout") == "0"
    await database.close()


async def test_instants_are_exact_to_the_microsecond_both_ways(database: Database) -> None:
    instants = [0, -1, 1, 1_782_993_600_123_457, 253_402_300_799_999_999]
    async with database.reading() as transaction:
        for instant in instants:
            assert await transaction.driver.fetchval("SELECT $1::timestamptz", instant) == instant
        assert await transaction.driver.fetchval("SELECT timestamptz '2026-07-02 12:00:00.000001+00'") == (
            1_782_993_600_000_001
        )


async def test_a_read_goes_on_after_its_connection_was_killed(database: Database, database_dsn: str) -> None:
    attempts = 0

    async def work(transaction: Transaction) -> int:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            killer = await asyncpg.connect(database_dsn)
            await killer.execute("SELECT pg_terminate_backend($1, 5000)", transaction.driver.get_server_pid())
            await killer.close()
        return int(await transaction.driver.fetchval("SELECT 7"))

    assert await database.read(work) == 7
    assert attempts == 3


async def test_a_database_that_is_not_there_is_unavailable_after_the_retry_budget(unused_tcp_port: int) -> None:
    database = Database(f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/none")
    began = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await database.read(lambda t: t.driver.fetchval("SELECT 1"))
    assert 2 < time.monotonic() - began < 4
    assert "nobody" not in caught.value.message
    with pytest.raises(Unavailable):
        async with database.transaction():
            pytest.fail("there is nothing to connect to")
    await database.close()


async def test_a_full_pool_says_so_instead_of_waiting_for_ever(database_dsn: str) -> None:
    database = Database(database_dsn, pool_size=1, max_overflow=0, pool_timeout_seconds=0.05)
    async with database.reading():
        with pytest.raises(Unavailable, match="in use"):
            async with database.reading():
                pytest.fail("there was one connection, and it was taken")
    async with database.reading():
        pass
    await database.close()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(), DatabaseAway),
        (ConnectionResetError(), DatabaseAway),
        (TimeoutError(), DatabaseAway),
        (asyncpg.CannotConnectNowError("starting up"), DatabaseAway),
        (asyncpg.AdminShutdownError("shutting down"), DatabaseAway),
        (asyncpg.ConnectionDoesNotExistError("gone"), DatabaseAway),
        (asyncpg.InterfaceError("connection is closed"), DatabaseAway),
        (asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"), DatabaseAway),
        (asyncpg.DiskFullError("no space"), Unavailable),
        (asyncpg.TooManyConnectionsError("too many"), Unavailable),
        (asyncpg.QueryCanceledError("timeout"), DeadlineExceeded),
        (asyncpg.SerializationError("conflict"), Aborted),
        (asyncpg.DeadlockDetectedError("deadlock"), Aborted),
    ],
)
def test_each_error_of_the_database_has_one_of_ours(error: BaseException, expected: type[Exception]) -> None:
    found = translate(error)
    assert type(found) is expected
    assert str(error) not in str(found) or not str(error)


def test_a_fault_of_our_own_stays_what_it_is() -> None:
    assert translate(asyncpg.UndefinedColumnError("no such column")) is None
    assert translate(asyncpg.InterfaceError("the server expects 1 argument for this query, 2 were passed")) is None
    assert translate(KeyError("x")) is None


async def test_a_read_at_once_ends_at_the_deadline_gives_its_connection_back_and_outlives_a_killed_one(
    database_dsn: str,
) -> None:
    database = Database(database_dsn, pool_size=1, max_overflow=0)
    began = time.monotonic()
    token = current_request.set(RequestContext("/m", "c", "", deadline_seconds=began + 0.3))
    with pytest.raises(DeadlineExceeded):
        await database.read_at_once(lambda driver: driver.fetchval("SELECT pg_sleep(30)"))
    assert time.monotonic() - began < 3
    current_request.reset(token)
    killed = False

    async def work(driver: "asyncpg.Connection[Any]") -> int:
        nonlocal killed
        if not killed:
            killed = True
            killer = await asyncpg.connect(database_dsn)
            await killer.execute("SELECT pg_terminate_backend($1, 5000)", driver.get_server_pid())
            await killer.close()
        return int(await driver.fetchval("SELECT 7"))

    assert await database.read_at_once(work) == 7
    assert database.connections_in_use() == 0
    await database.close()


async def test_reads_that_follow_each_other_share_a_connection_which_a_full_pool_gets_back(database_dsn: str) -> None:
    database = Database(database_dsn, pool_size=2, max_overflow=0, pool_timeout_seconds=30)

    async def process(driver: "asyncpg.Connection[Any]") -> int:
        return int(driver.get_server_pid())

    first = await database.read_at_once(process)
    assert [await database.read_at_once(process) for _ in range(3)] == [first] * 3
    assert database.connections_in_use() == 0
    async with database.transaction() as one, database.transaction() as other:
        held = {one.driver.get_server_pid(), other.driver.get_server_pid()}
        assert len(held) == 2, "a transaction got none while a spare one was at hand"
        assert first in held
    killer = await asyncpg.connect(database_dsn)
    await killer.execute("SELECT pg_terminate_backend($1, 5000)", await database.read_at_once(process))
    await killer.close()
    assert await database.read_at_once(lambda driver: driver.fetchval("SELECT 7")) == 7
    await database.close()


async def test_a_connection_that_reads_no_longer_ask_for_goes_back_to_the_pool(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oddstream_server.storage.spare_connection.KEPT_SECONDS", 0.02)
    database = Database(database_dsn)
    await database.read_at_once(lambda driver: driver.fetchval("SELECT 7"))
    assert database._checked_out() == 1
    await eventually(lambda: database._checked_out() == 0)
    await database.close()
