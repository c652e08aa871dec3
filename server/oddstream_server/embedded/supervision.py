"""Keeps one service alive: notices its end, starts it again with growing pauses, and says how it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from oddstream_server.embedded.errors import EmbeddedError
from oddstream_server.embedded.launch.process import Report

logger = logging.getLogger(__name__)

# The first pause is shorter than any reader's budget for a retry; the last keeps a full disk from being hammered.
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 15.0
_STEADY_AFTER_SECONDS = 60.0


class Service(Protocol):
    """What can be supervised."""

    @property
    def pid(self) -> int | None: ...

    async def start(self, report: Report) -> None: ...

    async def stop(self, report: Report) -> None: ...

    async def exited(self) -> int: ...


class ServiceState(Enum):
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """How a service is. `restarts` counts the ends nobody asked for; `detail` is the last of them, or empty."""

    name: str
    state: ServiceState
    pid: int | None
    restarts: int
    detail: str

    @property
    def healthy(self) -> bool:
        return self.state is ServiceState.RUNNING


class Supervisor:
    """One service and the task that watches over it."""

    def __init__(self, name: str, service: Service) -> None:
        self._name = name
        self._service = service
        self._state = ServiceState.STOPPED
        self._restarts = 0
        self._detail = ""
        self._watching: asyncio.Task[None] | None = None

    @property
    def health(self) -> ServiceHealth:
        return ServiceHealth(self._name, self._state, self._service.pid, self._restarts, self._detail)

    async def start(self, report: Report) -> None:
        """Start the service; a first start that fails is the caller's to see, later ones are tried again."""
        self._state = ServiceState.STARTING
        try:
            await self._service.start(report)
        except BaseException:
            self._state = ServiceState.STOPPED
            raise
        self._state = ServiceState.RUNNING
        self._watching = asyncio.create_task(self._watch(), name=f"watch {self._name}")

    async def stop(self, report: Report) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        await self._service.stop(report)
        self._state = ServiceState.STOPPED

    async def _watch(self) -> None:
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            began = time.monotonic()
            status = await self._service.exited()
            self._state = ServiceState.RESTARTING
            self._restarts += 1
            self._detail = f"ended by itself ({_in_words(status)})"
            logger.error("%s %s; starting it again", self._name, self._detail)
            if time.monotonic() - began > _STEADY_AFTER_SECONDS:
                pause_seconds = _FIRST_PAUSE_SECONDS
            pause_seconds = await self._start_again(pause_seconds)
            self._state = ServiceState.RUNNING
            logger.warning("%s runs again as pid %s (restart %d)", self._name, self._service.pid, self._restarts)

    async def _start_again(self, pause_seconds: float) -> float:
        """Try until it runs; returns the pause before the next try, should one be needed soon."""
        while True:
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)
            try:
                await self._service.start(logger.info)
            except (EmbeddedError, OSError) as error:
                self._detail = str(error)
                logger.error("%s doesn't start, next try in %.1f s: %s", self._name, pause_seconds, error)
            else:
                return pause_seconds


def _in_words(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit {status}"
