"""The live order books, from the pipeline's process to the serving ones, through Redis."""

from collections.abc import Sequence

import orjson
from prometheus_client import CollectorRegistry, Counter
from redis.asyncio import Redis

from oddstream_server.domain.quote import BookLevel, OrderBook
from oddstream_server.shared_state.connection import SharedState, SharedStateAway

KEY_PREFIX = "oddstream:book:"
TIME_TO_LIVE_SECONDS = 3600
_VERSION = 1


class RedisBookCache:
    """Fulfils :class:`~oddstream_server.application.ports.BookCache`.

    A book that isn't published again within an hour is forgotten. Without Redis nothing is published and nothing is
    found: depth is lost for that time, and readers fall back to the stored quotes.
    """

    def __init__(self, state: SharedState, registry: CollectorRegistry) -> None:
        self._state = state
        self._lost = Counter(
            "oddstream_books_not_published", "Order books not published because Redis is away.", registry=registry
        )

    async def publish(self, books: Sequence[OrderBook]) -> None:
        if not books:
            return

        async def write(redis: Redis) -> None:
            async with redis.pipeline(transaction=False) as pipeline:
                for book in books:
                    pipeline.set(KEY_PREFIX + book.market_id, encode(book), ex=TIME_TO_LIVE_SECONDS)
                await pipeline.execute()

        try:
            await self._state.run(write)
        except SharedStateAway:
            self._lost.inc(len(books))

    async def get(self, market_id: str) -> OrderBook | None:
        try:
            body = await self._state.run(lambda redis: redis.get(KEY_PREFIX + market_id))
        except SharedStateAway:
            return None
        return decode(market_id, body) if isinstance(body, bytes) else None


def encode(book: OrderBook) -> bytes:
    """A JSON array: version, epoch, receive time, venue time, then bids and asks as flat price, size, price, ..."""
    return orjson.dumps(
        (_VERSION, book.epoch, book.receive_time_us, book.venue_time_us, _flat(book.bids), _flat(book.asks))
    )


def decode(market_id: str, body: bytes) -> OrderBook | None:
    """None for a book of another version, which a rolling restart may leave behind for a moment."""
    version, *rest = orjson.loads(body)
    if version != _VERSION:
        return None
    epoch, receive_time_us, venue_time_us, bids, asks = rest
    return OrderBook(market_id, _levels(bids), _levels(asks), epoch, receive_time_us, venue_time_us)


def _flat(levels: tuple[BookLevel, ...]) -> list[int]:
    return [number for level in levels for number in (level.price_micros, level.size_micros)]


def _levels(flat: list[int]) -> tuple[BookLevel, ...]:
    return tuple(BookLevel(price, size) for price, size in zip(flat[::2], flat[1::2], strict=True))
