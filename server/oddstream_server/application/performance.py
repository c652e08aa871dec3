"""The live track record of a strategy."""

from dataclasses import dataclass

from oddstream_server.application.access.venue_scope import scoped_venues
from oddstream_server.application.ports import Clock, TimeRange, TrackRecordQuery, TrackRecordStore
from oddstream_server.application.signals import Signals
from oddstream_server.domain.principal import Principal, Role
from oddstream_server.domain.signal import DataOrigin
from oddstream_server.domain.track_record import TrackRecord


@dataclass(frozen=True, slots=True)
class RecordQuestion:
    strategy_id: str
    kind_version: int
    """0 for the one that runs."""
    triggers: TimeRange
    simulated: bool


class Performance:
    def __init__(self, store: TrackRecordStore, signals: Signals, now: Clock) -> None:
        self._store = store
        self._signals = signals
        self._now = now

    async def track_record(self, caller: Principal, asked: RecordQuestion) -> TrackRecord:
        """What the strategy's signals came to, as far as the caller may see them.

        Live signals or simulated ones, never both; a key of some venues has those with every leg there. Executions are
        the caller's own, everybody's for an admin: with few who report, a sum would tell what one of them earned.

        :raises NotFound: STRATEGY_NOT_FOUND.
        """
        strategy = await self._signals.get_strategy(asked.strategy_id)
        query = TrackRecordQuery(
            strategy.strategy_id,
            asked.kind_version or strategy.kind_version,
            DataOrigin.SIMULATED if asked.simulated else DataOrigin.LIVE,
            asked.triggers,
            scoped_venues(),
            None if caller.role >= Role.ADMIN else caller.subject,
        )
        return await self._store.track_record(query, self._now())
