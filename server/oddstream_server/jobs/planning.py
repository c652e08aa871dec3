"""Specs of backtests and sweeps against the strategies that are installed and the engine's rules."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from oddstream_server.backtesting.config import BacktestConfig, Execution, FillModel, Sizing
from oddstream_server.backtesting.sweeps import SweepConfig, SweepParameter, WalkForward
from oddstream_server.domain.backtest import (
    FORM_OF_UNIT,
    BacktestSpec,
    ParameterValue,
    StrategySelection,
    SweepSpec,
)
from oddstream_server.domain.errors import FieldViolation, InvalidArgument, NotFound
from oddstream_server.strategies.kernel import StrategyKind
from oddstream_server.strategies.params import ParamRule
from oddstream_server.strategies.registry import ConfiguredStrategy, Registry

_T = TypeVar("_T")

PARAMETER_INVALID: Final = "STRATEGY_PARAMETER_INVALID"


class Planner:
    """Fulfils :class:`~oddstream_server.application.ports.backtests.RunPlanner`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._kinds = {kind.kind: kind for kind in registry}

    def check_backtest(self, spec: BacktestSpec) -> BacktestSpec:
        return self._checked(spec, "config")[0]

    def check_sweep(self, spec: SweepSpec) -> tuple[SweepSpec, int]:
        if len(spec.base.strategies) != 1:
            raise InvalidArgument([FieldViolation("config.base.strategies", "must be exactly one for a sweep")])
        base, _ = self._checked(spec.base, "config.base")
        filled = replace(spec, base=base)
        kind = self._kinds[base.strategies[0].kind]
        rules = kind.params_type.rules()
        for i, parameter in enumerate(spec.parameters):
            path = f"config.parameters[{i}]"
            if parameter.name not in rules:
                raise _invalid(f"{path}.name", f"is no parameter of {kind.kind}; use one of {', '.join(sorted(rules))}")
            for j, value in enumerate(parameter.values):
                _check_form(value, rules[parameter.name], f"{path}.values[{j}]")
        return filled, len(self.sweep_config(filled).sets())

    def warm_up_us(self, spec: BacktestSpec) -> int:
        return max(self._kinds[s.kind].warm_up_us for s in spec.strategies)

    def backtest_config(self, spec: BacktestSpec) -> BacktestConfig:
        """A checked spec as the engine wants it."""
        return self._checked(spec, "config")[1]

    def sweep_config(self, spec: SweepSpec) -> SweepConfig:
        """A checked spec as the engine wants it.

        :raises InvalidArgument: SWEEP_TOO_LARGE, or naming what breaks a rule.
        """
        base = self._checked(spec.base, "config.base")[1]

        def make() -> SweepConfig:
            walk = spec.walk_forward
            return SweepConfig(
                base,
                tuple(SweepParameter(p.name, tuple(v.value for v in p.values)) for p in spec.parameters),
                random_count=spec.random_set_count,
                seed=spec.base.seed,
                walk_forward=None if walk is None else WalkForward(walk.training_us, walk.testing_us),
            )

        try:
            return _under("config", make)
        except InvalidArgument as error:
            fields = [v.field for v in error.violations]
            if "config.search" in fields:
                raise InvalidArgument(error.violations, reason="SWEEP_TOO_LARGE") from None
            if fields[0].startswith("config.parameters"):
                raise InvalidArgument(error.violations, reason=PARAMETER_INVALID) from None
            raise

    def _checked(self, spec: BacktestSpec, path: str) -> tuple[BacktestSpec, BacktestConfig]:
        if spec.execution.account_class:
            raise InvalidArgument(
                [
                    FieldViolation(
                        f"{path}.execution.account_class",
                        "must be empty, which charges the class that pays most: no fee schedule is known by class",
                    )
                ]
            )
        selections: list[StrategySelection] = []
        configured: list[ConfiguredStrategy] = []
        for i, selection in enumerate(spec.strategies):
            filled, strategy = self._strategy(selection, f"{path}.strategies[{i}]", len(configured), configured)
            selections.append(filled)
            configured.append(strategy)
        config = _under(path, lambda: _config(spec, configured))
        return replace(spec, strategies=tuple(selections)), config

    def _strategy(
        self, selection: StrategySelection, path: str, number: int, before: Sequence[ConfiguredStrategy]
    ) -> tuple[StrategySelection, ConfiguredStrategy]:
        kind = self._kinds.get(selection.kind)
        if kind is None:
            raise NotFound("Strategy", selection.kind)
        if selection.kind_version not in (0, kind.version):
            raise InvalidArgument(
                [
                    FieldViolation(
                        f"{path}.kind_version",
                        f"must be {kind.version}, the version that is installed, or 0 for just that",
                    )
                ]
            )
        rules = kind.params_type.rules()
        for name, value in selection.params:
            if name not in rules:
                raise _invalid(
                    f"{path}.params.{name}", f"is no parameter of {kind.kind}; use one of {', '.join(sorted(rules))}"
                )
            _check_form(value, rules[name], f"{path}.params.{name}")
        try:
            params = kind.params_type.from_mapping({n: v.value for n, v in selection.params}, path=f"{path}.params")
        except InvalidArgument as error:
            raise InvalidArgument(error.violations, reason=PARAMETER_INVALID) from None
        values = {name: getattr(params, name) for name in rules}
        twin = any(s.kind.kind == kind.kind for s in before)
        strategy = self._registry.configure(kind.kind, values, suffix=str(number + 1) if twin else "")
        if any((s.kind.kind, s.params_digest) == (kind.kind, strategy.params_digest) for s in before):
            raise InvalidArgument([FieldViolation(path, "is there twice with the same parameters; drop one")])
        return _filled(kind, values), strategy


