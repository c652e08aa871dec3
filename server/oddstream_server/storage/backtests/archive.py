"""Closed days in Parquet: one folder a venue and day, with a manifest that has the checksum of each file.

A day is over when its last instant is an hour old. Files are sorted by market, so that a shard reads its own row groups
alone. Files are never changed: late rows make a day's next generation, and the manifest moves to it. What the table
``archive_days`` says counts; ``manifest.json`` beside the files repeats it for whoever has the files alone.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oddstream_server.domain.market import Venue
from oddstream_server.storage.backtests.archive_files import (
    KEYS,
    LEVEL_SCHEMA,
    ORDERS,
    QUOTE_SCHEMA,
    SCHEMAS,
    TRADE_SCHEMA,
    digest_or_none,
    plain,
    plain_schema,
    settle,
    write,
)
from oddstream_server.storage.backtests.columns import (
    LEVELS_TABLE,
    WHOLE_LEVELS,
    WHOLE_QUOTES,
    copy_columns,
    literal,
    within,
)
from oddstream_server.storage.database import Database
from oddstream_server.storage.partitions import (
    LIVE_TABLES,
    month_of,
    month_start_us,
    partition_name,
    stored_months,
)
from oddstream_server.storage.tick_store.tick_names import TickNames

DAY_US: Final = 86_400_000_000
LATE_US: Final = 3_600_000_000
_LOCK: Final = 0x0DD5_0004
_TABLES: Final = ("quotes", "trades", "books")


@dataclass(frozen=True, slots=True)
class ArchivedDay:
    """An entry of the manifest."""

    venue: str
    day: date
    generation: int
    quote_count: int
    trade_count: int
    quote_file: str | None
    """Relative to the archive's folder."""
    quote_sha256: str | None
    trade_file: str | None
    trade_sha256: str | None
    dropped: bool
    """True where PostgreSQL may lack rows of the day."""
    book_count: int = 0
    """Levels of recorded books."""
    book_file: str | None = None
    book_sha256: str | None = None

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.quote_count, self.trade_count, self.book_count

    def file(self, table: str) -> str | None:
        return {"quotes": self.quote_file, "trades": self.trade_file, "books": self.book_file}[table]

    def files(self) -> list[tuple[str, str | None]]:
        """The files there are, with their digests."""
        digests = {"quotes": self.quote_sha256, "trades": self.trade_sha256, "books": self.book_sha256}
        return [(file, digests[table]) for table in _TABLES if (file := self.file(table)) is not None]


_DAY_COLUMNS: Final = tuple(ArchivedDay.__dataclass_fields__)


class NotArchived(Exception):
    """Rows were to be dropped whose days aren't in the archive, or not as they are now; the text names the first."""


