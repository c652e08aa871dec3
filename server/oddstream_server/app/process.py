"""What every worker process has: its settings' view of the outside, its metrics, its tasks, its operations socket."""

import asyncio
import contextlib
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import structlog

# Not the default registry: what a library registers there by itself is not ours to promise.
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from oddstream_server.app.secrets import SecretLogins, open_secrets
from oddstream_server.application.privacy.people import token_pseudonym
from oddstream_server.application.secrets.sealing import Sealer
from oddstream_server.embedded.layout import DataFolder
from oddstream_server.identity.access_tokens import AccessTokens, TokenRules
from oddstream_server.identity.key_set import KeySet
from oddstream_server.lifecycle import StopSignal, calm_collector, die_with_parent
from oddstream_server.observability.logging import configure_logging
from oddstream_server.observability.operations import OperationsServer, State, process_metrics
from oddstream_server.secrets.held import HeldSecrets
from oddstream_server.settings import LogFormat, Settings
from oddstream_server.shared_state.connection import SharedState
from oddstream_server.storage.connector import Connector
from oddstream_server.storage.database import Database
from oddstream_server.transport.certificates import CertificateFiles

log = structlog.get_logger()


def now_us() -> int:
    """The wall clock in microseconds since the epoch."""
    return time.time_ns() // 1_000


def data_folder(settings: Settings) -> DataFolder:
    return DataFolder.at(settings.data_dir)


def archive_folder(settings: Settings) -> Path:
    """Where closed days are kept in Parquet; who computes backtests or drops old ticks has to reach it."""
    return settings.archive_dir or data_folder(settings).root / "archive"


def worker_sockets(settings: Settings) -> Path:
    """Where the workers' operations sockets are: with the embedded services' own."""
    folder = data_folder(settings)
    folder.create()
    owners = {os.geteuid(), folder.run.stat().st_uid}
    return folder.socket_folder(owners)


def start_logging(settings: Settings, process: str) -> None:
    configure_logging(
        level=settings.log_level,
        json=settings.log_format is LogFormat.JSON,
        file=settings.log_file,
        process=process,
    )


def required_urls(settings: Settings) -> tuple[str, str]:
    """Database and Redis of a worker; the supervisor sets both, embedded or not."""
    if settings.database_url is None or settings.redis_url is None:
        raise SystemExit(
            "this command needs ODDSTREAM_DATABASE_URL and ODDSTREAM_REDIS_URL; "
            "`oddstream-server run` starts the embedded services and sets both"
        )
    return settings.database_url.get_secret_value(), settings.redis_url.get_secret_value()


def database_connector(settings: Settings) -> Connector:
    """For what connects by itself: migrations."""
    if settings.database_url is None:
        raise SystemExit("this command needs ODDSTREAM_DATABASE_URL")
    return Connector(
        settings.database_url.get_secret_value(),
        tls=database_tls(settings),
        logins=_logins(settings, None),
        role=settings.database_role,
    )


def _logins(settings: Settings, secrets: HeldSecrets | None) -> SecretLogins | None:
    if settings.database_login is None:
        return None
    return SecretLogins(secrets or open_secrets(settings, CollectorRegistry()), settings.database_login)


def open_database(settings: Settings, process: str, secrets: HeldSecrets | None = None) -> Database:
    """:param secrets: the process's own; None makes one for this database alone."""
    return Database(
        required_urls(settings)[0],
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_max_overflow,
        pool_timeout_seconds=settings.database_pool_timeout_seconds,
        recycle_seconds=settings.database_pool_recycle_seconds,
        application_name=f"oddstream {process}",
        tls=database_tls(settings),
        logins=_logins(settings, secrets),
        role=settings.database_role,
    )


def open_shared_state(settings: Settings, registry: CollectorRegistry, secrets: HeldSecrets) -> SharedState:
    logins = None if settings.redis_login is None else SecretLogins(secrets, settings.redis_login)
    return SharedState(
        required_urls(settings)[1],
        registry,
        ca_file=settings.redis_ca_file,
        credentials=None if logins is None else logins.user_and_password,
    )


