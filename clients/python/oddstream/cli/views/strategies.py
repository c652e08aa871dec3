"""Strategies as tables."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from oddstream.cli import words
from oddstream.cli.views.tables import FOLD, RIGHT, facts, heading, rows_table
from oddstream.v1 import strategy_pb2


def strategies_table(strategies: Sequence[strategy_pb2.Strategy]) -> Table:
    table = rows_table("id", ("version", RIGHT), "runs", ("what it looks for", FOLD))
    for strategy in strategies:
        table.add_row(
            strategy.strategy_id,
            str(strategy.kind_version),
            Text("yes", "green") if strategy.enabled else Text("no", "dim"),
            Text(f"{strategy.display_name}: {strategy.description}" if strategy.display_name else strategy.description),
        )
    return table


def strategy_page(strategy: strategy_pb2.Strategy, now_us: int) -> RenderableType:
    parameters = rows_table("parameter", ("value", RIGHT), ("default", RIGHT), "unit", ("what it does", FOLD))
    for declared in strategy.parameters:
        value = strategy.params.get(declared.name, declared.default_value)
        parameters.add_row(
            declared.name,
            parameter_value(value),
            parameter_value(declared.default_value),
            declared.unit,
            Text(declared.description),
        )
    return Group(
        Text(strategy.display_name or strategy.strategy_id, style="bold"),
        facts(
            [
                ("id", strategy.strategy_id),
                ("kind", f"{strategy.kind} version {strategy.kind_version}"),
                ("runs", "yes" if strategy.enabled else "no"),
                ("looks at", "all markets of an event together" if strategy.group else "each market for itself"),
                (
                    "warm-up",
                    words.span(strategy.warm_up.ToMicroseconds()) if strategy.warm_up.ToMicroseconds() else "none",
                ),
                ("strength", strategy.strength_map),
                ("formula from", strategy.formula_source),
                ("reads", ", ".join(strategy.input_columns)),
                ("parameters' digest", strategy.params_digest),
                ("changed", words.moment(strategy.update_time, now_us) if strategy.HasField("update_time") else None),
            ]
        ),
        heading("Formula"),
        Text(strategy.description),
        heading("Parameters"),
        parameters,
    )


def parameter_value(value: strategy_pb2.ParameterValue) -> str:
    kind = value.WhichOneof("value")
    if kind == "micros_value":
        return words.decimal(value.micros_value)
    if kind == "duration_value":
        return words.span(value.duration_value.ToMicroseconds())
    if kind == "boolean_value":
        return "yes" if value.boolean_value else "no"
    return "-" if kind is None else str(getattr(value, kind))
