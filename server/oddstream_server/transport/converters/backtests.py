"""Specs of backtests and sweeps from messages, and runs as messages."""

from typing import Any

from google.rpc import code_pb2, error_details_pb2, status_pb2

from oddstream.v1 import backtest_pb2, backtest_service_pb2, strategy_pb2, sweep_pb2
from oddstream_server.domain.backtest import (
    BacktestSpec,
    BlotterFilter,
    ExecutionRule,
    MarketSelection,
    ParameterForm,
    ParameterValue,
    Run,
    RunError,
    RunFilter,
    RunProgress,
    RunState,
    SizingRule,
    StrategySelection,
    SweepSpec,
    SweptParameter,
    WalkForward,
)
from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.transport.converters.values import (
    VENUES,
    chosen,
    duration,
    enum_table,
    instant_us,
    span,
    stamp,
    timestamp,
    word,
    words,
)

BACKTEST_STATES = enum_table(RunState, backtest_pb2.BacktestState, "BACKTEST_STATE")
SWEEP_STATES = enum_table(RunState, sweep_pb2.SweepState, "SWEEP_STATE")
EXITS = ("sold", "settled", "voided", "merged", "open")
FILL_MODELS = {
    "touch": backtest_pb2.FILL_MODEL_TOUCH,
    "book_walk": backtest_pb2.FILL_MODEL_BOOK_WALK,
    "maker_queue": backtest_pb2.FILL_MODEL_MAKER_QUEUE,
}
_MODEL_OF = {number: name for name, number in FILL_MODELS.items()} | {0: "book_walk"}
_FORM_OF = {
    "integer_value": ParameterForm.INTEGER,
    "micros_value": ParameterForm.MICROS,
    "duration_value": ParameterForm.DURATION,
    "boolean_value": ParameterForm.BOOLEAN,
}


# --- from messages ---


def backtest_spec(config: backtest_pb2.BacktestConfig, path: str) -> BacktestSpec:
    """:param path: of the config in the request, for violations."""
    markets = config.markets
    return BacktestSpec(
        strategies=tuple(
            StrategySelection(s.kind, s.kind_version, _params(s.params, f"{path}.strategies[{i}].params"))
            for i, s in enumerate(config.strategies)
        ),
        start_us=instant_us(config.range.start_time, f"{path}.range.start_time"),
        end_us=instant_us(config.range.end_time, f"{path}.range.end_time"),
        starting_bankroll_micros=config.starting_bankroll_micros,
        markets=MarketSelection(
            venues=chosen(VENUES, markets.venues, f"{path}.markets.venues"),
            event_ids=tuple(markets.event_ids),
            market_ids=tuple(markets.market_ids),
            series_ids=words(markets.series_ids, f"{path}.markets.series_ids"),
            categories=words(markets.categories, f"{path}.markets.categories"),
        ),
        sizing=_sizing(config.sizing) if config.HasField("sizing") else None,
        execution=_execution(config.execution, f"{path}.execution"),
        seed=config.seed,
        simulated=config.simulated,
    )


def sweep_spec(config: sweep_pb2.SweepConfig, path: str) -> SweepSpec:
    walk = config.walk_forward
    return SweepSpec(
        base=backtest_spec(config.base, f"{path}.base"),
        parameters=tuple(
            SweptParameter(
                p.name,
                tuple(_parameter(v, f"{path}.parameters[{i}].values[{j}]") for j, v in enumerate(p.values)),
            )
            for i, p in enumerate(config.parameters)
        ),
        random_set_count=config.random.set_count if config.HasField("random") else None,
        walk_forward=WalkForward(walk.training_length.ToMicroseconds(), walk.testing_length.ToMicroseconds())
        if config.HasField("walk_forward")
        else None,
    )


def display_name(given: str) -> str:
    return word(given, "display_name")


def _params(given: Any, path: str) -> tuple[tuple[str, ParameterValue], ...]:
    return tuple((name, _parameter(given[name], f"{path}.{name}")) for name in sorted(given))


