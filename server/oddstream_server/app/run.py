"""``oddstream-server run``: everything on one machine, started in order, told in a few lines, taken down in order."""

import asyncio
import importlib.metadata
import sys
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from oddstream_server.app.process import (
    certificate_files,
    data_folder,
    database_connector,
    default_migrations_folder,
    now_us,
    open_database,
    say,
    start_logging,
    worker_sockets,
)
from oddstream_server.app.secrets import KeyringUnusable, open_secrets, read_keyring
from oddstream_server.application.keys.issuing import first_admin_key
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.embedded.errors import EmbeddedError
from oddstream_server.embedded.services import EmbeddedServices
from oddstream_server.lifecycle import StopSignal
from oddstream_server.settings import Settings
from oddstream_server.storage.database import Database
from oddstream_server.storage.keys import ApiKeyStore
from oddstream_server.storage.migrate import current_revision, newest_revision, upgrade_async
from oddstream_server.storage.signals.signal_log import SignalLogStore
from oddstream_server.supervisor import WorkerGroup, progress_reporter
from oddstream_server.transport.certificates import CertificateUnusable, read_certificate

log = structlog.get_logger()

WORKER_CONNECTIONS = 10
"""Of a backtest worker with its child: its pool, the queue's, a job's lock, and the child's pool."""
START_SECONDS = 60.0
"""How long the workers may take to be ready before the start is given up."""
Report = Callable[[str], None]


class StartFailed(Exception):
    """Why the server can't start and what to do; made for the operator."""


def version() -> str:
    return importlib.metadata.version("oddstream-server")


async def run(settings: Settings) -> None:
    """Start, supervise, and stop everything.

    :raises StartFailed: with the reason and the way out.
    """
    folder = data_folder(settings)
    if settings.log_file is None and sys.stderr.isatty():
        settings = settings.model_copy(update={"log_file": folder.logs / "server.jsonl"})
    say(f"Oddstream {version()}")
    report = progress_reporter(lambda text: say(f"  … {text}"))
    embedded = EmbeddedServices(
        settings.data_dir, postgres=settings.database_url is None, redis=settings.redis_url is None
    )
    with StopSignal() as stop:
        try:
            urls = await embedded.start(report)
        except EmbeddedError as error:
            raise StartFailed(str(error)) from None
        try:
            start_logging(settings, "supervisor")
            settings = settings.with_services(urls.database_url or None, urls.redis_url or None)
            await _run_workers(settings, embedded, stop, report)
        finally:
            await embedded.stop(report)
    say("stopped: nothing is left running")


async def _run_workers(settings: Settings, embedded: EmbeddedServices, stop: StopSignal, report: Report) -> None:
    _check_certificate(settings)
    migrations = settings.migrations_dir or default_migrations_folder()
    database = open_database(settings, "supervisor")
    try:
        await _migrate(settings, embedded, migrations, report)
        await SignalLogStore(database).mint_data_set_id()
        await check_connection_budget(settings, database)
        first_key = await _first_key(settings, database)
    finally:
        await database.close()

    group = WorkerGroup(version())
    run_folder = worker_sockets(settings)
    for name, arguments, seconds in _worker_commands(settings):
        group.add(name, arguments, settings.worker_overrides(), run_folder, seconds)
    try:
        try:
            await group.operations.listen_tcp(settings.operations_host, settings.operations_port)
        except OSError as error:
            raise StartFailed(
                f"the operations port {settings.operations_host}:{settings.operations_port} can't be had "
                f"({error.strerror}): stop what holds it, or set ODDSTREAM_OPERATIONS_PORT"
            ) from None
        for worker in group.workers:
            await worker.start()
        if await _wait_until_ready(group, stop, report):
            await _announce(settings, group, first_key)
            await stop.wait()
        say("\nstopping: health says NOT_SERVING, streams are told, calls may finish (again to stop at once)")
    finally:
        await group.stop()
        await group.operations.close()


def _check_certificate(settings: Settings) -> None:
    """:raises StartFailed: each serving process would refuse to start for the same reason."""
    files = certificate_files(settings)
    if files is None:
        return
    try:
        read_certificate(files)
    except CertificateUnusable as error:
        raise StartFailed(str(error)) from None


def _worker_commands(settings: Settings) -> list[tuple[str, tuple[str, ...], float]]:
    """Name, arguments and seconds to stop of each worker."""
    drain = settings.drain_seconds + 2 * settings.grace_seconds + 10.0
    serving = [(f"serve-{index}", ("serve", "--index", str(index)), drain) for index in range(settings.workers)]
    pipelines = [
        ("pipeline" if index == 0 else f"pipeline-{index}", ("pipeline", "--index", str(index)), 20.0)
        for index in range(settings.pipelines)
    ]
    computing = [
        (f"worker-{index}", ("worker", "--index", str(index)), 20.0) for index in range(settings.backtest_workers)
    ]
    return [*serving, *pipelines, *computing]


