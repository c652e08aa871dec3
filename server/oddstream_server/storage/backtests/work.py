"""Runs as workers see them. Each write names the attempt that it belongs to; an older one is refused, so that a worker
that was given up and wakes again changes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from oddstream_server.domain.backtest import (
    BacktestResult,
    BlotterRow,
    Run,
    RunError,
    RunProgress,
    RunState,
    SweepResult,
)
from oddstream_server.storage.backtests.changes import wake_watchers
from oddstream_server.storage.backtests.documents import RUN_COLUMNS, document, run_of
from oddstream_server.storage.backtests.runs import TRADE_COLUMNS, packed_curve
from oddstream_server.storage.database import Database, Transaction

_MINE = "run_id = $1 AND attempt = $2 AND state = 'running'"


class RunWorkRecords:
    """The part of :class:`~oddstream_server.application.ports.backtests.RunWork` that is about whole runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, run_id: str, now_us: int, maximum_attempts: int) -> Run | None:
        async with self._database.transaction() as transaction:
            driver = transaction.driver
            row = await driver.fetchrow(
                f"SELECT {RUN_COLUMNS} FROM backtest_runs WHERE run_id = $1 AND state IN ('queued', 'running') "
                "FOR UPDATE",
                run_id,
            )
            if row is None:
                return None
            if row["attempt"] >= maximum_attempts:
                error = RunError(
                    "BACKTEST_WORKER_LOST",
                    f"its worker was lost {row['attempt']} times, more than it may be; try a shorter range or fewer "
                    "markets, and look at the worker's log",
                    "ABORTED",
                )
                await _end(transaction, run_id, RunState.FAILED, now_us, error=document(error))
                return None
            row = await driver.fetchrow(
                "UPDATE backtest_runs SET state = 'running', attempt = attempt + 1, revision = revision + 1, "
                f"start_time = coalesce(start_time, $2) WHERE run_id = $1 RETURNING {RUN_COLUMNS}",
                run_id,
                now_us,
            )
            await wake_watchers(driver)
        return run_of(row)

    async def held_run(self, run_id: str) -> Run | None:
        """The run as it is being computed; None where it isn't."""
        async with self._database.reading() as transaction:
            row = await transaction.driver.fetchrow(
                f"SELECT {RUN_COLUMNS} FROM backtest_runs WHERE run_id = $1 AND state = 'running'", run_id
            )
        return None if row is None else run_of(row)

    async def holds(self, run_id: str, attempt: int) -> bool:
        async with self._database.reading() as transaction:
            return bool(
                await transaction.driver.fetchval(f"SELECT true FROM backtest_runs WHERE {_MINE}", run_id, attempt)
            )

    async def advance(self, run_id: str, attempt: int, progress: RunProgress) -> bool:
        async with self._database.transaction() as transaction:
            written = await transaction.driver.fetchval(
                f"UPDATE backtest_runs SET progress = $3::jsonb, revision = revision + 1 WHERE {_MINE} RETURNING true",
                run_id,
                attempt,
                document(progress),
            )
            if written:
                await wake_watchers(transaction.driver)
        return bool(written)

    async def fail(self, run_id: str, attempt: int, error: RunError, now_us: int) -> bool:
        async with self._database.transaction() as transaction:
            if not await _lock(transaction, run_id, attempt):
                return False
            await _end(transaction, run_id, RunState.FAILED, now_us, error=document(error))
        return True

    async def finish_backtest(
        self,
        run_id: str,
        attempt: int,
        result: BacktestResult,
        blotter: Sequence[BlotterRow],
        curve: Mapping[str, Any],
        now_us: int,
    ) -> bool:
        async with self._database.transaction() as transaction:
            if not await _lock(transaction, run_id, attempt):
                return False
            await transaction.driver.copy_records_to_table(
                "backtest_trades",
                records=[(run_id, *(getattr(row, _FIELDS[name]) for name in TRADE_COLUMNS)) for row in blotter],
                columns=("run_id", *TRADE_COLUMNS),
            )
            await transaction.driver.execute(
                "INSERT INTO backtest_curves (run_id, points) VALUES ($1, $2)", run_id, packed_curve(curve)
            )
            trials = await _count_trials(transaction, result.input_digest, 1)
            body = document({**_plain(result), "trial_count": trials})
            await _end(transaction, run_id, RunState.SUCCEEDED, now_us, result=body)
        return True

    async def finish_sweep(self, run_id: str, attempt: int, result: SweepResult, now_us: int) -> bool:
        async with self._database.transaction() as transaction:
            if not await _lock(transaction, run_id, attempt):
                return False
            trials = await _count_trials(transaction, result.input_digest, len(result.sets))
            body = document({**_plain(result), "trial_count": trials})
            await _end(transaction, run_id, RunState.SUCCEEDED, now_us, result=body)
        return True


_FIELDS = {name: f"{name}_us" if name.endswith("_time") else name for name in TRADE_COLUMNS}


async def _lock(transaction: Transaction, run_id: str, attempt: int) -> bool:
    return bool(
        await transaction.driver.fetchval(f"SELECT true FROM backtest_runs WHERE {_MINE} FOR UPDATE", run_id, attempt)
    )


async def _end(
    transaction: Transaction,
    run_id: str,
    state: RunState,
    now_us: int,
    *,
    result: str | None = None,
    error: str | None = None,
) -> None:
    await transaction.driver.execute(
        "UPDATE backtest_runs SET state = $2, end_time = $3, result = $4::jsonb, error = $5::jsonb, frozen = NULL, "
        "revision = revision + 1 WHERE run_id = $1",
        run_id,
        state.value,
        now_us,
        result,
        error,
    )
    await transaction.driver.execute("DELETE FROM backtest_shards WHERE run_id = $1", run_id)
    await wake_watchers(transaction.driver)


async def _count_trials(transaction: Transaction, data_key: str, more: int) -> int:
    return int(
        await transaction.driver.fetchval(
            "INSERT INTO backtest_trials AS t (data_key, trial_count) VALUES ($1, $2) ON CONFLICT (data_key) "
            "DO UPDATE SET trial_count = t.trial_count + excluded.trial_count RETURNING trial_count",
            data_key,
            more,
        )
    )


def _plain(result: BacktestResult | SweepResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in result.__dataclass_fields__}
