"""The Kalshi adapter: discovery by REST; quotes, trades and settlements by WebSocket with a key, by polling without."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from oddstream_server.application.ports import CatalogPage, DiscoveryReport, VenueSink
from oddstream_server.domain.errors import Unavailable
from oddstream_server.domain.market import Event, Market, Venue
from oddstream_server.domain.quote import OrderBook
from oddstream_server.venues.breaker import CircuitBreaker
from oddstream_server.venues.discovery import DiscoveryPass
from oddstream_server.venues.feed_state import FeedMonitor
from oddstream_server.venues.http import VenueError, VenueRefused
from oddstream_server.venues.kalshi import catalog
from oddstream_server.venues.kalshi.config import KalshiConfig
from oddstream_server.venues.kalshi.feed import KalshiFeed
from oddstream_server.venues.kalshi.fees import series_fee_changes
from oddstream_server.venues.kalshi.poller import KalshiPoller
from oddstream_server.venues.kalshi.rest import CursorRepeated, KalshiRest
from oddstream_server.venues.kalshi.signing import KalshiSigner
from oddstream_server.venues.rows import Quarantine, as_list, as_object, optional_text
from oddstream_server.venues.socket import VenueSocket


class KalshiAdapter:
    """Fulfils :class:`~oddstream_server.application.ports.VenueAdapter` for Kalshi."""

    venue = Venue.KALSHI

    def __init__(self, config: KalshiConfig) -> None:
        self._config = config
        self._http: aiohttp.ClientSession | None = None
        self._breaker = CircuitBreaker(config.breaker_threshold, config.breaker_rest_s)
        self._signer: KalshiSigner | None = None
        if config.key_id and config.private_key_pem:
            self._signer = KalshiSigner(config.key_id, config.private_key_pem, config.clock)
        self._rest = KalshiRest(config, self._session, self._breaker, self._signer)
        first_epoch = config.clock() // 1_000_000 if config.first_epoch is None else config.first_epoch
        self._monitor = FeedMonitor(Venue.KALSHI, first_epoch, backup=KalshiPoller.stream)
        self._feed = KalshiFeed(self._monitor, config.socket, config.use_yes_price, config.tickers_per_command)
        self._poller = KalshiPoller(config, self._rest, self._monitor, self._feed.streamed, self._feed.lookups)
        self._series: dict[str, catalog.Series] = {}
        self._series_read_us: int | None = None
        self._events: dict[str, Mapping[str, Any]] = {}
        self._settled_since_us: int | None = None

    async def reachable(self) -> bool:
        return await self._rest.reachable()

    async def discover(self, sink: VenueSink) -> DiscoveryReport:
        """One pass over open events with their markets, then over what settled since the last pass.

        :raises Unavailable: the venue gave no usable answer; pages pushed before stand.
        """
        began_us, requests_before = self._config.clock(), self._rest.reader.requests
        discovery = DiscoveryPass(Venue.KALSHI, sink, requests_before)
        try:
            await self._refresh_series(discovery, began_us)
            events: dict[str, Mapping[str, Any]] = {}
            try:
                async for rows in self._rest.open_events():
                    await self._push_events(discovery, rows, events)
            except CursorRepeated:
                await discovery.page_repeated("GET /events", began_us)
            self._events = events
            since_us = self._settled_since_us
            if since_us is None:
                since_us = began_us - int(self._config.settled_look_back_s * 1e6)
            try:
                async for rows in self._rest.settled_markets(since_us):
                    await self._push_settled(discovery, rows)
            except CursorRepeated:
                await discovery.page_repeated("GET /markets", began_us)
            self._settled_since_us = began_us
        except VenueError as error:
            raise Unavailable(f"Kalshi gave no usable answer ({type(error).__name__})") from error
        return discovery.report(self._rest.reader.requests)

    async def follow(self, sink: VenueSink) -> None:
        async with asyncio.TaskGroup() as tasks:
            if self._signer is not None:
                tasks.create_task(self._socket(self._signer).run(sink))
            tasks.create_task(self._poller.run(sink))

    async def subscribe(self, markets: Sequence[Market]) -> None:
        self._feed.follow(markets if self._signer is not None else ())
        self._poller.follow(markets)

    def order_book(self, market_id: str) -> OrderBook | None:
        ticker = market_id.removeprefix("kalshi:")
        return self._feed.order_book(ticker) or self._poller.order_book(ticker)

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

    def _socket(self, signer: KalshiSigner) -> VenueSocket:
        path = urlsplit(self._config.ws_url).path
        return VenueSocket(
            self._config.ws_url,
            self._session,
            self._feed,
            self._monitor,
            self._config.socket,
            self._config.clock,
            new_session=lambda: uuid.uuid4().hex[:12],
            headers=lambda: signer.headers("GET", path),
        )

    # --- discovery --------------------------------------------------------------------------------------------------

    async def _refresh_series(self, discovery: DiscoveryPass, now_us: int) -> None:
        """Read all series and the dated changes of their fees, at most once an interval."""
        read_us = self._series_read_us
        if read_us is not None and now_us - read_us < int(self._config.series_refresh_s * 1e6):
            return
        quarantine = Quarantine(Venue.KALSHI, "GET /series", now_us)
        known: dict[str, catalog.Series] = {}
        for row in await self._rest.series():
            with quarantine.guard(row):
                one = catalog.series(row, quarantine)
                known[one.ticker] = one
        changes: dict[str, list[Mapping[str, Any]]] = {}
        try:
            change_rows = await self._rest.series_fee_changes()
        except VenueRefused:  # without the dated changes a fee is known from now on, and not for the past
            change_rows = []
            known = {ticker: one.fees_from(now_us) for ticker, one in known.items()}
        for row in change_rows:
            with quarantine.guard(row):
                change = as_object(row, "fee change")
                changes.setdefault(optional_text(change, "series_ticker"), []).append(change)
        for ticker, rows in changes.items():
            one_known = known.get(ticker)
            if one_known is None or not one_known.fees:
                continue
            fees: tuple[Any, ...] = ()
            with quarantine.guard(rows):
                fees = series_fee_changes(rows, one_known.fees[0])
            known[ticker] = catalog.Series(one_known.ticker, one_known.category, fees)
        self._series, self._series_read_us = known, now_us
        await discovery.put(quarantine)

    async def _push_events(
        self, discovery: DiscoveryPass, rows: Sequence[Any], kept: dict[str, Mapping[str, Any]]
    ) -> None:
        now_us = self._config.clock()
        quarantine = Quarantine(Venue.KALSHI, "GET /events", now_us)
        events: list[Event] = []
        markets: list[Market] = []
        for row in rows:
            with quarantine.guard(row):
                event_row = as_object(row, "event")
                nested = event_row.get("markets")
                of_event: list[Market] = []
                for market_row in [] if nested is None else as_list(nested, "markets"):
                    with quarantine.guard(market_row):
                        if not catalog.is_combination(as_object(market_row, "market")):
                            of_event.append(self._market(market_row, event_row, quarantine, now_us))
                events.append(catalog.event(event_row, [m.venue_market_id for m in of_event], quarantine))
                markets += of_event
                kept[events[-1].venue_event_id] = {k: v for k, v in event_row.items() if k != "markets"}
        await discovery.put(quarantine, CatalogPage(Venue.KALSHI, tuple(events), tuple(markets)))

    async def _push_settled(self, discovery: DiscoveryPass, rows: Sequence[Any]) -> None:
        now_us = self._config.clock()
        quarantine = Quarantine(Venue.KALSHI, "GET /markets", now_us)
        unknown = {
            row["event_ticker"] for row in rows if isinstance(row, dict) and isinstance(row.get("event_ticker"), str)
        } - self._events.keys()
        above = dict(self._events)
        for batch in _batches(sorted(unknown), self._config.tickers_per_request):
            for row in await self._rest.events(batch):
                if isinstance(row, dict) and isinstance(row.get("event_ticker"), str):
                    above[row["event_ticker"]] = row
        markets: list[Market] = []
        for row in rows:
            with quarantine.guard(row):
                event_row = above.get(optional_text(as_object(row, "market"), "event_ticker"))
                if not catalog.is_combination(row):
                    markets.append(self._market(row, event_row, quarantine, now_us))
        await discovery.put(quarantine, CatalogPage(Venue.KALSHI, (), tuple(markets)))

    def _market(self, row: object, event_row: Mapping[str, Any] | None, quarantine: Quarantine, now_us: int) -> Market:
        series = self._series.get(optional_text(event_row, "series_ticker")) if event_row else None
        return catalog.market(row, event_row, series, quarantine, now_us, self._config.balance_step_micros)


def _batches(values: Sequence[str], size: int) -> Sequence[Sequence[str]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