async def _migrate(settings: Settings, embedded: EmbeddedServices, migrations: Path, report: Report) -> None:
    connector = database_connector(settings)
    revision = await current_revision(connector)
    if revision is not None and revision != newest_revision(migrations) and embedded.health.postgres is not None:
        copy = data_folder(settings).root / f"before-migration-{revision}-{int(time.time())}.dump"
        say(f"  … the schema is older ({revision}); a copy goes to {copy}")
        await embedded.dump_database(copy, report)
    await upgrade_async(connector, report=report, folder=migrations)


async def _first_key(settings: Settings, database: Database) -> str | None:
    """The text of the first admin key where there was none yet; it is shown once and kept hashed."""
    keys = ApiKeyStore(database)
    try:
        secrets = open_secrets(settings, CollectorRegistry())
        keyring = await read_keyring(settings, secrets, database_is_new=await keys.count() == 0)
    except (EmbeddedError, KeyringUnusable) as error:
        raise StartFailed(str(error)) from None
    issued = await first_admin_key(keys, Peppers(keyring.peppers), now_us())
    return issued.key.text if issued else None


async def check_connection_budget(settings: Settings, database: Database) -> None:
    """:raises StartFailed: the pools of all processes could ask for more connections than PostgreSQL gives."""
    processes = settings.workers + settings.pipelines
    listeners = settings.workers
    pool, overflow = settings.database_pool_size, settings.database_max_overflow
    wanted = processes * (pool + overflow) + listeners + settings.backtest_workers * WORKER_CONNECTIONS
    async with database.reading() as transaction:
        limit = int(await transaction.driver.fetchval("SHOW max_connections"))
    usable = limit - settings.database_reserved_connections
    if wanted > usable:
        raise StartFailed(
            f"{processes} processes x ({pool} + {overflow}) connections and "
            f"{listeners} listeners and {settings.backtest_workers} x {WORKER_CONNECTIONS} for backtests are {wanted}, "
            f"but max_connections {limit} less the reserve of "
            f"{settings.database_reserved_connections} leaves {usable}: lower ODDSTREAM_DATABASE_POOL_SIZE, "
            "ODDSTREAM_DATABASE_MAX_OVERFLOW or ODDSTREAM_WORKERS, or raise max_connections"
        )


async def _wait_until_ready(group: WorkerGroup, stop: StopSignal, report: Report) -> bool:
    """True once every serving worker serves and the pipeline answers; False when asked to stop before.

    :raises StartFailed: it took too long, or a worker ends again and again.
    """
    begun = time.monotonic()
    while not stop.is_set:
        state = await group.state()
        if state["ready"] and state["workers"]["pipeline"] is not None:
            return True
        failing = [worker.name for worker in group.workers if worker.restarts >= 3]
        if failing or time.monotonic() - begun > START_SECONDS:
            waiting = ", ".join(failing or (n for n, s in state["workers"].items() if s is None or not s["ready"]))
            raise StartFailed(f"{waiting} did not get ready: the log says why")
        report("the workers are starting")
        await asyncio.sleep(0.05)  # their state is asked for over sockets; nothing here could be awaited instead
    return False


async def _announce(settings: Settings, group: WorkerGroup, first_key: str | None) -> None:
    """Ten lines: what runs where, and what to type next."""
    state = await group.state()
    venues = state["workers"]["pipeline"]["venues"]
    port = next(s["port"] for name, s in state["workers"].items() if name.startswith("serve"))
    place = "embedded, in " + str(settings.data_dir)
    source = ", ".join(venues)
    if venues == {"simulated": venues.get("simulated")} and not settings.named_venues:
        source = "simulated (neither Kalshi nor Polymarket can be reached from here)"
    key = first_key or "$ODDSTREAM_API_KEY"
    wire = "TLS 1.3" if settings.has_tls else "plaintext"
    pipelines = "1 pipeline" if settings.pipelines == 1 else f"{settings.pipelines} pipelines, one leads"
    say(f"  gRPC         {settings.grpc_host}:{port}  {wire}  ({settings.workers} serving, {pipelines})")
    say(f"  operations   http://{settings.operations_host}:{group.operations.port}/health/ready  /metrics  /state")
    say(f"  venues       {source}")
    say(
        f"  data         {place if settings.embedded_database else 'PostgreSQL and Redis of your settings'}; "
        f"ticks are kept {settings.tick_retention_days} days"
    )
    say(f"  logs         {settings.log_file or 'stderr'}")
    if first_key:
        say(f"  admin key    {first_key}  (shown this once; kept hashed)")
    say("  next, in a second terminal:")
    say(f"    export ODDSTREAM_API_KEY={key}" if first_key else "    export ODDSTREAM_API_KEY=<your key>")
    say(f"    {Path(sys.argv[0]).parent / 'oddstream'} signals watch")
    say("  Ctrl-C drains and stops everything")
