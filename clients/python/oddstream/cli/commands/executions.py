"""``oddstream executions``: what a bot's orders got, reported and listed."""

import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf import json_format

from oddstream.cli import json_lines
from oddstream.cli.commands.choices import VenueChoice, micros, venues
from oddstream.cli.commands.running import instant
from oddstream.cli.session import Session, say, usage_error, with_session
from oddstream.cli.views.executions import executions_table, reported_table
from oddstream.v1 import execution_pb2, signal_pb2, signal_service_pb2, venue_pb2

app = typer.Typer(no_args_is_help=True, help="What your orders got: report fills, list them with what they earned.")

_REPORT_HELP = (
    "Report fills; one that was reported before is answered and not stored again.\n\n"
    "From FILE, one JSON object a line with the contract's names, as `oddstream executions list -o json` has them "
    "under fill: market_id, venue_fill_id, outcome_index, action, price_micros, size_micros, venue_time, and where "
    "they are known fee_micros, liquidity, signal_id, leg_number, venue_order_id and client_order_id. Or one fill by "
    "options."
)
_ENUMS = {"venue": "VENUE", "action": "LEG_ACTION", "liquidity": "FILL_LIQUIDITY"}


@app.command("report", help=_REPORT_HELP)
@with_session
def report(
    session: Session,
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="JSON lines; - is the standard input.")] = None,
    market: Annotated[str | None, typer.Option(metavar="ID", help="The market's id.")] = None,
    fill_id: Annotated[str | None, typer.Option(metavar="ID", help="The venue's id of the fill.")] = None,
    outcome: Annotated[int, typer.Option(metavar="INDEX", help="The outcome that was traded.", min=0)] = 0,
    sell: Annotated[bool, typer.Option("--sell/--buy", help="Which way.")] = False,
    price: Annotated[str | None, typer.Option(metavar="USD", help="Price of that outcome, e.g. 0.43.")] = None,
    size: Annotated[str | None, typer.Option(metavar="CONTRACTS", help="How many, e.g. 120.")] = None,
    fee: Annotated[str | None, typer.Option(metavar="USD", help="What the venue charged, where you know.")] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="The venue's time, e.g. 2026-05-13T20:00 in the local zone, or 2026-…Z."),
    ] = None,
    signal: Annotated[str | None, typer.Option(metavar="ID", help="The signal that it was for, sig_….")] = None,
    leg: Annotated[int | None, typer.Option(metavar="NUMBER", help="The signal's leg, where it has several.")] = None,
    maker: Annotated[bool | None, typer.Option("--maker/--taker", help="The order's role, where you know.")] = None,
) -> None:
    if file is not None and (market, fill_id, price, size, at) != (None,) * 5:
        usage_error("fills come from a file or from options, not from both", "leave one of them away")
    if file is None:
        fills = [_single(market, fill_id, outcome, sell, price, size, fee, at, signal, leg, maker)]
    else:
        fills = list(_from_lines(file))
    with session.client() as client:
        results = client.report_executions(fills)
    if session.as_json:
        for result in results:
            print(json_lines.line(json_lines.plain(result)), flush=True)
        return
    if results:
        session.console().print(reported_table(results))
    new = sum(not result.already_reported for result in results)
    say(f"{new} stored, {len(results) - new} reported before.")


