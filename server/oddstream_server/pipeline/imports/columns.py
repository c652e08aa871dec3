"""From a file's rows to integer columns: times to UTC, prices to micros, empty sides to absent."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from oddstream_server.application.quote_columns import MISSING
from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.domain.money import MICROS
from oddstream_server.pipeline.imports.forms import QuoteForm, TableForm, columns_of

Int64s = npt.NDArray[np.int64]

BATCH_ROWS: Final = 250_000
_CSV_BLOCK: Final = 16 << 20
_HOUR_US: Final = 3_600_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class QuoteRows:
    """Some rows of a file, in order."""

    first_row: int
    market_codes: npt.NDArray[np.int32]
    """Index into ``natives`` of each row."""
    natives: list[str]
    """The venue's ids that occur, once each."""
    receive_time_us: Int64s
    bid_price_micros: Int64s
    ask_price_micros: Int64s
    bid_size_micros: Int64s | None
    ask_size_micros: Int64s | None
    rejected: Int64s
    """Numbers of the rows with a price or size that can't be one; the side is absent in what is stored."""
    table: pa.Table
    """The rows themselves, to describe markets from."""

    def __len__(self) -> int:
        return len(self.receive_time_us)


def count_rows(path: Path) -> int | None:
    """Rows of a Parquet file; None for CSV, whose length isn't known before its end."""
    return int(pq.ParquetFile(path).metadata.num_rows) if _is_parquet(path) else None


def read_rows(path: Path, form: QuoteForm, position: int = 0, batch_rows: int = BATCH_ROWS) -> Iterator[QuoteRows]:
    """The rows of a file from a row number on, in batches of bounded size.

    :raises InvalidArgument: the file lacks a column of the form, or its time is of another kind.
    """
    first_row = position
    for batch in batches(path, form, position, batch_rows):
        if batch.num_rows:
            yield _rows(batch, form, first_row)
            first_row += batch.num_rows


def words(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], list[str]]:
    """A column of words as codes and what they stand for."""
    if column.null_count:
        raise InvalidArgument([FieldViolation("file", "a row names no series or market; fill it in, or leave it out")])
    coded = pc.dictionary_encode(column.combine_chunks())
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int32), coded.dictionary.to_pylist()


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet"


def batches(path: Path, form: TableForm, position: int, batch_rows: int) -> Iterator[pa.Table]:
    """The form's columns of a file from a row number on.

    :raises InvalidArgument: the file lacks one of them.
    """
    if _is_parquet(path):
        file = pq.ParquetFile(path, memory_map=True)
        _require(form, file.schema_arrow.names)
        skipped, groups = 0, list(range(file.metadata.num_row_groups))
        while groups and skipped + file.metadata.row_group(groups[0]).num_rows <= position:
            skipped += file.metadata.row_group(groups.pop(0)).num_rows
        for batch in file.iter_batches(batch_rows, row_groups=groups, columns=columns_of(form)):
            ahead = min(position - skipped, batch.num_rows)
            skipped += ahead
            yield pa.Table.from_batches([batch.slice(ahead)])
        return
    skipped = 0
    with pa_csv.open_csv(
        path,
        read_options=pa_csv.ReadOptions(block_size=_CSV_BLOCK),
        convert_options=pa_csv.ConvertOptions(column_types=_csv_types(form), strings_can_be_null=True),
    ) as reader:
        _require(form, reader.schema.names)
        for batch in reader:
            ahead = min(position - skipped, batch.num_rows)
            skipped += ahead
            yield pa.Table.from_batches([batch.slice(ahead)]).select(columns_of(form))


def _csv_types(form: TableForm) -> dict[str, pa.DataType]:
    return {
        **{name: pa.string() for name in form.word_columns},
        **{name: pa.float64() for name in form.number_columns},
        form.time_column: pa.timestamp("us", tz=None if form.time_zone else "UTC"),
    }


def _require(form: TableForm, names: list[str]) -> None:
    needed = columns_of(form)
    absent = [name for name in needed if name not in names]
    if absent:
        text = f"has no column {', '.join(absent)}; the form {form.name} needs {', '.join(needed)}"
        raise InvalidArgument([FieldViolation("file", text)])


