"""Polymarket's live-data socket: Chainlink's prices by topic, with the venue's ways of saying nothing."""

from typing import Any

import aiohttp
import orjson
from aiohttp import web

from tests.emulator.serving import Connection, Served

WINDOWS = {"crypto_prices_twap_thirty": 30, "crypto_prices_twap_sixty": 60}


class _Client:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.topics: set[str] = set()


class PolymarketPrices(Served):
    """Sends what it is told to whoever subscribed to the topic."""

    def __init__(self) -> None:
        super().__init__()
        self.clients: list[_Client] = []
        self.commands: list[dict[str, Any]] = []
        self.text_pings = 0
        self.muted: set[str] = set()
        """Topics of which subscriptions are taken and forgotten."""
        self.application.router.add_get("/", self._socket)

    @property
    def topics(self) -> set[str]:
        """What the present clients are subscribed to."""
        return {topic for client in self.clients for topic in client.topics}

    def tell(self, topic: str, time_us: int, accurate: int, symbol: str = "btc/usd", **payload: Any) -> None:
        """A price in 10^-18 USD; fields of the payload may be replaced, and left out by None."""
        body: dict[str, Any] = {
            "symbol": symbol,
            "timestamp": time_us // 1_000,
            "value": accurate / 10**18,
            "full_accuracy_value": str(accurate),
        }
        if topic in WINDOWS:
            body["window_s"] = WINDOWS[topic]
        body = {name: value for name, value in (body | payload).items() if value is not None}
        self._send(topic, {"topic": topic, "type": "update", "timestamp": time_us // 1_000 + 900, "payload": body})

    def say(self, frame: str) -> None:
        """A frame as it is, to every client."""
        for client in self.clients:
            client.connection.put(frame)

    def _send(self, topic: str, message: dict[str, Any]) -> None:
        for client in self.clients:
            if topic in client.topics:
                client.connection.put(orjson.dumps({"connection_id": "c", **message}).decode())

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
                    self._command(client, orjson.loads(message.data))
        finally:
            self.connections.remove(client.connection)
            self.clients.remove(client)
            await client.connection.close()
        return socket

    def _command(self, client: _Client, command: dict[str, Any]) -> None:
        self.commands.append(command)
        topics = {subscription["topic"] for subscription in command["subscriptions"]}
        if command["action"] == "unsubscribe":
            client.topics -= topics
            return
        client.topics |= topics - self.muted
        self.muted -= topics
        client.connection.put("")
        for topic in sorted(topics):  # the last minutes come under another topic, without the digits and the window
            data = [{"timestamp": 1_780_000_000_000, "value": 1.5}]
            last = {"topic": "crypto_prices", "type": "subscribe", "payload": {"symbol": "btc/usd", "data": data}}
            client.connection.put(orjson.dumps({**last, "timestamp": 1_780_000_000_001, "about": topic}).decode())
