"""The embedded default: one PostgreSQL and one Redis in a data folder, for as long as this server lives.

    services = EmbeddedServices(Path(".oddstream"))
    urls = await services.start(print)
    ...
    await services.stop(print)

Start from the main thread. A second server on the folder is refused; one that was killed with -9 has taken its children
with it (death signal), and whatever survived that is ended and taken over.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from oddstream_server.embedded.keys import Keyring, load_or_make_keys
from oddstream_server.embedded.launch.binaries import postgres_programs, redis_program
from oddstream_server.embedded.launch.placement import RELOCATION_ROOT, Placement, Programs, place
from oddstream_server.embedded.launch.process import IdentityKind, Report
from oddstream_server.embedded.layout import DataFolder, DataFolderLock, free_fraction, is_locked
from oddstream_server.embedded.postgres.cluster import PostgresCluster
from oddstream_server.embedded.redis_server import RedisServer
from oddstream_server.embedded.supervision import ServiceHealth, Supervisor

logger = logging.getLogger(__name__)

_NOTE = "services.json"


@dataclass(frozen=True, slots=True)
class ServiceUrls:
    """Where the services are reached.

    `database_url` is SQLAlchemy's form for asyncpg, `database_dsn` the same for raw asyncpg and psycopg; both over the
    unix socket, without a password. `database_tcp_dsn` is there if a port was asked for, holds the password, and never
    belongs into a log. A service that isn't ours to run has an empty URL.
    """

    database_url: str
    database_dsn: str
    redis_url: str
    database_tcp_dsn: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ServicesHealth:
    """How each service is; `None` for one that isn't ours to run."""

    postgres: ServiceHealth | None
    redis: ServiceHealth | None

    @property
    def healthy(self) -> bool:
        return all(service is None or service.healthy for service in (self.postgres, self.redis))


