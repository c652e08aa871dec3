"""A strategy's track record as a page."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from oddstream.cli import words
from oddstream.cli.views.executions import money
from oddstream.cli.views.tables import RIGHT, disclosure, facts, heading, rows_table
from oddstream.v1 import strategy_pb2, time_range_pb2

_HORIZONS = {
    strategy_pb2.PERFORMANCE_HORIZON_UNSPECIFIED: "any",
    strategy_pb2.PERFORMANCE_HORIZON_UNDER_HOUR: "under 1h",
    strategy_pb2.PERFORMANCE_HORIZON_UNDER_DAY: "1h to 1d",
    strategy_pb2.PERFORMANCE_HORIZON_UNDER_WEEK: "1d to 1w",
    strategy_pb2.PERFORMANCE_HORIZON_WEEK_OR_MORE: "1w or more",
}
_BAR = 20


def performance_page(record: strategy_pb2.StrategyPerformance, *, simulated: bool, now_us: int) -> RenderableType:
    overall = record.overall
    title = Text(f"{record.strategy_id} version {record.kind_version}", style="bold")
    title.append("  simulated signals" if simulated else "  live signals", style="magenta" if simulated else "dim")
    parts: list[RenderableType] = [title, _figures(record, now_us)]
    if record.slices:
        parts += [heading("By venue and time to the settlement"), _slices(record.slices)]
    if any(b.count for b in overall.calibration):
        parts += [heading("Calibration: what was forecast, and how often it came"), _calibration(overall.calibration)]
    return Group(*parts, disclosure(record.disclaimer))


def _figures(record: strategy_pb2.StrategyPerformance, now_us: int) -> Table:
    overall = record.overall
    edge = _cents(overall, "mean_realized_edge_micros")
    if edge is not None and overall.HasField("realized_edge_low_micros"):
        edge += f" ({_cents(overall, 'realized_edge_low_micros')} to {_cents(overall, 'realized_edge_high_micros')})"
    brier = _number(overall, "brier")
    crowd = _number(overall, "brier_crowd")
    if brier is not None and crowd is not None:
        brier += f", where the price scores {crowd}"
    earned = None
    if overall.execution_count:
        many = "" if overall.execution_count == 1 else "s"
        earned = Text(f"{overall.execution_count:,} execution{many}, earned ")
        earned.append_text(
            money(overall.executed_profit_micros if overall.HasField("executed_profit_micros") else None)
        )
        earned.append(" USD")
    return facts(
        [
            (
                "signals",
                f"{overall.signal_count:,}, of which {overall.graded_count:,} graded, {overall.void_count:,} void",
            ),
            ("triggered", _period(record.period)),
            ("hit rate (95 %)", hit_rate(overall)),
            ("Brier score", brier),
            ("Brier of the price", crowd if brier is None else None),
            ("edge at the limit (95 %)", edge),
            ("edge one quote later", _cents(overall, "mean_next_quote_edge_micros")),
            ("really earned", earned),
            ("computed", words.moment(record.compute_time, now_us)),
        ]
    )


def _slices(slices: Sequence[strategy_pb2.PerformanceSlice]) -> Table:
    table = rows_table(
        "venue", "horizon", ("graded", RIGHT), ("hit rate", RIGHT), ("Brier", RIGHT), ("edge ¢", RIGHT),
        ("later ¢", RIGHT), ("earned", RIGHT),
    )  # fmt: skip
    for s in slices:
        f = s.figures
        table.add_row(
            words.short_venue(s.venue) if s.venue else "all",
            _HORIZONS.get(s.horizon, str(s.horizon)),
            f"{f.graded_count:,}/{f.signal_count:,}",
            f"{f.hit_rate:.0%}" if f.HasField("hit_rate") else "-",
            _number(f, "brier", 3) or "-",
            _bare_cents(f, "mean_realized_edge_micros"),
            _bare_cents(f, "mean_next_quote_edge_micros"),
            money(f.executed_profit_micros if f.HasField("executed_profit_micros") else None),
        )
    return table


def _calibration(bins: Sequence[strategy_pb2.CalibrationBin]) -> Table:
    table = rows_table("forecast", ("count", RIGHT), ("mean", RIGHT), ("came", RIGHT), "│ mean  █ came")
    for b in bins:
        if b.count:
            table.add_row(
                f"{b.start_price_micros / 1_000_000:.2f} to {b.end_price_micros / 1_000_000:.2f}",
                f"{b.count:,}",
                f"{b.mean_forecast:.3f}",
                f"{b.frequency:.3f}",
                _bar(b.frequency, b.mean_forecast),
            )
    return table


def _bar(frequency: float, mean_forecast: float) -> Text:
    """How often it came as a bar, with the forecast as a mark that it should end at."""
    mark = min(round(mean_forecast * _BAR), _BAR - 1)
    filled = round(frequency * _BAR)
    bar = Text("".join("█" if place < filled else " " for place in range(_BAR)), "cyan")
    return Text.assemble(bar[:mark], ("│", "bold"), bar[mark + 1 :])


def hit_rate(figures: strategy_pb2.PerformanceFigures) -> str | None:
    if not figures.HasField("hit_rate"):
        return None
    return f"{figures.hit_rate:.1%} ({figures.hit_rate_low:.1%} to {figures.hit_rate_high:.1%})"


def _period(period: time_range_pb2.TimeRange) -> str | None:
    if not period.HasField("start_time") or not period.HasField("end_time"):
        return None
    first, last = (time.ToDatetime().strftime("%Y-%m-%d %H:%M") for time in (period.start_time, period.end_time))
    return f"{first} to {last} UTC"


def _number(figures: strategy_pb2.PerformanceFigures, name: str, digits: int = 4) -> str | None:
    return f"{getattr(figures, name):.{digits}f}" if figures.HasField(name) else None  # type: ignore[arg-type]  # a field


def _cents(figures: strategy_pb2.PerformanceFigures, name: str) -> str | None:
    """ "+1.25 ¢", of one contract."""
    bare = _bare_cents(figures, name)
    return None if bare == "-" else f"{bare} ¢"


def _bare_cents(figures: strategy_pb2.PerformanceFigures, name: str) -> str:
    if not figures.HasField(name):  # type: ignore[arg-type]  # a field's name
        return "-"
    return f"{getattr(figures, name) / 10_000:+.2f}"
