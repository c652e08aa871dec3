"""Recorded rows as integer columns: quotes, trades and books of many markets, interleaved in one order of time.

Rows are ordered by (receive_time, ingest_sequence), ascending, and no two rows of one kind share both. ``market`` is
the market's dense index in the :class:`~oddstream_server.backtesting.records.universe.Universe`. A value that is
absent is
:data:`MISSING`; prices and sizes are never negative, so that no mask is needed beside it.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.domain.quote import OrderBook, Quote, Trade
from oddstream_server.strategies.kernel import MISSING

Integers = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int32]

__all__ = ["MISSING", "BookRows", "PriceRows", "QuoteRows", "Shard", "TradeRows"]

_SIDES: Final = (("bid", 0), ("ask", 1))


def _or_missing(value: int | None) -> int:
    return MISSING if value is None else value


@dataclass(frozen=True, slots=True)
class _Rows:
    _labels: ClassVar[tuple[str, ...]] = ("market",)
    """Columns that say where a row stands, not what it shows."""

    _narrow: ClassVar[tuple[str, ...]] = ("market",)
    """Columns of int32."""

    market: Indices
    receive_time_us: Integers
    ingest_sequence: Integers

    def __post_init__(self) -> None:
        for column in fields(self):
            values = getattr(self, column.name)
            kind = np.int32 if column.name in self._narrow else np.int64
            if values.dtype != kind:
                raise ValueError(f"{column.name} must be {kind.__name__}, got {values.dtype}")
        if len(self) > 1:
            times, sequences = self.receive_time_us, self.ingest_sequence
            later = np.diff(times)
            if (later < 0).any() or (np.diff(sequences)[later == 0] <= 0).any():
                raise InvalidArgument(
                    [FieldViolation("rows", "must ascend by (receive_time, ingest_sequence) without equals; sort them")]
                )

    def __len__(self) -> int:
        return len(self.receive_time_us)

    @property
    def nbytes(self) -> int:
        """Memory of the columns in bytes."""
        return sum(int(getattr(self, column.name).nbytes) for column in fields(self))

    def taken(self, rows: Any) -> Self:
        """The rows that an index or mask picks, whatever their order."""
        made = object.__new__(type(self))
        for column in fields(self):
            object.__setattr__(made, column.name, getattr(self, column.name)[rows])
        return made

    def until(self, end_us: int) -> Self:
        """The rows received before an instant."""
        end = int(np.searchsorted(self.receive_time_us, end_us, side="left"))
        return self if end == len(self) else self.taken(slice(0, end))

    @classmethod
    def unchecked(cls, shown: Self, receive_time_us: Integers, ingest_sequence: Integers) -> Self:
        """The values of some rows at other instants, which may be equal."""
        made = object.__new__(cls)
        for column in fields(cls):
            object.__setattr__(made, column.name, getattr(shown, column.name))
        object.__setattr__(made, "receive_time_us", receive_time_us)
        object.__setattr__(made, "ingest_sequence", ingest_sequence)
        return made

    @classmethod
    def interleaved(cls, parts: Sequence[Self]) -> Self:
        """Rows of several markets, each part in order, as one."""
        order = np.lexsort(
            (np.concatenate([p.ingest_sequence for p in parts]), np.concatenate([p.receive_time_us for p in parts]))
        )
        return cls(
            **{
                column.name: np.ascontiguousarray(np.concatenate([getattr(p, column.name) for p in parts])[order])
                for column in fields(cls)
            }
        )

    def digests(self, markets: Sequence[int]) -> list[bytes]:
        """SHA-256 over each market's own rows, whatever it is interleaved with."""
        place_of = np.zeros(int(self.market.max(initial=0)) + 1, dtype=np.int64)
        known = [m for m in markets if m < len(place_of)]
        place_of[known] = np.arange(1, len(known) + 1)
        places = place_of[self.market]
        # few markets are sorted by digits, which is ten times as fast
        order = np.argsort(places.astype(np.uint16) if len(known) < 65_535 else places, kind="stable")
        sorted_places = places[order]
        wanted = [place_of[m] if m < len(place_of) else len(known) + 1 for m in markets]
        begins = np.searchsorted(sorted_places, wanted, side="left")
        ends = np.searchsorted(sorted_places, wanted, side="right")
        found = [hashlib.sha256() for _ in markets]
        for column in fields(self):
            if column.name not in self._labels:
                # a column at a time: gathered once for all markets, and never more than one copy in memory
                values = getattr(self, column.name)[order].astype("<i8", copy=False)
                for digest, begin, end in zip(found, begins, ends, strict=True):
                    digest.update(values[begin:end])
        return [digest.digest() for digest in found]


@dataclass(frozen=True, slots=True)
class QuoteRows(_Rows):
    """Top of book in outcome-0 prices. A price takes 32 bits, since a contract pays 10 USD at most."""

    _narrow: ClassVar[tuple[str, ...]] = ("market", "bid_price_micros", "ask_price_micros", "epoch")

    bid_price_micros: Indices
    bid_size_micros: Integers
    ask_price_micros: Indices
    ask_size_micros: Integers
    epoch: Indices
    """Changes where data was missed: a gap."""

    @classmethod
    def of(cls, quotes: Iterable[Quote], index: Mapping[str, int]) -> Self:
        """Columns of quotes in the order of time."""
        rows = sorted(quotes, key=lambda q: (q.receive_time_us, q.ingest_sequence))
        return cls(
            market=np.array([index[q.market_id] for q in rows], dtype=np.int32),
            receive_time_us=np.array([q.receive_time_us for q in rows], dtype=np.int64),
            ingest_sequence=np.array([q.ingest_sequence for q in rows], dtype=np.int64),
            bid_price_micros=np.array([_or_missing(q.bid_price_micros) for q in rows], dtype=np.int32),
            bid_size_micros=np.array([_or_missing(q.bid_size_micros) for q in rows], dtype=np.int64),
            ask_price_micros=np.array([_or_missing(q.ask_price_micros) for q in rows], dtype=np.int32),
            ask_size_micros=np.array([_or_missing(q.ask_size_micros) for q in rows], dtype=np.int64),
            epoch=np.array([q.epoch for q in rows], dtype=np.int32),
        )


