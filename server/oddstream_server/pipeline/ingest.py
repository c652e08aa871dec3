"""The writer: takes what adapters pushed, stores it in transactions under the lease, and lets the strategies decide."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from oddstream_server.application.ports import (
    BatchResult,
    Catalog,
    CatalogPage,
    Clock,
    ControlsChanged,
    ControlsReader,
    Decision,
    FittedObjects,
    Key,
    Lease,
    MarketLinkFilter,
    PipelineStore,
    QuarantinedRow,
    SettlementUpdate,
    VenueItem,
)
from oddstream_server.domain.errors import Aborted, Unavailable
from oddstream_server.domain.market import Event, Market, MarketState, Venue
from oddstream_server.domain.quote import FeedState, FeedStatus, Quote, Trade
from oddstream_server.domain.signal import SignalEvent
from oddstream_server.domain.strategy import StrategySetting
from oddstream_server.domain.track_record import MINIMUM_GRADED
from oddstream_server.pipeline.books import BookPublisher, BookRecorder
from oddstream_server.pipeline.deciding.next_quotes import NextQuotes
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from oddstream_server.pipeline.declarations import Declarations
from oddstream_server.pipeline.expiry import OpenSignals
from oddstream_server.pipeline.grading import Grader
from oddstream_server.pipeline.observer import PipelineObserver
from oddstream_server.pipeline.queue import IngestQueue, in_order
from oddstream_server.strategies.registry import ConfiguredStrategy

T = TypeVar("T")
Configure = Callable[[Sequence[StrategySetting]], Sequence[ConfiguredStrategy]]
"""From what operators set to the strategies that run."""

HOLD_SECONDS: Final = 0.25
"""How long deciding on one batch may hold the event loop. The lease's renewal waits behind it, and so does the next
batch of a backlog: after each decision the next batch is as large as the last pace allows."""
_FIRST_TICKS: Final = 100
"""Of the first batch, whose pace nobody knows."""
MEASURE_US: Final = 600 * 1_000_000
"""How often the record of graded signals is read for the confidence of new ones."""
_FOLLOWABLE = (MarketState.OPEN, MarketState.PAUSED, MarketState.DISPUTED)


class Ingest:
    """What one leadership writes. One lock makes batches and sweeps follow each other.

    :param lease: the lease to write under, asked before each transaction (renewals replace it).
    :param grader: None where no signal log is at hand to look signals up in.
    :param controls: what operators ordered; None where there are none to obey.
    :param configure: None where the runner's strategies stay as they are.
    :param fitted: what was fitted for strategies; None where nothing can be.
    :param batch_ticks: at most so many in one transaction; fewer where deciding on them would take too long.
    :param on_new_markets: told the venue of pages that brought something the catalog didn't have.
    """

    def __init__(
        self,
        *,
        queue: IngestQueue,
        store: PipelineStore,
        catalog: Catalog,
        runner: StrategyRunner,
        declarations: Declarations,
        observer: PipelineObserver,
        clock: Clock,
        lease: Callable[[], Lease],
        venues: Sequence[Venue],
        books: BookPublisher | None = None,
        depth: BookRecorder | None = None,
        grader: Grader | None = None,
        controls: ControlsReader | None = None,
        configure: Configure | None = None,
        on_new_markets: Callable[[Venue], None] = lambda venue: None,
        fitted: FittedObjects | None = None,
        batch_ticks: int = 1_000,
        linger_seconds: float = 0.0,
        retry_seconds: float = 0.2,
    ) -> None:
        self._queue = queue
        self._store = store
        self._catalog = catalog
        self._runner = runner
        self._declarations = declarations
        self._observer = observer
        self._clock = clock
        self._lease = lease
        self._venues = tuple(venues)
        self._followers = [follower for follower in (books, depth) if follower is not None]
        self._grader = grader
        self._controls = controls
        self._configure = configure
        self._on_new_markets = on_new_markets
        self._fitted = fitted
        self._controls_revision: int | None = None
        self._settings: tuple[StrategySetting, ...] = ()
        self._batch_ticks = batch_ticks
        self._bearable_ticks = min(batch_ticks, _FIRST_TICKS)
        self._linger_seconds = linger_seconds
        self._retry_seconds = retry_seconds
        self._writing = asyncio.Lock()
        self._open = OpenSignals()
        self._next_quotes = NextQuotes()
        self._measured_us: int | None = None
        self._swept_us: dict[Venue, int] = {}
        self._settled: dict[str, None] = {}
        self._statuses: dict[Venue, FeedStatus] = {}
        self._room = asyncio.Event()
        self._room.set()

    # --- the life of a leadership -------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Load checkpoints, open signals and what the catalog knows of markets that may tick."""
        await self._resync()
        events: set[str] = set()
        markets: list[Market] = []
        async for market in self._catalog.all_markets(_FOLLOWABLE, self._venues):
            markets.append(market)
            if market.event_id is not None:
                events.add(market.event_id)
        self._runner.offer_catalog(await self._events(sorted(events)), markets)
        await self.learn()

    async def learn(self) -> None:
        """Take in the links that reviewers decided on and the objects that were fitted meanwhile."""
        after: Key | None = None
        while True:
            page = await self._catalog.list_links(MarketLinkFilter(), after, 1_000)
            self._runner.offer_catalog((), (), page.items)
            after = page.next_key
            if after is None:
                break
        if self._fitted is not None:
            self._runner.offer_fitted(await self._fitted.all())
        now_us = self._clock()
        if self._measured_us is None or now_us - self._measured_us >= MEASURE_US:
            rates = await self._store.hit_rates(MINIMUM_GRADED)
            self._observer.hit_rates(self._runner.offer_hit_rates(rates))
            self._measured_us = now_us

    async def _resync(self) -> None:
        """Go on from the checkpoints, with what operators ordered and without what they ended."""
        await self._read_controls()
        self._runner.restore(await self._store.load_states(self._runner.strategy_ids))
        self._next_quotes.restore(await self._store.waiting_quotes())
        await self._see_active()

    async def _obey(self) -> None:
        """Operators changed something since the last batch."""
        if await self._read_controls():
            self._runner.restore(await self._store.load_states(self._runner.strategy_ids))
        await self._see_active()

    async def _read_controls(self) -> bool:
        """Answers whether other strategies run now, so that states have to be loaded."""
        if self._controls is None:
            return False
        controls = await self._controls.controls()
        self._runner.halt(halt.scope for halt in controls.halts)
        self._controls_revision = controls.revision
        if self._configure is None or controls.settings == self._settings:
            return False
        self._runner.reconfigure(self._configure(controls.settings))
        self._measured_us = None  # other parameters have another record
        self._settings = controls.settings
        return True

    async def _see_active(self) -> None:
        active = await self._store.active_signals()
        self._open = OpenSignals(active)
        self._runner.keep_open(active)

    async def run(self) -> None:
        """Store until cancelled; a cancelled transaction keeps nothing.

        :raises Fenced: another leader writes now; nothing of the last transaction was kept.
        """
        while True:
            await self._queue.wait()
            await asyncio.sleep(self._linger_seconds)
            await self._room.wait()
            await self.write()

    async def drain(self) -> None:
        """Store all that waits now; nothing while paused, since there is no room."""
        while not self._queue.empty and self._room.is_set():
            await self.write()
        async with self._writing:
            pass  # whoever wrote meanwhile is done

    def pause(self, paused: bool) -> None:
        """While paused nothing is stored, the queue fills, and its back-pressure reaches the sockets."""
        if paused:
            self._room.clear()
        else:
            self._room.set()

    async def announce(self, state: FeedState, detail: str) -> None:
        """Say of every venue's feed what the pipeline itself knows, e.g. that nothing is stored for want of disk."""
        now_us = self._clock()
        for venue in self._venues:
            last = self._statuses.get(venue)
            status = FeedStatus(
                venue,
                state,
                None if last is None else last.last_receive_time_us,
                0 if last is None else last.epoch,
                now_us,
                detail,
            )
            await self._keep_trying(partial(self._store.save_feed_status, status))
            self._observer.feed_status(status)

    async def announce_last(self) -> None:
        """Say again what the adapters said last."""
        for status in list(self._statuses.values()):
            await self._keep_trying(partial(self._store.save_feed_status, status))

    # --- writing ------------------------------------------------------------------------------------------------

    async def write(self) -> None:
        """Take what waits, up to a batch, and store it."""
        async with self._writing:
            taken = self._queue.take(self._bearable_ticks)
            self._observer.queue_depth(len(self._queue))
            await self._store_others(taken.others)
            floors = {v: max(self._runner.position_us(v), self._swept_us.get(v, 0)) for v in Venue}
            ticks = in_order(taken.ticks, floors)
            if ticks or self._runner.has_news:
                await self._store_ticks(ticks)
        for barrier in taken.barriers:
            barrier.set()

    async def _store_ticks(self, ticks: Sequence[Quote | Trade]) -> None:
        begin_us = self._clock()
        result = await self._decided(ticks)
        now_us = self._clock()
        self._open.see(result.events)
        self._observer.batch_stored(
            result.quotes_inserted, result.trades_inserted, result.duplicates, len(result.events), now_us - begin_us
        )
        if ticks:
            self._observer.tick_age(now_us - ticks[0].receive_time_us)
            for venue, latest_us in {tick.source.venue: tick.receive_time_us for tick in ticks}.items():
                self._observer.data_received(venue, latest_us)
        for follower in self._followers:
            follower.mark(tick.market_id for tick in ticks if isinstance(tick, Quote))

    async def _decided(self, ticks: Sequence[Quote | Trade]) -> BatchResult:
        """One transaction, tried again while the database is away.

        A commit whose answer was lost can't be told from one that failed, so memory is taken anew from the
        checkpoints before the next try; ticks that were stored come back as duplicates then.
        """
        stale = False
        while True:
            try:
                if stale:
                    await self._resync()
                    stale = False
                result = await self._store.store_batch(
                    self._lease(),
                    ticks,
                    self._decide,
                    self._controls_revision,
                )
            except ControlsChanged:
                self._rollback()
                await self._keep_trying(self._obey)
            except (Unavailable, Aborted):
                self._rollback()
                stale = True
                self._observer.store_retried()
                await self._wait_a_little()
            except BaseException:
                self._rollback()
                raise
            else:
                self._runner.commit()
                self._next_quotes.commit()
                return result

    def _decide(self, stored: Sequence[Quote | Trade]) -> Decision:
        began = time.perf_counter()
        decision = self._runner.decide(stored, None if stored else self._clock())
        if stored:
            ticks_held = int(HOLD_SECONDS * len(stored) / (time.perf_counter() - began))
            self._bearable_ticks = max(1, min(self._batch_ticks, ticks_held))
        return replace(decision, next_quotes=self._next_quotes.see(stored, decision.events))

    def _rollback(self) -> None:
        self._runner.rollback()
        self._next_quotes.rollback()

    async def _keep_trying(self, work: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await work()
            except (Unavailable, Aborted):
                self._observer.store_retried()
                await self._wait_a_little()

    async def _wait_a_little(self) -> None:
        await asyncio.sleep(self._retry_seconds * random.uniform(0.5, 1.5))  # noqa: S311  # jitter, no secret

    async def _store_others(self, items: Sequence[VenueItem]) -> None:
        pages = [item for item in items if isinstance(item, CatalogPage)]
        settlements = [item for item in items if isinstance(item, SettlementUpdate)]
        rows = [item for item in items if isinstance(item, QuarantinedRow)]
        if pages:
            await self._keep_trying(lambda: self._store_pages(pages))
        if settlements:
            await self._keep_trying(lambda: self._store_settlements(settlements))
        if rows:
            await self._keep_trying(lambda: self._store.quarantine(rows))
            for row in rows:
                self._observer.quarantined(row.venue, row.reason)
        for status in (item for item in items if isinstance(item, FeedStatus)):
            self._statuses[status.venue] = status
            await self._keep_trying(partial(self._store.save_feed_status, status))
            self._observer.feed_status(status)

    async def _store_pages(self, pages: Sequence[CatalogPage]) -> None:
        events = [self._declarations.apply(event) for page in pages for event in page.events]
        markets = [market for page in pages for market in page.markets]
        change = await self._catalog.upsert(events, markets, self._clock())
        # What the catalog holds now: a page may bring some of an event's markets, or leave a settlement out.
        touched = {event.event_id for event in events} | {m.event_id for m in markets if m.event_id is not None}
        stored = await self._catalog.markets_by_id([market.market_id for market in markets])
        self._runner.offer_catalog(await self._events(sorted(touched)), stored.values())
        if change.updated:
            await self.learn()  # a changed rules text takes a link's confirmation away
        if change.created:
            for venue in {page.venue for page in pages}:
                self._on_new_markets(venue)

    async def _store_settlements(self, updates: Sequence[SettlementUpdate]) -> None:
        changed = await self._catalog.record_settlements(updates, self._clock())
        self._settled.update(dict.fromkeys(update.market_id for update in updates))
        self._runner.offer_catalog((), (await self._catalog.markets_by_id(list(changed))).values())

    async def _events(self, event_ids: Sequence[str]) -> Iterable[Event]:
        found: list[Event] = []
        for start in range(0, len(event_ids), 500):
            found += (await self._catalog.events_by_id(event_ids[start : start + 500])).values()
        return found

    # --- sweeps -------------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Decide on facts that no tick came after, and append what is due: expiries, then grades."""
        async with self._writing:
            if self._runner.has_news and self._room.is_set():
                await self._store_ticks([])
            now_us, idle = self._clock(), self._queue.empty
            expired = self._open.expired(lambda venue: self._watermark_us(venue, now_us, idle))
            for event in expired:
                venue = event.signal.venue
                self._swept_us[venue] = max(self._swept_us.get(venue, 0), event.signal.expire_time_us)
            if expired:
                await self._append(expired)
        graded = await self._grade()
        if expired or graded:
            self._observer.signals_ended(len(expired), graded)

    def _watermark_us(self, venue: Venue, now_us: int, idle: bool) -> int:
        """No tick of the venue still to be decided on will carry an earlier receive time."""
        position_us = self._runner.position_us(venue)
        return max(position_us, now_us) if idle else position_us

    async def _grade(self) -> int:
        settled, self._settled = list(self._settled), {}
        if self._grader is None or not settled:
            return 0
        count = 0
        for start in range(0, len(settled), 200):
            some = settled[start : start + 200]
            async with self._writing:  # a grade tells the signal's state, which no batch may change meanwhile
                events = await self._keep_trying(partial(self._grader.graded, some, self._clock()))
                if events:
                    await self._append(events)
            count += len(events)
        return count

    async def prune(self, keep_us: int) -> None:
        """Forget markets that are over and had no tick for that long, with their checkpoints."""
        async with self._writing:
            subjects = self._runner.prune(self._clock() - keep_us)
            for start in range(0, len(subjects), 1_000):
                some = subjects[start : start + 1_000]
                await self._keep_trying(partial(self._store.delete_states, self._lease(), some))
            # Graded signals wait no longer.
            self._next_quotes.restore(await self._keep_trying(self._store.waiting_quotes))

    async def _append(self, events: Sequence[SignalEvent]) -> None:
        await self._keep_trying(lambda: self._store.append_events(self._lease(), events))
        # One that the log knew already is over all the same.
        self._open.see(events)

    async def grade(self, market_ids: Sequence[str]) -> int:
        """Grade the signals on settled markets now; answers how many grades were new or changed."""
        self._settled.update(dict.fromkeys(market_ids))
        return await self._grade()
