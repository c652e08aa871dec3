"""Events, markets and links."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from oddstream_server.application.ports.pages import Key, Page
from oddstream_server.application.ports.venues import SettlementUpdate
from oddstream_server.domain.market import (
    Event,
    LinkRelation,
    LinkState,
    Market,
    MarketLink,
    MarketState,
    Venue,
)


@dataclass(frozen=True, slots=True)
class MarketFilter:
    """AND between fields, OR inside one; empty means any."""

    venues: tuple[Venue, ...] = ()
    event_ids: tuple[str, ...] = ()
    states: tuple[MarketState, ...] = ()
    categories: tuple[str, ...] = ()
    series_ids: tuple[str, ...] = ()
    close_time_from_us: int | None = None
    close_time_to_us: int | None = None
    text: str = ""
    """Matches in the title, case-insensitive."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    venues: tuple[Venue, ...] = ()
    categories: tuple[str, ...] = ()
    series_ids: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class MarketLinkFilter:
    market_ids: tuple[str, ...] = ()
    """The link concerns one of them, on either side."""
    states: tuple[LinkState, ...] = ()
    relations: tuple[LinkRelation, ...] = ()
    within_venues: tuple[Venue, ...] = ()
    """Both markets are of these."""


@dataclass(frozen=True, slots=True)
class CatalogChange:
    """What an upsert changed; unchanged rows are not touched."""

    created: int
    updated: int
    unchanged: int


class Catalog(Protocol):
    """Events, markets, links. Markets and events are listed by id."""

    async def upsert(self, events: Sequence[Event], markets: Sequence[Market], now_us: int) -> CatalogChange: ...

    async def record_settlements(self, updates: Sequence[SettlementUpdate], now_us: int) -> Sequence[str]:
        """Apply settlements; an amended one gets the next revision. Answers the ids of markets that changed."""
        ...

    async def markets_by_id(self, market_ids: Sequence[str]) -> Mapping[str, Market]: ...

    async def list_markets(self, where: MarketFilter, after: Key | None, limit: int) -> Page[Market]: ...

    async def events_by_id(self, event_ids: Sequence[str]) -> Mapping[str, Event]: ...

    async def list_events(self, where: EventFilter, after: Key | None, limit: int) -> Page[Event]: ...

    async def list_links(self, where: MarketLinkFilter, after: Key | None, limit: int) -> Page[MarketLink]:
        """By ascending link id."""
        ...

    async def propose_links(self, links: Sequence[MarketLink]) -> int:
        """Keep proposals; a link that is known already stays as it is. Answers how many were new."""
        ...

    def all_markets(self, states: Sequence[MarketState], venues: Sequence[Venue]) -> AsyncIterator[Market]:
        """Every market of the named states and venues, streamed."""
        ...
