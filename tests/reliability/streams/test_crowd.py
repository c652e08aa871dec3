"""One bot beside others: a slow one that is cut, and one whose key is revoked."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

import oddstream
from oddstream.errors import from_rpc_error
from oddstream.v1 import signal_pb2, signal_service_pb2
from oddstream_server.storage.keys import ApiKeyStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from tests.reliability.streams.processes import drill, stage
from tests.reliability.streams.subscribers import Entry, Subscriber, complaints, read_log

pytestmark = pytest.mark.timeout(600)

FAST = 50
SLOW_AFTER_SECONDS = drill(5, 30)
CUT_SECONDS = 4 * SLOW_AFTER_SECONDS + 10
"""A bot that reads a third of what is written has, after half a span, more before it than it can read in a span; the
spans in which it is judged begin at any time; and what lies in the buffers of both ends it reads first."""
REVOKED_SECONDS = 5.0


@dataclass
class SlowBot:
    """Reads one message a second without the client library, so that each message and the end are seen as they come."""

    received: list[Entry] = field(default_factory=list)
    token: str = ""
    ended: oddstream.OddstreamError | None = None
    ended_after_s: float = 0.0

    async def follow(self, client: oddstream.AsyncClient, start: Any, pause_s: float, until: int = 2**62) -> None:
        began = time.monotonic()
        call: Any = client.signals.WatchSignals(signal_service_pb2.WatchSignalsRequest(start=start))
        try:
            while True:
                message: Any = await call.read()
                if message is grpc.aio.EOF:
                    return
                self.received += [Entry(e.sequence, e.signal.signal_id) for e in message.events]
                self.token = message.resume_token or self.token
                if message.through_sequence >= until:
                    return
                await asyncio.sleep(pause_s)
        except grpc.aio.AioRpcError as error:
            self.ended = from_rpc_error(error)
            self.ended_after_s = time.monotonic() - began
        finally:
            call.cancel()


async def slow_beside_fast(
    database_url: str, redis_url: str, at_least: int, patience_s: float, plant: str = ""
) -> list[str]:
    """Until the slow one was cut or, with a bug planted, had its time."""
    # A ring of a moment, so that the slow one is served from the log and not from memory.
    settings = {"slow_consumer_seconds": str(SLOW_AFTER_SECONDS), "signals_in_memory": "100"}
    async with stage(database_url, redis_url, settings) as here, contextlib.AsyncExitStack() as stack:
        server = await here.serve(plant=plant)
        start = await here.from_the_beginning()
        fast = [Subscriber(server.target, here.key, start) for _ in range(FAST)]
        writer = await here.write(secrets.randbits(32), 200.0)
        client = await stack.enter_async_context(oddstream.AsyncClient(server.target, api_key=here.key))
        slow = SlowBot()
        try:
            for bot in fast:
                bot.begin()
            await here.wait_for_head(200)
            following = asyncio.create_task(slow.follow(client, start, 1.0))
            await asyncio.wait([following], timeout=patience_s)
            following.cancel()
            await asyncio.wait([following])
            await here.wait_for_head(at_least)
            behind_s = [time.monotonic() - bot.last_message_s for bot in fast]
            await writer.stop()
            head = await here.head()
            await asyncio.gather(*(bot.reach(head) for bot in fast))
            again = SlowBot(list(slow.received))
            if slow.ended is not None:
                token = slow.ended.metadata.get("resume_token", "")
                assert token == slow.token, "the status names the place of the last message"
                await again.follow(client, oddstream.from_token(token), 0.0, until=head)
        finally:
            await asyncio.gather(*(bot.end() for bot in fast))
        log = await read_log(here.dsn)
    assert len(log) >= at_least
    found = [complaint for bot in fast for complaint in complaints(bot.received, log, bot.failure)]
    if any(bot.reconnects for bot in fast):
        found.append("a fast bot's stream broke")
    if max(behind_s) > 1:
        found.append("a fast bot stood still")
    if slow.ended is None:
        found.append("the slow bot was never cut")
    elif slow.ended.reason != "SLOW_CONSUMER":
        found.append(f"the slow bot ended with {slow.ended}")
    elif slow.ended_after_s > CUT_SECONDS:
        found.append(f"the slow bot was cut after {slow.ended_after_s:.1f} s only")
    found += [
        f"slow bot: {complaint}"
        for complaint in complaints(again.received, log if slow.ended else log[: len(again.received)])
    ]
    print(f"{len(log)} events; the slow one got {len(slow.received)} and was cut after {slow.ended_after_s:.1f} s")
    return found


async def test_a_slow_bot_is_cut_with_its_token_beside_fifty_fast_ones_and_goes_on_exactly(
    database_url: str, redis_url: str
) -> None:
    assert await slow_beside_fast(database_url, redis_url, 1_500, CUT_SECONDS + 30) == []


async def test_a_planted_jump_over_the_backlog_is_caught(database_url: str, redis_url: str) -> None:
    found: list[str] = []
    for patience_s in (8, 16, 32):  # how far a bot falls behind in a span is the machine's business
        found = await slow_beside_fast(database_url, redis_url, 1_000, patience_s, "skip_backlog")
        if any("lost" in complaint or "events are missing" in complaint for complaint in found):
            return
    raise AssertionError(found)


@contextlib.asynccontextmanager
async def two_bots_of_one_key(database_url: str, redis_url: str, plant: str = "") -> AsyncIterator[tuple[Any, ...]]:
    """A busy bot and an idle one, which hears of nothing but heartbeats."""
    async with stage(database_url, redis_url) as here, contextlib.AsyncExitStack() as stack:
        server = await here.serve(plant=plant)
        await here.write(1, 300.0)
        client = await stack.enter_async_context(oddstream.AsyncClient(server.target, api_key=here.key))
        idle: Any = client.signals.WatchSignals(
            signal_service_pb2.WatchSignalsRequest(
                filter=signal_pb2.SignalFilter(market_ids=["kalshi:NOBODY-TRADES-THIS"])
            )
        )
        busy: Any = client.signals.WatchSignals(signal_service_pb2.WatchSignalsRequest(start=oddstream.from_now()))
        for call in (idle, busy):
            assert (await call.read()).HasField("started")
        try:
            yield here, server, busy, idle
        finally:
            for call in (idle, busy):
                call.cancel()


async def ended_after(call: Any, seconds: float) -> tuple[float, str]:
    """How long a stream still lasts, and the reason of its end; empty where it outlasts the seconds."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            while await call.read() is not grpc.aio.EOF:
                pass
    except TimeoutError:
        return seconds, ""
    except grpc.aio.AioRpcError as error:
        return time.monotonic() - began, from_rpc_error(error).reason
    return time.monotonic() - began, "OK"


