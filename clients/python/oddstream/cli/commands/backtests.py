"""``oddstream backtests``: what strategies would have earned on recorded data."""

import csv
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from oddstream.cli import json_lines
from oddstream.cli.commands.choices import VenueChoice
from oddstream.cli.commands.running import config, followed, request_id, say_break
from oddstream.cli.session import FAILED, Session, say, usage_error, with_session
from oddstream.cli.tear_sheet import page, png
from oddstream.cli.views.backtests import backtest_page, backtests_table, comparison_table
from oddstream.client import Client
from oddstream.v1 import backtest_pb2, backtest_service_pb2

pb = backtest_service_pb2
app = typer.Typer(no_args_is_help=True, help="What strategies would have earned on recorded data.")

Strategies = Annotated[list[str], typer.Argument(metavar="KIND", help="Strategies, e.g. stat.mean_reversion.")]
Params = Annotated[
    list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="[KIND.]NAME=VALUE; may be repeated.")
]
Begin = Annotated[str, typer.Option("--from", metavar="TIME", help="2026-07-01, a time with zone, or 2d back.")]
End = Annotated[str, typer.Option("--to", metavar="TIME", help="As --from; now where none is given.")]
Bankroll = Annotated[str, typer.Option(metavar="USD", help="The money at the start.")]
Stake = Annotated[str | None, typer.Option(metavar="USD", help="What a trade may cost; a hundredth of the bankroll.")]
Venues = Annotated[list[VenueChoice] | None, typer.Option("--venue", metavar="VENUE", help="May be repeated.")]
Events = Annotated[list[str] | None, typer.Option("--event", metavar="ID", help="May be repeated.")]
Markets = Annotated[list[str] | None, typer.Option("--market", metavar="ID", help="May be repeated.")]
Series = Annotated[list[str] | None, typer.Option("--series", metavar="ID", help="May be repeated.")]
Latency = Annotated[int | None, typer.Option(metavar="MS", help="From signal to venue; 500.", min=0, max=60_000)]
Fill = Annotated[str | None, typer.Option(metavar="MODEL", help="touch, book_walk or maker_queue.")]
Name = Annotated[str, typer.Option("--name", help="A name for people.")]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a tear sheet that needs nothing else.")
]
Png = Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Write the equity curve as a picture.")]
Trades = Annotated[
    Path | None, typer.Option("--trades", metavar="FILE", help="Write the blotter: .csv, or .parquet with pyarrow.")
]
Id = Annotated[str, typer.Argument(metavar="ID", help="The backtest's id.")]


@app.command("run")
@with_session
def run_backtest(
    session: Session,
    strategies: Strategies,
    begin: Begin,
    end: End = "now",
    param: Params = None,
    bankroll: Bankroll = "1000",
    stake: Stake = None,
    venue: Venues = None,
    event: Events = None,
    market: Markets = None,
    series: Series = None,
    latency: Latency = None,
    fill: Fill = None,
    name: Name = "",
    detach: Annotated[bool, typer.Option("--detach", help="Queue it and don't wait.")] = False,
    html: Html = None,
    picture: Png = None,
    trades: Trades = None,
) -> None:
    """Run a backtest and show what came of it; Ctrl-C stops watching, not the run."""
    with session.client() as client:
        request = pb.CreateBacktestRequest(
            config=config(
                client, strategies, param or (), begin, end, bankroll, stake, venue or (), event or (), market or (),
                series or (), latency, fill,
            ),
            display_name=name,
            request_id=request_id(),
        )  # fmt: skip
        made = client.backtests.CreateBacktest(request).backtest
        if detach:
            _answer(session, made)
            return
        say(f"{made.backtest_id} is queued; `oddstream backtests show {made.backtest_id}` finds it again.")
        watch = client.watch_backtest(made.backtest_id, on_break=say_break)
        done = followed(watch, session.console(), quiet=session.as_json)
        _write_files(client, done, html, picture, trades)
    _answer(session, done)
    if not done.HasField("result"):
        raise typer.Exit(FAILED)


