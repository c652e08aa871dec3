"""The signal log as it is read, listed and trimmed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import asyncpg
from sqlalchemy import ColumnElement, Text, cast, select, true
from sqlalchemy.dialects.postgresql import ARRAY

from oddstream_server.application.ports import (
    Key,
    LogBounds,
    Page,
    SignalFilter,
    SignalListFilter,
    StoredSignal,
)
from oddstream_server.application.ports import WakeUps as WakeUpsPort
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import FeedState, FeedStatus
from oddstream_server.domain.signal import (
    DataOrigin,
    Grade,
    Signal,
    SignalEvent,
    SignalEventType,
    SignalState,
    content_id,
    signal_event_from_plain,
)
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.tables import feed_status, signal_log_head, signals
from oddstream_server.storage.wake_ups import CHANNEL, WakeUps


@dataclass(frozen=True, slots=True)
class TrimResult:
    """What a trim did."""

    oldest_sequence: int
    dropped_partitions: tuple[str, ...]
    forgotten_ids: int


class SignalLogStore:
    """Fulfils :class:`~oddstream_server.application.ports.SignalLog`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def bounds(self) -> LogBounds:
        """The log's ends. Also finds out that this is another data set than last time, and gives it a new id then."""

        async def work(transaction: Transaction) -> Any:
            return await transaction.driver.fetchrow(
                f"SELECT h.*, i.*, (SELECT create_time FROM signal_events WHERE sequence >= h.oldest_sequence "
                f"ORDER BY sequence LIMIT 1) AS oldest_create_time FROM signal_log_head AS h, ({_IDENTITY}) AS i"
            )

        row = await self._database.read(work)
        data_set_id = row["data_set_id"]
        if row["primary_server"] and _is_foreign(row):
            data_set_id = await self.mint_data_set_id()
        return LogBounds(
            data_set_id=data_set_id,
            head_sequence=row["sequence"],
            oldest_sequence=row["oldest_sequence"],
            oldest_create_time_us=row["oldest_create_time"],
        )

    async def mint_data_set_id(self) -> str:
        """Keep the data set's id, or make a new one where the rows woke up elsewhere.

        Elsewhere is another cluster (a dump that was restored), another timeline (a restore to a time, a promoted
        replica) or another database of the same cluster: in each a sequence may stand for another event than before.
        """
        async with self._database.transaction() as transaction:
            row = await transaction.driver.fetchrow(
                f"SELECT h.*, i.* FROM signal_log_head AS h, ({_IDENTITY}) AS i FOR UPDATE OF h"
            )
            if not _is_foreign(row):
                return str(row["data_set_id"])
            seed = await transaction.driver.fetchval("SELECT gen_random_uuid()::text")
            data_set_id = content_id("ds", seed)
            await transaction.driver.execute(
                "UPDATE signal_log_head SET data_set_id = $1, system_identifier = $2, timeline = $3, database_oid = $4",
                data_set_id,
                row["own_system_identifier"],
                row["own_timeline"],
                row["own_database_oid"],
            )
            await transaction.driver.execute("SELECT pg_notify($1, 'signals')", CHANNEL)
            return data_set_id

    async def read(self, after_sequence: int, limit: int) -> Sequence[SignalEvent]:
        async def work(driver: "asyncpg.Connection[Any]") -> Sequence[Any]:
            rows: Sequence[Any] = await driver.fetch(
                "SELECT sequence, create_time, body FROM signal_events WHERE sequence > $1 ORDER BY sequence LIMIT $2",
                after_sequence,
                limit,
            )
            return rows

        rows = await self._database.read_at_once(work)
        return [replace(signal_event_from_plain(row[2]), sequence=row[0], create_time_us=row[1]) for row in rows]

    async def sequence_at(self, create_time_us: int) -> int:
        async def work(transaction: Transaction) -> int:
            return int(
                await transaction.driver.fetchval(
                    "SELECT coalesce((SELECT sequence FROM signal_events WHERE create_time < $1 "
                    "ORDER BY create_time DESC, sequence DESC LIMIT 1), "
                    "(SELECT oldest_sequence - 1 FROM signal_log_head))",
                    create_time_us,
                )
            )

        return await self._database.read(work)

    async def active_snapshot(self) -> tuple[int, Sequence[SignalEvent]]:
        async def work(transaction: Transaction) -> tuple[int, Sequence[SignalEvent]]:
            head = await transaction.driver.fetchval("SELECT sequence FROM signal_log_head")
            return int(head), await active_events(transaction)

        return await self._database.read(work, snapshot=True)

    async def get_signal(self, signal_id: str) -> StoredSignal | None:
        async def work(transaction: Transaction) -> StoredSignal | None:
            row = (await transaction.core.execute(select(signals).where(signals.c.signal_id == signal_id))).first()
            return None if row is None else _stored(row)

        return await self._database.read(work)

    async def list_signals(
        self, where: SignalListFilter, after: Key | None, limit: int
    ) -> tuple[Page[StoredSignal], int]:
        """Newest first, by the sequence of the event that made each signal.

        The venues of a signal are those of all its legs; its markets are its legs' markets.
        """
        page = select(signals).where(*_conditions(where)).order_by(signals.c.sequence.desc()).limit(limit + 1)
        if after is not None:
            page = page.where(signals.c.sequence < int(after[0]))
        rows_of = page.subquery()
        # One statement is one snapshot: the head belongs to exactly these rows, and comes with an empty page too.
        statement = (
            select(signal_log_head.c.sequence.label("head_sequence"), rows_of)
            .select_from(signal_log_head.outerjoin(rows_of, true()))
            .order_by(rows_of.c.sequence.desc())
        )

        async def work(transaction: Transaction) -> tuple[Page[StoredSignal], int]:
            rows = (await transaction.core.execute(statement)).all()
            found = [_stored(r) for r in rows if r.signal_id is not None]
            shown = tuple(found[:limit])
            return Page(shown, (shown[-1].sequence,) if len(found) > limit else None), int(rows[0].head_sequence)

        return await self._database.read(work)

    async def feed_statuses(self) -> Sequence[FeedStatus]:
        async def work(transaction: Transaction) -> Sequence[FeedStatus]:
            rows = (await transaction.core.execute(select(feed_status).order_by(feed_status.c.venue))).all()
            return [
                FeedStatus(
                    venue=Venue(r.venue),
                    state=FeedState(r.state),
                    last_receive_time_us=r.last_receive_time,
                    epoch=r.epoch,
                    change_time_us=r.change_time,
                    detail=r.detail,
                    market_ids=tuple(r.market_ids),
                )
                for r in rows
            ]

        return await self._database.read(work)

    async def trim(self, before_us: int, *, forget_ids: bool = False) -> TrimResult:
        """Drop the log's partitions whose every event is older than an instant, and remember where it now begins.

        :param forget_ids: also forget the trimmed events' keys; a replay of input that old would then append again.
        """
        async with self._database.transaction(timeout_seconds=30) as transaction:
            driver = transaction.driver
            # A reader in a dropped partition is waited for, but not at the price of everybody behind this lock.
            await driver.execute("SET LOCAL lock_timeout = '2s'")
            head = await driver.fetchrow("SELECT sequence, oldest_sequence FROM signal_log_head FOR UPDATE")
            dropped: list[str] = []
            oldest = head["oldest_sequence"]
            for name, first_kept in await _trimmable(driver, head["sequence"], before_us):
                await driver.execute(f"DROP TABLE {name}")
                dropped.append(name)
                oldest = first_kept
            await driver.execute("UPDATE signal_log_head SET oldest_sequence = $1", oldest)
            forgotten = 0
            if forget_ids:
                tag = await driver.execute("DELETE FROM signal_ids WHERE sequence < $1", oldest)
                forgotten = int(tag.rsplit(" ", 1)[1])
        return TrimResult(oldest, tuple(dropped), forgotten)

    async def trimmable(self, before_us: int) -> list[str]:
        """The partitions that :meth:`trim` would drop."""

        async def work(transaction: Transaction) -> list[str]:
            head = await transaction.driver.fetchval("SELECT sequence FROM signal_log_head")
            return [name for name, _ in await _trimmable(transaction.driver, head, before_us)]

        return await self._database.read(work)

    def wake_ups(self, on_wake: Callable[[str], None]) -> WakeUpsPort:
        return WakeUps(self._database.connector, on_wake)