class Archive:
    """:param root: the archive's folder; every process that computes backtests must reach it."""

    def __init__(self, database: Database, root: Path, names: TickNames | None = None) -> None:
        self._database = database
        self._names = names or TickNames(database)
        self.root = root

    async def days(self, start_us: int, end_us: int, *, dropped: bool | None = None) -> Sequence[ArchivedDay]:
        """Entries of the manifest that touch a range, by venue and day."""
        async with self._database.reading() as transaction:
            return await archived_days(transaction.driver, start_us, end_us, dropped=dropped)

    async def archive_closed(self, now_us: int) -> Sequence[ArchivedDay]:
        """Archive each closed day that isn't, or has other rows by now; answers the new entries.

        One process at a time; another one that comes meanwhile answers nothing.
        """
        end_us = (now_us - LATE_US) // DAY_US * DAY_US
        made = []
        async with self._database.transaction() as transaction:
            if not await transaction.driver.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
                return []
            await transaction.driver.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            for venue, day in await self._due(end_us):
                made.append(await self.archive_day(venue, day))
        return made

    async def _due(self, end_us: int) -> Sequence[tuple[str, date]]:
        async with self._database.reading(snapshot=True) as transaction:
            stored = await _stored_counts(transaction.driver, 0, end_us)
            known = {(d.venue, d.day): d for d in await archived_days(transaction.driver, 0, end_us)}
            due = []
            for key, counts in stored.items():
                entry = known.get(key)
                if entry is None or await self._has_other_rows(transaction.driver, entry, counts):
                    due.append(key)
        return sorted(due)

    async def _has_other_rows(
        self, driver: "asyncpg.Connection[Any]", entry: ArchivedDay, counts: tuple[int, int, int]
    ) -> bool:
        """True where PostgreSQL has rows of a day that its files lack."""
        if entry.dropped:
            return await self._has_late_rows(driver, entry)
        return counts != entry.counts

    async def _has_late_rows(self, driver: "asyncpg.Connection[Any]", entry: ArchivedDay) -> bool:
        begin = _begin_us(entry.day)
        for name in _TABLES:
            if name == "books":
                rows = await driver.fetch(
                    "SELECT market_id, receive_time FROM books_live JOIN market_keys USING (market_key) "
                    f"WHERE {_books_of_venue(entry.venue, begin)}"
                )
            else:
                rows = await driver.fetch(
                    f"SELECT ingest_sequence FROM {name} JOIN tick_sources USING (source_id) "
                    "WHERE receive_time >= $1 AND receive_time < $2 AND venue = $3",
                    begin,
                    begin + DAY_US,
                    entry.venue,
                )
            file = entry.file(name)
            if rows and file is None:
                return True
            if rows and file is not None:
                kept = await asyncio.to_thread(pq.read_table, self.root / file, columns=list(KEYS[name]))
                held = set(zip(*(kept[column].to_pylist() for column in KEYS[name]), strict=True))
                if any(tuple(row) not in held for row in rows):
                    return True
        return False

    async def archive_day(self, venue: str, day: date) -> ArchivedDay:
        """Write a day's files as they are to be now, and move the manifest to them."""
        begin = _begin_us(day)
        async with self._database.reading(snapshot=True) as transaction:
            driver = transaction.driver
            found = await archived_days(driver, begin, begin + DAY_US, venue=venue)
            before = found[0] if found else None
            tables = {
                "quotes": await self._quotes(driver, venue, begin),
                "trades": await self._trades(driver, venue, begin),
                "books": await self._levels(driver, venue, begin),
            }
        generation = before.generation + 1 if before else 1
        folder = Path(venue) / day.isoformat()
        written: dict[str, tuple[str | None, str | None, int]] = {}
        for name, table in tables.items():
            merged = await asyncio.to_thread(self._with_former, table, name, before)
            if merged.num_rows == 0:
                written[name] = (None, None, 0)
                continue
            path = folder / f"{name}-{generation}.parquet"
            digest = await asyncio.to_thread(write, self.root / path, merged)
            written[name] = (str(path), digest, merged.num_rows)
        entry = ArchivedDay(
            venue,
            day,
            generation,
            written["quotes"][2],
            written["trades"][2],
            *written["quotes"][:2],
            *written["trades"][:2],
            dropped=before.dropped if before else False,
            book_count=written["books"][2],
            book_file=written["books"][0],
            book_sha256=written["books"][1],
        )
        async with self._database.transaction() as transaction:
            await transaction.driver.execute(
                "INSERT INTO archive_days AS a (venue, day, generation, quote_count, trade_count, quote_file, "
                "quote_sha256, trade_file, trade_sha256, dropped, book_count, book_file, book_sha256, archive_time) "
                "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, now()) "
                "ON CONFLICT (venue, day) DO UPDATE SET "
                "generation = $3, quote_count = $4, trade_count = $5, quote_file = $6, quote_sha256 = $7, "
                "trade_file = $8, trade_sha256 = $9, book_count = $11, book_file = $12, book_sha256 = $13, "
                "archive_time = now() WHERE a.generation = $3 - 1",
                *(getattr(entry, name) for name in _DAY_COLUMNS),
            )
        await asyncio.to_thread(_write_manifest, self.root / folder, entry)
        if before is not None:
            await asyncio.to_thread(self._remove_before, before)
        return entry

    def _with_former(self, table: Any, name: str, before: ArchivedDay | None) -> Any:
        """The rows and, where PostgreSQL may lack some, those of the files so far; sorted by market and time."""
        file = before.file(name) if before else None
        if before is not None and before.dropped and file is not None:
            former = plain(pq.read_table(self.root / file))
            fresh = table.join(former.select(list(KEYS[name])), list(KEYS[name]), join_type="left anti")
            table = pa.concat_tables([former, fresh.select(former.column_names).cast(former.schema)])
        return table.sort_by([(column, "ascending") for column in ORDERS[name]]).cast(SCHEMAS[name])

    def _remove_before(self, before: ArchivedDay) -> None:
        # A reader that holds the former manifest has either opened the file or looks at the manifest again.
        for table in _TABLES:
            file = before.file(table)
            if file is not None:
                (self.root / file).unlink(missing_ok=True)

    async def _quotes(self, driver: "asyncpg.Connection[Any]", venue: str, begin: int) -> Any:
        columns = await copy_columns(driver, "quotes", WHOLE_QUOTES, await _of_venue(driver, venue, begin))
        names = await self._words(driver, columns["market_key"], columns["source_id"])
        nullable = ("bid_price_micros", "bid_size_micros", "ask_price_micros", "ask_size_micros", "venue_time_us")
        arrays = {"market_id": names[0], "source": names[1]}
        for field in QUOTE_SCHEMA.names:
            if field not in arrays:
                values = columns[field]
                arrays[field] = pa.array(values, mask=values == -1 if field in nullable else None)
        return plain(pa.table({field: arrays[field] for field in QUOTE_SCHEMA.names}))

    async def _levels(self, driver: "asyncpg.Connection[Any]", venue: str, begin: int) -> Any:
        columns = await copy_columns(driver, LEVELS_TABLE, WHOLE_LEVELS, _books_of_venue(venue, begin))
        names = await self._words(driver, columns["market_key"], np.empty(0, dtype=np.int64))
        arrays = [names[0] if field == "market_id" else pa.array(columns[field]) for field in LEVEL_SCHEMA.names]
        return plain(pa.table(dict(zip(LEVEL_SCHEMA.names, arrays, strict=True))))

    async def _words(self, driver: "asyncpg.Connection[Any]", keys: Any, sources: Any) -> tuple[Any, Any]:
        """Market ids and sources of the rows as dictionary arrays."""
        distinct, codes = np.unique(keys, return_inverse=True)
        source_ids, source_codes = np.unique(sources, return_inverse=True)
        await self._names.resolve(driver, distinct.tolist(), source_ids.tolist())
        texts = [_source_text(self._names.source(s)) for s in source_ids.tolist()]
        ids = [self._names.market_id(k) for k in distinct.tolist()]
        return (
            pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(ids, pa.string())),
            pa.DictionaryArray.from_arrays(source_codes.astype(np.int32), pa.array(texts, pa.string())),
        )

    async def _trades(self, driver: "asyncpg.Connection[Any]", venue: str, begin: int) -> Any:
        rows = await driver.fetch(
            "SELECT market_key, receive_time, ingest_sequence, price_micros, size_micros, taker_outcome_index, block, "
            f"venue_time, source_key, source_id, lane FROM trades WHERE {await _of_venue(driver, venue, begin)}"
        )
        await self._names.resolve(driver, {r[0] for r in rows}, {r[9] for r in rows})
        values: Mapping[str, list[Any]] = {
            "market_id": [self._names.market_id(r[0]) for r in rows],
            "receive_time_us": [r[1] for r in rows],
            "ingest_sequence": [r[2] for r in rows],
            "price_micros": [r[3] for r in rows],
            "size_micros": [r[4] for r in rows],
            "taker_outcome": [r[5] for r in rows],
            "block": [r[6] for r in rows],
            "venue_time_us": [r[7] for r in rows],
            "source_key": [r[8] for r in rows],
            "source": [_source_text(self._names.source(r[9])) for r in rows],
            "lane": [r[10] for r in rows],
        }
        return pa.table(values, schema=plain_schema(TRADE_SCHEMA))

    async def drop_before(self, instant_us: int) -> Sequence[str]:
        """Drop the months of live ticks that ended by an instant; answers the names of the partitions that are gone.

        :raises NotArchived: a day of them isn't in the archive as it is in PostgreSQL; nothing was dropped.
        """
        kept = month_start_us(month_of(instant_us))
        dropped = []
        async with self._database.transaction(timeout_seconds=120) as transaction:
            driver = transaction.driver
            await driver.execute("SET LOCAL lock_timeout = '2s'")
            months = [m for m in await stored_months(driver, LIVE_TABLES) if month_start_us(m) < kept]
            if not months:
                return []
            # Nobody writes between the count and the drop.
            for table in LIVE_TABLES:
                for month in await stored_months(driver, [table]):
                    if month in months:
                        await driver.execute(f"LOCK TABLE {partition_name(table, month)} IN ACCESS EXCLUSIVE MODE")
            known = {(d.venue, d.day): d for d in await archived_days(driver, 0, kept)}
            for (venue, day), counts in (await _stored_counts(driver, 0, kept)).items():
                entry = known.get((venue, day))
                if entry is None or await self._has_other_rows(driver, entry, counts):
                    raise NotArchived(f"{venue} {day.isoformat()} isn't archived as it is now; archive first")
            await driver.execute(
                "UPDATE archive_days SET dropped = true WHERE day < $1",
                datetime.fromtimestamp(kept / 1_000_000, UTC).date(),
            )
            for table in LIVE_TABLES:
                for month in await stored_months(driver, [table]):
                    if month in months:
                        name = partition_name(table, month)
                        await driver.execute(f"DROP TABLE {name}")
                        dropped.append(name)
            await driver.execute("DELETE FROM trade_keys WHERE receive_time < $1", kept)
        return dropped

    async def verify(self) -> Sequence[str]:
        """The files that are missing or aren't what the manifest says; empty for a sound archive."""
        damaged = []
        for entry in await self.days(0, 4_102_444_800_000_000):
            for file, digest in entry.files():
                if await asyncio.to_thread(digest_or_none, self.root / file) != digest:
                    damaged.append(file)
        return damaged


