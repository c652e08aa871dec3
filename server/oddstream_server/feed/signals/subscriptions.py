"""One subscriber of the signal log: a cursor, and what its next message is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oddstream_server.domain.errors import ResourceExhausted
from oddstream_server.domain.principal import Principal
from oddstream_server.domain.quote import FeedStatus
from oddstream_server.feed.signals.batches import Batch, Position, Stretch, fitting, join, unexpired
from oddstream_server.feed.signals.deliveries import SignalDelivery, SnapshotPart, Started
from oddstream_server.feed.signals.filters import CompiledFilter
from oddstream_server.feed.signals.groups import FilterGroup
from oddstream_server.feed.signals.ring import Entry
from oddstream_server.feed.streams import Closing, OpenStream, StreamRegistry

if TYPE_CHECKING:
    from oddstream_server.feed.signals.feed import SignalFeed, SignalWatch


@dataclass(frozen=True, slots=True)
class _LagMark:
    """Where a subscriber that has events waiting stood, to tell later whether it comes nearer."""

    wheel_time_s: float
    head: int
    distance: int


class SignalSubscription(OpenStream):
    """Gives a stream's messages one after the other, through :meth:`next`.

    A subscriber is *slow* when events wait for it and, over 30 s, it neither got past what was the head at their
    beginning nor came nearer to the head. Time in which it is the feed's turn to bring something, or in which the
    process stood still, doesn't count.
    """

    def __init__(
        self,
        feed: SignalFeed,
        registry: StreamRegistry,
        principal: Principal,
        compiled: CompiledFilter,
        watch: SignalWatch,
    ) -> None:
        super().__init__("signals", principal, registry, watch.heartbeat_s)
        self.filter_digest = compiled.digest
        self._feed = feed
        self._compiled = compiled
        self._watch = watch
        self._group: FilterGroup | None = None
        self._cursor = 0  # the last message's through_sequence
        self._scanned = 0  # nothing between the cursor and here matches
        self._start = 0
        self._snapshot: list[Entry] | None = None
        self._started = False
        self._catching_up = True
        self._loading_at: int | None = None
        self._reads_log = False
        self._status_version = 0
        self._mark: _LagMark | None = None
        self._last_visit_s = registry.wheel_time_s

    def begin(self, start: int, snapshot: Sequence[Entry] | None) -> None:
        """Called by the feed with the place after which the stream starts, and the snapshot where one was asked for."""
        self._start = self._cursor = self._scanned = start
        if snapshot is not None:
            matching = [e for e in snapshot if self._compiled.matches(e.facts)]
            self._snapshot = unexpired(matching, self._feed.clock()) if self._watch.skip_expired else matching
        self._group = self._feed.join(self._compiled, self)

    @property
    def behind(self) -> int:
        """Events of the log that it still has to look at while one that matches waits; 0 where none does."""
        group, cursor, head = self._group, self._scanned, self._feed.ring.head
        if group is None or cursor >= head:
            return 0
        return head - cursor if cursor < group.floor or group.pending(cursor) else 0

    @property
    def cursor(self) -> int:
        """Everything that matches up to here was handed to the handler."""
        return self._cursor

    def take(self) -> SignalDelivery | None:
        """The next message; None where nothing is due until :meth:`woken`.

        :raises OddstreamError: the stream ended, after the closing message where there is one.
        """
        delivery = self._due() if self._ending is None else self._closing_message()
        if delivery is not None:
            self._sent()
            self._feed.observer.delivered("signals", delivery.events)
        return delivery

    def _due(self) -> SignalDelivery | None:
        group = self._group
        if group is None:
            return None
        if self._snapshot is not None:
            return self._snapshot_message(group, self._snapshot)
        while self._scanned < group.floor and not group.reach(self._scanned, self._feed.ring):
            batch = self._from_log()
            if batch is not None:
                return self._message(batch, at_head=batch.through >= self._feed.ring.head)
            if self.ended:
                return self._closing_message()
            if self._loading_at is not None:
                return self._quiet_message()
        if self._reads_log or self._loading_at is not None:
            self._read_log(False)
        return self._from_memory(group)

    def _from_memory(self, group: FilterGroup) -> SignalDelivery | None:
        feed = self._feed
        if group.pending(self._scanned):
            batch = self._skipping(group) if self._watch.skip_expired else self._shared(group)
            if batch is not None:
                return self._message(batch, at_head=batch.through >= feed.ring.head)
        if self._catching_up:
            self._scanned = max(self._scanned, feed.ring.head)
            return self._message(self._empty(), at_head=True)
        return self._quiet_message(at_head=True)

    def _shared(self, group: FilterGroup) -> Batch:
        """The message that every subscriber of the group at the same cursor gets."""
        feed, view = self._feed, self._watch.view
        # What was scanned in the log isn't held by the group, so such a message is this subscriber's alone.
        shared = self._scanned == self._cursor
        batch = group.cached(self._cursor, view) if shared else None
        if batch is None:
            batch = self._join(group.after(self._scanned, feed.limits.batch.entries + 1), feed.ring.head)
            if shared:
                group.cache(self._cursor, view, batch)
        return batch

    def _skipping(self, group: FilterGroup) -> Batch | None:
        feed = self._feed
        entries = unexpired(group.after(self._scanned, feed.limits.ring_entries), feed.clock())
        if not entries:
            self._scanned = max(self._scanned, feed.ring.head)
            return None
        return self._join(entries, feed.ring.head)

    def _from_log(self) -> Batch | None:
        """The next matching events of an old stretch; None where a page has to be waited for or none of it matches."""
        feed = self._feed
        self._read_log(True)
        self._loading_at = None
        if self._scanned < feed.bounds.oldest_sequence - 1:
            self.end(feed.starts.trimmed(feed.bounds, self.filter_digest), "history_trimmed")
            return None
        page = feed.backlog.get(self._scanned, self.wake)
        if page is None:
            self._loading_at = self._scanned
            return None
        if page.begins_after(self._scanned):
            bounds = replace(feed.bounds, oldest_sequence=page.entries[0].sequence, oldest_create_time_us=None)
            self.end(feed.starts.trimmed(bounds, self.filter_digest), "history_trimmed")
            return None
        through = page.entries[-1].sequence
        entries: Sequence[Entry] = [
            e for e in page.entries if e.sequence > self._scanned and self._compiled.matches(e.facts)
        ]
        if self._watch.skip_expired:
            entries = unexpired(entries, feed.clock())
        if not entries:
            self._scanned = through
            return None
        return self._join(entries, through)

    def _read_log(self, reads_log: bool) -> None:
        if reads_log != self._reads_log:
            self._reads_log = reads_log
            self._feed.count_behind(1 if reads_log else -1)
            self._catching_up = self._catching_up or reads_log
        if not reads_log:
            self._loading_at = None

    def _join(self, entries: Sequence[Entry], through: int) -> Batch:
        feed = self._feed
        through = max(through, self._scanned)
        head = max(feed.ring.head, through)  # a page of the log may be newer than what the feed has read
        return join(
            entries,
            Stretch(self._cursor, through, head),
            self._watch.view,
            feed.limits.batch,
            feed.codec,
            feed.data_set_id,
            self.filter_digest,
        )

    def _empty(self) -> Batch:
        return self._join((), self._scanned)

    def _quiet_message(self, *, at_head: bool = False) -> SignalDelivery | None:
        """A message without events where one is due: the first one, a change of a venue's feed, a heartbeat."""
        heartbeat = self._heartbeat_due
        if self._started and not heartbeat and not self._new_statuses():
            return None
        if at_head:
            self._scanned = max(self._scanned, self._feed.ring.head)
        delivery = self._message(self._empty(), at_head=False)
        if heartbeat:
            delivery = replace(delivery, heartbeat=True, wire=None)
        return delivery

    def _snapshot_message(self, group: FilterGroup, entries: list[Entry]) -> SignalDelivery:
        feed = self._feed
        fragments = fitting(entries, self._watch.view, feed.limits.batch)
        rest = entries[len(fragments) :]
        self._snapshot = rest or None
        stretch = Stretch(self._start, self._start, max(feed.ring.head, self._start))
        resume_at = None if rest else Position(feed.data_set_id, self._start, self.filter_digest)
        delivery = SignalDelivery(feed.codec.batch(fragments, stretch, resume_at), len(fragments))
        delivery.snapshot = SnapshotPart(self._start, complete=not rest)
        self._add_terms(delivery)
        return delivery

    def _message(self, batch: Batch, *, at_head: bool) -> SignalDelivery:
        self._cursor = self._scanned = batch.through
        if self._started and not self._catching_up and self._status_version == self._feed.statuses.version:
            return batch.delivery
        delivery = SignalDelivery(batch.body, batch.events)
        if at_head and self._catching_up:
            self._read_log(False)
            self._catching_up = False
            delivery.caught_up_sequence = batch.through
        self._add_terms(delivery)
        return delivery

    def _add_terms(self, delivery: SignalDelivery) -> None:
        feed = self._feed
        if not self._started:
            self._started = True
            ends_in_us = int((self.age_end_s - self._loop.time()) * 1_000_000)
            delivery.started = Started(
                feed.data_set_id, self._start, feed.bounds.oldest_sequence, self._watch, feed.clock() + ends_in_us
            )
        delivery.statuses = self._new_statuses()
        self._status_version = feed.statuses.version

    def _new_statuses(self) -> Sequence[FeedStatus]:
        statuses = self._feed.statuses
        if self._status_version == statuses.version:
            return ()
        changed = statuses.since(self._status_version, self._compiled.venues, self._compiled.shows_simulated)
        if not changed:  # other venues' changes don't concern this stream
            self._status_version = statuses.version
        return changed

    def _closing_message(self) -> SignalDelivery | None:
        closing = self._take_closing(self._started)
        if closing is None:
            return None
        feed = self._feed
        stretch = Stretch(self._cursor, self._cursor, max(feed.ring.head, self._cursor))
        resume_at = None if self._snapshot is not None else self._position()
        return SignalDelivery(feed.codec.batch((), stretch, resume_at), 0, closing=closing)

    def _position(self) -> Position:
        return Position(self._feed.data_set_id, self._cursor, self.filter_digest)

    # --- lag ------------------------------------------------------------------------------------------------------

    def visit(self, now: float) -> float:
        again_at = super().visit(now)
        if not self.ended:
            self._look_at_lag()
        return again_at

    def _look_at_lag(self) -> None:
        group = self._group
        if group is None:
            return
        now_s, last_s = self._registry.wheel_time_s, self._last_visit_s
        self._last_visit_s = now_s
        head, mark = self._feed.ring.head, self._mark
        cursor = self._scanned
        waits = cursor < head and (cursor < group.floor or group.pending(cursor))
        if not waits or (mark is not None and cursor >= mark.head):
            mark = None
        if waits and mark is None:
            mark = _LagMark(now_s, head, head - cursor)
        elif mark is not None and self._waiter is not None:  # not in a write: it's the feed's turn
            mark = _LagMark(mark.wheel_time_s + now_s - last_s, mark.head, mark.distance)
        elif mark is not None and now_s - mark.wheel_time_s >= self._registry.limits.slow_after_s:
            if head - cursor >= mark.distance:
                self._cut()
                return
            mark = _LagMark(now_s, head, head - cursor)
        self._mark = mark

    def _cut(self) -> None:
        position = self._position()
        error = ResourceExhausted(
            "the subscriber stayed behind; read faster or narrow the filter, and resume from the token",
            subject=f"{self.principal.subject} signal stream",
            retry_after_us=1_000_000,
            reason="SLOW_CONSUMER",
            metadata={
                "resume_token": self._feed.codec.resume_token(position),
                "data_set_id": position.data_set_id,
                "sequence": str(position.sequence),
                "head_sequence": str(self._feed.ring.head),
            },
        )
        self.end(error, "slow_consumer", Closing("SLOW_CONSUMER", 1_000_000))

    def _leave_feed(self) -> None:
        if self._reads_log:
            self._feed.backlog.forget(self._scanned, self.wake)
            self._read_log(False)
        if self._group is not None:
            self._feed.leave(self._group, self)
            self._group = None
