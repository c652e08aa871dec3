"""The audit log: a chain of rows in the order of their commits.

The head is one row. Whoever appends locks it until commit, so numbers and hashes follow the order of commits. Lock
order everywhere: (request id,) lease, lane, audit head, log head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson
from sqlalchemy import ColumnElement, func, select

from oddstream_server.application.ports import AuditFilter, AuditHead, Key, Page
from oddstream_server.domain.audit import AuditEntry, AuditOutcome, AuditRecord, chained
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.tables import audit_entries
from oddstream_server.storage.writes import Write, write_together

HEAD = "SELECT sequence, hash, greatest(clock_timestamp(), last_create_time) AS create_time FROM audit_head FOR UPDATE"
"""Locks the head until the transaction ends."""


@dataclass(frozen=True, slots=True)
class Head:
    """The locked head: what the next row is chained to."""

    sequence: int
    hash: bytes
    create_time_us: int


async def lock(driver: "asyncpg.Connection[Any]") -> Head:
    row = await driver.fetchrow(HEAD)
    assert row is not None
    return Head(row["sequence"], row["hash"], row["create_time"])


async def append(driver: "asyncpg.Connection[Any]", record: AuditRecord) -> AuditEntry:
    """Append a row in the caller's transaction, holding the head until it ends."""
    entry, writes = chaining(record, await lock(driver))
    await write_together(driver, writes)
    return entry


def chaining(record: AuditRecord, head: Head) -> tuple[AuditEntry, list[Write]]:
    """The next row and what appends it, for a caller that locked the head and has appended nothing since."""
    entry = chained(record, head.sequence + 1, head.create_time_us, head.hash.hex())
    own_hash = bytes.fromhex(entry.hash)
    row = (
        entry.sequence,
        entry.create_time_us,
        record.actor,
        record.api_key_id,
        record.peer_network,
        record.method,
        record.outcome.value,
        record.request_digest,
        record.resource,
        _document(record.before),
        _document(record.after),
        record.correlation_id,
        bytes.fromhex(entry.previous_hash),
        own_hash,
    )
    return entry, [
        Write(_INSERT, row),
        Write(
            "UPDATE audit_head SET sequence = {0}, last_create_time = {1}, hash = {2}",
            (entry.sequence, entry.create_time_us, own_hash),
        ),
    ]


_COLUMNS = (
    "sequence", "create_time", "actor", "api_key_id", "peer_network", "method", "outcome", "request_digest", "resource",
    "before", "after", "correlation_id", "previous_hash", "hash",
)  # fmt: skip
_INSERT = (
    f"INSERT INTO audit_entries ({', '.join(_COLUMNS)}) VALUES ({', '.join(f'{{{i}}}' for i in range(len(_COLUMNS)))})"
)