async def archived_days(
    driver: "asyncpg.Connection[Any]",
    start_us: int,
    end_us: int,
    *,
    dropped: bool | None = None,
    venue: str | None = None,
) -> Sequence[ArchivedDay]:
    rows = await driver.fetch(
        f"SELECT {', '.join(_DAY_COLUMNS)} FROM archive_days WHERE day >= $1 AND day < $2 "
        "AND ($3::boolean IS NULL OR dropped = $3) AND ($4::text IS NULL OR venue = $4) ORDER BY venue, day",
        _day_of(start_us),
        _day_of(end_us + DAY_US - 1),
        dropped,
        venue,
    )
    return [ArchivedDay(*row) for row in rows]


async def _stored_counts(
    driver: "asyncpg.Connection[Any]", start_us: int, end_us: int
) -> dict[tuple[str, date], tuple[int, int, int]]:
    """(quotes, trades, levels of books) that PostgreSQL has of each venue and day."""
    day = "(receive_time AT TIME ZONE 'UTC')::date AS day"
    counts: dict[tuple[str, date], list[int]] = {}
    for place, table in enumerate(_TABLES):
        if table == "books":
            statement = (
                "SELECT split_part(market_id, ':', 1), day, sum(n)::bigint FROM ("
                f"SELECT market_key, {day}, sum(cardinality(bid_prices_micros) + cardinality(ask_prices_micros)) AS n "
                f"FROM books_live WHERE {within(start_us, end_us)} GROUP BY 1, 2) AS c "
                "JOIN market_keys USING (market_key) GROUP BY 1, 2"
            )
        else:
            statement = (
                f"SELECT venue, day, sum(n)::bigint FROM (SELECT source_id, {day}, count(*) AS n FROM {table} "
                f"WHERE {within(start_us, end_us)} GROUP BY 1, 2) AS c "
                "JOIN tick_sources USING (source_id) GROUP BY 1, 2"
            )
        for venue, of_day, count in await driver.fetch(statement):
            counts.setdefault((venue, of_day), [0, 0, 0])[place] = count
    return {key: (found[0], found[1], found[2]) for key, found in counts.items()}