@app.command("list")
@with_session
def list_backtests(
    session: Session, limit: Annotated[int, typer.Option(help="At most so many; 0 for all.", min=0)] = 20
) -> None:
    """List backtests, newest first."""
    found: list[backtest_pb2.Backtest] = []
    with session.client() as client:
        request = pb.ListBacktestsRequest(page_size=min(limit or 1000, 1000))
        for answer in client.pages(client.backtests.ListBacktests, request):
            found += answer.backtests
            if limit and len(found) >= limit:
                break
    found = found[: limit or None]
    if session.as_json:
        for backtest in found:
            print(json_lines.line(json_lines.plain(backtest)), flush=True)
    elif found:
        session.console().print(backtests_table(found, time.time_ns() // 1000))
    else:
        say("There is no backtest yet: `oddstream backtests run stat.mean_reversion --from 7d`.")


@app.command("show")
@with_session
def show_backtest(
    session: Session, backtest_id: Id, html: Html = None, picture: Png = None, trades: Trades = None
) -> None:
    """Show a backtest with its figures, fill ladder and risk disclosure."""
    with session.client() as client:
        found = _get(client, backtest_id)
        _write_files(client, found, html, picture, trades)
    _answer(session, found)


@app.command("cancel")
@with_session
def cancel_backtest(session: Session, backtest_id: Id) -> None:
    """Cancel a backtest; one that has ended stays as it is."""
    with session.client() as client:
        request = pb.CancelBacktestRequest(backtest_id=backtest_id, request_id=request_id())
        _answer(session, client.backtests.CancelBacktest(request).backtest)


@app.command("compare")
@with_session
def compare_backtests(
    session: Session, backtest_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Two or more ids.")]
) -> None:
    """Put the figures of several backtests side by side."""
    with session.client() as client:
        found = [_get(client, backtest_id) for backtest_id in backtest_ids]
    unfinished = [b.backtest_id for b in found if not b.HasField("result")]
    if unfinished:
        usage_error(f"{unfinished[0]} has no result", "compare backtests that have succeeded")
    if session.as_json:
        for backtest in found:
            print(json_lines.line(json_lines.plain(backtest)), flush=True)
        return
    session.console().print(comparison_table(found))


def _get(client: Client, backtest_id: str) -> backtest_pb2.Backtest:
    return client.backtests.GetBacktest(pb.GetBacktestRequest(backtest_id=backtest_id)).backtest


def _answer(session: Session, backtest: backtest_pb2.Backtest) -> None:
    if session.as_json:
        print(json_lines.line(json_lines.plain(backtest)), flush=True)
    else:
        session.console().print(backtest_page(backtest, time.time_ns() // 1000))


def _all_trades(client: Client, backtest_id: str) -> Iterator[backtest_pb2.BacktestTrade]:
    request = pb.ListBacktestTradesRequest(backtest_id=backtest_id, page_size=1000)
    for answer in client.pages(client.backtests.ListBacktestTrades, request):
        yield from answer.trades


def _write_files(
    client: Client, backtest: backtest_pb2.Backtest, html: Path | None, picture: Path | None, trades: Path | None
) -> None:
    if not (html or picture or trades):
        return
    if not backtest.HasField("result"):
        say("No file was written: the backtest has no result.")
        return
    disclaimer = backtest.result.disclaimer
    if trades:
        write_trades(trades, _all_trades(client, backtest.backtest_id), f"{disclaimer.text} [{disclaimer.code}]")
        say(f"The blotter is in {trades}.")
    if html or picture:
        points = client.backtests.GetEquityCurve(pb.GetEquityCurveRequest(backtest_id=backtest.backtest_id)).points
        if picture:
            picture.write_bytes(png(points, f"{disclaimer.text} [{disclaimer.code}]"))
            say(f"The curve is in {picture}.")
        if html:
            html.write_text(page(backtest, points, profit_by_event(_all_trades(client, backtest.backtest_id))))
            say(f"The tear sheet is in {html}.")


def profit_by_event(trades: Iterator[backtest_pb2.BacktestTrade], most: int = 50) -> list[tuple[str, int, int]]:
    """(event, or market without one; profit in micros; trades), those that moved most first."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for trade in trades:
        row = sums[trade.event_id or trade.market_id]
        row[0] += trade.profit_micros
        row[1] += 1
    ranked = sorted(sums.items(), key=lambda item: (-abs(item[1][0]), item[0]))
    return [(event, profit, count) for event, (profit, count) in ranked[:most]]


def write_trades(path: Path, trades: Iterator[backtest_pb2.BacktestTrade], disclosure: str) -> None:
    """The blotter as CSV (the risk disclosure in its first line) or Parquet (in its metadata).

    :raises typer.Exit: the file's name says neither, or pyarrow is missing.
    """
    rows: Iterator[dict[str, Any]] = (json_lines.plain(trade) for trade in trades)
    names: Sequence[str] = [field.name for field in backtest_pb2.BacktestTrade.DESCRIPTOR.fields]
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            file.write(f"# {disclosure}\n")
            writer = csv.DictWriter(file, fieldnames=names)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            usage_error("Parquet needs pyarrow", "pip install pyarrow, or name a .csv file")
        table = pa.Table.from_pylist(list(rows))
        pq.write_table(table.replace_schema_metadata({"disclaimer": disclosure}), path, compression="zstd")
    else:
        usage_error(f"{path.name} is neither .csv nor .parquet", "--trades blotter.csv")
