"""The signal log: one order, no holes, nothing twice.

The head is one row. An append locks it with ``WHERE epoch = mine`` (the fence), drops the events whose keys are known,
numbers what remains, inserts, raises the head, moves the states of ``signals`` and notifies, all in the transaction of
its caller. Numbers are handed out under the head's lock, so the sequence is the commit order and a reader that has seen
n has seen everything up to n.

Each append is a row of the audit log too, with a digest of what was appended.

Lock order everywhere: lease, lane, audit head, log head; the log's last.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import asyncpg
import orjson
from sqlalchemy import ColumnElement, Text, cast, select, true
from sqlalchemy.dialects.postgresql import ARRAY

from oddstream_server.application.calls.request import correlation_id
from oddstream_server.application.ports import (
    Fenced,
    Key,
    LogBounds,
    Page,
    SignalFilter,
    SignalListFilter,
    StoredSignal,
)
from oddstream_server.application.ports import WakeUps as WakeUpsPort
from oddstream_server.domain.audit import SYSTEM, AuditOutcome, AuditRecord
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
from oddstream_server.storage.administration import audit_log
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.partitions import EVENTS_A_PARTITION, extend_log
from oddstream_server.storage.tables import feed_status, signal_log_head, signals
from oddstream_server.storage.track_record import outcomes
from oddstream_server.storage.wake_ups import CHANNEL, WakeUps
from oddstream_server.storage.writes import Write, write_together

AUDIT_METHOD = "pipeline.signals"

_ENDS = {
    SignalEventType.SUPERSEDED: SignalState.SUPERSEDED,
    SignalEventType.WITHDRAWN: SignalState.WITHDRAWN,
    SignalEventType.EXPIRED: SignalState.EXPIRED,
}


async def append(
    driver: "asyncpg.Connection[Any]",
    epoch: int,
    events: Sequence[SignalEvent],
    events_a_partition: int = EVENTS_A_PARTITION,
    beside: Sequence[Write] = (),
) -> tuple[SignalEvent, ...]:
    """Append events in the caller's transaction; answers those that were new, numbered and dated.

    An EXPIRED of a signal that is over by another event already is dropped like a known one.

    :param beside: what else the caller writes, in the same round trip and also where no event is new; none of it may
        touch the log, its heads or the rows of its signals.
    :raises Fenced: the head carries another epoch.
    """
    keyed = {event.event_key: event for event in events}
    expiring = {e.signal.signal_id: key for key, e in keyed.items() if e.type is SignalEventType.EXPIRED}
    head = await driver.fetchrow(_HEADS, epoch, list(keyed), list(expiring))
    if head is None:
        raise Fenced
    known, ended = head["known"], head["ended"]
    if head["sequence"] != head["seen_sequence"]:
        # Somebody appended while the head was waited for, after what this statement could see.
        known, ended = (await driver.fetchrow(f"SELECT {_KNOWN}, {_ENDED}", list(keyed), list(expiring))).values()
    for key in (*known, *(expiring[signal_id] for signal_id in ended)):
        keyed.pop(key, None)
    if not keyed:
        await write_together(driver, beside)
        return ()
    create_time_us = head["create_time"]
    numbered = [
        replace(event, sequence=sequence, create_time_us=create_time_us)
        for sequence, event in enumerate(keyed.values(), head["sequence"] + 1)
    ]
    last = numbered[-1].sequence
    partitioned_to = await extend_log(driver, head["partitioned_to"], last, events_a_partition)
    audit_head = audit_log.Head(head["audit_sequence"], head["audit_hash"], head["audit_create_time"])
    writes = [
        Write(
            "INSERT INTO signal_events (sequence, create_time, type, signal_id, body) "
            "SELECT n.sequence, {1}, n.type, n.signal_id, n.body "
            "FROM unnest({0}::bigint[], {2}::text[], {3}::text[], {4}::json[]) AS n(sequence, type, signal_id, body)",
            (
                [e.sequence for e in numbered],
                create_time_us,
                [e.type.value for e in numbered],
                [e.signal.signal_id for e in numbered],
                [document(replace(e, sequence=0, create_time_us=0)) for e in numbered],
            ),
        ),
        Write(
            "INSERT INTO signal_ids (sequence, event_key) SELECT * FROM unnest({0}::bigint[], {1}::text[])",
            ([e.sequence for e in numbered], list(keyed)),
        ),
        Write(
            "UPDATE signal_log_head SET sequence = {0}, last_create_time = {1}, partitioned_to = {2} "
            "RETURNING pg_notify({3}, 'signals')",
            (last, create_time_us, partitioned_to, CHANNEL),
        ),
        *_moving(numbered),
        *audit_log.chaining(_told(numbered), audit_head)[1],
    ]
    await write_together(driver, [*beside, *writes])
    await _grade(driver, numbered)
    return tuple(numbered)


_KNOWN = "ARRAY(SELECT event_key FROM signal_ids WHERE event_key = ANY($1::text[])) AS known"
_ENDED = "ARRAY(SELECT signal_id FROM signals WHERE signal_id = ANY($2::text[]) AND state <> 'active') AS ended"
"""Whoever sweeps may not know yet that an operator ended a signal."""

_HEADS = (
    f"WITH audit AS MATERIALIZED ({audit_log.HEAD}) "
    "SELECT log.*, audit.sequence AS audit_sequence, audit.hash AS audit_hash, audit.create_time AS audit_create_time, "
    "(SELECT sequence FROM signal_log_head) AS seen_sequence, "
    f"{_KNOWN.replace('$1', '$2')}, {_ENDED.replace('$2', '$3')} "
    "FROM audit, LATERAL (SELECT sequence, partitioned_to, greatest(clock_timestamp(), last_create_time) AS create_time"
    " FROM signal_log_head WHERE epoch = $1 AND audit.sequence IS NOT NULL FOR UPDATE) AS log"
)
"""Locks the audit log's head and then, since the second needs the first's row, the log's: in the order of all.

