"""What a stream's first message waits for, and what its cancellation waits for."""

import asyncio
from typing import Any, cast

import grpc
import pytest

from oddstream_server.interceptors.stream_context import StreamContext


class Wire:
    """gRPC's context, whose initial metadata take until the test lets them go."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.sent = asyncio.Event()

    async def send_initial_metadata(self, metadata: Any) -> None:
        self.told.append("begun")
        await self.sent.wait()
        self.told.append("metadata sent")

    async def write(self, message: Any) -> None:
        self.told.append(message)

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


def over(wire: Wire) -> StreamContext:
    return StreamContext(cast("grpc.aio.ServicerContext[Any, Any]", wire))


async def test_the_first_message_comes_after_the_initial_metadata_and_the_others_alone() -> None:
    wire = Wire()
    wire.sent.set()
    context = over(wire)
    for message in (b"1", b"2"):
        await context.write(message)
    assert wire.told == ["begun", "metadata sent", b"1", b"2"]
    assert context.peer() == "ipv4:127.0.0.1:1"


async def test_who_is_cancelled_meanwhile_hears_it_when_the_initial_metadata_are_out() -> None:
    wire = Wire()
    writing = asyncio.create_task(over(wire).write(b"1"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.sleep(0)
    assert not writing.done()
    wire.sent.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert wire.told == ["begun", "metadata sent"], "no message is written for a task that was cancelled"
