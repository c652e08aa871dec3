"""The job queue, as our own transactions see it: a job and the row that it is for are kept together or not at all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from oddstream_server.storage.backtests.documents import document
from oddstream_server.storage.database import Database

QUEUE = "backtests"


async def enqueue(driver: "asyncpg.Connection[Any]", task: str, **arguments: str | int) -> int:
    """Queue a job in the open transaction; answers its id.

    :param task: the name under which the worker knows it.
    """
    return int(
        await driver.fetchval(
            "SELECT (procrastinate_defer_jobs_v1(ARRAY[ROW($1, $2, 0, NULL, NULL, $3::jsonb, NULL)"
            "::procrastinate_job_to_defer_v1]))[1]",
            QUEUE,
            task,
            document(arguments),
        )
    )


async def withdraw(driver: "asyncpg.Connection[Any]", job_ids: list[int]) -> None:
    """Take back jobs that no worker has taken; those that are running find out by the state of their run."""
    await driver.execute("SELECT procrastinate_cancel_job_v1(id, false, true) FROM unnest($1::bigint[]) AS id", job_ids)


_LOCK_CLASS = 0x0DD5_0005
_RETRY_SECONDS = 0.5


class JobLocks:
    """Fulfils :class:`~oddstream_server.jobs.queue.JobPresence` by session locks; needs connections of its own, since a
    pooled one may be closed or, behind a transaction pooler, be somebody else's a moment later."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def held(self, job_id: int) -> AsyncIterator[None]:
        holding = asyncio.ensure_future(self._hold(job_id))
        try:
            yield
        finally:
            holding.cancel()
            with suppress(asyncio.CancelledError):
                await holding

    async def _hold(self, job_id: int) -> None:
        while True:
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection = await self._database.connector.connect(
                    timeout=5, server_settings={"application_name": f"oddstream job {job_id}"}
                )
                try:
                    gone = asyncio.Event()
                    connection.add_termination_listener(lambda _connection, gone=gone: gone.set())
                    # Waits for a former holder that isn't gone for good yet.
                    await connection.execute(f"SELECT pg_advisory_lock({_LOCK_CLASS}, {_lock_number(job_id)})")
                    await gone.wait()
                finally:
                    connection.terminate()
            await asyncio.sleep(_RETRY_SECONDS)  # the database is away

    async def orphans(self, stalled_seconds: float) -> set[tuple[int, int]]:
        async with self._database.reading() as transaction:
            rows = await transaction.driver.fetch(
                "SELECT j.id, j.attempts FROM procrastinate_jobs AS j "
                "LEFT JOIN procrastinate_workers AS w ON w.id = j.worker_id "
                "WHERE j.status = 'doing' AND j.queue_name = $1 AND (w.id IS NULL "
                "OR w.last_heartbeat < now() - $2 * interval '1 second' OR NOT EXISTS ("
                "SELECT 1 FROM pg_locks AS l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 "
                "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
                "AND l.classid = $3 AND l.objid::bigint = j.id & 2147483647))",
                QUEUE,
                stalled_seconds,
                _LOCK_CLASS,
            )
        return {(row[0], row[1]) for row in rows}

    async def give_back(self, job: tuple[int, int]) -> None:
        async with self._database.transaction() as transaction:
            await transaction.driver.execute(
                "SELECT procrastinate_retry_job_v2(id, now(), NULL, NULL, NULL) FROM procrastinate_jobs "
                "WHERE id = $1 AND attempts = $2 AND status = 'doing' FOR UPDATE",
                *job,
            )


def _lock_number(job_id: int) -> int:
    return job_id & 0x7FFF_FFFF
