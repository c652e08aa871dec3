"""Kalshi as a server: REST with cursors, WebSocket with signed handshakes."""

import base64
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from oddstream_server.domain.market import Event, Market, MarketState, Settlement
from oddstream_server.domain.money import MICROS
from tests.emulator.kalshi_rows import STATUS, event_row, market_row, orderbook, series_row, trade_row
from tests.emulator.kalshi_socket import BOOKS, PREFIX, KalshiSession
from tests.emulator.serving import Connection, Served
from tests.emulator.signatures import TestKey
from tests.emulator.stage import MirrorBook, Stage, StageItem
from tests.emulator.wire import iso

REST = "/trade-api/v2"
SOCKET = "/trade-api/ws/v2"
_QUERY_STATUS = {
    "unopened": "initialized",
    "open": "active",
    "paused": "inactive",
    "closed": "closed",
    "settled": "finalized",
}
Row = dict[str, Any]


class KalshiEmulator(Served):
    """Serves a stage in Kalshi's protocol.

    :param books_need_auth: order books answer 401 without a signature, as the specification says.
    :param cutoff_us: markets that settled before are in /historical only.
    """

    def __init__(
        self,
        stage: Stage,
        key: TestKey | None = None,
        *,
        books_need_auth: bool = False,
        ping_interval_s: float = 10.0,
        cutoff_us: int | None = None,
    ) -> None:
        super().__init__()
        self.stage = stage
        self.key = key
        self.sessions: list[KalshiSession] = []
        self.refused_handshakes: list[str] = []
        self.cutoff_us = cutoff_us
        self._books_need_auth = books_need_auth
        self._ping_interval_s = ping_interval_s
        stage.listen(self._show)
        routes: Sequence[tuple[str, Callable[[web.Request], Any]]] = (
            ("/exchange/status", self._exchange_status),
            ("/exchange/schedule", self._exchange_schedule),
            ("/series", self._series),
            ("/series/fee_changes", self._fee_changes),
            ("/series/{series}", self._one_series),
            ("/series/{series}/markets/{ticker}/candlesticks", self._candles),
            ("/events", self._events),
            ("/events/{event}", self._one_event),
            ("/markets", self._markets),
            ("/markets/trades", self._trades),
            ("/markets/orderbooks", self._orderbooks),
            ("/markets/{ticker}", self._one_market),
            ("/markets/{ticker}/orderbook", self._one_orderbook),
            ("/historical/cutoff", self._cutoff),
            ("/historical/markets", self._historical_markets),
            ("/historical/trades", self._trades),
        )
        for path, handler in routes:
            self.application.router.add_get(REST + path, handler)
        self.application.router.add_get(SOCKET, self._socket)

    @property
    def rest_url(self) -> str:
        return self.http + REST

    @property
    def ws_url(self) -> str:
        return self.ws + SOCKET

    async def play(self, span_us: int, stride_us: int = 1_000_000) -> None:
        """Advance the stage, and wait after each stride until the sockets took what happened."""
        end_us = self.stage.now_us + span_us
        while self.stage.now_us < end_us:
            self.stage.play(min(stride_us, end_us - self.stage.now_us))
            await self.drained()

    def lose_book_frames(self, count: int) -> None:
        """The next so many changes of books take their sequence numbers and are not sent."""
        for session in self.sessions:
            for subscription in session.subscriptions.values():
                if subscription.channel == BOOKS:
                    subscription.lose = count

    def _show(self, item: StageItem) -> None:
        for session in self.sessions:
            session.show(item)

    # --- WebSocket ----------------------------------------------------------------------------------------------------

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        self.handshakes += 1
        refusal = "no key" if self.key is None else self.key.refusal(request.headers, "GET", request.path)
        if refusal is not None:
            self.refused_handshakes.append(refusal)
            return _error(401, "authentication_error", refusal)
        socket = web.WebSocketResponse(autoping=True, compress=False)
        await socket.prepare(request)
        connection = Connection(socket, request, self._ping_interval_s)
        session = KalshiSession(self.stage, connection)
        self.connections.append(connection)
        self.sessions.append(session)
        try:
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT and not connection.half_open:
                    session.command(message.data)
        finally:
            self.sessions.remove(session)
            self.connections.remove(connection)
            await connection.close()
        return socket

    # --- REST ---------------------------------------------------------------------------------------------------------

    async def _exchange_status(self, request: web.Request) -> web.Response:
        return web.json_response({"exchange_active": True, "trading_active": True})

    async def _exchange_schedule(self, request: web.Request) -> web.Response:
        return web.json_response({"schedule": {"standard_hours": [], "maintenance_windows": []}})

    async def _series(self, request: web.Request) -> web.Response:
        return web.json_response({"series": list(self._all_series().values())})

    async def _one_series(self, request: web.Request) -> web.Response:
        row = self._all_series().get(request.match_info["series"])
        return _not_found() if row is None else web.json_response({"series": row})

    async def _fee_changes(self, request: web.Request) -> web.Response:
        return web.json_response({"series_fee_change_arr": []})

    async def _events(self, request: web.Request) -> web.Response:
        query = request.query
        wanted = query.get("status")
        tickers = set(filter(None, query.get("tickers", "").split(",")))
        nested = query.get("with_nested_markets") == "true"
        rows: list[Row] = []
        for event, markets in self._entries():
            if tickers and event.venue_event_id not in tickers:
                continue
            if query.get("series_ticker") not in (None, event.series_id):
                continue
            if wanted and not any(STATUS[m.state] == _QUERY_STATUS[wanted] for m in markets):
                continue
            row = event_row(event, self.stage.now_us)
            if nested:  # markets of events that are over come back empty
                over = all(m.state is MarketState.SETTLED for m in markets)
                row["markets"] = [] if over else [self._market_row(m) for m in markets]
            rows.append(row)
        return _page(request, "events", rows, most=200, usual=200)

    async def _one_event(self, request: web.Request) -> web.Response:
        for event, markets in self._entries():
            if event.venue_event_id == request.match_info["event"]:
                row, rows = event_row(event, self.stage.now_us), [self._market_row(m) for m in markets]
                if request.query.get("with_nested_markets") == "true":
                    return web.json_response({"event": {**row, "markets": rows}})
                return web.json_response({"event": row, "markets": rows})
        return _not_found()

    async def _markets(self, request: web.Request) -> web.Response:
        query = request.query
        families = [f for f in ("created", "updated", "close", "settled") if any(f"_{f}_ts" in key for key in query)]
        if len(families) > 1:
            return _error(400, "bad_request", "only one family of timestamps at a time")
        rows = [
            self._market_row(m) for _, markets in self._entries() for m in markets if self._wanted(m, query, live=True)
        ]
        return _page(request, "markets", rows, most=1000, usual=100)

    async def _historical_markets(self, request: web.Request) -> web.Response:
        rows = [
            self._market_row(m)
            for _, markets in self._entries()
            for m in markets
            if self._wanted(m, request.query, live=False)
        ]
        return _page(request, "markets", rows, most=1000, usual=100)

    async def _one_market(self, request: web.Request) -> web.Response:
        market = self.stage.world.market(PREFIX + request.match_info["ticker"])
        if market is None or self._is_historical(market):
            return _not_found()
        return web.json_response({"market": self._market_row(market)})

    async def _one_orderbook(self, request: web.Request) -> web.Response:
        if refusal := self._book_refusal(request):
            return refusal
        market = self.stage.world.market(PREFIX + request.match_info["ticker"])
        if market is None:
            return _not_found()
        return web.json_response({"orderbook_fp": orderbook(self.stage.book(market.market_id))})

    async def _orderbooks(self, request: web.Request) -> web.Response:
        if refusal := self._book_refusal(request):
            return refusal
        tickers = request.query.getall("tickers", [])
        if not 1 <= len(tickers) <= 100:
            return _error(400, "bad_request", "tickers must be 1 to 100")
        rows = [
            {"ticker": ticker, "orderbook_fp": orderbook(self.stage.book(PREFIX + ticker))}
            for ticker in tickers
            if self.stage.world.market(PREFIX + ticker) is not None
        ]
        return web.json_response({"orderbooks": rows})

    async def _trades(self, request: web.Request) -> web.Response:
        query = request.query
        low, high = int(query.get("min_ts", 0)) * MICROS, (int(query.get("max_ts", 2**40)) + 1) * MICROS
        ticker = query.get("ticker")
        rows = [
            trade_row(t)
            for t in reversed(self.stage.trades)
            if low <= t.time_us < high and ticker in (None, t.market_id.removeprefix(PREFIX))
        ]
        return _page(request, "trades", rows, most=1000, usual=100)

    async def _candles(self, request: web.Request) -> web.Response:
        interval = request.query.get("period_interval")
        if interval not in ("1", "60", "1440"):
            return _error(400, "bad_request", "period_interval must be 1, 60 or 1440")
        return web.json_response({"ticker": request.match_info["ticker"], "candlesticks": []})

    async def _cutoff(self, request: web.Request) -> web.Response:
        at = iso(self.cutoff_us or 0)
        return web.json_response({"market_settled_ts": at, "trades_created_ts": at, "orders_updated_ts": at})

    # --- what is where ------------------------------------------------------------------------------------------------

    def _entries(self) -> list[tuple[Event, tuple[Market, ...]]]:
        return self.stage.entries()

    def _all_series(self) -> dict[str, Row]:
        return {event.series_id: series_row(event, markets[0]) for event, markets in self._entries()}

    def _market_row(self, market: Market) -> Row:
        last = self.stage.last_prices.get(market.market_id)
        return market_row(market, self.stage.books.get(market.market_id, MirrorBook()), last, self.stage.now_us)

    def _is_historical(self, market: Market) -> bool:
        paid_us = _paid_us(market.settlement)
        return self.cutoff_us is not None and paid_us is not None and paid_us < self.cutoff_us

    def _wanted(self, market: Market, query: Any, live: bool) -> bool:
        if self._is_historical(market) is live:
            return False
        tickers = set(filter(None, query.get("tickers", "").split(",")))
        if tickers and market.venue_market_id not in tickers:
            return False
        if query.get("event_ticker") not in (None, (market.event_id or "").removeprefix(PREFIX)):
            return False
        if query.get("series_ticker") not in (None, market.series_id):
            return False
        if "status" in query and STATUS[market.state] != _QUERY_STATUS[query["status"]]:
            return False
        if "min_settled_ts" in query:
            paid_us = _paid_us(market.settlement)
            return paid_us is not None and paid_us >= int(query["min_settled_ts"]) * MICROS
        return True

    def _book_refusal(self, request: web.Request) -> web.Response | None:
        if not self._books_need_auth:
            return None
        refusal = "no key" if self.key is None else self.key.refusal(request.headers, "GET", request.path)
        return None if refusal is None else _error(401, "authentication_error", refusal)


