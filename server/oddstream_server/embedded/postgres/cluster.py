"""One PostgreSQL cluster: made, started, stopped, and never shared with another major version.

`postgres` runs directly as our child, not under pg_ctl, so that its end is our event and ours is its signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from oddstream_server.embedded.errors import DataFolderUnusable, OtherPostgresMajor, ServiceFailedToStart
from oddstream_server.embedded.keys import read_or_make_secret
from oddstream_server.embedded.launch.binaries import postgres_installations
from oddstream_server.embedded.launch.placement import Placement
from oddstream_server.embedded.launch.process import (
    Child,
    Report,
    end_leftovers,
    last_lines,
    open_private,
    processes_gone,
    processes_in,
    progress,
)
from oddstream_server.embedded.postgres.settings import (
    HOST_BASED_ACCESS,
    MANAGED_SETTINGS,
    SETTINGS,
    scram_verifier,
    settings_file,
)

logger = logging.getLogger(__name__)

ROLE = "oddstream"
DATABASE = "oddstream"
SOCKET_PORT = 5432
_NAME = "PostgreSQL"
_POLL_SECONDS = 0.01
_STOP_PATIENCE_SECONDS = 60.0
_ORPHAN_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """Where a running cluster is reached."""

    sockets: Path
    port: int

    def dsn(self, database: str = DATABASE) -> str:
        """libpq's form, which asyncpg and psycopg take."""
        port = "" if self.port == SOCKET_PORT else f"&port={self.port}"
        return f"postgresql://{ROLE}@/{quote(database, safe='')}?host={quote(str(self.sockets), safe='/')}{port}"

    def url(self, database: str = DATABASE) -> str:
        """SQLAlchemy's form for asyncpg."""
        return self.dsn(database).replace("postgresql://", "postgresql+asyncpg://", 1)


