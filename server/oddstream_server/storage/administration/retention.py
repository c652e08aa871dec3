"""Retention: the rules that operators set, and the end of what is kept for longer than they say."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import asyncpg
import structlog

from oddstream_server.application.ports import Purge, StoredRules
from oddstream_server.domain.retention import RetentionRule, RetentionSubject
from oddstream_server.storage.administration.audit_log import AuditLogStore
from oddstream_server.storage.backtests.archive import LATE_US, Archive, NotArchived
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.partitions import (
    LIVE_TABLES,
    month_of,
    month_start_us,
    partition_name,
    stored_months,
)
from oddstream_server.storage.signals.signal_log import SignalLogStore

log = structlog.get_logger()

_ROWS_AT_A_TIME = 10_000

# What is deleted row by row, in pieces: no lock is held for long, and what was deleted stays so when the next piece
# fails. $1 is the instant.
_CONDITIONS: Mapping[RetentionSubject, tuple[str, str]] = {
    RetentionSubject.EXECUTIONS: ("executions", "create_time < $1"),
    RetentionSubject.PIPELINE_RUNS: ("pipeline_runs", "create_time < $1 AND state <> 'queued'"),
    RetentionSubject.QUARANTINE: ("quarantine", "receive_time < $1"),
    RetentionSubject.BACKTESTS: ("backtest_runs", "end_time < $1"),
    RetentionSubject.API_KEYS: ("api_keys", "revoke_time < $1 OR expire_time < $1"),
    RetentionSubject.SIGNAL_IDS: (
        "signal_ids",
        "sequence < (SELECT coalesce(max(sequence), 0) FROM signal_events WHERE create_time < $1)",
    ),
}
_OLD_SIGNALS = (
    "signals",
    "create_time < $1 AND state <> 'active' AND sequence < (SELECT oldest_sequence FROM signal_log_head)",
)


async def stored_rules(driver: "asyncpg.Connection[Any]") -> StoredRules:
    rows = await driver.fetch("SELECT * FROM retention_rules")
    rules = {RetentionSubject(row["subject"]): RetentionRule(row["keep_seconds"], row["basis"]) for row in rows}
    return StoredRules(rules, max((row["update_time"] for row in rows), default=None))


class RetentionRules:
    """Fulfils :class:`~oddstream_server.application.ports.RetentionRules` in a transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._driver = transaction.driver

    async def stored(self) -> StoredRules:
        return await stored_rules(self._driver)

    async def put(self, subject: RetentionSubject, rule: RetentionRule, now_us: int) -> None:
        await self._driver.execute(
            "INSERT INTO retention_rules (subject, keep_seconds, basis, update_time) VALUES ($1, $2, $3, $4) "
            "ON CONFLICT (subject) DO UPDATE SET keep_seconds = excluded.keep_seconds, basis = excluded.basis, "
            "update_time = excluded.update_time",
            subject.value,
            rule.keep_seconds,
            rule.basis,
            now_us,
        )


class RetentionStore:
    """Fulfils :class:`~oddstream_server.application.ports.RetentionStore`."""

    def __init__(self, database: Database, archive: Archive) -> None:
        self._database = database
        self._archive = archive
        self._special: Mapping[RetentionSubject, Callable[[int, bool], Awaitable[Purge]]] = {
            RetentionSubject.TICKS: self._ticks,
            RetentionSubject.CANDLES: self._candles,
            RetentionSubject.SIGNALS: self._signals,
            RetentionSubject.AUDIT: self._audit,
        }

    async def stored(self) -> StoredRules:
        return await self._database.read(lambda transaction: stored_rules(transaction.driver))

    async def purge(self, subject: RetentionSubject, before_us: int, *, dry_run: bool) -> Purge:
        special = self._special.get(subject)
        if special is not None:
            return await special(before_us, dry_run)
        rows = await self._rows(*_CONDITIONS[subject], before_us, dry_run)
        if subject is RetentionSubject.API_KEYS and not dry_run:
            async with self._database.transaction() as transaction:
                await transaction.driver.execute(
                    "DELETE FROM subjects AS s WHERE NOT EXISTS (SELECT FROM api_keys WHERE subject_id = s.subject_id)"
                )
        return Purge(rows)

    async def _rows(self, table: str, condition: str, before_us: int, dry_run: bool) -> int:
        if dry_run:
            async with self._database.reading() as transaction:
                statement = f"SELECT count(*) FROM {table} WHERE {condition}"
                return int(await transaction.driver.fetchval(statement, before_us))
        deleted = 0
        while True:
            async with self._database.transaction() as transaction:
                tag = await transaction.driver.execute(
                    f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {condition} "
                    f"LIMIT {_ROWS_AT_A_TIME}))",
                    before_us,
                )
            rows = int(tag.rsplit(" ", 1)[1])
            deleted += rows
            if rows < _ROWS_AT_A_TIME:
                return deleted

    async def _ticks(self, before_us: int, dry_run: bool) -> Purge:
        """Whole months of live quotes, trades and books, once the archive has them: what it lacks stays."""
        doomed = await self._doomed_months(LIVE_TABLES, before_us)
        rows = await self._rows_of(doomed)
        if dry_run or not doomed:
            return Purge(rows, len(doomed))
        await self._archive.archive_closed(month_start_us(month_of(before_us)) + LATE_US)
        try:
            dropped = await self._archive.drop_before(before_us)
        except NotArchived as error:
            log.warning("old ticks stay until they are archived", reason=str(error))
            return Purge()
        return Purge(rows, len(dropped))

    async def _candles(self, before_us: int, dry_run: bool) -> Purge:
        doomed = await self._doomed_months(("candles",), before_us)
        rows = await self._rows_of(doomed)
        if not dry_run:
            for name in doomed:
                async with self._database.transaction(timeout_seconds=60) as transaction:
                    await transaction.driver.execute("SET LOCAL lock_timeout = '2s'")
                    await transaction.driver.execute(f"DROP TABLE {name}")
        return Purge(rows, len(doomed))

    async def _signals(self, before_us: int, dry_run: bool) -> Purge:
        """Whole stretches of the log, and the signals that have no event left in it."""
        log = SignalLogStore(self._database)
        if dry_run:
            doomed = await log.trimmable(before_us)
            return Purge(await self._rows_of(doomed), len(doomed))
        names = await log.trimmable(before_us)
        rows = await self._rows_of(names)
        trimmed = await log.trim(before_us)
        await self._rows(*_OLD_SIGNALS, before_us, dry_run=False)
        return Purge(rows, len(trimmed.dropped_partitions))

    async def _audit(self, before_us: int, dry_run: bool) -> Purge:
        log = AuditLogStore(self._database)
        return Purge(await log.count_before(before_us) if dry_run else await log.trim(before_us))

    async def _doomed_months(self, tables: tuple[str, ...], before_us: int) -> list[str]:
        kept = month_of(before_us)
        async with self._database.reading() as transaction:
            return [
                partition_name(table, month)
                for table in tables
                for month in await stored_months(transaction.driver, [table])
                if month < kept
            ]

    async def _rows_of(self, names: list[str]) -> int:
        async with self._database.reading() as transaction:
            return sum([int(await transaction.driver.fetchval(f"SELECT count(*) FROM {name}")) for name in names])
