"""Quotes from files at the rate of a binary COPY: columns in, resumable, and stored once however often a file comes.

How a command uses it::

    imports = QuoteImports(database)
    source = TickSource(Venue.POLYMARKET_US, SourceKind.IMPORT, file_digest)
    async with imports.open(source, total_rows) as quotes:
        for columns in read_from(path, quotes.position):          # row number of the first row still missing
            keys = await quotes.market_keys(columns.market_ids)   # int32, one for each id given
            await quotes.write(QuoteColumns(...))                 # one transaction: rows and position
        await quotes.build_candles(report)

A row's ``source_key`` is its number in the file, so a file must always be read in the same order. Rows go to the import
lane: live strategies don't see them. ``write`` takes 100,000 to 500,000 rows best, and holds about 150 bytes a row.

Candles are not built row by row: of quotes a minute apart a minute's candle is as much work as its quote. They are
built at the end, by one set statement for some hundred markets at a time; building them twice changes nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from oddstream_server.application.ports import QuarantinedRow
from oddstream_server.application.quote_columns import MISSING, Integers, QuoteColumns
from oddstream_server.domain.errors import Aborted
from oddstream_server.domain.quote import SourceKind, TickSource
from oddstream_server.storage import quarantine
from oddstream_server.storage.database import Database
from oddstream_server.storage.partitions import Month, month_of, next_month, partition_name
from oddstream_server.storage.tick_store.candles import MERGE_QUOTES_OF_A_SOURCE
from oddstream_server.storage.tick_store.ticks import IMPORT, QUOTE_COLUMNS, TickStore

__all__ = ["MISSING", "QuoteColumns", "QuoteImport", "QuoteImports"]

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_POSTGRES_EPOCH_US = 946_684_800_000_000
_BLOCK_ROWS = 50_000
_MARKETS_A_STATEMENT = 200
_WIDTHS = {"market_key": 4, "source_id": 4, "lane": 2}


class QuoteImports:
    """Opens imports; several may run at once, of different files."""

    def __init__(self, database: Database, ticks: TickStore | None = None) -> None:
        self._database = database
        self._ticks = ticks or TickStore(database)

    @asynccontextmanager
    async def open(self, source: TickSource, total_rows: int | None = None) -> "AsyncIterator[QuoteImport]":
        """Begin an import, or go on where it stopped.

        :param source: of kind IMPORT, named by the digest of the file's content.
        :param total_rows: rows of the file, for whoever looks at the position; None where it is not known.
        """
        if source.kind is not SourceKind.IMPORT:
            raise ValueError(f"an import's source is of kind {SourceKind.IMPORT}, got {source.kind}")
        source_id = (await self._ticks.names.mint_source_ids([source]))[source]
        async with self._database.transaction() as transaction:
            row = await transaction.driver.fetchrow(
                "INSERT INTO import_positions AS p (source_id, next_row, total_rows, begin_time, update_time) "
                "VALUES ($1, 0, $2, now(), now()) ON CONFLICT (source_id) DO UPDATE "
                "SET total_rows = coalesce(excluded.total_rows, p.total_rows) RETURNING next_row, candles_built",
                source_id,
                total_rows,
            )
        assert row is not None
        yield QuoteImport(
            self._database, self._ticks, source, source_id, row["next_row"], total_rows, row["candles_built"]
        )


class QuoteImport:
    """One file on its way in."""

    def __init__(
        self,
        database: Database,
        ticks: TickStore,
        source: TickSource,
        source_id: int,
        position: int,
        total_rows: int | None,
        candles_built: bool,
    ) -> None:
        self._database = database
        self._ticks = ticks
        self._source_id = source_id
        self.source = source
        self.position = position
        """Number of the first row that is not stored."""
        self.total_rows = total_rows
        self.candles_built = candles_built

    @property
    def complete(self) -> bool:
        """True once every row of a file of known length is stored."""
        return self.total_rows is not None and self.position >= self.total_rows

    async def market_keys(self, market_ids: Sequence[str]) -> npt.NDArray[np.int32]:
        """The key of each id, in the order given; hand over the distinct ones and index with the codes."""
        keys = await self._ticks.names.mint_market_keys(market_ids)
        return np.fromiter((keys[m] for m in market_ids), dtype=np.int32, count=len(market_ids))

    async def write(self, columns: QuoteColumns, rejects: Sequence[QuarantinedRow] = ()) -> None:
        """Store the next rows, quarantine what was wrong in them and move the position, in one transaction.

        :raises Aborted: another process moved the position of the same file meanwhile.
        """
        if columns.first_row != self.position:
            raise ValueError(f"the next row is {self.position}, got columns from {columns.first_row}")
        count = len(columns)
        if count == 0:
            return
        first, last = int(columns.receive_time_us.min()), int(columns.receive_time_us.max())
        months = [month_of(first)]
        while months[-1] != month_of(last):
            months.append(next_month(months[-1]))
        present = np.unique(_months(columns.receive_time_us)) if len(months) > 1 else None
        if present is not None:
            months = [m for m in months if _month_number(m) in set(present.tolist())]
        await self._ticks.partitions.ensure("quotes_import", months)
        async with self._database.transaction() as transaction:
            driver = transaction.driver
            moved = await driver.fetchval(
                "UPDATE import_positions SET next_row = next_row + $3, update_time = now(), candles_built = false, "
                "first_time = least(first_time, $4), last_time = greatest(last_time, $5) "
                "WHERE source_id = $1 AND next_row = $2 RETURNING next_row",
                self._source_id,
                self.position,
                count,
                first,
                last,
            )
            if moved is None:
                raise Aborted(
                    "another process is importing the same file; wait for it to end, then start again",
                    reason="CONCURRENT_CHANGE",
                )
            sequence = await driver.fetchval(
                f"UPDATE ingest_lanes SET sequence = sequence + $1 WHERE lane = {IMPORT} RETURNING sequence", count
            )
            await driver.execute(
                "UPDATE import_positions SET first_sequence = coalesce(first_sequence, $2), last_sequence = $3 "
                "WHERE source_id = $1",
                self._source_id,
                sequence - count + 1,
                sequence,
            )
            for month in months:
                rows = (
                    None
                    if len(months) == 1
                    else np.flatnonzero(_months(columns.receive_time_us) == _month_number(month))
                )
                await driver.copy_to_table(
                    partition_name("quotes_import", month),
                    source=_ahead(binary_rows(columns, rows, self._source_id, sequence - count + 1)),
                    columns=QUOTE_COLUMNS,
                    format="binary",
                )
            await quarantine.keep(transaction, rejects)
        self.position = moved
        self.candles_built = False

    async def build_candles(self, report: Callable[[int, int], None] | None = None) -> None:
        """Merge the file's quotes into the candles of every interval; nothing to do when that is done already.

        :param report: gets (markets done, markets in the file).
        """
        if self.candles_built:
            return
        async with self._database.reading() as transaction:
            span = await transaction.driver.fetchrow(
                "SELECT first_time, last_time FROM import_positions WHERE source_id = $1", self._source_id
            )
            assert span is not None
            if span["first_time"] is None:
                return
            arguments = (span["first_time"], span["last_time"] + 1, self._source_id)
            bounds = await transaction.driver.fetchrow(
                "SELECT array_agg(DISTINCT market_key) AS keys, min(coalesce(venue_time, receive_time)) AS first_time, "
                "max(coalesce(venue_time, receive_time)) AS last_time FROM quotes "
                f"WHERE lane = {IMPORT} AND receive_time >= $1 AND receive_time < $2 AND source_id = $3",
                *arguments,
            )
        assert bounds is not None
        month, last_month = month_of(bounds["first_time"]), month_of(bounds["last_time"])
        months = [month]
        while months[-1] != last_month:
            months.append(next_month(months[-1]))
        await self._ticks.partitions.ensure("candles", months)
        keys = sorted(bounds["keys"])
        for start in range(0, len(keys), _MARKETS_A_STATEMENT):
            some = keys[start : start + _MARKETS_A_STATEMENT]
            async with self._database.transaction() as transaction:
                await transaction.driver.execute("SET LOCAL work_mem = '64MB'")
                await transaction.driver.execute(MERGE_QUOTES_OF_A_SOURCE, *arguments, span["last_time"], some)
            if report is not None:
                report(min(start + _MARKETS_A_STATEMENT, len(keys)), len(keys))
        async with self._database.transaction() as transaction:
            await transaction.driver.execute(
                "UPDATE import_positions SET candles_built = true WHERE source_id = $1 AND next_row = $2",
                self._source_id,
                self.position,
            )
        self.candles_built = True


def binary_rows(
    columns: QuoteColumns, rows: "npt.NDArray[np.intp] | None", source_id: int, first_sequence: int
) -> Iterator[bytes]:
    """Rows in COPY's binary format: a header, tuples of (count, then length and value of each field), a trailer.

    An absent field has no value, so rows with other fields absent have another length. Rows are grouped by which
    fields they lack, and each group is one structured array; within the table their order is told by their numbers.
    """
    yield _HEADER
    total = len(columns) if rows is None else len(rows)
    for start in range(0, total, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, total)
        taken: Any = slice(start, stop) if rows is None else rows[start:stop]
        offset = np.arange(start, stop) if rows is None else rows[start:stop]
        constant = np.int64(0)
        values: dict[str, Any] = {
            "receive_time": columns.receive_time_us[taken] - _POSTGRES_EPOCH_US,
            "venue_time": _taken(columns.venue_time_us, taken, _POSTGRES_EPOCH_US),
            "ingest_sequence": offset + first_sequence,
            "source_key": offset + columns.first_row,
            "bid_price_micros": _taken(columns.bid_price_micros, taken),
            "bid_size_micros": _taken(columns.bid_size_micros, taken),
            "ask_price_micros": _taken(columns.ask_price_micros, taken),
            "ask_size_micros": _taken(columns.ask_size_micros, taken),
            "epoch": constant,
            "market_key": columns.market_key[taken],
            "source_id": source_id,
            "lane": IMPORT,
        }
        for present, members in _by_absence(values, stop - start):
            yield _encoded(values, present, members)
    yield _TRAILER


def _taken(column: Integers | None, taken: Any, less: int = 0) -> Any:
    if column is None:
        return None
    some = column[taken]
    return some if less == 0 else np.where(some == MISSING, MISSING, some - less)


def _by_absence(values: dict[str, Any], count: int) -> Iterator[tuple[frozenset[str], Any]]:
    """(names of the fields that are there, which rows): one pair for each pattern that occurs."""
    whole = frozenset(name for name, value in values.items() if value is not None)
    nullable = [n for n in QUOTE_COLUMNS if n in whole and n.endswith(("_price_micros", "_size_micros", "venue_time"))]
    pattern = np.zeros(count, dtype=np.int8)
    for bit, name in enumerate(nullable):
        pattern |= (values[name] == MISSING).astype(np.int8) << bit
    found = np.unique(pattern)
    for code in found.tolist():
        absent = {name for bit, name in enumerate(nullable) if code >> bit & 1}
        yield whole - absent, slice(None) if len(found) == 1 else np.flatnonzero(pattern == code)


def _encoded(values: dict[str, Any], present: frozenset[str], members: Any) -> bytes:
    layout: list[tuple[str, str]] = [("fields", ">i2")]
    for name in QUOTE_COLUMNS:
        layout.append((f"{name}_length", ">i4"))
        if name in present:
            layout.append((name, f">i{_WIDTHS.get(name, 8)}"))
    block = np.empty(len(values["receive_time"][members]), dtype=layout)
    block["fields"] = len(QUOTE_COLUMNS)
    for name in QUOTE_COLUMNS:
        block[f"{name}_length"] = _WIDTHS.get(name, 8) if name in present else -1
        if name in present:
            value = values[name]
            block[name] = value[members] if isinstance(value, np.ndarray) else value
    return block.tobytes()


async def _ahead(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The blocks, with the next one being made in a thread while the server takes the last one."""
    coming = asyncio.ensure_future(asyncio.to_thread(next, blocks, b""))
    try:
        while block := await coming:
            coming = asyncio.ensure_future(asyncio.to_thread(next, blocks, b""))
            yield block
    finally:
        coming.cancel()


def _months(instants_us: Integers) -> npt.NDArray[np.int64]:
    """Months since January 1970 of each instant."""
    return instants_us.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)


def _month_number(month: Month) -> int:
    return (month[0] - 1970) * 12 + month[1] - 1
