"""A feed over a log in memory, running, with what a test does to it in a few words."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from oddstream_server.application.ports import SignalFilter
from oddstream_server.domain.errors import OddstreamError
from oddstream_server.domain.principal import Principal, Role
from oddstream_server.feed.feed_statuses import FeedStatuses
from oddstream_server.feed.observer import EndReason, NullFeedObserver, StreamKind
from oddstream_server.feed.signals.batches import SignalCodec
from oddstream_server.feed.signals.deliveries import SignalDelivery
from oddstream_server.feed.signals.feed import FeedLimits, SignalFeed, SignalWatch
from oddstream_server.feed.signals.ring import View
from oddstream_server.feed.signals.starts import Start, StartAfter, StartNow
from oddstream_server.feed.signals.subscriptions import SignalSubscription
from oddstream_server.feed.streams import StreamLimits, StreamRegistry
from tests.feed.memory_log import START_US, MemorySignalLog, ReadableCodec, ReadMessage, read_message

CALLER = Principal("key_000000000001", Role.VIEWER)
EVERYTHING = SignalFilter()
NOW = StartNow()


class CountingObserver(NullFeedObserver):
    def __init__(self) -> None:
        self.opened: list[StreamKind] = []
        self.ended: list[EndReason] = []
        self.backlog_pages = 0
        self.failures = 0
        self.behind = 0

    def stream_opened(self, kind: StreamKind) -> None:
        self.opened.append(kind)

    def stream_ended(self, kind: StreamKind, reason: EndReason) -> None:
        self.ended.append(reason)

    def backlog_page_read(self, events: int) -> None:
        self.backlog_pages += 1

    def reader_failed(self) -> None:
        self.failures += 1

    def subscribers_behind(self, count: int) -> None:
        self.behind = count


@dataclass
class RunningFeed:
    log: MemorySignalLog
    registry: StreamRegistry
    statuses: FeedStatuses
    feed: SignalFeed
    observer: CountingObserver
    now_us: int = START_US
    subscriptions: list[SignalSubscription] = field(default_factory=list)

    async def watch(
        self,
        where: SignalFilter = EVERYTHING,
        start: Start = NOW,
        *,
        view: View = View.BASIC,
        skip_expired: bool = False,
        heartbeat_s: float = 60.0,
    ) -> SignalSubscription:
        watch = SignalWatch(where, start, view, skip_expired, heartbeat_s)
        subscription = await self.feed.subscribe(watch, CALLER)
        self.subscriptions.append(subscription)
        return subscription

    def after(self, sequence: int) -> StartAfter:
        return StartAfter(self.log.data_set_id, sequence)

    async def settled(self) -> None:
        """Once the reader has taken everything that the log shows."""
        self.feed.wake()
        async with asyncio.timeout(5):
            while self.feed.ring.head < self.log.head:
                await asyncio.sleep(0)


async def take(subscription: SignalSubscription) -> SignalDelivery:
    async with asyncio.timeout(5):
        while (delivery := subscription.take()) is None:
            await subscription.woken()
        return delivery


async def message(subscription: SignalSubscription) -> ReadMessage:
    return read_message((await take(subscription)).batch)


async def messages_until(subscription: SignalSubscription, through: int) -> list[ReadMessage]:
    found = [await message(subscription)]
    while found[-1].through < through:
        found.append(await message(subscription))
    return found


async def ending(subscription: SignalSubscription) -> tuple[list[SignalDelivery], OddstreamError]:
    """What a stream still gives, and the error that it ends with."""
    deliveries = []
    try:
        while True:
            deliveries.append(await take(subscription))
    except OddstreamError as error:
        return deliveries, error


def assert_continuous(messages: list[ReadMessage], start: int) -> None:
    """Each message begins where the one before ended, and what it carries lies inside and ascends."""
    through = start
    for m in messages:
        assert m.after == through, (m, through)
        assert m.after <= m.through <= m.head
        assert m.sequences == sorted(set(m.sequences))
        assert all(m.after < s <= m.through for s in m.sequences)
        through = m.through


@asynccontextmanager
async def running_feed(
    log: MemorySignalLog | None = None,
    limits: FeedLimits | None = None,
    stream_limits: StreamLimits | None = None,
    codec: SignalCodec | None = None,
) -> AsyncIterator[RunningFeed]:
    log = log or MemorySignalLog()
    observer = CountingObserver()
    made: list[RunningFeed] = []
    registry = StreamRegistry(lambda: made[0].now_us, observer, stream_limits, seed=1)
    statuses = FeedStatuses(log.feed_statuses, registry.wake_all, poll_s=0.02)
    limits = limits or FeedLimits(poll_s=0.02, retry_s=0.01)
    feed = SignalFeed(log, codec or ReadableCodec(), registry, statuses, lambda: made[0].now_us, limits)
    made.append(RunningFeed(log, registry, statuses, feed, observer))
    tasks = [asyncio.create_task(work) for work in (registry.run(), statuses.run(), feed.run())]
    try:
        async with asyncio.timeout(5):
            await feed.ready.wait()
        yield made[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
