"""The pipeline's leadership: a leader that hangs, one that crashes, and a stand-by that takes over."""

import asyncio
import os
import random
import secrets
import signal
import time
from collections import Counter
from typing import Any

import asyncpg
import pytest

from tests.reliability.streams.processes import Stage, drill, stage
from tests.reliability.streams.subscribers import Subscriber, complaints, read_log

pytestmark = pytest.mark.timeout(900)

SUBSCRIBERS = 4
MOVES_SECONDS = 5.0
LEASE_SECONDS = 3.0
DENSE = {"simulated_speed": "30", "simulated_events": "60", "lease_seconds": str(LEASE_SECONDS)}


async def next_leader(here: Stage, after: int, seconds: float = 60.0) -> tuple[int, int, float]:
    """Epoch and pid of the leader that comes after an epoch, and how long it took."""
    began = time.monotonic()
    while True:
        epoch, holder = await here.leader()
        if epoch > after:
            return epoch, int(holder.split("/")[1]), time.monotonic() - began
        assert time.monotonic() - began < seconds, f"nobody leads after {seconds} s\n{here.tail()}"
        await asyncio.sleep(0.02)


async def takeovers(
    database_url: str, redis_url: str, rounds: int, pipelines: int = 2
) -> tuple[list[str], list[float]]:
    """SIGSTOP and kill -9 of the leader in turns; answers complaints and how long each takeover took."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    took: list[float] = []
    async with stage(database_url, redis_url, DENSE) as here:
        server = await here.serve()
        start = await here.from_the_beginning()
        bots = [Subscriber(server.target, here.key, start) for _ in range(SUBSCRIBERS)]
        for bot in bots:
            bot.begin()
        processes = {p.pid: p for p in (here.pipeline(n) for n in range(pipelines))}
        await here.wait_for_head(20)
        for number in range(rounds):
            await asyncio.sleep(rng.uniform(0.2, 0.8))
            stopped = number % 2 == 0
            epoch, pid, _ = await next_leader(here, 0)  # a slow machine may have moved it since the last look
            os.kill(pid, signal.SIGSTOP if stopped else signal.SIGKILL)
            old_epoch, old_pid, at = epoch, pid, await here.head()
            epoch, pid, seconds = await next_leader(here, old_epoch, 20 if pipelines > 1 else MOVES_SECONDS + 1)
            assert pid != old_pid
            took.append(seconds)
            if stopped:
                await asyncio.sleep(drill(int(2 * LEASE_SECONDS), 30))
                os.kill(old_pid, signal.SIGCONT)
                await asyncio.sleep(1.0)  # the zombie's time to write, if anything lets it
                assert (await here.leader())[0] == epoch, f"the zombie took the leadership back\n{here.tail()}"
            else:
                processes[old_pid].wait()
                fresh = here.pipeline(pipelines + number)
                processes[fresh.pid] = fresh
            await here.wait_for_head(at + 20)
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            await asyncio.to_thread(process.wait, 30)
        head = await here.head()
        try:
            await asyncio.gather(*(bot.reach(head) for bot in bots))
        finally:
            await asyncio.gather(*(bot.end() for bot in bots))
        log = await read_log(here.dsn)
        twice = [row for row, count in Counter(await _events(here.dsn)).items() if count > 1]
    found = [complaint for bot in bots for complaint in complaints(bot.received, log, bot.failure)]
    if [e.sequence for e in log] != list(range(1, len(log) + 1)):
        found.append("the log has holes")
    if twice:
        found.append(f"said twice: {twice[:3]}")
    assert len(log) >= 20 * (rounds + 1), "too little traffic to say anything"
    print(f"{len(log)} events; takeovers after {[round(s, 2) for s in took]} s")
    return found, took


async def _events(dsn: str) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch("SELECT signal_id, type FROM signal_events")]
    finally:
        await connection.close()


async def test_a_leader_that_hangs_or_crashes_is_replaced_within_five_seconds_without_a_duplicate_or_a_hole(
    database_url: str, redis_url: str
) -> None:
    found, took = await takeovers(database_url, redis_url, drill(2, 6))
    assert found == []
    assert max(took) <= MOVES_SECONDS


async def test_a_planted_lack_of_a_stand_by_is_caught(database_url: str, redis_url: str) -> None:
    with pytest.raises(AssertionError, match="nobody leads"):
        await takeovers(database_url, redis_url, 1, pipelines=1)
