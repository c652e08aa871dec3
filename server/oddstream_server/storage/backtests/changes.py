"""Runs as a change makes them: created with their job, cancelled, deleted."""

from typing import Any

from oddstream_server.application.ports.backtests import NewRun
from oddstream_server.domain.backtest import BacktestResult, Run, RunKind, SweepResult, SweepSpec
from oddstream_server.domain.errors import ResourceExhausted
from oddstream_server.storage.backtests.documents import RUN_COLUMNS, document, result_of, run_of
from oddstream_server.storage.backtests.jobs import enqueue, withdraw
from oddstream_server.storage.database import Transaction
from oddstream_server.storage.wake_ups import CHANNEL

_QUOTA_RETRY_US = 10_000_000
_ACTIVE = "state IN ('queued', 'running')"

TASKS = {RunKind.BACKTEST: "backtest", RunKind.SWEEP: "sweep_plan"}
"""The first job of a run."""


class RunChanges:
    """Fulfils :class:`~oddstream_server.application.ports.backtests.RunChanges` in a transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._driver = transaction.driver

    async def create(self, new: NewRun, quota: int) -> Run:
        driver = self._driver
        await driver.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 4))", new.owner)
        unfinished = await driver.fetchval(
            f"SELECT count(*) FROM backtest_runs WHERE owner = $1 AND {_ACTIVE}", new.owner
        )
        if unfinished >= quota:
            raise ResourceExhausted(
                f"{unfinished} backtests and sweeps are queued or running, and {quota} may be: wait for one to "
                "end, or cancel one",
                subject=f"key:{new.owner} unfinished backtests",
                retry_after_us=_QUOTA_RETRY_US,
                reason="BACKTEST_QUOTA_EXCEEDED",
                metadata={"limit": str(quota)},
            )
        await driver.execute(
            "INSERT INTO backtest_runs (run_id, kind, owner, display_name, spec, strategy_kinds, set_count, state, "
            "create_time) VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7, 'queued', $8)",
            new.run_id,
            new.kind.value,
            new.owner,
            new.display_name,
            document(new.spec),
            _strategy_kinds(new),
            new.set_count,
            new.create_time_us,
        )
        job_id = await enqueue(driver, TASKS[new.kind], run_id=new.run_id)
        row = await driver.fetchrow(
            f"UPDATE backtest_runs SET job_id = $2 WHERE run_id = $1 RETURNING {RUN_COLUMNS}", new.run_id, job_id
        )
        await wake_watchers(driver)
        return run_of(row)

    async def get(self, run_id: str) -> Run | None:
        row = await self._driver.fetchrow(
            f"SELECT {RUN_COLUMNS} FROM backtest_runs WHERE run_id = $1 FOR UPDATE", run_id
        )
        return None if row is None else run_of(row)

    async def result(self, run_id: str) -> BacktestResult | SweepResult | None:
        row = await self._driver.fetchrow("SELECT kind, result FROM backtest_runs WHERE run_id = $1", run_id)
        return None if row is None or row["result"] is None else result_of(RunKind(row["kind"]), row["result"])

    async def cancel(self, run_id: str, now_us: int) -> Run | None:
        driver = self._driver
        row = await driver.fetchrow(
            f"UPDATE backtest_runs SET state = 'cancelled', end_time = $2, revision = revision + 1 "
            f"WHERE run_id = $1 AND {_ACTIVE} RETURNING {RUN_COLUMNS}, job_id",
            run_id,
            now_us,
        )
        if row is None:
            return await self.get(run_id)
        jobs = [r[0] for r in await driver.fetch("SELECT job_id FROM backtest_shards WHERE run_id = $1", run_id)]
        await withdraw(driver, [job for job in (row["job_id"], *jobs) if job is not None])
        await driver.execute("DELETE FROM backtest_shards WHERE run_id = $1", run_id)
        await wake_watchers(driver)
        return run_of(row)

    async def delete(self, run_id: str) -> bool:
        gone = await self._driver.fetchval(
            f"DELETE FROM backtest_runs WHERE run_id = $1 AND NOT {_ACTIVE} RETURNING true", run_id
        )
        if gone:
            await wake_watchers(self._driver)
            return True
        return not await self._driver.fetchval("SELECT true FROM backtest_runs WHERE run_id = $1", run_id)


async def wake_watchers(driver: Any) -> None:
    await driver.execute("SELECT pg_notify($1, 'backtests')", CHANNEL)


def _strategy_kinds(new: NewRun) -> list[str]:
    base = new.spec.base if isinstance(new.spec, SweepSpec) else new.spec
    return sorted({s.kind for s in base.strategies})
