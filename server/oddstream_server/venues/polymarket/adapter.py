"""The Polymarket adapter: discovery by Gamma, books and trades by the CLOB's socket, settlements by all three APIs."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from typing import Any

import aiohttp

from oddstream_server.application.ports import CatalogPage, DiscoveryReport, SettlementUpdate, VenueSink
from oddstream_server.domain.errors import Unavailable
from oddstream_server.domain.market import Event, Market, MarketState, Settlement, Venue
from oddstream_server.domain.quote import OrderBook, Trade
from oddstream_server.venues.breaker import CircuitBreaker
from oddstream_server.venues.discovery import DiscoveryPass
from oddstream_server.venues.feed_state import FeedMonitor
from oddstream_server.venues.http import VenueError, VenueRefused
from oddstream_server.venues.polymarket import catalog
from oddstream_server.venues.polymarket.config import PolymarketConfig
from oddstream_server.venues.polymarket.feed import PolymarketFeed
from oddstream_server.venues.polymarket.fills import Rest
from oddstream_server.venues.polymarket.prices import PriceFeed, PriceMonitor
from oddstream_server.venues.polymarket.rest import PageRepeated, PolymarketRest
from oddstream_server.venues.polymarket.settlements import (
    clob_settlement,
    market_state,
    resolution_settlement,
    settlement,
)
from oddstream_server.venues.polymarket.ticks import FillKeys, data_trade, data_transaction, tokens_of
from oddstream_server.venues.rows import Quarantine, as_object, text
from oddstream_server.venues.socket import VenueSocket


class PolymarketAdapter:
    """Fulfils :class:`~oddstream_server.application.ports.VenueAdapter` for Polymarket."""

    venue = Venue.POLYMARKET

    def __init__(self, config: PolymarketConfig) -> None:
        self._config = config
        self._http: aiohttp.ClientSession | None = None
        self._breaker = CircuitBreaker(config.breaker_threshold, config.breaker_rest_s)
        self._rest = PolymarketRest(config, self._session, self._breaker)
        first_epoch = config.clock() // 1_000_000 if config.first_epoch is None else config.first_epoch
        self._monitor = FeedMonitor(Venue.POLYMARKET, first_epoch)
        self._keys = FillKeys()
        self._feeds: list[PolymarketFeed] = []
        self._feeds_grew = asyncio.Event()
        self._price_monitor = PriceMonitor(self._monitor)
        self._prices = PriceFeed(self._price_monitor, config.price_socket, self._take_strike)
        self._markets: dict[str, Market] = {}
        self._open_ids: set[str] = set()
        """Condition ids that the last pass saw open; one that is missing from the next pass has closed."""
        self._told: dict[str, tuple[MarketState, Settlement | None]] = {}

    async def reachable(self) -> bool:
        return await self._rest.reachable()

    async def discover(self, sink: VenueSink) -> DiscoveryReport:
        """One pass over open events with their markets, then over the markets that closed since the last pass.

        :raises Unavailable: the venue gave no usable answer; pages pushed before stand.
        """
        now_us, requests_before = self._config.clock(), self._rest.requests
        discovery = DiscoveryPass(Venue.POLYMARKET, sink, requests_before)
        seen: set[str] = set()
        complete = True
        try:
            try:
                async for rows in self._rest.open_events():
                    await self._push_events(discovery, rows, seen)
            except PageRepeated:
                complete = False
                await discovery.page_repeated("GET /events/keyset", now_us)
            known_open = self._open_ids | {market.venue_market_id for market in self._markets.values()}
            if complete:
                await self._push_closed(discovery, sorted(known_open - seen))
                self._open_ids = seen
            else:
                self._open_ids = known_open | seen
        except VenueError as error:
            raise Unavailable(f"Polymarket gave no usable answer ({type(error).__name__})") from error
        return discovery.report(self._rest.requests)

    async def follow(self, sink: VenueSink) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_states(sink))
            tasks.create_task(self._fetch_missed(sink))
            tasks.create_task(self._price_socket().run(sink))
            running = 0
            while True:
                self._feeds_grew.clear()
                for feed in self._feeds[running:]:
                    tasks.create_task(self._socket(feed).run(sink))
                running = len(self._feeds)
                await self._feeds_grew.wait()

    async def subscribe(self, markets: Sequence[Market]) -> None:
        """Markets keep their connection; new ones go where there is room, else to a new connection."""
        self._markets = {market.market_id: market for market in markets}
        for market_id in [m for m in self._told if m not in self._markets]:
            del self._told[market_id]
        shares = [
            [self._markets[m.market_id] for m in feed.markets if m.market_id in self._markets] for feed in self._feeds
        ]
        placed = {market.market_id for share in shares for market in share}
        for market in self._markets.values():
            if market.market_id in placed or len(market.outcomes) != 2:
                continue
            roomy = next((share for share in shares if len(share) < self._config.markets_per_connection), None)
            if roomy is None:
                shares.append(roomy := [])
            roomy.append(market)
        while len(self._feeds) < len(shares):
            self._feeds.append(
                PolymarketFeed(
                    self._monitor,
                    self._config.socket,
                    self._keys,
                    stream=f"polymarket websocket {len(self._feeds) + 1}",
                    mismatches_to_resnapshot=self._config.mismatches_to_resnapshot,
                )
            )
        for feed, share in zip(self._feeds, shares, strict=True):
            feed.follow(share)
        self._prices.follow(list(self._markets.values()))
        self._feeds_grew.set()

    def order_book(self, market_id: str) -> OrderBook | None:
        books = (feed.order_book(market_id) for feed in self._feeds)
        return next((book for book in books if book is not None), None)

    def breaker_state(self) -> str:
        return self._breaker.state.value

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None or self._http.closed:
            self._http = self._config.session_factory()
        return self._http

    def _socket(self, feed: PolymarketFeed) -> VenueSocket:
        return VenueSocket(
            self._config.ws_url,
            self._session,
            feed,
            self._monitor,
            self._config.socket,
            self._config.clock,
            new_session=lambda: uuid.uuid4().hex[:12],
        )

    def _price_socket(self) -> VenueSocket:
        return VenueSocket(
            self._config.prices_url,
            self._session,
            self._prices,
            self._price_monitor,
            self._config.price_socket,
            self._config.clock,
            new_session=lambda: uuid.uuid4().hex[:12],
        )

    def _take_strike(self, market_id: str, floor_micros: int) -> Market | None:
        """A followed market with its strike, as whoever reads its book knows it."""
        found = (feed.take_strike(market_id, floor_micros) for feed in self._feeds)
        return next((market for market in found if market is not None), None)

    # --- discovery --------------------------------------------------------------------------------------------------

    async def _push_events(self, discovery: DiscoveryPass, rows: Sequence[Any], seen: set[str]) -> None:
        now_us = self._config.clock()
        quarantine = Quarantine(Venue.POLYMARKET, "GET /events/keyset", now_us)
        events: list[Event] = []
        markets: list[Market] = []
        for row in rows:
            with quarantine.guard(row):
                event_row = as_object(row, "event")
                of_event: list[Market] = []
                for market_row in catalog.nested_markets(event_row):
                    with quarantine.guard(market_row):
                        of_event.append(catalog.market(market_row, event_row, quarantine, now_us))
                events.append(catalog.event(event_row, [m.market_id for m in of_event]))
                markets += of_event
        seen.update(m.venue_market_id for m in markets if m.state not in (MarketState.CLOSED, MarketState.SETTLED))
        await discovery.put(quarantine, CatalogPage(Venue.POLYMARKET, tuple(events), tuple(markets)))

    async def _push_closed(self, discovery: DiscoveryPass, condition_ids: Sequence[str]) -> None:
        """Read markets that are no longer among the open ones, and their results where Gamma doesn't tell them."""
        for batch in _batches(condition_ids, self._config.conditions_per_request):
            async for rows in self._rest.markets(batch, closed=True):
                now_us = self._config.clock()
                quarantine = Quarantine(Venue.POLYMARKET, "GET /markets/keyset", now_us)
                markets: list[Market] = []
                for row in rows:
                    with quarantine.guard(row):
                        markets.append(catalog.market(row, None, quarantine, now_us))
                resolved = [await self._with_result(market, quarantine) for market in markets]
                await discovery.put(quarantine, CatalogPage(Venue.POLYMARKET, (), tuple(resolved)))

    async def _with_result(self, market: Market, quarantine: Quarantine) -> Market:
        if market.settlement is not None or market.state not in (MarketState.CLOSED, MarketState.SETTLED):
            return market
        settled = await self._result(market, quarantine)
        return market if settled is None else replace(market, state=MarketState.SETTLED, settlement=settled)

    async def _result(self, market: Market, quarantine: Quarantine) -> Settlement | None:
        """What the Data API or else the CLOB says that a closed market pays, for rows of Gamma that don't tell."""
        now_us = self._config.clock()
        settled: Settlement | None = None
        try:
            for row in await self._rest.resolutions(market.venue_market_id):
                with quarantine.guard(row):
                    settled = settled or resolution_settlement(row, now_us)
        except VenueRefused:
            pass  # the Data API doesn't know the market; the CLOB may
        if settled is None:
            row = await self._rest.clob_market(market.venue_market_id)
            if row is not None:
                with quarantine.guard(row):
                    settled = clob_settlement(row, market.outcomes[0].venue_instrument_id, now_us)
        return settled

    # --- trades that no socket brought --------------------------------------------------------------------------------

    async def _fetch_missed(self, sink: VenueSink) -> None:
        """After each reconnect, read the trades of the time between from the Data API."""
        while True:
            for feed in self._feeds:
                span = feed.take_missed()
                if span is not None:
                    for market in feed.markets:
                        try:
                            await self._push_missed(sink, market, *span, feed.told.fetch())
                        except VenueError:
                            continue  # these trades stay missing; the GAP that was pushed says so
            await asyncio.sleep(0.2)

    async def _push_missed(self, sink: VenueSink, market: Market, since_us: int, until_us: int, rest: Rest) -> None:
        now_us = self._config.clock()
        quarantine = Quarantine(Venue.POLYMARKET, "GET /v2/trades", now_us)
        keys = FillKeys()  # numbers equal fills from 0 again, so that one which the socket brought keeps its key
        tokens = tokens_of([market])
        missed: list[Trade] = []
        async for rows in self._rest.trades(market.venue_market_id, since_us, until_us):
            for row in rows:
                with quarantine.guard(row):
                    trade = data_trade(row, tokens, keys, now_us)
                    if trade is None:
                        continue
                    # its key stays that of the whole row: read again in another span it is the same fill
                    new = rest(trade.market_id, data_transaction(row), trade.size_micros)
                    if new:
                        missed.append(replace(trade, size_micros=new))
        received_us = self._config.clock()
        for trade in sorted(missed, key=lambda t: (t.venue_time_us or 0, t.source_key)):
            await sink.put(replace(trade, receive_time_us=received_us))
        for refused in quarantine.rows:
            await sink.put(refused)

    # --- states of followed markets -----------------------------------------------------------------------------------

    async def _follow_states(self, sink: VenueSink) -> None:
        """Ask for the state of each followed market each interval, and sooner where the socket told of a resolution."""
        while True:
            try:
                for batch in _batches(sorted(self._markets), self._config.conditions_per_request):
                    await self._push_states(sink, batch)
            except VenueError:
                pass  # the breaker shows it; the socket's state is the feed's
            waited_s = 0.0
            while waited_s < self._config.status_interval_s and not any(feed.lookups for feed in self._feeds):
                step_s = min(1.0, self._config.status_interval_s - waited_s)
                await asyncio.sleep(step_s)
                waited_s += step_s
            for feed in self._feeds:
                feed.lookups.clear()

    async def _push_states(self, sink: VenueSink, market_ids: Sequence[str]) -> None:
        ids = [market_id.removeprefix("polymarket:") for market_id in market_ids]
        async for rows in _both(self._rest.markets(ids, closed=False), self._rest.markets(ids, closed=True)):
            now_us = self._config.clock()
            quarantine = Quarantine(Venue.POLYMARKET, "GET /markets/keyset", now_us)
            for row in rows:
                with quarantine.guard(row):
                    market_row = as_object(row, "market")
                    market = self._markets.get(catalog.market_key(text(market_row, "conditionId")))
                    if market is None:
                        continue
                    state, settled = market_state(market_row), settlement(market_row, now_us)
                    if settled is None and state in (MarketState.CLOSED, MarketState.SETTLED):
                        settled = await self._result(market, quarantine)
                    if settled is not None:
                        state = MarketState.SETTLED
                    if self._is_news(market, state, settled):
                        await sink.put(SettlementUpdate(market.market_id, state, settled))
            for refused in quarantine.rows:
                await sink.put(refused)

    def _is_news(self, market: Market, state: MarketState, settled: Settlement | None) -> bool:
        told = (state, None if settled is None else replace(settled, known_time_us=None))
        before = self._told.get(market.market_id)
        self._told[market.market_id] = told
        if before is None:
            return market.state is not state or settled is not None
        return before != told


async def _both(*lists: AsyncIterator[Sequence[Any]]) -> AsyncIterator[Sequence[Any]]:
    for pages in lists:
        async for rows in pages:
            yield rows


def _batches(values: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (values[start : start + size] for start in range(0, len(values), size))
