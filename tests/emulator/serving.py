"""An aiohttp application on a port of its own, and sockets whose frames can be lost."""

import asyncio
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

from tests.emulator.faults import Faults


class Served:
    """An application that is up between ``async with`` and its end."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.application = web.Application(middlewares=[self.faults.middleware()])
        self._runner = web.AppRunner(self.application, access_log=None, shutdown_timeout=0.2)
        self.port = 0
        self.connections: list[Connection] = []
        self.handshakes = 0

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in list(self.connections):
            connection.abort()
        await self._runner.cleanup()

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def drained(self) -> None:
        """Wait until every open socket took its frames."""
        for connection in list(self.connections):
            await connection.drained()

    def drop_connections(self) -> None:
        """End every socket without a close frame."""
        for connection in list(self.connections):
            connection.abort()

    def go_half_open(self) -> None:
        """From now on the present sockets answer pings and carry no data; new ones work."""
        for connection in self.connections:
            connection.half_open = True


class Connection:
    """One client's socket with its frames in order, sent by a task of its own.

    :param ping_interval_s: how often the server sends a Ping control frame; 0 for never.
    """

    def __init__(self, socket: web.WebSocketResponse, request: web.Request, ping_interval_s: float = 0.0) -> None:
        self._socket = socket
        self._request = request
        self._frames: asyncio.Queue[str] = asyncio.Queue()
        self._ping_interval_s = ping_interval_s
        self._sender = asyncio.create_task(self._send())
        self._pinger = asyncio.create_task(self._ping())
        self.half_open = False
        self.pings = 0

    def put(self, frame: str) -> None:
        """Queue a frame; a half-open socket swallows it."""
        if not self.half_open:
            self._frames.put_nowait(frame)

    async def drained(self) -> None:
        if not self._sender.done():
            joined = asyncio.create_task(self._frames.join())
            await asyncio.wait([joined, self._sender], return_when=asyncio.FIRST_COMPLETED)
            joined.cancel()

    def abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()

    async def close(self) -> None:
        for task in (self._sender, self._pinger):
            task.cancel()
        await asyncio.gather(self._sender, self._pinger, return_exceptions=True)

    async def _send(self) -> None:
        try:
            while True:
                frame = await self._frames.get()
                await self._socket.send_str(frame)
                self._frames.task_done()
        except (ConnectionError, aiohttp.ClientError):
            return

    async def _ping(self) -> None:
        try:
            while self._ping_interval_s:
                await asyncio.sleep(self._ping_interval_s)
                await self._socket.ping(b"heartbeat")
                self.pings += 1
        except (ConnectionError, aiohttp.ClientError):
            return