@app.command("list")
@with_session
def list_executions(
    session: Session,
    venue: Annotated[list[VenueChoice] | None, typer.Option(metavar="VENUE", help="Only on it; repeatable.")] = None,
    market: Annotated[list[str] | None, typer.Option(metavar="ID", help="Only on this market; repeatable.")] = None,
    signal: Annotated[list[str] | None, typer.Option(metavar="ID", help="Only for this signal; repeatable.")] = None,
    strategy: Annotated[list[str] | None, typer.Option(metavar="ID", help="Only for signals of it.")] = None,
    owner: Annotated[list[str] | None, typer.Option(metavar="KEY_ID", help="Only of this owner; for admins.")] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Only fills from then on: a time, or a span back (1d).")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Only fills before then.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many; 0 for all.", min=0)] = 20,
) -> None:
    """List your fills, the latest first, with fee, slippage and what they earned; an admin sees everybody's."""
    where = signal_service_pb2.ExecutionFilter(
        venues=venues(venue or ()),
        market_ids=market or (),
        signal_ids=signal or (),
        strategy_ids=strategy or (),
        owners=owner or (),
    )
    now = datetime.now(UTC)
    if since is not None:
        where.venue_time_range.start_time.FromDatetime(instant(since, "--from", now))
    if until is not None:
        where.venue_time_range.end_time.FromDatetime(instant(until, "--to", now))
    found: list[execution_pb2.Execution] = []
    shown = 0
    with session.client() as client:
        for execution in client.executions(where, page_size=min(limit or 1_000, 1_000)):
            shown += 1
            if session.as_json:
                print(json_lines.line(json_lines.plain(execution)), flush=True)
            else:
                found.append(execution)
            if shown == limit:
                break
    if session.as_json:
        return
    if not found:
        say("No execution matches.")
        return
    session.console().print(executions_table(found, time.time_ns() // 1000))
    if shown == limit:
        say(f"The latest {limit}; --limit 0 shows all.")


def _single(
    market: str | None,
    fill_id: str | None,
    outcome: int,
    sell: bool,
    price: str | None,
    size: str | None,
    fee: str | None,
    at: str | None,
    signal: str | None,
    leg: int | None,
    maker: bool | None,
) -> execution_pb2.Fill:
    needed = {"--market": market, "--fill-id": fill_id, "--price": price, "--size": size, "--at": at}
    missing = [name for name, value in needed.items() if value is None]
    if missing or market is None or price is None or size is None or at is None:
        usage_error(f"a fill needs {', '.join(missing)}", "add them, or name a file of JSON lines")
    liquidity = {True: "MAKER", False: "TAKER", None: "UNSPECIFIED"}[maker]
    fill = execution_pb2.Fill(
        venue=_venue(market),
        venue_fill_id=fill_id or "",
        market_id=market,
        outcome_index=outcome,
        action=signal_pb2.LEG_ACTION_SELL if sell else signal_pb2.LEG_ACTION_BUY,
        price_micros=micros(price),
        size_micros=micros(size),
        fee_micros=None if fee is None else micros(fee),
        liquidity=execution_pb2.FillLiquidity.Value(f"FILL_LIQUIDITY_{liquidity}"),
        signal_id=signal,
        leg_number=leg,
    )
    fill.venue_time.FromDatetime(instant(at, "--at", datetime.now(UTC)))
    return fill


def _from_lines(file: str) -> Iterator[execution_pb2.Fill]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        usage_error(f"{file} can't be read: {error}", "name a file of JSON lines, or - for the standard input")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield fill_of(json.loads(line))
        except (ValueError, TypeError, json_format.ParseError) as error:
            usage_error(
                f"line {number} of {file} is no fill: {error}",
                "write one as `oddstream executions list -o json` has it under fill",
            )


def fill_of(document: dict[str, Any]) -> execution_pb2.Fill:
    """A fill from what :func:`json_lines.plain` makes of one; a line of ``list`` works as well.

    :raises ValueError: it isn't one.
    :raises json_format.ParseError: a field is unknown or has a value of another type.
    """
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    inner = document.get("fill")
    fields = inner if isinstance(inner, dict) else document
    fields = {name: value for name, value in fields.items() if value is not None}
    for name, prefix in _ENUMS.items():
        word = fields.get(name)
        if isinstance(word, str) and not word.startswith(f"{prefix}_"):
            fields[name] = f"{prefix}_{word.upper()}"
    fill = json_format.ParseDict(fields, execution_pb2.Fill())
    if "venue" not in fields:
        fill.venue = _venue(fill.market_id)
    return fill


def _venue(market_id: str) -> venue_pb2.Venue.ValueType:
    """That of a market's id; UNSPECIFIED where it names none, which the server refuses by name."""
    named = f"VENUE_{market_id.partition(':')[0].upper()}"
    return venue_pb2.Venue.Value(named) if named in venue_pb2.Venue.keys() else venue_pb2.VENUE_UNSPECIFIED  # noqa: SIM118 - no dict