class PostgresCluster:
    """The cluster of one placement. Its caller holds the data folder's lock, or owns a throw-away folder.

    `settings` come last in the managed settings. With `tcp_port` the cluster listens on 127.0.0.1 too, for the role
    `oddstream` with the password in `password_file`.
    """

    def __init__(
        self,
        placement: Placement,
        *,
        password_file: Path,
        settings: Mapping[str, str] | None = None,
        tcp_port: int | None = None,
    ) -> None:
        self._placement = placement
        self._programs = placement.programs.postgres
        self._data = placement.postgres_data
        self._password_file = password_file
        self._settings = {**SETTINGS, **(settings or {})}
        self._tcp_port = tcp_port
        self._child: Child | None = None
        self._start_log = placement.start_logs / "postgres-start.log"

    @property
    def data(self) -> Path:
        return self._data

    @property
    def is_new(self) -> bool:
        """No database has been made here yet."""
        return not self._data.exists()

    @property
    def address(self) -> PostgresAddress:
        return PostgresAddress(self._placement.sockets, self._tcp_port or SOCKET_PORT)

    @property
    def tcp_dsn(self) -> str | None:
        """libpq's form over 127.0.0.1, with the password in it; None when no port was asked for."""
        if self._tcp_port is None:
            return None
        password = quote(self._password_file.read_text(encoding="ascii").strip(), safe="")
        return f"postgresql://{ROLE}:{password}@127.0.0.1:{self._tcp_port}/{DATABASE}"

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and self._child.running else None

    async def start(self, report: Report) -> None:
        """Make the cluster if there is none, end what an earlier server left, start, wait until it takes connections.

        A start that is cancelled is ended by `stop`. Raises OtherPostgresMajor, DataFolderUnusable,
        ServiceFailedToStart.
        """
        self.check()
        if self.is_new:
            await self._initialise(report)
        else:
            await self._end_leftovers(report)
        await self._set_password_if_new(report)
        self._write_settings()
        self._remove_sockets()
        async with progress(report, f"starting {_NAME}"):
            await self._launch()

    async def stop(self, report: Report) -> None:
        """Fast shutdown: sessions are ended, everything is written, nothing is left running."""
        if self._child is None:
            return
        child, self._child = self._child, None
        # SIGQUIT gives up the clean checkpoint, not the data: the next start replays the log.
        await child.stop((signal.SIGINT, _STOP_PATIENCE_SECONDS), (signal.SIGQUIT, 10.0), name=_NAME, report=report)
        # The log collector outlives the postmaster by a moment.
        await processes_gone(self._data, "postgres", _STOP_PATIENCE_SECONDS)
        self._remove_sockets()

    async def dump(self, target: Path, report: Report) -> None:
        """Write the running database into `target` (pg_dump's custom format, mode 0600): whole or not at all.

        Raises ServiceFailedToStart when pg_dump fails, OSError when the file can't be written.
        """
        log = self._placement.start_logs / "dump.log"
        unfinished = target.with_name(f"{target.name}.unfinished")
        async with progress(report, f"copying the database to {target}"):
            with open_private(unfinished) as output, open_private(log) as errors:
                child = Child.launch(
                    [self._programs.program("pg_dump"), *self._dump_options()],
                    identity=self._placement.identity,
                    folder=self._data,
                    death_signal=signal.SIGTERM,
                    output=output.fileno(),
                    errors=errors.fileno(),
                )
                try:
                    status = await child.exited()
                except asyncio.CancelledError:
                    await child.stop((signal.SIGTERM, 5.0), name=child.program, report=report)
                    raise
                os.fsync(output.fileno())
        if status != 0:
            unfinished.unlink()
            raise ServiceFailedToStart(_NAME, f"couldn't be dumped (pg_dump exit {status})", last_lines(log), log)
        unfinished.replace(target)

    async def exited(self) -> int:
        """Wait for the running postmaster's end; its exit status."""
        if self._child is None:
            raise RuntimeError("the cluster isn't started")
        return await self._child.exited()

    async def _end_leftovers(self, report: Report) -> None:
        """End a postmaster, or a killed one's backends, that still run here, and free the folder for ours."""
        pid_file = self._data / "postmaster.pid"
        named = _first_number(pid_file)
        # Backends without a postmaster have nothing to finish: their shared memory is lost to all but them.
        postmaster_lives = named in processes_in(self._data, "postgres")
        await end_leftovers(
            self._data,
            "postgres",
            name=_NAME,
            gentle=signal.SIGINT,
            patience_seconds=_STOP_PATIENCE_SECONDS if postmaster_lives else _ORPHAN_PATIENCE_SECONDS,
            report=report,
        )
        # PostgreSQL itself takes over the file of a dead process. It refuses one whose number was given to another
        # process since, which at this point can be any but a PostgreSQL of this folder.
        if named is not None and Path(f"/proc/{named}").exists():
            pid_file.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises OtherPostgresMajor or DataFolderUnusable where this PostgreSQL must not touch the folder."""
        if self.is_new:
            return
        version = self._data / "PG_VERSION"
        if not version.is_file():
            if any(self._data.iterdir()):
                raise DataFolderUnusable(
                    self._data,
                    "holds files, and not a PostgreSQL database (no PG_VERSION)",
                    "Move it away, or set ODDSTREAM_DATA_DIR to another folder.",
                )
            self._data.rmdir()
            return
        found = int(version.read_text(encoding="ascii").strip().split(".")[0])
        if found != self._programs.major:
            raise OtherPostgresMajor(self._data, found, self._programs.major, self._dump_command(found))

    def _dump_command(self, major: int) -> list[str]:
        for installation in postgres_installations():
            if installation.major == major:
                program = str(installation.program("pg_dump"))
                break
        else:
            program = f"/usr/lib/postgresql/{major}/bin/pg_dump"
        return [program, f"--file=oddstream-{major}.dump", *self._dump_options()]

    def _dump_options(self) -> list[str]:
        address = self.address
        return [
            f"--host={address.sockets}",
            f"--port={address.port}",
            f"--username={ROLE}",
            "--no-password",
            "--format=custom",
            DATABASE,
        ]

    async def _initialise(self, report: Report) -> None:
        # Made under another name and renamed when whole: a start that was killed leaves no half of a database.
        unfinished = self._data.with_name(self._data.name + ".unfinished")
        await end_leftovers(
            unfinished, "postgres", name=_NAME, gentle=signal.SIGQUIT, patience_seconds=5.0, report=report
        )
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        os.chown(unfinished, *self._placement.identity.owner)
        async with progress(report, "making the database"):
            await self._run(
                unfinished,
                [
                    self._programs.program("initdb"),
                    f"--pgdata={unfinished}",
                    f"--username={ROLE}",
                    "--encoding=UTF8",
                    # Built into PostgreSQL, so the order of text doesn't change with the machine's C library.
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                    "--locale=C",
                    "--data-checksums",
                    "--auth=trust",
                    "--no-instructions",
                    *(["--no-sync"] if self._settings.get("fsync") == "off" else []),
                ],
            )
            self._write_own(unfinished / "pg_hba.conf", HOST_BASED_ACCESS)
            configuration = unfinished / "postgresql.conf"
            ours = f"include '{MANAGED_SETTINGS}'  # rewritten at each start; your own settings belong below\n"
            self._write_own(configuration, ours + configuration.read_text(encoding="utf-8"))
            self._write_own(unfinished / MANAGED_SETTINGS, "")
            await self._single_user(unfinished, f"CREATE DATABASE {DATABASE}")
        unfinished.rename(self._data)

    async def _set_password_if_new(self, report: Report) -> None:
        if self._tcp_port is None or self._password_file.exists():
            return
        # PostgreSQL is given the verifier and never the password: a statement that fails is logged.
        password = secrets.token_urlsafe(32)
        async with progress(report, f"setting the password of {_NAME}"):
            await self._single_user(self._data, f"ALTER ROLE {ROLE} PASSWORD '{scram_verifier(password)}'")
        read_or_make_secret(self._password_file, password)

    async def _single_user(self, data: Path, statement: str) -> None:
        await self._run(
            data,
            [self._programs.program("postgres"), "--single", "-j", "-D", data, "postgres"],
            statement.encode() + b";\n\n",
        )

    async def _run(self, folder: Path, command: list[str | Path], text: bytes | None = None) -> None:
        with open_private(self._start_log) as output:
            child = Child.launch(
                command,
                identity=self._placement.identity,
                folder=folder,
                death_signal=signal.SIGQUIT,
                output=output.fileno(),
                stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
            )
            try:
                status = await (child.exited() if text is None else child.communicate(text))
            except asyncio.CancelledError:
                await child.stop((signal.SIGQUIT, 5.0), name=child.program, report=lambda _: None)
                raise
        words = self._start_log.read_text(encoding="utf-8", errors="replace")
        # A single-user server exits with 0 after a failed statement.
        if status != 0 or (text is not None and ("ERROR:" in words or "FATAL:" in words)):
            raise ServiceFailedToStart(
                _NAME,
                f"couldn't be set up ({child.program} exit {status})",
                last_lines(self._start_log),
                self._start_log,
            )

    def _write_settings(self) -> None:
        settings = {
            **self._settings,
            "log_directory": str(self._placement.logs),
            "unix_socket_directories": str(self._placement.sockets),
            "unix_socket_permissions": "0700",
            "listen_addresses": "127.0.0.1" if self._tcp_port is not None else "",
            "port": str(self.address.port),
        }
        self._write_own(self._data / MANAGED_SETTINGS, settings_file(settings))

    def _write_own(self, path: Path, text: str) -> None:
        # The folder may belong to another user, so a name in it is never followed.
        fresh = path.with_name(path.name + ".fresh")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchown(descriptor, *self._placement.identity.owner)
            file.write(text)
        fresh.replace(path)

    async def _launch(self) -> None:
        with open_private(self._start_log) as output:
            child = Child.launch(
                [self._programs.program("postgres"), "-D", self._data],
                identity=self._placement.identity,
                folder=self._data,
                death_signal=signal.SIGINT,
                output=output.fileno(),
            )
        self._child = child
        while not self._is_ready(child.pid):
            if not child.running:
                self._child = None
                raise ServiceFailedToStart(
                    _NAME,
                    f"ended while starting (exit {child.exit_status})",
                    last_lines(self._start_log),
                    self._placement.logs,
                )
            await asyncio.sleep(_POLL_SECONDS)

    def _is_ready(self, pid: int) -> bool:
        # The postmaster writes its state into the eighth line; crash recovery may take minutes before it is ready.
        try:
            lines = (self._data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _remove_sockets(self) -> None:
        for name in (f".s.PGSQL.{self.address.port}", f".s.PGSQL.{self.address.port}.lock"):
            with contextlib.suppress(FileNotFoundError):
                (self._placement.sockets / name).unlink()


def _first_number(path: Path) -> int | None:
    try:
        first = path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except FileNotFoundError:
        return None
    return int(first) if first.isdigit() else None
