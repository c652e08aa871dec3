"""What a call can fail with, as one tree.

OddstreamError
├── InvalidArgument      a field breaks its rule; ``violations`` name each
├── Unauthenticated      no key, or one that is not good
├── PermissionDenied     ``metadata`` says which role or scope is required
├── NotFound
├── AlreadyExists
├── FailedPrecondition   the resource is in the wrong state; ``violations`` name it
├── Aborted              a stale etag or a conflict: read again, then try again
├── OutOfRange           a resume point outside the log; ``metadata`` says where to start again
├── ResourceExhausted    a limit or quota; ``retry_delay`` says when to come back
├── Unavailable          draining, or a dependency is away
├── DeadlineExceeded
├── Unimplemented
├── Internal             a bug of the server; quote ``correlation_id`` to its operator
└── ContinuityBroken     the stream left a hole: the one thing that must never happen

``reason`` is the name of an ``oddstream.v1.ErrorReason`` without its prefix and part of the contract; the text is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_STATUS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """The path of a field in the request, and the rule that it breaks."""

    field: str
    description: str


class OddstreamError(Exception):
    """A failed call.

    :ivar reason: for example ``PAGE_TOKEN_MISMATCH``; empty where the answer didn't come from an Oddstream server.
    :ivar code: the gRPC status code.
    :ivar correlation_id: what the server's logs know the call by; empty where none came back.
    :ivar retry_delay: seconds to wait before another try, None where the server doesn't ask for one.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        correlation_id: str = "",
        retry_delay: float | None = None,
        violations: Sequence[FieldViolation] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.correlation_id = correlation_id
        self.retry_delay = retry_delay
        self.violations = tuple(violations)

    def __str__(self) -> str:
        reason = f" [{self.reason}]" if self.reason else f" [{self.code.name}]"
        reference = f" (ref {self.correlation_id})" if self.correlation_id else ""
        return f"{self.message}{reason}{reference}"


class InvalidArgument(OddstreamError):
    pass


class Unauthenticated(OddstreamError):
    pass


class PermissionDenied(OddstreamError):
    pass


class NotFound(OddstreamError):
    pass


class AlreadyExists(OddstreamError):
    pass


class FailedPrecondition(OddstreamError):
    pass


class Aborted(OddstreamError):
    pass


class OutOfRange(OddstreamError):
    pass


class ResourceExhausted(OddstreamError):
    pass


class Unavailable(OddstreamError):
    pass


class DeadlineExceeded(OddstreamError):
    pass


class Unimplemented(OddstreamError):
    pass


class Internal(OddstreamError):
    pass


class ContinuityBroken(OddstreamError):
    """A message began elsewhere than the last one ended: events are missing. Stop, and report it."""


_BY_CODE: dict[grpc.StatusCode, type[OddstreamError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: Internal,
}


def from_rpc_error(error: grpc.RpcError) -> OddstreamError:
    """The typed exception for an error of a synchronous or asynchronous call."""
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    text = (error.details() if hasattr(error, "details") else None) or code.name
    trailers = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    reason = correlation_id = ""
    metadata: dict[str, str] = {}
    retry_delay: float | None = None
    violations: list[FieldViolation] = []
    for detail in _details(trailers):
        name = detail.TypeName()
        if name == "google.rpc.ErrorInfo":
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            if info.domain == "oddstream":
                reason, metadata = info.reason, dict(info.metadata)
        elif name == "google.rpc.RequestInfo":
            correlation_id = error_details_pb2.RequestInfo.FromString(detail.value).request_id
        elif name == "google.rpc.RetryInfo":
            retry_delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay.ToTimedelta().total_seconds()
        elif name == "google.rpc.BadRequest":
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            violations = [FieldViolation(v.field, v.description) for v in bad.field_violations]
        elif name == "google.rpc.PreconditionFailure":
            failure = error_details_pb2.PreconditionFailure.FromString(detail.value)
            violations = [FieldViolation(v.subject, v.description) for v in failure.violations]
    return _BY_CODE.get(code, OddstreamError)(
        text,
        code=code,
        reason=reason.removeprefix("ERROR_REASON_"),
        metadata=metadata,
        correlation_id=correlation_id,
        retry_delay=retry_delay,
        violations=violations,
    )


def _details(trailers: object) -> list[any_pb2.Any]:
    if trailers is None:
        return []
    for key, value in trailers:  # type: ignore[attr-defined]  # both kinds of metadata are iterables of pairs
        if key == _STATUS_KEY:
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return []
    return []
