"""Words that options take, and the values of the contract that they stand for."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any

import typer

from oddstream.client import Client
from oddstream.v1 import market_pb2, signal_pb2, signal_service_pb2, venue_pb2
from oddstream.watching.signals import Position, active_signals, at_position, from_now, from_time, from_token


class VenueChoice(StrEnum):
    KALSHI = "kalshi"
    POLYMARKET = "polymarket"
    POLYMARKET_US = "polymarket_us"
    SIMULATED = "simulated"


class MarketStateChoice(StrEnum):
    UNOPENED = "unopened"
    OPEN = "open"
    PAUSED = "paused"
    CLOSED = "closed"
    DETERMINED = "determined"
    DISPUTED = "disputed"
    SETTLED = "settled"


class SignalStateChoice(StrEnum):
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"


def venues(chosen: Sequence[VenueChoice]) -> list[Any]:
    return [venue_pb2.Venue.Value(f"VENUE_{v.name}") for v in dict.fromkeys(chosen)]


def market_states(chosen: Sequence[MarketStateChoice]) -> list[Any]:
    return [market_pb2.MarketState.Value(f"MARKET_STATE_{s.name}") for s in dict.fromkeys(chosen)]


def signal_states(chosen: Sequence[SignalStateChoice]) -> list[Any]:
    return [signal_pb2.SignalState.Value(f"SIGNAL_STATE_{s.name}") for s in dict.fromkeys(chosen)]


def micros(text: str) -> int:
    """ "0.02" -> 20000.

    :raises typer.BadParameter: not a number of at most six decimals.
    """
    try:
        value = Decimal(text) * 1_000_000
        whole = int(value)
    except (InvalidOperation, ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no number: write USD such as 0.02") from None
    if value != whole:
        raise typer.BadParameter(f"{text!r} has more than six decimals: prices are exact to a millionth")
    return whole


_AGO = re.compile(r"(\d+)(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_POSITION = re.compile(r"(ds_[a-z2-7]{16,40}):(\d+)")


def start_point(text: str, client: Client, now: datetime) -> signal_service_pb2.WatchSignalsStart:
    """Where a watch begins: ``active``, ``now``, a time, a span back, a sequence, or a resume token.

    :param client: asked for the present data set where a sequence comes without one.
    :param now: the instant that a span counts back from.
    :raises OddstreamError: that question failed.
    """
    if text == "active":
        return active_signals()
    if text == "now":
        return from_now()
    if found := _AGO.fullmatch(text):
        try:
            return from_time(now - timedelta(**{_UNITS[found[2]]: int(found[1])}))
        except OverflowError:
            raise typer.BadParameter(f"{text!r} lies before all time: write such as 15m or 2d") from None
    if text.isascii() and text.isdigit():
        head = client.signals.ListSignals(signal_service_pb2.ListSignalsRequest(page_size=1))
        return at_position(Position(head.data_set_id, int(text)))
    if found := _POSITION.fullmatch(text):
        return at_position(Position(found[1], int(found[2])))
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return from_token(text)
    return from_time((instant if instant.tzinfo else instant.astimezone()).astimezone(UTC))
