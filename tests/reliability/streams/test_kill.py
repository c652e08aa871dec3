"""kill -9 of the server, again and again, while bots stream and six connections write with stale and true epochs."""

import asyncio
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.reliability.streams.processes import drill, stage
from tests.reliability.streams.subscribers import Subscriber, complaints, complaints_about_writes, read_log

pytestmark = pytest.mark.timeout(1_500)

SUBSCRIBERS = 8
EVENTS_PER_S = 1_200.0


@dataclass
class Outcome:
    events: int
    written: dict[str, Any]
    reconnects: Sequence[int]
    complaints: list[str]


async def storm(
    database_url: str, redis_url: str, kills: int, at_least: int, plant: str = "", writer_plant: str = ""
) -> Outcome:
    """Kill the server while everybody works; then let everybody finish, and judge."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    async with stage(database_url, redis_url) as here:
        server = await here.serve(plant=plant)
        start = await here.from_the_beginning()
        bots = [Subscriber(server.target, here.key, start) for _ in range(SUBSCRIBERS)]
        writer = await here.write(seed, EVENTS_PER_S, writer_plant)
        try:
            for bot in bots:
                bot.begin()
            for _ in range(kills):
                await asyncio.sleep(rng.uniform(0.2, 0.9))
                server.kill()
                await server.start()
            await here.wait_for_head(at_least, 120)
            written = await writer.stop()
            head = await here.head()
            await asyncio.gather(*(bot.reach(head, 90) for bot in bots))
            assert server.alive()
        finally:
            await asyncio.gather(*(bot.end() for bot in bots))
        log = await read_log(here.dsn)
    found = complaints_about_writes(written, log)
    for bot in bots:
        found += complaints(bot.received, log, bot.failure)
    del written["acknowledged"]
    outcome = Outcome(len(log), written, [bot.reconnects for bot in bots], found)
    print(outcome)
    return outcome


async def test_nothing_is_lost_or_doubled_over_kill_9_while_leaders_change(database_url: str, redis_url: str) -> None:
    kills = drill(8, 50)
    outcome = await storm(database_url, redis_url, kills, at_least=10_000)
    assert outcome.complaints == []
    assert outcome.events >= 10_000, "too little traffic to say anything"
    assert outcome.written["leaders"] >= 5
    assert outcome.written["fenced"] >= 50, "stale epochs were hardly tried"
    assert all(n >= kills // 2 for n in outcome.reconnects), outcome.reconnects


@pytest.mark.parametrize(
    ("plant", "writer_plant", "events", "seen"),
    [
        ("drop", "", 300, "lost"),
        ("repeat", "", 300, "out of order"),
        ("swap", "", 300, "out of order"),
        ("", "unfenced", 3_000, "a stale epoch wrote"),
    ],
)
async def test_planted_bugs_are_caught(
    database_url: str, redis_url: str, plant: str, writer_plant: str, events: int, seen: str
) -> None:
    complaints_seen: list[str] = []
    for _ in range(3):  # whether a stale leader's write meets a true one is chance in each storm
        complaints_seen = (await storm(database_url, redis_url, 0, events, plant, writer_plant)).complaints
        if any(seen in complaint for complaint in complaints_seen):
            return
    raise AssertionError(complaints_seen)
