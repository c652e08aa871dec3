"""The bounded queue between adapters and the writer, and the stamping of receive times."""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace

from oddstream_server.application.ports import CatalogPage, VenueItem
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import Quote, Trade

Tick = Quote | Trade


class IngestQueue:
    """Fulfils :class:`~oddstream_server.application.ports.VenueSink`: ``put`` waits while the queue is full.

    Nothing is ever shed: what waits in ``put`` waits in the adapter, and so in the socket.

    :param capacity: how much may wait; a catalog page weighs as much as it has markets.
    """

    def __init__(self, capacity: int = 20_000) -> None:
        self._capacity = capacity
        self._items: deque[tuple[int, VenueItem | asyncio.Event]] = deque()
        self._weight = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, item: VenueItem) -> None:
        while self._weight >= self._capacity:
            self._room.clear()
            await self._room.wait()
        self._append(1 + len(item.markets) if isinstance(item, CatalogPage) else 1, item)

    async def stored(self) -> None:
        """Wait until all that was put so far is stored."""
        reached = asyncio.Event()
        self._append(0, reached)
        await reached.wait()

    def _append(self, weight: int, item: VenueItem | asyncio.Event) -> None:
        self._items.append((weight, item))
        self._weight += weight
        self._filled.set()

    def __len__(self) -> int:
        return self._weight

    @property
    def empty(self) -> bool:
        return not self._items

    async def wait(self) -> None:
        """Until there is something to take."""
        while not self._items:
            self._filled.clear()
            await self._filled.wait()

    def take(self, limit: int) -> "Taken":
        """The next items up to a weight; it goes past the limit rather than cut ticks of one receive time apart."""
        taken = Taken()
        weight = 0
        while self._items:
            size, item = self._items[0]
            if weight >= limit and not (
                isinstance(item, Quote | Trade)
                and taken.ticks
                and item.receive_time_us == taken.ticks[-1].receive_time_us
                and weight < 2 * limit
            ):
                break
            self._items.popleft()
            weight += size
            if isinstance(item, asyncio.Event):
                taken.barriers.append(item)
            elif isinstance(item, Quote | Trade):
                taken.ticks.append(item)
            else:
                taken.others.append(item)
        self._weight -= weight
        if self._weight < self._capacity:
            self._room.set()
        return taken

    def clear(self) -> None:
        """Drop everything: another leader writes now, and what waits here it will hear of itself."""
        for _, item in self._items:
            if isinstance(item, asyncio.Event):
                item.set()
        self._items.clear()
        self._weight = 0
        self._room.set()


class Taken:
    """What the writer took at once."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.others: list[VenueItem] = []
        self.barriers: list[asyncio.Event] = []


def in_order(ticks: Iterable[Tick], floors_us: Mapping[Venue, int]) -> list[Tick]:
    """The ticks with receive times that never go back within a clock, in the order in which they will be replayed.

    A tick is stamped later where its clock's last one or its floor is later: so (receive time, ingest sequence) is the
    order in which they were decided on, and no two batches share an instant. Venues on one clock share the order too,
    since a link between them is looked at on the ticks of both.

    :param floors_us: of each venue, the last instant that is over.
    """
    last_us: dict[str, int] = {}
    for venue, floor in floors_us.items():
        last_us[venue.clock] = max(last_us.get(venue.clock, 0), floor + 1)
    stamped: list[Tick] = []
    for tick in ticks:
        clock = tick.source.venue.clock
        time_us = max(tick.receive_time_us, last_us.get(clock, 0))
        last_us[clock] = time_us
        stamped.append(tick if time_us == tick.receive_time_us else replace(tick, receive_time_us=time_us))
    stamped.sort(key=lambda tick: tick.receive_time_us)
    return stamped
