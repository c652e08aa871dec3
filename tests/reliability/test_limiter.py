"""One limit over several processes, and a limit while Redis is gone.

``ODDSTREAM_DRILL=long`` is the long form (``make drill-edge``).
"""

import asyncio
import os
import sys
import time
from pathlib import Path

from prometheus_client import CollectorRegistry

from oddstream_server.embedded.redis_server import RedisServer
from oddstream_server.shared_state.connection import SharedState
from oddstream_server.shared_state.limiter import LeasedRateLimiter

PROCESSES = 3
PER_MINUTE = 30_000
BURST = 500
SECONDS = 10.0 if os.environ.get("ODDSTREAM_DRILL") == "long" else 3.0
PROGRAM = Path(__file__).with_name("limited_process.py")


async def test_three_processes_share_one_limit_to_within_one_percent(redis_url: str) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            redis_url,
            str(PER_MINUTE),
            str(BURST),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    results = await asyncio.gather(*(process.communicate(f"{SECONDS}\n".encode()) for process in processes))
    counts = [tuple(map(float, out.split())) for out, _ in results]
    granted, asked, local = (int(sum(column)) for column in list(zip(*counts, strict=True))[:3])
    # All processes read the machine's one monotonic clock; on a busy one they don't begin and end together.
    elapsed = max(count[4] for count in counts) - min(count[3] for count in counts)
    ideal = BURST + PER_MINUTE / 60 * elapsed
    print(f"granted {granted} of {asked} asked in {elapsed:.2f} s; ideal {ideal:.0f}, error {granted / ideal - 1:+.2%}")
    assert local == 0, "the figure is about the shared limit"
    assert asked > 1.5 * ideal, "too little traffic to say anything"
    assert all(count[0] > 0 for count in counts)
    assert abs(granted - ideal) <= 0.01 * ideal


async def test_while_redis_is_gone_the_limit_is_local_and_it_is_shared_again_within_two_seconds(
    redis_server: RedisServer, redis_url: str
) -> None:
    registry = CollectorRegistry()
    state = SharedState(redis_url, registry)
    limiter = LeasedRateLimiter(state, registry)

    async def degraded() -> bool:
        return registry.get_sample_value("oddstream_limiter_degraded") == 1

    try:
        assert (await limiter.take("a", 1, 6000, 100)).allowed
        assert not await degraded()
        await redis_server.stop(print)
        try:
            slowest = 0.0
            allowed = 0
            for number in range(300):
                began = time.monotonic()
                allowed += (await limiter.take(f"gone-{number % 2}", 1, 60, 20)).allowed
                slowest = max(slowest, time.monotonic() - began)
            assert await degraded()
            assert 40 <= allowed <= 44, "twenty a bucket, and what drips in meanwhile"
            assert slowest < 0.5
        finally:
            await redis_server.start(print)
        began = time.monotonic()
        number = 0
        while await degraded():
            number += 1
            await limiter.take(f"back-{number}", 1, 60, 20)
            await asyncio.sleep(0.01)
            assert time.monotonic() - began < 2
    finally:
        await state.close()
