"""How the service does: put together from the database, the leader's report and this process."""

from collections.abc import Iterable, Mapping
from typing import Any

from oddstream_server.application.ports import (
    Clock,
    ControlsReader,
    OwnProcess,
    PipelineRunStore,
    SignalLog,
    SystemRecords,
)
from oddstream_server.domain.pipeline_run import PipelineStage
from oddstream_server.domain.quote import FeedState, FeedStatus
from oddstream_server.domain.system_status import (
    BreakerState,
    ComponentState,
    ComponentStatus,
    LeaderStatus,
    LogStatus,
    SystemFacts,
    SystemStatus,
    VenueStatus,
)

_NOT_WELL = (ComponentState.DEGRADED, ComponentState.DOWN)
_LATE_US = 60_000_000
"""A pipeline that stored nothing for this long has something to explain."""


class SystemStatuses:
    def __init__(
        self,
        records: SystemRecords,
        runs: PipelineRunStore,
        controls: ControlsReader,
        signal_log: SignalLog,
        process: OwnProcess,
        *,
        version: str,
        start_time_us: int,
        now: Clock,
    ) -> None:
        self._records = records
        self._runs = runs
        self._controls = controls
        self._signal_log = signal_log
        self._process = process
        self._version = version
        self._start_time_us = start_time_us
        self._now = now

    async def status(self) -> SystemStatus:
        facts = await self._records.facts()
        bounds = await self._signal_log.bounds()
        statuses = await self._signal_log.feed_statuses()
        halts = (await self._controls.controls()).halts
        now_us = self._now()
        streams, lag = self._process.streams()
        runs = tuple(await self._runs.last_runs())
        followed = {run.venue: run.counts.get("subscribed", 0) for run in runs if run.stage is PipelineStage.DISCOVER}
        venues = tuple(_venue(status, facts, followed.get(status.venue, 0), now_us) for status in statuses)
        components = tuple(self._components(facts))
        return SystemStatus(
            version=self._version,
            schema_revision=facts.schema_revision,
            start_time_us=self._start_time_us,
            status_time_us=now_us,
            components=components,
            venues=venues,
            signal_log=LogStatus(
                bounds.data_set_id,
                bounds.head_sequence,
                bounds.oldest_sequence,
                facts.head_create_time_us,
                streams,
                lag,
            ),
            leader=_leader(facts),
            last_runs=runs,
            halts=halts,
            queue_depth=facts.queue_depth,
            degraded=(
                *(f"{c.name}: {c.detail}" for c in components if c.state in _NOT_WELL),
                *(f"{v.venue.value}: {_words(v.feed)}" for v in venues if v.feed.state is not FeedState.LIVE),
                *(
                    f"{v.venue.value}: the breaker before its REST endpoints is {v.breaker.value.replace('_', ' ')}"
                    for v in venues
                    if v.breaker is not BreakerState.CLOSED
                ),
                *(f"signals are halted: {halt.scope}" for halt in halts),
            ),
        )

    def _components(self, facts: SystemFacts) -> Iterable[ComponentStatus]:
        used, maximum = self._process.connections()
        full = used >= maximum
        yield ComponentStatus(
            "database",
            ComponentState.DEGRADED if full else ComponentState.UP,
            f"{used} of {maximum} connections of this process are in use",
        )
        yield ComponentStatus("replica", ComponentState.ABSENT, "none is set up: all reads go to the primary")
        away = self._process.redis_away()
        detail = "away: limits are held by each process alone, and books show their top alone" if away else "answers"
        yield ComponentStatus("redis", ComponentState.DEGRADED if away else ComponentState.UP, detail)
        yield _pipeline(facts)
        waiting = facts.queue_depth
        yield ComponentStatus("workers", ComponentState.UP, f"{waiting} backtests and shards wait or run")
        trouble = self._process.held_secrets()
        yield ComponentStatus(
            "secrets",
            ComponentState.DEGRADED if trouble else ComponentState.UP,
            trouble or "what is needed is held",
        )


def _venue(status: FeedStatus, facts: SystemFacts, followed: int, now_us: int) -> VenueStatus:
    told = _mapping(_mapping(facts.report.get("venues")).get(status.venue.value))
    age = told.get("last_receive_age_us")
    if age is None and status.last_receive_time_us is not None:
        age = max(0, now_us - status.last_receive_time_us)
    return VenueStatus(
        venue=status.venue,
        feed=status,
        feed_age_us=age,
        breaker=BreakerState(told.get("breaker", BreakerState.CLOSED)),
        gaps=int(told.get("gaps", 0)),
        followed_markets=followed,
        quarantined=facts.quarantined.get(status.venue, 0),
    )


def _pipeline(facts: SystemFacts) -> ComponentStatus:
    if facts.lease_expire_time_us <= facts.now_us:
        return ComponentStatus("pipeline", ComponentState.DOWN, "nobody leads: no data comes in, no signals go out")
    lag = facts.report.get("last_batch_age_us")
    lag_us = lag if isinstance(lag, int) else None
    depth = facts.report.get("queue", 0)
    if facts.report.get("ingest_paused"):
        return ComponentStatus("pipeline", ComponentState.DEGRADED, "stopped for want of disk; reads go on", lag_us)
    if lag_us is not None and lag_us > _LATE_US:
        return ComponentStatus("pipeline", ComponentState.DEGRADED, "stored nothing for over a minute", lag_us)
    return ComponentStatus("pipeline", ComponentState.UP, f"{depth} items wait to be stored", lag_us)


def _leader(facts: SystemFacts) -> LeaderStatus:
    if facts.lease_expire_time_us <= facts.now_us:
        return LeaderStatus("", facts.lease_epoch, None)
    return LeaderStatus(facts.lease_holder, facts.lease_epoch, facts.lease_expire_time_us)


def _words(feed: FeedStatus) -> str:
    words = f"its feed is {feed.state.value}"
    return f"{words} ({feed.detail})" if feed.detail else words


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