def _paid_us(settlement: Settlement | None) -> int | None:
    return settlement.paid_time_us if settlement else None


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message, "service": "emulator"}}, status=status)


def _not_found() -> web.Response:
    return _error(404, "not_found", "not found")


def _page(request: web.Request, key: str, rows: Sequence[Row], most: int, usual: int) -> web.Response:
    """A page of rows and the opaque cursor of the next, empty on the last."""
    limit = int(request.query.get("limit", usual))
    if not 0 <= limit <= most:
        return _error(400, "bad_request", f"limit must be 0 to {most}")
    limit = limit or usual
    filters = sorted((k, v) for k, v in request.query.items() if k not in ("cursor", "limit"))
    start = 0
    if request.query.get("cursor"):
        try:
            start, asked = orjson.loads(base64.urlsafe_b64decode(request.query["cursor"]))
        except ValueError:
            return _error(400, "bad_request", "cursor is unknown")
        if asked != [list(pair) for pair in filters]:
            return _error(400, "bad_request", "the filters changed between pages")
    chosen = rows[start : start + limit]
    more = start + limit < len(rows)
    cursor = base64.urlsafe_b64encode(orjson.dumps([start + limit, filters])).decode() if more else ""
    return web.json_response({key: list(chosen), "cursor": cursor})
