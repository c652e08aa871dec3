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

from oddstream_server.embedded.binaries import postgres_installations
from oddstream_server.embedded.errors import DataFolderUnusable, OtherPostgresMajor, ServiceFailedToStart
from oddstream_server.embedded.keys import read_or_make_secret
from oddstream_server.embedded.placement import Placement
from oddstream_server.embedded.process import (
    Child,
    Report,
    end_leftovers,
    last_lines,
    processes_gone,
    processes_in,
    progress,
)

logger = logging.getLogger(__name__)

ROLE = "oddstream"
DATABASE = "oddstream"
SOCKET_PORT = 5432
_NAME = "PostgreSQL"
_MANAGED_SETTINGS = "oddstream.conf"
_POLL_SECONDS = 0.01
_STOP_PATIENCE_SECONDS = 60.0
_ORPHAN_PATIENCE_SECONDS = 5.0

# Sized for a laptop that does other things too. What an operator may want to change is theirs to change: these stand
# in a file that postgresql.conf includes first, so a later line there, or ALTER SYSTEM, wins.
SETTINGS: Mapping[str, str] = {
    "max_connections": "100",
    "shared_buffers": "128MB",
    "effective_cache_size": "512MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "1GB",
    "min_wal_size": "80MB",
    "checkpoint_completion_target": "0.9",
    "wal_compression": "on",
    # A replica or an archive needs no more than its own line; wal_level can't change without a restart.
    "wal_level": "replica",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "hot_standby": "on",
    # Queries here are short: compiling them costs more than it saves.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "password_encryption": "scram-sha-256",
    "idle_in_transaction_session_timeout": "60s",
    "logging_collector": "on",
    "log_filename": "postgresql-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    "log_file_mode": "0600",
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
    "log_min_duration_statement": "1s",
    "log_lock_waits": "on",
    "log_checkpoints": "off",
    # A statement is logged without the values bound to it: they may be secrets.
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}

_HOST_BASED_ACCESS = """\
# The socket lies in a folder that only the owner of these files (and root) can enter, so it needs no password.
local  all          all                trust
local  replication  all                trust
host   all          all  127.0.0.1/32  scram-sha-256
host   all          all  ::1/128       scram-sha-256
host   replication  all  127.0.0.1/32  scram-sha-256
host   replication  all  ::1/128       scram-sha-256
"""


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

        Raises OtherPostgresMajor, DataFolderUnusable, ServiceFailedToStart.
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
        return [
            program,
            f"--host={self._placement.sockets}",
            f"--username={ROLE}",
            "--format=custom",
            f"--file=oddstream-{major}.dump",
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
            self._write_own(unfinished / "pg_hba.conf", _HOST_BASED_ACCESS)
            configuration = unfinished / "postgresql.conf"
            ours = f"include '{_MANAGED_SETTINGS}'  # rewritten at each start; your own settings belong below\n"
            self._write_own(configuration, ours + configuration.read_text(encoding="utf-8"))
            self._write_own(unfinished / _MANAGED_SETTINGS, "")
            await self._single_user(unfinished, f"CREATE DATABASE {DATABASE}")
        unfinished.rename(self._data)

    async def _set_password_if_new(self, report: Report) -> None:
        if self._tcp_port is None or self._password_file.exists():
            return
        # The password reaches PostgreSQL on standard input, and the disk only after it holds there.
        password = secrets.token_urlsafe(32)
        async with progress(report, f"setting the password of {_NAME}"):
            await self._single_user(self._data, f"ALTER ROLE {ROLE} PASSWORD '{password}'")
        read_or_make_secret(self._password_file, password)

    async def _single_user(self, data: Path, statement: str) -> None:
        await self._run(
            data,
            [self._programs.program("postgres"), "--single", "-j", "-D", data, "postgres"],
            statement.encode() + b";\n\n",
        )

    async def _run(self, folder: Path, command: list[str | Path], text: bytes | None = None) -> None:
        with self._start_log.open("wb") as output:
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
        lines = ["# Written by oddstream-server at each start. Your own settings belong into postgresql.conf.\n"]
        lines += (f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items())
        self._write_own(self._data / _MANAGED_SETTINGS, "".join(lines))

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
        with self._start_log.open("wb") as output:
            child = Child.launch(
                [self._programs.program("postgres"), "-D", self._data],
                identity=self._placement.identity,
                folder=self._data,
                death_signal=signal.SIGINT,
                output=output.fileno(),
            )
        self._child = child
        try:
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
        except asyncio.CancelledError:
            await self.stop(lambda _: None)
            raise

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
