"""Venues: what adapters are and what they push."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from oddstream_server.domain.market import (
    Event,
    Market,
    MarketState,
    Settlement,
    Venue,
)
from oddstream_server.domain.quote import FeedStatus, OrderBook, Quote, Trade


@dataclass(frozen=True, slots=True)
class CatalogPage:
    """A page of discovery: events with the markets that came with them."""

    venue: Venue
    events: tuple[Event, ...]
    markets: tuple[Market, ...]


@dataclass(frozen=True, slots=True)
class SettlementUpdate:
    market_id: str
    state: MarketState
    settlement: Settlement | None


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A row of a venue that can't be read: kept with its reason, counted, and never stopping its page."""

    venue: Venue
    source: str
    """The endpoint or channel, e.g. ``GET /markets``."""
    reason: str
    """One of our words, e.g. ``price_out_of_range``; the label of a metric, so a small set."""
    detail: str
    """What was wrong, in our words."""
    payload: bytes
    """The row as it came, at most 64 KiB."""
    receive_time_us: int


VenueItem = CatalogPage | Quote | Trade | SettlementUpdate | FeedStatus | QuarantinedRow


class VenueSink(Protocol):
    """Where adapters push. ``put`` waits while the bounded queue is full, so that back-pressure reaches the socket."""

    async def put(self, item: VenueItem) -> None: ...


@dataclass(frozen=True, slots=True)
class DiscoveryReport:
    events: int
    markets: int
    quarantined: int
    requests: int


class VenueAdapter(Protocol):
    """One venue. All quotes are pushed at whole venue timestamps: the deltas of one timestamp show as one quote."""

    venue: Venue

    async def reachable(self) -> bool:
        """True when the venue answers within a few seconds; never raises."""
        ...

    async def discover(self, sink: VenueSink) -> DiscoveryReport:
        """One pass over the open markets (and those that settled since the last pass), pushed as catalog pages."""
        ...

    async def follow(self, sink: VenueSink) -> None:
        """Push quotes, trades, settlements and feed states of the subscribed markets until cancelled.

        Reconnects, resnapshots and backs off by itself; raises only on a programming error.
        """
        ...

    async def subscribe(self, markets: Sequence[Market]) -> None:
        """Replace the set of followed markets; takes effect on the open connection."""
        ...

    def order_book(self, market_id: str) -> OrderBook | None:
        """The book as of the last whole venue timestamp, None where it is unknown or being taken anew."""
        ...

    def breaker_state(self) -> str:
        """``closed``, ``open`` or ``half_open``."""
        ...

    async def close(self) -> None: ...
