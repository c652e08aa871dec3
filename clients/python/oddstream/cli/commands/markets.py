"""``oddstream markets``: what trades."""

import time
from typing import Annotated

import grpc
import typer

from oddstream.cli import json_lines
from oddstream.cli.commands.choices import MarketStateChoice, VenueChoice, market_states, venues
from oddstream.cli.session import Session, say, with_session
from oddstream.cli.views.markets import market_page, markets_table
from oddstream.client import Client
from oddstream.errors import FailedPrecondition, OddstreamError
from oddstream.v1 import market_pb2, market_service_pb2

app = typer.Typer(no_args_is_help=True, help="What trades on the venues, and on which terms.")


@app.command("list")
@with_session
def list_markets(
    session: Session,
    venue: Annotated[
        list[VenueChoice] | None,
        typer.Option(metavar="VENUE", help=f"Only this venue: {', '.join(VenueChoice)}; may be repeated."),
    ] = None,
    state: Annotated[
        list[MarketStateChoice] | None,
        typer.Option(metavar="STATE", help=f"Only in this state: {', '.join(MarketStateChoice)}; may be repeated."),
    ] = None,
    event: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only of this event id; may be repeated.")
    ] = None,
    text: Annotated[
        str, typer.Option(metavar="WORDS", help="Only with this text in the title, whatever its case.")
    ] = "",
    limit: Annotated[int, typer.Option(help="At most so many; 0 for all.", min=0)] = 50,
) -> None:
    """List markets by id."""
    request = market_service_pb2.ListMarketsRequest(
        page_size=min(limit or 1000, 1000),
        filter=market_service_pb2.MarketFilter(
            venues=venues(venue or ()), states=market_states(state or ()), event_ids=event or (), text=text
        ),
    )
    found: list[market_pb2.Market] = []
    shown, more = 0, False
    with session.client() as client:
        for page in client.pages(client.markets.ListMarkets, request):
            for market in page.markets:
                if limit and shown >= limit:
                    more = True
                    break
                shown += 1
                if session.as_json:
                    print(json_lines.line(json_lines.plain(market)), flush=True)
                else:
                    found.append(market)
            if more or (limit and shown >= limit):
                more = more or bool(page.next_page_token)
                break
    if session.as_json:
        return
    console = session.console()
    if found:
        console.print(markets_table(found, time.time_ns() // 1000, console.width))
    else:
        say("No market matches.")
    if more:
        say(f"The first {shown} markets; --limit 0 shows all, --venue, --state, --event and --text narrow the list.")


@app.command("show")
@with_session
def show_market(
    session: Session,
    market_id: Annotated[
        str, typer.Argument(metavar="ID", help="The market's id, e.g. kalshi:KXBTC15M-26MAY131945-45.")
    ],
    levels: Annotated[int, typer.Option(help="Levels of the book to show on each side.", min=1, max=10_000)] = 10,
) -> None:
    """Show one market: native ids, ticks, sizes, fees, rules, settlement, and its book with its age."""
    with session.client() as client:
        market = client.markets.GetMarket(market_service_pb2.GetMarketRequest(market_id=market_id)).market
        book, book_words = order_book(client, market_id, levels + 1_000)
    if session.as_json:
        answer = {
            "market": json_lines.plain(market),
            "order_book": None if book is None else json_lines.plain(book),
            "order_book_error": book_words or None,
        }
        print(json_lines.line(answer), flush=True)
        return
    session.console().print(market_page(market, book, book_words, time.time_ns() // 1000, levels))


def order_book(
    client: Client, market_id: str, depth: int
) -> tuple[market_service_pb2.GetOrderBookResponse | None, str]:
    """The book now, or why there is none in words.

    :raises OddstreamError: the server can't be asked at all.
    """
    try:
        request = market_service_pb2.GetOrderBookRequest(market_id=market_id, depth=depth)
        return client.markets.GetOrderBook(request), ""
    except FailedPrecondition:
        return None, "no book is held: the market is not followed, not open, or its book is being taken anew"
    except OddstreamError as error:
        if error.code is grpc.StatusCode.UNIMPLEMENTED:
            return None, "the server doesn't serve books yet"
        raise