class EmbeddedServices:
    """PostgreSQL and Redis of one data folder.

    `postgres=False` or `redis=False` leaves that one to the operator. With `tcp_port` PostgreSQL listens on 127.0.0.1
    too. `postgres_settings` override the product's. `programs`, `identity_kinds` and `relocation_root` say what to run,
    as whom it may run, and where it goes when the data folder can't hold it; each has the product's default.
    """

    def __init__(
        self,
        data_folder: Path,
        *,
        postgres: bool = True,
        redis: bool = True,
        tcp_port: int | None = None,
        postgres_settings: Mapping[str, str] | None = None,
        programs: Programs | None = None,
        identity_kinds: Iterable[IdentityKind] = tuple(IdentityKind),
        relocation_root: Path = RELOCATION_ROOT,
    ) -> None:
        self._folder = DataFolder.at(data_folder)
        self._lock = DataFolderLock(self._folder)
        self._wants_postgres = postgres
        self._wants_redis = redis
        self._tcp_port = tcp_port
        self._postgres_settings = dict(postgres_settings or {})
        self._programs = programs
        self._identity_kinds = tuple(identity_kinds)
        self._relocation_root = relocation_root
        self._placement: Placement | None = None
        self._cluster: PostgresCluster | None = None
        self._postgres: Supervisor | None = None
        self._redis: Supervisor | None = None
        self._keys: Keyring | None = None
        self._database_is_new = False

    async def start(self, report: Report) -> ServiceUrls:
        """Take the folder, start both services and wait until they answer; `report` gets a line each two seconds.

        Raises DataFolderInUse, DataFolderUnusable, OtherPostgresMajor, KeysLost, KeysDamaged, KeysExposed, NoIdentity,
        BinariesMissing, ServiceFailedToStart; then nothing is left running, and the folder is free.
        """
        self._folder.create()
        self._lock.acquire()
        try:
            self._note.unlink(missing_ok=True)
            urls = await self._start(report)
            self._write_note(urls)
        except BaseException:
            await self.stop(report)
            raise
        return urls

    async def stop(self, report: Report) -> None:
        """Stop Redis, then PostgreSQL, and leave the folder: no process, no socket, no shared memory stays."""
        try:
            for supervisor in (self._redis, self._postgres):
                if supervisor is not None:
                    await supervisor.stop(report)
        finally:
            self._redis = self._postgres = self._cluster = None
            if self._lock.held:
                self._note.unlink(missing_ok=True)
                self._remove_short_sockets()
                self._placement = None
                self._lock.release()

    async def dump_database(self, target: Path, report: Report) -> None:
        """Write the running embedded database into the file `target` (for pg_restore): whole or not at all.

        For a copy before a migration. Raises ServiceFailedToStart when pg_dump fails, OSError on a full disk.
        """
        if self._cluster is None:
            raise RuntimeError("only a running embedded PostgreSQL can be dumped")
        await self._cluster.dump(target, report)

    @property
    def health(self) -> ServicesHealth:
        return ServicesHealth(
            postgres=self._postgres.health if self._postgres is not None else None,
            redis=self._redis.health if self._redis is not None else None,
        )

    @property
    def keys(self) -> Keyring:
        """Pepper and data key that belong to the embedded database, once started with it."""
        if self._keys is None:
            raise RuntimeError("the keys are there once start() has made or read them for the embedded PostgreSQL")
        return self._keys

    @property
    def database_is_new(self) -> bool:
        """Whether this start made the database."""
        return self._database_is_new

    def free_fraction(self) -> float:
        """The free part, 0 to 1, of the disk that the database is on."""
        return free_fraction(self._placement.postgres_data if self._placement is not None else self._folder.root)

    @property
    def _note(self) -> Path:
        return self._folder.root / _NOTE

    async def _start(self, report: Report) -> ServiceUrls:
        programs = self._programs or Programs(postgres_programs(), redis_program())
        placement = await place(
            self._folder, programs, kinds=self._identity_kinds, relocation_root=self._relocation_root
        )
        self._placement = placement
        logger.info("embedded services run as %s, data in %s", placement.identity.kind.value, placement.postgres_data)
        database_url = database_dsn = redis_url = ""
        database_tcp_dsn = None
        if self._wants_postgres:
            cluster = PostgresCluster(
                placement,
                password_file=self._folder.keys / "postgres_password",
                settings=self._postgres_settings,
                tcp_port=self._tcp_port,
            )
            cluster.check()
            self._database_is_new = cluster.is_new
            # Before the database: a start that is killed in between then finds keys, and no rows that lack them.
            self._keys = load_or_make_keys(self._folder.keys, database_is_new=cluster.is_new)
            self._cluster = cluster
            self._postgres = Supervisor("PostgreSQL", cluster)
            await self._postgres.start(report)
            database_url, database_dsn = cluster.address.url(), cluster.address.dsn()
            database_tcp_dsn = cluster.tcp_dsn
        if self._wants_redis:
            redis = RedisServer(placement)
            self._redis = Supervisor("Redis", redis)
            await self._redis.start(report)
            redis_url = redis.url
        return ServiceUrls(database_url, database_dsn, redis_url, database_tcp_dsn)

    def _write_note(self, urls: ServiceUrls) -> None:
        known = {**asdict(urls), "database_tcp_dsn": None, "pid": os.getpid()}
        fresh = self._note.with_suffix(".fresh")
        fresh.write_text(json.dumps(known) + "\n", encoding="utf-8")
        fresh.replace(self._note)

    def _remove_short_sockets(self) -> None:
        if self._placement is not None and self._placement.sockets.parent not in (
            self._folder.root,
            self._placement.postgres_data.parent,
        ):
            shutil.rmtree(self._placement.sockets, ignore_errors=True)


def running_services(data_folder: Path) -> ServiceUrls | None:
    """Where the services of the server that holds `data_folder` now are reached; None when no server runs or is ready.

    For commands beside a running server, such as an import.
    """
    folder = DataFolder.at(data_folder)
    if not is_locked(folder):
        return None
    try:
        known = json.loads((folder.root / _NOTE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return ServiceUrls(known["database_url"], known["database_dsn"], known["redis_url"])
