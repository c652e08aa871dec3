"""Recorded bodies and sessions, served as the venue served them."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from tests.emulator.serving import Served


class RecordedBodies(Served):
    """Answers each path with its recorded body; a path that has none is 404.

    :param bodies: URL path to body; a list of bodies is a chain of pages by the cursors ``1``, ``2``, …, which are put
        into the key ``cursor_key`` of all but the last.
    """

    def __init__(self, bodies: Mapping[str, Sequence[Any]], cursor_key: str, cursor_query: str) -> None:
        super().__init__()
        self._bodies = bodies
        self._cursor_key, self._cursor_query = cursor_key, cursor_query
        self.application.router.add_get("/{path:.*}", self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        pages = self._bodies.get(request.path)
        if pages is None:
            return web.json_response({"error": "not recorded"}, status=404)
        number = int(request.query.get(self._cursor_query) or 0)
        body = {k: v for k, v in pages[number].items() if k != self._cursor_key}
        last = number + 1 == len(pages)
        if not last or self._cursor_key == "cursor":
            body[self._cursor_key] = "" if last else str(number + 1)
        return web.json_response(body=orjson.dumps(body))


class RecordedKalshiSocket(Served):
    """Plays a recorded session of one ``orderbook_delta`` subscription, as fast as the client takes it.

    Frames go out as recorded. A ``get_snapshot`` is answered from the book that the frames have made so far; the
    numbers of the frames after it move up by one, so that a break in the recording stays one and no other comes.
    """

    def __init__(self, frames: Iterable[dict[str, Any]], tickers: Iterable[str]) -> None:
        super().__init__()
        self._frames = list(frames)
        self._tickers = set(tickers)
        self._books: dict[str, dict[tuple[str, str], Decimal]] = {}
        self._shift = 0
        self.snapshots_asked: list[str] = []
        self.sent = 0
        self.finished = asyncio.Event()
        self._asked = asyncio.Event()
        self._last_seq: int | None = None
        self.application.router.add_get("/trade-api/ws/v2", self._socket)

    @property
    def ws_url(self) -> str:
        return f"{self.ws}/trade-api/ws/v2"

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        wanted: set[str] = set()
        player: asyncio.Task[None] | None = None
        try:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                command = orjson.loads(message.data)
                parameters = command["params"]
                if parameters.get("action") == "get_snapshot":
                    for ticker in parameters["market_tickers"]:
                        self.snapshots_asked.append(ticker)
                    self._asked.set()
                elif "orderbook_delta" in parameters.get("channels", ()) or parameters.get("action") == "add_markets":
                    if "channels" in parameters:
                        await socket.send_json(_subscribed(command["id"], "orderbook_delta", 1))
                    wanted |= set(parameters["market_tickers"])
                else:
                    for channel in parameters.get("channels", ()):
                        await socket.send_json(_subscribed(command["id"], channel, 2 if channel == "trade" else 3))
                if player is None and wanted >= self._tickers:
                    player = asyncio.create_task(self._play(socket))
        finally:
            if player is not None:
                player.cancel()
                await asyncio.gather(player, return_exceptions=True)
        return socket

    async def _play(self, socket: web.WebSocketResponse) -> None:
        asked = 0
        for frame in self._frames:
            while asked < len(self.snapshots_asked):
                await socket.send_str(self._snapshot(self.snapshots_asked[asked]))
                asked += 1
            if frame.get("type") == "subscribed":
                continue
            self._apply(frame)
            seq = frame.get("seq")
            told = frame if seq is None else {**frame, "seq": seq + self._shift}
            await socket.send_str(orjson.dumps(told).decode())
            self.sent += 1
            self._last_seq = seq if seq is not None else self._last_seq
            if self.sent % 256 == 0:
                await asyncio.sleep(0)  # the client's commands are read in between
        self.finished.set()
        while True:
            self._asked.clear()
            for ticker in self.snapshots_asked[asked:]:
                await socket.send_str(self._snapshot(ticker))
                asked += 1
            await self._asked.wait()

    def _apply(self, frame: dict[str, Any]) -> None:
        message = frame.get("msg", {})
        if frame.get("type") == "orderbook_snapshot":
            self._books[message["market_ticker"]] = {
                (side, price): Decimal(size)
                for side in ("yes", "no")
                for price, size in message.get(f"{side}_dollars_fp", [])
            }
        elif frame.get("type") == "orderbook_delta":
            book = self._books[message["market_ticker"]]
            key = (message["side"], message["price_dollars"])
            book[key] = book.get(key, Decimal(0)) + Decimal(message["delta_fp"])

    def _snapshot(self, ticker: str) -> str:
        self._shift += 1
        message: dict[str, Any] = {"market_ticker": ticker, "market_id": ""}
        for side in ("yes", "no"):
            levels = [[p, f"{size:.2f}"] for (s, p), size in self._books[ticker].items() if s == side and size > 0]
            if levels:
                message[f"{side}_dollars_fp"] = sorted(levels, key=lambda level: Decimal(level[0]))
        frame = {
            "type": "orderbook_snapshot",
            "sid": 1,
            "seq": (self._last_seq or 0) + self._shift,
            "msg": message,
        }
        return orjson.dumps(frame).decode()


def _subscribed(command_id: int, channel: str, sid: int) -> dict[str, Any]:
    return {"id": command_id, "type": "subscribed", "msg": {"channel": channel, "sid": sid}}
