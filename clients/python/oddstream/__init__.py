"""Client of Oddstream: typed calls, pages, and a signal stream that resumes by itself.

    import oddstream

    with oddstream.Client("localhost:50051", api_key="ods_live_...") as client:
        for event in client.watch_signals():
            print(event.sequence, event.signal.kind)

:class:`Client` and :class:`AsyncClient` offer the same: the stubs of ``oddstream.v1`` as ``markets``, ``signals``,
``backtests`` and ``admin``, whose failures are the exceptions of :mod:`oddstream.errors`; ``pages``; and
``watch_signals``.
"""

from oddstream.client import AsyncClient, Client
from oddstream.errors import (
    Aborted,
    AlreadyExists,
    ContinuityBroken,
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    OddstreamError,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from oddstream.watch import FileCheckpoint, Position, active_signals, at_position, from_now, from_time, from_token

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "Client",
    "ContinuityBroken",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FieldViolation",
    "FileCheckpoint",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OddstreamError",
    "OutOfRange",
    "PermissionDenied",
    "Position",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "active_signals",
    "at_position",
    "from_now",
    "from_time",
    "from_token",
]