def _rows(table: pa.Table, form: QuoteForm, first_row: int) -> QuoteRows:
    codes, natives = words(table[form.market_column])
    bid, bad_bid = _prices(table[form.bid_column], empty_at=0)
    ask, bad_ask = _prices(table[form.ask_column], empty_at=MICROS)
    bid_size, bad_bid_size = _sizes(table, form.bid_size_column)
    ask_size, bad_ask_size = _sizes(table, form.ask_size_column)
    return QuoteRows(
        first_row=first_row,
        market_codes=codes,
        natives=natives,
        receive_time_us=times(table[form.time_column], form),
        bid_price_micros=bid,
        ask_price_micros=ask,
        bid_size_micros=bid_size,
        ask_size_micros=ask_size,
        rejected=np.flatnonzero(bad_bid | bad_ask | bad_bid_size | bad_ask_size) + first_row,
        table=table,
    )


def times(column: pa.ChunkedArray, form: TableForm) -> Int64s:
    if not pa.types.is_timestamp(column.type) or column.null_count:
        raise InvalidArgument(
            [FieldViolation(form.time_column, f"must be a time in every row, got {column.type} with gaps or no time")]
        )
    naive: Int64s = (
        column.cast(pa.timestamp("us", tz=column.type.tz)).to_numpy().astype("datetime64[us]").astype(np.int64)
    )
    if form.time_zone is None or column.type.tz is not None:
        return naive
    return local_to_utc_us(naive, ZoneInfo(form.time_zone))


def local_to_utc_us(local_us: Int64s, zone: ZoneInfo) -> Int64s:
    """Wall-clock times without a zone as UTC.

    The hour that comes twice when summer time ends is taken as its first coming, since nothing in the file tells them
    apart; a time within the hour that is left out in spring is moved on by an hour. Offsets change on whole hours only.

    :param local_us: microseconds of the wall clock since 1970-01-01 00:00.
    """
    hours = local_us // _HOUR_US
    distinct, places = np.unique(hours, return_inverse=True)
    offsets = np.empty(len(distinct), dtype=np.int64)
    for i, hour in enumerate(distinct.tolist()):
        moment = (datetime(1970, 1, 1) + timedelta(hours=hour)).replace(tzinfo=zone, fold=0)  # noqa: DTZ001  # the zone comes next
        offset = moment.utcoffset()
        assert offset is not None
        offsets[i] = offset // timedelta(microseconds=1)
    shifted: Int64s = local_us - offsets[places]
    return shifted


def _prices(column: pa.ChunkedArray, empty_at: int) -> tuple[Int64s, npt.NDArray[np.bool_]]:
    """Micros, :data:`MISSING` where the side is empty, and which rows hold something that is no price.

    :param empty_at: the price by which a venue says that the side is empty: 0 for a bid, the payout for an ask.
    """
    micros, bad = micros_of(column)
    bad |= (micros != MISSING) & ((micros < 0) | (micros > MICROS))
    micros[bad | (micros == empty_at)] = MISSING
    return micros, bad


def _sizes(table: pa.Table, name: str | None) -> tuple[Int64s | None, npt.NDArray[np.bool_]]:
    if name is None:
        return None, np.zeros(table.num_rows, dtype=np.bool_)
    micros, bad = micros_of(table[name])
    bad |= (micros != MISSING) & (micros < 0)
    micros[bad] = MISSING
    return micros, bad


def micros_of(column: pa.ChunkedArray) -> tuple[Int64s, npt.NDArray[np.bool_]]:
    """A file's numbers as integer micros; what doesn't lie on that grid (to a thousandth of it) is bad."""
    numbers: Any = pc.cast(column, pa.float64()).to_numpy()
    absent = np.isnan(numbers)
    scaled = np.where(absent, 0.0, numbers) * MICROS
    rounded = np.rint(scaled)
    bad = ~np.isfinite(scaled) | (np.abs(scaled) > 2**62)
    bad |= np.abs(np.where(bad, 0.0, scaled) - np.where(bad, 0.0, rounded)) > 0.001
    micros = np.where(bad | absent, 0.0, rounded).astype(np.int64)
    micros[absent] = MISSING
    return micros, bad
