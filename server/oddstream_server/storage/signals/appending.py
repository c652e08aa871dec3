"""Appending to the signal log: one order, no holes, nothing twice.

The head is one row. An append locks it with ``WHERE epoch = mine`` (the fence), drops the events whose keys are known,
numbers what remains, inserts, raises the head, moves the states of ``signals`` and notifies, all in the transaction of
its caller. Numbers are handed out under the head's lock, so the sequence is the commit order and a reader that has seen
n has seen everything up to n.

Each append is a row of the audit log too, with a digest of what was appended.

Lock order everywhere: lease, lane, audit head, log head; the log's last.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import asyncpg

from oddstream_server.application.calls.request import correlation_id
from oddstream_server.application.ports import (
    Fenced,
)
from oddstream_server.domain.audit import SYSTEM, AuditOutcome, AuditRecord
from oddstream_server.domain.signal import (
    SignalEvent,
    SignalEventType,
    SignalState,
)
from oddstream_server.storage.administration import audit_log
from oddstream_server.storage.partitions import EVENTS_A_PARTITION, extend_log
from oddstream_server.storage.track_record import outcomes
from oddstream_server.storage.wake_ups import CHANNEL
from oddstream_server.storage.writes import Write, document, write_together

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
