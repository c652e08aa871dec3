"""The pipeline of one process: contends for the lease, and while it holds it runs everything that writes.

What a leadership runs, all of it in one task group, so that nothing outlives the loss of the lease:

- the renewal of the lease; a lease that couldn't be renewed in time counts as lost;
- the writer (:mod:`ingest`), the sweeps (expiry, grades), the publisher of books, the disk guard, new partitions;
- of each venue: discovery and following.

On the way out feeding stops first, then the queue is drained, then the lease is given back.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from oddstream_server.application.ports import (
    BookCache,
    Catalog,
    Clock,
    ControlsReader,
    Fenced,
    FittedObjects,
    Lease,
    PipelineRunStore,
    PipelineStore,
    SignalLog,
    VenueAdapter,
)
from oddstream_server.domain.errors import Aborted, Unavailable
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import FeedState, FeedStatus
from oddstream_server.pipeline.books import BookPublisher, BookRecorder
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from oddstream_server.pipeline.declarations import Declarations
from oddstream_server.pipeline.discovery import Discovery
from oddstream_server.pipeline.disk import DiskGuard, FreeDisk
from oddstream_server.pipeline.grading import Grader
from oddstream_server.pipeline.ingest import Configure, Ingest
from oddstream_server.pipeline.linking.proposer import LinkProposer
from oddstream_server.pipeline.observer import PipelineObserver, SilentObserver
from oddstream_server.pipeline.queue import IngestQueue
from oddstream_server.pipeline.requested import RequestedRuns
from oddstream_server.strategies.registry import ConfiguredStrategy

MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """Bounds and beats, in seconds where nothing else is said."""

    markets_per_venue: int = 500
    window_markets_per_venue: int = 40
    """How many of these are markets of the next windows; see :func:`~.discovery.choose_markets`."""
    discovery_seconds: float = 300.0
    lease_seconds: float = 3.0
    queue_capacity: int = 20_000
    batch_ticks: int = 1_000
    linger_seconds: float = 0.0
    """How long the writer waits for more after the first item; ticks that come while it commits gather anyway."""
    sweep_seconds: float = 1.0
    books_seconds: float = 0.1
    depth_seconds: float = 10.0
    """How often the books that changed are recorded for backtests; 0 for never."""
    depth_levels: int = 10
    """How many levels of each side are recorded."""
    link_proposals_seconds: float = 900.0
    """How often markets of different venues are compared to propose links; 0 for never."""
    disk_seconds: float = 5.0
    minimum_free_disk_ppm: int = 50_000
    partitions_seconds: float = 3_600.0
    runs_seconds: float = 0.5
    """How soon a run that somebody asked for begins."""
    resubscribe_seconds: float = 1.0
    """How long new markets gather before they are followed, between two passes of discovery."""
    books_again_seconds: float = 600.0
    """How often the books of quiet markets are published again; the cache keeps them an hour."""
    learn_seconds: float = 10.0
    """How often links and fitted objects are looked for; what was fitted takes effect much later than that."""
    prune_seconds: float = 3_600.0
    keep_states_days: int = 45
    """How long checkpoints of a market that is over are kept: as long as its ticks at most."""
    venue_retry_seconds: float = 5.0
    drain_seconds: float = 10.0


class LeaseLost(Exception):
    """The lease ran out before it could be renewed: another one may lead by now."""


class Pipeline:
    """One candidate for the leadership.

    :param holder: a name of this process that no other one has.
    :param free_disk_ppm: free share of the data's disk; None where it can't be known (a database elsewhere).
    :param log: where signals to be graded are looked up; None to not grade.
    :param controls: halts and settings of strategies; None where there are none to obey.
    :param configure: from settings to the strategies that run; None where they stay as they are.
    :param runs: runs that operators ask for; None where nobody can.
    :param fitted: what was fitted for strategies; None where nothing can be.
    :param report: how this process does, told at each renewal of its lease.
    """

    def __init__(
        self,
        *,
        holder: str,
        store: PipelineStore,
        catalog: Catalog,
        adapters: Sequence[VenueAdapter],
        strategies: Sequence[ConfiguredStrategy],
        clock: Clock,
        declarations: Declarations | None = None,
        books: BookCache | None = None,
        log: SignalLog | None = None,
        observer: PipelineObserver | None = None,
        settings: PipelineSettings | None = None,
        free_disk_ppm: FreeDisk | None = None,
        controls: ControlsReader | None = None,
        configure: Configure | None = None,
        runs: PipelineRunStore | None = None,
        fitted: FittedObjects | None = None,
        report: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> None:
        self._holder = holder
        self._store = store
        self._catalog = catalog
        self._adapters = {adapter.venue: adapter for adapter in adapters}
        self._strategies = tuple(strategies)
        self._clock = clock
        self._declarations = declarations or Declarations()
        self._books = books
        self._log = log
        self._observer: PipelineObserver = observer or SilentObserver()
        self._settings = settings or PipelineSettings()
        self._free_disk_ppm = free_disk_ppm
        self._controls = controls
        self._configure = configure
        self._runs = runs
        self._fitted = fitted
        self._report = report
        self._discoveries: dict[Venue, Discovery] = {}
        self._arrivals = {adapter.venue: asyncio.Event() for adapter in adapters}
        self._stopping = asyncio.Event()
        self._lease: Lease | None = None
        self._queue = IngestQueue(self._settings.queue_capacity)

    @property
    def lease(self) -> Lease | None:
        """The lease while this process leads."""
        return self._lease

    @property
    def queue_depth(self) -> int:
        return len(self._queue)

    def stop(self) -> None:
        """Ask :meth:`run` to end: feeding stops, the queue is drained, the lease is given back."""
        self._stopping.set()

    async def run(self) -> None:
        """Contend and lead until :meth:`stop` or cancellation, which drains as well."""
        while not self._stopping.is_set():
            lease = await self._contend()
            if lease is None:
                return
            await self._lead(lease)

    # --- the lease ----------------------------------------------------------------------------------------------

    async def _contend(self) -> Lease | None:
        """Wait for the leadership; None when asked to stop first."""
        ttl_us = int(self._settings.lease_seconds * MICROSECONDS)
        while not self._stopping.is_set():
            try:
                lease = await self._store.acquire_lease(self._holder, ttl_us)
            except (Unavailable, Aborted):
                self._observer.store_retried()
                lease = None
            if lease is not None:
                return lease
            await self._pause(self._settings.lease_seconds / 4 * random.uniform(0.8, 1.2))  # noqa: S311  # jitter
        return None

    async def _keep_lease(self) -> None:
        """Renew three times in a lease's life.

        :raises Fenced: another holder took over.
        :raises LeaseLost: it could not be renewed before it ran out.
        """
        loop, ttl_seconds = asyncio.get_running_loop(), self._settings.lease_seconds
        good_until = loop.time() + ttl_seconds
        while True:
            await asyncio.sleep(ttl_seconds / 3)
            asked = loop.time()
            try:
                async with asyncio.timeout_at(good_until):
                    self._lease = await self._store.renew_lease(
                        self._held(), int(ttl_seconds * MICROSECONDS), self._report()
                    )
                good_until = asked + ttl_seconds
            except (Unavailable, Aborted):
                self._observer.store_retried()
                if loop.time() >= good_until:
                    raise LeaseLost from None
            except TimeoutError:
                raise LeaseLost from None

    def _held(self) -> Lease:
        if self._lease is None:
            raise Fenced
        return self._lease

    # --- leading ------------------------------------------------------------------------------------------------

    async def _lead(self, lease: Lease) -> None:
        self._lease = lease
        self._observer.leading(lease.epoch)
        try:
            await self._run_everything()
        except* Fenced:
            self._observer.fenced()
        except* LeaseLost:
            self._observer.lease_lost()
        finally:
            self._lease = None
            self._queue.clear()
            self._observer.leading(None)

    async def _run_everything(self) -> None:
        settings = self._settings
        publisher = None if self._books is None else BookPublisher(self._books, self._adapters, self._observer)
        recorder = None
        if settings.depth_seconds > 0:
            recorder = BookRecorder(self._store, self._adapters, self._held, settings.depth_levels)
        ingest = Ingest(
            queue=self._queue,
            store=self._store,
            catalog=self._catalog,
            runner=StrategyRunner(
                self._strategies,
                on_failure=lambda strategy, subject, error: self._observer.failed(f"{strategy} on {subject}", error),
                on_dropped=self._observer.checkpoint_dropped,
            ),
            declarations=self._declarations,
            observer=self._observer,
            clock=self._clock,
            lease=self._held,
            venues=tuple(self._adapters),
            books=publisher,
            depth=recorder,
            grader=None if self._log is None else Grader(self._log, self._catalog),
            controls=self._controls,
            configure=self._configure,
            fitted=self._fitted,
            on_new_markets=lambda venue: self._arrivals[venue].set(),
            batch_ticks=settings.batch_ticks,
            linger_seconds=settings.linger_seconds,
        )
        try:
            await self._run_tasks(ingest, publisher, recorder)
        except asyncio.CancelledError:
            await self._give_back()
            raise
        await self._give_back()

    async def _run_tasks(self, ingest: Ingest, publisher: BookPublisher | None, recorder: BookRecorder | None) -> None:
        settings = self._settings
        async with asyncio.TaskGroup() as group:
            keeping = [group.create_task(self._keep_lease())]
            await self._begin(ingest)
            keeping.append(group.create_task(ingest.run()))
            keeping.append(group.create_task(self._beat(settings.sweep_seconds, ingest.sweep)))
            keeping.append(group.create_task(self._beat(settings.partitions_seconds, self._prepare_partitions)))
            keeping.append(group.create_task(self._beat(settings.learn_seconds, ingest.learn)))
            keep_us = settings.keep_states_days * 86_400 * MICROSECONDS
            keeping.append(group.create_task(self._beat(settings.prune_seconds, lambda: ingest.prune(keep_us))))
            if self._runs is not None:
                requested = RequestedRuns(
                    self._runs, self._store, self._catalog, ingest, self._discoveries, self._observer, self._clock
                )
                keeping.append(
                    group.create_task(self._beat(settings.runs_seconds, lambda: requested.run(tuple(self._adapters))))
                )
            if publisher is not None:
                keeping.append(group.create_task(self._beat(settings.books_seconds, publisher.publish)))
                keeping.append(group.create_task(self._beat(settings.books_again_seconds, publisher.refresh)))
            if settings.link_proposals_seconds > 0 and len(self._adapters) > 1:
                proposer = LinkProposer(self._catalog, tuple(self._adapters), self._clock)
                keeping.append(group.create_task(self._beat(settings.link_proposals_seconds, proposer.propose)))
            if recorder is not None:
                keeping.append(group.create_task(self._beat(settings.depth_seconds, recorder.record)))
            if self._free_disk_ppm is not None:
                guard = DiskGuard(
                    self._free_disk_ppm, ingest, self._observer, minimum_ppm=settings.minimum_free_disk_ppm
                )
                keeping.append(group.create_task(self._beat(settings.disk_seconds, guard.look)))
            feeding = [group.create_task(self._feed(adapter, publisher)) for adapter in self._adapters.values()]
            try:
                await self._stopping.wait()
            finally:
                # A cancelled body drains too, unless it was cancelled because a task of the group failed.
                for task in feeding:
                    task.cancel()
                if all(not task.done() for task in keeping):
                    await self._drain(ingest, feeding)
                for task in keeping:
                    task.cancel()

    async def _begin(self, ingest: Ingest) -> None:
        await self._until_available(lambda: self._store.prepare_partitions(self._clock()))
        await self._until_available(ingest.begin)

    async def _drain(self, ingest: Ingest, feeding: Sequence["asyncio.Task[None]"]) -> None:
        await asyncio.wait(feeding, timeout=self._settings.drain_seconds) if feeding else None
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                await ingest.drain()
        except (Fenced, TimeoutError) as error:
            self._observer.failed("drain", error)

    async def _give_back(self) -> None:
        try:
            await self._store.release_lease(self._held())
        except (Unavailable, Aborted, Fenced) as error:
            self._observer.failed("lease", error)  # it runs out by itself

    async def _prepare_partitions(self) -> None:
        await self._store.prepare_partitions(self._clock())

    async def _until_available(self, work: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await work()
            except (Unavailable, Aborted):
                self._observer.store_retried()
                await asyncio.sleep(0.2)
            else:
                return

    async def _beat(self, seconds: float, work: Callable[[], Awaitable[object]]) -> None:
        """Do something again and again; a failure is reported and waits for the next beat, unless it is the fence."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except Fenced:
                raise
            except Exception as error:
                self._observer.failed(getattr(work, "__qualname__", "beat"), error)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but no longer than until :meth:`stop`."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    # --- venues -------------------------------------------------------------------------------------------------

    async def _feed(self, adapter: VenueAdapter, publisher: BookPublisher | None) -> None:
        """Discover and follow one venue; whatever it raises, the other venues go on and it is tried again."""
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    discovery = Discovery(
                        adapter,
                        queue=self._queue,
                        store=self._store,
                        catalog=self._catalog,
                        observer=self._observer,
                        clock=self._clock,
                        markets_limit=self._settings.markets_per_venue,
                        window_markets=self._settings.window_markets_per_venue,
                        on_followed=lambda market_ids: (
                            None if publisher is None else publisher.follow(adapter.venue, market_ids)
                        ),
                    )
                    self._discoveries[adapter.venue] = discovery
                    await discovery.subscribe_known()
                    group.create_task(adapter.follow(self._queue))
                    group.create_task(self._discover(discovery))
                    group.create_task(self._follow_arrivals(adapter.venue, discovery))
            except* Exception as errors:
                for error in errors.exceptions:
                    self._observer.failed(f"venue {adapter.venue.value}", error)
            now_us = self._clock()
            await self._queue.put(
                FeedStatus(adapter.venue, FeedState.DOWN, None, 0, now_us, "the adapter stopped and starts again")
            )
            await asyncio.sleep(self._settings.venue_retry_seconds)

    async def _follow_arrivals(self, venue: Venue, discovery: Discovery) -> None:
        """Follow what the venue lists between two passes, e.g. the next hour of a series, without waiting for one."""
        arrived = self._arrivals[venue]
        while True:
            await arrived.wait()
            await asyncio.sleep(self._settings.resubscribe_seconds)
            arrived.clear()
            await discovery.subscribe_known()

    async def _discover(self, discovery: Discovery) -> None:
        while True:
            went_through = await discovery.run()
            seconds = self._settings.discovery_seconds
            await asyncio.sleep(seconds if went_through else min(seconds, 30.0))
