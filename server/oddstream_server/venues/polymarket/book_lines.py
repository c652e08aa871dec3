"""One market's book on the CLOB's socket: whole books, and absolute sizes gathered into whole venue timestamps."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from oddstream_server.domain.quote import OrderBook, Quote, TickSource
from oddstream_server.venues.books import PriceLevels, Top


class Level(NamedTuple):
    """What rests at a price now; size 0 removes it."""

    bid: bool
    price_micros: int
    size_micros: int


class Best(NamedTuple):
    """The best prices that the venue names beside a change; None for an empty side."""

    bid_micros: int | None
    ask_micros: int | None


@dataclass(slots=True)
class BookLine:
    """A market's book in outcome-0 prices. What is held back shows only as a whole timestamp."""

    market_id: str
    known: bool = False
    """False before the first book and while it is being taken anew."""
    epoch: int = 0
    pending: list[Level] = field(default_factory=list)
    mismatches: int = 0
    """Whole timestamps in a row after which our best prices weren't the venue's."""
    _levels: PriceLevels = field(default_factory=PriceLevels)
    _shown: Top | None = None
    _pending_time_us: int = -1
    _pending_since_us: int = 0
    _best: Best | None = None
    _receive_time_us: int = 0
    _venue_time_us: int | None = None

    def order_book(self) -> OrderBook | None:
        """The book as of the last whole timestamp."""
        if not self.known:
            return None
        return self._levels.order_book(self.market_id, self.epoch, self._receive_time_us, self._venue_time_us)

    def forget(self, epoch: int) -> None:
        """The book is wrong from here on, until the next whole one."""
        self.known = False
        self.epoch = epoch
        self.pending.clear()
        self._best = None
        self._levels = PriceLevels()
        self._shown = None
        self.mismatches = 0

    def replace(self, book: PriceLevels, venue_time_us: int, now_us: int, source: TickSource, key: int) -> Quote | None:
        """Take a whole book; the new top, or None where it is the one that was shown last."""
        self.pending.clear()
        self._best = None
        self._levels = book
        self.known = True
        return self._top_quote(venue_time_us, now_us, source, key)

    def belongs_to_pending(self, venue_time_us: int) -> bool:
        """True when a change of this time is of the timestamp that is held back, or none is held back."""
        return not self.pending or venue_time_us == self._pending_time_us

    def hold(self, changes: Iterable[Level], best: Best | None, venue_time_us: int, now_us: int) -> None:
        self.pending += changes
        self._best = best
        self._pending_time_us = venue_time_us
        self._pending_since_us = now_us

    def whole_by_silence(self, now_us: int, quiet_us: int, crossed_us: int) -> bool:
        """True when what is held back may be shown although no later timestamp came yet."""
        silence_us = now_us - self._pending_since_us
        if silence_us < quiet_us:
            return False
        return silence_us >= crossed_us or not self._would_cross()

    def _would_cross(self) -> bool:
        trial = PriceLevels(self._levels.bids.items(), self._levels.asks.items())
        _apply(trial, self.pending)
        return trial.crossed

    def show(self, now_us: int, source: TickSource, key: int) -> Quote | None:
        """Apply what is held back; the new top, or None where it is the same as before."""
        if not self.pending:
            return None
        _apply(self._levels, self.pending)
        self.pending.clear()
        best, self._best = self._best, None
        bid, _, ask, _ = self._levels.top()
        agrees = not self._levels.crossed and (best is None or best == (bid, ask))
        self.mismatches = 0 if agrees else self.mismatches + 1
        return self._top_quote(self._pending_time_us, now_us, source, key)

    def _top_quote(self, venue_time_us: int, now_us: int, source: TickSource, key: int) -> Quote | None:
        self._receive_time_us, self._venue_time_us = now_us, venue_time_us
        top = self._levels.top()
        if top == self._shown:
            return None
        self._shown = top
        bid, bid_size, ask, ask_size = top
        return Quote(
            market_id=self.market_id,
            receive_time_us=now_us,
            bid_price_micros=bid,
            bid_size_micros=bid_size,
            ask_price_micros=ask,
            ask_size_micros=ask_size,
            source=source,
            source_key=key,
            venue_time_us=venue_time_us,
            epoch=self.epoch,
        )


def _apply(book: PriceLevels, changes: Iterable[Level]) -> None:
    for change in changes:
        (book.set_bid if change.bid else book.set_ask)(change.price_micros, change.size_micros)
