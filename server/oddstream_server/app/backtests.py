"""What computes backtests: the worker's process, its children, and the archive that they read."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from oddstream_server.app.process import (
    archive_folder,
    database_tls,
    new_registry,
    now_us,
    open_database,
    operations_socket,
    required_urls,
    run_until_stopped,
    say,
    start_logging,
)
from oddstream_server.app.secrets import SecretLogins, open_secrets
from oddstream_server.application.ports.backtests import ClaimedShard
from oddstream_server.domain.backtest import Run
from oddstream_server.domain.errors import OddstreamError, Unavailable
from oddstream_server.jobs.children import AWAY_EXIT_CODE, ChildLimits, first_to_go
from oddstream_server.jobs.computing import Computation, guarded
from oddstream_server.jobs.planning import Planner
from oddstream_server.jobs.queue import QueueWorker, conninfo
from oddstream_server.jobs.running import JobRunner
from oddstream_server.lifecycle import Closing, ParentGone, StopSignal, die_with_parent
from oddstream_server.observability.operations import State
from oddstream_server.secrets.held import HeldSecrets
from oddstream_server.settings import Settings, worker_environment
from oddstream_server.storage.backtests.archive import Archive
from oddstream_server.storage.backtests.jobs import JobLocks
from oddstream_server.storage.backtests.recorded import RecordedRows
from oddstream_server.storage.backtests.shards import SweepWorkRecords
from oddstream_server.storage.connector import driver_dsn
from oddstream_server.strategies.registry import Registry

log = structlog.get_logger()

ARCHIVE_SECONDS: Final = 3_600.0
_CHILD_POOL: Final = {"database_pool_size": 2, "database_max_overflow": 1}


def open_registry() -> Registry:
    strategies = Registry()
    strategies.load_entry_points()
    return strategies


async def work(settings: Settings, process: str, stop: StopSignal) -> None:
    """Take jobs until stopped."""
    closing = Closing()
    registry = new_registry()
    secrets = open_secrets(settings, registry)
    database = open_database(settings.model_copy(update=_CHILD_POOL), process, secrets)
    closing.add("database", database.close)
    runner = JobRunner(
        SweepWorkRecords(database),
        now_us,
        worker_environment(settings.worker_overrides()),
        ChildLimits(
            memory_bytes=settings.backtest_memory_mib * 1024**2,
            cpu_seconds=settings.backtest_cpu_seconds,
            wall_seconds=settings.backtest_wall_seconds,
        ),
        settings.backtest_maximum_attempts,
    )
    queue = QueueWorker(
        _conninfo(settings, secrets),
        runner,
        JobLocks(database),
        f"{socket.gethostname()}/{os.getpid()}",
    )
    archive = Archive(database, archive_folder(settings))
    stopping = asyncio.Event()
    ended = asyncio.Event()

    async def state() -> State:
        return {"ready": True}

    async def take_jobs() -> None:
        await queue.run(stopping)
        ended.set()
        await asyncio.Event().wait()  # the stop signal ends the process, not the end of this task

    async def drain() -> None:
        stopping.set()
        await ended.wait()

    try:
        async with operations_socket(settings, process, registry, state):
            await run_until_stopped(stop, [("jobs", take_jobs()), ("archive", _keep_archiving(archive))], drain)
    finally:
        await closing.close()
    log.info("stopped")


async def _keep_archiving(archive: Archive) -> None:
    while True:
        try:
            for entry in await archive.archive_closed(now_us()):
                log.info(
                    "archived a day", venue=entry.venue, day=str(entry.day), quotes=entry.quote_count,
                    trades=entry.trade_count, generation=entry.generation,
                )  # fmt: skip
        except (OddstreamError, OSError):
            log.exception("the archive can't be kept up now; it is tried again in an hour")
        await asyncio.sleep(ARCHIVE_SECONDS)


def _conninfo(settings: Settings, secrets: HeldSecrets) -> Callable[[], Awaitable[str]]:
    """Where the queue's own driver connects; the login is asked for at each connection, as everywhere."""
    dsn = driver_dsn(required_urls(settings)[0])
    tls = database_tls(settings) is not None

    async def current() -> str:
        login = None
        if settings.database_login is not None:
            login = await SecretLogins(secrets, settings.database_login).current()
        return conninfo(
            dsn,
            user=None if login is None else login.user,
            password=None if login is None else login.password,
            role=settings.database_role,
            tls=tls,
            ca_file=settings.database_ca_file,
        )

    return current


def compute(settings: Settings, step: str, run_id: str, attempt: int, shard: int) -> int:
    """Compute one step of a run as a worker's child; answers the exit code."""
    start_logging(settings, "job")
    if settings.parent_pid is not None:
        try:
            die_with_parent(settings.parent_pid, signal.SIGKILL)
        except ParentGone:
            return 1
    first_to_go()
    try:
        return asyncio.run(_compute(settings, step, run_id, attempt, shard))
    except Unavailable as error:
        log.warning("something that a job depends on is away", reason=error.reason)
        return AWAY_EXIT_CODE
    except Exception:
        log.exception("a job ended without a verdict", run=run_id)
        return 1


async def _compute(settings: Settings, step: str, run_id: str, attempt: int, shard: int) -> int:
    database = open_database(settings.model_copy(update=_CHILD_POOL), "job")
    try:
        records = SweepWorkRecords(database)
        computation = Computation(
            records,
            RecordedRows(database, archive_folder(settings)),
            Planner(open_registry()),
            now_us,
            settings.backtest_shard_rows,
        )
        run = await records.held_run(run_id)
        if run is None:
            return 0
        steps: dict[str, Callable[[Run], Awaitable[None]]] = {
            "backtest": computation.backtest,
            "sweep_plan": computation.plan_sweep,
            "sweep_judge": computation.judge_sweep,
        }
        if step == "sweep_shard":
            claimed: ClaimedShard | None = await records.held_shard(run_id, shard, attempt)
            if claimed is None:
                return 0
            held = claimed
            error = await guarded(lambda: computation.sweep_shard(held))
        else:
            if run.attempt != attempt:
                return 0
            error = await guarded(lambda: steps[step](run))
        if error is not None:
            await records.fail(run_id, run.attempt, error, now_us())
    finally:
        await database.close()
    return 0


async def archive_closed_days(settings: Settings) -> None:
    """Archive what is due, verify everything, and say what came of it."""
    required_urls(settings)
    database = open_database(settings, "command")
    try:
        archive = Archive(database, archive_folder(settings))
        for entry in await archive.archive_closed(now_us()):
            say(f"archived {entry.venue} {entry.day}: {entry.quote_count} quotes, {entry.trade_count} trades")
        damaged = await archive.verify()
        for file in damaged:
            say(f"DAMAGED OR MISSING: {archive.root / file}")
        say("every file is as its manifest says" if not damaged else f"{len(damaged)} files are not")
    finally:
        await database.close()
