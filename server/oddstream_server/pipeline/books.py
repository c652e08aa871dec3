"""The live books: published a few times a second for the serving processes, of each market the last one only, and
recorded now and then for backtests.

A quiet market's book is published when it is subscribed to, and again long before the cache forgets it.
"""

from collections.abc import Callable, Iterable, Mapping

from oddstream_server.application.ports import BookCache, Lease, PipelineStore, VenueAdapter
from oddstream_server.domain.market import Venue, split_market_id
from oddstream_server.domain.quote import OrderBook
from oddstream_server.pipeline.observer import PipelineObserver


class BookPublisher:
    """Remembers whose book changed and publishes it at the next beat. Losing the cache loses depth, not truth."""

    def __init__(self, cache: BookCache, adapters: Mapping[Venue, VenueAdapter], observer: PipelineObserver) -> None:
        self._cache = cache
        self._adapters = adapters
        self._observer = observer
        self._dirty: dict[str, None] = {}
        self._followed: dict[Venue, tuple[str, ...]] = {}

    def follow(self, venue: Venue, market_ids: Iterable[str]) -> None:
        """These are the venue's markets that are followed now: their books are published, quiet or not."""
        self._followed[venue] = tuple(market_ids)
        self.mark(self._followed[venue])

    async def refresh(self) -> None:
        """Publish every followed book again at the next beat."""
        for market_ids in self._followed.values():
            self.mark(market_ids)

    def mark(self, market_ids: Iterable[str]) -> None:
        self._dirty.update(dict.fromkeys(market_ids))

    async def publish(self) -> None:
        """Publish what changed since the last beat; what can't be published now is tried at the next one."""
        dirty, self._dirty = self._dirty, {}
        books = _current(self._adapters, dirty)
        if not books:
            return
        try:
            await self._cache.publish(books)
        except Exception as error:
            self._dirty = dirty | self._dirty
            self._observer.failed("books", error)
            return
        self._observer.books_published(len(books))


class BookRecorder:
    """Keeps samples of the books that changed, so that a backtest can walk them.

    Between two samples the top of each book is recorded as quotes; a sample is walked while its best price is still the
    touch's. Losing one costs a backtest depth, not truth: it takes the touch then.

    :param levels: how many levels of each side are kept.
    """

    def __init__(
        self,
        store: PipelineStore,
        adapters: Mapping[Venue, VenueAdapter],
        lease: Callable[[], Lease],
        levels: int,
    ) -> None:
        self._store = store
        self._adapters = adapters
        self._lease = lease
        self._levels = levels
        self._dirty: dict[str, None] = {}

    def mark(self, market_ids: Iterable[str]) -> None:
        self._dirty.update(dict.fromkeys(market_ids))

    async def record(self) -> None:
        """Keep what changed since the last sample.

        :raises Fenced: another leader writes now.
        """
        dirty, self._dirty = self._dirty, {}
        books = [book for book in _current(self._adapters, dirty) if not book.crossed and (book.bids or book.asks)]
        if books:
            await self._store.record_books(self._lease(), books, self._levels)


def _current(adapters: Mapping[Venue, VenueAdapter], market_ids: Iterable[str]) -> list[OrderBook]:
    books: list[OrderBook] = []
    for market_id in market_ids:
        adapter = adapters.get(split_market_id(market_id)[0])
        book = adapter.order_book(market_id) if adapter is not None else None
        if book is not None:
            books.append(book)
    return books
