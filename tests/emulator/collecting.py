"""A sink that keeps what an adapter pushes, and waits for a condition without polling."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from oddstream_server.application.ports import CatalogPage, QuarantinedRow, SettlementUpdate, VenueAdapter, VenueItem
from oddstream_server.domain.market import Event, Market
from oddstream_server.domain.quote import FeedState, FeedStatus, Quote, Trade

Item = TypeVar("Item")
PATIENCE_S = 20.0
"""Without a new item; a long session may take longer in all."""


class CollectingSink:
    """Keeps every item in order."""

    def __init__(self) -> None:
        self.items: list[VenueItem] = []
        self.newest_tick_us = 0
        """Receive time of the newest quote or trade."""
        self._news = asyncio.Event()

    async def put(self, item: VenueItem) -> None:
        self.items.append(item)
        if isinstance(item, Quote | Trade):
            self.newest_tick_us = item.receive_time_us
        self._news.set()

    def of(self, kind: type[Item]) -> list[Item]:
        return [item for item in self.items if isinstance(item, kind)]

    @property
    def markets(self) -> dict[str, Market]:
        return {m.market_id: m for page in self.of(CatalogPage) for m in page.markets}

    @property
    def events(self) -> dict[str, Event]:
        return {e.event_id: e for page in self.of(CatalogPage) for e in page.events}

    @property
    def quotes(self) -> list[Quote]:
        return self.of(Quote)

    @property
    def trades(self) -> list[Trade]:
        return self.of(Trade)

    @property
    def quarantined(self) -> list[QuarantinedRow]:
        return self.of(QuarantinedRow)

    @property
    def states(self) -> list[FeedState]:
        return [status.state for status in self.of(FeedStatus)]

    @property
    def settlements(self) -> dict[str, SettlementUpdate]:
        return {update.market_id: update for update in self.of(SettlementUpdate)}

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until the condition holds; it is looked at after each item and twenty times a second.

        The clock's look is for what changes without an item: an adapter's order book whose top stays the same.
        """
        loop = asyncio.get_running_loop()
        seen, deadline = len(self.items), loop.time() + PATIENCE_S
        while not holds():
            if len(self.items) > seen:
                seen, deadline = len(self.items), loop.time() + PATIENCE_S
            elif loop.time() > deadline:
                raise AssertionError(f"{PATIENCE_S:.0f} s without news, until {what}; feed went {self.states}")
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await self._news.wait()


@asynccontextmanager
async def following(adapter: VenueAdapter, sink: CollectingSink) -> AsyncIterator[None]:
    """The adapter follows until the block ends; an error of it ends the test."""
    task = asyncio.create_task(adapter.follow(sink))
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await adapter.close()
