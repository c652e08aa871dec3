"""What ``oddstream backtests run`` and ``oddstream sweeps run`` share: their options, and the live progress."""

import re
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from oddstream.cli.commands.choices import VenueChoice, micros, venues
from oddstream.cli.session import say
from oddstream.client import Client
from oddstream.errors import OddstreamError
from oddstream.v1 import backtest_pb2, signal_service_pb2, strategy_pb2
from oddstream.watching.runs import Run

_BACK = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def instant(text: str, option: str, now: datetime) -> datetime:
    """``2d`` (back from now), ``now``, or a time in ISO form; local where it names no zone."""
    if text == "now":
        return now
    if found := _BACK.fullmatch(text):
        return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{option} {text!r} is no time: write 2026-07-01, 2026-07-01T12:00Z or 2d") from None
    return (given if given.tzinfo else given.astimezone()).astimezone(UTC)


def config(
    client: Client,
    strategies: Sequence[str],
    params: Sequence[str],
    begin: str,
    end: str,
    bankroll: str,
    stake: str | None,
    venue: Sequence[VenueChoice],
    event: Sequence[str],
    market: Sequence[str],
    series: Sequence[str],
    latency_ms: int | None,
    fill: str | None,
) -> backtest_pb2.BacktestConfig:
    """The config that the options describe. The strategies' declarations tell what kind of value a parameter takes."""
    now = datetime.now(UTC)
    made = backtest_pb2.BacktestConfig(
        starting_bankroll_micros=micros(bankroll), simulated=list(venue) == [VenueChoice.SIMULATED]
    )
    made.range.start_time.FromDatetime(instant(begin, "--from", now))
    made.range.end_time.FromDatetime(instant(end, "--to", now))
    for kind in strategies:
        made.strategies.add(kind=kind)
    for text in params:
        name, value = _split(text, "--param")
        kind, dot, own = name.rpartition(".")
        targets = [s for s in made.strategies if not dot or s.kind == kind]
        if not targets:
            raise typer.BadParameter(f"--param {text!r} names a strategy that isn't run")
        for target in targets:
            target.params[own].CopyFrom(parameter(client, target.kind, own, value))
    made.markets.venues.extend(venues(venue))
    made.markets.event_ids.extend(event)
    made.markets.market_ids.extend(market)
    made.markets.series_ids.extend(series)
    if stake is not None:
        made.sizing.fixed_stake.stake_micros = micros(stake)
    if latency_ms is not None:
        made.execution.latency.FromMilliseconds(latency_ms)
    if fill is not None:
        try:
            made.execution.fill_model = backtest_pb2.FillModel.Value(f"FILL_MODEL_{fill.upper()}")
        except ValueError:
            raise typer.BadParameter("--fill is one of touch, book_walk, maker_queue") from None
    return made


def _split(text: str, option: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name or not value:
        raise typer.BadParameter(f"{option} {text!r}: write NAME=VALUE, e.g. {option} minimum_rows=30")
    return name.strip(), value.strip()


_declared: dict[str, dict[str, strategy_pb2.ParameterDeclaration]] = {}


def parameter(client: Client, kind: str, name: str, text: str) -> strategy_pb2.ParameterValue:
    """A value in the form that the strategy declares; decimals for millionths, ``30m`` for spans."""
    if kind not in _declared:
        request = signal_service_pb2.GetStrategyRequest(strategy_id=kind)
        _declared[kind] = {p.name: p for p in client.signals.GetStrategy(request).strategy.parameters}
    declared = _declared[kind].get(name)
    if declared is None:
        raise typer.BadParameter(f"{kind} has no parameter {name!r}: it has {', '.join(sorted(_declared[kind]))}")
    match declared.type:
        case strategy_pb2.PARAMETER_TYPE_MICROS:
            return strategy_pb2.ParameterValue(micros_value=micros(text))
        case strategy_pb2.PARAMETER_TYPE_BOOLEAN:
            return strategy_pb2.ParameterValue(boolean_value=text.lower() in ("1", "true", "yes", "on"))
        case strategy_pb2.PARAMETER_TYPE_DURATION:
            found = _BACK.fullmatch(text)
            if not found:
                raise typer.BadParameter(f"{name} takes a span such as 90s, 30m or 2h, got {text!r}")
            value = strategy_pb2.ParameterValue()
            value.duration_value.FromTimedelta(timedelta(**{_UNITS[found[2]]: int(found[1])}))
            return value
        case _:
            if not re.fullmatch(r"-?\d+", text):
                raise typer.BadParameter(f"{name} takes a whole number, got {text!r}")
            return strategy_pb2.ParameterValue(integer_value=int(text))


def request_id() -> str:
    """So that a call that is sent again makes no second run."""
    return str(uuid.uuid4())


def say_break(error: OddstreamError | None, pause_s: float) -> None:
    say("The server went away; watching goes on when it is back.")


def followed(watch: Iterable[Run], console: Console, *, quiet: bool) -> Run:
    """Follow a run with a live bar until it has ended; answers it whole."""
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        task = bar.add_task("queued", total=None, text="")
        for run in watch:
            bar.update(
                task,
                description=run.progress.stage or "queued",
                total=run.progress.total_row_count if run.progress.HasField("total_row_count") else None,
                completed=run.progress.done_row_count,
                text=_progress_text(run.progress),
            )
    return run


def _progress_text(progress: backtest_pb2.BacktestProgress) -> str:
    if not progress.HasField("total_row_count"):
        return ""
    text = f"{progress.done_row_count:,} of {progress.total_row_count:,} rows"
    if progress.HasField("expected_end_time"):
        left = progress.expected_end_time.ToDatetime(UTC) - datetime.now(UTC)
        text += f", {max(int(left.total_seconds()), 0)} s left"
    return text
