"""Partitions: one a month for ticks and candles, one a stretch of sequences for the signal log.

A partition is made beside its table and then attached, which lets readers and writers go on; CREATE ... PARTITION OF
would stop them all. There is no default partition: it would have to be searched at every attachment.
"""

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg

from oddstream_server.storage.database import Database

_LOCK = 0x0DD5_0002
"""Advisory lock: two writers that need the same month make it once."""

_MONTHLY = {"quotes_live": "receive_time", "quotes_import": "receive_time", "trades_live": "receive_time",
            "trades_import": "receive_time", "books_live": "receive_time", "candles": "start_time"}  # fmt: skip

LIVE_TABLES = ("quotes_live", "trades_live", "books_live")
"""What the pipeline records, dropped together when it is old."""

EVENTS_A_PARTITION = 1_000_000

_RECENT_US = 31 * 86_400_000_000

Month = tuple[int, int]


def month_of(instant_us: int) -> Month:
    """(year, month) of an instant in UTC."""
    moment = datetime.fromtimestamp(instant_us // 1_000_000, UTC)
    return moment.year, moment.month


def month_start_us(month: Month) -> int:
    return int(datetime(month[0], month[1], 1, tzinfo=UTC).timestamp()) * 1_000_000


def next_month(month: Month) -> Month:
    return (month[0] + month[1] // 12, month[1] % 12 + 1)


def partition_name(table: str, month: Month) -> str:
    return f"{table}_{month[0]:04d}_{month[1]:02d}"


class Partitions:
    """Makes what is missing and remembers what is there, so that the usual batch asks nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: set[str] = set()

    async def ensure(self, table: str, months: Iterable[Month]) -> list[str]:
        """Make the partitions of a table for some months; answers the names of new ones."""
        # Another process may have dropped an old month meanwhile: of live tables only the latest are taken as known.
        recent = month_of(time.time_ns() // 1_000 - _RECENT_US) if table in LIVE_TABLES else (0, 1)
        missing = [m for m in sorted(set(months)) if m < recent or partition_name(table, m) not in self._known]
        if not missing:
            return []
        made = []
        async with self._database.transaction() as transaction:
            await transaction.driver.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
            for month in missing:
                if await transaction.driver.fetchval("SELECT to_regclass($1)", partition_name(table, month)) is None:
                    await _make_month(transaction.driver, table, month)
                    made.append(partition_name(table, month))
        self._known.update(partition_name(table, month) for month in missing)
        return made

    async def ahead(self, now_us: int) -> list[str]:
        """This month's and the next two months' partitions of the live tables."""
        months = [month_of(now_us)]
        for _ in range(2):
            months.append(next_month(months[-1]))
        made = []
        for table in (*LIVE_TABLES, "candles"):
            made += await self.ensure(table, months)
        return made


async def stored_months(driver: "asyncpg.Connection[Any]", tables: Sequence[str]) -> list[Month]:
    """The months that any of some monthly tables has a partition of, in order."""
    rows = await driver.fetch(
        "SELECT DISTINCT right(c.relname, 7) FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = ANY($1::text[]::regclass[]) ORDER BY 1",
        list(tables),
    )
    return [(int(r[0][:4]), int(r[0][5:])) for r in rows]


async def _make_month(driver: "asyncpg.Connection[Any]", table: str, month: Month) -> None:
    name, column = partition_name(table, month), _MONTHLY[table]
    begin, end = _literal(month), _literal(next_month(month))
    await driver.execute(
        f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS);"
        f"ALTER TABLE {name} ADD CONSTRAINT bounds CHECK ({column} >= {begin} AND {column} < {end});"
        # The identity of a live quote does not name its time, so it can't be a key of the whole table.
        + (f"CREATE UNIQUE INDEX ON {name} (market_key, source_id, source_key);" if table == "quotes_live" else "")
        + (f"ALTER TABLE {name} SET (fillfactor = 80);" if table == "candles" else "")
        + f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({begin}) TO ({end});"
        f"ALTER TABLE {name} DROP CONSTRAINT bounds"
    )


def _literal(month: Month) -> str:
    return f"'{month[0]:04d}-{month[1]:02d}-01 00:00:00+00'"


async def extend_log(
    driver: "asyncpg.Connection[Any]", partitioned_to: int, needed: int, events_a_partition: int = EVENTS_A_PARTITION
) -> int:
    """Make the log's partitions up to a sequence and one more; answers the first sequence without a partition.

    Runs in the transaction that holds the head.
    """
    while partitioned_to <= needed + events_a_partition // 2:
        end = partitioned_to + events_a_partition
        name = log_partition_name(partitioned_to)
        await driver.execute(
            f"CREATE TABLE {name} (LIKE signal_events INCLUDING DEFAULTS);"
            f"ALTER TABLE {name} ADD CONSTRAINT bounds CHECK (sequence >= {partitioned_to} AND sequence < {end});"
            f"ALTER TABLE signal_events ATTACH PARTITION {name} FOR VALUES FROM ({partitioned_to}) TO ({end});"
            f"ALTER TABLE {name} DROP CONSTRAINT bounds"
        )
        partitioned_to = end
    return partitioned_to


def log_partition_name(first_sequence: int) -> str:
    return f"signal_events_from_{first_sequence}"
