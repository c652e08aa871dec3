"""How a call ends when there is nobody left to tell."""

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from oddstream_server.application.calls.request import RequestContext
from oddstream_server.interceptors.call import UNKNOWN_METHOD, Call
from oddstream_server.interceptors.errors import ErrorsInterceptor


def a_call(remaining: float | None) -> Call:
    context: Any = SimpleNamespace(time_remaining=lambda: remaining)
    request = RequestContext("/oddstream.v1.SignalService/WatchSignals", "c-1", "")
    return Call(UNKNOWN_METHOD, b"", context, {}, bytes, request)


@pytest.mark.parametrize(
    ("remaining", "code"), [(None, grpc.StatusCode.CANCELLED), (0.0, grpc.StatusCode.DEADLINE_EXCEEDED)]
)
async def test_a_message_that_finds_no_client_any_more_ends_the_call_as_cancelled_and_not_as_a_fault(
    remaining: float | None, code: grpc.StatusCode
) -> None:
    async def proceed(_: Call) -> None:
        raise grpc.aio.InternalError("Failed execute_batch")

    call = a_call(remaining)
    with pytest.raises(asyncio.CancelledError):
        await ErrorsInterceptor().intercept(call, proceed)
    assert call.code is code
