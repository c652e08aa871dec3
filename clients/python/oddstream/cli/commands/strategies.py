"""``oddstream strategies``: what makes the signals."""

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from oddstream.cli import json_lines
from oddstream.cli.commands.running import instant
from oddstream.cli.session import Session, say, with_session
from oddstream.cli.views.performance import performance_page
from oddstream.cli.views.strategies import strategies_table, strategy_page
from oddstream.v1 import signal_service_pb2, strategy_pb2, time_range_pb2

app = typer.Typer(no_args_is_help=True, help="What makes the signals, with formulas and parameters.")


@app.command("list")
@with_session
def list_strategies(session: Session) -> None:
    """List the strategies."""
    found: list[strategy_pb2.Strategy] = []
    with session.client() as client:
        for page in client.pages(client.signals.ListStrategies, signal_service_pb2.ListStrategiesRequest()):
            found += page.strategies
    if session.as_json:
        for strategy in found:
            print(json_lines.line(json_lines.plain(strategy)), flush=True)
        return
    session.console().print(strategies_table(found))


@app.command("show")
@with_session
def show_strategy(
    session: Session,
    strategy_id: Annotated[str, typer.Argument(metavar="ID", help="The strategy's id, e.g. arb.event_sum.")],
) -> None:
    """Show one strategy: its formula, what it reads, and its parameters."""
    with session.client() as client:
        request = signal_service_pb2.GetStrategyRequest(strategy_id=strategy_id)
        strategy = client.signals.GetStrategy(request).strategy
    if session.as_json:
        print(json_lines.line(json_lines.plain(strategy)), flush=True)
        return
    session.console().print(strategy_page(strategy, time.time_ns() // 1000))


@app.command("performance")
@with_session
def performance(
    session: Session,
    strategy_id: Annotated[str, typer.Argument(metavar="ID", help="The strategy's id, e.g. arb.event_sum.")],
    version: Annotated[int, typer.Option(metavar="N", help="Of the kind; 0 for the one that runs.", min=0)] = 0,
    since: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="Only signals from then on: a time, or a span back (7d)."),
    ] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Only signals before then.")] = None,
    simulated: Annotated[bool, typer.Option("--simulated", help="Of simulated signals, instead of live ones.")] = False,
) -> None:
    """Show what graded signals came to: hits, calibration, the edge one quote later, what was really earned."""
    now = datetime.now(UTC)
    period = time_range_pb2.TimeRange()
    if since is not None:
        period.start_time.FromDatetime(instant(since, "--from", now))
    if until is not None:
        period.end_time.FromDatetime(instant(until, "--to", now))
    with session.client() as client:
        record = client.strategy_performance(strategy_id, kind_version=version, period=period, simulated=simulated)
    if session.as_json:
        print(json_lines.line(json_lines.plain(record)), flush=True)
        return
    session.console().print(performance_page(record, simulated=simulated, now_us=time.time_ns() // 1000))
    if not record.overall.signal_count:
        other = "live signals without --simulated" if simulated else "simulated signals with --simulated"
        say(f"No signal counts here; there may be {other}, another --version, or a wider --from.")
