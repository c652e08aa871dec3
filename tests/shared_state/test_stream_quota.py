"""Open streams of a key over several processes, on a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry

from oddstream_server.shared_state import stream_quota
from oddstream_server.shared_state.connection import SharedState
from oddstream_server.shared_state.stream_quota import SharedStreamQuota

Make = Callable[[str], SharedStreamQuota]


@pytest.fixture
async def make(redis_url: str) -> AsyncIterator[Make]:
    """Makes quotas as of processes with these names."""
    states: list[SharedState] = []

    def build(process: str) -> SharedStreamQuota:
        registry = CollectorRegistry()
        states.append(SharedState(redis_url, registry, timeout_seconds=5))
        return SharedStreamQuota(states[-1], process, registry)

    yield build
    await asyncio.gather(*(state.close() for state in states))


async def taken(quota: SharedStreamQuota, count: int, limit: int, subject: str = "key") -> int:
    """How many of so many at the same moment get a stream."""
    return sum(await asyncio.gather(*(quota.take(subject, limit) for _ in range(count))))


async def becomes_free(quota: SharedStreamQuota, limit: int) -> None:
    async with asyncio.timeout(30):
        while not await quota.take("key", limit):
            await asyncio.sleep(0.01)


async def test_the_streams_of_all_processes_count_together_and_each_key_by_itself(make: Make) -> None:
    here, there = make("here"), make("there")
    assert await taken(here, 3, 5) == 3
    assert await taken(there, 4, 5) == 2
    assert await taken(here, 1, 5) == 0
    assert await taken(here, 9, 5, "another key") == 5


async def test_crowds_that_come_to_several_processes_at_the_same_moment_get_no_more_than_there_is(make: Make) -> None:
    processes = [make(f"process {number}") for number in range(3)]
    assert sum(await asyncio.gather(*(taken(process, 200, 301) for process in processes))) == 301


async def test_a_stream_that_ends_in_one_process_makes_room_in_another(make: Make) -> None:
    here, there = make("here"), make("there")
    assert await taken(here, 2, 2) == 2
    assert await taken(there, 1, 2) == 0
    here.give_back("key")
    await becomes_free(there, 2)
    assert await taken(here, 1, 2) == 0


async def test_a_process_that_is_started_again_takes_its_old_counts_place(make: Make) -> None:
    assert await taken(make("serve-0"), 5, 5) == 5
    assert await taken(make("serve-0"), 5, 5) == 5


async def test_a_process_that_died_is_soon_believed_no_more_and_one_that_lives_stays_believed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_quota, "BELIEVED_MS", 300)
    monkeypatch.setattr(stream_quota, "RENEW_SECONDS", 0.02)
    dead, alive, other = make("dead"), make("alive"), make("other")
    assert await taken(dead, 2, 4) == 2
    assert await taken(alive, 2, 4) == 2
    renewing = asyncio.create_task(alive.run())
    await becomes_free(other, 4)
    assert await taken(other, 9, 4) == 1
    await asyncio.sleep(0.4)
    assert await taken(other, 9, 4) == 0
    renewing.cancel()


async def test_a_caller_who_goes_while_redis_is_asked_leaves_no_place_taken(make: Make) -> None:
    here, there = make("here"), make("there")
    asking = [asyncio.create_task(here.take("key", 3)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)
    for _ in range(3):
        await becomes_free(there, 3)


async def test_without_redis_each_process_counts_for_itself_and_says_so() -> None:
    registry = CollectorRegistry()
    state = SharedState("redis://127.0.0.1:1", registry)
    quota = SharedStreamQuota(state, "here", registry)
    assert await taken(quota, 3, 2) == 2
    assert await taken(quota, 1, 2) == 0
    quota.give_back("key")
    assert await taken(quota, 3, 2) == 1
    assert registry.get_sample_value("oddstream_stream_quota_degraded") == 1
    await state.close()
