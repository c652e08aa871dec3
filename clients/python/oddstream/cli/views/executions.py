"""Executions as tables."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from oddstream.cli import words
from oddstream.cli.views.tables import FOLD, RIGHT, rows_table
from oddstream.v1 import execution_pb2, signal_pb2, signal_service_pb2

_COLUMNS = (("market", FOLD), ("fill", FOLD), ("fee", RIGHT), ("slippage", RIGHT), ("earned", RIGHT))


def executions_table(executions: Sequence[execution_pb2.Execution], now_us: int) -> RenderableType:
    owned = len({execution.owner for execution in executions}) > 1
    table = rows_table(("age", RIGHT), *_COLUMNS, *([("owner", FOLD)] if owned else []))
    for execution in executions:
        age = words.short_span(max(now_us - execution.fill.venue_time.ToMicroseconds(), 0))
        table.add_row(age, *_cells(execution), *([execution.owner] if owned else []))
    return table


def reported_table(results: Sequence[signal_service_pb2.ReportedExecution]) -> RenderableType:
    table = rows_table("", *_COLUMNS)
    for result in results:
        mark = Text("before", "dim") if result.already_reported else Text("new", "green")
        table.add_row(mark, *_cells(result.execution))
    return table


def _cells(execution: execution_pb2.Execution) -> list[RenderableType]:
    fill = execution.fill
    verb = words.word(signal_pb2.LegAction, fill.action)
    price, size = words.decimal(fill.price_micros), words.decimal(fill.size_micros)
    slippage = execution.slippage_micros if execution.HasField("slippage_micros") else None
    return [
        fill.market_id,
        f"{verb} outcome {fill.outcome_index} at {price} × {size}",
        _fee(execution),
        Text(words.absent(slippage, signed=True), "red" if slippage is not None and slippage > 0 else ""),
        money(execution.realized_profit_micros if execution.HasField("realized_profit_micros") else None),
    ]


def _fee(execution: execution_pb2.Execution) -> str:
    """What the venue charged, or about what it will have."""
    if execution.fill.HasField("fee_micros"):
        return words.decimal(execution.fill.fee_micros)
    return f"~{words.decimal(execution.estimated_fee_micros)}" if execution.HasField("estimated_fee_micros") else "-"


def money(micros: int | None) -> Text:
    """Earned or lost, to the cent; a dash where it isn't known."""
    if micros is None:
        return Text("-")
    return Text(f"{micros / 1_000_000:+,.2f}", "green" if micros > 0 else "red" if micros < 0 else "")
