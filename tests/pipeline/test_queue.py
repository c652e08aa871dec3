import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddstream_server.application.ports import CatalogPage
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import FeedState, FeedStatus, SourceKind, TickSource
from oddstream_server.pipeline.queue import IngestQueue, in_order
from tests.strategies.worlds import START_US, a_market, a_quote


async def test_a_full_queue_holds_the_adapter_back_until_there_is_room() -> None:
    queue = IngestQueue(capacity=2)
    quotes = [a_quote("kalshi:M0", START_US + i, 1, 2) for i in range(3)]
    await queue.put(quotes[0])
    await queue.put(quotes[1])
    third = asyncio.create_task(queue.put(quotes[2]))
    await asyncio.sleep(0)
    assert not third.done()
    assert queue.take(1).ticks == quotes[:1]
    await third
    assert queue.take(10).ticks == quotes[1:]
    assert queue.empty


async def test_nothing_is_shed_however_slow_the_writer_is() -> None:
    queue = IngestQueue(capacity=5)
    quotes = [a_quote("kalshi:M0", START_US + i, 1, 2) for i in range(500)]

    async def push() -> None:
        for quote in quotes:
            await queue.put(quote)
            assert len(queue) <= 5

    async def pull() -> list[object]:
        found: list[object] = []
        while len(found) < len(quotes):
            await queue.wait()
            found += queue.take(3).ticks
        return found

    _, found = await asyncio.gather(push(), pull())
    assert found == quotes


async def test_a_batch_does_not_cut_an_instant_apart() -> None:
    queue = IngestQueue()
    quotes = [a_quote(f"kalshi:M{i}", START_US + (i > 4), 1, 2) for i in range(7)]
    for quote in quotes:
        await queue.put(quote)
    assert queue.take(3).ticks == quotes[:5]
    assert queue.take(3).ticks == quotes[5:]


async def test_a_catalog_page_weighs_what_it_holds() -> None:
    queue = IngestQueue(capacity=10)
    page = CatalogPage(Venue.KALSHI, (), tuple(a_market(i) for i in range(20)))
    await queue.put(page)
    assert len(queue) == 21
    waiting = asyncio.create_task(queue.put(page))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert queue.take(1).others == [page]
    await waiting


async def test_who_waits_for_storage_goes_on_when_all_before_it_is_taken_and_stored() -> None:
    queue = IngestQueue()
    await queue.put(FeedStatus(Venue.KALSHI, FeedState.LIVE, None, 0, START_US))
    waiting = asyncio.create_task(queue.stored())
    await asyncio.sleep(0)
    taken = queue.take(100)
    assert not waiting.done()
    for barrier in taken.barriers:
        barrier.set()
    await waiting


async def test_a_cleared_queue_lets_go_of_everybody() -> None:
    queue = IngestQueue(capacity=1)
    await queue.put(a_quote("kalshi:M0", START_US, 1, 2))
    blocked = [
        asyncio.create_task(queue.put(a_quote("kalshi:M0", START_US, 1, 2))),
        asyncio.create_task(queue.stored()),
    ]
    await asyncio.sleep(0)
    queue.clear()
    await asyncio.gather(*blocked)


@given(
    st.lists(st.tuples(st.sampled_from([Venue.KALSHI, Venue.SIMULATED]), st.integers(0, 20)), max_size=40),
    st.integers(0, 15),
)
def test_receive_times_never_go_back_within_a_venue_and_stay_above_the_floor(
    moves: list[tuple[Venue, int]], floor: int
) -> None:
    ticks = [
        replace(
            a_quote("kalshi:M0", START_US + time, 1, 2, key=i + 1), source=TickSource(venue, SourceKind.WEBSOCKET, "s")
        )
        for i, (venue, time) in enumerate(moves)
    ]
    stamped = in_order(ticks, {Venue.KALSHI: START_US + floor})
    times = [t.receive_time_us for t in stamped]
    assert times == sorted(times)
    for venue in (Venue.KALSHI, Venue.SIMULATED):
        given_keys = [t.source_key for t in ticks if t.source.venue is venue]
        assert [t.source_key for t in stamped if t.source.venue is venue] == given_keys
    assert all(t.receive_time_us > START_US + floor for t in stamped if t.source.venue is Venue.KALSHI)
    by_key: dict[int | str, int] = {t.source_key: t.receive_time_us for t in ticks}
    assert all(t.receive_time_us >= by_key[t.source_key] for t in stamped)


@pytest.mark.parametrize("limit", [1, 4, 1000])
async def test_a_take_keeps_the_order_of_ticks(limit: int) -> None:
    queue = IngestQueue()
    quotes = [a_quote("kalshi:M0", START_US + i // 3, 1, 2) for i in range(100)]
    for quote in quotes:
        await queue.put(quote)
    found = []
    while not queue.empty:
        found += queue.take(limit).ticks
    assert found == quotes
