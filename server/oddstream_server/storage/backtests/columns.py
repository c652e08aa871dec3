"""Rows as integer columns: a binary COPY out of PostgreSQL, read without making an object a row.

Every column is an integer that is there (absent is -1), so each row has the same length and a block of rows is one
structured array.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import numpy as np

_HEADER_BYTES: Final = 19
_POSTGRES_EPOCH_US: Final = 946_684_800_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BLOCK_BYTES: Final = 8 * 1024 * 1024

Columns = dict[str, Any]

QUOTES: Final[Mapping[str, str]] = {
    "receive_time_us": "receive_time",
    "ingest_sequence": "ingest_sequence",
    "bid_price_micros": "coalesce(bid_price_micros, -1)",
    "bid_size_micros": "coalesce(bid_size_micros, -1)",
    "ask_price_micros": "coalesce(ask_price_micros, -1)",
    "ask_size_micros": "coalesce(ask_size_micros, -1)",
    "epoch": "epoch",
    "market_key": "market_key",
}
TRADES: Final[Mapping[str, str]] = {
    "receive_time_us": "receive_time",
    "ingest_sequence": "ingest_sequence",
    "price_micros": "price_micros",
    "size_micros": "size_micros",
    "taker_outcome": "coalesce(taker_outcome_index, -1)::bigint",
    "market_key": "market_key",
}
LEVELS: Final[Mapping[str, str]] = {
    "receive_time_us": "receive_time",
    "side": "side::bigint",
    "place": "place",
    "price_micros": "price_micros",
    "size_micros": "size_micros",
    "market_key": "market_key",
}
"""A level of a recorded book a row; ``side`` 0 for a bid, ``place`` from 1 for the best."""
WHOLE_LEVELS: Final[Mapping[str, str]] = {**LEVELS, "epoch": "epoch"}
LEVELS_TABLE: Final = (
    "(SELECT receive_time, epoch, market_key, l.* FROM books_live CROSS JOIN LATERAL ("
    "SELECT 0 AS side, b.* FROM unnest(bid_prices_micros, bid_sizes_micros) "
    "WITH ORDINALITY AS b(price_micros, size_micros, place) UNION ALL "
    "SELECT 1, a.* FROM unnest(ask_prices_micros, ask_sizes_micros) "
    "WITH ORDINALITY AS a(price_micros, size_micros, place)) AS l) AS levels"
)
LEVEL_KEY: Final = ("receive_time_us", "market", "side", "place")
"""What a level is known by, in the order of reading."""

WHOLE_QUOTES: Final[Mapping[str, str]] = {
    **QUOTES,
    "venue_time_us": "coalesce(venue_time, timestamptz 'epoch' - interval '1 microsecond')",
    "source_key": "source_key",
    "source_id": "source_id",
    "lane": "lane::int",
}
"""Everything that is known of a quote."""

_INT32: Final = frozenset({"market_key", "source_id", "lane"})


def literal(instant_us: int) -> str:
    """An instant as SQL."""
    return f"timestamptz '{_EPOCH + timedelta(microseconds=instant_us):%Y-%m-%d %H:%M:%S.%f+00}'"


def within(start_us: int, end_us: int, market_keys: Iterable[int] | None = None) -> str:
    """A condition on receive time and markets."""
    text = f"receive_time >= {literal(start_us)} AND receive_time < {literal(end_us)}"
    if market_keys is not None:
        text += f" AND market_key = ANY('{{{','.join(map(str, market_keys))}}}'::int[])"
    return text


async def copy_columns(
    driver: "asyncpg.Connection[Any]", table: str, columns: Mapping[str, str], condition: str
) -> Columns:
    """Columns of the rows that a condition of ours lets pass, in no order.

    :param columns: the SQL of each; never absent.
    """
    row_dtype = np.dtype(
        [("fields", ">i2")]
        + [pair for name in columns for pair in ((f"{name}_length", ">i4"), (name, ">i4" if name in _INT32 else ">i8"))]
    )
    reader = _Blocks(row_dtype, tuple(columns))
    await driver.copy_from_query(
        f"SELECT {', '.join(columns.values())} FROM {table} WHERE {condition}", output=reader.take, format="binary"
    )
    return reader.finished()


class _Blocks:
    """Turns what comes over the wire into columns, a block at a time."""

    def __init__(self, row_dtype: "np.dtype[Any]", names: tuple[str, ...]) -> None:
        self._row_dtype = row_dtype
        self._names = names
        self._held = bytearray()
        self._header = True
        self._parts: dict[str, list[Any]] = {name: [] for name in names}

    async def take(self, data: bytes) -> None:
        self._held += data
        if len(self._held) >= _BLOCK_BYTES:
            self._read()

    def _read(self) -> None:
        begin = _HEADER_BYTES if self._header else 0
        count = (len(self._held) - begin) // self._row_dtype.itemsize
        if count <= 0:
            return
        rows = np.frombuffer(self._held, dtype=self._row_dtype, count=count, offset=begin)
        for name in self._names:
            values = rows[name].astype(np.int64)
            self._parts[name].append(values + _POSTGRES_EPOCH_US if name.endswith("_time_us") else values)
        del rows
        self._held = self._held[begin + count * self._row_dtype.itemsize :]
        self._header = False

    def finished(self) -> Columns:
        self._read()
        return {
            name: np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
            for name, parts in ((n, self._parts.pop(n)) for n in self._names)
        }


def ordered(columns: Columns, *keys: str) -> Columns:
    """The rows sorted by some columns, the first one counting most."""
    order = np.lexsort(tuple(columns[key] for key in reversed(keys)))
    return {name: np.ascontiguousarray(values[order]) for name, values in columns.items()}


def joined(parts: Iterable[Columns]) -> Columns:
    """Rows of several tables with the same columns."""
    held = list(parts)
    return {name: np.concatenate([part[name] for part in held]) for name in held[0]}


def without_repeats(columns: Columns) -> Columns:
    """Each ingest sequence once: the first of its rows. A sequence is one row's for ever, wherever it is kept."""
    _, first = np.unique(columns["ingest_sequence"], return_index=True)
    if len(first) == len(columns["ingest_sequence"]):
        return columns
    first.sort()
    return {name: values[first] for name, values in columns.items()}


def sorted_once(columns: Columns, *key: str) -> Columns:
    """The rows sorted by a key, each key once."""
    rows = ordered(columns, *key)
    repeats = np.ones(len(rows[key[0]]), dtype=bool)
    repeats[:1] = False
    for name in key:
        repeats[1:] &= rows[name][1:] == rows[name][:-1]
    return {name: values[~repeats] for name, values in rows.items()}
