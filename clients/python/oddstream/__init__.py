"""Client of Oddstream: typed calls, pages, and a signal stream that resumes by itself.

    import oddstream

    with oddstream.Client("localhost:50051", api_key="ods_live_...") as client:
        for event in client.watch_signals():
            print(event.sequence, event.signal.kind)

:class:`Client` and :class:`AsyncClient` offer the same: the stubs of ``oddstream.v1`` as ``markets``, ``signals``,
``backtests`` and ``admin``, whose failures are the exceptions of :mod:`oddstream.errors`; ``pages``; and
``watch_signals``, ``watch_quotes``, ``watch_backtest`` and ``watch_sweep``, which open a stream again that breaks.

Names are imported when they are first asked for, so that who wants the stubs alone pays for nothing else.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oddstream.client import AsyncClient, Client
    from oddstream.connection import InsecureTarget
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
    from oddstream.watching.signals import (
        FileCheckpoint,
        Position,
        active_signals,
        at_position,
        from_now,
        from_time,
        from_token,
    )

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
    "InsecureTarget",
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

_HOMES = {
    "AsyncClient": "client",
    "Client": "client",
    "InsecureTarget": "connection",
    **dict.fromkeys(
        ("FileCheckpoint", "Position", "active_signals", "at_position", "from_now", "from_time", "from_token"),
        "watching.signals",
    ),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