The locked row is the newest one, all else is as the statement saw it when it began, ``seen_sequence`` included.
"""


def _told(events: Sequence[SignalEvent]) -> AuditRecord:
    """What the audit log is told of an append."""
    digest = hashlib.sha256()
    for event in events:
        digest.update(f"{event.sequence} {event.event_key} ".encode() + event.canonical_bytes() + b"\n")
    first, last = events[0].sequence, events[-1].sequence
    return AuditRecord(
        actor=SYSTEM,
        method=AUDIT_METHOD,
        outcome=AuditOutcome.DONE,
        resource=f"SignalLog/{first}-{last}",
        after={"digest": digest.hexdigest(), "events": dict(Counter(event.type.value for event in events))},
        correlation_id=correlation_id(),
    )


def _moving(events: Sequence[SignalEvent]) -> list[Write]:
    """Rows of the signals that events make, each in the state in which the events leave it, and what they end."""
    ended: dict[str, tuple[str, int]] = {}
    for e in events:
        if e.type is SignalEventType.REVISED and e.signal.supersedes_signal_id:
            ended[e.signal.supersedes_signal_id] = (SignalState.SUPERSEDED.value, e.create_time_us)
        elif e.type in _ENDS:
            ended[e.signal.signal_id] = (_ENDS[e.type].value, e.create_time_us)
    writes: list[Write] = []
    made = [e for e in events if e.type in (SignalEventType.CREATED, SignalEventType.REVISED)]
    if made:
        still = (SignalState.ACTIVE.value, None)
        rows = [(*_signal_row(e), *ended.get(e.signal.signal_id, still)) for e in made]
        writes += [Write(_INSERT_SIGNALS, tuple(zip(*rows, strict=True))), *outcomes.opening([e.signal for e in made])]
    if ended:
        writes.append(
            Write(
                "UPDATE signals AS s SET state = n.state, end_time = n.end_time "
                "FROM unnest({0}::text[], {1}::text[], {2}::timestamptz[]) AS n(signal_id, state, end_time) "
                "WHERE s.signal_id = n.signal_id AND s.state = 'active'",
                (
                    list(ended),
                    [state for state, _ in ended.values()],
                    [end_time for _, end_time in ended.values()],
                ),
            )
        )
    return writes


async def _grade(driver: "asyncpg.Connection[Any]", events: Sequence[SignalEvent]) -> None:
    grades = {e.signal.signal_id: e.grade for e in events if e.type is SignalEventType.GRADED and e.grade}
    if not grades:
        return
    await driver.execute(
        "UPDATE signals AS s SET grade = n.grade "
        "FROM unnest($1::text[], $2::jsonb[]) AS n(signal_id, grade) WHERE s.signal_id = n.signal_id "
        "AND (s.grade IS NULL OR (s.grade->>'revision')::int < (n.grade->>'revision')::int)",
        list(grades),
        [document(grade) for grade in grades.values()],
    )
    graded = {e.signal.signal_id: e.signal for e in events if e.signal.signal_id in grades}
    await outcomes.grade_outcomes(driver, [(graded[signal_id], grade) for signal_id, grade in grades.items()])


_SIGNAL_COLUMNS = {
    "signal_id": "text", "sequence": "bigint", "opportunity_id": "text", "kind": "text", "strategy_id": "text",
    "event_id": "text", "direction": "text", "data_origin": "text", "made_by": "text", "venues": "text",
    "market_ids": "text", "opening_strength_ppm": "int", "opening_net_edge_micros": "bigint",
    "create_time": "timestamptz", "body": "json", "state": "text", "end_time": "timestamptz",
}  # fmt: skip
_SEPARATOR = "\x1f"
"""Between the items of a list, since an array of lists can't be ragged."""
_INSERT_SIGNALS = (
    f"INSERT INTO signals ({', '.join(_SIGNAL_COLUMNS)}) SELECT "
    + ", ".join(
        f"string_to_array(n.{name}, E'\\x1f')" if name in ("venues", "market_ids") else f"n.{name}"
        for name in _SIGNAL_COLUMNS
    )
    + " FROM unnest("
    + ", ".join(f"{{{i}}}::{kind}[]" for i, kind in enumerate(_SIGNAL_COLUMNS.values()))
    + f") AS n({', '.join(_SIGNAL_COLUMNS)}) ON CONFLICT (signal_id) DO NOTHING"
)


def _signal_row(e: SignalEvent) -> tuple[Any, ...]:
    s = e.signal
    market_ids = dict.fromkeys(leg.market_id for leg in s.legs)
    return (
        s.signal_id, e.sequence, s.opportunity_id, s.kind, s.strategy_id, s.event_id, s.direction.value,
        s.data_origin.value, e.type.value, _SEPARATOR.join(outcomes.venues_of(s)), _SEPARATOR.join(market_ids),
        e.opening_strength_ppm, e.opening_net_edge_micros, e.create_time_us, document(s),
    )  # fmt: skip


def document(value: object) -> str:
    """JSON of plain values and dataclasses of them."""
    return orjson.dumps(value).decode()


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
