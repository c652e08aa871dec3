"""Strategies and their parameters, as messages."""

from oddstream.v1 import strategy_pb2
from oddstream_server.application.operations.strategy_settings import strategy_etag
from oddstream_server.domain.strategy import StrategyDescription, StrategyOrigin, StrategyParameter
from oddstream_server.transport.converters.values import duration, enum_table, timestamp

ORIGINS = enum_table(StrategyOrigin, strategy_pb2.StrategyOrigin, "STRATEGY_ORIGIN")
PARAMETER_TYPES = {
    "micros": strategy_pb2.PARAMETER_TYPE_MICROS,
    "ppm": strategy_pb2.PARAMETER_TYPE_MICROS,
    "us": strategy_pb2.PARAMETER_TYPE_DURATION,
    "count": strategy_pb2.PARAMETER_TYPE_INTEGER,
    "bool": strategy_pb2.PARAMETER_TYPE_BOOLEAN,
}
_UNITS = {"micros": "USD", "ppm": "1"}


def strategy_message(strategy: StrategyDescription) -> strategy_pb2.Strategy:
    return strategy_pb2.Strategy(
        strategy_id=strategy.strategy_id,
        kind=strategy.kind,
        kind_version=strategy.kind_version,
        display_name=strategy.display_name,
        description=strategy.description,
        formula_source=strategy.formula_source,
        enabled=strategy.enabled,
        params={p.name: _value(p, p.value) for p in strategy.parameters},
        parameters=[_declaration(p) for p in strategy.parameters],
        params_digest=strategy.params_digest,
        params_revision=strategy.params_revision,
        input_columns=strategy.input_columns,
        warm_up=duration(strategy.warm_up_us),
        group=strategy.group,
        strength_map=strategy.strength_map,
        origin=ORIGINS[strategy.origin],
        update_time=timestamp(strategy.update_time_us),
        etag=strategy_etag(strategy),
    )


def _declaration(parameter: StrategyParameter) -> strategy_pb2.ParameterDeclaration:
    return strategy_pb2.ParameterDeclaration(
        name=parameter.name,
        description=parameter.description,
        type=PARAMETER_TYPES[parameter.unit],
        unit=_UNITS.get(parameter.unit, ""),
        default_value=_value(parameter, parameter.default),
        minimum_value=_value(parameter, parameter.minimum),
        maximum_value=_value(parameter, parameter.maximum),
    )


def _value(parameter: StrategyParameter, value: int) -> strategy_pb2.ParameterValue:
    match parameter.unit:
        case "micros" | "ppm":
            return strategy_pb2.ParameterValue(micros_value=value)
        case "us":
            return strategy_pb2.ParameterValue(duration_value=duration(value))
        case "bool":
            return strategy_pb2.ParameterValue(boolean_value=bool(value))
        case _:
            return strategy_pb2.ParameterValue(integer_value=value)
