"""The signal log as its readers see it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from oddstream_server.application.ports.pages import Key, Page
from oddstream_server.domain.market import (
    Venue,
)
from oddstream_server.domain.quote import FeedStatus
from oddstream_server.domain.signal import Direction, Signal, SignalEvent, SignalState


@dataclass(frozen=True, slots=True)
class LogBounds:
    """Where the log begins and ends now."""

    data_set_id: str
    head_sequence: int
    oldest_sequence: int
    """First sequence that can still be read; head + 1 in an empty log."""
    oldest_create_time_us: int | None


@dataclass(frozen=True, slots=True)
class SignalFilter:
    venues: tuple[Venue, ...] = ()
    event_ids: tuple[str, ...] = ()
    market_ids: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    strategy_ids: tuple[str, ...] = ()
    directions: tuple[Direction, ...] = ()
    minimum_strength_ppm: int = 0
    minimum_net_edge_micros: int | None = None
    include_simulated: bool = False
    include_replay: bool = False
    within_venues: tuple[Venue, ...] = ()
    """No leg is elsewhere: what the caller's key may see; empty for all."""


@dataclass(frozen=True, slots=True)
class StoredSignal:
    """A signal with its life: the state and grade now, and the sequence and time of its first event."""

    signal: Signal
    state: SignalState
    sequence: int
    create_time_us: int
    end_time_us: int | None
    opening_strength_ppm: int
    opening_net_edge_micros: int | None
    grade: Any = None  # Grade | None, kept wide for the storage layer's decoding


@dataclass(frozen=True, slots=True)
class SignalListFilter:
    match: SignalFilter = field(default_factory=SignalFilter)
    states: tuple[SignalState, ...] = ()
    opportunity_ids: tuple[str, ...] = ()
    create_time_from_us: int | None = None
    create_time_to_us: int | None = None


class SignalLog(Protocol):
    """The log's readers."""

    async def bounds(self) -> LogBounds: ...

    async def read(self, after_sequence: int, limit: int) -> Sequence[SignalEvent]:
        """Events after a sequence, in order."""
        ...

    async def sequence_at(self, create_time_us: int) -> int:
        """The last sequence committed before an instant; 0 where there is none."""
        ...

    async def active_snapshot(self) -> tuple[int, Sequence[SignalEvent]]:
        """The head and, as of it, the last CREATED or REVISED event of each ACTIVE opportunity, in order."""
        ...

    async def get_signal(self, signal_id: str) -> StoredSignal | None: ...

    async def list_signals(
        self, where: SignalListFilter, after: Key | None, limit: int
    ) -> tuple[Page[StoredSignal], int]:
        """Newest first, with the head sequence as of which the page was read."""
        ...

    async def feed_statuses(self) -> Sequence[FeedStatus]: ...

    def wake_ups(self, on_wake: Callable[[str], None]) -> "WakeUps":
        """A listener that calls ``on_wake(channel)`` for each commit: ``signals``, ``quotes``, ``feed``, ``keys``.

        Losing wake-ups costs latency, never data: readers poll too. It is also called on every reconnect.
        """
        ...


class WakeUps(Protocol):
    async def run(self) -> None:
        """Listen until cancelled; reconnects by itself, pings its connection."""
        ...
