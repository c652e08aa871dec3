"""``import quotes``: a file into the tick store, in bounded memory, from where it stopped the last time."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from oddstream_server.application.ports import Catalog, Clock
from oddstream_server.application.quote_columns import OpenQuoteImport, QuoteColumns, QuoteImportTarget
from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.domain.market import Event, Market
from oddstream_server.domain.quote import SourceKind, TickSource
from oddstream_server.pipeline.declarations import Declarations
from oddstream_server.pipeline.imports.columns import BATCH_ROWS, QuoteRows, count_rows, read_rows
from oddstream_server.pipeline.imports.forms import QuoteForm
from oddstream_server.pipeline.imports.rejects import Rejects

_MARKETS_AT_ONCE: Final = 1_000
_HASH_BLOCK: Final = 1 << 20
_NO_SIDE: Final = (
    "a price lies between 0 and 1 and a size is 0 or more, both with at most six decimals; the side is stored as absent"
)

Progress = Callable[[str, int, int | None], None]
"""Told (what is going on, how much is done, how much there is; None where that isn't known)."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    rows: int
    """Rows of the file that are stored now."""
    rows_now: int
    """Rows that this call stored; 0 when the file was in already."""
    markets_created: int
    rejected: int
    """Rows of this call with a number that is no price or size; stored without that side, and quarantined."""


async def import_quotes(
    path: Path,
    form: QuoteForm,
    *,
    target: QuoteImportTarget,
    catalog: Catalog,
    clock: Clock,
    declarations: Declarations | None = None,
    markets_file: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
    batch_rows: int = BATCH_ROWS,
    candles: bool = True,
) -> ImportReport:
    """Import one file of quotes; the same file again stores nothing twice, and a stopped import goes on.

    Markets that the catalog doesn't know are created, from ``markets_file`` (Parquet with the form's market column)
    where it tells of them, else from the rows. They are CLOSED: an import is the past.

    :param candles: also merge the quotes into candles. Sparse quotes make almost as many one-minute candles as rows;
        a later call with candles builds what is missing.
    :raises InvalidArgument: the path or a column isn't what the form needs.
    :raises Aborted: another process imports the same file.
    """
    if not path.is_file():
        raise InvalidArgument([FieldViolation("file", f"{path} is not a file; name a Parquet or CSV file")])
    total = await asyncio.to_thread(count_rows, path)
    digest = await asyncio.to_thread(digest_of_file, path, progress)
    source = TickSource(form.venue, SourceKind.IMPORT, digest)
    introducer = _Introducer(form, catalog, clock, declarations or Declarations())
    if markets_file is not None:
        await asyncio.to_thread(introducer.read, markets_file)
    async with target.open(source, total) as opened:
        begun = opened.position
        rejects = Rejects(form.venue, "import quotes", path, "side_out_of_range", _NO_SIDE, clock)
        rejected = await _store_rows(path, form, opened, introducer, rejects, progress, total, batch_rows)
        rows = opened.position
        if candles:
            await opened.build_candles(lambda done, of: progress("candles", done, of))
    return ImportReport(rows, rows - begun, introducer.created, rejected)


async def _store_rows(
    path: Path,
    form: QuoteForm,
    opened: OpenQuoteImport,
    introducer: "_Introducer",
    rejects: Rejects,
    progress: Progress,
    total: int | None,
    batch_rows: int,
) -> int:
    rejected = 0
    if total is not None and opened.position >= total:
        return rejected
    keys: dict[str, int] = {}
    batches = read_rows(path, form, opened.position, batch_rows)
    coming = asyncio.ensure_future(asyncio.to_thread(_next, batches))
    try:
        while (rows := await coming) is not None:
            coming = asyncio.ensure_future(asyncio.to_thread(_next, batches))
            strangers = [native for native in rows.natives if native not in keys]
            if strangers:
                await introducer.introduce(rows, strangers)
                minted = await opened.market_keys([form.market_id(native) for native in strangers])
                keys.update(zip(strangers, minted.tolist(), strict=True))
            by_code = np.array([keys[native] for native in rows.natives], dtype=np.int32)
            await opened.write(
                QuoteColumns(
                    first_row=rows.first_row,
                    market_key=by_code[rows.market_codes],
                    receive_time_us=rows.receive_time_us,
                    bid_price_micros=rows.bid_price_micros,
                    ask_price_micros=rows.ask_price_micros,
                    bid_size_micros=rows.bid_size_micros,
                    ask_size_micros=rows.ask_size_micros,
                ),
                rejects.of(rows.table, rows.rejected, rows.first_row),
            )
            rejected += len(rows.rejected)
            progress("quotes", opened.position, total)
    finally:
        coming.cancel()
    return rejected


def _next(batches: Iterator[QuoteRows]) -> QuoteRows | None:
    return next(batches, None)


def digest_of_file(path: Path, progress: Progress) -> str:
    """SHA-256 of the file's content, which names it as a source."""
    digest, done, size = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
            done += len(block)
            progress("digest", done, size)
    return digest.hexdigest()


class _Introducer:
    """Creates the markets of a file that the catalog doesn't know."""

    def __init__(self, form: QuoteForm, catalog: Catalog, clock: Clock, declarations: Declarations) -> None:
        self._form = form
        self._catalog = catalog
        self._clock = clock
        self._declarations = declarations
        self._told: dict[str, dict[str, Any]] = {}
        self.created = 0

    def read(self, path: Path) -> None:
        """Take descriptions from a markets file."""
        table = pq.read_table(path)
        if self._form.market_column not in table.column_names:
            raise InvalidArgument(
                [FieldViolation("markets", f"{path} has no column {self._form.market_column}; name a markets file")]
            )
        self._told = {row[self._form.market_column]: row for row in table.to_pylist()}

    async def introduce(self, rows: QuoteRows, natives: Sequence[str]) -> None:
        for start in range(0, len(natives), _MARKETS_AT_ONCE):
            some = natives[start : start + _MARKETS_AT_ONCE]
            known = await self._catalog.markets_by_id([self._form.market_id(native) for native in some])
            missing = [native for native in some if self._form.market_id(native) not in known]
            if missing:
                await self._create(rows, missing)

    async def _create(self, rows: QuoteRows, natives: Sequence[str]) -> None:
        codes, firsts = np.unique(rows.market_codes, return_index=True)
        first_of = {rows.natives[code]: int(first) for code, first in zip(codes.tolist(), firsts.tolist(), strict=True)}
        described = rows.table.take([first_of[native] for native in natives]).to_pylist()
        markets: list[Market] = []
        events: dict[str, Event] = {}
        for native, row in zip(natives, described, strict=True):
            market, event = self._form.describe({**row, **self._told.get(native, {})})
            markets.append(market)
            if event is not None:
                events[event.event_id] = self._declarations.apply(event)
        stored = await self._catalog.events_by_id(sorted(events)) if events else {}
        fresh = [event for event_id, event in events.items() if event_id not in stored]
        await self._catalog.upsert(fresh, markets, self._clock())
        self.created += len(markets)
