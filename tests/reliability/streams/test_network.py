"""Streams through a network that cuts connections and swallows them."""

import asyncio
import contextlib
import random
import secrets
import time

import pytest

from tests.reliability.fault_proxy import FaultProxy
from tests.reliability.streams.processes import Stage, drill, stage
from tests.reliability.streams.subscribers import Subscriber, complaints, read_log

pytestmark = pytest.mark.timeout(600)

SUBSCRIBERS = 4
NOTICED_SECONDS = 5.0


async def through_a_bad_network(
    database_url: str, redis_url: str, resets: int, black_holes: int, at_least: int, plant: str = ""
) -> tuple[list[str], list[float], list[float]]:
    """What the judge says, and how long clients and the server took to notice black holes, in seconds."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    by_client: list[float] = []
    by_server: list[float] = []
    async with stage(database_url, redis_url) as here, contextlib.AsyncExitStack() as stack:
        server = await here.serve(plant=plant)
        proxies = [await stack.enter_async_context(FaultProxy(server.port)) for _ in range(SUBSCRIBERS)]
        start = await here.from_the_beginning()
        bots = [Subscriber(proxy.target, here.key, start) for proxy in proxies]
        writer = await here.write(seed, 300.0)
        try:
            for bot in bots:
                bot.begin()
            await here.wait_for_head(50)
            await asyncio.gather(*(bot.reach(1) for bot in bots))
            while sum(p.resets for p in proxies) < resets:
                rng.choice(proxies).reset()
                await asyncio.sleep(rng.uniform(0, 0.1))
            await here.wait_for_head(at_least)
            for _ in range(black_holes // SUBSCRIBERS + bool(black_holes % SUBSCRIBERS)):
                head = await here.head()
                await asyncio.gather(*(bot.reach(head) for bot in bots))
                noticed = await swallow_all(here, bots, proxies)
                by_client += noticed[0]
                by_server += noticed[1]
            await writer.stop()
            head = await here.head()
            await asyncio.gather(*(bot.reach(head) for bot in bots))
        finally:
            await asyncio.gather(*(bot.end() for bot in bots))
        log = await read_log(here.dsn)
    found = [complaint for bot in bots for complaint in complaints(bot.received, log, bot.failure)]
    assert len(log) >= at_least
    print(f"{len(log)} events, {sum(p.resets for p in proxies)} resets")
    return found, by_client, by_server


async def swallow_all(
    here: Stage, bots: list[Subscriber], proxies: list[FaultProxy]
) -> tuple[list[float], list[float]]:
    """Make every open connection a black hole; answers how long each client and the server took to be rid of it."""
    began = time.monotonic()
    known = [len(bot.breaks) for bot in bots]
    holes = sum(proxy.swallow() for proxy in proxies)
    assert holes >= len(bots)
    by_client: dict[int, float] = {}
    by_server: list[float] = []
    while time.monotonic() < began + 1.3 * NOTICED_SECONDS and (len(by_client) < len(bots) or not by_server):
        for number, bot in enumerate(bots):
            if number not in by_client and len(bot.breaks) > known[number]:
                by_client[number] = bot.breaks[known[number]][0] - began
        # The server's side of a swallowed connection ends when the server gives it up: the proxy then sees it close.
        if not by_server and all(proxy.given_up for proxy in proxies):
            by_server.append(time.monotonic() - began)
        await asyncio.sleep(0.05)
    missing = [99.0] * (len(bots) - len(by_client))
    return [*by_client.values(), *missing], by_server or [99.0]


async def test_resets_lose_nothing_and_black_holes_are_seen_within_five_seconds_on_both_sides(
    database_url: str, redis_url: str
) -> None:
    found, by_client, by_server = await through_a_bad_network(database_url, redis_url, 100, drill(8, 12), 2_000)
    print(f"noticed by clients after {sorted(by_client)}, by the server after {sorted(by_server)} s")
    assert found == []
    assert len(by_client) >= 8
    assert max(by_client) <= NOTICED_SECONDS
    assert max(by_server) <= NOTICED_SECONDS


async def test_a_planted_resumption_one_too_far_is_caught(database_url: str, redis_url: str) -> None:
    found, _, _ = await through_a_bad_network(database_url, redis_url, 8, 0, 300, "resume_late")
    assert any("events are missing" in complaint for complaint in found), found


async def test_a_planted_server_that_never_pings_is_caught(database_url: str, redis_url: str) -> None:
    found, _, by_server = await through_a_bad_network(database_url, redis_url, 0, 4, 300, "never_ping")
    assert found == []
    assert max(by_server) > NOTICED_SECONDS
