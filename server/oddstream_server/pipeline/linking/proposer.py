"""The pass that proposes: the markets followed now, venue against venue, a bounded number of links each time."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final

from oddstream_server.application.ports import Catalog, Clock
from oddstream_server.domain.market import Event, Market, MarketLink, MarketState, Venue
from oddstream_server.pipeline.linking.facts import Facts, facts_of
from oddstream_server.pipeline.linking.matching import find_matches, link_of_match

MARKETS_A_VENUE: Final = 5_000
PROPOSALS_A_PASS: Final = 200
_EVENTS_AT_A_TIME: Final = 500


class LinkProposer:
    """Proposes links between markets of venues that share a clock; a link that is known stays as it is.

    :param venues: those that are followed now.
    """

    def __init__(self, catalog: Catalog, venues: Sequence[Venue], clock: Clock) -> None:
        self._catalog = catalog
        self._venues = sorted(set(venues))
        self._clock = clock

    async def propose(self) -> int:
        """Compare, and keep what is new; answers how many proposals were."""
        by_venue = {venue: await self._facts(venue) for venue in self._venues}
        links: list[MarketLink] = []
        for own, other in combinations(self._venues, 2):
            if own.clock == other.clock and by_venue[own] and by_venue[other]:
                matches = await asyncio.to_thread(find_matches, by_venue[own], by_venue[other])
                links += [link_of_match(match, self._clock()) for match in matches[:PROPOSALS_A_PASS]]
        return await self._catalog.propose_links(links)

    async def _facts(self, venue: Venue) -> list[Facts]:
        markets = []
        async for market in self._catalog.all_markets((MarketState.OPEN, MarketState.PAUSED), (venue,)):
            if not market.placeholder:
                markets.append(market)
            if len(markets) >= MARKETS_A_VENUE:
                break
        ids = sorted({m.event_id for m in markets if m.event_id is not None})
        events: dict[str, Event] = {}
        for start in range(0, len(ids), _EVENTS_AT_A_TIME):
            events |= await self._catalog.events_by_id(ids[start : start + _EVENTS_AT_A_TIME])
        # Thousands of titles take a part of a second, in which the loop has better things to do.
        return await asyncio.to_thread(_read, markets, events)


def _read(markets: Sequence[Market], events: Mapping[str, Event]) -> list[Facts]:
    return [facts_of(market, events.get(market.event_id or "")) for market in markets]
