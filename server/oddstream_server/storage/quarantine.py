"""Rows that can't be read, kept with their reason."""

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy.dialects.postgresql import insert as upsert

from oddstream_server.application.ports import QuarantinedRow
from oddstream_server.storage.database import Transaction
from oddstream_server.storage.tables import quarantine

_PAYLOAD_LIMIT = 65_536


async def keep(transaction: Transaction, rows: Sequence[QuarantinedRow]) -> None:
    """Keep rows that could not be read; a payload past 64 KiB is cut there.

    A row that comes again and again is kept once, with how often and when it last came.
    """
    if not rows:
        return
    latest: dict[tuple[str, str, str, bytes], dict[str, Any]] = {}
    for row in rows:
        digest = hashlib.sha256(row.payload).digest()
        known = latest.setdefault(
            (row.venue.value, row.source, row.reason, digest),
            {
                "venue": row.venue.value,
                "source": row.source,
                "reason": row.reason,
                "detail": row.detail,
                "payload": row.payload[:_PAYLOAD_LIMIT],
                "payload_digest": digest,
                "receive_time": row.receive_time_us,
                "times": 0,
            },
        )
        known["times"] += 1
        known["last_receive_time"] = row.receive_time_us
    statement = upsert(quarantine)
    statement = statement.on_conflict_do_update(
        index_elements=["venue", "source", "reason", "payload_digest"],
        set_={
            "times": quarantine.c.times + statement.excluded.times,
            "last_receive_time": statement.excluded.last_receive_time,
            "detail": statement.excluded.detail,
        },
    )
    await transaction.core.execute(statement, list(latest.values()))
