"""Strikes of the crypto up-or-down markets: the price at the start of their window, by the stream they resolve on.

Outcome 0 (Up) wins where the stream's value at the window's end is at least that at its start. Which stream is written
in each market: Chainlink's price of one instant until August 2026 (``streams/btc-usd``), its average over the last 30
or 60 seconds since (``streams/btc-usd-twap-60s-streams``), so that no date has to be known here. Markets that resolve
on another source (hourly and daily ones: candles of Binance) have no strike of this kind.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from oddstream_server.domain.market import Strike, Venue, underlying_id
from oddstream_server.domain.money import MICROS
from oddstream_server.venues.decimals import rounded_micros
from oddstream_server.venues.polymarket.settlements import stringified
from oddstream_server.venues.rows import QuarantineReason, RowError, as_object, optional_text
from oddstream_server.venues.times import optional_iso_us

AVERAGES_US: Final = frozenset({0, 30_000_000, 60_000_000})
"""Lengths of the averages that the venue relays; 0 for the price itself."""
_STREAM: Final = re.compile(r"https://data\.chain\.link/streams/([a-z0-9]+)-usd(?:-twap-([0-9]{1,4})s-streams)?/?")
_SLUG: Final = re.compile(r".+-updown-[0-9]+[mh]-([0-9]{9,11})")


@dataclass(frozen=True, slots=True)
class PriceSeries:
    """A coin's price in USD as Chainlink has it, or its average over the seconds before."""

    coin: str
    averaging_us: int = 0

    @property
    def series_id(self) -> str:
        """The id under which its prices are stored."""
        average = f"-twap-{self.averaging_us // MICROS}s" if self.averaging_us else ""
        return underlying_id(Venue.POLYMARKET, f"{self.coin}-usd{average}")


def price_series(strike: Strike) -> tuple[PriceSeries, PriceSeries] | None:
    """The price that a market moves with, and the series whose value at the opening is its floor; None for others."""
    before, found, name = strike.underlying_id.partition(underlying_id(Venue.POLYMARKET, ""))
    if strike.opening_time_us is None or before or not found or not name.endswith("-usd"):
        return None
    coin = name.removesuffix("-usd")
    return PriceSeries(coin), PriceSeries(coin, strike.averaging_us)


def up_or_down(row: Mapping[str, Any], event_row: Mapping[str, Any] | None) -> Strike | None:
    """The strike of a Gamma market, or None where it is no up-or-down market on a stream that the venue relays.

    The floor is there where the event tells it (``priceToBeat``), which is about a minute after the start.

    :raises RowError: a time or the price can't be read.
    """
    source = optional_text(row, "resolutionSource") or optional_text(event_row or {}, "resolutionSource")
    stream = _STREAM.fullmatch(source)
    if stream is None or [label.lower() for label in stringified(row, "outcomes") or ()] != ["up", "down"]:
        return None
    averaging_us = int(stream[2] or 0) * MICROS
    opening_us, end_us = _opening(row), optional_iso_us(row.get("endDate"), "endDate")
    if averaging_us not in AVERAGES_US or opening_us is None or end_us is None or opening_us >= end_us:
        return None
    return Strike(
        "greater_or_equal",
        floor_micros=_told_price(event_row),
        underlying_id=PriceSeries(stream[1]).series_id,
        averaging_us=averaging_us,
        opening_time_us=opening_us,
    )


def _opening(row: Mapping[str, Any]) -> int | None:
    told = optional_iso_us(row.get("eventStartTime"), "eventStartTime")
    if told is not None:
        return told
    named = _SLUG.fullmatch(optional_text(row, "slug"))
    return None if named is None else int(named[1]) * MICROS


def _told_price(event_row: Mapping[str, Any] | None) -> int | None:
    metadata = (event_row or {}).get("eventMetadata")
    if metadata is None:
        return None
    value = as_object(metadata, "eventMetadata").get("priceToBeat")
    if value is None or value == "":
        return None
    price_micros = rounded_micros(value, "priceToBeat")
    if not 0 < price_micros < 2**62:
        raise RowError(QuarantineReason.PRICE_OUT_OF_RANGE, "priceToBeat is no price")
    return price_micros