def _parameter(given: strategy_pb2.ParameterValue, path: str) -> ParameterValue:
    form = given.WhichOneof("value")
    if form not in _FORM_OF:
        raise InvalidArgument(
            [FieldViolation(path, "must be a number, a duration or a boolean; GetStrategy tells the parameter's type")],
            reason="STRATEGY_PARAMETER_INVALID",
        )
    value = getattr(given, form)
    return ParameterValue(_FORM_OF[form], value.ToMicroseconds() if form == "duration_value" else int(value))


def _sizing(given: backtest_pb2.Sizing) -> SizingRule:
    match given.WhichOneof("rule"):
        case "fixed_stake":
            return SizingRule(stake_micros=given.fixed_stake.stake_micros)
        case "fixed_fraction":
            return SizingRule(fraction_ppm=given.fixed_fraction.fraction_ppm)
        case _:
            return SizingRule(
                kelly_multiplier_ppm=given.capped_kelly.multiplier_ppm, kelly_cap_ppm=given.capped_kelly.cap_ppm
            )


def _execution(given: backtest_pb2.ExecutionModel, path: str) -> ExecutionRule:
    return ExecutionRule(
        fill_model=_MODEL_OF[given.fill_model],
        latency_us=given.latency.ToMicroseconds() if given.HasField("latency") else ExecutionRule().latency_us,
        fill_on_trigger_quote=given.fill_on_trigger_quote,
        account_class=word(given.account_class, f"{path}.account_class"),
        maximum_event_cost_micros=given.maximum_event_cost_micros
        if given.HasField("maximum_event_cost_micros")
        else None,
    )


def run_filter(given: backtest_service_pb2.BacktestFilter | backtest_service_pb2.SweepFilter) -> RunFilter:
    table = BACKTEST_STATES if isinstance(given, backtest_service_pb2.BacktestFilter) else SWEEP_STATES
    when = span(given.create_time_range, "filter.create_time_range")
    return RunFilter(
        states=chosen(table, given.states, "filter.states"),
        kinds=words(given.kinds, "filter.kinds"),
        owners=words(given.owners, "filter.owners"),
        create_time_from_us=when.from_us,
        create_time_to_us=when.to_us,
    )


def blotter_filter(given: backtest_service_pb2.BacktestTradeFilter) -> BlotterFilter:
    names = dict(enumerate(EXITS, start=1))
    return BlotterFilter(tuple(given.market_ids), tuple(given.event_ids), tuple(names[e] for e in given.exits))


# --- to messages ---


def backtest_message(run: Run, *, with_config: bool = True) -> backtest_pb2.Backtest:
    """Without the result."""
    assert isinstance(run.spec, BacktestSpec)
    return backtest_pb2.Backtest(
        backtest_id=run.run_id,
        display_name=run.display_name,
        config=backtest_config(run.spec) if with_config else None,
        state=BACKTEST_STATES[run.state],
        progress=_progress(run.progress),
        error=_error(run.error),
        owner=run.owner,
        create_time=stamp(run.create_time_us),
        start_time=timestamp(run.start_time_us),
        end_time=timestamp(run.end_time_us),
        attempt=run.attempt,
    )


def sweep_message(run: Run, *, with_config: bool = True) -> sweep_pb2.Sweep:
    """Without the result."""
    assert isinstance(run.spec, SweepSpec)
    return sweep_pb2.Sweep(
        sweep_id=run.run_id,
        display_name=run.display_name,
        config=_sweep_config(run.spec) if with_config else None,
        state=SWEEP_STATES[run.state],
        progress=_progress(run.progress),
        error=_error(run.error),
        owner=run.owner,
        set_count=run.set_count,
        create_time=stamp(run.create_time_us),
        start_time=timestamp(run.start_time_us),
        end_time=timestamp(run.end_time_us),
    )


