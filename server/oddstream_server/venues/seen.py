"""Bounded memory of what was seen lately."""

from collections import OrderedDict
from collections.abc import Hashable


class RecentlySeen:
    """Remembers the newest ``capacity`` keys with how often each was seen."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self._capacity = capacity
        self._counts: OrderedDict[Hashable, int] = OrderedDict()

    def add(self, key: Hashable) -> int:
        """How often the key was seen before this time."""
        before = self._counts.pop(key, 0)
        self._counts[key] = before + 1
        if len(self._counts) > self._capacity:
            self._counts.popitem(last=False)
        return before
