"""The feeds of a serving process as one part: what runs, what wakes it, how it goes down."""

import asyncio
from collections.abc import Callable, Mapping

from oddstream_server.application.ports import Catalog, Clock, SignalLog, TickReader
from oddstream_server.feed.feed_statuses import FeedStatuses
from oddstream_server.feed.observer import FeedObserver
from oddstream_server.feed.quotes import QuoteCodec, QuoteFeed, QuoteLimits
from oddstream_server.feed.signals.batches import SignalCodec
from oddstream_server.feed.signals.feed import FeedLimits, SignalFeed
from oddstream_server.feed.streams import StreamLimits, StreamRegistry


class LiveFeeds:
    """:meth:`run` follows the log, the quotes and the venues' states over one listening connection.

    :param also_wakes: by channel, what else of the process wants to hear of commits on the same connection.
    """

    def __init__(
        self,
        log: SignalLog,
        ticks: TickReader,
        catalog: Catalog,
        signal_codec: SignalCodec,
        quote_codec: QuoteCodec,
        clock: Clock,
        observer: FeedObserver | None = None,
        stream_limits: StreamLimits | None = None,
        signal_limits: FeedLimits | None = None,
        quote_limits: QuoteLimits | None = None,
        also_wakes: Mapping[str, Callable[[], None]] | None = None,
    ) -> None:
        self.registry = StreamRegistry(clock, observer, stream_limits)
        self.statuses = FeedStatuses(log.feed_statuses, self.registry.wake_all)
        self.signals = SignalFeed(log, signal_codec, self.registry, self.statuses, clock, signal_limits)
        self.quotes = QuoteFeed(ticks, catalog, quote_codec, self.registry, self.statuses, clock, quote_limits)
        self._wake_ups = log.wake_ups(self.wake)
        self._wakes = {
            **(also_wakes or {}),
            "signals": self.signals.wake,
            "quotes": self.quotes.wake,
            "feed": self.statuses.wake,
        }

    def wake(self, channel: str) -> None:
        """Something was committed; channels that are none of the feeds' are ignored."""
        wake = self._wakes.get(channel)
        if wake is not None:
            wake()

    async def run(self) -> None:
        """Until cancelled. Subscribers are welcome once :meth:`ready` has returned."""
        async with asyncio.TaskGroup() as tasks:
            for name, work in (
                ("feed wheel", self.registry.run()),
                ("feed statuses", self.statuses.run()),
                ("signal feed", self.signals.run()),
                ("quote feed", self.quotes.run()),
                ("feed wake-ups", self._wake_ups.run()),
            ):
                tasks.create_task(work, name=name)

    async def ready(self) -> None:
        """Returns once the signal log was read for the first time."""
        await self.signals.ready.wait()

    async def close(self, retry_after_us: int, within_s: float) -> bool:
        """Tell every stream that it ends and refuse new ones. True when the last handler was done in time."""
        return await self.registry.close(retry_after_us, within_s)
