"""What the streams of a serving process do."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

KINDS = ("signals", "quotes", "backtests")
END_REASONS = ("client", "slow_consumer", "draining", "stream_age", "data_set_changed", "history_trimmed")


class FeedMetrics:
    """Every label set exists from the start; the children are looked up once, since deliveries are many."""

    def __init__(self, registry: CollectorRegistry) -> None:
        streams = Gauge("oddstream_streams", "Open streams.", ["kind"], registry=registry)
        ended = Counter(
            "oddstream_streams_ended", "Streams that ended, by reason.", ["kind", "reason"], registry=registry
        )
        self._streams = {kind: streams.labels(kind) for kind in KINDS}
        self._ended = {(k, r): ended.labels(k, r) for k in KINDS for r in END_REASONS}
        self._delivered = _Delivered()
        registry.register(self._delivered)
        self._events = Counter("oddstream_feed_events_read", "Events that the reader took.", registry=registry)
        self._head = Gauge(
            "oddstream_feed_head_sequence", "The log's head as this process knows it.", registry=registry
        )
        self._failures = Counter("oddstream_feed_read_failures", "Reads that failed.", registry=registry)
        self._backlog_pages = Counter("oddstream_feed_backlog_pages", "Pages read for laggards.", registry=registry)
        self._behind = Gauge("oddstream_feed_streams_behind", "Streams behind the memory.", registry=registry)
        self._conflated = Counter("oddstream_quotes_conflated", "Quotes overtaken by later ones.", registry=registry)
        self.open_streams = dict.fromkeys(KINDS, 0)
        self.head_sequence = 0

    def stream_opened(self, kind: str) -> None:
        self.open_streams[kind] += 1
        self._streams[kind].inc()

    def stream_ended(self, kind: str, reason: str) -> None:
        self.open_streams[kind] -= 1
        self._streams[kind].dec()
        self._ended[kind, reason].inc()

    def delivered(self, kind: str, entries: int) -> None:
        self._delivered.messages[kind] += 1
        self._delivered.entries[kind] += entries

    def read(self, events: int, head_sequence: int) -> None:
        self.head_sequence = head_sequence
        self._events.inc(events)
        self._head.set(head_sequence)

    def reader_failed(self) -> None:
        self._failures.inc()

    def backlog_page_read(self, events: int) -> None:
        self._backlog_pages.inc()

    def subscribers_behind(self, count: int) -> None:
        self._behind.set(count)

    def quotes_conflated(self, count: int) -> None:
        self._conflated.inc(count)


class _Delivered(Collector):
    """Plain numbers, told when asked for: a counter's lock for every message would be felt."""

    def __init__(self) -> None:
        self.messages = dict.fromkeys(KINDS, 0)
        self.entries = dict.fromkeys(KINDS, 0)

    def collect(self) -> Iterable[CounterMetricFamily]:
        for name, words, counts in (
            ("oddstream_stream_messages", "Messages with entries.", self.messages),
            ("oddstream_stream_entries", "Events or quotes in them.", self.entries),
        ):
            family = CounterMetricFamily(name, words, labels=["kind"])
            for kind, count in counts.items():
                family.add_metric([kind], count)
            yield family
