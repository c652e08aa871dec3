"""What is held about people besides their keys, and the end of it."""

from collections.abc import Sequence
from pathlib import Path

from oddstream_server.application.ports import Erasure, Holdings
from oddstream_server.storage.administration.anchors import append_line, read_lines
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.track_record.executions import EXECUTIONS, execution_of, forget_orders
from oddstream_server.storage.wake_ups import CHANNEL


class SubjectHoldings:
    """Fulfils :class:`~oddstream_server.application.ports.SubjectHoldings`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of_owners(self, owners: Sequence[str], limit: int) -> Holdings:
        async def work(transaction: Transaction) -> Holdings:
            driver, names = transaction.driver, list(owners)
            count = await driver.fetchval("SELECT count(*) FROM executions WHERE owner = ANY($1::text[])", names)
            executions = await driver.fetch(
                f"{EXECUTIONS} WHERE e.owner = ANY($1::text[]) "
                "ORDER BY e.create_time DESC, e.execution_id DESC LIMIT $2",
                names,
                limit,
            )
            runs = await driver.fetch(
                "SELECT run_id FROM backtest_runs WHERE owner = ANY($1::text[]) ORDER BY create_number", names
            )
            return Holdings(tuple(execution_of(row) for row in executions), count, tuple(row[0] for row in runs))

        return await self._database.read(work, snapshot=True)


class ErasureStore:
    """Fulfils :class:`~oddstream_server.application.ports.ErasureStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def apply(self, erasures: Sequence[Erasure], now_us: int) -> int:
        subject_ids = [erasure.subject_id for erasure in erasures]
        key_ids = [key_id for erasure in erasures for key_id in erasure.key_ids]
        async with self._database.transaction() as transaction:
            driver = transaction.driver
            back = await driver.fetch("DELETE FROM subjects WHERE subject_id = ANY($1) RETURNING 1", subject_ids)
            # Only what a restore can have brought back: whoever comes again with a token keeps the answers since.
            await driver.execute(
                "DELETE FROM idempotency_requests AS r USING unnest($1::text[], $2::timestamptz[]) AS e (id, erased) "
                "WHERE (r.subject_id = e.id OR r.principal = e.id) AND r.create_time <= e.erased",
                subject_ids,
                [erasure.time_us for erasure in erasures],
            )
            await driver.execute(
                "UPDATE api_keys SET revoke_time = coalesce(revoke_time, $2), owner = 'erased', "
                "revision = revision + 1 WHERE key_id = ANY($1) AND (revoke_time IS NULL OR owner <> 'erased')",
                key_ids,
                now_us,
            )
            await forget_orders(driver, [*subject_ids, *key_ids])
            await driver.executemany(
                "INSERT INTO erasures (subject_id, key_ids, erase_time) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                [(erasure.subject_id, list(erasure.key_ids), erasure.time_us) for erasure in erasures],
            )
            await driver.execute("SELECT pg_notify($1, 'keys')", CHANNEL)
        return len(back)


class JsonLinesErasures:
    """Fulfils :class:`~oddstream_server.application.ports.ErasureFile`: pseudonyms alone, a JSON line each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Sequence[Erasure]:
        return [Erasure(line["subject_id"], tuple(line["key_ids"]), line["time_us"]) for line in read_lines(self._path)]

    def append(self, erasure: Erasure) -> None:
        append_line(
            self._path,
            {"subject_id": erasure.subject_id, "key_ids": list(erasure.key_ids), "time_us": erasure.time_us},
        )
