"""What a venue shows from moment to moment: quotes, trades, order books, candles and the state of its feed."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from oddstream_server.domain.market import Venue
from oddstream_server.domain.money import MICROS


class SourceKind(StrEnum):
    """Where a tick came from; with the source's name it makes the tick's identity."""

    WEBSOCKET = "websocket"  # one session and subscription: key = the venue's seq, or a count of ours
    POLL = "poll"  # key = digest of content and poll slot
    TRADES = "trades"  # key = the venue's trade id, or digest of the fill with its multiplicity
    IMPORT = "import"  # key = row number in the file


@dataclass(frozen=True, slots=True)
class TickSource:
    """One origin of ticks. (market, source, source_key) is a tick's identity for ever.

    ``name`` is unique within (venue, kind): a session's random id with the sid, the poll's endpoint, a file's digest.
    """

    venue: Venue
    kind: SourceKind
    name: str


@dataclass(frozen=True, slots=True)
class Quote:
    """Top of a market's one book in outcome-0 prices. A missing side is None, an unknown size is None."""

    market_id: str
    receive_time_us: int
    bid_price_micros: int | None
    bid_size_micros: int | None
    ask_price_micros: int | None
    ask_size_micros: int | None
    source: TickSource
    source_key: int
    """Signed 64-bit, unique within (market, source)."""
    venue_time_us: int | None = None
    epoch: int = 0
    """Grows at each resnapshot of the book; windows across a change of it are void."""
    ingest_sequence: int = 0
    """Set by storage; the order of ticks is (receive_time, ingest_sequence)."""


@dataclass(frozen=True, slots=True)
class Trade:
    """One print. ``taker_outcome_index`` is the outcome that the taker bought; the price is outcome 0's."""

    market_id: str
    receive_time_us: int
    price_micros: int
    size_micros: int
    taker_outcome_index: int | None
    source: TickSource
    source_key: str
    """The venue's trade id, or a digest in hex where the venue gives none."""
    venue_time_us: int | None = None
    block: bool = False
    """A block trade may print away from the book and stays out of price signals."""
    ingest_sequence: int = 0


@dataclass(frozen=True, slots=True)
class BookLevel:
    price_micros: int
    size_micros: int


@dataclass(frozen=True, slots=True)
class OrderBook:
    """A market's one book in outcome-0 prices, best first. Outcome 1's bids are these asks at payout - price."""

    market_id: str
    bids: tuple[BookLevel, ...]
    asks: tuple[BookLevel, ...]
    epoch: int
    receive_time_us: int
    venue_time_us: int | None = None

    @property
    def crossed(self) -> bool:
        return bool(self.bids and self.asks) and self.bids[0].price_micros >= self.asks[0].price_micros

    def top(self, source: TickSource, source_key: int) -> Quote:
        """The quote at the top of this book."""
        bid = self.bids[0] if self.bids else None
        ask = self.asks[0] if self.asks else None
        return Quote(
            market_id=self.market_id,
            receive_time_us=self.receive_time_us,
            bid_price_micros=bid.price_micros if bid else None,
            bid_size_micros=bid.size_micros if bid else None,
            ask_price_micros=ask.price_micros if ask else None,
            ask_size_micros=ask.size_micros if ask else None,
            source=source,
            source_key=source_key,
            venue_time_us=self.venue_time_us,
            epoch=self.epoch,
        )

    def mirrored(self, payout_micros: int = MICROS) -> Self:
        """The same book as the other outcome of a two-outcome market sees it."""
        return type(self)(
            market_id=self.market_id,
            bids=tuple(BookLevel(payout_micros - a.price_micros, a.size_micros) for a in self.asks),
            asks=tuple(BookLevel(payout_micros - b.price_micros, b.size_micros) for b in self.bids),
            epoch=self.epoch,
            receive_time_us=self.receive_time_us,
            venue_time_us=self.venue_time_us,
        )


class FeedState(StrEnum):
    LIVE = "live"
    STALE = "stale"  # connected, answers pings, but no data within the bound
    GAP = "gap"  # data was missed; the book was taken anew and the epoch grew
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """State of a venue's feed, pushed on every change. A silent socket is not a quiet market."""

    venue: Venue
    state: FeedState
    last_receive_time_us: int | None
    epoch: int
    change_time_us: int
    detail: str = ""
    """Our words for the operator: which stream, which reason; no venue text."""
    market_ids: tuple[str, ...] = ()
    """The markets concerned by a GAP; empty means the whole venue."""


class CandleInterval(StrEnum):
    MINUTE = "1m"
    HOUR = "1h"
    DAY = "1d"

    @property
    def duration_us(self) -> int:
        return {"1m": 60, "1h": 3_600, "1d": 86_400}[self.value] * 1_000_000


@dataclass(frozen=True, slots=True)
class Ohlc:
    open_micros: int
    high_micros: int
    low_micros: int
    close_micros: int


@dataclass(frozen=True, slots=True)
class Candle:
    """One UTC bucket [start, start + interval): trades, bids and asks apart, volume from trades."""

    market_id: str
    interval: CandleInterval
    start_time_us: int
    trade: Ohlc | None
    bid: Ohlc | None
    ask: Ohlc | None
    volume_micros: int
    trade_count: int
    revision: int
    """1 at first, one more each time late data changed a bucket that had ended."""