async def test_a_revoked_key_ends_its_streams_within_five_seconds_busy_or_idle(
    database_url: str, redis_url: str
) -> None:
    async with two_bots_of_one_key(database_url, redis_url) as (here, server, busy, idle):
        await here.wait_for_head(100)
        waiting = asyncio.gather(ended_after(busy, 10), ended_after(idle, 10))
        await asyncio.sleep(0)
        assert await ApiKeyStore(here.database).revoke(here.key_id, time.time_ns() // 1000)
        ends = await waiting
        with pytest.raises(oddstream.OddstreamError) as refused:
            async with oddstream.AsyncClient(server.target, api_key=here.key) as client:
                await client.signals.ListSignals(signal_service_pb2.ListSignalsRequest())
    print(ends)
    assert [reason for _, reason in ends] == ["CREDENTIAL_REVOKED"] * 2
    assert max(seconds for seconds, _ in ends) <= REVOKED_SECONDS
    assert refused.value.reason == "API_KEY_INVALID"


async def test_a_planted_key_that_is_never_looked_at_again_is_caught(database_url: str, redis_url: str) -> None:
    async with two_bots_of_one_key(database_url, redis_url, "never_recheck") as (here, _, busy, idle):
        assert await ApiKeyStore(here.database).revoke(here.key_id, time.time_ns() // 1000)
        ends = await asyncio.gather(ended_after(busy, REVOKED_SECONDS), ended_after(idle, REVOKED_SECONDS))
        assert (await SignalLogStore(here.database).bounds()).head_sequence > 0
    assert list(ends) == [(REVOKED_SECONDS, "")] * 2
