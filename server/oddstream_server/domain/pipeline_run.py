"""Runs of the pipeline's stages."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from oddstream_server.domain.market import Venue


class PipelineStage(StrEnum):
    DISCOVER = "discover"
    NORMALISE = "normalise"
    STORE = "store"
    STRATEGIES = "strategies"
    SIGNALS = "signals"
    SETTLE = "settle"
    GRADE = "grade"
    IMPORT = "import"


class PipelineRunState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PipelineRun:
    run_id: str
    """``run_...``"""
    venue: Venue | None
    stage: PipelineStage
    state: PipelineRunState
    create_time_us: int
    begin_time_us: int | None
    end_time_us: int | None
    counts: Mapping[str, int]
    error: str
    requested_by: str
    """Empty where the scheduler made it."""
