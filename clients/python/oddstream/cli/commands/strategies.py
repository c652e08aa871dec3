"""``oddstream strategies``: what makes the signals."""

import time
from typing import Annotated

import typer

from oddstream.cli import json_lines
from oddstream.cli.session import Session, with_session
from oddstream.cli.views.strategies import strategies_table, strategy_page
from oddstream.v1 import signal_service_pb2, strategy_pb2

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
