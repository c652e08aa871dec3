"""The signal log's one reader in a process, and where subscribers start.

The log in PostgreSQL is the truth. The reader takes each event once, in order and without holes, encodes it once, and
lays it in the ring; a wake-up makes it look at once, and a poll makes it look anyway.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from oddstream_server.application.ports import Clock, LogBounds, SignalFilter, SignalLog
from oddstream_server.domain.errors import Unavailable
from oddstream_server.domain.principal import Principal
from oddstream_server.domain.signal import SignalEvent
from oddstream_server.feed.feed_statuses import FeedStatuses
from oddstream_server.feed.signals.backlog import BacklogPages
from oddstream_server.feed.signals.batches import BatchLimits, SignalCodec
from oddstream_server.feed.signals.filters import CompiledFilter, facts_of
from oddstream_server.feed.signals.groups import FilterGroup, GroupIndex
from oddstream_server.feed.signals.ring import Entry, Ring, View
from oddstream_server.feed.signals.starts import Start, StartNow, Starts
from oddstream_server.feed.signals.subscriptions import SignalSubscription
from oddstream_server.feed.streams import StreamRegistry

_LOG = logging.getLogger("oddstream.feed.signals")

_ENCODED_AT_A_TIME = 64
"""Events between two turns of the event loop: about 3 ms."""


@dataclass(frozen=True, slots=True)
class SignalWatch:
    """What a caller asks for."""

    where: SignalFilter
    start: Start = field(default_factory=StartNow)
    view: View = View.BASIC
    skip_expired: bool = False
    heartbeat_s: float = 10.0


@dataclass(frozen=True, slots=True)
class FeedLimits:
    ring_entries: int = 8_192
    ring_bytes: int = 64 * 1024 * 1024
    preloaded_entries: int = 1_024
    """Read into the ring at the start, so that clients that come back after a deploy don't each read the log."""
    read_entries: int = 256
    page_entries: int = 128
    """A page of the log, shared by the subscribers that read the same history."""
    poll_s: float = 1.0
    retry_s: float = 0.25
    """Between attempts while the log can't be read."""
    batch: BatchLimits = field(default_factory=BatchLimits)


