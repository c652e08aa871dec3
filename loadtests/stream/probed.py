"""A pipeline or a serving process as the supervisor starts it, with the instants of a tick's way noted.

``probed.py pipeline|serve FILE``, with the settings in the environment; at its end (SIGTERM) it writes to FILE, as
JSON, the instants in microseconds since the epoch at which each stage was passed.
"""

import asyncio
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STAGES = ("received", "queued", "taken", "decide_began", "decided", "committed", "heard", "published")
_noted: dict[str, list[int]] = {stage: [] for stage in STAGES}


def note(stage: str) -> None:
    _noted[stage].append(time.time_ns() // 1000)


def around(owner: type, name: str, before: str | None, after: str | None) -> None:
    """Note instants before and after a method."""
    method: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(method)
    def plain(*args: Any, **kwargs: Any) -> Any:
        if before:
            note(before)
        result = method(*args, **kwargs)
        if after:
            note(after)
        return result

    @functools.wraps(method)
    async def waiting(*args: Any, **kwargs: Any) -> Any:
        if before:
            note(before)
        result = await method(*args, **kwargs)
        if after:
            note(after)
        return result

    setattr(owner, name, waiting if asyncio.iscoroutinefunction(method) else plain)


def pipeline() -> int:
    from oddstream_server.app.pipeline import run_pipeline
    from oddstream_server.app.process import run_worker
    from oddstream_server.pipeline.deciding.runner import StrategyRunner
    from oddstream_server.pipeline.queue import IngestQueue
    from oddstream_server.settings import Settings
    from oddstream_server.storage.pipeline_store import PostgresPipelineStore
    from oddstream_server.venues.polymarket.feed import PolymarketFeed

    around(PolymarketFeed, "receive", "received", None)
    around(IngestQueue, "put", None, "queued")
    around(PostgresPipelineStore, "store_batch", "taken", "committed")
    around(StrategyRunner, "decide", "decide_began", "decided")
    return run_worker(Settings(), "pipeline", lambda stop: run_pipeline(Settings(), "pipeline", stop))


def serve() -> int:
    from oddstream_server.app.process import run_worker
    from oddstream_server.app.serve import serve as serve_until
    from oddstream_server.feed.signals.feed import SignalFeed
    from oddstream_server.settings import Settings

    around(SignalFeed, "wake", "heard", None)
    around(SignalFeed, "_publish", "published", None)
    return run_worker(Settings(), "serve-0", lambda stop: serve_until(Settings(), 0, stop))


def main() -> None:
    kind, file = sys.argv[1:3]
    code = pipeline() if kind == "pipeline" else serve()
    Path(file).write_text(json.dumps(_noted))
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
