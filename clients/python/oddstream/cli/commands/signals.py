"""``oddstream signals``: what is published."""

import time
from typing import Annotated

import typer

from oddstream.cli import checking, json_lines
from oddstream.cli.commands.choices import SignalStateChoice, VenueChoice, micros, signal_states, venues
from oddstream.cli.commands.markets import order_book
from oddstream.cli.commands.watching import WatchOptions, watch_lines, watch_table
from oddstream.cli.session import Session, say, usage_error, with_session
from oddstream.cli.views.signals import signal_page, signals_table
from oddstream.client import Client
from oddstream.errors import InvalidArgument, NotFound
from oddstream.v1 import event_pb2, market_pb2, market_service_pb2, signal_pb2, signal_service_pb2

app = typer.Typer(no_args_is_help=True, help="What is published: follow it, list it, look one signal up.")

VENUE_WORDS = ", ".join(VenueChoice)
STATE_WORDS = ", ".join(SignalStateChoice)

Kinds = Annotated[list[str] | None, typer.Option("--kind", metavar="KIND", help="Only of this kind; may be repeated.")]
Venues = Annotated[
    list[VenueChoice] | None,
    typer.Option("--venue", metavar="VENUE", help=f"Only on this venue: {VENUE_WORDS}; may be repeated."),
]
Markets = Annotated[
    list[str] | None, typer.Option("--market", metavar="ID", help="Only with a leg on this market id; may be repeated.")
]
Events = Annotated[
    list[str] | None, typer.Option("--event", metavar="ID", help="Only about this event id; may be repeated.")
]
MinimumStrength = Annotated[
    float | None,
    typer.Option("--min-strength", metavar="NUMBER", help="Least strength at the opening, 0 to 1.", min=0, max=1),
]
MinimumEdge = Annotated[
    str | None,
    typer.Option(
        "--min-edge", metavar="USD", help="Least net edge at the opening, e.g. 0.02; 0 drops kinds without one."
    ),
]


def signal_filter(
    kind: list[str] | None,
    venue: list[VenueChoice] | None,
    market: list[str] | None,
    event: list[str] | None,
    minimum_strength: float | None,
    minimum_edge: str | None,
) -> signal_pb2.SignalFilter:
    return signal_pb2.SignalFilter(
        kinds=kind or (),
        venues=venues(venue or ()),
        market_ids=market or (),
        event_ids=event or (),
        minimum_strength=minimum_strength,
        minimum_net_edge_micros=None if minimum_edge is None else micros(minimum_edge),
    )


_WATCH_HELP = (
    "Follow the signals as they are published; the connection may break as often as it likes.\n\n"
    "On a terminal a live table of what is open. In a pipe one JSON object an event: sequence, type, create_time, "
    "opening_strength, opening_net_edge_micros and signal. Whole numbers are integers, prices and sizes are in micros "
    "(millionths of a USD, of a contract), enum values are words, times are RFC 3339 in UTC, absent is null. Breaks "
    "and feeds that aren't live, are told on stderr."
)


@app.command("watch", help=_WATCH_HELP)
@with_session
def watch_signals(
    session: Session,
    kind: Kinds = None,
    venue: Venues = None,
    market: Markets = None,
    event: Events = None,
    minimum_strength: MinimumStrength = None,
    minimum_edge: MinimumEdge = None,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="POINT",
            help="Where to begin: active (what is open now, then what comes), now, a time (2026-05-13T20:00 in the "
            "local zone), a span back (15m, 2h, 1d), after a sequence (1234 or DATA_SET:1234), or a resume token.",
        ),
    ] = "active",
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Keep the position in this file and go on from it next time; where it holds one, --from is ignored.",
        ),
    ] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated/--no-simulated", help="Simulated signals too, marked SIM.")
    ] = True,
) -> None:
    options = WatchOptions(
        filter=signal_filter(kind, venue, market, event, minimum_strength, minimum_edge),
        start=start,
        checkpoint=checkpoint,
        include_simulated=simulated,
    )
    console = session.console()
    if not session.as_json and not console.is_terminal:
        usage_error("a live table needs a terminal", "leave --output away for JSON lines")
    if session.as_json or console.is_dumb_terminal:
        watch_lines(session, options)
    else:
        watch_table(session, options)


