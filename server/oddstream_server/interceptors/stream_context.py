"""A server stream's beginning: its initial metadata are out before anything else, whatever happens meanwhile."""

import asyncio
from typing import Any

import grpc

Context = grpc.aio.ServicerContext[Any, Any]


class StreamContext:
    """gRPC's own context, but that initial metadata are sent whole and before the first message.

    gRPC sends them with the first message and forgets that it did where the task is cancelled meanwhile, as a stream
    is that has lost its key. It would send them once more with the status, which fails, and the client would wait for
    ever on a stream that is over.
    """

    __slots__ = ("_context", "write")

    def __init__(self, context: Context) -> None:
        self._context = context
        self.write = self._first

    async def send_initial_metadata(self, metadata: Any) -> None:
        sending = asyncio.ensure_future(self._context.send_initial_metadata(metadata))
        self.write = self._context.write
        try:
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            await asyncio.wait([sending])  # takes no longer than to write to the connection, or to lose it
            if not sending.cancelled():
                sending.exception()  # of a client that went; the cancellation says all
            raise

    async def _first(self, message: Any) -> None:
        await self.send_initial_metadata(())
        await self.write(message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
