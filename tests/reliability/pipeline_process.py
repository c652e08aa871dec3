"""A process that runs the pipeline on a database and feeds it a seeded world, over and over from the first row.

Started by tests as ``python -m tests.reliability.pipeline_process <database url> <seed> <instants>``; made to be
killed. A row that was stored already is a duplicate, so a restart goes on where the last commit left off.
"""

import asyncio
import sys
import time
from collections.abc import Sequence

from oddstream_server.application.ports import CatalogPage, DiscoveryReport, VenueSink
from oddstream_server.domain.market import Market, Venue
from oddstream_server.domain.quote import OrderBook
from oddstream_server.pipeline.leader import Pipeline, PipelineSettings
from oddstream_server.storage.database import Database
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from oddstream_server.storage.tick_store.ticks import TickStore
from oddstream_server.strategies.registry import ConfiguredStrategy, Registry
from tests.strategies.worlds import World, a_world

SETTINGS = PipelineSettings(lease_seconds=1.0, batch_ticks=25, sweep_seconds=0.1, discovery_seconds=1_000)


def strategies() -> list[ConfiguredStrategy]:
    registry = Registry()
    return [
        registry.configure("arb.event_sum"),
        registry.configure("stat.mean_reversion", {"minimum_rows": 8, "minimum_buckets": 3}),
    ]


class WorldVenue:
    """Pushes the quotes of a world as fast as the pipeline takes them."""

    venue = Venue.KALSHI

    def __init__(self, world: World) -> None:
        self._world = world
        self._subscribed = asyncio.Event()

    async def reachable(self) -> bool:
        return True

    async def discover(self, sink: VenueSink) -> DiscoveryReport:
        await sink.put(CatalogPage(self.venue, (self._world.event,), self._world.markets))
        return DiscoveryReport(1, len(self._world.markets), 0, 1)

    async def subscribe(self, markets: Sequence[Market]) -> None:
        if markets:
            self._subscribed.set()

    async def follow(self, sink: VenueSink) -> None:
        await self._subscribed.wait()
        for quote in self._world.quotes:
            await sink.put(quote)
        await asyncio.Event().wait()

    def order_book(self, market_id: str) -> OrderBook | None:
        return None

    def breaker_state(self) -> str:
        return "closed"

    async def close(self) -> None:
        return


async def main(url: str, seed: int, instants: int) -> None:
    database = Database(url)
    ticks = TickStore(database)
    await Pipeline(
        holder="killed",
        store=PostgresPipelineStore(database, ticks),
        catalog=CatalogStore(database),
        adapters=[WorldVenue(a_world(seed, instants))],
        strategies=strategies(),
        clock=lambda: time.time_ns() // 1_000,
        log=SignalLogStore(database),
        settings=SETTINGS,
    ).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