async def _trimmable(driver: "asyncpg.Connection[Any]", head_sequence: int, before_us: int) -> list[tuple[str, int]]:
    """Partitions whose every event is older than an instant, each with the sequence that follows it."""
    partitions = await driver.fetch(
        "SELECT c.relname AS name, substring(c.relname FROM '[0-9]+$')::bigint AS first_sequence "
        "FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'signal_events'::regclass ORDER BY 2"
    )
    found = []
    for partition, following in pairwise(partitions):
        if following["first_sequence"] > head_sequence + 1:
            break  # it still takes new events
        newest = await driver.fetchval(f"SELECT max(create_time) FROM {partition['name']}")
        if newest is not None and newest >= before_us:
            break
        found.append((str(partition["name"]), int(following["first_sequence"])))
    return found


async def active_events(transaction: Transaction) -> Sequence[SignalEvent]:
    """The event that made each ACTIVE signal, in order."""
    rows = await transaction.core.execute(
        select(signals).where(signals.c.state == SignalState.ACTIVE.value).order_by(signals.c.sequence)
    )
    return [
        SignalEvent(
            type=SignalEventType(r.made_by),
            signal=signal_of(r.body),
            opening_strength_ppm=r.opening_strength_ppm,
            opening_net_edge_micros=r.opening_net_edge_micros,
            sequence=r.sequence,
            create_time_us=r.create_time,
        )
        for r in rows
    ]


