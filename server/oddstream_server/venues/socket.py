"""One WebSocket of a venue: connects, pings, watches the data, reconnects; what frames mean is its feed's."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import aiohttp

from oddstream_server.application.ports import Clock, VenueItem, VenueSink
from oddstream_server.domain.quote import FeedState
from oddstream_server.venues.feed_state import FeedMonitor, Watchdog


@dataclass(frozen=True, slots=True)
class SocketConfig:
    """How a venue's socket is kept."""

    connect_timeout_s: float = 10.0
    close_timeout_s: float = 1.0
    text_ping: str = ""
    """Sent as a text each ``ping_interval_s`` where the venue asks for it; control pings are answered anyway."""
    text_pong: str = ""
    ping_interval_s: float = 10.0
    stale_after_s: float = 20.0
    """Silence that is never called stale before; the bound grows with the usual gap between data."""
    stale_after_maximum_s: float = 300.0
    """Silence that is always called stale after."""
    quiet_flush_s: float = 0.025
    """A venue timestamp counts as whole after so much silence of its market."""
    crossed_wait_s: float = 0.5
    """For that much longer if the book would look crossed: the rest of the timestamp is on its way."""
    resnapshot_wait_s: float = 15.0
    """After a gap the feed is LIVE again when all books came, or after this."""
    backoff_initial_s: float = 0.5
    backoff_maximum_s: float = 30.0
    frame_limit_bytes: int = 64 * 1024 * 1024


class SocketFeed(Protocol):
    """A venue's protocol on one connection, without I/O: frames in, items and commands out."""

    stream: str
    """The connection's name for the operator."""

    def opened(self, session: str, now_us: int) -> Sequence[VenueItem]:
        """A connection with a new random name is up; what was known of the last one is void."""
        ...

    def receive(self, frame: str | bytes, now_us: int) -> Sequence[VenueItem]: ...

    def tick(self, now_us: int) -> Sequence[VenueItem]:
        """Called every few milliseconds: shows timestamps that have become whole by silence, repeats commands."""
        ...

    def closed(self, now_us: int) -> Sequence[VenueItem]: ...

    def take_commands(self) -> Sequence[str]:
        """Texts to send now, each once."""
        ...

    def wanted(self) -> bool:
        """False while there is nothing to follow, so that no socket is needed."""
        ...

    def watched(self) -> bool:
        """True while the connection ought to bring data."""
        ...

    def is_data(self, frame: str | bytes) -> bool:
        """False for frames that say nothing of a market (acknowledgements)."""
        ...

    def opening_frames(self) -> int:
        """Data frames that every fresh connection brings by itself."""
        ...


