"""Everything that can go wrong on purpose, as one tree; the transport turns each class into one gRPC status.

OddstreamError
├── InvalidArgument        a field breaks its rule (violations name each)
│   ├── PageTokenMismatch
│   ├── RequestIdReused
│   └── ResumeTokenFilterMismatch
├── Unauthenticated        no key, or one that is not good
├── PermissionDenied       a role or scope lacks
├── NotFound               the named resource doesn't exist
├── AlreadyExists
├── FailedPrecondition     the resource is in the wrong state
├── Aborted                stale etag, serialisation conflict
├── OutOfRange             a resume point outside the log
├── ResourceExhausted      rate limit, quota, slow consumer
├── Unavailable            draining, or a dependency is away
├── DeadlineExceeded       the time of the call ran out
└── Unimplemented          the rpc comes with a later release

The text of each is made by us for the caller: it may be shown. Any other exception's text may not.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One broken rule: the field's path in the request, and the rule with the way out."""

    field: str
    description: str


class OddstreamError(Exception):
    """An error with a reason that is part of the contract (an ErrorReason without its prefix)."""

    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, reason: str | None = None, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata: dict[str, str] = dict(metadata or {})


class InvalidArgument(OddstreamError):
    default_reason = "INVALID_FIELD"

    def __init__(
        self,
        violations: Sequence[FieldViolation],
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.violations = tuple(violations)
        text = "; ".join(f"{v.field}: {v.description}" for v in self.violations[:3])
        super().__init__(text, reason=reason, metadata=metadata)


class PageTokenMismatch(InvalidArgument):
    default_reason = "PAGE_TOKEN_MISMATCH"

    def __init__(self, field: str = "page_token") -> None:
        super().__init__(
            [
                FieldViolation(
                    field,
                    "must be the next_page_token of a call with the same arguments; start again with an empty one",
                )
            ]
        )


class RequestIdReused(InvalidArgument):
    default_reason = "REQUEST_ID_REUSED"

    def __init__(self) -> None:
        super().__init__([FieldViolation("request_id", "was used within 24 h with another body; take a new UUID4")])


class ResumeTokenFilterMismatch(InvalidArgument):
    default_reason = "RESUME_TOKEN_FILTER_MISMATCH"

    def __init__(self) -> None:
        super().__init__(
            [
                FieldViolation(
                    "start.resume_token",
                    "belongs to another filter; to change the filter and go on, start from (data_set_id, sequence)",
                )
            ]
        )


class Unauthenticated(OddstreamError):
    default_reason = "API_KEY_INVALID"


class PermissionDenied(OddstreamError):
    default_reason = "PERMISSION_DENIED"


class NotFound(OddstreamError):
    """:param resource_type: the resource's name in the contract, e.g. ``MarketLink``; it makes the reason
    (``MARKET_LINK_NOT_FOUND``).
    """

    def __init__(self, resource_type: str, resource_name: str, *, reason: str | None = None) -> None:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", resource_type).upper()
        super().__init__(f"{resource_type} {resource_name!r} does not exist", reason=reason or f"{words}_NOT_FOUND")
        self.resource_type = resource_type
        self.resource_name = resource_name


class AlreadyExists(OddstreamError):
    def __init__(
        self, resource_type: str, resource_name: str, *, reason: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{resource_type} {resource_name!r} exists already", reason=reason, metadata=metadata)
        self.resource_type = resource_type
        self.resource_name = resource_name


class FailedPrecondition(OddstreamError):
    """:param subject: what is in the wrong state; the message says which state it needs."""

    def __init__(self, message: str, *, subject: str, reason: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.subject = subject


class Aborted(OddstreamError):
    default_reason = "ETAG_MISMATCH"


class OutOfRange(OddstreamError):
    """A resume point outside the log; metadata names the oldest sequence, its time, the head and the data set."""

    default_reason = "SIGNAL_HISTORY_TRIMMED"


class ResourceExhausted(OddstreamError):
    """:param subject: the limit that was hit, e.g. ``key:key_ab12 calls per minute``."""

    default_reason = "RATE_LIMITED"

    def __init__(
        self,
        message: str,
        *,
        subject: str,
        retry_after_us: int | None,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.subject = subject
        self.retry_after_us = retry_after_us


class Unavailable(OddstreamError):
    default_reason = "DEPENDENCY_UNAVAILABLE"

    def __init__(
        self,
        message: str,
        *,
        retry_after_us: int = 1_000_000,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_after_us = retry_after_us


class DeadlineExceeded(OddstreamError):
    default_reason = "DEADLINE_EXCEEDED"


class Unimplemented(OddstreamError):
    default_reason = "METHOD_UNIMPLEMENTED"
