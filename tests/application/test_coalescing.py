import asyncio
from collections.abc import Mapping, Sequence

import pytest

from oddstream_server.application.calls.coalescing import SharedReads
from oddstream_server.application.calls.request import RequestContext, current_request, remaining_seconds


class Table:
    """Rows by key; remembers each query, and waits while it is shut."""

    def __init__(self) -> None:
        self.queries: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None
        self.deadlines: list[float | None] = []

    async def read(self, keys: Sequence[int]) -> Mapping[int, str]:
        self.queries.append(list(keys))
        self.deadlines.append(remaining_seconds())
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return {key: f"row {key}" for key in keys if key >= 0}


async def test_reads_of_one_turn_are_one_query_and_each_gets_its_own_row() -> None:
    table = Table()
    reads = SharedReads(table.read)
    answers = await asyncio.gather(*(reads.get(key) for key in (1, 2, 1, -1)))
    assert answers == ["row 1", "row 2", "row 1", None]
    assert table.queries == [[1, 2, -1]]
    assert await reads.get(1) == "row 1"
    assert len(table.queries) == 2, "what was read is not kept"


async def test_what_comes_while_queries_run_waits_and_is_one_query_more() -> None:
    table = Table()
    table.open.clear()
    reads = SharedReads(table.read, maximum_queries=1)
    first = asyncio.create_task(reads.get(0))
    while not table.queries:
        await asyncio.sleep(0)
    later = [asyncio.create_task(reads.get(key)) for key in range(1, 6)]
    await asyncio.sleep(0)
    assert table.queries == [[0]]
    table.open.set()
    await asyncio.gather(first, *later)
    assert table.queries == [[0], [1, 2, 3, 4, 5]]


async def test_a_slow_query_holds_nobody_up_for_long() -> None:
    table = Table()
    table.open.clear()
    reads = SharedReads(table.read, maximum_queries=2, patience_seconds=0.001)
    slow = [asyncio.create_task(reads.get(0))]
    while not table.queries:
        await asyncio.sleep(0)
    slow.append(asyncio.create_task(reads.get(1)))
    async with asyncio.timeout(5):
        while len(table.queries) < 2:
            await asyncio.sleep(0.001)
    later = asyncio.create_task(reads.get(2))
    await asyncio.sleep(0.01)
    assert table.queries == [[0], [1]], "no more at once than were allowed"
    table.open.set()
    assert await asyncio.gather(*slow, later) == ["row 0", "row 1", "row 2"]


async def test_a_read_long_after_another_does_not_wait_for_the_patience() -> None:
    table = Table()
    reads = SharedReads(table.read, patience_seconds=60)
    table.open.clear()
    first = asyncio.create_task(reads.get(0))
    while not table.queries:
        await asyncio.sleep(0)
    second = asyncio.create_task(reads.get(1))
    await asyncio.sleep(0)
    table.open.set()
    await asyncio.gather(first, second)
    async with asyncio.timeout(5):
        assert await reads.get(2) == "row 2"


async def test_more_keys_than_a_query_takes_are_several() -> None:
    table = Table()
    reads = SharedReads(table.read, maximum_keys=2, maximum_queries=2)
    assert await asyncio.gather(*(reads.get(key) for key in range(5))) == [f"row {key}" for key in range(5)]
    assert table.queries == [[0, 1], [2, 3], [4]]


async def test_one_who_leaves_takes_nobody_along() -> None:
    table = Table()
    table.open.clear()
    reads = SharedReads(table.read)
    leaving, staying = asyncio.create_task(reads.get(1)), asyncio.create_task(reads.get(1))
    while not table.queries:
        await asyncio.sleep(0)
    leaving.cancel()
    table.open.set()
    assert await staying == "row 1"
    assert (await asyncio.gather(leaving, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_a_failed_query_fails_those_it_was_for_and_nobody_after() -> None:
    table = Table()
    table.failure = ConnectionError("away")
    reads = SharedReads(table.read)
    answers = await asyncio.gather(reads.get(1), reads.get(2), return_exceptions=True)
    assert answers == [table.failure, table.failure]
    table.failure = None
    assert await reads.get(1) == "row 1"


async def test_no_caller_imposes_its_deadline_on_the_others() -> None:
    table = Table()
    reads = SharedReads(table.read)
    token = current_request.set(RequestContext("m", "id", "", deadline_seconds=0.0))
    try:
        await reads.get(1)
    finally:
        current_request.reset(token)
    assert table.deadlines[0] is not None
    assert table.deadlines[0] > 1


@pytest.mark.parametrize("count", [1, 250])
async def test_every_one_of_many_is_answered(count: int) -> None:
    reads = SharedReads(Table().read, maximum_keys=7)
    assert len(await asyncio.gather(*(reads.get(key) for key in range(count)))) == count