@app.command("list")
@with_session
def list_signals(
    session: Session,
    kind: Kinds = None,
    venue: Venues = None,
    market: Markets = None,
    event: Events = None,
    minimum_strength: MinimumStrength = None,
    minimum_edge: MinimumEdge = None,
    state: Annotated[
        list[SignalStateChoice] | None,
        typer.Option(metavar="STATE", help=f"Only in this state: {STATE_WORDS}; may be repeated."),
    ] = None,
    opportunity: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="All revisions of this opportunity id; may be repeated.")
    ] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated/--no-simulated", help="Simulated signals too, marked SIM.")
    ] = True,
    limit: Annotated[int, typer.Option(help="At most so many; 0 for all.", min=0)] = 20,
) -> None:
    """List stored signals, the newest first."""
    request = signal_service_pb2.ListSignalsRequest(
        page_size=min(limit or 1000, 1000),
        filter=signal_filter(kind, venue, market, event, minimum_strength, minimum_edge),
        history=signal_service_pb2.SignalHistoryFilter(
            states=signal_states(state or ()), opportunity_ids=opportunity or ()
        ),
        include_simulated=simulated,
    )
    found: list[signal_pb2.Signal] = []
    shown = 0
    with session.client() as client:
        for page in client.pages(client.signals.ListSignals, request):
            for signal in page.signals[: limit - shown if limit else None]:
                shown += 1
                if session.as_json:
                    print(json_lines.line(json_lines.plain(signal)), flush=True)
                else:
                    found.append(signal)
            if limit and shown >= limit:
                break
    if session.as_json:
        return
    console = session.console()
    if found:
        console.print(signals_table(found, time.time_ns() // 1000, console.width))
    else:
        say("No signal matches.")


@app.command("show")
@with_session
def show_signal(
    session: Session,
    signal_id: Annotated[str, typer.Argument(metavar="ID", help="The signal's id, sig_….")],
) -> None:
    """Show one signal: its inputs, its book then and now, the fee's working, and the formula computed again."""
    with session.client() as client:
        request = signal_service_pb2.GetSignalRequest(signal_id=signal_id, view=signal_pb2.SIGNAL_VIEW_FULL)
        answer = client.signals.GetSignal(request)
        checked = checking.check(answer, [_leg_check(client, leg) for leg in answer.signal.legs])
        title = subject_title(client, answer.signal)
    if session.as_json:
        print(json_lines.line(checking.as_json(checked)), flush=True)
        return
    console = session.console()
    console.print(signal_page(checked, title, time.time_ns() // 1000, console.width))


def _leg_check(client: Client, leg: signal_pb2.SignalLeg) -> checking.LegCheck:
    market: market_pb2.Market | None = None
    market_words = ""
    try:
        market = client.markets.GetMarket(market_service_pb2.GetMarketRequest(market_id=leg.market_id)).market
    except NotFound:
        market_words = "the market is not known here any more"
        return checking.LegCheck(leg, None, market_words, None, market_words)
    book, book_words = order_book(client, leg.market_id, 0)
    return checking.LegCheck(leg, market, market_words, book, book_words)


def subject_title(client: Client, signal: signal_pb2.Signal) -> str:
    """The title of the market or event that a signal is about; empty where it isn't known.

    :raises OddstreamError: the server can't be asked.
    """
    try:
        if signal.direction == signal_pb2.SIGNAL_DIRECTION_BASKET:
            event: event_pb2.Event = client.markets.GetEvent(
                market_service_pb2.GetEventRequest(event_id=signal.subject_id)
            ).event
            return event.title
        market: market_pb2.Market = client.markets.GetMarket(
            market_service_pb2.GetMarketRequest(market_id=signal.subject_id, view=market_pb2.MARKET_VIEW_BASIC)
        ).market
        return market.title
    except (NotFound, InvalidArgument):
        return ""
