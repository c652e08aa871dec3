"""The pipeline on a real database, fed by a venue that a test scripts item by item."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from oddstream_server.application.ports import CatalogPage, DiscoveryReport, HitRate, VenueItem, VenueSink
from oddstream_server.domain.market import Event, Market, Venue
from oddstream_server.domain.quote import FeedStatus, OrderBook
from oddstream_server.domain.signal import SignalEvent
from oddstream_server.pipeline.observer import SilentObserver
from oddstream_server.storage.database import Database
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from oddstream_server.storage.tick_store.ticks import TickStore


class ScriptedVenue:
    """A venue adapter whose discovery and feed are what the test hands over."""

    def __init__(self, venue: Venue, events: Sequence[Event] = (), markets: Sequence[Market] = ()) -> None:
        self.venue = venue
        self.events, self.markets = tuple(events), tuple(markets)
        self.subscribed: list[str] = []
        self.script: asyncio.Queue[VenueItem | Exception] = asyncio.Queue()
        self.discoveries = 0
        self.follows = 0
        self.discovery_error: Exception | None = None
        self.books: dict[str, OrderBook] = {}

    async def reachable(self) -> bool:
        return True

    async def discover(self, sink: VenueSink) -> DiscoveryReport:
        self.discoveries += 1
        if self.discovery_error is not None:
            raise self.discovery_error
        await sink.put(CatalogPage(self.venue, self.events, self.markets))
        return DiscoveryReport(len(self.events), len(self.markets), 0, 1)

    async def follow(self, sink: VenueSink) -> None:
        self.follows += 1
        while True:
            item = await self.script.get()
            if isinstance(item, Exception):
                raise item
            await sink.put(item)

    async def subscribe(self, markets: Sequence[Market]) -> None:
        self.subscribed = [market.market_id for market in markets]

    def order_book(self, market_id: str) -> OrderBook | None:
        return self.books.get(market_id)

    def breaker_state(self) -> str:
        return "closed"

    async def close(self) -> None:
        return

    def say(self, *items: VenueItem | Exception) -> None:
        for item in items:
            self.script.put_nowait(item)


@dataclass
class Watcher(SilentObserver):
    """Remembers what the pipeline tells and lets a test wait for it."""

    epochs: list[int | None] = field(default_factory=list)
    batches: list[tuple[int, int, int, int]] = field(default_factory=list)
    failures: list[tuple[str, Exception]] = field(default_factory=list)
    statuses: list[FeedStatus] = field(default_factory=list)
    runs: list[tuple[str, bool]] = field(default_factory=list)
    ended: list[tuple[int, int]] = field(default_factory=list)
    pauses: list[bool] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    fences: int = 0
    lost_leases: int = 0
    retries: int = 0
    rates: list[list[HitRate]] = field(default_factory=list)
    books: int = 0
    dropped: list[tuple[str, str]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, holds: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait until the condition holds; the seconds are those without any news."""
        while not holds():
            self.changed.clear()
            async with asyncio.timeout(seconds):
                await self.changed.wait()

    def leading(self, epoch: int | None) -> None:
        self.epochs.append(epoch)
        self.changed.set()

    def fenced(self) -> None:
        self.fences += 1
        self.changed.set()

    def lease_lost(self) -> None:
        self.lost_leases += 1
        self.changed.set()

    def batch_stored(self, quotes: int, trades: int, duplicates: int, signals: int, duration_us: int) -> None:
        self.batches.append((quotes, trades, duplicates, signals))
        self.changed.set()

    def store_retried(self) -> None:
        self.retries += 1
        self.changed.set()

    def quarantined(self, venue: Venue, reason: str) -> None:
        self.reasons.append(reason)
        self.changed.set()

    def feed_status(self, status: FeedStatus) -> None:
        self.statuses.append(status)
        self.changed.set()

    def run_ended(self, venue: Venue | None, stage: str, failed: bool, duration_us: int) -> None:
        self.runs.append((stage, failed))
        self.changed.set()

    def signals_ended(self, expired: int, graded: int) -> None:
        self.ended.append((expired, graded))
        self.changed.set()

    def checkpoint_dropped(self, name: str, subject_id: str) -> None:
        self.dropped.append((name, subject_id))
        self.changed.set()

    def hit_rates(self, rates: Sequence[HitRate]) -> None:
        self.rates.append(list(rates))

    def books_published(self, books: int) -> None:
        self.books += books
        self.changed.set()

    def ingest_paused(self, paused: bool) -> None:
        self.pauses.append(paused)
        self.changed.set()

    def failed(self, where: str, error: Exception) -> None:
        self.failures.append((where, error))
        self.changed.set()

    @property
    def quotes(self) -> int:
        return sum(batch[0] for batch in self.batches)


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@dataclass
class Stores:
    database: Database
    ticks: TickStore
    store: PostgresPipelineStore
    catalog: CatalogStore
    log: SignalLogStore

    async def logged(self) -> list[SignalEvent]:
        return list(await self.log.read(0, 100_000))


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[Stores]:
    database = Database(database_url)
    ticks = TickStore(database)
    yield Stores(
        database, ticks, PostgresPipelineStore(database, ticks), CatalogStore(database), SignalLogStore(database)
    )
    assert database.connections_in_use() == 0, "a connection did not come back to the pool"
    await database.close()
