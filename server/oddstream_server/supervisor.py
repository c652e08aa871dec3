"""The parent of everything: embedded services, migrations, the first key, and the worker processes.

``run`` starts what the settings ask for, says in a few lines what runs where and what to type next, keeps the workers
alive (a crashed one comes back after a growing pause), answers the operations port for all of them, and takes
everything down in order. Workers die with it, however it dies.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from oddstream_server.observability.operations import (
    OperationsServer,
    State,
    WorkerClient,
    merged_metrics,
    process_metrics,
)
from oddstream_server.settings import worker_environment

log = structlog.get_logger()

Report = Callable[[str], None]

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
HEALTHY_AFTER_SECONDS = 30.0


class Worker:
    """One worker process and its restarts.

    :param arguments: of ``oddstream-server``, e.g. ``("serve", "--index", "0")``.
    :param stop_seconds: between SIGTERM and SIGKILL.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], environment: dict[str, str], socket: Path, stop_seconds: float
    ) -> None:
        self.name = name
        self.client = WorkerClient(name, socket)
        self._arguments = tuple(arguments)
        self._environment = environment
        self._stop_seconds = stop_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def _spawn(self) -> None:
        # A session of its own: Ctrl-C reaches the supervisor alone, which then stops the workers in order.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "oddstream_server",
            *self._arguments,
            env={**self._environment, "ODDSTREAM_PARENT_PID": str(os.getpid())},
            start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL,
        )

    async def _keep(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            process = self._process
            if process is None:
                raise RuntimeError(f"worker {self.name} was never started")
            begun = time.monotonic()
            code = await process.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - begun > HEALTHY_AFTER_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            log.error("worker ended by itself", worker=self.name, exit_code=code, restart_in_seconds=pause)
            try:
                await asyncio.wait_for(self._stopping.wait(), pause)
            except TimeoutError:
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                self.restarts += 1
                await self._spawn()
            else:
                return

    def signal(self, signum: signal.Signals) -> None:
        if self._process and self._process.returncode is None:
            self._process.send_signal(signum)

    async def stop(self) -> None:
        """SIGTERM, wait, and SIGKILL for one that doesn't end in its time."""
        self._stopping.set()
        self.signal(signal.SIGTERM)
        if self._process is not None:
            try:
                await asyncio.wait_for(self._process.wait(), self._stop_seconds)
            except TimeoutError:
                log.error("worker did not end in time and is killed", worker=self.name, seconds=self._stop_seconds)
                self.signal(signal.SIGKILL)
                await self._process.wait()
        if self._keeper is not None:
            await self._keeper


class WorkerGroup:
    """All workers of a supervisor, with one operations port for them."""

    def __init__(self, version: str) -> None:
        self.workers: list[Worker] = []
        self._version = version
        self.draining = False
        registry = CollectorRegistry()
        self._up = Gauge("oddstream_worker_up", "1 while the worker's process runs.", ["name"], registry=registry)
        self._restarts = Counter(
            "oddstream_worker_restarts",
            "Times that a worker ended by itself and was started again.",
            ["name"],
            registry=registry,
        )
        self._own = process_metrics(registry)
        self._counted: dict[str, int] = {}
        self.operations = OperationsServer(self.state, self._metrics)

    def add(
        self,
        name: str,
        arguments: Sequence[str],
        settings: dict[str, str],
        run_folder: Path,
        stop_seconds: float,
    ) -> Worker:
        worker = Worker(name, arguments, worker_environment(settings), run_folder / f"{name}.sock", stop_seconds)
        self.workers.append(worker)
        self._up.labels(name)
        self._restarts.labels(name)
        return worker

    async def _metrics(self) -> bytes:
        for worker in self.workers:
            self._up.labels(worker.name).set(worker.pid is not None)
            new = worker.restarts - self._counted.get(worker.name, 0)
            self._restarts.labels(worker.name).inc(new)
            self._counted[worker.name] = worker.restarts
        return await merged_metrics(self._own, [w.client for w in self.workers])

    async def state(self) -> State:
        """Ready when every serving worker is ready and no drain has begun."""
        states = await asyncio.gather(*(w.client.state() for w in self.workers))
        workers = {w.name: s for w, s in zip(self.workers, states, strict=True)}
        serving = [s for name, s in workers.items() if name.startswith("serve")]
        ready = not self.draining and bool(serving) and all(s is not None and s["ready"] for s in serving)
        return {"ready": ready, "version": self._version, "draining": self.draining, "workers": workers}

    async def stop(self) -> None:
        """Serving workers first, since they drain; then the pipeline and the rest."""
        self.draining = True
        serving = [w for w in self.workers if w.name.startswith("serve")]
        others = [w for w in self.workers if not w.name.startswith("serve")]
        await asyncio.gather(*(w.stop() for w in serving))
        await asyncio.gather(*(w.stop() for w in others))


def progress_reporter(write: Report, quiet_seconds: float = 2.0) -> Report:
    """Let a line through only where the one before it is older than ``quiet_seconds``: fast starts stay quiet."""
    last = time.monotonic()

    def report(text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= quiet_seconds:
            write(text)
            last = now

    return report
