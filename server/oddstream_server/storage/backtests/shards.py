"""The parts of a sweep: cut once, computed by any number of workers, each part kept as soon as it is done."""

from collections.abc import Mapping, Sequence

from oddstream_server.application.ports.backtests import ClaimedShard, ShardPlan
from oddstream_server.storage.backtests.changes import wake_watchers
from oddstream_server.storage.backtests.documents import RUN_COLUMNS, document, run_of
from oddstream_server.storage.backtests.jobs import enqueue
from oddstream_server.storage.backtests.work import RunWorkRecords
from oddstream_server.storage.database import Transaction


class SweepWorkRecords(RunWorkRecords):
    """Fulfils :class:`~oddstream_server.application.ports.backtests.RunWork`."""

    async def plan_shards(self, run_id: str, attempt: int, shards: Sequence[ShardPlan], frozen: bytes) -> bool:
        async with self._database.transaction() as transaction:
            driver = transaction.driver
            if not await _running(transaction, run_id, attempt):
                return False
            # An earlier attempt's cut stays: the data may have grown since, and what was found belongs to that cut.
            if not await driver.fetchval("SELECT true FROM backtest_shards WHERE run_id = $1 LIMIT 1", run_id):
                await driver.execute("UPDATE backtest_runs SET frozen = $2 WHERE run_id = $1", run_id, frozen)
                await driver.executemany(
                    "INSERT INTO backtest_shards (run_id, shard_number, market_ids, row_count) VALUES ($1, $2, $3, $4)",
                    [(run_id, s.shard_number, list(s.market_ids), s.row_count) for s in shards],
                )
                for shard in shards:
                    job_id = await enqueue(driver, "sweep_shard", run_id=run_id, shard_number=shard.shard_number)
                    await driver.execute(
                        "UPDATE backtest_shards SET job_id = $3 WHERE run_id = $1 AND shard_number = $2",
                        run_id,
                        shard.shard_number,
                        job_id,
                    )
            await _tell_progress(transaction, run_id)
        return True

    async def frozen(self, run_id: str) -> bytes | None:
        async with self._database.reading() as transaction:
            found: bytes | None = await transaction.driver.fetchval(
                "SELECT frozen FROM backtest_runs WHERE run_id = $1 AND state = 'running'", run_id
            )
        return found

    async def claim_shard(self, run_id: str, shard_number: int) -> ClaimedShard | None:
        async with self._database.transaction() as transaction:
            attempt = await transaction.driver.fetchval(
                "UPDATE backtest_shards SET attempt = attempt + 1 WHERE run_id = $1 AND shard_number = $2 "
                "AND NOT done RETURNING attempt",
                run_id,
                shard_number,
            )
        return None if attempt is None else await self.held_shard(run_id, shard_number, attempt)

    async def held_shard(self, run_id: str, shard_number: int, attempt: int) -> ClaimedShard | None:
        """A shard that was claimed for this attempt; None where it isn't this attempt's any more."""
        async with self._database.reading() as transaction:
            driver = transaction.driver
            run = await driver.fetchrow(
                f"SELECT {RUN_COLUMNS} FROM backtest_runs WHERE run_id = $1 AND state = 'running'", run_id
            )
            shard = await driver.fetchrow(f"SELECT s.market_ids, s.row_count {_MINE}", run_id, shard_number, attempt)
            if run is None or shard is None:
                return None
            done = await driver.fetch(
                "SELECT set_number FROM backtest_parts WHERE run_id = $1 AND shard_number = $2", run_id, shard_number
            )
        plan = ShardPlan(shard_number, tuple(shard["market_ids"]), shard["row_count"])
        return ClaimedShard(run_of(run), plan, attempt, frozenset(row[0] for row in done))

    async def holds_shard(self, run_id: str, shard_number: int, attempt: int) -> bool:
        async with self._database.reading() as transaction:
            return bool(await transaction.driver.fetchval(f"SELECT true {_MINE}", run_id, shard_number, attempt))

    async def store_parts(self, run_id: str, shard_number: int, attempt: int, parts: Mapping[int, bytes]) -> bool:
        async with self._database.transaction() as transaction:
            driver = transaction.driver
            mine = await driver.fetchval(f"SELECT true {_MINE} FOR UPDATE OF s", run_id, shard_number, attempt)
            if mine:
                await driver.executemany(
                    "INSERT INTO backtest_parts (run_id, shard_number, set_number, part) VALUES ($1, $2, $3, $4) "
                    "ON CONFLICT DO NOTHING",
                    [(run_id, shard_number, number, part) for number, part in parts.items()],
                )
        return bool(mine)

    async def finish_shard(self, run_id: str, shard_number: int, attempt: int) -> bool:
        async with self._database.transaction() as transaction:
            driver = transaction.driver
            # The last one is found under the run's lock: of two that end at once exactly one queues the judging.
            running = await driver.fetchval(
                "SELECT true FROM backtest_runs WHERE run_id = $1 AND state = 'running' FOR UPDATE", run_id
            )
            done = running and await driver.fetchval(
                "UPDATE backtest_shards SET done = true WHERE run_id = $1 AND shard_number = $2 AND attempt = $3 "
                "AND NOT done RETURNING true",
                run_id,
                shard_number,
                attempt,
            )
            if not done:
                return False
            await _tell_progress(transaction, run_id)
            if not await driver.fetchval(
                "SELECT true FROM backtest_shards WHERE run_id = $1 AND NOT done LIMIT 1", run_id
            ):
                job_id = await enqueue(driver, "sweep_judge", run_id=run_id)
                await driver.execute("UPDATE backtest_runs SET job_id = $2 WHERE run_id = $1", run_id, job_id)
        return True

    async def parts(self, run_id: str, set_number: int) -> Sequence[bytes]:
        async with self._database.reading() as transaction:
            rows = await transaction.driver.fetch(
                "SELECT part FROM backtest_parts WHERE run_id = $1 AND set_number = $2 ORDER BY shard_number",
                run_id,
                set_number,
            )
        return [bytes(row[0]) for row in rows]

    async def trials(self, data_key: str) -> int:
        async with self._database.reading() as transaction:
            found = await transaction.driver.fetchval(
                "SELECT trial_count FROM backtest_trials WHERE data_key = $1", data_key
            )
        return found or 0


