"""The servers that are compared with: a queue a subscriber behind grpc.aio, and ``websockets`` with its broadcast."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection, broadcast, serve

from loadtests.stream.feed_server import now_us
from loadtests.stream.payloads import FILTERS, Payload, Pool, request
from oddstream.v1 import signal_service_pb2
from oddstream_server.feed.signals.filters import CompiledFilter, facts_of
from oddstream_server.transport.streams import signal_watch

_FULL_BYTES = 64 * 1024
"""``websockets`` has no bound of its own: its publisher waits where any connection has this much waiting."""


def _compiled(body: bytes) -> CompiledFilter | None:
    message = signal_service_pb2.WatchSignalsRequest.FromString(body)
    return CompiledFilter(signal_watch(message).where) if message.HasField("filter") else None


class _Numbered:
    """Makes each signal's message once; with filters each message's stretch is that of its one signal."""

    def __init__(self, payload: Payload) -> None:
        self.head = 0
        self._pool = Pool(now_us())
        self._codec, self._view = payload.codec(), payload.view

    def next(self) -> tuple[bytes, Callable[[CompiledFilter | None], bool]]:
        self.head += 1
        event = self._pool.event(self.head, now_us())
        fragment, facts = self._codec.fragments(event)[self._view], facts_of(event)
        message = self.message(self.head - 1, self.head, fragment)
        return message, lambda where: where is None or where.matches(facts)

    @staticmethod
    def message(after: int, through: int, fragment: bytes = b"") -> bytes:
        head = signal_service_pb2.WatchSignalsResponse(after_sequence=after, through_sequence=through)
        return fragment + head.SerializeToString()


class NaiveServer(_Numbered):
    """What one writes first: a queue a subscriber, and a write for each signal."""

    window = 64
    """How many a publisher at saturation keeps in each queue."""

    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        self._queues: list[tuple[CompiledFilter | None, asyncio.Queue[bytes]]] = []

    async def watch(self, body: bytes, context: Any) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        await context.write(self.message(self.head, self.head))
        self._queues.append((_compiled(body), queue))
        while True:
            await context.write(await queue.get())

    def publish(self, count: int) -> None:
        for _ in range(count):
            message, passes = self.next()
            for where, queue in self._queues:
                if passes(where):
                    queue.put_nowait(message)

    def behind(self) -> int:
        return max((queue.qsize() for _, queue in self._queues), default=0)

    def top_up(self) -> None:
        behind = self.behind()
        if behind < self.window:
            self.publish(self.window - behind)


class WebsocketServer(_Numbered):
    """``websockets`` without compression and pings; a connection a subscriber, its filter's number is the path."""

    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        self._connections: dict[ServerConnection, CompiledFilter | None] = {}
        self._filtered = False

    async def start(self) -> int:
        server = await serve(
            self._serve, "127.0.0.1", 0, compression=None, ping_interval=None, close_timeout=0.1, backlog=4_096
        )
        port: int = next(iter(server.sockets)).getsockname()[1]
        return port

    async def _serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        number = int(connection.request.path.strip("/"))
        if not -1 <= number < FILTERS:
            await connection.close(HTTPStatus.BAD_REQUEST)
            return
        where = None if number < 0 else _compiled(request("basic", number))
        self._filtered = self._filtered or where is not None
        await connection.send(self.message(self.head, self.head))
        self._connections[connection] = where
        await connection.wait_closed()
        self._connections.pop(connection, None)

    def publish(self, count: int) -> None:
        for _ in range(count):
            message, passes = self.next()
            if self._filtered:
                broadcast((c for c, where in self._connections.items() if passes(where)), message)
            else:
                broadcast(self._connections, message)

    def behind(self) -> int:
        """Bytes that the fullest connection has waiting in the process."""
        return max((c.transport.get_write_buffer_size() for c in self._connections), default=0)

    def top_up(self) -> None:
        if self.behind() < _FULL_BYTES:
            self.publish(8)