_IDENTITY = """
    SELECT s.system_identifier AS own_system_identifier, NOT pg_is_in_recovery() AS primary_server,
           CASE WHEN pg_is_in_recovery() THEN 0
                ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END AS own_timeline,
           (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS own_database_oid
    FROM pg_control_system() AS s
"""


def _is_foreign(row: Any) -> bool:
    return bool(
        row["data_set_id"] == ""
        or row["system_identifier"] != row["own_system_identifier"]
        or row["timeline"] != row["own_timeline"]
        or row["database_oid"] != row["own_database_oid"]
    )


def _conditions(where: SignalListFilter) -> list[ColumnElement[bool]]:
    c = signals.c
    match: SignalFilter = where.match
    found: list[ColumnElement[bool]] = []
    for column, values in (
        (c.event_id, match.event_ids),
        (c.kind, match.kinds),
        (c.strategy_id, match.strategy_ids),
        (c.direction, tuple(d.value for d in match.directions)),
        (c.state, tuple(s.value for s in where.states)),
        (c.opportunity_id, where.opportunity_ids),
    ):
        if values:
            found.append(column == values[0] if len(values) == 1 else column.in_(values))
    if match.venues:
        found.append(c.venues.overlap(cast([v.value for v in match.venues], ARRAY(Text))))
    if match.within_venues:
        found.append(c.venues.contained_by(cast([v.value for v in match.within_venues], ARRAY(Text))))
    if match.market_ids:
        found.append(c.market_ids.overlap(cast(list(match.market_ids), ARRAY(Text))))
    if match.minimum_strength_ppm:
        found.append(c.opening_strength_ppm >= match.minimum_strength_ppm)
    if match.minimum_net_edge_micros is not None:
        found.append(c.opening_net_edge_micros >= match.minimum_net_edge_micros)
    origins = [DataOrigin.LIVE]
    if match.include_simulated:
        origins.append(DataOrigin.SIMULATED)
    if match.include_replay:
        origins.append(DataOrigin.REPLAY)
    if len(origins) < len(DataOrigin):
        found.append(c.data_origin.in_([o.value for o in origins]))
    if where.create_time_from_us is not None:
        found.append(c.create_time >= where.create_time_from_us)
    if where.create_time_to_us is not None:
        found.append(c.create_time < where.create_time_to_us)
    return found


def signal_of(body: dict[str, Any]) -> Signal:
    """A signal from the document of a row of ``signals``."""
    shell = {
        "type": SignalEventType.CREATED.value,
        "signal": body,
        "opening_strength_ppm": 0,
        "opening_net_edge_micros": None,
        "grade": None,
    }
    return signal_event_from_plain(shell).signal


def _stored(row: Any) -> StoredSignal:
    return StoredSignal(
        signal=signal_of(row.body),
        state=SignalState(row.state),
        sequence=row.sequence,
        create_time_us=row.create_time,
        end_time_us=row.end_time,
        opening_strength_ppm=row.opening_strength_ppm,
        opening_net_edge_micros=row.opening_net_edge_micros,
        grade=Grade(**row.grade) if row.grade else None,
    )
