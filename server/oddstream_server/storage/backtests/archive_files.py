"""The archive's files: what their columns are, and how one is written whole or not at all."""

import hashlib
import os
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

_GROUP_ROWS: Final = 128 * 1024

QUOTE_SCHEMA: Final = pa.schema(
    [
        ("market_id", pa.dictionary(pa.int32(), pa.string())),
        ("receive_time_us", pa.int64()),
        ("ingest_sequence", pa.int64()),
        ("bid_price_micros", pa.int64()),
        ("bid_size_micros", pa.int64()),
        ("ask_price_micros", pa.int64()),
        ("ask_size_micros", pa.int64()),
        ("epoch", pa.int64()),
        ("venue_time_us", pa.int64()),
        ("source_key", pa.int64()),
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("lane", pa.int64()),
    ]
)
TRADE_SCHEMA: Final = pa.schema(
    [
        ("market_id", pa.dictionary(pa.int32(), pa.string())),
        ("receive_time_us", pa.int64()),
        ("ingest_sequence", pa.int64()),
        ("price_micros", pa.int64()),
        ("size_micros", pa.int64()),
        ("taker_outcome", pa.int64()),
        ("block", pa.bool_()),
        ("venue_time_us", pa.int64()),
        ("source_key", pa.string()),
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("lane", pa.int64()),
    ]
)
LEVEL_SCHEMA: Final = pa.schema(
    [
        ("market_id", pa.dictionary(pa.int32(), pa.string())),
        ("receive_time_us", pa.int64()),
        ("side", pa.int64()),
        ("place", pa.int64()),
        ("price_micros", pa.int64()),
        ("size_micros", pa.int64()),
        ("epoch", pa.int64()),
    ]
)
SCHEMAS: Final = {"quotes": QUOTE_SCHEMA, "trades": TRADE_SCHEMA, "books": LEVEL_SCHEMA}
KEYS: Final = {
    "quotes": ("ingest_sequence",),
    "trades": ("ingest_sequence",),
    "books": ("market_id", "receive_time_us"),
}
"""What a row is known by, wherever it is kept; a book's levels come and go together."""
ORDERS: Final = {
    "quotes": ("market_id", "receive_time_us", "ingest_sequence"),
    "trades": ("market_id", "receive_time_us", "ingest_sequence"),
    "books": ("market_id", "receive_time_us", "side", "place"),
}


def plain_schema(schema: Any) -> Any:
    return pa.schema([(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in schema])


def plain(table: Any) -> Any:
    """Dictionaries as words, so that tables with different dictionaries join."""
    return table.cast(plain_schema(table.schema))


def write(path: Path, table: Any) -> str:
    """Write a file whole or not at all; answers its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coming = path.with_suffix(".coming")
    pq.write_table(table, coming, compression="zstd", row_group_size=_GROUP_ROWS, write_statistics=True)
    found = digest(coming)
    settle(coming, path)
    return found


def settle(coming: Path, path: Path) -> None:
    with coming.open("rb") as file:
        os.fsync(file.fileno())
    coming.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_or_none(path: Path) -> str | None:
    try:
        return digest(path)
    except FileNotFoundError:
        return None