class VenueSocket:
    """Keeps one feed connected until cancelled."""

    def __init__(
        self,
        url: str,
        session: Callable[[], aiohttp.ClientSession],
        feed: SocketFeed,
        monitor: FeedMonitor,
        config: SocketConfig,
        clock: Clock,
        new_session: Callable[[], str],
        headers: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        self._url = url
        self._session = session
        self._feed = feed
        self._monitor = monitor
        self._config = config
        self._clock = clock
        self._new_session = new_session
        self._headers = headers
        self._order = asyncio.Lock()  # items leave in the order in which the feed made them
        self._watchdog = Watchdog(int(config.stale_after_s * 1_000_000), int(config.stale_after_maximum_s * 1_000_000))
        self._brought_data = False
        self._found_stale = False

    async def run(self, sink: VenueSink) -> None:
        """Connect, follow, reconnect; ends only by cancellation."""
        failures = 0
        while True:
            if not self._feed.wanted():
                for status in self._monitor.drop(self._feed.stream, self._clock()):
                    await sink.put(status)
                await asyncio.sleep(0.05)
                continue
            self._brought_data = self._found_stale = False
            detail = await self._connection(sink)
            now_us = self._clock()
            for item in self._feed.closed(now_us):
                await sink.put(item)
            failures = 0 if self._brought_data else failures + 1
            if not self._found_stale:  # STALE stays shown until the new connection brings its books
                for status in self._monitor.change(self._feed.stream, FeedState.DOWN, now_us, detail):
                    await sink.put(status)
            await asyncio.sleep(self._wait_s(failures))

    def _wait_s(self, failures: int) -> float:
        ceiling: float = min(self._config.backoff_maximum_s, self._config.backoff_initial_s * 2.0 ** min(failures, 16))
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads reconnects, guards nothing

    async def _connection(self, sink: VenueSink) -> str:
        """One connection from its handshake to its end; answers why it ended, in our words."""
        config = self._config
        try:
            async with asyncio.timeout(config.connect_timeout_s):
                socket = await self._session().ws_connect(
                    self._url,
                    headers=dict(self._headers()) if self._headers else None,
                    timeout=aiohttp.ClientWSTimeout(ws_close=config.close_timeout_s),
                    max_msg_size=config.frame_limit_bytes,
                )
        except aiohttp.WSServerHandshakeError as error:
            return f"the handshake was answered with {error.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"no connection ({type(error).__name__})"
        try:
            now_us = self._clock()
            self._watchdog.begin(now_us)
            await self._push(sink, self._feed.opened(self._new_session(), now_us))
            tender = asyncio.create_task(self._tend(socket, sink))
            try:
                return await self._read(socket, sink)
            finally:
                tender.cancel()
                (ending,) = await asyncio.gather(tender, return_exceptions=True)
                if isinstance(ending, Exception):  # a fault of ours: never hidden behind the connection's end
                    raise ending
        except (aiohttp.ClientError, ConnectionError) as error:
            return f"the connection broke ({type(error).__name__})"
        finally:
            await socket.close()

    async def _read(self, socket: aiohttp.ClientWebSocketResponse, sink: VenueSink) -> str:
        feed, pong = self._feed, self._config.text_pong
        while True:
            message = await socket.receive()
            if message.type is aiohttp.WSMsgType.TEXT or message.type is aiohttp.WSMsgType.BINARY:
                frame: str | bytes = message.data
                if pong and frame == pong:
                    continue
                async with self._order:
                    now_us = self._clock()
                    if feed.is_data(frame):
                        self._brought_data = True
                        self._watchdog.received(now_us)
                        self._monitor.received(now_us)
                    items = feed.receive(frame, now_us)
                    for item in items:
                        await sink.put(item)
                    if items:
                        self._watchdog.excuse(self._clock() - now_us)
                await self._send_commands(socket)
            elif self._found_stale:
                return "no data within the bound"
            else:
                return f"the connection was closed ({socket.close_code})"

    async def _tend(self, socket: aiohttp.ClientWebSocketResponse, sink: VenueSink) -> None:
        """Everything that happens by the clock: pings, whole timestamps, commands, the watchdog."""
        config = self._config
        next_ping = time.monotonic() + config.ping_interval_s
        try:
            while not socket.closed:
                async with self._order:
                    now_us = self._clock()
                    stale = self._feed.watched() and self._watchdog.stale(now_us)
                    if not self._feed.watched():
                        self._watchdog.begin(now_us)
                    for item in self._feed.tick(now_us):
                        await sink.put(item)
                if stale:
                    await self._give_up(socket, sink)
                    return
                await self._send_commands(socket)
                if config.text_ping and time.monotonic() >= next_ping:
                    next_ping = time.monotonic() + config.ping_interval_s
                    await socket.send_str(config.text_ping)
                await asyncio.sleep(config.quiet_flush_s)
        except (aiohttp.ClientError, ConnectionError):
            await socket.close()  # the reader learns of it and ends the connection
        except Exception:
            await socket.close()
            raise

    async def _give_up(self, socket: aiohttp.ClientWebSocketResponse, sink: VenueSink) -> None:
        now_us = self._clock()
        self._found_stale = True
        detail = f"connected, but no data for more than {self._watchdog.bound_us / 1_000_000:.1f} s"
        self._watchdog.barked(self._feed.opening_frames())
        for status in self._monitor.change(self._feed.stream, FeedState.STALE, now_us, detail):
            await sink.put(status)
        await socket.close()

    async def _send_commands(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        for command in self._feed.take_commands():
            await socket.send_str(command)

    async def _push(self, sink: VenueSink, items: Sequence[VenueItem]) -> None:
        async with self._order:
            for item in items:
                await sink.put(item)
