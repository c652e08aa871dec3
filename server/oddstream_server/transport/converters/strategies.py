"""Strategies, their parameters and their track records, as messages."""

from dataclasses import fields

from oddstream.v1 import strategy_pb2, time_range_pb2, venue_pb2
from oddstream_server.application.operations.strategy_settings import strategy_etag
from oddstream_server.application.ports import TimeRange
from oddstream_server.domain import disclosures
from oddstream_server.domain.backtest import CalibrationRow
from oddstream_server.domain.strategy import StrategyDescription, StrategyOrigin, StrategyParameter
from oddstream_server.domain.track_record import Figures, Horizon, TrackRecord
from oddstream_server.transport.converters.disclosures import disclaimer
from oddstream_server.transport.converters.values import VENUES, duration, enum_table, stamp, timestamp

ORIGINS = enum_table(StrategyOrigin, strategy_pb2.StrategyOrigin, "STRATEGY_ORIGIN")
PARAMETER_TYPES = {
    "micros": strategy_pb2.PARAMETER_TYPE_MICROS,
    "ppm": strategy_pb2.PARAMETER_TYPE_MICROS,
    "us": strategy_pb2.PARAMETER_TYPE_DURATION,
    "count": strategy_pb2.PARAMETER_TYPE_INTEGER,
    "bool": strategy_pb2.PARAMETER_TYPE_BOOLEAN,
}
HORIZONS = enum_table(Horizon, strategy_pb2.PerformanceHorizon, "PERFORMANCE_HORIZON")
_FIGURES = tuple(f.name for f in fields(Figures) if f.name != "calibration")
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


def track_record_message(record: TrackRecord, asked: TimeRange) -> strategy_pb2.StrategyPerformance:
    """:param asked: the stretch of trigger times; where it is open, the first and the last signal bound it."""
    first_us, last_us = record.first_trigger_us, record.last_trigger_us
    from_us = first_us if asked.from_us is None else asked.from_us
    to_us = (None if last_us is None else last_us + 1) if asked.to_us is None else asked.to_us
    return strategy_pb2.StrategyPerformance(
        strategy_id=record.strategy_id,
        kind_version=record.kind_version,
        period=time_range_pb2.TimeRange(start_time=timestamp(from_us), end_time=timestamp(to_us)),
        overall=_figures(record.overall),
        slices=[
            strategy_pb2.PerformanceSlice(
                venue=VENUES[s.venue] if s.venue is not None else venue_pb2.VENUE_UNSPECIFIED,
                horizon=(
                    HORIZONS[s.horizon] if s.horizon is not None else strategy_pb2.PERFORMANCE_HORIZON_UNSPECIFIED
                ),
                figures=_figures(s.figures),
            )
            for s in record.slices
        ],
        disclaimer=disclaimer(disclosures.TRACK_RECORD),
        compute_time=stamp(record.compute_time_us),
    )


def _figures(figures: Figures) -> strategy_pb2.PerformanceFigures:
    return strategy_pb2.PerformanceFigures(
        **{name: getattr(figures, name) for name in _FIGURES},
        calibration=map(calibration_bin, figures.calibration),
    )


def calibration_bin(row: CalibrationRow) -> strategy_pb2.CalibrationBin:
    return strategy_pb2.CalibrationBin(
        start_price_micros=row.start_price_micros,
        end_price_micros=row.end_price_micros,
        count=row.count,
        mean_forecast=row.mean_forecast,
        frequency=row.frequency,
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
