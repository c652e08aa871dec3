"""One child process of ours, from exec to reaped: launched with a death signal, waited for without a thread.

Also the search for processes that an earlier server left in a folder, and their clean end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from oddstream_server.embedded.errors import LaunchedOffMainThread

logger = logging.getLogger(__name__)

Report = Callable[[str], None]
"""Takes one line of progress for the person who waits."""

_CHILD_PROGRAM = Path(__file__).with_name("child.py")
_PROGRESS_AFTER_SECONDS = 2.0
_POLL_SECONDS = 0.01


class IdentityKind(Enum):
    """How a child comes to run as somebody who isn't root; the values are child.py's words."""

    SAME_USER = "same-user"
    SWITCHED_USER = "switched-user"
    USER_NAMESPACE = "user-namespace"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a child runs as, and who must own its files as the machine sees it."""

    kind: IdentityKind
    uid: int
    gid: int

    @property
    def owner(self) -> tuple[int, int]:
        """uid and gid of the files. In a user namespace the child seems to be nobody and is still us."""
        if self.kind is IdentityKind.SWITCHED_USER:
            return self.uid, self.gid
        return os.geteuid(), os.getegid()


class Child:
    """A launched program. Its process group is its own, so a Ctrl-C on the terminal reaches the server alone."""

    def __init__(self, process: subprocess.Popen[bytes], program: str) -> None:
        self._process = process
        self.program = program

    @classmethod
    def launch(
        cls,
        command: Sequence[str | Path],
        *,
        identity: Identity,
        folder: Path,
        death_signal: signal.Signals,
        output: int,
        errors: int = subprocess.STDOUT,
        stdin: int = subprocess.DEVNULL,
    ) -> Child:
        """Start `command` in `folder`; the kernel sends it `death_signal` when this process dies, however it dies.

        Raises LaunchedOffMainThread: the kernel watches the launching thread and not its process.
        """
        if threading.current_thread() is not threading.main_thread():
            raise LaunchedOffMainThread
        program = Path(command[0])
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, and programs of the installed wheels
            [
                sys.executable,
                "-ISE",
                _CHILD_PROGRAM,
                identity.kind.value,
                str(identity.uid),
                str(identity.gid),
                str(int(death_signal)),
                str(os.getpid()),
                folder,
                *command,
            ],
            stdin=stdin,
            stdout=output,
            stderr=errors,
            start_new_session=True,
            cwd="/",
            # Nothing of our environment: PGDATA, PGPORT or a locale of the shell would change what runs.
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": str(folder)},
        )
        return cls(process, program.name)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        if self.running:
            self._process.send_signal(number)

    async def exited(self) -> int:
        """Wait for the end, reap, and answer the exit status (negative: the signal that ended it)."""
        while (status := self._process.poll()) is None:
            await _ended(self.pid)
        return status

    async def communicate(self, text: bytes) -> int:
        """Give `text` on standard input (launched with PIPE), close it, and wait for the end."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
                pipe.write(text)
        return await self.exited()

    async def stop(self, *signals: tuple[signal.Signals, float], name: str, report: Report) -> int:
        """Send each signal in turn, giving it its seconds to work; SIGKILL when none did. Returns the exit status."""
        async with progress(report, f"stopping {name}"):
            for number, patience_seconds in signals:
                self.send(number)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience_seconds):
                        return await self.exited()
                logger.warning("%s didn't stop within %.0f s of %s", name, patience_seconds, number.name)
            self.send(signal.SIGKILL)
            return await self.exited()


@contextlib.asynccontextmanager
async def progress(report: Report, doing: str) -> AsyncIterator[None]:
    """Report `doing` with the seconds gone, every two seconds, for as long as the block takes."""

    async def tell() -> None:
        started = time.monotonic()
        while True:
            await asyncio.sleep(_PROGRESS_AFTER_SECONDS)
            report(f"{doing} ({time.monotonic() - started:.0f} s)")

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling


def processes_in(folder: Path, program: str) -> list[int]:
    """The pids of running `program`s whose working directory is `folder`, oldest first.

    PostgreSQL and Redis both change to their data folder, orphaned backends included, so this finds what a pid file
    can only guess at: a pid file outlives its process, and its number is given to others.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if (entry / "cwd").readlink() == folder and _program_name(entry) == program:
                found.append((_start_time(entry), int(entry.name)))
    return [pid for _, pid in sorted(found)]


async def end_leftovers(
    folder: Path, program: str, *, name: str, gentle: signal.Signals, patience_seconds: float, report: Report
) -> list[int]:
    """End every `program` that an earlier server left in `folder`, cleanly if it can; returns the pids.

    Only for the holder of the folder's lock: that is what makes whatever runs there a leftover.
    """
    leftovers = processes_in(folder, program)
    if not leftovers:
        return []
    logger.warning("%s was left running as pid %d: it is stopped, and its folder taken over", name, leftovers[0])
    async with progress(report, f"stopping the {name} that was left running as pid {leftovers[0]}"):
        # The oldest is the postmaster, who ends its backends in order. Orphans of a killed one end by themselves.
        _signal(leftovers[0], gentle)
        # One that is suspended would take no other signal.
        _signal(leftovers[0], signal.SIGCONT)
        if not await processes_gone(folder, program, patience_seconds):
            for pid in processes_in(folder, program):
                _signal(pid, signal.SIGKILL)
            await processes_gone(folder, program, patience_seconds)
    return leftovers


async def processes_gone(folder: Path, program: str, patience_seconds: float) -> bool:
    """Wait until nothing of `program` runs in `folder`; False when the seconds run out."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_seconds):
            while remaining := processes_in(folder, program):
                await _ended(remaining[0])
            return True
    return False


def open_private(path: Path) -> BinaryIO:
    """Open a file of ours for writing from its start, readable by nobody else."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "wb")


def last_lines(log: Path, count: int = 12) -> str:
    """The end of a log, for a message."""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-count:])
    except FileNotFoundError:
        return ""


async def _ended(pid: int) -> None:
    """Wait until the process is dead (a child of ours may still have to be reaped)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:
        # A kernel before 5.3, or a sandbox without pidfd.
        await asyncio.sleep(_POLL_SECONDS)
        return
    loop = asyncio.get_running_loop()
    dead = asyncio.Event()
    loop.add_reader(descriptor, dead.set)
    try:
        await dead.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _program_name(entry: Path) -> str:
    # An upgraded wheel leaves its old program running under a name with this ending.
    return (entry / "exe").readlink().name.removesuffix(" (deleted)")


def _start_time(entry: Path) -> int:
    # Field 22 of stat; the second field, the command in brackets, may itself hold blanks.
    return int((entry / "stat").read_text().rpartition(")")[2].split()[19])