def backtest_config(spec: BacktestSpec) -> backtest_pb2.BacktestConfig:
    """With the defaults that hold filled in."""
    made = backtest_pb2.BacktestConfig(
        strategies=[
            backtest_pb2.StrategySelection(
                kind=s.kind, kind_version=s.kind_version, params={n: parameter_message(v) for n, v in s.params}
            )
            for s in spec.strategies
        ],
        markets=backtest_pb2.MarketSelection(
            venues=[VENUES[v] for v in spec.markets.venues],
            event_ids=spec.markets.event_ids,
            market_ids=spec.markets.market_ids,
            series_ids=spec.markets.series_ids,
            categories=spec.markets.categories,
        ),
        starting_bankroll_micros=spec.starting_bankroll_micros,
        sizing=_sizing_message(spec.sizing or SizingRule(stake_micros=max(spec.starting_bankroll_micros // 100, 1))),
        execution=backtest_pb2.ExecutionModel(
            fill_model=FILL_MODELS[spec.execution.fill_model],
            latency=duration(spec.execution.latency_us),
            fill_on_trigger_quote=spec.execution.fill_on_trigger_quote,
            account_class=spec.execution.account_class,
            maximum_event_cost_micros=spec.execution.maximum_event_cost_micros,
        ),
        seed=spec.seed,
        simulated=spec.simulated,
    )
    made.range.start_time.CopyFrom(stamp(spec.start_us))
    made.range.end_time.CopyFrom(stamp(spec.end_us))
    return made


def _sweep_config(spec: SweepSpec) -> sweep_pb2.SweepConfig:
    made = sweep_pb2.SweepConfig(
        base=backtest_config(spec.base),
        parameters=[
            sweep_pb2.SweepParameter(name=p.name, values=map(parameter_message, p.values)) for p in spec.parameters
        ],
    )
    if spec.random_set_count is None:
        made.grid.SetInParent()
    else:
        made.random.set_count = spec.random_set_count
    if spec.walk_forward is not None:
        made.walk_forward.training_length.FromMicroseconds(spec.walk_forward.training_us)
        made.walk_forward.testing_length.FromMicroseconds(spec.walk_forward.testing_us)
    return made


def parameter_message(value: ParameterValue) -> strategy_pb2.ParameterValue:
    match value.form:
        case ParameterForm.INTEGER:
            return strategy_pb2.ParameterValue(integer_value=value.value)
        case ParameterForm.MICROS:
            return strategy_pb2.ParameterValue(micros_value=value.value)
        case ParameterForm.DURATION:
            return strategy_pb2.ParameterValue(duration_value=duration(value.value))
        case ParameterForm.BOOLEAN:
            return strategy_pb2.ParameterValue(boolean_value=bool(value.value))


def _sizing_message(rule: SizingRule) -> backtest_pb2.Sizing:
    if rule.stake_micros is not None:
        return backtest_pb2.Sizing(fixed_stake=backtest_pb2.FixedStake(stake_micros=rule.stake_micros))
    if rule.fraction_ppm is not None:
        return backtest_pb2.Sizing(fixed_fraction=backtest_pb2.FixedFraction(fraction_ppm=rule.fraction_ppm))
    kelly = backtest_pb2.CappedKelly(multiplier_ppm=rule.kelly_multiplier_ppm or 0, cap_ppm=rule.kelly_cap_ppm or 0)
    return backtest_pb2.Sizing(capped_kelly=kelly)


def _progress(progress: RunProgress) -> backtest_pb2.BacktestProgress:
    return backtest_pb2.BacktestProgress(
        done_row_count=progress.done_row_count,
        total_row_count=progress.total_row_count,
        done_shard_count=progress.done_shard_count,
        total_shard_count=progress.total_shard_count,
        expected_end_time=timestamp(progress.expected_end_us),
        stage=progress.stage,
    )


def _error(error: RunError | None) -> status_pb2.Status | None:
    if error is None:
        return None
    made = status_pb2.Status(code=code_pb2.Code.Value(error.status), message=error.message)
    made.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain="oddstream"))
    return made
