"""The servers that are compared, each a process of its own: ``naive`` (a queue a subscriber, one write a signal) and
``feed`` (this project's). Prints its port, waits for a line on stdin, then publishes.
"""

import asyncio
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc

from oddstream.v1 import signal_pb2, signal_service_pb2
from oddstream_server.application.calls.request import RequestContext, current_request
from oddstream_server.application.ports import Key, LogBounds, Page, SignalListFilter, StoredSignal, WakeUps
from oddstream_server.domain.market import Venue
from oddstream_server.domain.principal import Principal, Role
from oddstream_server.domain.quote import FeedStatus
from oddstream_server.domain.signal import DataOrigin, Direction, Signal, SignalEvent, SignalEventType
from oddstream_server.feed.feed_statuses import FeedStatuses
from oddstream_server.feed.signals.feed import FeedLimits, SignalFeed
from oddstream_server.feed.streams import StreamRegistry
from oddstream_server.transport.converters.streams import SignalWireCodec, entry
from oddstream_server.transport.streams import SignalStreams

SERVICE, METHOD = "oddstream.v1.SignalService", "WatchSignals"
ENTRY_BYTES = 101
_BURST = 32
"""Events that a publisher at saturation adds at once."""
_WINDOW = 512
"""It waits while the slowest subscriber is this far behind, so that both servers stay inside their memory."""

SAMPLE = SignalEvent(
    SignalEventType.CREATED,
    Signal(
        opportunity_id="opp_" + "a" * 32,
        revision=1,
        kind="arb.event_sum",
        version=1,
        strategy_id="arb.event_sum",
        params_digest="",
        subject_id="kalshi:KXA-1",
        venue=Venue.KALSHI,
        event_id="kalshi:KXA",
        direction=Direction.BASKET,
        legs=(),
        all_or_none=True,
        strength_ppm=500_000,
        net_edge_micros=20_000,
        fair_value_micros=None,
        input_time_us=0,
        input_digest="",
        expire_time_us=2**52,
        lockup_until_us=None,
        data_origin=DataOrigin.LIVE,
        evidence=(),
        signal_id="sig_" + "a" * 32,
    ),
    500_000,
    20_000,
)


def now_us() -> int:
    return time.time_ns() // 1000


class SmallCodec(SignalWireCodec):
    """Entries of 101 bytes, whatever the event, for comparison with other designs."""

    def fragments(self, event: SignalEvent) -> tuple[bytes, bytes]:
        message = signal_pb2.SignalEvent(sequence=event.sequence)
        message.create_time.FromMicroseconds(event.create_time_us)
        message.signal.signal_id = ""
        room = ENTRY_BYTES - message.ByteSize() - 2
        message.signal.signal_id = "s" * room
        while message.ByteSize() > ENTRY_BYTES:
            room -= 1
            message.signal.signal_id = "s" * room
        fragment = entry(1, message.SerializeToString())
        return fragment, fragment


class BenchLog:
    """A log in memory; what is measured is the way from the reader to the socket."""

    def __init__(self) -> None:
        self.events: list[SignalEvent] = []

    def publish(self, count: int) -> None:
        now = now_us()
        first = len(self.events) + 1
        self.events += [replace(SAMPLE, sequence=n, create_time_us=now) for n in range(first, first + count)]

    async def bounds(self) -> LogBounds:
        return LogBounds("ds_aaaaaaaaaaaaaaaa", len(self.events), 1, None)

    async def read(self, after_sequence: int, limit: int) -> Sequence[SignalEvent]:
        return self.events[after_sequence : after_sequence + limit]

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
    """This project's feed and handler, without the interceptors."""

    def __init__(self) -> None:
        self.log = BenchLog()
        self.registry = StreamRegistry(now_us)
        self.statuses = FeedStatuses(self.log.feed_statuses, self.registry.wake_all)
        self.feed = SignalFeed(self.log, SmallCodec(), self.registry, self.statuses, now_us, FeedLimits())
        self._streams = SignalStreams(self.feed, now_us)
        self._tasks = [
            asyncio.create_task(work) for work in (self.registry.run(), self.statuses.run(), self.feed.run())
        ]

    async def watch(self, request: bytes, context: Any) -> None:
        principal = Principal("bench", Role.VIEWER)
        current_request.set(RequestContext(METHOD, "", "", principal=principal))
        await self._streams.watch(signal_service_pb2.WatchSignalsRequest.FromString(request), context)

    def publish(self, count: int) -> None:
        self.log.publish(count)
        self.feed.wake()

    def furthest_behind(self) -> int:
        cursors = (s.cursor for s in self.feed._subscriptions)
        return len(self.log.events) - min(cursors, default=0)


@dataclass
class NaiveServer:
    """What one writes first: a queue a subscriber, and a write for each signal."""

    codec: SmallCodec
    sequence: int = 0

    def __post_init__(self) -> None:
        self._queues: list[asyncio.Queue[bytes]] = []

    async def watch(self, request: bytes, context: Any) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        await context.write(self._message((), self.sequence, self.sequence))
        self._queues.append(queue)
        while True:
            await context.write(await queue.get())

    def publish(self, count: int) -> None:
        for _ in range(count):
            self.sequence += 1
            event = replace(SAMPLE, sequence=self.sequence, create_time_us=now_us())
            message = self._message(self.codec.fragments(event)[:1], self.sequence - 1, self.sequence)
            for queue in self._queues:
                queue.put_nowait(message)

    def furthest_behind(self) -> int:
        return max((q.qsize() for q in self._queues), default=0)

    def _message(self, fragments: Sequence[bytes], after: int, through: int) -> bytes:
        head = signal_service_pb2.WatchSignalsResponse(after_sequence=after, through_sequence=through)
        return b"".join((*fragments, head.SerializeToString()))


async def serve(mode: str, events_per_s: float) -> None:
    server = FeedServer() if mode == "feed" else NaiveServer(SmallCodec())
    aio = grpc.aio.server(options=(("grpc.max_concurrent_streams", 10_000),))
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(server.watch)
    aio.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    port = aio.add_insecure_port("127.0.0.1:0")
    await aio.start()
    print(port, flush=True)
    loop = asyncio.get_running_loop()
    memory_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await loop.run_in_executor(None, sys.stdin.readline)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_before
    print(f"memory_kib {memory}", flush=True)
    if events_per_s:
        due = loop.time()
        while True:
            due += 1 / events_per_s
            await asyncio.sleep(max(0.0, due - loop.time()))
            server.publish(1)
    while True:
        if server.furthest_behind() < _WINDOW:
            server.publish(_BURST)
        await asyncio.sleep(0)


if __name__ == "__main__":
    os.sched_setaffinity(0, {0})
    asyncio.run(serve(sys.argv[1], float(sys.argv[2])))