_MINE = (
    "FROM backtest_shards AS s JOIN backtest_runs AS r USING (run_id) WHERE run_id = $1 AND shard_number = $2 "
    "AND s.attempt = $3 AND NOT s.done AND r.state = 'running'"
)


async def _running(transaction: Transaction, run_id: str, attempt: int) -> bool:
    return bool(
        await transaction.driver.fetchval(
            "SELECT true FROM backtest_runs WHERE run_id = $1 AND attempt = $2 AND state = 'running' FOR UPDATE",
            run_id,
            attempt,
        )
    )


async def _tell_progress(transaction: Transaction, run_id: str) -> None:
    """Progress of a sweep is what its shards say; the end is expected at the pace so far."""
    row = await transaction.driver.fetchrow(
        "SELECT count(*) AS total, count(*) FILTER (WHERE done) AS done, "
        "coalesce(sum(row_count), 0)::bigint AS total_rows, "
        "coalesce(sum(row_count) FILTER (WHERE done), 0)::bigint AS done_rows, "
        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us, "
        "(SELECT start_time FROM backtest_runs WHERE run_id = $1) AS start_us "
        "FROM backtest_shards WHERE run_id = $1",
        run_id,
    )
    done, total = row["done_rows"], row["total_rows"]
    ends = None
    if done and row["start_us"] is not None:
        ends = row["now_us"] + (row["now_us"] - row["start_us"]) * (total - done) // done
    progress = {
        "done_row_count": done,
        "total_row_count": total,
        "done_shard_count": row["done"],
        "total_shard_count": row["total"],
        "expected_end_us": ends,
        "stage": "judging" if row["done"] == row["total"] else "computing",
    }
    await transaction.driver.execute(
        "UPDATE backtest_runs SET progress = $2::jsonb, revision = revision + 1 WHERE run_id = $1",
        run_id,
        document(progress),
    )
    await wake_watchers(transaction.driver)
