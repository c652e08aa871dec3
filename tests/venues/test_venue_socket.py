"""One socket of a venue: connection, pings, the data watchdog, back-pressure."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from oddstream_server.application.ports import VenueItem
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import FeedState, FeedStatus
from oddstream_server.venues.feed_state import FeedMonitor
from oddstream_server.venues.socket import SocketConfig, VenueSocket
from tests.venues.running_venue import running_venue, until

_QUICK = SocketConfig(
    backoff_initial_s=0.01, backoff_maximum_s=0.05, quiet_flush_s=0.005, stale_after_s=30, close_timeout_s=0.2
)


def now_us() -> int:
    return time.time_ns() // 1_000


class EchoFeed:
    """Turns every frame into a GAP that names it, and sends what it is told to."""

    stream = "echo"

    def __init__(self) -> None:
        self.sessions: list[str] = []
        self.commands: list[str] = []
        self.received: list[str] = []
        self.follows = True
        self.broken = False

    def status(self, detail: str) -> FeedStatus:
        return FeedStatus(Venue.KALSHI, FeedState.GAP, None, 0, 0, detail)

    def opened(self, session: str, now_us: int) -> Sequence[VenueItem]:
        self.sessions.append(session)
        self.commands.append("hello")
        return []

    def receive(self, frame: str | bytes, now_us: int) -> Sequence[VenueItem]:
        if self.broken:
            raise ZeroDivisionError("a fault of ours")
        self.received.append(str(frame))
        return [self.status(str(frame))]

    def tick(self, now_us: int) -> Sequence[VenueItem]:
        return []

    def closed(self, now_us: int) -> Sequence[VenueItem]:
        return []

    def take_commands(self) -> Sequence[str]:
        taken, self.commands = self.commands, []
        return taken

    def wanted(self) -> bool:
        return self.follows

    def watched(self) -> bool:
        return self.follows

    def is_data(self, frame: str | bytes) -> bool:
        return frame != "ok"

    def opening_frames(self) -> int:
        return 1


class Sink:
    """Keeps items; blocks while told to."""

    def __init__(self) -> None:
        self.items: list[VenueItem] = []
        self.open = asyncio.Event()
        self.open.set()

    async def put(self, item: VenueItem) -> None:
        await self.open.wait()
        self.items.append(item)

    @property
    def states(self) -> list[FeedState]:
        return [item.state for item in self.items if isinstance(item, FeedStatus) and item.detail.startswith("echo")]


class Playing:
    """A socket that runs against a server whose side is a coroutine."""

    def __init__(self, feed: EchoFeed, sink: Sink, task: "asyncio.Task[None]") -> None:
        self.feed = feed
        self.sink = sink
        self.task = task


Side = Callable[[web.WebSocketResponse], Awaitable[None]]


@asynccontextmanager
async def playing(side: Side, config: SocketConfig = _QUICK, follows: bool = True) -> AsyncIterator[Playing]:
    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        with suppress(ConnectionError):
            await side(socket)
        return socket

    feed, sink = EchoFeed(), Sink()
    feed.follows = follows
    async with running_venue(serve) as address, aiohttp.ClientSession() as session:
        numbers = iter(range(100))
        socket = VenueSocket(
            f"ws://{address}/ws",
            lambda: session,
            feed,
            FeedMonitor(Venue.KALSHI, 0),
            config,
            now_us,
            new_session=lambda: f"session-{next(numbers)}",
        )
        task = asyncio.create_task(socket.run(sink))
        try:
            yield Playing(feed, sink, task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_frames_come_through_in_order_and_commands_go_out() -> None:
    heard: list[str] = []

    async def side(socket: web.WebSocketResponse) -> None:
        heard.append(await socket.receive_str())
        for n in range(100):
            await socket.send_str(f"frame {n}")
        heard.append(await socket.receive_str())
        await socket.receive()  # until the other side closes

    async with playing(side) as it:
        await until(lambda: len(it.sink.items) >= 100, "all frames came")
        it.feed.commands.append("later")
        await until(lambda: heard == ["hello", "later"], "the commands were heard")
    assert it.feed.received == [f"frame {n}" for n in range(100)]


async def test_a_lost_connection_is_told_and_comes_back_as_another_session() -> None:
    async def side(socket: web.WebSocketResponse) -> None:
        await socket.send_str("one")
        await socket.close()

    async with playing(side) as it:
        await until(lambda: len(it.feed.sessions) >= 3, "it reconnected twice")
    assert it.feed.sessions[:3] == ["session-0", "session-1", "session-2"]
    assert it.sink.states[0] is FeedState.DOWN


async def test_a_text_ping_goes_out_in_its_interval_and_its_answer_is_no_data() -> None:
    pings: list[str] = []

    async def side(socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.data == "PING":
                pings.append(message.data)
                await socket.send_str("PONG")

    config = replace(_QUICK, text_ping="PING", text_pong="PONG", ping_interval_s=0.02, stale_after_s=0.4)
    config = replace(config, stale_after_maximum_s=0.4)
    async with playing(side, config) as it:
        await until(lambda: FeedState.STALE in it.sink.states, "answered pings without data were found out")
        await until(lambda: len(it.feed.sessions) == 2, "it reconnected")
    assert len(pings) >= 3
    assert "PONG" not in it.feed.received
    assert FeedState.DOWN not in it.sink.states, "stale is what is told, until the new connection brings its books"


async def test_acknowledgements_are_no_data_for_the_watchdog() -> None:
    async def side(socket: web.WebSocketResponse) -> None:
        while not socket.closed:
            await socket.send_str("ok")
            await asyncio.sleep(0.01)

    config = replace(_QUICK, stale_after_s=0.2, stale_after_maximum_s=0.2)
    async with playing(side, config) as it:
        await until(lambda: FeedState.STALE in it.sink.states, "acknowledgements alone were found out")


async def test_a_sink_that_is_full_stops_the_reading_down_to_the_venues_socket() -> None:
    sent = 0

    async def side(socket: web.WebSocketResponse) -> None:
        nonlocal sent
        while not socket.closed:
            await socket.send_str("x" * 50_000)
            sent += 1

    config = replace(_QUICK, stale_after_s=0.3, stale_after_maximum_s=0.3)
    async with playing(side, config) as it:
        it.sink.open.clear()
        await until(lambda: sent > 0, "frames flow")
        stalled_at = -1
        while stalled_at != sent:  # the venue's side blocks once the buffers of the operating system are full
            stalled_at = sent
            await asyncio.sleep(0.3)
        assert len(it.feed.received) <= 2, "nothing is read ahead of the sink"
        assert len(it.feed.sessions) == 1
        it.sink.open.set()
        await until(lambda: sent > stalled_at + 50, "it flows again")
        assert FeedState.STALE not in it.sink.states, "the time we held the venue up is not its silence"
        assert len(it.feed.sessions) == 1


async def test_nothing_to_follow_needs_no_connection() -> None:
    async def side(socket: web.WebSocketResponse) -> None:
        await socket.receive()

    async with playing(side, follows=False) as it:
        await asyncio.sleep(0.2)
        assert it.feed.sessions == []
        it.feed.follows = True
        await until(lambda: it.feed.sessions == ["session-0"], "it connects once there is something")


async def test_a_refused_handshake_is_told_with_its_status_and_tried_again() -> None:
    tries = 0

    async def refuse(request: web.Request) -> web.Response:
        nonlocal tries
        tries += 1
        return web.Response(status=401, text="who are you")

    feed, sink = EchoFeed(), Sink()
    async with running_venue(refuse) as address, aiohttp.ClientSession() as session:
        socket = VenueSocket(
            f"ws://{address}/ws", lambda: session, feed, FeedMonitor(Venue.KALSHI, 0), _QUICK, now_us, lambda: "s"
        )
        task = asyncio.create_task(socket.run(sink))
        await until(lambda: tries >= 2, "it tried again")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    (status,) = [item for item in sink.items if isinstance(item, FeedStatus)]
    assert status.state is FeedState.DOWN
    assert "401" in status.detail
    assert "who are you" not in status.detail


async def test_a_fault_of_ours_is_raised_and_not_taken_for_the_venues() -> None:
    async def side(socket: web.WebSocketResponse) -> None:
        await socket.send_str("one")
        await socket.receive()

    async with playing(side) as it:
        it.feed.broken = True
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(it.task, 5)