def _filled(kind: StrategyKind, values: dict[str, int]) -> StrategySelection:
    rules = kind.params_type.rules()
    return StrategySelection(
        kind.kind,
        kind.version,
        tuple((name, ParameterValue(FORM_OF_UNIT[rules[name].unit], values[name])) for name in sorted(values)),
    )


def _config(spec: BacktestSpec, strategies: Sequence[ConfiguredStrategy]) -> BacktestConfig:
    sizing = spec.sizing
    execution = spec.execution
    return BacktestConfig(
        strategies=tuple(strategies),
        start_us=spec.start_us,
        end_us=spec.end_us,
        starting_bankroll_micros=spec.starting_bankroll_micros,
        sizing=None
        if sizing is None
        else Sizing(
            stake_micros=sizing.stake_micros,
            fraction_ppm=sizing.fraction_ppm,
            kelly_multiplier_ppm=sizing.kelly_multiplier_ppm,
            **({} if sizing.kelly_cap_ppm is None else {"kelly_cap_ppm": sizing.kelly_cap_ppm}),
        ),
        execution=Execution(
            fill_model=FillModel(execution.fill_model),
            latency_us=execution.latency_us,
            fill_on_trigger_quote=execution.fill_on_trigger_quote,
            maximum_event_cost_micros=execution.maximum_event_cost_micros,
        ),
    )


def _under(path: str, make: Callable[[], _T]) -> _T:
    """Make something of the engine; the fields of a violation are put under the request's path."""
    try:
        return make()
    except InvalidArgument as error:
        violations = [FieldViolation(f"{path}.{v.field}", v.description) for v in error.violations]
        raise InvalidArgument(violations, reason=error.reason, metadata=error.metadata) from None


def _check_form(value: ParameterValue, rule: ParamRule, path: str) -> None:
    wanted = FORM_OF_UNIT[rule.unit]
    if value.form is not wanted:
        raise _invalid(path, f"must be given as {wanted.value}_value, since its unit is {rule.unit}")


def _invalid(path: str, rule: str) -> InvalidArgument:
    return InvalidArgument([FieldViolation(path, rule)], reason=PARAMETER_INVALID)
