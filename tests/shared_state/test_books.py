"""The order books that processes share."""

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from oddstream_server.domain.quote import BookLevel, OrderBook
from oddstream_server.shared_state.books import KEY_PREFIX, RedisBookCache, decode, encode
from oddstream_server.shared_state.connection import SharedState

MICROS = st.integers(0, 2**62)
LEVELS = st.lists(st.builds(BookLevel, MICROS, MICROS), max_size=20).map(tuple)


@pytest.fixture
async def state(redis_url: str) -> AsyncIterator[SharedState]:
    made = SharedState(redis_url, CollectorRegistry(), timeout_seconds=2)
    yield made
    await made.close()


@given(bids=LEVELS, asks=LEVELS, epoch=MICROS, receive=MICROS, venue=st.none() | MICROS)
def test_a_book_comes_back_as_it_was(
    bids: tuple[BookLevel, ...], asks: tuple[BookLevel, ...], epoch: int, receive: int, venue: int | None
) -> None:
    book = OrderBook("kalshi:X", bids, asks, epoch, receive, venue)
    assert decode("kalshi:X", encode(book)) == book


def test_a_book_of_another_version_is_no_book() -> None:
    assert decode("kalshi:X", b"[99,1,2,3,[],[]]") is None


async def test_a_published_book_is_found_by_its_market_until_it_is_forgotten(state: SharedState) -> None:
    cache = RedisBookCache(state, CollectorRegistry())
    first = OrderBook("kalshi:A", (BookLevel(1, 2),), (), 1, 5)
    second = OrderBook("kalshi:B", (), (BookLevel(3, 4),), 1, 6, 5)
    await cache.publish([first, second])
    assert await cache.get("kalshi:A") == first
    assert await cache.get("kalshi:B") == second
    assert await cache.get("kalshi:C") is None
    assert 0 < await state.run(lambda redis: redis.ttl(KEY_PREFIX + "kalshi:A")) <= 3600


async def test_without_redis_nothing_is_found_nothing_raises_and_the_loss_is_counted() -> None:
    state = SharedState("redis://127.0.0.1:1/0", CollectorRegistry(), timeout_seconds=0.2)
    registry = CollectorRegistry()
    cache = RedisBookCache(state, registry)
    try:
        await cache.publish([OrderBook("kalshi:A", (), (), 1, 5)])
        assert await cache.get("kalshi:A") is None
        assert registry.get_sample_value("oddstream_books_not_published_total") == 1
    finally:
        await state.close()
