"""Backtests and sweeps as resources: what was asked for, where it stands, what came of it.

Both are *runs*: they are queued, computed by a worker, and end once. A sweep is a backtest repeated with many sets of
parameters. Here are the words alone; the engine is in ``backtesting``.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from oddstream_server.domain import disclosures
from oddstream_server.domain.market import Venue


class RunKind(StrEnum):
    BACKTEST = "backtest"
    SWEEP = "sweep"

    @property
    def id_prefix(self) -> str:
        return "bt" if self is RunKind.BACKTEST else "swp"

    @property
    def resource_type(self) -> str:
        """Name of the resource in the contract."""
        return "Backtest" if self is RunKind.BACKTEST else "Sweep"


class RunState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    """A worker computes it, or one that did was lost and another takes it over."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


class ParameterForm(StrEnum):
    """How a parameter's value was written; which form a parameter wants follows from its unit."""

    INTEGER = "integer"
    MICROS = "micros"
    DURATION = "duration"
    """In microseconds."""
    BOOLEAN = "boolean"


FORM_OF_UNIT: Final = {
    "count": ParameterForm.INTEGER,
    "micros": ParameterForm.MICROS,
    "ppm": ParameterForm.MICROS,
    "us": ParameterForm.DURATION,
    "bool": ParameterForm.BOOLEAN,
}


@dataclass(frozen=True, slots=True)
class ParameterValue:
    form: ParameterForm
    value: int


@dataclass(frozen=True, slots=True)
class StrategySelection:
    kind: str
    kind_version: int = 0
    """0: the one that is installed."""
    params: tuple[tuple[str, ParameterValue], ...] = ()
    """By name, sorted."""


@dataclass(frozen=True, slots=True)
class MarketSelection:
    """AND between fields, OR inside one; empty means any."""

    venues: tuple[Venue, ...] = ()
    event_ids: tuple[str, ...] = ()
    market_ids: tuple[str, ...] = ()
    series_ids: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SizingRule:
    """Exactly one of stake, fraction and Kelly multiplier is set."""

    stake_micros: int | None = None
    fraction_ppm: int | None = None
    kelly_multiplier_ppm: int | None = None
    kelly_cap_ppm: int | None = None


@dataclass(frozen=True, slots=True)
class ExecutionRule:
    fill_model: str = "book_walk"
    """touch, book_walk or maker_queue."""
    latency_us: int = 500_000
    fill_on_trigger_quote: bool = False
    account_class: str = ""
    maximum_event_cost_micros: int | None = None


@dataclass(frozen=True, slots=True)
class BacktestSpec:
    """Everything that was asked for."""

    strategies: tuple[StrategySelection, ...]
    start_us: int
    end_us: int
    starting_bankroll_micros: int
    markets: MarketSelection = MarketSelection()
    sizing: SizingRule | None = None
    """None: each trade costs up to a hundredth of the starting bankroll."""
    execution: ExecutionRule = ExecutionRule()
    seed: int = 0
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class SweptParameter:
    name: str
    values: tuple[ParameterValue, ...]


@dataclass(frozen=True, slots=True)
class WalkForward:
    training_us: int
    testing_us: int


@dataclass(frozen=True, slots=True)
class SweepSpec:
    base: BacktestSpec
    parameters: tuple[SweptParameter, ...]
    random_set_count: int | None = None
    """None: every combination."""
    walk_forward: WalkForward | None = None


