"""Switching strategies on and off and changing their parameters, for every process and without a restart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from oddstream_server.application.calls.etags import etag_of, require_etag
from oddstream_server.application.calls.mutations import Mutation
from oddstream_server.application.operations.halts import withdrawals
from oddstream_server.application.ports import ControlsReader, StrategyRules
from oddstream_server.domain.errors import FieldViolation, InvalidArgument, NotFound
from oddstream_server.domain.strategy import StrategyDescription, StrategySetting

STRATEGY_CHANGED = "STRATEGY_CHANGED"
_KINDS = {"micros": "micros", "ppm": "micros", "us": "duration", "count": "integer", "bool": "boolean"}


@dataclass(frozen=True, slots=True)
class ParameterInput:
    """A parameter as a caller gives it."""

    kind: str
    """integer, micros, duration (in microseconds), boolean or word."""
    value: int


@dataclass(frozen=True, slots=True)
class StrategyUpdate:
    """None leaves a field as it is; of parameters all are replaced."""

    enabled: bool | None = None
    params: Mapping[str, ParameterInput] | None = None
    etag: str = ""


def strategy_etag(strategy: StrategyDescription) -> str:
    return etag_of(
        strategy.strategy_id, strategy.kind_version, strategy.params_revision, strategy.params_digest, strategy.enabled
    )


async def update_strategy(
    mutation: Mutation, rules: StrategyRules, strategy_id: str, update: StrategyUpdate
) -> StrategyDescription:
    """Its active opportunities are withdrawn, and it begins anew with the next tick.

    :raises NotFound: STRATEGY_NOT_FOUND.
    :raises InvalidArgument: STRATEGY_PARAMETER_INVALID.
    """
    controls = mutation.change.controls
    await controls.lock()
    stored = await controls.strategy_setting(strategy_id)
    before = rules.describe(strategy_id, stored)
    if before is None:
        raise NotFound("Strategy", strategy_id)
    require_etag(update.etag, strategy_etag(before))
    last = stored or StrategySetting(strategy_id, 0, before.enabled, {}, 1, 0)
    params = last.params if update.params is None else integers(update.params, before)
    enabled = last.enabled if update.enabled is None else update.enabled
    if update.params is not None:
        rules.check(strategy_id, params)
    wanted = replace(
        last,
        revision=last.revision + 1,
        enabled=enabled,
        params=params,
        params_revision=last.params_revision + (dict(params) != dict(last.params)),
        update_time_us=mutation.now_us,
    )
    after = rules.describe(strategy_id, wanted)
    assert after is not None
    changed = (after.enabled, after.params_digest) != (before.enabled, before.params_digest)
    await mutation.audit(f"Strategy/{strategy_id}", _told(before), _told(after))
    if not changed:
        return before
    await controls.put_strategy_setting(wanted)
    active = [e for e in await controls.active_signals() if e.signal.strategy_id == strategy_id]
    await controls.append(withdrawals(active, STRATEGY_CHANGED))
    return after


def integers(inputs: Mapping[str, ParameterInput], strategy: StrategyDescription) -> Mapping[str, int]:
    """Parameters in the integers that a strategy takes.

    :raises InvalidArgument: STRATEGY_PARAMETER_INVALID, where one is unknown or of another type.
    """
    units = {parameter.name: parameter.unit for parameter in strategy.parameters}
    wrong = []
    for name, given in inputs.items():
        if name not in units:
            known = ", ".join(sorted(units)) or "none"
            wrong.append(FieldViolation(f'params["{name}"]', f"is no parameter of the strategy; it has: {known}"))
        elif given.kind != _KINDS[units[name]]:
            wrong.append(FieldViolation(f'params["{name}"]', f"must be given as {_KINDS[units[name]]}_value"))
    if wrong:
        raise InvalidArgument(wrong, reason="STRATEGY_PARAMETER_INVALID")
    return {name: given.value for name, given in inputs.items()}


def _told(strategy: StrategyDescription) -> Mapping[str, object]:
    return {
        "enabled": strategy.enabled,
        "params": {parameter.name: parameter.value for parameter in strategy.parameters},
        "params_revision": strategy.params_revision,
    }


class StrategySettings:
    """Fulfils :class:`~oddstream_server.application.ports.StrategyCatalog`: the strategies as they are set now."""

    def __init__(self, rules: StrategyRules, controls: ControlsReader) -> None:
        self._rules = rules
        self._controls = controls

    async def list_strategies(self) -> Sequence[StrategyDescription]:
        settings = {setting.strategy_id: setting for setting in (await self._controls.controls()).settings}
        described = (self._rules.describe(name, settings.get(name)) for name in self._rules.strategy_ids())
        return [strategy for strategy in described if strategy is not None]
