"""What the use cases need from the outside, as protocols: storage, shared state, venues, strategies.

Conventions: every method may raise :class:`~oddstream_server.domain.errors.Unavailable` when its dependency is away;
lists are keyset pages in the documented order of each method; instants are microseconds since the epoch in UTC.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from oddstream_server.domain.market import (
    Event,
    LinkRelation,
    LinkState,
    Market,
    MarketLink,
    MarketState,
    Settlement,
    Venue,
)
from oddstream_server.domain.principal import Principal
from oddstream_server.domain.quote import Candle, CandleInterval, FeedStatus, OrderBook, Quote, Trade
from oddstream_server.domain.signal import Direction, Signal, SignalEvent, SignalState
from oddstream_server.domain.strategy import StrategyDescription

T = TypeVar("T")

Key = tuple[str | int, ...]
"""A keyset position: the ordering columns of the last row of a page."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: tuple[T, ...]
    next_key: Key | None
    """Where the next page starts (exclusive); None on the last one."""


# --- venues ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CatalogPage:
    """A page of discovery: events with the markets that came with them."""

    venue: Venue
    events: tuple[Event, ...]
    markets: tuple[Market, ...]


@dataclass(frozen=True, slots=True)
class SettlementUpdate:
    market_id: str
    state: MarketState
    settlement: Settlement | None


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A row of a venue that can't be read: kept with its reason, counted, and never stopping its page."""

    venue: Venue
    source: str
    """The endpoint or channel, e.g. ``GET /markets``."""
    reason: str
    """One of our words, e.g. ``price_out_of_range``; the label of a metric, so a small set."""
    detail: str
    """What was wrong, in our words."""
    payload: bytes
    """The row as it came, at most 64 KiB."""
    receive_time_us: int


VenueItem = CatalogPage | Quote | Trade | SettlementUpdate | FeedStatus | QuarantinedRow


class VenueSink(Protocol):
    """Where adapters push. ``put`` waits while the bounded queue is full, so that back-pressure reaches the socket."""

    async def put(self, item: VenueItem) -> None: ...


@dataclass(frozen=True, slots=True)
class DiscoveryReport:
    events: int
    markets: int
    quarantined: int
    requests: int


class VenueAdapter(Protocol):
    """One venue. All quotes are pushed at whole venue timestamps: the deltas of one timestamp show as one quote."""

    venue: Venue

    async def reachable(self) -> bool:
        """True when the venue answers within a few seconds; never raises."""
        ...

    async def discover(self, sink: VenueSink) -> DiscoveryReport:
        """One pass over the open markets (and those that settled since the last pass), pushed as catalog pages."""
        ...

    async def follow(self, sink: VenueSink) -> None:
        """Push quotes, trades, settlements and feed states of the subscribed markets until cancelled.

        Reconnects, resnapshots and backs off by itself; raises only on a programming error.
        """
        ...

    async def subscribe(self, markets: Sequence[Market]) -> None:
        """Replace the set of followed markets; takes effect on the open connection."""
        ...

    def order_book(self, market_id: str) -> OrderBook | None:
        """The book as of the last whole venue timestamp, None where it is unknown or being taken anew."""
        ...

    def breaker_state(self) -> str:
        """``closed``, ``open`` or ``half_open``."""
        ...

    async def close(self) -> None: ...


