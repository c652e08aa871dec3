"""What came of backtests and sweeps, as messages."""

from dataclasses import fields

from oddstream.v1 import backtest_pb2, execution_pb2, signal_pb2, sweep_pb2
from oddstream_server.domain.backtest import (
    BacktestResult,
    BlotterRow,
    Conventions,
    CurvePoint,
    DataCoverage,
    RunMetrics,
    SweepResult,
    WalkForwardStep,
)
from oddstream_server.transport.converters.backtests import EXITS, parameter_message
from oddstream_server.transport.converters.disclosures import disclaimer
from oddstream_server.transport.converters.strategies import calibration_bin
from oddstream_server.transport.converters.values import stamp

_FIGURES = tuple(f.name for f in fields(RunMetrics) if f.name != "calibration")


def backtest_result_message(result: BacktestResult) -> backtest_pb2.BacktestResult:
    return backtest_pb2.BacktestResult(
        result_hash=result.result_hash,
        engine_version=result.engine_version,
        strategy_versions=[
            backtest_pb2.StrategyVersion(kind=s.kind, kind_version=s.kind_version, params_digest=s.params_digest)
            for s in result.strategies
        ],
        input_digest=result.input_digest,
        fee_table_digest=result.fee_table_digest,
        fill_ladder=[
            backtest_pb2.FillLadderRung(
                assumption=backtest_pb2.FillAssumption.Value(f"FILL_ASSUMPTION_{rung.assumption.upper()}"),
                profit_micros=rung.profit_micros,
                trade_count=rung.trade_count,
            )
            for rung in result.fill_ladder
        ],
        metrics=metrics_message(result.metrics),
        conventions=_conventions(result.conventions),
        coverage=_coverage(result.coverage),
        signal_count=result.signal_count,
        final_equity_micros=result.final_equity_micros,
        trial_count=result.trial_count,
        disclaimer=disclaimer(result.disclaimer_code),
    )


def sweep_result_message(result: SweepResult) -> sweep_pb2.SweepResult:
    return sweep_pb2.SweepResult(
        result_hash=result.result_hash,
        sets=[
            sweep_pb2.SweepSet(
                set_number=s.set_number,
                params={name: parameter_message(value) for name, value in s.params},
                result_hash=s.result_hash,
                metrics=metrics_message(s.metrics),
            )
            for s in result.sets
        ],
        overfitting_probability=result.overfitting_probability,
        deflated_sharpe=result.deflated_sharpe,
        median_profit_micros=result.median_profit_micros,
        walk_forward_windows=map(_window, result.walk_forward),
        walk_forward_profit_micros=result.walk_forward_profit_micros,
        trial_count=result.trial_count,
        conventions=_conventions(result.conventions),
        coverage=_coverage(result.coverage),
        disclaimer=disclaimer(result.disclaimer_code),
    )


def metrics_message(metrics: RunMetrics) -> backtest_pb2.BacktestMetrics:
    return backtest_pb2.BacktestMetrics(
        **{name: getattr(metrics, name) for name in _FIGURES},
        calibration=map(calibration_bin, metrics.calibration),
    )


def trade_message(row: BlotterRow) -> backtest_pb2.BacktestTrade:
    return backtest_pb2.BacktestTrade(
        trade_number=row.trade_number,
        kind=row.kind,
        market_id=row.market_id,
        event_id=row.event_id,
        outcome_index=row.outcome_index,
        action=signal_pb2.LEG_ACTION_BUY if row.bought else signal_pb2.LEG_ACTION_SELL,
        entry_price_micros=row.entry_price_micros,
        size_micros=row.size_micros,
        fee_micros=row.fee_micros,
        slippage_micros=row.slippage_micros,
        liquidity=execution_pb2.FILL_LIQUIDITY_MAKER if row.maker else execution_pb2.FILL_LIQUIDITY_TAKER,
        exit=EXITS.index(row.exit) + 1,  # type: ignore[arg-type]  # the enum's numbers in its order
        exit_price_micros=row.exit_price_micros,
        profit_micros=row.profit_micros,
        strength=row.strength_ppm / 1_000_000,
        fair_value_micros=row.fair_value_micros,
        signal_time=stamp(row.signal_time_us),
        entry_time=stamp(row.entry_time_us),
        exit_time=stamp(row.exit_time_us),
    )


def point_message(point: CurvePoint) -> backtest_pb2.EquityPoint:
    return backtest_pb2.EquityPoint(
        point_time=stamp(point.time_us),
        equity_micros=point.equity_micros,
        cash_micros=point.cash_micros,
        locked_micros=point.locked_micros,
        drawdown_micros=point.drawdown_micros,
    )


def _conventions(given: Conventions) -> backtest_pb2.MetricConventions:
    return backtest_pb2.MetricConventions(**{f.name: getattr(given, f.name) for f in fields(Conventions)})


def _coverage(given: DataCoverage) -> backtest_pb2.Coverage:
    return backtest_pb2.Coverage(**{f.name: getattr(given, f.name) for f in fields(DataCoverage)})


def _window(step: WalkForwardStep) -> sweep_pb2.WalkForwardWindow:
    made = sweep_pb2.WalkForwardWindow(
        chosen_set_number=step.chosen_set_number,
        training_profit_micros=step.training_profit_micros,
        testing_profit_micros=step.testing_profit_micros,
    )
    made.training_range.start_time.CopyFrom(stamp(step.training_start_us))
    made.training_range.end_time.CopyFrom(stamp(step.training_end_us))
    made.testing_range.start_time.CopyFrom(stamp(step.testing_start_us))
    made.testing_range.end_time.CopyFrom(stamp(step.testing_end_us))
    return made
