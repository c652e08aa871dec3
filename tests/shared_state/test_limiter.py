"""The leased rate limiter on a real Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry

from oddstream_server.embedded.redis_server import RedisServer
from oddstream_server.shared_state.connection import SharedState, SharedStateAway
from oddstream_server.shared_state.limiter import LeasedRateLimiter

Make = Callable[[], LeasedRateLimiter]


@pytest.fixture
async def make(redis_url: str) -> AsyncIterator[Make]:
    """Makes limiters as of different processes."""
    states: list[SharedState] = []

    def build() -> LeasedRateLimiter:
        registry = CollectorRegistry()
        states.append(SharedState(redis_url, registry, timeout_seconds=2))
        return LeasedRateLimiter(states[-1], registry)

    yield build
    await asyncio.gather(*(state.close() for state in states))


def value(limiter: LeasedRateLimiter, name: str) -> float:
    return limiter.registry.get_sample_value(name) or 0.0


async def test_the_burst_may_come_at_once_and_no_more(make: Make) -> None:
    limiter = make()
    decisions = [await limiter.take("a", 1, 60, 5) for _ in range(8)]
    assert [d.allowed for d in decisions] == [True] * 5 + [False] * 3
    assert 0 < decisions[-1].retry_after_us <= 1_000_000


async def test_the_time_that_is_told_is_the_time_it_takes(make: Make) -> None:
    limiter = make()
    for _ in range(3):
        await limiter.take("a", 1, 600, 3)
    denied = await limiter.take("a", 1, 600, 3)
    assert not denied.allowed
    await asyncio.sleep(denied.retry_after_us / 1_000_000 + 0.02)
    assert (await limiter.take("a", 1, 600, 3)).allowed


async def test_a_call_takes_its_cost_and_a_cheaper_one_may_still_pass(make: Make) -> None:
    limiter = make()
    assert (await limiter.take("a", 7, 60, 10)).allowed
    assert not (await limiter.take("a", 5, 60, 10)).allowed
    assert (await limiter.take("a", 3, 60, 10)).allowed


async def test_a_cost_above_the_burst_takes_the_whole_burst(make: Make) -> None:
    limiter = make()
    assert (await limiter.take("a", 500, 60, 10)).allowed
    assert not (await limiter.take("a", 1, 60, 10)).allowed


async def test_buckets_do_not_touch_each_other(make: Make) -> None:
    limiter = make()
    await limiter.take("a", 5, 60, 5)
    assert not (await limiter.take("a", 1, 60, 5)).allowed
    assert (await limiter.take("b", 1, 60, 5)).allowed


async def test_processes_share_one_bucket(make: Make) -> None:
    first, second = make(), make()
    allowed = 0
    for _ in range(10):
        for limiter in (first, second):
            allowed += (await limiter.take("a", 1, 60, 10)).allowed
    assert allowed == 10


async def test_calls_at_the_same_time_take_no_more_than_there_is(make: Make) -> None:
    limiter = make()
    decisions = await asyncio.gather(*(limiter.take("a", 1, 60, 10) for _ in range(50)))
    assert sum(d.allowed for d in decisions) == 10


async def test_a_cancelled_caller_takes_nobody_with_it(make: Make) -> None:
    limiter = make()
    calls = [asyncio.create_task(limiter.take("a", 1, 6000, 100)) for _ in range(10)]
    await asyncio.sleep(0)
    calls[0].cancel()
    rest = await asyncio.gather(*calls[1:])
    assert all(d.allowed for d in rest)


async def test_most_calls_are_decided_without_asking_redis(make: Make) -> None:
    limiter = make()
    for _ in range(500):
        assert (await limiter.take("a", 1, 600_000, 60_000)).allowed
    assert value(limiter, "oddstream_limiter_leases_total") <= 10


async def test_a_look_takes_nothing_and_knows_an_earlier_denial(make: Make) -> None:
    limiter = make()
    assert limiter.peek("a").allowed
    await limiter.take("a", 2, 60, 2)
    assert limiter.peek("a").allowed
    await limiter.take("a", 1, 60, 2)
    assert not limiter.peek("a").allowed


async def test_without_redis_each_process_limits_alone_and_says_so(make: Make, redis_server: RedisServer) -> None:
    state = SharedState("redis://127.0.0.1:1/0", CollectorRegistry(), timeout_seconds=0.2)
    limiter = LeasedRateLimiter(state, CollectorRegistry())
    try:
        decisions = [await limiter.take("a", 1, 60, 5) for _ in range(8)]
        assert [d.allowed for d in decisions] == [True] * 5 + [False] * 3
        assert 0 < decisions[-1].retry_after_us <= 1_000_000
        assert value(limiter, "oddstream_limiter_degraded") == 1
        assert value(limiter, "oddstream_limiter_local_decisions_total") == 8
    finally:
        await state.close()


async def test_a_dead_redis_costs_nothing_once_the_breaker_is_open() -> None:
    registry = CollectorRegistry()
    state = SharedState("redis://127.0.0.1:1/0", registry, timeout_seconds=0.2)
    attempts = 0

    async def ping(redis: object) -> None:
        nonlocal attempts
        attempts += 1
        raise ConnectionRefusedError

    try:
        for _ in range(50):
            with pytest.raises(SharedStateAway):
                await state.run(ping)
        assert attempts == 3
        assert registry.get_sample_value("oddstream_shared_state_breaker_open") == 1
    finally:
        await state.close()


async def test_the_breaker_closes_by_itself_once_redis_answers_again(redis_url: str) -> None:
    registry = CollectorRegistry()
    state = SharedState(redis_url, registry, timeout_seconds=2)

    async def fail(redis: object) -> None:
        raise ConnectionResetError

    try:
        for _ in range(3):
            with pytest.raises(SharedStateAway):
                await state.run(fail)
        assert state.away
        assert not await state.healthy()
        began = time.monotonic()
        while not await state.healthy():
            await asyncio.sleep(0.02)
        assert time.monotonic() - began < 2
        assert registry.get_sample_value("oddstream_shared_state_breaker_open") == 0
    finally:
        await state.close()


async def test_only_one_probe_goes_out_while_the_breaker_is_half_open(redis_url: str) -> None:
    state = SharedState(redis_url, CollectorRegistry(), timeout_seconds=2)
    gate = asyncio.Event()
    probes = 0

    async def fail(redis: object) -> None:
        raise ConnectionResetError

    async def probe(redis: object) -> None:
        nonlocal probes
        probes += 1
        await gate.wait()

    try:
        for _ in range(3):
            with pytest.raises(SharedStateAway):
                await state.run(fail)
        while state.away:
            await asyncio.sleep(0.02)
        first = asyncio.create_task(state.run(probe))
        await asyncio.sleep(0)
        with pytest.raises(SharedStateAway):
            await state.run(probe)
        gate.set()
        await first
        assert probes == 1
        assert await state.healthy()
    finally:
        await state.close()


async def test_what_is_leased_is_spent_without_asking_and_what_is_not_is_left_to_take(make: Make) -> None:
    limiter = make()
    assert limiter.spend("k", 1) is False, "nothing is leased yet"
    assert (await limiter.take("k", 1, 600_000, 60_000)).allowed
    spent = 0
    while limiter.spend("k", 1):
        spent += 1
    assert spent > 0
    assert limiter.spend("k", 1) is False
    assert (await limiter.take("k", 1, 600_000, 60_000)).allowed
    assert limiter.spend("other", 1) is False
