"""Track records of strategies, computed from the outcomes of their signals."""

from typing import Protocol

from oddstream_server.application.ports.ticks import TimeRange
from oddstream_server.domain.market import Venue
from oddstream_server.domain.signal import DataOrigin
from oddstream_server.domain.track_record import TrackRecord


class TrackRecordStore(Protocol):
    async def track_record(
        self,
        strategy_id: str,
        kind_version: int,
        origin: DataOrigin,
        triggers: TimeRange,
        within_venues: tuple[Venue, ...],
        owner: str | None,
        now_us: int,
    ) -> TrackRecord:
        """
        :param triggers: which trigger times count.
        :param within_venues: only signals all of whose legs are there; empty for all.
        :param owner: whose executions count; None for everybody's.
        """
        ...
