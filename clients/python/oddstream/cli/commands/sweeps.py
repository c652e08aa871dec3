"""``oddstream sweeps``: one backtest with many sets of parameters, and how much its best set means."""

from typing import Annotated

import typer

from oddstream.cli import json_lines
from oddstream.cli.commands.backtests import (
    Bankroll,
    Begin,
    End,
    Events,
    Fill,
    Latency,
    Markets,
    Name,
    Params,
    Series,
    Stake,
    Venues,
)
from oddstream.cli.commands.running import config, followed, parameter, request_id, say_break
from oddstream.cli.session import FAILED, Session, say, with_session
from oddstream.cli.views.backtests import sweep_page
from oddstream.v1 import backtest_service_pb2, sweep_pb2

pb = backtest_service_pb2
app = typer.Typer(no_args_is_help=True, help="One backtest with many sets of parameters.")


@app.command("run")
@with_session
def run_sweep(
    session: Session,
    strategy: Annotated[str, typer.Argument(metavar="KIND", help="The strategy, e.g. stat.mean_reversion.")],
    begin: Begin,
    vary: Annotated[list[str], typer.Option(metavar="NAME=A,B,C", help="A parameter and its values; may be repeated.")],
    end: End = "now",
    param: Params = None,
    draw: Annotated[int | None, typer.Option(help="Draw so many sets instead of trying all.", min=1, max=2000)] = None,
    walk_forward: Annotated[
        str | None, typer.Option(metavar="HOURS/HOURS", help="Choose on the first stretch, judge on the second.")
    ] = None,
    bankroll: Bankroll = "1000",
    stake: Stake = None,
    venue: Venues = None,
    event: Events = None,
    market: Markets = None,
    series: Series = None,
    latency: Latency = None,
    fill: Fill = None,
    name: Name = "",
    limit: Annotated[int, typer.Option(help="How many sets to show.", min=1)] = 10,
) -> None:
    """Run a sweep and show its sets with what they are worth together."""
    with session.client() as client:
        base = config(
            client, [strategy], param or (), begin, end, bankroll, stake, venue or (), event or (), market or (),
            series or (), latency, fill,
        )  # fmt: skip
        made = sweep_pb2.SweepConfig(base=base)
        for text in vary:
            varied, sign, values = text.partition("=")
            if not sign or not values:
                raise typer.BadParameter(f"--vary {text!r}: write NAME=A,B,C")
            made.parameters.add(name=varied, values=[parameter(client, strategy, varied, v) for v in values.split(",")])
        if draw is None:
            made.grid.SetInParent()
        else:
            made.random.set_count = draw
        if walk_forward is not None:
            training, sign, testing = walk_forward.partition("/")
            if not sign or not training.isdigit() or not testing.isdigit():
                raise typer.BadParameter(f"--walk-forward {walk_forward!r}: write such as 72/24")
            made.walk_forward.training_length.FromSeconds(int(training) * 3600)
            made.walk_forward.testing_length.FromSeconds(int(testing) * 3600)
        request = pb.CreateSweepRequest(config=made, display_name=name, request_id=request_id())
        sweep = client.backtests.CreateSweep(request).sweep
        say(f"{sweep.sweep_id} is queued with {sweep.set_count} sets.")
        watch = client.watch_sweep(sweep.sweep_id, on_break=say_break)
        done = followed(watch, session.console(), quiet=session.as_json)
    if session.as_json:
        print(json_lines.line(json_lines.plain(done)), flush=True)
    elif done.HasField("result"):
        session.console().print(sweep_page(done, limit))
    else:
        say(f"The sweep ended without a result: {done.error.message or 'it was cancelled'}")
    if not done.HasField("result"):
        raise typer.Exit(FAILED)
