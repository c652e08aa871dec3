"""A TCP proxy that does to connections what networks do: cut them, or swallow everything without a word."""

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class FaultProxy:
    """Listens on a port of its own and passes bytes to ``target_port`` of this machine.

    :ivar resets: connections that were cut with a TCP reset.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._swallowed: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._held: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        """Of the swallowed ones, those that the target has not closed yet."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.resets = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        return len(self._pairs)

    def reset(self) -> int:
        """Cut every connection with a TCP reset; answers how many."""
        pairs = list(self._pairs)
        for pair in pairs:
            for writer in pair:
                _reset(writer)
        self.resets += len(pairs)
        return len(pairs)

    def swallow(self) -> int:
        """From now on the connections that are open pass nothing, and nobody is told; new ones work.

        Answers how many they are.
        """
        new = self._pairs - self._swallowed
        self._swallowed |= new
        self._held |= new
        return len(new)

    @property
    def given_up(self) -> bool:
        """True once the target has closed its end of every connection that was swallowed."""
        return not self._held

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            _reset(writer)
            self._tasks.discard(task)
            return
        pair = (writer, back)
        self._pairs.add(pair)
        both = [
            asyncio.create_task(self._pass_on(reader, back, pair)),
            asyncio.create_task(self._pass_on(there, writer, pair)),
        ]
        try:
            # Where one way ends, the connection does. A cancellation is the proxy's own end, and is nobody's error.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in both:
                way.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            self._pairs.discard(pair)
            self._swallowed.discard(pair)
            self._held.discard(pair)
            self._tasks.discard(task)
            for end in pair:
                end.close()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                if pair in self._swallowed:
                    continue
                writer.write(chunk)
                await writer.drain()
        if pair in self._swallowed:
            if writer is pair[0]:
                self._held.discard(pair)
            # Not even that one end went away gets through.
            await asyncio.Event().wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
