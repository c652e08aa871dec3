"""The ports in memory, for tests of what lies above storage: they hold what a test gives them and fail when told to."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from oddstream_server.application.ports import (
    EventFilter,
    Key,
    LimitDecision,
    LogBounds,
    MarketFilter,
    MarketLinkFilter,
    Page,
    SignalListFilter,
    StoredKey,
    StoredSignal,
    TimeRange,
    WakeUps,
)
from oddstream_server.domain.errors import Unavailable
from oddstream_server.domain.market import Event, Market, MarketLink, MarketState, Venue
from oddstream_server.domain.quote import Candle, CandleInterval, FeedStatus, OrderBook, Quote, Trade
from oddstream_server.domain.signal import SignalEvent
from oddstream_server.domain.strategy import StrategyDescription

Row = TypeVar("Row")


def keyed_page(rows: Sequence[Row], key: Callable[[Row], Key], after: Key | None, limit: int) -> Page[Row]:
    rest = sorted((r for r in rows if after is None or key(r) > after), key=key)
    shown = tuple(rest[:limit])
    return Page(shown, key(shown[-1]) if len(rest) > limit else None)


def within(instant_us: int, span: TimeRange) -> bool:
    return (span.from_us is None or span.from_us <= instant_us) and (span.to_us is None or instant_us < span.to_us)


@dataclass
class MemoryKeys:
    keys: dict[str, StoredKey] = field(default_factory=dict)
    away: bool = False
    reads: int = 0
    touched: list[str] = field(default_factory=list)

    def _must_be_there(self) -> None:
        if self.away:
            raise Unavailable("the database is away")

    async def find(self, key_id: str) -> StoredKey | None:
        self.reads += 1
        self._must_be_there()
        return self.keys.get(key_id)

    async def create(self, key: StoredKey) -> None:
        self._must_be_there()
        self.keys[key.key_id] = key

    async def count(self) -> int:
        self._must_be_there()
        return len(self.keys)

    async def revoke(self, key_id: str, now_us: int) -> bool:
        self._must_be_there()
        if key_id not in self.keys:
            return False
        self.keys[key_id] = replace(self.keys[key_id], revoke_time_us=now_us)
        return True

    async def touch(self, key_ids: Sequence[str], now_us: int) -> None:
        self._must_be_there()
        self.touched.extend(key_ids)


class MemoryQuota:
    """Counts the streams of one process."""

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()

    async def take(self, subject: str, limit: int) -> bool:
        if self.open[subject] >= limit:
            return False
        self.open[subject] += 1
        return True

    def give_back(self, subject: str) -> None:
        self.open[subject] -= 1


@dataclass
class MemoryLimiter:
    """Counts down from the burst and never refills."""

    taken: dict[str, int] = field(default_factory=dict)

    def spend(self, bucket: str, cost: int) -> bool:
        return False

    def peek(self, bucket: str) -> LimitDecision:
        return LimitDecision(self.taken.get(bucket, 0) >= 0, 700_000, 0)

    async def take(self, bucket: str, cost: int, per_minute: int, burst: int) -> LimitDecision:
        taken = abs(self.taken.get(bucket, 0))
        if taken + cost > burst:
            self.taken[bucket] = -taken
            return LimitDecision(False, 700_000, 0)
        self.taken[bucket] = taken + cost
        return LimitDecision(True, 0, burst - taken - cost)


@dataclass
class MemoryCatalog:
    markets: dict[str, Market] = field(default_factory=dict)
    events: dict[str, Event] = field(default_factory=dict)
    links: dict[str, MarketLink] = field(default_factory=dict)
    failure: BaseException | None = None

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def markets_by_id(self, market_ids: Sequence[str]) -> Mapping[str, Market]:
        self._fail()
        return {i: self.markets[i] for i in market_ids if i in self.markets}

    async def list_markets(self, where: MarketFilter, after: Key | None, limit: int) -> Page[Market]:
        self._fail()
        rows = [
            m
            for m in self.markets.values()
            if (not where.venues or m.venue in where.venues)
            and (not where.states or m.state in where.states)
            and where.text.lower() in m.title.lower()
        ]
        return keyed_page(rows, lambda m: (m.market_id,), after, limit)

    async def events_by_id(self, event_ids: Sequence[str]) -> Mapping[str, Event]:
        self._fail()
        return {i: self.events[i] for i in event_ids if i in self.events}

    async def list_events(self, where: EventFilter, after: Key | None, limit: int) -> Page[Event]:
        self._fail()
        rows = [e for e in self.events.values() if not where.venues or e.venue in where.venues]
        return keyed_page(rows, lambda e: (e.event_id,), after, limit)

    async def list_links(self, where: MarketLinkFilter, after: Key | None, limit: int) -> Page[MarketLink]:
        self._fail()
        return keyed_page(list(self.links.values()), lambda link: (link.link_id,), after, limit)

    async def upsert(self, events: Any, markets: Any, now_us: int) -> Any:
        raise NotImplementedError

    async def record_settlements(self, updates: Any, now_us: int) -> Sequence[str]:
        raise NotImplementedError

    def all_markets(self, states: Sequence[MarketState], venues: Sequence[Venue]) -> AsyncIterator[Market]:
        raise NotImplementedError


@dataclass
class MemoryTicks:
    quotes: list[Quote] = field(default_factory=list)
    trades: list[Trade] = field(default_factory=list)
    candles: list[Candle] = field(default_factory=list)

    async def list_quotes(self, market_id: str, span: TimeRange, after: Key | None, limit: int) -> Page[Quote]:
        rows = [q for q in self.quotes if q.market_id == market_id and within(q.receive_time_us, span)]
        return keyed_page(rows, lambda q: (q.receive_time_us, q.ingest_sequence), after, limit)

    async def list_trades(self, market_id: str, span: TimeRange, after: Key | None, limit: int) -> Page[Trade]:
        rows = [t for t in self.trades if t.market_id == market_id and within(t.receive_time_us, span)]
        return keyed_page(rows, lambda t: (t.receive_time_us, t.ingest_sequence), after, limit)

    async def list_candles(
        self, market_id: str, interval: CandleInterval, span: TimeRange, after: Key | None, limit: int
    ) -> Page[Candle]:
        rows = [
            c
            for c in self.candles
            if c.market_id == market_id and c.interval is interval and within(c.start_time_us, span)
        ]
        return keyed_page(rows, lambda c: (c.start_time_us,), after, limit)

    async def latest_quotes(self, market_ids: Sequence[str]) -> Mapping[str, Quote]:
        return {q.market_id: q for q in self.quotes if q.market_id in market_ids}

    async def quotes_after(self, ingest_sequence: int, limit: int) -> Sequence[Quote]:
        raise NotImplementedError

    async def live_head(self) -> int:
        raise NotImplementedError

    def replay(
        self, span: TimeRange, market_ids: Sequence[str] | None = None
    ) -> AsyncIterator[Sequence[Quote | Trade]]:
        raise NotImplementedError


@dataclass
class MemoryBooks:
    books: dict[str, OrderBook] = field(default_factory=dict)

    async def publish(self, books: Sequence[OrderBook]) -> None:
        self.books.update({book.market_id: book for book in books})

    async def get(self, market_id: str) -> OrderBook | None:
        return self.books.get(market_id)


@dataclass
class MemorySignals:
    signals: dict[str, StoredSignal] = field(default_factory=dict)
    statuses: list[FeedStatus] = field(default_factory=list)
    head: int = 0

    async def bounds(self) -> LogBounds:
        return LogBounds("ds_aaaaaaaaaaaaaaaa", self.head, 1, None)

    async def get_signal(self, signal_id: str) -> StoredSignal | None:
        return self.signals.get(signal_id)

    async def list_signals(
        self, where: SignalListFilter, after: Key | None, limit: int
    ) -> tuple[Page[StoredSignal], int]:
        rows = [s for s in self.signals.values() if not where.states or s.state in where.states]
        return keyed_page(rows, lambda s: (-s.sequence,), after, limit), self.head

    async def feed_statuses(self) -> Sequence[FeedStatus]:
        return self.statuses

    async def read(self, after_sequence: int, limit: int) -> Sequence[SignalEvent]:
        raise NotImplementedError

    async def sequence_at(self, create_time_us: int) -> int:
        raise NotImplementedError

    async def active_snapshot(self) -> tuple[int, Sequence[SignalEvent]]:
        raise NotImplementedError

    def wake_ups(self, on_wake: Callable[[str], None]) -> WakeUps:
        raise NotImplementedError


@dataclass
class MemoryStrategies:
    strategies: list[StrategyDescription] = field(default_factory=list)

    async def list_strategies(self) -> Sequence[StrategyDescription]:
        return self.strategies
