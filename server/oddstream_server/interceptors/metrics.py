"""The ``grpc_server_*`` metrics, named after go-grpc-middleware's so that common dashboards and alerts read them.

Every series of a known method exists from the start with 0, since ``increase()`` misses a series that is born at 1.
Codes are written as Go does (``OK``, ``InvalidArgument``).
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram

from oddstream_server.interceptors.call import UNKNOWN_METHOD, Call, Context, Method, Proceed

_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


def code_label(code: grpc.StatusCode) -> str:
    if code is grpc.StatusCode.OK:
        return "OK"
    return "Canceled" if code is grpc.StatusCode.CANCELLED else code.name.title().replace("_", "")


@dataclass(frozen=True, slots=True)
class _Series:
    started: Counter
    received: Counter
    sent: Counter
    handled: dict[grpc.StatusCode, Counter]
    seconds: Histogram


class MetricsInterceptor:
    name: ClassVar[str] = "metrics"

    def __init__(self, registry: CollectorRegistry, methods: Iterable[Method]) -> None:
        self._started = Counter("grpc_server_started", "Calls that arrived.", labelnames=_LABELS, registry=registry)
        self._handled = Counter(
            "grpc_server_handled",
            "Calls that ended, by their code.",
            labelnames=(*_LABELS, "grpc_code"),
            registry=registry,
        )
        self._received = Counter(
            "grpc_server_msg_received", "Messages that clients sent.", labelnames=_LABELS, registry=registry
        )
        self._sent = Counter(
            "grpc_server_msg_sent", "Messages that were sent to clients.", labelnames=_LABELS, registry=registry
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds",
            "How long calls took from arrival to end; for streams, how long they lasted.",
            labelnames=_LABELS,
            buckets=_BUCKETS,
            registry=registry,
        )
        self._series = {method.full_name: self._create(method) for method in (*methods, UNKNOWN_METHOD)}

    def _create(self, method: Method) -> _Series:
        labels = (method.kind.value, method.service, method.name)
        return _Series(
            started=self._started.labels(*labels),
            received=self._received.labels(*labels),
            sent=self._sent.labels(*labels),
            handled={code: self._handled.labels(*labels, code_label(code)) for code in grpc.StatusCode},
            seconds=self._seconds.labels(*labels),
        )

    async def intercept(self, call: Call, proceed: Proceed) -> Any:
        series = self._series.get(call.method.full_name)
        if series is None:  # registered without being declared; the set of those is ours, so it is bounded
            series = self._series[call.method.full_name] = self._create(call.method)
        series.started.inc()
        if call.method.kind.request_streaming:
            call.request = _counted(call.request, series.received)
        else:
            series.received.inc()
        if call.method.kind.response_streaming:
            call.context = cast("Context", CountingContext(call.context, series.sent))
        began = time.perf_counter()
        try:
            response = await proceed(call)
            if response is not None:
                series.sent.inc()
            return response
        finally:
            series.handled[call.code].inc()
            series.seconds.observe(time.perf_counter() - began)


async def _counted(messages: Any, received: Counter) -> Any:
    async for message in messages:
        received.inc()
        yield message


class CountingContext:
    """A stream's context that counts what is written; the rest is gRPC's own."""

    __slots__ = ("_context", "_sent")

    def __init__(self, context: Context, sent: Counter) -> None:
        self._context = context
        self._sent = sent

    async def write(self, message: Any) -> None:
        await self._context.write(message)
        self._sent.inc()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
