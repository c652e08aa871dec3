"""How a process begins and ends: signals, the parent's death, and the order of going down.

The order of a serving process, outermost promise first: health says NOT_SERVING, we wait until balancers have noticed,
new streams are refused, open streams hear ``closing``, health watchers end, the server stops with grace, calls in
flight are awaited, then workers, Redis, the database, and metrics last. Nothing is ended by cancelling its handler.
"""

import asyncio
import ctypes
import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import structlog

log = structlog.get_logger()

_PR_SET_PDEATHSIG = 1


class ParentGone(Exception):
    """The parent process died before this one was ready."""


def die_with_parent(parent_pid: int, signum: signal.Signals = signal.SIGTERM) -> None:
    """Ask the kernel to signal this process when its parent dies, however it dies.

    :raises ParentGone: it died already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != parent_pid:
        raise ParentGone(f"parent {parent_pid} is gone")


def calm_collector() -> None:
    """Let the garbage collector look less often, and not at what was made up to now.

    A message to a thousand streams makes thousands of short-lived objects at once, and so do a batch's decisions: at
    the usual 700 the collector took a sixth of a feed's time. What has no cycles is freed at once either way.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


SAME_WISH_SECONDS = 1.0
"""A terminal, make and a shell's timeout may each pass the same Ctrl-C on: signals this close are one wish."""


class StopSignal:
    """An event that SIGTERM or SIGINT sets; another signal later ends the process at once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._first_at = 0.0

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._on_signal, signum)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signum)

    def _on_signal(self, signum: int) -> None:
        now = time.monotonic()
        if self._event.is_set() and now - self._first_at > SAME_WISH_SECONDS:
            log.warning("stopping at once: a second signal came", signal=signal.Signals(signum).name)
            os._exit(130)
        if not self._event.is_set():
            self._first_at = now
        self._event.set()

    def set(self) -> None:
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()


class Closing:
    """Closers run in reverse order of their registration; each gets its time, and one that fails stops no other."""

    def __init__(self) -> None:
        self._closers: list[tuple[str, float, Callable[[], Awaitable[None]]]] = []

    def add(self, name: str, close: Callable[[], Awaitable[None]], seconds: float = 10.0) -> None:
        self._closers.append((name, seconds, close))

    async def close(self) -> None:
        for name, seconds, close in reversed(self._closers):
            try:
                async with asyncio.timeout(seconds):
                    await close()
            except TimeoutError:
                log.error("did not close in time", part=name, seconds=seconds)
            except Exception:
                log.exception("failed to close", part=name)
        self._closers.clear()
