"""This project's feed and handler over a log in memory: what is measured is the way from the reader to the socket."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from loadtests.stream.payloads import Payload, Pool
from oddstream.v1 import signal_service_pb2
from oddstream_server.application.calls.request import RequestContext, current_request
from oddstream_server.application.ports import Key, LogBounds, Page, SignalListFilter, StoredSignal, WakeUps
from oddstream_server.domain.principal import Principal, Role
from oddstream_server.domain.quote import FeedStatus
from oddstream_server.domain.signal import SignalEvent
from oddstream_server.feed.feed_statuses import FeedStatuses
from oddstream_server.feed.signals.feed import FeedLimits, SignalFeed
from oddstream_server.feed.streams import StreamRegistry
from oddstream_server.transport.streams import SignalStreams

_KEPT = 16_384
"""Events that the log keeps: more than the feed's ring, so that nobody reads what is gone."""


def now_us() -> int:
    return time.time_ns() // 1000


class BenchLog:
    def __init__(self) -> None:
        self._pool = Pool(now_us())
        self._events: list[SignalEvent] = []
        self._base = 0

    @property
    def head(self) -> int:
        return self._base + len(self._events)

    def publish(self, count: int) -> None:
        now = now_us()
        first = self.head + 1
        self._events += [self._pool.event(n, now) for n in range(first, first + count)]
        if len(self._events) > 2 * _KEPT:
            gone = len(self._events) - _KEPT
            del self._events[:gone]
            self._base += gone

    async def bounds(self) -> LogBounds:
        return LogBounds("ds_aaaaaaaaaaaaaaaa", self.head, self._base + 1, None)

    async def read(self, after_sequence: int, limit: int) -> Sequence[SignalEvent]:
        first = after_sequence - self._base
        return self._events[first : first + limit]

    async def feed_statuses(self) -> Sequence[FeedStatus]:
        return ()

    async def sequence_at(self, create_time_us: int) -> int:
        raise NotImplementedError

    async def active_snapshot(self) -> tuple[int, Sequence[SignalEvent]]:
        raise NotImplementedError

    async def get_signal(self, signal_id: str) -> StoredSignal | None:
        raise NotImplementedError

    async def list_signals(
        self, where: SignalListFilter, after: Key | None, limit: int
    ) -> tuple[Page[StoredSignal], int]:
        raise NotImplementedError

    def wake_ups(self, on_wake: Callable[[str], None]) -> WakeUps:
        raise NotImplementedError


class FeedServer:
    """The interceptors are left out: they see a stream once, when it opens."""

    window = 2_048
    """How far behind a publisher at saturation keeps the slowest subscriber."""

    def __init__(self, payload: Payload) -> None:
        self.log = BenchLog()
        self.registry = StreamRegistry(now_us)
        self.statuses = FeedStatuses(self.log.feed_statuses, self.registry.wake_all)
        self.feed = SignalFeed(self.log, payload.codec(), self.registry, self.statuses, now_us, FeedLimits())
        self._streams = SignalStreams(self.feed, now_us)
        self._tasks = [
            asyncio.create_task(work) for work in (self.registry.run(), self.statuses.run(), self.feed.run())
        ]

    async def watch(self, request: bytes, context: Any) -> None:
        principal = Principal("bench", Role.VIEWER)
        current_request.set(RequestContext("WatchSignals", "", "", principal=principal))
        await self._streams.watch(signal_service_pb2.WatchSignalsRequest.FromString(request), context)

    def publish(self, count: int) -> None:
        self.log.publish(count)
        self.feed.wake()

    @property
    def head(self) -> int:
        return self.log.head

    def behind(self) -> int:
        """What isn't read yet, and what the slowest subscriber that has something waiting has to look at."""
        return self.log.head - self.feed.ring.head + self.feed.streams()[1]

    def top_up(self) -> None:
        behind = self.behind()
        if behind < self.window:
            self.publish(self.window - behind)
