"""Calls that are sent again: the first answer is kept in the transaction that it tells of."""

from typing import Final

from oddstream_server.application.ports.backtests import RepeatableCall
from oddstream_server.domain.errors import RequestIdReused
from oddstream_server.storage.database import Transaction

HORIZON_US: Final = 24 * 3_600_000_000


async def first_answer(transaction: Transaction, call: RepeatableCall | None, now_us: int) -> bytes | None:
    """None where the call is new: it is noted, and :func:`keep_answer` has to follow in the same transaction.

    The same call at the same time waits here until the first one has committed.

    :raises RequestIdReused: the id came with another body within 24 hours.
    """
    if call is None:
        return None
    key = (call.name.subject, call.name.method, call.name.request_id)
    fresh = await transaction.driver.fetchval(
        "INSERT INTO idempotency_requests AS r (principal, method, request_id, request_digest, create_time) "
        "VALUES ($1, $2, $3::uuid, $4, $5) ON CONFLICT (principal, method, request_id) DO UPDATE "
        "SET request_digest = excluded.request_digest, answer = NULL, create_time = excluded.create_time "
        "WHERE r.create_time < $6 RETURNING true",
        *key,
        call.body_digest,
        now_us,
        now_us - HORIZON_US,
    )
    if fresh:
        return None
    row = await transaction.driver.fetchrow(
        "SELECT request_digest, answer FROM idempotency_requests "
        "WHERE principal = $1 AND method = $2 AND request_id = $3::uuid",
        *key,
    )
    if row["request_digest"] != call.body_digest:
        raise RequestIdReused
    return bytes(row["answer"])


async def keep_answer(transaction: Transaction, call: RepeatableCall | None, answer: bytes) -> None:
    if call is not None:
        await transaction.driver.execute(
            "UPDATE idempotency_requests SET answer = $4 "
            "WHERE principal = $1 AND method = $2 AND request_id = $3::uuid",
            call.name.subject,
            call.name.method,
            call.name.request_id,
            answer,
        )
