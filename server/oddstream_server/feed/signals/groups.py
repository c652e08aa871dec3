"""Subscribers with the same filter share its work: each event is tested once a filter, each message is joined once."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Protocol

from oddstream_server.feed.signals.batches import Batch
from oddstream_server.feed.signals.filters import CompiledFilter, EventFacts
from oddstream_server.feed.signals.ring import Entry, Ring, View

_SEQUENCE = attrgetter("sequence")
_CACHED_BATCHES = 8
"""Joined messages that a group keeps: enough for the readers that move together, and a bound on memory."""


class Member(Protocol):
    def wake(self) -> None: ...


class FilterGroup:
    """The events of the ring that pass one filter, and the subscribers that have it.

    Every matching event after ``floor`` is held here: a reader whose cursor is at or above it goes on from memory, one
    below it has to read the log.
    """

    __slots__ = ("_batches", "_entries", "filter", "floor", "members")

    def __init__(self, compiled: CompiledFilter, floor: int) -> None:
        self.filter = compiled
        self.floor = floor
        self.members: dict[Member, None] = {}
        self._entries: list[Entry] = []
        self._batches: dict[tuple[int, View], Batch] = {}

    def take(self, entry: Entry) -> bool:
        """Keep an event of the ring if it passes."""
        if not self.filter.matches(entry.facts):
            return False
        self._entries.append(entry)
        return True

    def wake(self) -> None:
        for member in self.members:
            member.wake()

    def follow(self, ring: Ring) -> None:
        """The ring moved: let go of what it evicted, and of messages that tell an old head."""
        base = ring.base
        gone = bisect_right(self._entries, base, key=_SEQUENCE)
        if gone:
            self.floor = max(self.floor, self._entries[gone - 1].sequence)
            del self._entries[:gone]
        self._batches.clear()

    def reach(self, cursor: int, ring: Ring) -> bool:
        """True where everything after the cursor is held; entries of the ring from before the group are tested now."""
        if cursor >= self.floor:
            return True
        if cursor < ring.base:
            return False
        self._entries[:0] = [e for e in ring.between(cursor, self.floor) if self.filter.matches(e.facts)]
        self.floor = cursor
        return True

    def pending(self, cursor: int) -> bool:
        return bool(self._entries) and self._entries[-1].sequence > cursor

    def after(self, cursor: int, limit: int) -> Sequence[Entry]:
        low = bisect_right(self._entries, cursor, key=_SEQUENCE)
        return self._entries[low : low + limit]

    def restart(self, floor: int) -> None:
        """Events up to ``floor`` are gone without having been seen."""
        self.floor = floor
        self._entries.clear()
        self._batches.clear()

    def cached(self, after: int, view: View) -> Batch | None:
        return self._batches.get((after, view))

    def cache(self, after: int, view: View, batch: Batch) -> None:
        if len(self._batches) >= _CACHED_BATCHES:
            self._batches.clear()
        self._batches[after, view] = batch


class GroupIndex:
    """The groups of a feed, found by what an event carries, so that most filters aren't even asked."""

    __slots__ = ("_by_digest", "_by_field", "_rest")

    def __init__(self) -> None:
        self._by_digest: dict[bytes, FilterGroup] = {}
        self._by_field: dict[tuple[str, str], dict[FilterGroup, None]] = {}
        self._rest: dict[FilterGroup, None] = {}

    def __len__(self) -> int:
        return len(self._by_digest)

    def __iter__(self) -> Iterator[FilterGroup]:
        return iter(self._by_digest.values())

    def join(self, compiled: CompiledFilter, member: Member, head: int) -> FilterGroup:
        """The group of a filter, with one member more; a new one holds what comes after ``head``."""
        group = self._by_digest.get(compiled.digest)
        if group is None:
            group = FilterGroup(compiled, head)
            self._by_digest[compiled.digest] = group
            if compiled.index_by:
                for key in compiled.index_keys:
                    self._by_field.setdefault((compiled.index_by, key), {})[group] = None
            else:
                self._rest[group] = None
        group.members[member] = None
        return group

    def leave(self, group: FilterGroup, member: Member) -> None:
        """Idempotent; a group without members is forgotten."""
        group.members.pop(member, None)
        if group.members or self._by_digest.get(group.filter.digest) is not group:
            return
        del self._by_digest[group.filter.digest]
        self._rest.pop(group, None)
        for key in group.filter.index_keys:
            shelf = self._by_field.get((group.filter.index_by, key), {})
            shelf.pop(group, None)
            if not shelf:
                self._by_field.pop((group.filter.index_by, key), None)

    def candidates(self, facts: EventFacts) -> Iterable[FilterGroup]:
        """Each group that may want the event, once."""
        if not self._by_field:
            return self._rest
        found = dict(self._rest)
        for name, values in (
            ("market", facts.market_ids),
            ("event", (facts.event_id or "",)),
            ("strategy", (facts.strategy_id,)),
            ("kind", (facts.kind,)),
        ):
            for value in values:
                found.update(self._by_field.get((name, value), {}))
        return found
