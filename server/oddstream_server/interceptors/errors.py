"""Exceptions become statuses here and nowhere else; a call never ends without one."""

import asyncio
from typing import Any, ClassVar

import grpc
import structlog

from oddstream_server.interceptors.call import Call, Proceed
from oddstream_server.transport.status import CallStatus, status_of

log = structlog.get_logger()


class ErrorsInterceptor:
    name: ClassVar[str] = "errors"

    async def intercept(self, call: Call, proceed: Proceed) -> Any:
        try:
            return await proceed(call)
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # The client went away or its time ran out: gRPC ended the call, and needs this to clean up.
                call.code = _ended_by_client(call)
                raise
            # A handler that lets another task's cancellation out would leave the client without any status.
            failure: BaseException = cancelled
        except grpc.aio.AbortError:
            call.code = call.context.code()
            raise
        except grpc.aio.InternalError as gone:
            # A message could not be sent: the client's side of the connection ended a moment before gRPC told us so.
            call.code = _ended_by_client(call)
            raise asyncio.CancelledError from gone
        except Exception as error:
            failure = _single(error)
        status = status_of(failure, call.request_context.correlation_id)
        if status.is_fault:
            log.error("call failed by a fault of ours", method=call.method.full_name, exc_info=failure)
        return await _abort(call, status)


async def _abort(call: Call, status: CallStatus) -> Any:
    call.code, call.reason = status.code, status.reason
    await call.context.abort(status.code, status.message, (*call.trailers, *status.trailers))


def _single(error: Exception) -> BaseException:
    """What a task group wraps, where it wraps one."""
    failure: BaseException = error
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    return failure


def _ended_by_client(call: Call) -> grpc.StatusCode:
    remaining = call.context.time_remaining()
    if remaining is not None and remaining <= 0:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED
