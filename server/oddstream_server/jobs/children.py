"""A child process that computes one job, and what it may use: memory, processor time, time.

Memory is what is resident: address space alone would count the arenas of numba and pyarrow. It is looked at ten times a
second; the child also offers itself to the kernel as the first to go when the machine runs out of memory.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

SAMPLE_SECONDS: Final = 0.1
LOOK_SECONDS: Final = 0.25
"""How often the run's row is looked at; well within the 2 s in which a cancelled child is gone."""
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
AWAY_EXIT_CODE: Final = 75
"""The child's way to say that something it depends on is away (EX_TEMPFAIL)."""


@dataclass(frozen=True, slots=True)
class ChildLimits:
    memory_bytes: int = 2 * 1024**3
    cpu_seconds: float = 3_600.0
    wall_seconds: float = 7_200.0


class Ending(Enum):
    DONE = "done"
    """It said what there was to say."""
    LOST = "lost"
    """It died, and nobody here killed it."""
    AWAY = "away"
    """Something that it depends on is away."""
    UNWANTED = "unwanted"
    """The run was cancelled or taken over, and the child was killed."""
    MEMORY = "memory"
    CPU = "cpu"
    WALL = "wall"


async def run_child(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    limits: ChildLimits,
    still_wanted: Callable[[], Awaitable[bool]],
) -> Ending:
    """Run ``oddstream-server`` with some arguments until it ends or has to be ended; cancelled, it kills the child.

    :param still_wanted: asked four times a second; an error of it counts as yes.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "oddstream_server",
        *arguments,
        env={**environment, "ODDSTREAM_PARENT_PID": str(os.getpid())},
        start_new_session=True,
        stdin=asyncio.subprocess.DEVNULL,
    )
    exited = asyncio.ensure_future(process.wait())
    try:
        verdict = await _watch(process.pid, exited, limits, still_wanted)
        if verdict is not None:
            return verdict
        code = await exited
        return {0: Ending.DONE, AWAY_EXIT_CODE: Ending.AWAY}.get(code, Ending.LOST)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await exited


async def _watch(
    pid: int,
    exited: "asyncio.Future[int]",
    limits: ChildLimits,
    still_wanted: Callable[[], Awaitable[bool]],
) -> Ending | None:
    """None once it has ended by itself, else why it has to be ended."""
    begun = time.monotonic()
    looking: asyncio.Task[bool] | None = None
    looked_at = begun
    try:
        while True:
            await asyncio.wait([exited], timeout=SAMPLE_SECONDS)
            if exited.done():
                return None
            now = time.monotonic()
            memory, cpu = usage(pid)
            if memory > limits.memory_bytes:
                return Ending.MEMORY
            if cpu > limits.cpu_seconds:
                return Ending.CPU
            if now - begun > limits.wall_seconds:
                return Ending.WALL
            if looking is not None and looking.done():
                if looking.exception() is None and not looking.result():
                    return Ending.UNWANTED
                looking = None
            if looking is None and now - looked_at >= LOOK_SECONDS:
                looked_at = now
                looking = asyncio.ensure_future(_ask(still_wanted))
    finally:
        if looking is not None:
            looking.cancel()


async def _ask(question: Callable[[], Awaitable[bool]]) -> bool:
    return await question()


def usage(pid: int) -> tuple[int, float]:
    """Resident bytes and processor seconds of a process; nothing for one that is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        # the name in parentheses may hold anything, spaces too
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, IndexError, ValueError):
        return 0, 0.0
    return pages * _PAGE, (int(fields[11]) + int(fields[12])) / _TICKS


def first_to_go() -> None:
    """Let the kernel take this process before any other when memory runs out."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
