"""The job queue's worker: procrastinate, with jobs that belong to a worker as long as its session with the database.

A worker holds a lock in PostgreSQL for each job that it runs. When it dies, however it dies, the lock goes with its
session, and any worker gives the job back to the queue a second later. Where a session outlives its machine, the
worker's heartbeat tells instead.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

import procrastinate
import structlog
from procrastinate.worker import Worker
from psycopg.conninfo import make_conninfo

from oddstream_server.domain.errors import OddstreamError
from oddstream_server.jobs.running import JobRunner

log = structlog.get_logger()

QUEUE: Final = "backtests"
_LOOK_SECONDS: Final = 1.0
_HEARTBEAT_SECONDS: Final = 5.0
_STALLED_SECONDS: Final = 30.0

OrphanedJob = tuple[int, int]
"""Id of a job, and how often it was given back before."""


class JobPresence(Protocol):
    """Who runs which job, as the database knows it."""

    def held(self, job_id: int) -> AbstractAsyncContextManager[None]:
        """Hold a job's lock, over lost connections too."""
        ...

    async def orphans(self, stalled_seconds: float) -> set[OrphanedJob]:
        """Jobs that are being done, by nobody."""
        ...

    async def give_back(self, job: OrphanedJob) -> None:
        """Queue a job anew, unless something happened to it since."""
        ...


def conninfo(
    dsn: str,
    *,
    user: str | None = None,
    password: str | None = None,
    role: str | None = None,
    tls: bool = False,
    ca_file: Path | None = None,
) -> str:
    """Where the queue's driver connects, as libpq has it."""
    more: dict[str, Any] = {"application_name": "oddstream queue"}
    if user is not None:
        more["user"] = user
    if password is not None:
        more["password"] = password
    if role is not None:
        more["options"] = f"-c role={role}"
    if tls:
        more |= {
            "sslmode": "verify-full",
            "sslrootcert": str(ca_file or "system"),
            "ssl_min_protocol_version": "TLSv1.3",
        }
    return make_conninfo(dsn, **more)


class QueueWorker:
    """:param where: answers :func:`conninfo`; asked for each new connection."""

    def __init__(
        self, where: Callable[[], Awaitable[str]], runner: JobRunner, presence: JobPresence, name: str
    ) -> None:
        connector = procrastinate.PsycopgConnector(conninfo=where, min_size=1, max_size=2)
        self._app = procrastinate.App(connector=connector)
        self._presence = presence
        self._name = name
        again = procrastinate.RetryStrategy(max_attempts=1_000_000, wait=1)

        def task(step: str) -> None:
            async def run(context: procrastinate.JobContext, /, **arguments: Any) -> None:
                assert context.job.id is not None
                async with presence.held(context.job.id):
                    await _run_step(runner, step, arguments)

            self._app.task(name=step, queue=QUEUE, pass_context=True, retry=again)(run)

        for step in ("backtest", "sweep_plan", "sweep_shard", "sweep_judge"):
            task(step)

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop; a job that is running goes back to the queue then."""
        async with self._app.open_async():
            worker = Worker(
                self._app,
                queues=[QUEUE],
                name=self._name,
                concurrency=1,
                fetch_job_polling_interval=_LOOK_SECONDS,
                shutdown_graceful_timeout=0.1,
                delete_jobs="successful",
                install_signal_handlers=False,
                update_heartbeat_interval=_HEARTBEAT_SECONDS,
                stalled_worker_timeout=_STALLED_SECONDS * 2,
            )
            working = asyncio.ensure_future(worker.run())  # type: ignore[no-untyped-call]  # theirs has no types
            rescuing = asyncio.ensure_future(self._rescue())
            stopping = asyncio.ensure_future(stop.wait())
            try:
                await asyncio.wait([working, rescuing, stopping], return_when=asyncio.FIRST_COMPLETED)
                worker.stop()  # type: ignore[no-untyped-call]  # as above
                await working
                if rescuing.done():
                    rescuing.result()
            finally:
                for task in (working, rescuing, stopping):
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task

    async def _rescue(self) -> None:
        seen: set[OrphanedJob] = set()
        while True:
            try:
                orphans = await self._presence.orphans(_STALLED_SECONDS)
                # Twice: between taking a job and taking its lock there is a moment.
                for job in orphans & seen:
                    log.warning("a job's worker is gone; the job goes back to the queue", job=job[0], given_back=job[1])
                    await self._presence.give_back(job)
                seen = orphans
            except OddstreamError as error:
                log.warning("orphaned jobs can't be looked for now", reason=error.reason)
            await asyncio.sleep(_LOOK_SECONDS)  # a death sends no event that everybody hears


async def _run_step(runner: JobRunner, step: str, arguments: Mapping[str, Any]) -> None:
    if step == "sweep_shard":
        await runner.run_shard(str(arguments["run_id"]), int(arguments["shard_number"]))
    else:
        await runner.run(step, str(arguments["run_id"]))
