"""The ``grpc_server_*`` metrics, named after go-grpc-middleware's so that common dashboards and alerts read them.

Every series of a known method exists from the start with 0, since ``increase()`` misses a series that is born at 1.
Codes are written as Go does (``OK``, ``InvalidArgument``).
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, ClassVar, cast

import grpc
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from oddstream_server.interceptors.call import UNKNOWN_METHOD, Call, Context, Method

_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_OK = grpc.StatusCode.OK
_FAILURES = tuple(code for code in grpc.StatusCode if code is not _OK)
_BOUNDS = (*map(floatToGoString, _BUCKETS), "+Inf")


def code_label(code: grpc.StatusCode) -> str:
    if code is grpc.StatusCode.OK:
        return "OK"
    return "Canceled" if code is grpc.StatusCode.CANCELLED else code.name.title().replace("_", "")


@dataclass(slots=True)
class _Series:
    """What is counted of a method: plain numbers, since only the event loop counts. A metric object with its lock would
    cost a call several times as much."""

    labels: tuple[str, str, str]
    started: int = 0
    received: int = 0
    sent: int = 0
    ok: int = 0
    failed: dict[grpc.StatusCode, int] = field(default_factory=lambda: dict.fromkeys(_FAILURES, 0))
    seconds: float = 0.0
    in_bucket: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS) + 1))


class MetricsInterceptor(Collector):
    name: ClassVar[str] = "metrics"

    def __init__(self, registry: CollectorRegistry, methods: Iterable[Method]) -> None:
        self._series = {method.full_name: _new_series(method) for method in (*methods, UNKNOWN_METHOD)}
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        started = CounterMetricFamily("grpc_server_started", "Calls that arrived.", labels=_LABELS)
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls that ended, by their code.", labels=(*_LABELS, "grpc_code")
        )
        received = CounterMetricFamily("grpc_server_msg_received", "Messages that clients sent.", labels=_LABELS)
        sent = CounterMetricFamily("grpc_server_msg_sent", "Messages that were sent to clients.", labels=_LABELS)
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds",
            "How long calls took from arrival to end; for streams, how long they lasted.",
            labels=_LABELS,
        )
        for series in self._series.values():
            started.add_metric(series.labels, series.started)
            received.add_metric(series.labels, series.received)
            sent.add_metric(series.labels, series.sent)
            for code, count in ((_OK, series.ok), *series.failed.items()):
                handled.add_metric((*series.labels, code_label(code)), count)
            cumulative = zip(_BOUNDS, accumulate(series.in_bucket), strict=True)
            seconds.add_metric(series.labels, [(bound, count) for bound, count in cumulative], series.seconds)
        yield from (started, handled, received, sent, seconds)

    def enter(self, call: Call) -> None:
        series = self._of(call.method)
        series.started += 1
        if call.method.kind.request_streaming:
            call.request = _counted(call.request, series)
        else:
            series.received += 1
        if call.method.kind.response_streaming:
            call.context = cast("Context", CountingContext(call.context, series))

    def leave(self, call: Call, response: Any) -> None:
        series = self._of(call.method)
        if response is not None:
            series.sent += 1
        elapsed = time.perf_counter() - call.began
        if call.code is _OK:  # an enumeration's member is hashed in Python
            series.ok += 1
        else:
            series.failed[call.code] += 1
        series.seconds += elapsed
        series.in_bucket[bisect_left(_BUCKETS, elapsed)] += 1

    def _of(self, method: Method) -> "_Series":
        series = self._series.get(method.full_name)
        if series is None:  # registered without being declared; the set of those is ours, so it is bounded
            series = self._series[method.full_name] = _new_series(method)
        return series


def _new_series(method: Method) -> _Series:
    return _Series((method.kind.value, method.service, method.name))


async def _counted(messages: Any, series: _Series) -> Any:
    async for message in messages:
        series.received += 1
        yield message


class CountingContext:
    """A stream's context that counts what is written; the rest is gRPC's own."""

    __slots__ = ("_context", "_series")

    def __init__(self, context: Context, series: _Series) -> None:
        self._context = context
        self._series = series

    async def write(self, message: Any) -> None:
        await self._context.write(message)
        self._series.sent += 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
