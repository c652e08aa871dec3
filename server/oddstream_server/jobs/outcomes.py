"""The engine's results as the domain keeps them."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from oddstream_server.backtesting.engine import Outcome
from oddstream_server.backtesting.records.coverage import Coverage
from oddstream_server.backtesting.result import (
    BacktestMetrics,
    MetricConventions,
    equity_curve,
    summarize,
    trades,
)
from oddstream_server.backtesting.sweeps import SweepConfig
from oddstream_server.backtesting.sweeps import SweepResult as EngineSweepResult
from oddstream_server.domain.backtest import (
    FORM_OF_UNIT,
    BacktestResult,
    BlotterRow,
    CalibrationRow,
    Conventions,
    DataCoverage,
    FillRung,
    ParameterValue,
    RunMetrics,
    StrategyRun,
    SweepResult,
    SweepSetResult,
    WalkForwardStep,
)


def backtest_result(outcome: Outcome) -> BacktestResult:
    """Without its trial count, which is known when it is stored."""
    found = summarize(outcome)
    return BacktestResult(
        result_hash=found.result_hash,
        engine_version=found.engine_version,
        strategies=tuple(StrategyRun(s.kind, s.kind_version, s.params_digest) for s in found.strategy_versions),
        input_digest=found.input_digest,
        fee_table_digest=found.fee_table_digest,
        fill_ladder=tuple(
            FillRung(r.assumption.name.lower(), r.profit_micros, r.trade_count) for r in found.fill_ladder
        ),
        metrics=_metrics(found.metrics),
        conventions=_conventions(found.conventions),
        coverage=_coverage(found.coverage, found.warm_up_row_count),
        signal_count=found.signal_count,
        final_equity_micros=found.final_equity_micros,
    )


def blotter_rows(outcome: Outcome) -> Iterator[BlotterRow]:
    for trade in trades(outcome):
        yield BlotterRow(
            trade_number=trade.trade_number,
            kind=trade.kind,
            market_id=trade.market_id,
            event_id=trade.event_id,
            outcome_index=trade.outcome_index,
            bought=True,
            entry_price_micros=trade.entry_price_micros,
            size_micros=trade.size_micros,
            fee_micros=trade.fee_micros,
            slippage_micros=trade.slippage_micros,
            maker=trade.maker,
            exit=trade.exit.name.lower(),
            exit_price_micros=trade.exit_price_micros,
            profit_micros=trade.profit_micros,
            strength_ppm=trade.strength_ppm,
            fair_value_micros=trade.fair_value_micros,
            signal_time_us=trade.signal_time_us,
            entry_time_us=trade.entry_time_us,
            exit_time_us=trade.exit_time_us,
        )


def curve_columns(outcome: Outcome) -> Mapping[str, Any]:
    points = equity_curve(outcome)
    return {
        name: np.array([getattr(p, name) for p in points], dtype=np.int64)
        for name in ("time_us", "equity_micros", "cash_micros", "locked_micros")
    }


def sweep_result(config: SweepConfig, found: EngineSweepResult, input_digest: str) -> SweepResult:
    rules = config.base.strategies[0].kind.params_type.rules()
    return SweepResult(
        result_hash=found.result_hash,
        sets=tuple(
            SweepSetResult(
                s.set_number,
                tuple((n, ParameterValue(FORM_OF_UNIT[rules[n].unit], v)) for n, v in sorted(s.params.items())),
                s.result_hash,
                _metrics(s.metrics),
            )
            for s in found.sets
        ),
        conventions=_conventions(found.conventions),
        coverage=_coverage(found.coverage, 0),
        input_digest=input_digest,
        overfitting_probability=found.overfitting_probability,
        deflated_sharpe=found.deflated_sharpe,
        median_profit_micros=found.median_profit_micros,
        walk_forward=tuple(
            WalkForwardStep(
                w.training_start_us,
                w.testing_start_us,
                w.testing_start_us,
                w.testing_end_us,
                w.chosen_set_number,
                w.training_profit_micros,
                w.testing_profit_micros,
            )
            for w in found.walk_forward_windows
        ),
        walk_forward_profit_micros=found.walk_forward_profit_micros,
    )


def _metrics(found: BacktestMetrics) -> RunMetrics:
    plain = {f.name: getattr(found, f.name) for f in fields(RunMetrics) if f.name != "calibration"}
    return RunMetrics(
        **plain,
        calibration=tuple(
            CalibrationRow(b.start_price_micros, b.end_price_micros, b.count, b.mean_forecast, b.frequency)
            for b in found.calibration
        ),
    )


def _conventions(found: MetricConventions) -> Conventions:
    return Conventions(**{f.name: getattr(found, f.name) for f in fields(Conventions)})


def _coverage(found: Coverage, warm_up_rows: int) -> DataCoverage:
    return DataCoverage(found.ratio, found.market_count, found.row_count, found.gap_count, warm_up_rows)
