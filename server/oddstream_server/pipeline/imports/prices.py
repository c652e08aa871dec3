"""``import prices``: what markets are about, from a file of (series, ts, price), into the tick store.

A price is kept as a quote of ``<venue>:underlying.<series>`` whose bid and ask it is, as venues' own feeds keep it.
Backtests read it as of each row; live strategies don't see imports.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from oddstream_server.application.ports import Clock
from oddstream_server.application.quote_columns import MISSING, QuoteColumns, QuoteImportTarget
from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.domain.market import Venue, underlying_id
from oddstream_server.domain.quote import SourceKind, TickSource
from oddstream_server.pipeline.imports.columns import BATCH_ROWS, Int64s, batches, count_rows, micros_of, times, words
from oddstream_server.pipeline.imports.command import ImportReport, Progress, digest_of_file
from oddstream_server.pipeline.imports.rejects import Rejects

_NO_PRICE: Final = "a price is a number above 0 with at most six decimals; the row is stored without one"


@dataclass(frozen=True, slots=True)
class PriceForm:
    """The one form of price files; times carry a zone or are UTC."""

    name: str = "prices"
    time_column: str = "ts"
    time_zone: str | None = None
    word_columns: tuple[str, ...] = ("series",)
    number_columns: tuple[str, ...] = ("price",)


@dataclass(frozen=True, slots=True)
class PriceRows:
    """Some rows of a file of prices, in order."""

    first_row: int
    codes: npt.NDArray[np.int32]
    """Index into ``series`` of each row."""
    series: list[str]
    receive_time_us: Int64s
    price_micros: Int64s
    """:data:`MISSING` where the file holds no number above 0."""
    table: pa.Table
    """The rows themselves."""


def read_prices(path: Path, position: int = 0, batch_rows: int = BATCH_ROWS) -> Iterator[PriceRows]:
    """The rows of a file from a row number on, in batches of bounded size.

    :raises InvalidArgument: the file lacks a column, a row lacks a series, or the time is of another kind.
    """
    form, first_row = PriceForm(), position
    for batch in batches(path, form, position, batch_rows):
        if not batch.num_rows:
            continue
        codes, series = words(batch["series"])
        price, bad = micros_of(batch["price"])
        price[bad | (price <= 0)] = MISSING
        yield PriceRows(first_row, codes, series, times(batch["ts"], form), price, batch)
        first_row += batch.num_rows


_NAME: Final = "a series is named by 1 to 64 letters, digits, dots, dashes and underscores"


async def import_prices(
    path: Path,
    venue: Venue,
    *,
    target: QuoteImportTarget,
    clock: Clock,
    progress: Progress = lambda stage, done, total: None,
    batch_rows: int = BATCH_ROWS,
) -> ImportReport:
    """Import one file; the same file again stores nothing twice, and a stopped import goes on.

    A row whose price isn't a number above 0 is stored without a price, which no strategy looks at, and is quarantined.

    :raises InvalidArgument: the path, a column or a series' name isn't what it has to be.
    :raises Aborted: another process imports the same file.
    """
    if not path.is_file():
        raise InvalidArgument([FieldViolation("file", f"{path} is not a file; name a Parquet or CSV file")])
    total = await asyncio.to_thread(count_rows, path)
    digest = await asyncio.to_thread(digest_of_file, path, progress)
    rejected, keys = 0, dict[str, int]()
    rejects = Rejects(venue, "import prices", path, "price_not_positive", _NO_PRICE, clock)
    # the venue is part of the source's identity: one file may hold what two venues' markets are about
    async with target.open(TickSource(venue, SourceKind.IMPORT, f"prices/{digest}"), total) as opened:
        begun = opened.position
        read = read_prices(path, opened.position, batch_rows)
        while (total is None or opened.position < total) and (
            rows := await asyncio.to_thread(next, read, None)
        ) is not None:
            fresh = [name for name in rows.series if name not in keys]
            for name in fresh:
                if not _is_name(name):
                    raise InvalidArgument([FieldViolation("series", f"{name!r} is no name of a series: {_NAME}")])
            if fresh:
                minted = await opened.market_keys([underlying_id(venue, name) for name in fresh])
                keys.update(zip(fresh, minted.tolist(), strict=True))
            by_code = np.array([keys[name] for name in rows.series], dtype=np.int32)
            wrong = np.flatnonzero(rows.price_micros == MISSING) + rows.first_row
            await opened.write(
                QuoteColumns(
                    rows.first_row,
                    by_code[rows.codes],
                    rows.receive_time_us,
                    rows.price_micros,
                    rows.price_micros,
                ),
                rejects.of(rows.table, wrong, rows.first_row),
            )
            rejected += len(wrong)
            progress("prices", opened.position, total)
        return ImportReport(opened.position, opened.position - begun, 0, rejected)


def _is_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and 0 < len(name) <= 64
        and name.isascii()
        and all(character.isalnum() or character in "._-" for character in name)
    )