# --- catalog --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MarketFilter:
    """AND between fields, OR inside one; empty means any."""

    venues: tuple[Venue, ...] = ()
    event_ids: tuple[str, ...] = ()
    states: tuple[MarketState, ...] = ()
    categories: tuple[str, ...] = ()
    series_ids: tuple[str, ...] = ()
    close_time_from_us: int | None = None
    close_time_to_us: int | None = None
    text: str = ""
    """Matches in the title, case-insensitive."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    venues: tuple[Venue, ...] = ()
    categories: tuple[str, ...] = ()
    series_ids: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class MarketLinkFilter:
    market_ids: tuple[str, ...] = ()
    """The link concerns one of them, on either side."""
    states: tuple[LinkState, ...] = ()
    relations: tuple[LinkRelation, ...] = ()


@dataclass(frozen=True, slots=True)
class CatalogChange:
    """What an upsert changed; unchanged rows are not touched."""

    created: int
    updated: int
    unchanged: int


class Catalog(Protocol):
    """Events, markets, links. Markets and events are listed by id."""

    async def upsert(self, events: Sequence[Event], markets: Sequence[Market], now_us: int) -> CatalogChange: ...

    async def record_settlements(self, updates: Sequence[SettlementUpdate], now_us: int) -> Sequence[str]:
        """Apply settlements; an amended one gets the next revision. Answers the ids of markets that changed."""
        ...

    async def markets_by_id(self, market_ids: Sequence[str]) -> Mapping[str, Market]: ...

    async def list_markets(self, where: MarketFilter, after: Key | None, limit: int) -> Page[Market]: ...

    async def events_by_id(self, event_ids: Sequence[str]) -> Mapping[str, Event]: ...

    async def list_events(self, where: EventFilter, after: Key | None, limit: int) -> Page[Event]: ...

    async def list_links(self, where: MarketLinkFilter, after: Key | None, limit: int) -> Page[MarketLink]:
        """By ascending link id."""
        ...

    def all_markets(self, states: Sequence[MarketState], venues: Sequence[Venue]) -> AsyncIterator[Market]:
        """Every market of the named states and venues, streamed."""
        ...


# --- ticks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TimeRange:
    """[from, to) by receive time; None is open."""

    from_us: int | None = None
    to_us: int | None = None


class TickReader(Protocol):
    """Quotes, trades, candles. Ticks are listed by (receive_time, ingest_sequence), candles by start."""

    async def list_quotes(self, market_id: str, span: TimeRange, after: Key | None, limit: int) -> Page[Quote]: ...

    async def list_trades(self, market_id: str, span: TimeRange, after: Key | None, limit: int) -> Page[Trade]: ...

    async def list_candles(
        self, market_id: str, interval: CandleInterval, span: TimeRange, after: Key | None, limit: int
    ) -> Page[Candle]: ...

    async def latest_quotes(self, market_ids: Sequence[str]) -> Mapping[str, Quote]: ...

    async def quotes_after(self, ingest_sequence: int, limit: int) -> Sequence[Quote]:
        """Live quotes in commit order after a sequence; what WatchQuotes reads when it is woken."""
        ...

    async def live_head(self) -> int:
        """The last committed ingest sequence of the live lane."""
        ...

    def replay(
        self, span: TimeRange, market_ids: Sequence[str] | None = None
    ) -> AsyncIterator[Sequence[Quote | Trade]]:
        """Stored ticks of every lane in (receive_time, ingest_sequence) order, in batches, with bounded memory."""
        ...


# --- the pipeline's one transaction -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StrategyState:
    """A checkpoint: the kernel's state bytes and the tracker's open opportunities of one strategy on one subject."""

    strategy_id: str
    subject_id: str
    kernel: bytes
    opportunities: bytes


@dataclass(frozen=True, slots=True)
class Decision:
    """What the strategies make of a stored batch."""

    events: tuple[SignalEvent, ...] = ()
    """In order, without sequence."""
    states: tuple[StrategyState, ...] = ()
    """Only those that changed."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    quotes_inserted: int
    trades_inserted: int
    duplicates: int
    ingest_sequence: int
    """Head of the lane after the batch."""
    events: tuple[SignalEvent, ...]
    """As the log took them: numbered, known ones dropped."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write, by number: a higher epoch fences every lower one off."""

    epoch: int
    holder: str
    expire_time_us: int


class Fenced(Exception):
    """Another leader holds a higher epoch: stop writing at once; nothing of the transaction was kept."""


class PipelineStore(Protocol):
    """The leader's writes. Each method is one transaction."""

    async def acquire_lease(self, holder: str, ttl_us: int) -> Lease | None:
        """Take the leadership if it is free or run out, with a new epoch; None while another holds it."""
        ...

    async def renew_lease(self, lease: Lease, ttl_us: int) -> Lease:
        """:raises Fenced: another holder took over."""
        ...

    async def release_lease(self, lease: Lease) -> None: ...

    async def store_batch(
        self,
        lease: Lease,
        ticks: Sequence[Quote | Trade],
        decide: Callable[[Sequence[Quote | Trade]], Decision],
    ) -> BatchResult:
        """Store ticks once, let the strategies see the rows really inserted, keep what they decide, move the position.

        Without ticks ``decide`` is called all the same (a market closed while no tick comes); where all ticks were
        known already it is not.

        ``decide`` gets the inserted ticks in order with their ingest sequences and must not do I/O. Candles, states,
        events, head and position are in the same transaction.

        :raises Fenced: the lease's epoch is no longer the head's; nothing was kept.
        """
        ...

    async def append_events(self, lease: Lease, events: Sequence[SignalEvent]) -> tuple[SignalEvent, ...]:
        """Append events outside of a batch (expiry, grading, halts); known ones are dropped."""
        ...

    async def load_states(self, strategy_ids: Sequence[str]) -> Sequence[StrategyState]: ...

    async def active_signals(self) -> Sequence[SignalEvent]:
        """The last CREATED or REVISED event of every opportunity that is still ACTIVE."""
        ...

    async def save_feed_status(self, status: FeedStatus) -> None: ...

    async def quarantine(self, rows: Sequence[QuarantinedRow]) -> None: ...

    async def begin_run(self, venue: Venue | None, stage: str, now_us: int) -> str:
        """Record a pipeline run; answers its id (``run_...``)."""
        ...

    async def end_run(self, run_id: str, now_us: int, counts: Mapping[str, int], error: str | None = None) -> None: ...

    async def prepare_partitions(self, now_us: int) -> Sequence[str]:
        """Make the partitions of this month and the next two; answers the names of new ones."""
        ...


