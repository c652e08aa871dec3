"""One discovery pass: pushes what was found and counts it."""

from oddstream_server.application.ports import CatalogPage, DiscoveryReport, SettlementUpdate, VenueSink
from oddstream_server.domain.market import Venue
from oddstream_server.venues.rows import Quarantine, QuarantineReason


class DiscoveryPass:
    """Everything that a pass pushes goes through here."""

    def __init__(self, venue: Venue, sink: VenueSink, requests_before: int) -> None:
        self._venue = venue
        self._sink = sink
        self._requests_before = requests_before
        self._events = 0
        self._markets = 0
        self._quarantined = 0

    async def put(self, quarantine: Quarantine, page: CatalogPage | None = None) -> None:
        """Push a page, the settlements its markets carry, and the rows that couldn't be read."""
        if page is not None and (page.events or page.markets):
            self._events += len(page.events)
            self._markets += len(page.markets)
            await self._sink.put(page)
            for market in page.markets:
                if market.settlement is not None:
                    await self._sink.put(SettlementUpdate(market.market_id, market.state, market.settlement))
        for row in quarantine.rows:
            self._quarantined += 1
            await self._sink.put(row)

    async def page_repeated(self, source: str, now_us: int) -> None:
        """The venue's paging goes in a circle: the pass ended there, counted as one quarantined row."""
        quarantine = Quarantine(self._venue, source, now_us)
        quarantine.add(QuarantineReason.PAGE_REPEATED, "the venue answered a page twice; the pass ended there", b"")
        await self.put(quarantine)

    def report(self, requests_now: int) -> DiscoveryReport:
        return DiscoveryReport(self._events, self._markets, self._quarantined, requests_now - self._requests_before)
