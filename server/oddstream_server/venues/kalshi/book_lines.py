"""One market's book on Kalshi's socket: the snapshot, and changes gathered into whole venue timestamps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from oddstream_server.domain.money import MICROS
from oddstream_server.domain.quote import OrderBook, Quote, TickSource
from oddstream_server.venues.books import PriceLevels, Top
from oddstream_server.venues.decimals import cents, micros
from oddstream_server.venues.kalshi.ticks import levels, price_levels
from oddstream_server.venues.rows import QuarantineReason, RowError
from oddstream_server.venues.times import iso_us, milliseconds_us

_SNAPSHOT_KEYS = frozenset(
    {"market_ticker", "market_id", "yes_dollars_fp", "no_dollars_fp", "yes", "no", "ts", "ts_ms"}
)


class DataLost(Exception):
    """The book can't be what the venue has: changes are missing."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Change(NamedTuple):
    """A signed change of the size at one price."""

    bid: bool
    price_micros: int
    """In YES prices."""
    delta_micros: int
    timestamp: int | str | None
    """What deltas of one matching event share; None where the venue sends no time."""
    venue_time_us: int | None


@dataclass(slots=True)
class BookLine:
    """A market's book on one subscription. What is held back shows only as a whole timestamp."""

    ticker: str
    market_id: str
    sid: int
    source: TickSource
    epoch: int
    known: bool = False
    """False before the first snapshot and while the book is being taken anew."""
    pending: list[Change] = field(default_factory=list)
    tries: int = 0
    """Snapshots asked for because the last one couldn't be used."""
    _levels: PriceLevels = field(default_factory=PriceLevels)
    _shown: Top | None = None
    _pending_seq: int = 0
    _pending_since_us: int = 0
    _receive_time_us: int = 0
    _venue_time_us: int | None = None

    def order_book(self) -> OrderBook | None:
        """The book as of the last whole timestamp."""
        if not self.known:
            return None
        return self._levels.order_book(self.market_id, self.epoch, self._receive_time_us, self._venue_time_us)

    def forget(self, epoch: int) -> None:
        """The book is wrong from here on, until a snapshot."""
        self.known = False
        self.pending.clear()
        self.epoch = epoch
        self._levels = PriceLevels()
        self._shown = None

    def snapshot(self, message: Mapping[str, Any], seq: int, now_us: int, use_yes_price: bool) -> Quote:
        """Take the book as a snapshot has it. A side's key is absent when the side is empty.

        :raises RowError: it can't be read, or is crossed, which is what NO prices read in the wrong convention look
            like; the book is then unknown.
        """
        self.forget(self.epoch)
        in_cents = "yes" in message or "no" in message
        yes_key, no_key = ("yes", "no") if in_cents else ("yes_dollars_fp", "no_dollars_fp")
        if yes_key not in message and no_key not in message and not message.keys() <= _SNAPSHOT_KEYS:
            raise RowError(QuarantineReason.FIELD_MISSING, "a snapshot without sides but with fields nobody knows")
        taken = price_levels(
            levels(message.get(yes_key), yes_key, in_cents),
            levels(message.get(no_key), no_key, in_cents),
            use_yes_price,
        )
        if taken.crossed:
            raise RowError(
                QuarantineReason.BOOK_CROSSED,
                f"best bid is not below best ask with use_yes_price {use_yes_price}; the venue may have changed it",
            )
        self._levels = taken
        self.known = True
        self.tries = 0
        self._receive_time_us, self._venue_time_us = now_us, None
        return self._quote(taken.top(), seq)

    def read_delta(self, message: Mapping[str, Any], use_yes_price: bool) -> Change:
        """A change as the message tells it; nothing is applied yet."""
        side = message.get("side")
        if side != "yes" and side != "no":
            raise RowError(QuarantineReason.ENUM_UNKNOWN, "side is neither yes nor no")
        dollars = message.get("price_dollars")
        price = cents(message.get("price"), "price") if dollars is None else micros(dollars, "price_dollars")
        if not 0 < price < MICROS:
            raise RowError(QuarantineReason.PRICE_OUT_OF_RANGE, "the price is not between 0 and the payout")
        fixed = message.get("delta_fp")
        delta = micros(message.get("delta"), "delta") if fixed is None else micros(fixed, "delta_fp")
        stamp, exact = message.get("ts_ms"), message.get("ts")
        if stamp is None:
            stamp = exact
        if stamp is not None and (isinstance(stamp, bool) or not isinstance(stamp, int | str)):
            raise RowError(QuarantineReason.TIME_INVALID, "ts_ms is no time")
        venue_time_us: int | None = None
        if isinstance(exact, str):
            venue_time_us = iso_us(exact, "ts")
        elif stamp is not None:
            venue_time_us = milliseconds_us(stamp, "ts_ms")
        if side == "no" and not use_yes_price:
            price = MICROS - price
        return Change(side == "yes", price, delta, stamp, venue_time_us)

    def belongs_to_pending(self, change: Change) -> bool:
        """True when the change is of the same venue timestamp as those held back, or none are held back."""
        return not self.pending or (change.timestamp is not None and change.timestamp == self.pending[-1].timestamp)

    def hold(self, change: Change, seq: int, now_us: int) -> None:
        self.pending.append(change)
        self._pending_seq = seq
        self._pending_since_us = now_us

    def whole_by_silence(self, now_us: int, quiet_us: int, crossed_us: int) -> bool:
        """True when what is held back may be shown although no later timestamp came yet."""
        silence_us = now_us - self._pending_since_us
        if silence_us < quiet_us:
            return False
        return silence_us >= crossed_us or not self._would_cross()

    def _would_cross(self) -> bool:
        trial = PriceLevels(self._levels.bids.items(), self._levels.asks.items())
        for change in self.pending:
            _apply(trial, change)
        return trial.crossed

    def show(self, now_us: int) -> Quote | None:
        """Apply what is held back; the new top, or None where it is the same as before.

        :raises DataLost: a size fell below zero by the end of the timestamp.
        """
        if not self.pending:
            return None
        levels_now, negative = self._levels, dict[tuple[bool, int], int]()
        for change in self.pending:
            place = (change.bid, change.price_micros)
            side = levels_now.bids if change.bid else levels_now.asks
            size = side.get(change.price_micros, negative.get(place, 0)) + change.delta_micros
            negative.pop(place, None)
            if size < 0:
                negative[place] = size
            (levels_now.set_bid if change.bid else levels_now.set_ask)(change.price_micros, size)
        last = self.pending[-1]
        self.pending.clear()
        if negative:
            raise DataLost("a size fell below zero")
        self._receive_time_us, self._venue_time_us = now_us, last.venue_time_us
        top = levels_now.top()
        return None if top == self._shown else self._quote(top, self._pending_seq)

    def _quote(self, top: Top, seq: int) -> Quote:
        self._shown = top
        bid, bid_size, ask, ask_size = top
        return Quote(
            market_id=self.market_id,
            receive_time_us=self._receive_time_us,
            bid_price_micros=bid,
            bid_size_micros=bid_size,
            ask_price_micros=ask,
            ask_size_micros=ask_size,
            source=self.source,
            source_key=seq,
            venue_time_us=self._venue_time_us,
            epoch=self.epoch,
        )


def _apply(book: PriceLevels, change: Change) -> None:
    side = book.bids if change.bid else book.asks
    size = side.get(change.price_micros, 0) + change.delta_micros
    (book.set_bid if change.bid else book.set_ask)(change.price_micros, size)
