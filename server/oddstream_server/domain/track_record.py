"""The live track record of a strategy, from its graded signals."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from oddstream_server.domain.backtest import CalibrationRow
from oddstream_server.domain.market import Venue
from oddstream_server.domain.signal import Signal

MINIMUM_GRADED: Final = 100
"""A confidence is told from so many graded signals on."""

_HOUR_US: Final = 3_600_000_000


class Horizon(IntEnum):
    """How long before the expected settlement a signal was made."""

    UNDER_HOUR = 1
    UNDER_DAY = 2
    UNDER_WEEK = 3
    WEEK_OR_MORE = 4


def horizon_of(signal: Signal) -> Horizon | None:
    """None where no settlement is expected at any time."""
    if signal.lockup_until_us is None:
        return None
    left_us = signal.lockup_until_us - signal.input_time_us
    if left_us < _HOUR_US:
        return Horizon.UNDER_HOUR
    if left_us < 24 * _HOUR_US:
        return Horizon.UNDER_DAY
    return Horizon.UNDER_WEEK if left_us < 7 * 24 * _HOUR_US else Horizon.WEEK_OR_MORE


@dataclass(frozen=True, slots=True)
class Figures:
    """Field for field the contract's PerformanceFigures; what isn't defined is None, never 0."""

    signal_count: int = 0
    graded_count: int = 0
    void_count: int = 0
    hit_rate: float | None = None
    hit_rate_low: float | None = None
    hit_rate_high: float | None = None
    brier: float | None = None
    brier_crowd: float | None = None
    mean_realized_edge_micros: int | None = None
    mean_next_quote_edge_micros: int | None = None
    realized_edge_low_micros: int | None = None
    realized_edge_high_micros: int | None = None
    execution_count: int = 0
    executed_profit_micros: int | None = None
    calibration: tuple[CalibrationRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Slice:
    """None stands for all of a kind."""

    venue: Venue | None
    horizon: Horizon | None
    figures: Figures


@dataclass(frozen=True, slots=True)
class TrackRecord:
    strategy_id: str
    kind_version: int
    overall: Figures
    slices: tuple[Slice, ...]
    """By venue, by horizon, and by both."""
    first_trigger_us: int | None
    """Of the signals counted; None where there are none."""
    last_trigger_us: int | None
    compute_time_us: int