# --- signal log ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogBounds:
    """Where the log begins and ends now."""

    data_set_id: str
    head_sequence: int
    oldest_sequence: int
    """First sequence that can still be read; head + 1 in an empty log."""
    oldest_create_time_us: int | None


@dataclass(frozen=True, slots=True)
class SignalFilter:
    venues: tuple[Venue, ...] = ()
    event_ids: tuple[str, ...] = ()
    market_ids: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    strategy_ids: tuple[str, ...] = ()
    directions: tuple[Direction, ...] = ()
    minimum_strength_ppm: int = 0
    minimum_net_edge_micros: int | None = None
    include_simulated: bool = False
    include_replay: bool = False


@dataclass(frozen=True, slots=True)
class StoredSignal:
    """A signal with its life: the state and grade now, and the sequence and time of its first event."""

    signal: Signal
    state: SignalState
    sequence: int
    create_time_us: int
    end_time_us: int | None
    opening_strength_ppm: int
    opening_net_edge_micros: int | None
    grade: Any = None  # Grade | None, kept wide for the storage layer's decoding


@dataclass(frozen=True, slots=True)
class SignalListFilter:
    match: SignalFilter = field(default_factory=SignalFilter)
    states: tuple[SignalState, ...] = ()
    opportunity_ids: tuple[str, ...] = ()
    create_time_from_us: int | None = None
    create_time_to_us: int | None = None


class SignalLog(Protocol):
    """The log's readers."""

    async def bounds(self) -> LogBounds: ...

    async def read(self, after_sequence: int, limit: int) -> Sequence[SignalEvent]:
        """Events after a sequence, in order."""
        ...

    async def sequence_at(self, create_time_us: int) -> int:
        """The last sequence committed before an instant; 0 where there is none."""
        ...

    async def active_snapshot(self) -> tuple[int, Sequence[SignalEvent]]:
        """The head and, as of it, the last CREATED or REVISED event of each ACTIVE opportunity, in order."""
        ...

    async def get_signal(self, signal_id: str) -> StoredSignal | None: ...

    async def list_signals(
        self, where: SignalListFilter, after: Key | None, limit: int
    ) -> tuple[Page[StoredSignal], int]:
        """Newest first, with the head sequence as of which the page was read."""
        ...

    async def feed_statuses(self) -> Sequence[FeedStatus]: ...

    def wake_ups(self, on_wake: Callable[[str], None]) -> "WakeUps":
        """A listener that calls ``on_wake(channel)`` for each commit: ``signals``, ``quotes``, ``feed``, ``keys``.

        Losing wake-ups costs latency, never data: readers poll too. It is also called on every reconnect.
        """
        ...


class WakeUps(Protocol):
    async def run(self) -> None:
        """Listen until cancelled; reconnects by itself, pings its connection."""
        ...


class StrategyCatalog(Protocol):
    """The strategies that this server knows, with what they run with."""

    async def list_strategies(self) -> Sequence[StrategyDescription]:
        """All of them by ascending id; they are few."""
        ...


# --- keys, requests, shared state -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredKey:
    key_id: str
    owner: str
    """A label for operators; no personal data."""
    secret_hmac: bytes
    pepper_version: int
    principal: Principal
    create_time_us: int
    revoke_time_us: int | None
    expire_time_us: int | None


class KeyStore(Protocol):
    async def find(self, key_id: str) -> StoredKey | None: ...

    async def create(self, key: StoredKey) -> None: ...

    async def count(self) -> int: ...

    async def revoke(self, key_id: str, now_us: int) -> bool: ...

    async def touch(self, key_ids: Sequence[str], now_us: int) -> None:
        """Write last-used times; called at most once a minute a key."""
        ...


@dataclass(frozen=True, slots=True)
class LimitDecision:
    allowed: bool
    retry_after_us: int
    remaining: int


class RateLimiter(Protocol):
    def peek(self, bucket: str) -> LimitDecision:
        """What this process knows without asking anyone: denied only while an earlier denial still holds."""
        ...

    async def take(self, bucket: str, cost: int, per_minute: int, burst: int) -> LimitDecision:
        """GCRA on shared time; never raises: without the shared store a local bucket answers."""
        ...


class BookCache(Protocol):
    """The live books, shared between the pipeline's process and the serving ones. Losing it loses depth, not truth."""

    async def publish(self, books: Sequence[OrderBook]) -> None: ...

    async def get(self, market_id: str) -> OrderBook | None: ...


Clock = Callable[[], int]
"""Now, in microseconds since the epoch."""

HealthProbe = Callable[[], Awaitable[bool]]