@dataclass(frozen=True, slots=True)
class RunProgress:
    done_row_count: int = 0
    total_row_count: int | None = None
    done_shard_count: int = 0
    total_shard_count: int | None = None
    expected_end_us: int | None = None
    stage: str = ""


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run failed."""

    reason: str
    """An ErrorReason without its prefix."""
    message: str
    """Made by us for the caller."""
    status: str = "FAILED_PRECONDITION"
    """The name of a gRPC status code."""


@dataclass(frozen=True, slots=True)
class Run:
    """A backtest or a sweep as it is kept; its result comes apart, since it can be large."""

    run_id: str
    kind: RunKind
    owner: str
    display_name: str
    spec: BacktestSpec | SweepSpec
    state: RunState
    attempt: int
    """How many times a worker took it."""
    progress: RunProgress
    create_time_us: int
    start_time_us: int | None = None
    end_time_us: int | None = None
    error: RunError | None = None
    set_count: int = 1
    """Parameter sets: 1 for a backtest."""
    revision: int = 0
    """Grows at each change; watchers compare it."""
    create_number: int = 0
    """Grows from run to run; lists are in descending order of it."""

    @property
    def base(self) -> BacktestSpec:
        return self.spec.base if isinstance(self.spec, SweepSpec) else self.spec


# --- what came of it ---


@dataclass(frozen=True, slots=True)
class FillRung:
    assumption: str
    """mid_without_fee, touch_without_fee, touch_with_fee, next_quote_with_fee or configured."""
    profit_micros: int
    trade_count: int


@dataclass(frozen=True, slots=True)
class DataCoverage:
    ratio: float
    market_count: int
    row_count: int
    gap_count: int
    warm_up_row_count: int = 0


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """Forecasts from ``start`` to below ``end``, against how often what they forecast happened."""

    start_price_micros: int
    end_price_micros: int
    count: int
    mean_forecast: float | None
    frequency: float | None


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """Absent is undefined, never 0. Figures without a unit in their name are plain numbers."""

    profit_micros: int
    fees_micros: int
    turnover_micros: int
    peak_locked_micros: int
    trade_count: int
    void_count: int
    total_return: float | None = None
    return_on_locked: float | None = None
    annual_return: float | None = None
    annual_volatility: float | None = None
    sharpe: float | None = None
    sortino: float | None = None
    maximum_drawdown: float | None = None
    probabilistic_sharpe: float | None = None
    win_rate: float | None = None
    win_rate_low: float | None = None
    win_rate_high: float | None = None
    brier: float | None = None
    brier_crowd: float | None = None
    log_loss: float | None = None
    mean_edge_micros: int | None = None
    edge_low_micros: int | None = None
    edge_high_micros: int | None = None
    calibration: tuple[CalibrationRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Conventions:
    """How the figures are defined."""

    periods_per_year: int = 365
    ddof: int = 1
    risk_free_return: float = 0.0
    log_loss_clip: float = 1e-6
    confidence_level: float = 0.95
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StrategyRun:
    kind: str
    kind_version: int
    params_digest: str


@dataclass(frozen=True, slots=True)
class BacktestResult:
    result_hash: str
    engine_version: int
    strategies: tuple[StrategyRun, ...]
    input_digest: str
    fee_table_digest: str
    fill_ladder: tuple[FillRung, ...]
    metrics: RunMetrics
    conventions: Conventions
    coverage: DataCoverage
    signal_count: int
    final_equity_micros: int
    trial_count: int = 0
    """Set when it is stored."""
    disclaimer_code: str = disclosures.BACKTEST


@dataclass(frozen=True, slots=True)
class SweepSetResult:
    set_number: int
    params: tuple[tuple[str, ParameterValue], ...]
    result_hash: str
    metrics: RunMetrics


@dataclass(frozen=True, slots=True)
class WalkForwardStep:
    training_start_us: int
    training_end_us: int
    testing_start_us: int
    testing_end_us: int
    chosen_set_number: int
    training_profit_micros: int
    testing_profit_micros: int


@dataclass(frozen=True, slots=True)
class SweepResult:
    result_hash: str
    sets: tuple[SweepSetResult, ...]
    conventions: Conventions
    coverage: DataCoverage
    input_digest: str
    overfitting_probability: float | None = None
    deflated_sharpe: float | None = None
    median_profit_micros: int | None = None
    walk_forward: tuple[WalkForwardStep, ...] = ()
    walk_forward_profit_micros: int | None = None
    trial_count: int = 0
    disclaimer_code: str = disclosures.BACKTEST


@dataclass(frozen=True, slots=True)
class BlotterRow:
    """A position from its entry to its end; prices are the traded outcome's."""

    trade_number: int
    kind: str
    market_id: str
    event_id: str | None
    outcome_index: int
    bought: bool
    entry_price_micros: int
    size_micros: int
    fee_micros: int
    slippage_micros: int
    maker: bool
    exit: str
    """sold, settled, voided, merged or open."""
    exit_price_micros: int
    profit_micros: int
    strength_ppm: int
    fair_value_micros: int | None
    signal_time_us: int
    entry_time_us: int
    exit_time_us: int


@dataclass(frozen=True, slots=True)
class CurvePoint:
    time_us: int
    equity_micros: int
    cash_micros: int
    locked_micros: int
    drawdown_micros: int = 0
    """At most 0."""


@dataclass(frozen=True, slots=True)
class Curve:
    points: tuple[CurvePoint, ...]
    total_point_count: int


@dataclass(frozen=True, slots=True)
class RunFilter:
    """AND between fields, OR inside one; empty means any."""

    states: tuple[RunState, ...] = ()
    kinds: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    create_time_from_us: int | None = None
    create_time_to_us: int | None = None


@dataclass(frozen=True, slots=True)
class BlotterFilter:
    market_ids: tuple[str, ...] = ()
    event_ids: tuple[str, ...] = ()
    exits: tuple[str, ...] = field(default=())
