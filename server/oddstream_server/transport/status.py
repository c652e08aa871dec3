"""From an error to what goes over the wire: the one place where exceptions become gRPC statuses.

A domain error's own text was made for the caller and is sent. The text of any other exception never is: the caller
gets a reference, and the log has the rest under it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from oddstream_server.domain import errors

DOMAIN = "oddstream"
MAXIMUM_VIOLATIONS = 20
BUDGET_BYTES = 4096
"""For the status with its details and the text together; past 8 KiB of trailers gRPC hides the real error."""
_TEXT_CHARACTERS = 500
_DETAIL_CHARACTERS = 300
_METADATA_CHARACTERS = 200

DETAILS_TRAILER = "grpc-status-details-bin"
PUSHBACK_TRAILER = "grpc-retry-pushback-ms"

Trailers = tuple[tuple[str, str | bytes], ...]

CODES: dict[type[BaseException], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.OutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
}
"""By class; a subclass without a row of its own takes the nearest ancestor's."""


@dataclass(frozen=True, slots=True)
class CallStatus:
    """A status ready to be sent."""

    code: grpc.StatusCode
    reason: str
    message: str
    trailers: Trailers

    @property
    def is_fault(self) -> bool:
        """True where the cause is a fault of ours, which belongs in the log with its traceback."""
        return self.code is grpc.StatusCode.INTERNAL


def code_of(error: BaseException) -> grpc.StatusCode:
    """The code of the nearest class in the error's MRO; INTERNAL for what was not foreseen."""
    for ancestor in type(error).__mro__:
        if ancestor in CODES:
            return CODES[ancestor]
    return grpc.StatusCode.INTERNAL


def status_of(error: BaseException, correlation_id: str) -> CallStatus:
    """What the caller is told about an error, within the budget."""
    code = code_of(error)
    if not isinstance(error, errors.OddstreamError) or code is grpc.StatusCode.INTERNAL:
        return _build(code, "INTERNAL", f"internal error (ref {correlation_id})", correlation_id, {}, [], None)
    retry_us = error.retry_after_us if isinstance(error, errors.Unavailable | errors.ResourceExhausted) else None
    return _build(
        code,
        error.reason,
        _cut(error.message, _TEXT_CHARACTERS),
        correlation_id,
        error.metadata,
        _details_of(error),
        _pushback_ms(error, retry_us),
    )


def _pushback_ms(error: errors.OddstreamError, retry_us: int | None) -> int | None:
    if retry_us is not None:
        return max(1, -(-retry_us // 1000))
    # A negative pushback tells gRPC's built-in retry to leave it.
    return -1 if isinstance(error, errors.ResourceExhausted) else None


def _details_of(error: errors.OddstreamError) -> list[Message]:
    for ancestor in type(error).__mro__:
        if ancestor in _DETAILS:
            return list(_DETAILS[ancestor](error))
    return []


def _bad_request(error: errors.InvalidArgument) -> Sequence[Message]:
    return [
        error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(
                    field=_cut(v.field, _METADATA_CHARACTERS), description=_cut(v.description, _DETAIL_CHARACTERS)
                )
                for v in error.violations[:MAXIMUM_VIOLATIONS]
            ]
        )
    ]


def _resource(error: errors.NotFound | errors.AlreadyExists) -> Sequence[Message]:
    return [
        error_details_pb2.ResourceInfo(
            resource_type=f"oddstream.v1.{error.resource_type}",
            resource_name=_cut(error.resource_name, _METADATA_CHARACTERS),
        )
    ]


def _precondition(error: errors.FailedPrecondition) -> Sequence[Message]:
    violation = error_details_pb2.PreconditionFailure.Violation(
        type=error.reason,
        subject=_cut(error.subject, _METADATA_CHARACTERS),
        description=_cut(error.message, _DETAIL_CHARACTERS),
    )
    return [error_details_pb2.PreconditionFailure(violations=[violation])]


def _quota(error: errors.ResourceExhausted) -> Sequence[Message]:
    violation = error_details_pb2.QuotaFailure.Violation(
        subject=_cut(error.subject, _METADATA_CHARACTERS), description=_cut(error.message, _DETAIL_CHARACTERS)
    )
    return [error_details_pb2.QuotaFailure(violations=[violation]), *_retry(error)]


def _retry(error: errors.Unavailable | errors.ResourceExhausted) -> Sequence[Message]:
    if error.retry_after_us is None:
        return []
    delay = Duration()
    delay.FromMicroseconds(max(1, error.retry_after_us))
    return [error_details_pb2.RetryInfo(retry_delay=delay)]


_DETAILS: dict[type[BaseException], Callable[..., Sequence[Message]]] = {
    errors.InvalidArgument: _bad_request,
    errors.NotFound: _resource,
    errors.AlreadyExists: _resource,
    errors.FailedPrecondition: _precondition,
    errors.ResourceExhausted: _quota,
    errors.Unavailable: _retry,
}


def _build(
    code: grpc.StatusCode,
    reason: str,
    message: str,
    correlation_id: str,
    metadata: dict[str, str],
    details: list[Message],
    pushback_ms: int | None,
) -> CallStatus:
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN)
    for name, value in metadata.items():
        info.metadata[name] = _cut(value, _METADATA_CHARACTERS * 2)  # a resume token has to arrive whole
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in (info, error_details_pb2.RequestInfo(request_id=correlation_id), *details):
        status.details.add().Pack(detail)
    # Most are far from it. A quoted byte has three: what fits so needs no quoting to know, which was half of a refusal.
    if status.ByteSize() + 3 * len(status.message.encode()) > BUDGET_BYTES:
        while _size(status) > BUDGET_BYTES and _shrink(status):
            pass
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_TRAILER, status.SerializeToString())]
    if pushback_ms is not None:
        trailers.append((PUSHBACK_TRAILER, str(pushback_ms)))
    return CallStatus(code, reason, status.message, tuple(trailers))


def _size(status: status_pb2.Status) -> int:
    return status.ByteSize() + len(quote(status.message))


def _shrink(status: status_pb2.Status) -> bool:
    """Take away what is missed least: the last violations, then the text. False when nothing is left to take."""
    for packed in status.details:
        bad_request = error_details_pb2.BadRequest()
        if packed.Unpack(bad_request) and len(bad_request.field_violations) > 1:
            del bad_request.field_violations[-1]
            packed.Pack(bad_request)
            return True
    if len(status.message) > 20:
        status.message = _cut(status.message, len(status.message) // 2)
        return True
    return False


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"