def _books_of_venue(venue: str, begin: int) -> str:
    # A colon sorts just before a semicolon: the range holds what begins with the venue's name and a colon.
    return (
        f"{within(begin, begin + DAY_US)} AND market_key IN (SELECT market_key FROM market_keys "
        f"WHERE market_id >= '{Venue(venue).value}:' AND market_id < '{Venue(venue).value};')"
    )


async def _of_venue(driver: "asyncpg.Connection[Any]", venue: str, begin: int) -> str:
    ids = [r[0] for r in await driver.fetch("SELECT source_id FROM tick_sources WHERE venue = $1", venue)]
    return (
        f"receive_time >= {literal(begin)} AND receive_time < {literal(begin + DAY_US)} "
        f"AND source_id = ANY('{{{','.join(map(str, ids))}}}'::int[])"
    )


def _source_text(source: Any) -> str:
    return f"{source.venue.value}/{source.kind.value}/{source.name}"


def _begin_us(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000


def _day_of(instant_us: int) -> date:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant_us)).date()


def _write_manifest(folder: Path, entry: ArchivedDay) -> None:
    body = {name: str(v) if isinstance(v := getattr(entry, name), date) else v for name in _DAY_COLUMNS}
    del body["dropped"]
    folder.mkdir(parents=True, exist_ok=True)
    coming = folder / "manifest.coming"
    coming.write_text(json.dumps(body, indent=1) + "\n")
    settle(coming, folder / "manifest.json")
