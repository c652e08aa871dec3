"""One process that takes from a shared limit as fast as it can: ``limited_process.py <url> <per minute> <burst>``.

It says ``ready``, waits for a line, takes for the seconds that the line says, and prints how many units it got, how
many it asked for, how many decisions it made alone, and when it began and ended (monotonic seconds).
"""

import asyncio
import sys
import time

from prometheus_client import CollectorRegistry

from oddstream_server.shared_state.connection import SharedState
from oddstream_server.shared_state.limiter import LeasedRateLimiter


async def take(url: str, per_minute: int, burst: int) -> None:
    registry = CollectorRegistry()
    state = SharedState(url, registry, timeout_seconds=2)
    limiter = LeasedRateLimiter(state, registry)
    await limiter.take("warm-up", 1, per_minute, burst)
    print("ready", flush=True)
    seconds = float(await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline))
    granted = asked = 0
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        asked += 1
        if (await limiter.take("shared", 1, per_minute, burst)).allowed:
            granted += 1
        else:
            await asyncio.sleep(0.002)
    local = int(registry.get_sample_value("oddstream_limiter_local_decisions_total") or 0)
    print(granted, asked, local, began, time.monotonic(), flush=True)
    await state.close()


if __name__ == "__main__":
    asyncio.run(take(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
