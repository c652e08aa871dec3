"""One Redis on a unix socket: started empty, stopped, its socket removed.

It keeps nothing on disk. What it holds is limiter buckets, caches and wake-ups: each reader has to live with their loss
anyway (Redis away for 30 seconds), while a restored copy would be worse than none: leases of processes that are dead,
principals that were revoked meanwhile. What must survive is in PostgreSQL.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path
from urllib.parse import quote

from oddstream_server.embedded.errors import ServiceFailedToStart
from oddstream_server.embedded.launch.placement import Placement
from oddstream_server.embedded.launch.process import Child, Report, end_leftovers, last_lines, open_private, progress

_NAME = "Redis"
_SOCKET_NAME = "redis.sock"
_POLL_SECONDS = 0.01
_START_PATIENCE_SECONDS = 30.0
_STOP_PATIENCE_SECONDS = 10.0


class RedisServer:
    """The Redis of one placement. Its caller holds the data folder's lock, or owns a throw-away folder."""

    def __init__(self, placement: Placement, *, max_memory_megabytes: int = 128) -> None:
        self._placement = placement
        self._max_memory_megabytes = max_memory_megabytes
        self._start_log = placement.start_logs / "redis-start.log"
        self._child: Child | None = None

    @property
    def socket(self) -> Path:
        return self._placement.sockets / _SOCKET_NAME

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket), safe='/')}?db=0"

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None and self._child.running else None

    async def start(self, report: Report) -> None:
        """End what an earlier server left, start, and wait for the answer to PING.

        A start that is cancelled is ended by `stop`. Raises ServiceFailedToStart.
        """
        await end_leftovers(
            self._placement.redis_data,
            self._placement.programs.redis_server.name,
            name=_NAME,
            gentle=signal.SIGTERM,
            patience_seconds=_STOP_PATIENCE_SECONDS,
            report=report,
        )
        self.socket.unlink(missing_ok=True)
        async with progress(report, f"starting {_NAME}"):
            await self._launch()

    async def stop(self, report: Report) -> None:
        """SIGTERM, which Redis takes as SHUTDOWN; nothing is left running."""
        if self._child is None:
            return
        child, self._child = self._child, None
        await child.stop((signal.SIGTERM, _STOP_PATIENCE_SECONDS), name=_NAME, report=report)
        self.socket.unlink(missing_ok=True)

    async def exited(self) -> int:
        """Wait for the running server's end; its exit status."""
        if self._child is None:
            raise RuntimeError("Redis isn't started")
        return await self._child.exited()

    async def _launch(self) -> None:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self._placement.redis_data),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            "databases": "16",
            "maxmemory": f"{self._max_memory_megabytes}mb",
            # Every key can be lost, so a full memory drops the least used and refuses nobody.
            "maxmemory-policy": "allkeys-lru",
            "loglevel": "notice",
            "logfile": str(self._placement.logs / "redis.log"),
            "set-proc-title": "no",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        with open_private(self._start_log) as output:
            child = Child.launch(
                [self._placement.programs.redis_server, *arguments],
                identity=self._placement.identity,
                folder=self._placement.redis_data,
                death_signal=signal.SIGTERM,
                output=output.fileno(),
            )
        self._child = child
        try:
            async with asyncio.timeout(_START_PATIENCE_SECONDS):
                while not self._answers():
                    if not child.running:
                        self._child = None
                        raise ServiceFailedToStart(
                            _NAME,
                            f"ended while starting (exit {child.exit_status})",
                            last_lines(self._start_log),
                            self._placement.logs / "redis.log",
                        )
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            await self.stop(lambda _: None)
            raise ServiceFailedToStart(
                _NAME,
                f"didn't answer within {_START_PATIENCE_SECONDS:.0f} s",
                last_lines(self._start_log),
                self._placement.logs / "redis.log",
            ) from None

    def command(self, *words: str) -> str:
        """Send one command and return the first line of the answer. Raises OSError when nobody answers."""
        # A local socket answers in microseconds; the bound is for a server that hangs.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(0.5)
            connection.connect(str(self.socket))
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(4096).decode(errors="replace").partition("\r\n")[0]

    def _answers(self) -> bool:
        try:
            return self.command("PING") == "+PONG"
        except OSError:
            return False
