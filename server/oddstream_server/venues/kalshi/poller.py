"""Kalshi by REST alone: quotes, trades and settlements of the markets that no socket brings."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from oddstream_server.application.ports import SettlementUpdate, VenueItem, VenueSink
from oddstream_server.domain.market import Market, MarketState, Settlement, Venue
from oddstream_server.domain.quote import FeedState, OrderBook, Quote, SourceKind, TickSource, Trade
from oddstream_server.venues.digests import signed_key
from oddstream_server.venues.feed_state import FeedMonitor
from oddstream_server.venues.http import VenueError, VenueRefused
from oddstream_server.venues.kalshi.config import KalshiConfig
from oddstream_server.venues.kalshi.prices import market_key
from oddstream_server.venues.kalshi.rest import KalshiRest
from oddstream_server.venues.kalshi.settlements import market_state, settlement_update
from oddstream_server.venues.kalshi.ticks import polled_quote, rest_book, trade
from oddstream_server.venues.rows import Quarantine, as_object, text
from oddstream_server.venues.seen import RecentlySeen

_BOOKS = TickSource(Venue.KALSHI, SourceKind.POLL, "GET /markets/orderbooks")
_QUOTES = TickSource(Venue.KALSHI, SourceKind.POLL, "GET /markets")
_NO_RIGHT = frozenset({401, 403})
_OVERLAP_US = 2_000_000
"""Trades are asked for from a little before the last poll: the venue stamps them before it shows them."""
_LONGEST_LOOK_BACK_US = 3_600_000_000
_TRADES_REMEMBERED = 100_000


Reader = Callable[[Sequence[Any]], Sequence[VenueItem]]


class KalshiPoller:
    """Polls until cancelled.

    :param streamed: the tickers whose books a socket brings at this moment; they are left out.
    :param lookups: tickers whose settlement is asked for; emptied here.
    """

    stream = "kalshi polling"

    def __init__(
        self,
        config: KalshiConfig,
        rest: KalshiRest,
        monitor: FeedMonitor,
        streamed: Callable[[], set[str]],
        lookups: set[str],
    ) -> None:
        self._config = config
        self._rest = rest
        self._monitor = monitor
        self._streamed = streamed
        self._lookups = lookups
        self._markets: dict[str, Market] = {}
        self._books: dict[str, OrderBook] = {}
        self._pushed: dict[str, tuple[object, int]] = {}  # ticker -> (content, when)
        self._told: dict[str, tuple[MarketState, Settlement | None]] = {}
        self._books_allowed = True
        self._epochs: dict[str, int] = {}  # of the tickers polled in the last round
        self._without_since_us: dict[str, int] = {}  # ticker -> since when no socket brings it
        self._trades_from_us: int | None = None  # where the trades that no socket brought begin
        self._trades_seen = RecentlySeen(_TRADES_REMEMBERED)

    def follow(self, markets: Sequence[Market]) -> None:
        self._markets = {market.venue_market_id: market for market in markets}
        for known in (self._books, self._pushed, self._told, self._epochs, self._without_since_us):
            for ticker in [t for t in known if t not in self._markets]:
                del known[ticker]

    def order_book(self, ticker: str) -> OrderBook | None:
        return self._books.get(ticker)

    async def run(self, sink: VenueSink) -> None:
        """Polls quotes and trades each interval, states each longer one; a venue that's away is waited for."""
        next_states_us = 0
        while True:
            started_us = self._config.clock()
            tickers = self._due(started_us)
            try:
                await self._poll_quotes(sink, tickers)
                if tickers or not self._without_since_us:  # once more when a socket took over, for the time between
                    await self._poll_trades(sink, started_us, going_on=bool(tickers))
                if started_us >= next_states_us or self._lookups:
                    await self._poll_states(sink)
                    next_states_us = started_us + int(self._config.status_interval_s * 1e6)
            except (VenueError, TimeoutError) as error:
                await self._away(sink, error, tickers)
            spent_s = (self._config.clock() - started_us) / 1e6
            await asyncio.sleep(max(self._config.poll_interval_s - spent_s, 0.05))

    def _due(self, now_us: int) -> Sequence[str]:
        """Tickers to poll: those that no socket has brought for longer than a reconnect takes."""
        without = self._markets.keys() - self._streamed()
        self._without_since_us = {ticker: self._without_since_us.get(ticker, now_us) for ticker in without}
        if without and self._trades_from_us is None:
            self._trades_from_us = now_us
        grace_us = int(self._config.polling_grace_s * 1e6) if self._config.has_key else 0
        return sorted(ticker for ticker, since in self._without_since_us.items() if now_us - since >= grace_us)

    async def _away(self, sink: VenueSink, error: Exception, tickers: Sequence[str]) -> None:
        self._books.clear()
        self._epochs.clear()
        if tickers:
            detail = f"REST gives no answer ({type(error).__name__})"
            for status in self._monitor.change(self.stream, FeedState.DOWN, self._config.clock(), detail):
                await sink.put(status)

    async def _take_over(self, sink: VenueSink, tickers: Sequence[str]) -> None:
        """Markets that weren't polled in the last round begin a new epoch; after an outage that is a gap."""
        new = [ticker for ticker in tickers if ticker not in self._epochs]
        for ticker in [t for t in self._epochs if t not in tickers]:
            del self._epochs[ticker]
            self._books.pop(ticker, None)
        if not new:
            return
        epoch = self._monitor.raise_epoch()
        for ticker in new:
            self._epochs[ticker] = epoch
            self._pushed.pop(ticker, None)
        if self._monitor.shown in (FeedState.DOWN, FeedState.STALE):
            ids = [market_key(ticker) for ticker in new]
            now_us = self._config.clock()
            for status in self._monitor.change(self.stream, FeedState.GAP, now_us, "polling takes over", ids):
                await sink.put(status)

    # --- quotes -----------------------------------------------------------------------------------------------------

    async def _poll_quotes(self, sink: VenueSink, tickers: Sequence[str]) -> None:
        if not tickers:
            self._epochs.clear()
            self._books.clear()
            await self._push(sink, self._monitor.drop(self.stream, self._config.clock()))
            return
        begun = False
        for batch in _batches(tickers, self._config.tickers_per_request):
            async with asyncio.timeout(self._config.poll_patience_s):
                read, rows = await self._read_batch(batch)
            self._monitor.received(self._config.clock())
            if not begun:
                begun = True
                await self._take_over(sink, tickers)
            # rows of markets that nobody follows any more are left out; rows that name none are quarantined
            known = {None, *self._epochs}
            await self._push(sink, read([row for row in rows if _ticker(row) in known]))
        for status in self._monitor.change(self.stream, FeedState.LIVE, self._config.clock()):
            await sink.put(status)

    async def _read_batch(self, batch: Sequence[str]) -> tuple[Reader, Sequence[Any]]:
        if self._books_allowed:
            try:
                return self._read_books, await self._rest.order_books(batch)
            except VenueRefused as refused:
                if refused.status not in _NO_RIGHT:
                    raise
                self._books_allowed = False  # this venue's books want a key; its quotes don't
        return self._read_quotes, await self._rest.markets(batch)

    def _read_books(self, rows: Sequence[Any]) -> Sequence[VenueItem]:
        now_us = self._config.clock()
        quarantine = Quarantine(Venue.KALSHI, _BOOKS.name, now_us)
        items: list[VenueItem] = []
        slot = self._slot(now_us)
        for row in rows:
            with quarantine.guard(row):
                ticker = text(as_object(row, "order book"), "ticker")
                self._books.pop(ticker, None)
                book = rest_book(row).order_book(market_key(ticker), self._epochs[ticker], now_us)
                self._books[ticker] = book
                if self._worth_pushing(ticker, book.top(_BOOKS, 0), now_us):
                    items.append(book.top(_BOOKS, signed_key(slot, book.bids, book.asks)))
        return [*items, *quarantine.rows]

    def _read_quotes(self, rows: Sequence[Any]) -> Sequence[VenueItem]:
        now_us = self._config.clock()
        quarantine = Quarantine(Venue.KALSHI, _QUOTES.name, now_us)
        items: list[VenueItem] = []
        for row in rows:
            with quarantine.guard(row):
                ticker = text(as_object(row, "market"), "ticker")
                if market_state(row) is MarketState.OPEN:
                    quote = polled_quote(row, _QUOTES, self._slot(now_us), now_us, self._epochs[ticker])
                    if self._worth_pushing(ticker, quote, now_us):
                        items.append(quote)
        return [*items, *quarantine.rows]

    def _slot(self, now_us: int) -> int:
        return now_us // int(self._config.poll_interval_s * 1e6)

    def _worth_pushing(self, ticker: str, quote: Quote, now_us: int) -> bool:
        """True where the top changed, or stood so long that its standing is news."""
        content = (
            quote.bid_price_micros,
            quote.bid_size_micros,
            quote.ask_price_micros,
            quote.ask_size_micros,
            quote.epoch,
        )
        last = self._pushed.get(ticker)
        if last is not None and last[0] == content and now_us - last[1] < int(self._config.unchanged_repeat_s * 1e6):
            return False
        self._pushed[ticker] = (content, now_us)
        return True

    # --- trades -----------------------------------------------------------------------------------------------------

    async def _poll_trades(self, sink: VenueSink, now_us: int, going_on: bool) -> None:
        if self._trades_from_us is None:
            return
        since_us = max(self._trades_from_us, now_us - _LONGEST_LOOK_BACK_US)
        new: list[Trade] = []
        quarantine = Quarantine(Venue.KALSHI, "GET /markets/trades", now_us)
        async for page in self._rest.trades(since_us - _OVERLAP_US):
            receive_time_us = self._config.clock()
            for row in page:
                with quarantine.guard(row):
                    printed = trade(row, receive_time_us)
                    ours = printed.market_id.removeprefix("kalshi:") in self._markets
                    # a page boundary moves while trades come in, so the same trade can be on two pages
                    if ours and self._trades_seen.add(printed.source_key) == 0:
                        new.append(printed)
        new.sort(key=lambda t: (t.venue_time_us or 0, t.source_key))
        received_us = self._config.clock()
        await self._push(sink, [replace(t, receive_time_us=received_us) for t in new])
        await self._push(sink, quarantine.rows)
        self._trades_from_us = now_us if going_on else None

    # --- states -----------------------------------------------------------------------------------------------------

    async def _poll_states(self, sink: VenueSink) -> None:
        asked = sorted(self._markets)
        self._lookups.clear()
        for batch in _batches(asked, self._config.tickers_per_request):
            rows = list(await self._rest.markets(batch))
            missing = set(batch) - {row.get("ticker") for row in rows if isinstance(row, dict)}
            if missing:
                rows += await self._rest.historical_markets(sorted(missing))
            await self._push(sink, self._read_states(rows))

    def _read_states(self, rows: Sequence[Any]) -> Sequence[VenueItem]:
        now_us = self._config.clock()
        quarantine = Quarantine(Venue.KALSHI, "GET /markets", now_us)
        items: list[VenueItem] = []
        for row in rows:
            with quarantine.guard(row):
                ticker = text(as_object(row, "market"), "ticker")
                update = settlement_update(row, now_us)
                if ticker in self._markets and self._is_news(ticker, update):
                    items.append(update)
        return [*items, *quarantine.rows]

    def _is_news(self, ticker: str, update: SettlementUpdate) -> bool:
        settled = update.settlement
        told = (update.state, None if settled is None else replace(settled, known_time_us=None))
        before = self._told.get(ticker)
        self._told[ticker] = told
        if before is None:
            market = self._markets[ticker]
            return market.state is not update.state or settled is not None
        return before != told

    @staticmethod
    async def _push(sink: VenueSink, items: Sequence[VenueItem]) -> None:
        for item in items:
            await sink.put(item)


def _batches(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _ticker(row: Any) -> str | None:
    """The row's ticker; None where it has none, as it should."""
    ticker = row.get("ticker") if isinstance(row, dict) else None
    return ticker if isinstance(ticker, str) else None