@dataclass(frozen=True, slots=True)
class TradeRows(_Rows):
    """Prints in outcome-0 prices; block trades are left out beforehand."""

    price_micros: Integers
    size_micros: Integers
    taker_outcome: Integers
    """The outcome that the taker bought; MISSING where the venue doesn't tell."""

    @classmethod
    def of(cls, trades: Iterable[Trade], index: Mapping[str, int]) -> Self:
        """Columns of trades in the order of time."""
        rows = sorted((t for t in trades if not t.block), key=lambda t: (t.receive_time_us, t.ingest_sequence))
        return cls(
            market=np.array([index[t.market_id] for t in rows], dtype=np.int32),
            receive_time_us=np.array([t.receive_time_us for t in rows], dtype=np.int64),
            ingest_sequence=np.array([t.ingest_sequence for t in rows], dtype=np.int64),
            price_micros=np.array([t.price_micros for t in rows], dtype=np.int64),
            size_micros=np.array([t.size_micros for t in rows], dtype=np.int64),
            taker_outcome=np.array([_or_missing(t.taker_outcome_index) for t in rows], dtype=np.int64),
        )

    @classmethod
    def none(cls) -> Self:
        return cls.of((), {})


@dataclass(frozen=True, slots=True)
class PriceRows(_Rows):
    """Prices of what markets are about. ``market`` is the index of the instrument in the universe."""

    price_micros: Integers

    @classmethod
    def of(cls, prices: Iterable[Quote], index: Mapping[str, int]) -> Self:
        """Columns of prices in the order of time; they are stored as quotes whose bid is the price."""
        rows = sorted(prices, key=lambda q: (q.receive_time_us, q.ingest_sequence))
        return cls(
            market=np.array([index[q.market_id] for q in rows], dtype=np.int32),
            receive_time_us=np.array([q.receive_time_us for q in rows], dtype=np.int64),
            ingest_sequence=np.array([q.ingest_sequence for q in rows], dtype=np.int64),
            price_micros=np.array([_or_missing(q.bid_price_micros) for q in rows], dtype=np.int64),
        )

    @classmethod
    def none(cls) -> Self:
        return cls.of((), {})


@dataclass(frozen=True, slots=True)
class BookRows(_Rows):
    """One level of a recorded book a row, best first within a side; a book's levels share its time and its number."""

    _labels: ClassVar[tuple[str, ...]] = ("market", "ingest_sequence", "book")

    book: Integers
    """Number of the book, the same for all its levels; ascending with the rows."""
    side: Integers
    """0 for a bid, 1 for an ask."""
    price_micros: Integers
    size_micros: Integers

    @classmethod
    def of(cls, books: Iterable[OrderBook], index: Mapping[str, int]) -> Self:
        """Columns of books in the order of time."""
        rows = [
            (index[book.market_id], book.receive_time_us, number, side, level.price_micros, level.size_micros)
            for number, book in enumerate(sorted(books, key=lambda b: (b.receive_time_us, b.market_id)))
            for name, side in _SIDES
            for level in (book.bids if name == "bid" else book.asks)
        ]
        columns = np.array(rows, dtype=np.int64).reshape(-1, 6)
        return cls(
            market=columns[:, 0].astype(np.int32),
            receive_time_us=np.ascontiguousarray(columns[:, 1]),
            ingest_sequence=np.arange(len(columns), dtype=np.int64),
            book=np.ascontiguousarray(columns[:, 2]),
            side=np.ascontiguousarray(columns[:, 3]),
            price_micros=np.ascontiguousarray(columns[:, 4]),
            size_micros=np.ascontiguousarray(columns[:, 5]),
        )

    @classmethod
    def none(cls) -> Self:
        return cls.of((), {})


@dataclass(frozen=True, slots=True)
class Shard:
    """The rows of some markets: whole events, so that no group is cut. It bounds the memory of a run's first half."""

    markets: tuple[int, ...]
    """Dense indices, ascending; those without rows as well."""
    quotes: QuoteRows
    trades: TradeRows
    books: BookRows
    prices: PriceRows = field(default_factory=PriceRows.none)
    """Of the instruments that these markets are about."""

    def until(self, end_us: int) -> Self:
        """The rows received before an instant."""
        parts = [rows.until(end_us) for rows in (self.quotes, self.trades, self.books, self.prices)]
        return type(self)(self.markets, *parts)  # type: ignore[arg-type]  # each has the type that it had

    @property
    def nbytes(self) -> int:
        return self.quotes.nbytes + self.trades.nbytes + self.books.nbytes + self.prices.nbytes

    def digests(self, instrument_of: Sequence[int] | Integers = ()) -> dict[int, bytes]:
        """SHA-256 of each market's rows.

        :param instrument_of: by market, the instrument whose prices belong to them; -1 for none.
        """
        parts = [rows.digests(self.markets) for rows in (self.quotes, self.trades, self.books)]
        about = {m: int(instrument_of[m]) for m in self.markets} if len(instrument_of) else {}
        instruments = sorted({k for k in about.values() if k >= 0})
        prices = dict(zip(instruments, self.prices.digests(instruments), strict=True))
        return {
            market: hashlib.sha256(
                b"".join(part[i] for part in parts) + prices.get(about.get(market, -1), b"")
            ).digest()
            for i, market in enumerate(self.markets)
        }