class SignalFeed:
    """Serves the signal log to any number of subscribers. :meth:`run` reads; :meth:`wake` makes it read at once."""

    def __init__(
        self,
        log: SignalLog,
        codec: SignalCodec,
        registry: StreamRegistry,
        statuses: FeedStatuses,
        clock: Clock,
        limits: FeedLimits | None = None,
    ) -> None:
        self.codec = codec
        self.clock = clock
        self.statuses = statuses
        self.limits = limits or FeedLimits()
        self.observer = registry.observer
        self.ready = asyncio.Event()
        """Set once the log was read for the first time."""
        self.bounds = LogBounds("", 0, 1, None)
        """As they were at the last look, at most a few seconds ago while the log can be read."""
        self.ring = self._new_ring(0)
        self._groups = GroupIndex()
        self._log = log
        self._registry = registry
        self._subscriptions: dict[SignalSubscription, None] = {}
        self._behind = 0
        self._wake = asyncio.Event()
        self._bounds_time_s = 0.0
        self.starts = Starts(log, codec, clock, self._encoded)
        self.backlog = BacklogPages(
            self._read_entries, self.observer.backlog_page_read, page_entries=self.limits.page_entries
        )

    @property
    def data_set_id(self) -> str:
        return self.bounds.data_set_id

    # --- subscribing ---------------------------------------------------------------------------------------------

    async def subscribe(self, watch: SignalWatch, principal: Principal) -> SignalSubscription:
        """A subscription at its start; close it when the stream ends.

        :raises InvalidArgument: the time lies in the future.
        :raises OutOfRange: the start is trimmed, ahead of the log, or of another data set.
        :raises Unavailable: draining, or the log can't be read.
        """
        if not self.ready.is_set():
            raise Unavailable("the signal log has not been read yet; try again shortly")
        compiled = CompiledFilter(watch.where)
        subscription = SignalSubscription(self, self._registry, principal, compiled, watch)
        self._registry.admit(subscription)
        try:
            start = await self.starts.resolve(watch.start, compiled.digest, self.bounds, self.ring.head)
            if start.data_set_id != self.data_set_id:
                raise Unavailable("the data set changed while the stream started; try again", retry_after_us=100_000)
            if not subscription.ended:
                self._subscriptions[subscription] = None
                subscription.begin(start.sequence, start.snapshot)
        except BaseException:
            subscription.close()
            raise
        return subscription

    # --- what subscriptions use -----------------------------------------------------------------------------------

    def join(self, compiled: CompiledFilter, subscription: SignalSubscription) -> FilterGroup:
        return self._groups.join(compiled, subscription, self.ring.head)

    def leave(self, group: FilterGroup, subscription: SignalSubscription) -> None:
        self._groups.leave(group, subscription)
        self._subscriptions.pop(subscription, None)

    def streams(self) -> tuple[int, int]:
        """How many subscribers there are, and how many events the slowest is behind."""
        return len(self._subscriptions), max((s.behind for s in self._subscriptions), default=0)

    def count_behind(self, change: int) -> None:
        self._behind += change
        self.observer.subscribers_behind(self._behind)

    # --- reading -------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Events were committed; losing a call costs at most ``poll_s``."""
        self._wake.set()

    async def run(self) -> None:
        """Read the log until cancelled; what goes wrong is counted, logged and tried again."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                polled = True
                try:
                    while True:
                        self._wake.clear()
                        if polled or not self.ready.is_set():
                            await self._look_at_bounds()
                        await self._read_on()
                        polled = await self._next_turn(loop)
                except Exception as error:  # the streams stay open, and reading goes on where it stopped
                    self.observer.reader_failed()
                    _LOG.warning("reading the signal log failed: %s", type(error).__name__)
                    await asyncio.sleep(self.limits.retry_s)
        finally:
            await self.backlog.close()

    async def _next_turn(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Wait for a wake-up or the poll; True for the poll."""
        polled = False

        def poll() -> None:
            nonlocal polled
            polled = True
            self._wake.set()

        timer = loop.call_later(self.limits.poll_s, poll)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        return polled

    async def _look_at_bounds(self) -> None:
        bounds, known = await self._log.bounds(), self.bounds
        self.bounds, self._bounds_time_s = bounds, asyncio.get_running_loop().time()
        if bounds.data_set_id != known.data_set_id:
            self._begin_data_set(bounds)
        elif bounds.oldest_sequence - 1 > self.ring.head:
            # Retention overtook a reader that was away: whoever has to go on from before is told so.
            self.ring = self._new_ring(bounds.oldest_sequence - 1)
            for group in self._groups:
                group.restart(self.ring.head)
                group.wake()

    def _begin_data_set(self, bounds: LogBounds) -> None:
        preloaded = bounds.head_sequence - self.limits.preloaded_entries
        self.ring = self._new_ring(max(bounds.oldest_sequence - 1, preloaded))
        self._groups = GroupIndex()
        self.backlog.clear()
        for subscription in list(self._subscriptions):
            subscription.end(self.starts.data_set_changed(bounds, subscription.filter_digest), "data_set_changed")

    def _new_ring(self, base: int) -> Ring:
        return Ring(base, maximum_entries=self.limits.ring_entries, maximum_bytes=self.limits.ring_bytes)

    async def _read_on(self) -> None:
        while True:
            ring = self.ring
            events = await self._log.read(ring.head, self.limits.read_entries)
            if asyncio.get_running_loop().time() - self._bounds_time_s > 2 * self.limits.poll_s:
                # The read may have outlasted a restore: make sure that it came from the same data set.
                await self._look_at_bounds()
                if self.ring is not ring:
                    continue
            for first in range(0, len(events), _ENCODED_AT_A_TIME):
                entries: list[Entry] = []
                for event in events[first : first + _ENCODED_AT_A_TIME]:
                    if event.sequence != ring.head + len(entries) + 1:
                        raise LogHole(ring.head + len(entries) + 1, event.sequence)
                    entries.append(self._entry(event))
                self._publish(entries)
                await asyncio.sleep(0)
            self.ready.set()
            if len(events) < self.limits.read_entries:
                return

    def _publish(self, entries: Sequence[Entry]) -> None:
        ring, groups = self.ring, self._groups
        ring.extend(entries)
        matched: dict[FilterGroup, None] = {}
        for entry in entries:
            for group in groups.candidates(entry.facts):
                if group.take(entry):
                    matched[group] = None
        for group in groups:
            group.follow(ring)
        self.observer.read(len(entries), ring.head)
        for group in matched:
            group.wake()

    async def _read_entries(self, after: int, limit: int) -> Sequence[Entry]:
        """A page for the backlog: consecutive entries, up to the first hole."""
        events = await self._log.read(after, limit)
        whole = [e for n, e in enumerate(events) if e.sequence == events[0].sequence + n]
        return await self._encoded(whole)

    async def _encoded(self, events: Sequence[SignalEvent]) -> list[Entry]:
        entries: list[Entry] = []
        for event in events:
            entries.append(self._entry(event))
            if len(entries) % _ENCODED_AT_A_TIME == 0:
                await asyncio.sleep(0)
        return entries

    def _entry(self, event: SignalEvent) -> Entry:
        return Entry(event.sequence, facts_of(event), self.codec.fragments(event))


class LogHole(Exception):
    """The log lacks a sequence below one that it has: events are never skipped, so reading waits for it."""

    def __init__(self, wanted: int, found: int) -> None:
        super().__init__(f"wanted sequence {wanted}, found {found}")
