"""What the pipeline did, as metrics and as the state that operators ask for."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from oddstream_server.application.ports import HitRate
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import FeedState, FeedStatus

log = structlog.get_logger()

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
STAGES = ("discover", "follow", "ingest", "import", "replay")
"""Label sets of runs that exist from the start, so that a first failure shows as an increase."""


class PipelineMetrics:
    """Counts and remembers; every label set of the venues at hand is there at 0 from the start.

    :param now_us: wall clock, for the ages in :meth:`state`.
    """

    def __init__(self, registry: CollectorRegistry, venues: Iterable[Venue], now_us: Callable[[], int]) -> None:
        self._now_us = now_us
        self._venues = tuple(venues)
        self._leader = Gauge("oddstream_pipeline_leader", "1 while this process leads.", registry=registry)
        self._fenced = Counter("oddstream_pipeline_fenced", "Times that another leader took over.", registry=registry)
        self._lost_leases = Counter(
            "oddstream_pipeline_leases_lost", "Leases that ran out before they were renewed.", registry=registry
        )
        self._queue = Gauge("oddstream_pipeline_queue_items", "Items that wait to be stored.", registry=registry)
        self._ticks = Counter(
            "oddstream_pipeline_ticks", "Ticks that came in, by what became of them.", ["kind"], registry=registry
        )
        for kind in ("quote", "trade", "duplicate"):
            self._ticks.labels(kind)
        self._signals = Counter("oddstream_pipeline_signal_events", "Events appended to the log.", registry=registry)
        self._batch_seconds = Histogram(
            "oddstream_pipeline_batch_seconds", "Time to store and decide a batch.", buckets=SECONDS, registry=registry
        )
        self._tick_age_seconds = Histogram(
            "oddstream_pipeline_tick_age_seconds",
            "From the receipt of a batch's oldest tick to its commit.",
            buckets=SECONDS,
            registry=registry,
        )
        self._retries = Counter(
            "oddstream_pipeline_store_retries", "Batches that had to wait for the database.", registry=registry
        )
        self._quarantined = Counter(
            "oddstream_quarantined_rows", "Rows kept aside, by reason.", ["venue", "reason"], registry=registry
        )
        self._runs = Counter(
            "oddstream_pipeline_runs", "Runs that ended.", ["venue", "stage", "outcome"], registry=registry
        )
        self._run_seconds = Histogram(
            "oddstream_pipeline_run_seconds",
            "Duration of runs.",
            ["venue", "stage"],
            buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800),
            registry=registry,
        )
        self._feed_state = Gauge(
            "oddstream_feed_state", "1 for the state that a venue's feed is in.", ["venue", "state"], registry=registry
        )
        self._feed_gaps = Counter("oddstream_feed_gaps", "Times that data was missed.", ["venue"], registry=registry)
        self._ended = Counter(
            "oddstream_signals_ended", "Signals that the sweeps ended or graded.", ["how"], registry=registry
        )
        self._dropped = Counter(
            "oddstream_checkpoints_dropped",
            "Checkpoints of another layout, version or parameters: their strategies started anew.",
            ["name"],
            registry=registry,
        )
        self._books = Counter("oddstream_books_published", "Live books shared.", registry=registry)
        self._paused = Gauge(
            "oddstream_ingest_paused", "1 while the disk is too full to take ticks.", registry=registry
        )
        self._failures = Counter(
            "oddstream_pipeline_failures", "What should not happen and did.", ["where"], registry=registry
        )
        self._graded = Gauge(
            "oddstream_strategy_graded_signals",
            "Graded signals of a strategy as it runs now, from a hundred on.",
            ["strategy", "origin"],
            registry=registry,
        )
        self._hit_rate = Gauge(
            "oddstream_strategy_hit_rate_ratio",
            "Share of those with a positive realised edge, which is the confidence of new signals.",
            ["strategy", "origin"],
            registry=registry,
        )
        for how in ("expired", "graded"):
            self._ended.labels(how)
        for venue in self._venues:
            self._feed_gaps.labels(venue.value)
            for state in FeedState:
                self._feed_state.labels(venue.value, state.value)
            for stage in STAGES[:2]:
                self._run_seconds.labels(venue.value, stage)
                for outcome in ("succeeded", "failed"):
                    self._runs.labels(venue.value, stage, outcome)
        self._epoch: int | None = None
        self._depth = 0
        self._last_batch_us: int | None = None
        self._statuses: dict[Venue, FeedStatus] = {}
        self._gaps: dict[Venue, int] = {}
        self._received_us: dict[Venue, int] = {}
        self._is_paused = False

    def leading(self, epoch: int | None) -> None:
        self._epoch = epoch
        self._leader.set(epoch is not None)
        log.info("leadership", leading=epoch is not None, epoch=epoch)

    def fenced(self) -> None:
        self._fenced.inc()
        log.warning("fenced: another leader took over")

    def lease_lost(self) -> None:
        self._lost_leases.inc()
        log.warning("the lease ran out before it was renewed; contending again")

    def queue_depth(self, items: int) -> None:
        self._depth = items
        self._queue.set(items)

    def batch_stored(self, quotes: int, trades: int, duplicates: int, signals: int, duration_us: int) -> None:
        self._ticks.labels("quote").inc(quotes)
        self._ticks.labels("trade").inc(trades)
        self._ticks.labels("duplicate").inc(duplicates)
        self._signals.inc(signals)
        self._batch_seconds.observe(duration_us / 1e6)
        self._last_batch_us = self._now_us()

    def tick_age(self, age_us: int) -> None:
        self._tick_age_seconds.observe(age_us / 1e6)

    def data_received(self, venue: Venue, receive_time_us: int) -> None:
        self._received_us[venue] = max(receive_time_us, self._received_us.get(venue, 0))

    def store_retried(self) -> None:
        self._retries.inc()
        log.warning("the database is away; the batch is kept and tried again")

    def quarantined(self, venue: Venue, reason: str) -> None:
        self._quarantined.labels(venue.value, reason).inc()

    def feed_status(self, status: FeedStatus) -> None:
        self._statuses[status.venue] = status
        for state in FeedState:
            self._feed_state.labels(status.venue.value, state.value).set(state is status.state)
        if status.state is FeedState.GAP:
            self._feed_gaps.labels(status.venue.value).inc()
            self._gaps[status.venue] = self._gaps.get(status.venue, 0) + 1
        log.info(
            "feed",
            venue=status.venue.value,
            state=status.state.value,
            epoch=status.epoch,
            detail=status.detail,
            markets=len(status.market_ids),
        )

    def run_ended(self, venue: Venue | None, stage: str, failed: bool, duration_us: int) -> None:
        name = venue.value if venue else ""
        self._runs.labels(name, stage, "failed" if failed else "succeeded").inc()
        self._run_seconds.labels(name, stage).observe(duration_us / 1e6)
        log.log(30 if failed else 20, "run ended", venue=name, stage=stage, failed=failed, duration_us=duration_us)

    def signals_ended(self, expired: int, graded: int) -> None:
        self._ended.labels("expired").inc(expired)
        self._ended.labels("graded").inc(graded)

    def checkpoint_dropped(self, name: str, subject_id: str) -> None:
        self._dropped.labels(name.partition(":")[0]).inc()
        log.info("checkpoint dropped, the strategy starts anew", strategy=name, subject=subject_id)

    def hit_rates(self, rates: Sequence[HitRate]) -> None:
        for gauge in (self._graded, self._hit_rate):
            gauge.clear()  # a strategy of other parameters has no record yet
        for rate in rates:
            self._graded.labels(rate.strategy_id, rate.data_origin.value).set(rate.graded_count)
            self._hit_rate.labels(rate.strategy_id, rate.data_origin.value).set(rate.rate_ppm / 1e6)

    def books_published(self, books: int) -> None:
        self._books.inc(books)

    def ingest_paused(self, paused: bool) -> None:
        self._is_paused = paused
        self._paused.set(paused)
        if paused:
            log.error("ingest stopped: less than 5 % of the disk is free; reads go on")
        else:
            log.info("ingest goes on: the disk has room again")

    def failed(self, where: str, error: Exception) -> None:
        self._failures.labels(where).inc()
        log.error("failed and went on", where=where, exc_info=error)

    def state(self) -> dict[str, Any]:
        """The pipeline's part of ``/state``."""
        now = self._now_us()
        return {
            "leader": self._epoch is not None,
            "epoch": self._epoch,
            "queue": self._depth,
            "ingest_paused": self._is_paused,
            "last_batch_age_us": None if self._last_batch_us is None else now - self._last_batch_us,
            "venues": {venue.value: self._venue_state(venue) for venue in self._venues},
        }

    def _venue_state(self, venue: Venue) -> dict[str, Any]:
        status = self._statuses.get(venue)
        received_us = self._received_us.get(venue)
        return {
            "last_receive_age_us": None if received_us is None else max(0, self._now_us() - received_us),
            "state": status.state.value if status else FeedState.DOWN.value,
            "epoch": status.epoch if status else None,
            "detail": status.detail if status else "not yet connected",
            "gaps": self._gaps.get(venue, 0),
        }
