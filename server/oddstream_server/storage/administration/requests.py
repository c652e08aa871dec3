"""Answers by request id: the same request gets the first answer again, and has its effect once."""

from oddstream_server.application.ports import FirstAnswer, RequestName
from oddstream_server.storage.database import Database, Transaction


class AnsweredRequests:
    """Fulfils :class:`~oddstream_server.application.ports.AnsweredRequests` in a transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._driver = transaction.driver

    async def find(self, name: RequestName, horizon_us: int) -> FirstAnswer | None:
        row = await self._driver.fetchrow(
            "SELECT request_digest, answer, sealed_secret, create_time FROM idempotency_requests "
            "WHERE principal = $1 AND method = $2 AND request_id = $3::uuid AND create_time >= $4",
            name.subject,
            name.method,
            name.request_id,
            horizon_us,
        )
        if row is None:
            return None
        return FirstAnswer(row["request_digest"], row["answer"] or b"", row["sealed_secret"], row["create_time"])

    async def claim(self, name: RequestName, digest: bytes, now_us: int, horizon_us: int) -> FirstAnswer | None:
        # A row that another transaction is about to commit is waited for here: the key's index holds us back.
        claimed = await self._driver.fetchval(
            "INSERT INTO idempotency_requests AS r (principal, method, request_id, request_digest, create_time) "
            "VALUES ($1, $2, $3::uuid, $4, $5) ON CONFLICT (principal, method, request_id) DO UPDATE "
            "SET request_digest = excluded.request_digest, create_time = excluded.create_time, answer = NULL, "
            "sealed_secret = NULL WHERE r.create_time < $6 RETURNING true",
            name.subject,
            name.method,
            name.request_id,
            digest,
            now_us,
            horizon_us,
        )
        if claimed:
            return None
        first = await self.find(name, horizon_us)
        assert first is not None, "a row is deleted only once its horizon has passed"
        return first

    async def answer(
        self, name: RequestName, sealed_answer: bytes, sealed_secret: bytes | None, subject_id: str | None
    ) -> None:
        await self._driver.execute(
            "UPDATE idempotency_requests SET answer = $4, sealed_secret = $5, subject_id = $6 "
            "WHERE principal = $1 AND method = $2 AND request_id = $3::uuid",
            name.subject,
            name.method,
            name.request_id,
            sealed_answer,
            sealed_secret,
            subject_id,
        )

    async def forget_subject(self, subject_id: str) -> None:
        await self._driver.execute(
            "DELETE FROM idempotency_requests WHERE subject_id = $1 OR principal = $1", subject_id
        )


class RequestHousekeeping:
    """Forgets secrets and answers once their time is over."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def forget(self, secrets_before_us: int, answers_before_us: int) -> int:
        """Drop sealed secrets and whole rows older than two instants; answers how many rows went."""
        async with self._database.transaction() as transaction:
            await transaction.driver.execute(
                "UPDATE idempotency_requests SET sealed_secret = NULL "
                "WHERE sealed_secret IS NOT NULL AND create_time < $1",
                secrets_before_us,
            )
            tag = await transaction.driver.execute(
                "DELETE FROM idempotency_requests WHERE create_time < $1", answers_before_us
            )
        return int(tag.rsplit(" ", 1)[1])