def access_tokens(settings: Settings, sealer: Sealer) -> AccessTokens | None:
    """None where no OpenID provider is set up."""
    issuer = settings.oidc_issuer
    if issuer is None or settings.oidc_audience is None:
        return None
    rules = TokenRules(
        issuer=issuer,
        audience=settings.oidc_audience,
        role_claim=tuple(settings.oidc_role_claim.split(".")),
        roles=dict(settings.oidc_roles),
        leeway_seconds=settings.oidc_leeway_seconds,
    )
    keys = KeySet(issuer, settings.oidc_jwks_url, settings.oidc_ca_file)
    return AccessTokens(rules, keys, now_us, lambda subject: token_pseudonym(sealer, issuer, subject))


def certificate_files(settings: Settings) -> CertificateFiles | None:
    """The files of the gRPC port's certificate; None where the port is plaintext."""
    if settings.tls_certificate_file is None or settings.tls_private_key_file is None:
        return None
    return CertificateFiles(settings.tls_certificate_file, settings.tls_private_key_file, settings.tls_client_ca_file)


def reachable_host(bound: str) -> str:
    """Where this machine reaches a listener of its own."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}.get(bound, bound.strip("[]"))  # noqa: S104  # not bound


def service_tls(ca_file: Path | None) -> ssl.SSLContext:
    """For a client of PostgreSQL or Redis: TLS 1.3, and a certificate that is theirs."""
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def database_tls(settings: Settings) -> ssl.SSLContext | None:
    return service_tls(settings.database_ca_file) if settings.database_needs_tls else None


def new_registry() -> CollectorRegistry:
    # The creation times would double the number of series, and nothing reads them.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the package is typed but for this
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


@contextlib.asynccontextmanager
async def operations_socket(
    settings: Settings, process: str, registry: CollectorRegistry, state: Callable[[], Awaitable[State]]
) -> AsyncIterator[None]:
    """The worker's operations server on its unix socket."""
    path = worker_sockets(settings) / f"{process}.sock"
    server = OperationsServer(state, process_metrics(registry))
    await server.listen_unix(path)
    try:
        yield
    finally:
        await server.close()
        path.unlink(missing_ok=True)


class Stopped(Exception):
    """The stop signal came; ends the task group."""


async def run_until_stopped(
    stop: StopSignal,
    tasks: Sequence[tuple[str, Coroutine[Any, Any, None]]],
    on_stop: Callable[[], Awaitable[None]],
) -> None:
    """Run tasks that never end by themselves until the signal; then ``on_stop`` runs while they still do.

    One that ends or fails takes the process down: the supervisor starts a whole one again.
    """

    async def forever(name: str, work: Coroutine[Any, Any, None]) -> None:
        await work
        raise RuntimeError(f"task {name} ended by itself")

    async def until_signal() -> None:
        await stop.wait()
        await on_stop()
        raise Stopped

    try:
        async with asyncio.TaskGroup() as group:
            for name, work in tasks:
                group.create_task(forever(name, work), name=name)
            group.create_task(until_signal(), name="stop signal")
    except* Stopped:
        pass


def run_worker(settings: Settings, process: str, main: Callable[[StopSignal], Coroutine[Any, Any, None]]) -> int:
    """Run a worker's coroutine; answers the process's exit code."""
    start_logging(settings, process)
    if settings.parent_pid is not None:
        die_with_parent(settings.parent_pid)
    calm_collector()

    async def body() -> None:
        with StopSignal() as stop:
            await main(stop)

    try:
        asyncio.run(body())
    except Exception:
        log.exception("the process failed")
        return 1
    return 0


def default_migrations_folder() -> Path:
    """``migrations/`` of the checkout that this package runs from."""
    return Path(__file__).resolve().parents[3] / "migrations"


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, file=sys.stdout, flush=True)  # this is the command's own output, not a log