class AuditAppender:
    """Fulfils :class:`~oddstream_server.application.ports.AuditAppender` in a transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._driver = transaction.driver

    async def lock(self) -> None:
        await lock(self._driver)

    async def append(self, record: AuditRecord) -> AuditEntry:
        return await append(self._driver, record)


class AuditLogStore:
    """Fulfils :class:`~oddstream_server.application.ports.AuditLog`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, record: AuditRecord) -> None:
        async with self._database.transaction() as transaction:
            await append(transaction.driver, record)

    async def head(self) -> AuditHead:
        async def work(transaction: Transaction) -> AuditHead:
            row = await transaction.driver.fetchrow("SELECT * FROM audit_head")
            return AuditHead(
                row["sequence"], row["hash"].hex(), row["oldest_sequence"], row["oldest_previous_hash"].hex()
            )

        return await self._database.read(work)

    async def read(self, first_sequence: int, limit: int) -> Sequence[AuditEntry]:
        async def work(transaction: Transaction) -> Sequence[AuditEntry]:
            rows = await transaction.core.execute(
                select(audit_entries)
                .where(audit_entries.c.sequence >= first_sequence)
                .order_by(audit_entries.c.sequence)
                .limit(limit)
            )
            return [_entry(row) for row in rows]

        return await self._database.read(work)

    async def list_entries(self, where: AuditFilter, after: Key | None, limit: int) -> Page[AuditEntry]:
        statement = select(audit_entries).where(*_conditions(where)).order_by(audit_entries.c.sequence)
        if after is not None:
            statement = statement.where(audit_entries.c.sequence > int(after[0]))

        async def work(transaction: Transaction) -> Page[AuditEntry]:
            rows = (await transaction.core.execute(statement.limit(limit + 1))).all()
            shown = tuple(_entry(row) for row in rows[:limit])
            return Page(shown, (shown[-1].sequence,) if len(rows) > limit else None)

        return await self._database.read(work)

    async def latest(self, where: AuditFilter, limit: int) -> Sequence[AuditEntry]:
        statement = select(audit_entries).where(*_conditions(where)).order_by(audit_entries.c.sequence.desc())

        async def work(transaction: Transaction) -> Sequence[AuditEntry]:
            return [_entry(row) for row in await transaction.core.execute(statement.limit(limit))]

        return await self._database.read(work)

    async def count(self, where: AuditFilter) -> int:
        async def work(transaction: Transaction) -> int:
            statement = select(func.count()).select_from(audit_entries).where(*_conditions(where))
            return int((await transaction.core.execute(statement)).scalar_one())

        return await self._database.read(work)

    async def count_before(self, instant_us: int) -> int:
        """How many rows :meth:`trim` would delete."""

        async def work(transaction: Transaction) -> int:
            return int(
                await transaction.driver.fetchval(
                    "SELECT count(*) FROM audit_entries WHERE create_time < $1 "
                    "AND sequence < (SELECT sequence FROM audit_head)",
                    instant_us,
                )
            )

        return await self._database.read(work)

    async def trim(self, before_us: int) -> int:
        """Delete rows older than an instant, from the beginning; the chain goes on from where it begins then.

        The newest row stays, so that the head always has one to be held against.
        """
        async with self._database.transaction() as transaction:
            driver = transaction.driver
            await lock(driver)
            first_kept = await driver.fetchrow(
                "SELECT sequence, previous_hash FROM audit_entries WHERE create_time >= $1 "
                "OR sequence = (SELECT sequence FROM audit_head) ORDER BY sequence LIMIT 1",
                before_us,
            )
            if first_kept is None:
                return 0
            await driver.execute("SET LOCAL oddstream.audit_retention = 'on'")
            tag = await driver.execute("DELETE FROM audit_entries WHERE sequence < $1", first_kept["sequence"])
            await driver.execute(
                "UPDATE audit_head SET oldest_sequence = $1, oldest_previous_hash = $2", *first_kept.values()
            )
        return int(tag.rsplit(" ", 1)[1])


def _document(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _conditions(where: AuditFilter) -> list[ColumnElement[bool]]:
    c = audit_entries.c
    found: list[ColumnElement[bool]] = []
    for column, values in (
        (c.actor, where.actors),
        (c.api_key_id, where.api_key_ids),
        (c.method, where.methods),
        (c.outcome, tuple(outcome.value for outcome in where.outcomes)),
        (c.resource, where.resources),
    ):
        if values:
            found.append(column == values[0] if len(values) == 1 else column.in_(values))
    if where.create_time_from_us is not None:
        found.append(c.create_time >= where.create_time_from_us)
    if where.create_time_to_us is not None:
        found.append(c.create_time < where.create_time_to_us)
    return found


def _entry(row: Any) -> AuditEntry:
    record = AuditRecord(
        actor=row.actor,
        method=row.method,
        outcome=AuditOutcome(row.outcome) if row.outcome in _OUTCOMES else row.outcome,
        resource=row.resource,
        api_key_id=row.api_key_id,
        peer_network=row.peer_network,
        request_digest=row.request_digest,
        before=row.before,
        after=row.after,
        correlation_id=row.correlation_id,
    )
    return AuditEntry(row.sequence, row.create_time, record, row.previous_hash.hex(), row.hash.hex())


_OUTCOMES = frozenset(AuditOutcome)
