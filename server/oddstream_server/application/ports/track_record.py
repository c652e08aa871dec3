"""Track records of strategies, computed from the outcomes of their signals."""

from dataclasses import dataclass
from typing import Protocol

from oddstream_server.application.ports.ticks import TimeRange
from oddstream_server.domain.market import Venue
from oddstream_server.domain.signal import DataOrigin
from oddstream_server.domain.track_record import TrackRecord


@dataclass(frozen=True, slots=True)
class TrackRecordQuery:
    """What counts for a track record."""

    strategy_id: str
    kind_version: int
    origin: DataOrigin
    triggers: TimeRange
    """Which trigger times count."""
    within_venues: tuple[Venue, ...] = ()
    """Only signals all of whose legs are there; empty for all."""
    owner: str | None = None
    """Whose executions count; None for everybody's."""


class TrackRecordStore(Protocol):
    async def track_record(self, query: TrackRecordQuery, now_us: int) -> TrackRecord: ...
