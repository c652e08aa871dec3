"""The server's processes over a database and a Redis of the test's own, started, killed and paused one by one."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import oddstream
from oddstream_server.application.keys.issuing import new_key
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.domain.principal import Role, Scopes
from oddstream_server.embedded.keys import load_or_make_keys
from oddstream_server.embedded.layout import DataFolder
from oddstream_server.storage.connector import driver_dsn
from oddstream_server.storage.database import Database
from oddstream_server.storage.keys import ApiKeyStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from tests.installation import free_port
from tests.log_check import keep_logs

LONG = os.environ.get("ODDSTREAM_DRILL") == "long"
"""The drills' figures in full; otherwise the short form that CI runs."""
START_SECONDS = 40.0
_ROOT = Path(__file__).resolve().parents[3]
SOURCES = os.pathsep.join(str(_ROOT / folder) for folder in (".", "server", "clients/python"))


def drill(short: int, full: int) -> int:
    return full if LONG else short


@dataclass
class Stage:
    """Where processes of the server meet. :meth:`serve`, :meth:`pipeline` and :meth:`write` start one each."""

    root: Path
    database_url: str
    dsn: str
    redis_url: str
    key: str
    key_id: str
    database: Database
    settings: dict[str, str] = field(default_factory=dict)
    sources: str = SOURCES
    """PYTHONPATH of the processes."""
    processes: list["subprocess.Popen[str]"] = field(default_factory=list)
    writers: list["Writer"] = field(default_factory=list)

    def environment(self, settings: dict[str, str]) -> dict[str, str]:
        named = {
            "data_dir": str(self.root / "data"),
            "database_url": self.database_url,
            "redis_url": self.redis_url,
            "venues": "simulated",
            "drain_seconds": "0",
            "grace_seconds": "2",
            "calls_per_minute": "1000000",
            "log_level": "warning",
            **self.settings,
            **settings,
        }
        variables = {f"ODDSTREAM_{name.upper()}": value for name, value in named.items()}
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.root), "PYTHONPATH": self.sources, **variables}

    def start(self, arguments: Sequence[str], settings: dict[str, str], plant: str = "") -> "subprocess.Popen[str]":
        command = ["-m", "tests.reliability.streams.planted", plant] if plant else ["-m", "oddstream_server"]
        with (self.root / "server.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, *command, *arguments],
                env=self.environment(settings),
                cwd=self.root,
                stderr=log,
                stdin=subprocess.DEVNULL,
                text=True,
            )
        self.processes.append(process)
        return process

    async def serve(
        self, port: int = 0, index: int = 0, plant: str = "", settings: dict[str, str] | None = None
    ) -> "Server":
        """A serving process that is ready."""
        server = Server(self, port or free_port(), index, plant, settings or {})
        await server.start()
        return server

    def pipeline(self, index: int) -> "subprocess.Popen[str]":
        """A candidate for the leadership, with the simulated venue; each needs a number of its own."""
        return self.start(["pipeline", "--index", str(index)], {})

    async def write(self, seed: int, events_per_s: float, plant: str = "") -> "Writer":
        """The process that writes the log; it ends with the stage, if nobody stops it before."""
        writer = Writer(self, seed, events_per_s, plant)
        self.writers.append(writer)
        await writer.start()
        return writer

    async def leader(self) -> tuple[int, str]:
        """Epoch and holder of a lease that has not run out; (0, "") where nobody leads."""
        async with self.database.reading() as transaction:
            row = await transaction.driver.fetchrow(
                "SELECT epoch, holder FROM leases WHERE name = 'pipeline' AND expire_time > clock_timestamp()"
            )
        return (0, "") if row is None else (row[0], row[1])

    async def head(self) -> int:
        return (await SignalLogStore(self.database).bounds()).head_sequence

    async def wait_for_head(self, sequence: int, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while (head := await self.head()) < sequence:
            assert time.monotonic() < deadline, f"the log is at {head} of {sequence} after {seconds} s\n{self.tail()}"
            await asyncio.sleep(0.1)

    async def from_the_beginning(self) -> Any:
        bounds = await SignalLogStore(self.database).bounds()
        return oddstream.at_position(oddstream.Position(bounds.data_set_id, 0))

    def tail(self) -> str:
        """The last words of each process."""
        logs = sorted(self.root.glob("*.log"))
        return "\n".join(f"{log.name}:\n{log.read_text()[-3000:]}" for log in logs)


class Server:
    """One serving process on a port that it keeps over its deaths."""

    def __init__(self, stage: Stage, port: int, index: int, plant: str, settings: dict[str, str]) -> None:
        self.port = port
        self.target = f"127.0.0.1:{port}"
        self._stage = stage
        self._arguments = ["serve", "--index", str(index)]
        self._plant = plant
        self._settings = {"grpc_port": str(port), **settings}
        self.process: subprocess.Popen[str] | None = None

    async def start(self) -> None:
        self.process = self._stage.start(self._arguments, self._settings, self._plant)
        deadline = time.monotonic() + START_SECONDS
        while not _listens(self.port):
            assert self.process.poll() is None, f"the server ended\n{self._stage.tail()}"
            assert time.monotonic() < deadline, f"the server did not get ready\n{self._stage.tail()}"
            await asyncio.sleep(0.03)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Writer:
    """The process of ``log_writer.py``."""

    def __init__(self, stage: Stage, seed: int, events_per_s: float, plant: str) -> None:
        self._command = [
            sys.executable, "-m", "tests.reliability.streams.log_writer",
            stage.dsn, str(seed), str(events_per_s), *([plant] if plant else []),
        ]  # fmt: skip
        self._stage = stage

    async def start(self) -> None:
        with (self._stage.root / "writer.log").open("a") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env={"PYTHONPATH": SOURCES},
                cwd=_ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        assert await self._process.stdout.readline() == b"ready\n"

    async def stop(self) -> dict[str, Any]:
        """Let it finish what it has begun; answers what it did."""
        out, _ = await self._process.communicate(b"stop\n")
        assert out, f"the writer ended\n{self._stage.tail()}"
        written: dict[str, Any] = json.loads(out)
        return written

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
        return True
    return False


@contextlib.asynccontextmanager
async def stage(
    database_url: str, redis_url: str, settings: dict[str, str] | None = None, role: Role = Role.VIEWER
) -> AsyncIterator[Stage]:
    """:param database_url: of a migrated database.
    :param role: of the key.
    """
    root = Path(tempfile.mkdtemp(prefix="oddstream-tests-"))
    root.chmod(0o711)
    folder = DataFolder.at(root / "data")
    folder.create()
    keys = load_or_make_keys(folder.keys, database_is_new=True)
    database = Database(database_url, pool_size=2)
    issued = new_key(Peppers(keys.peppers), owner="bots", role=role, scopes=Scopes(), now_us=time.time_ns() // 1000)
    await ApiKeyStore(database).create(issued.stored)
    await SignalLogStore(database).mint_data_set_id()
    made = Stage(
        root,
        database_url,
        driver_dsn(database_url),
        redis_url,
        issued.key.text,
        issued.key.key_id,
        database,
        dict(settings or {}),
    )
    try:
        yield made
    finally:
        for writer in made.writers:
            await writer.end()
        for process in made.processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        await database.close()
        keep_logs(root)
        shutil.rmtree(root, ignore_errors=True)
