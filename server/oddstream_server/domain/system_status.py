"""How the whole service does, for operators."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from oddstream_server.domain.halt import Halt
from oddstream_server.domain.market import Venue
from oddstream_server.domain.pipeline_run import PipelineRun
from oddstream_server.domain.quote import FeedStatus


class ComponentState(StrEnum):
    UP = "up"
    DEGRADED = "degraded"
    DOWN = "down"
    ABSENT = "absent"


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    name: str
    state: ComponentState
    detail: str
    lag_us: int | None = None


@dataclass(frozen=True, slots=True)
class VenueStatus:
    venue: Venue
    feed: FeedStatus
    feed_age_us: int | None
    """Since the last data; None where none ever came."""
    breaker: BreakerState
    gaps: int
    """Since the pipeline started."""
    followed_markets: int
    quarantined: int
    """In the last 24 hours."""


@dataclass(frozen=True, slots=True)
class LogStatus:
    data_set_id: str
    head_sequence: int
    oldest_sequence: int
    head_create_time_us: int | None
    streams: int
    """Of signals, on this server."""
    maximum_stream_lag: int
    """Events that the slowest of them is behind."""


@dataclass(frozen=True, slots=True)
class LeaderStatus:
    holder: str
    """Empty where nobody leads."""
    epoch: int
    expire_time_us: int | None


@dataclass(frozen=True, slots=True)
class SystemStatus:
    version: str
    schema_revision: str
    start_time_us: int
    status_time_us: int
    components: tuple[ComponentStatus, ...]
    venues: tuple[VenueStatus, ...]
    signal_log: LogStatus
    leader: LeaderStatus
    last_runs: tuple[PipelineRun, ...]
    halts: tuple[Halt, ...]
    queue_depth: int
    """Backtests and shards of sweeps that wait for a worker."""
    degraded: tuple[str, ...]
    """What doesn't work as it should, in words."""


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """What the database knows of the service."""

    schema_revision: str
    lease_holder: str
    lease_epoch: int
    lease_expire_time_us: int
    now_us: int
    """By the database's clock, which leases run on."""
    report: Mapping[str, object]
    """The leader's own words at its last renewal."""
    head_create_time_us: int | None
    queue_depth: int
    quarantined: Mapping[Venue, int]
