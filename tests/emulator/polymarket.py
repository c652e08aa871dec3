"""Polymarket as a server: Gamma, CLOB and Data API on one port, and the market channel's WebSocket."""

import base64
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from oddstream_server.domain.market import Event, Market, MarketState, SettlementState
from oddstream_server.domain.money import MICROS
from oddstream_server.venues.simulated.world import Listed, Printed, Resolved
from tests.emulator import polymarket_rows as rows
from tests.emulator.serving import Connection, Served
from tests.emulator.stage import BookMoved, MirrorBook, Stage, StageItem
from tests.emulator.wire import shortest

SOCKET = "/ws/market"
Row = dict[str, Any]


class _Client:
    """One socket of the market channel."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.tokens: set[str] = set()
        self.custom_feature = False
        self.lose = 0


class PolymarketEmulator(Served):
    """Serves a stage in Polymarket's protocols."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.clients: list[_Client] = []
        self.text_pings = 0
        self._tokens: dict[str, tuple[str, int]] = {}
        self._conditions: dict[str, str] = {}
        for event, markets in stage.entries():
            self._learn(event, markets)
        stage.listen(self._show)
        routes: Sequence[tuple[str, Callable[[web.Request], Any]]] = (
            ("/gamma/events/keyset", self._events),
            ("/gamma/markets/keyset", self._markets),
            ("/clob/book", self._book),
            ("/clob/markets/{condition}", self._clob_market),
            ("/clob/tick-size", self._tick_size),
            ("/data/v2/trades", self._trades),
            ("/data/v2/resolutions", self._resolutions),
        )
        for path, handler in routes:
            self.application.router.add_get(path, handler)
        self.application.router.add_post("/clob/books", self._books)
        self.application.router.add_get(SOCKET, self._socket)

    @property
    def gamma_url(self) -> str:
        return f"{self.http}/gamma"

    @property
    def clob_url(self) -> str:
        return f"{self.http}/clob"

    @property
    def data_url(self) -> str:
        return f"{self.http}/data"

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
        """The next so many changes of books are not sent to the present clients."""
        for client in self.clients:
            client.lose = count

    def _learn(self, event: Event, markets: Sequence[Market]) -> None:
        for market in markets:
            self._conditions[rows.condition_id(market.market_id)] = market.market_id
            for outcome in market.outcomes:
                self._tokens[rows.token_id(market.market_id, outcome.index)] = (market.market_id, outcome.index)

    # --- WebSocket ----------------------------------------------------------------------------------------------------

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        self.handshakes += 1
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        client = _Client(Connection(socket, request))
        self.connections.append(client.connection)
        self.clients.append(client)
        try:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                if message.data == "PING":
                    self.text_pings += 1
                    await socket.send_str("PONG")
                elif not client.connection.half_open:
                    self._command(client, message.data)
        finally:
            self.connections.remove(client.connection)
            self.clients.remove(client)
            await client.connection.close()
        return socket

    def _command(self, client: _Client, frame: str) -> None:
        try:
            command = orjson.loads(frame)
        except orjson.JSONDecodeError:
            client.connection.put("INVALID OPERATION")
            return
        tokens = [token for token in command.get("assets_ids", []) if token in self._tokens]
        if command.get("operation") == "unsubscribe":
            client.tokens.difference_update(tokens)
            return
        client.tokens.update(tokens)
        if command.get("type") == "market":
            client.custom_feature = bool(command.get("custom_feature_enabled"))
        self._send(client, [self._book_message(token) for token in tokens])

    def _book_message(self, token: str) -> Row:
        market_id, outcome = self._tokens[token]
        market = self._known(market_id)
        body = rows.book_body(market, self.stage.book(market_id), outcome, self.stage.now_us)
        return {"event_type": "book", **body}

    def _show(self, item: StageItem) -> None:
        if isinstance(item, Listed):
            self._learn(item.event, item.markets)
        for client in self.clients:
            self._show_to(client, item)

    def _show_to(self, client: _Client, item: StageItem) -> None:
        if isinstance(item, BookMoved):
            if rows.token_id(item.market_id, 0) in client.tokens:
                if client.lose:
                    client.lose -= 1
                else:
                    self._send(client, self._price_change(item))
        elif isinstance(item, Printed):
            outcome, _ = rows.taker(item)
            if rows.token_id(item.market_id, outcome) in client.tokens:
                self._send(client, rows.trade_message(item))
        elif isinstance(item, Resolved) and client.custom_feature:
            settled = item.update.settlement
            if settled is None or settled.state is SettlementState.PROVISIONAL or settled.void:
                return
            winner = 0 if settled.yes_payout_micros == MICROS else 1
            market = self._known(item.update.market_id)
            if rows.token_id(market.market_id, 0) in client.tokens:
                self._send(
                    client,
                    {
                        **self._about(market),
                        "event_type": "market_resolved",
                        "winning_asset_id": rows.token_id(market.market_id, winner),
                        "winning_outcome": market.outcomes[winner].label,
                        "timestamp": str(item.time_us // 1_000),
                    },
                )
        elif isinstance(item, Listed) and client.custom_feature:
            for market in item.markets:
                about = self._about(market)
                self._send(client, {**about, "event_type": "new_market", "timestamp": str(item.time_us // 1_000)})

    def _about(self, market: Market) -> Row:
        return {
            "id": rows.gamma_id(market.market_id),
            "market": rows.condition_id(market.market_id),
            "question": market.title,
            "slug": rows.slug(market.market_id),
            "description": market.rules_text,
            "assets_ids": [rows.token_id(market.market_id, o.index) for o in market.outcomes],
            "outcomes": [o.label for o in market.outcomes],
            "event_message": {"id": rows.gamma_id(market.event_id or ""), "slug": rows.slug(market.event_id or "")},
        }

    def _price_change(self, item: BookMoved) -> Row:
        """One message with the changes as both tokens see them."""
        book = self.stage.book(item.market_id)
        bid, ask = book.best_bid or 0, MICROS if book.best_ask is None else book.best_ask
        changes = []
        for move in item.moves:
            for outcome in (0, 1):
                own = move.price_micros if outcome == 0 else MICROS - move.price_micros
                best = (bid, ask) if outcome == 0 else (MICROS - ask, MICROS - bid)
                changes.append(
                    {
                        "asset_id": rows.token_id(item.market_id, outcome),
                        "price": shortest(own),
                        "size": shortest(move.after_micros),
                        "side": "BUY" if move.bid is (outcome == 0) else "SELL",
                        "hash": f"{item.time_us + own:040x}",
                        "best_bid": shortest(best[0]),
                        "best_ask": shortest(best[1]),
                    }
                )
        return {
            "event_type": "price_change",
            "market": rows.condition_id(item.market_id),
            "timestamp": str(item.time_us // 1_000),
            "price_changes": changes,
        }

    def _send(self, client: _Client, message: Any) -> None:
        client.connection.put(orjson.dumps(message).decode())

    # --- Gamma --------------------------------------------------------------------------------------------------------

    async def _events(self, request: web.Request) -> web.Response:
        closed = request.query.get("closed", "false") == "true"
        found = []
        for event, markets in self.stage.entries():
            over = all(rows.is_closed(m) for m in markets)
            if over is closed:
                market_rows = [self._market_row(m, event) for m in markets]
                found.append(rows.event_row(event, market_rows, over, self.stage.now_us))
        return _keyset(request, "events", found, most=500)

    async def _markets(self, request: web.Request) -> web.Response:
        query = request.query
        closed = query.get("closed", "false") == "true"
        conditions = set(query.getall("condition_ids", []))
        if len(conditions) > 100:
            return web.json_response({"error": "too many condition_ids"}, status=422)
        if "offset" in query or "cursor" in query:
            return web.json_response({"error": "use after_cursor"}, status=422)
        found = []
        for event, markets in self.stage.entries():
            for market in markets:
                if rows.is_closed(market) is closed and (
                    not conditions or rows.condition_id(market.market_id) in conditions
                ):
                    row = self._market_row(market, event)
                    parent = rows.event_row(event, [], closed, self.stage.now_us)
                    del parent["markets"]
                    found.append({**row, "events": [parent]})
        return _keyset(request, "markets", found, most=100)

    def _market_row(self, market: Market, event: Event) -> Row:
        book = self.stage.books.get(market.market_id, MirrorBook())
        return rows.market_row(market, event, book, self.stage.last_prices.get(market.market_id), self.stage.now_us)

    def _known(self, market_id: str) -> Market:
        market = self.stage.world.market(market_id)
        if market is None:
            raise LookupError(f"{market_id} is not on the stage any more")
        return market

    # --- CLOB ---------------------------------------------------------------------------------------------------------

    async def _book(self, request: web.Request) -> web.Response:
        body = self._book_of(request.query.get("token_id", ""))
        if body is None:
            return web.json_response({"error": "No orderbook exists for the requested token id"}, status=404)
        return web.json_response(body)

    async def _books(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        if len(wanted) > 500:
            return web.json_response({"error": "Payload exceeds the limit"}, status=400)
        bodies = [self._book_of(row.get("token_id", "")) for row in wanted]
        return web.json_response([body for body in bodies if body is not None])

    def _book_of(self, token: str) -> Row | None:
        market_id, outcome = self._tokens.get(token, ("", 0))
        market = self.stage.world.market(market_id)
        if market is None or market.state is not MarketState.OPEN:
            return None
        return rows.book_body(market, self.stage.book(market_id), outcome, self.stage.now_us)

    async def _clob_market(self, request: web.Request) -> web.Response:
        market_id = self._conditions.get(request.match_info["condition"], "")
        market = self.stage.world.market(market_id)
        if market is None:
            return web.json_response({"error": "market not found"}, status=404)
        closed = rows.is_closed(market)
        paid = rows.payouts(market)
        tokens = [
            {
                "token_id": rows.token_id(market_id, o.index),
                "outcome": o.label,
                "price": float(paid[o.index]) if closed else 0.5,
                "winner": closed and paid[o.index] == "1",
            }
            for o in market.outcomes
        ]
        return web.json_response(
            {
                "condition_id": rows.condition_id(market_id),
                "question": market.title,
                "market_slug": rows.slug(market_id),
                "active": True,
                "closed": closed,
                "archived": False,
                "accepting_orders": market.state is MarketState.OPEN,
                "minimum_order_size": 5,
                "minimum_tick_size": min(r.tick_micros for r in market.price_ranges) / MICROS,
                "neg_risk": False,
                "is_50_50_outcome": closed and paid[0] == "0.5",
                "maker_base_fee": 0,
                "taker_base_fee": 0,
                "tokens": tokens,
            }
        )

    async def _tick_size(self, request: web.Request) -> web.Response:
        market_id, _ = self._tokens.get(request.query.get("token_id", ""), ("", 0))
        market = self.stage.world.market(market_id)
        if market is None:
            return web.json_response({"error": "market not found"}, status=404)
        return web.json_response({"minimum_tick_size": min(r.tick_micros for r in market.price_ranges) / MICROS})

    # --- Data API -----------------------------------------------------------------------------------------------------

    async def _trades(self, request: web.Request) -> web.Response:
        query = request.query
        market_id = self._conditions.get(query.get("condition_id", ""))
        if market_id is None:
            return web.json_response({"error": "unknown condition_id"}, status=400)
        low, high = int(query.get("start", 0)) * MICROS, (int(query.get("end", 2**40)) + 1) * MICROS
        market = self._known(market_id)
        event = next(e for e, _ in self.stage.entries() if e.event_id == market.event_id)
        found = [
            rows.trade_row(t, market, event)
            for t in reversed(self.stage.trades)
            if t.market_id == market_id and low <= t.time_us < high
        ]
        limit = int(query.get("limit", 100))
        start = int(base64.b64decode(query["cursor"])) if query.get("cursor") else 0
        more = start + limit < len(found)
        pagination: Row = {"has_more": more}
        if more:
            pagination["next_cursor"] = base64.b64encode(str(start + limit).encode()).decode()
        return web.json_response({"data": found[start : start + limit], "pagination": pagination})

    async def _resolutions(self, request: web.Request) -> web.Response:
        market_id = self._conditions.get(request.query.get("condition_id", ""), "")
        market = self.stage.world.market(market_id)
        found = [] if market is None else [rows.resolution_row(market)]
        return web.json_response({"data": found, "pagination": {"has_more": False}})


def _keyset(request: web.Request, key: str, found: list[Row], most: int) -> web.Response:
    """A page; ``next_cursor`` is absent on the last one."""
    limit = int(request.query.get("limit", 20))
    if not 1 <= limit <= most:
        return web.json_response({"error": f"limit must be 1 to {most}"}, status=422)
    start = 0
    if cursor := request.query.get("after_cursor"):
        try:
            start = int(base64.urlsafe_b64decode(cursor))
        except ValueError:
            return web.json_response({"error": "invalid cursor"}, status=422)
    body: Row = {key: found[start : start + limit]}
    if start + limit < len(found):
        body["next_cursor"] = base64.urlsafe_b64encode(str(start + limit).encode()).decode()
    return web.json_response(body)
