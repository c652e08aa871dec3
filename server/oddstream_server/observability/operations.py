"""The operations side of a process: liveness, readiness, state in words, metrics.

Each worker process answers on a unix socket; the supervisor answers on the operations port for all of them and puts
the worker's name as a label on every sample.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

State = dict[str, Any]
"""A process's state as JSON values; ``ready`` (bool) is always there."""


class OperationsServer:
    """``GET /health/live``, ``/health/ready``, ``/state`` and ``/metrics`` over HTTP.

    :param state: answers the process's state now; readiness is its ``ready``.
    :param metrics: answers the text exposition.
    """

    def __init__(self, state: Callable[[], Awaitable[State]], metrics: Callable[[], Awaitable[bytes]]) -> None:
        self._state = state
        self._metrics = metrics
        app = web.Application()
        app.router.add_get("/health/live", self._live)
        app.router.add_get("/health/ready", self._ready)
        app.router.add_get("/state", self._show_state)
        app.router.add_get("/metrics", self._show_metrics)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        self.port: int | None = None

    async def listen_unix(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(path)).start()
        path.chmod(0o600)

    async def listen_tcp(self, host: str, port: int) -> None:
        """:raises OSError: the address is taken or not ours."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.port = int(self._runner.addresses[0][1])

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _live(self, _: web.Request) -> web.Response:
        return web.Response(text="live\n")

    async def _ready(self, _: web.Request) -> web.Response:
        state = await self._state()
        return web.Response(text="ready\n") if state["ready"] else web.Response(status=503, text="not ready\n")

    async def _show_state(self, _: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(await self._state()), content_type="application/json")

    async def _show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._metrics(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


def process_metrics(registry: CollectorRegistry) -> Callable[[], Awaitable[bytes]]:
    async def render() -> bytes:
        return generate_latest(registry)

    return render


class WorkerClient:
    """Asks one worker's unix socket."""

    def __init__(self, name: str, path: Path, timeout_seconds: float = 2.0) -> None:
        self.name = name
        self._path = path
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)

    async def _get(self, route: str) -> bytes | None:
        if not self._path.exists():
            return None
        try:
            connector = aiohttp.UnixConnector(str(self._path))
            async with (
                aiohttp.ClientSession(connector=connector, timeout=self._timeout) as session,
                session.get(f"http://worker{route}") as answer,
            ):
                return await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def state(self) -> State | None:
        """The worker's state, None while it doesn't answer."""
        body = await self._get("/state")
        return orjson.loads(body) if body else None

    async def metrics(self) -> bytes:
        return await self._get("/metrics") or b""


class _Merged(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def merge_metrics(texts: Mapping[str, bytes]) -> bytes:
    """The expositions of several workers as one, each sample with a ``worker`` label."""
    merged: dict[str, Metric] = {}
    for worker, text in texts.items():
        for family in text_string_to_metric_families(text.decode()):
            target = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                target.samples.append(sample._replace(labels={**sample.labels, "worker": worker}))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(merged.values()))
    return generate_latest(registry)


async def merged_metrics(own: Callable[[], Awaitable[bytes]], workers: Iterable[WorkerClient]) -> bytes:
    workers = list(workers)
    texts = await asyncio.gather(own(), *(w.metrics() for w in workers))
    names = ["supervisor", *(w.name for w in workers)]
    return merge_metrics(dict(zip(names, texts, strict=True)))
