"""Runs as the service sees them: made once, listed, watched, cancelled, deleted, and read when they are done."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oddstream_server.application.ports import Key, Page
from oddstream_server.application.ports.backtests import NewRun, RepeatableCall
from oddstream_server.domain.backtest import (
    BacktestResult,
    BlotterFilter,
    BlotterRow,
    CurvePoint,
    Run,
    RunFilter,
    RunKind,
    SweepResult,
    SweepSpec,
)
from oddstream_server.domain.errors import RequestIdReused, ResourceExhausted
from oddstream_server.storage.backtests.documents import (
    RUN_COLUMNS,
    document,
    result_of,
    run_answer,
    run_of,
    run_of_answer,
)
from oddstream_server.storage.backtests.jobs import enqueue, withdraw
from oddstream_server.storage.backtests.repeats import HORIZON_US, first_answer, keep_answer
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.wake_ups import CHANNEL

_QUOTA_RETRY_US = 10_000_000
_ACTIVE = "state IN ('queued', 'running')"

TASKS = {RunKind.BACKTEST: "backtest", RunKind.SWEEP: "sweep_plan"}
"""The first job of a run."""

TRADE_COLUMNS = (
    "trade_number", "kind", "market_id", "event_id", "outcome_index", "bought", "entry_price_micros", "size_micros",
    "fee_micros", "slippage_micros", "maker", "exit", "exit_price_micros", "profit_micros", "strength_ppm",
    "fair_value_micros", "signal_time", "entry_time", "exit_time",
)  # fmt: skip


class RunRecords:
    """Fulfils :class:`~oddstream_server.application.ports.backtests.RunStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, new: NewRun, quota: int, call: RepeatableCall | None) -> Run:
        async with self._database.transaction() as transaction:
            driver = transaction.driver
            before = await first_answer(transaction, call, new.create_time_us)
            if before is not None:
                return run_of_answer(before)
            # Two calls of one owner count one after the other.
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
            run = run_of(row)
            await keep_answer(transaction, call, run_answer(run))
            await wake_watchers(driver)
        return run

    async def get(self, run_id: str) -> Run | None:
        return (await self.get_many([run_id])).get(run_id)

    async def get_many(self, run_ids: Sequence[str]) -> Mapping[str, Run]:
        async def work(transaction: Transaction) -> Mapping[str, Run]:
            rows = await transaction.driver.fetch(
                f"SELECT {RUN_COLUMNS} FROM backtest_runs WHERE run_id = ANY($1::text[])", list(run_ids)
            )
            return {row["run_id"]: run_of(row) for row in rows}

        return await self._database.read(work)

    async def result(self, run_id: str) -> BacktestResult | SweepResult | None:
        async def work(transaction: Transaction) -> BacktestResult | SweepResult | None:
            row = await transaction.driver.fetchrow("SELECT kind, result FROM backtest_runs WHERE run_id = $1", run_id)
            if row is None or row["result"] is None:
                return None
            return result_of(RunKind(row["kind"]), row["result"])

        return await self._database.read(work)

    async def list_runs(self, kind: RunKind, where: RunFilter, after: Key | None, limit: int) -> Page[Run]:
        conditions, arguments = ["kind = $1"], [kind.value]

        def given(condition: str, value: Any) -> None:
            arguments.append(value)
            conditions.append(condition.format(f"${len(arguments)}"))

        if where.states:
            given("state = ANY({}::text[])", [s.value for s in where.states])
        if where.owners:
            given("owner = ANY({}::text[])", list(where.owners))
        if where.kinds:
            given("strategy_kinds && {}::text[]", list(where.kinds))
        if where.create_time_from_us is not None:
            given("create_time >= {}", where.create_time_from_us)
        if where.create_time_to_us is not None:
            given("create_time < {}", where.create_time_to_us)
        if after is not None:
            given("create_number < {}", int(after[0]))
        given("true ORDER BY create_number DESC LIMIT {}", limit + 1)

        async def work(transaction: Transaction) -> Page[Run]:
            rows = await transaction.driver.fetch(
                f"SELECT {RUN_COLUMNS} FROM backtest_runs WHERE {' AND '.join(conditions)}", *arguments
            )
            found = tuple(run_of(row) for row in rows[:limit])
            return Page(found, (found[-1].create_number,) if len(rows) > limit else None)

        return await self._database.read(work)

    async def cancel(self, run_id: str, now_us: int, call: RepeatableCall | None) -> Run | None:
        async with self._database.transaction() as transaction:
            driver = transaction.driver
            before = await first_answer(transaction, call, now_us)
            if before is not None:
                return run_of_answer(before)
            row = await driver.fetchrow(
                f"UPDATE backtest_runs SET state = 'cancelled', end_time = $2, revision = revision + 1 "
                f"WHERE run_id = $1 AND {_ACTIVE} RETURNING {RUN_COLUMNS}, job_id",
                run_id,
                now_us,
            )
            if row is not None:
                jobs = [
                    r[0] for r in await driver.fetch("SELECT job_id FROM backtest_shards WHERE run_id = $1", run_id)
                ]
                await withdraw(driver, [job for job in (row["job_id"], *jobs) if job is not None])
                await driver.execute("DELETE FROM backtest_shards WHERE run_id = $1", run_id)
                await wake_watchers(driver)
            else:
                row = await driver.fetchrow(f"SELECT {RUN_COLUMNS} FROM backtest_runs WHERE run_id = $1", run_id)
            if row is None:
                return None
            run = run_of(row)
            await keep_answer(transaction, call, run_answer(run))
        return run

    async def delete(self, run_id: str, now_us: int, call: RepeatableCall | None) -> bool:
        async with self._database.transaction() as transaction:
            if await first_answer(transaction, call, now_us) is not None:
                return True
            gone = await transaction.driver.fetchval(
                f"DELETE FROM backtest_runs WHERE run_id = $1 AND NOT {_ACTIVE} RETURNING true", run_id
            )
            if not gone and await transaction.driver.fetchval(
                "SELECT true FROM backtest_runs WHERE run_id = $1", run_id
            ):
                return False
            await keep_answer(transaction, call, b"{}")
        return True

    async def was_answered(self, call: RepeatableCall, now_us: int) -> bool:
        async with self._database.reading() as transaction:
            row = await transaction.driver.fetchrow(
                "SELECT request_digest FROM idempotency_requests WHERE principal = $1 AND method = $2 "
                "AND request_id = $3::uuid AND create_time >= $4",
                call.name.subject,
                call.name.method,
                call.name.request_id,
                now_us - HORIZON_US,
            )
        if row is not None and row["request_digest"] != call.body_digest:
            raise RequestIdReused
        return row is not None

    async def list_trades(self, run_id: str, where: BlotterFilter, after: Key | None, limit: int) -> Page[BlotterRow]:
        conditions, arguments = ["run_id = $1", "trade_number > $2"], [run_id, 0 if after is None else int(after[0])]
        for column, values in (
            ("market_id", where.market_ids),
            ("event_id", where.event_ids),
            ("exit", where.exits),
        ):
            if values:
                arguments.append(list(values))
                conditions.append(f"{column} = ANY(${len(arguments)}::text[])")
        arguments.append(limit + 1)

        async def work(transaction: Transaction) -> Page[BlotterRow]:
            rows = await transaction.driver.fetch(
                f"SELECT {', '.join(TRADE_COLUMNS)} FROM backtest_trades WHERE {' AND '.join(conditions)} "
                f"ORDER BY trade_number LIMIT ${len(arguments)}",
                *arguments,
            )
            found = tuple(BlotterRow(*row) for row in rows[:limit])
            return Page(found, (found[-1].trade_number,) if len(rows) > limit else None)

        return await self._database.read(work)

    async def curve(self, run_id: str) -> Sequence[CurvePoint]:
        async def work(transaction: Transaction) -> bytes | None:
            found: bytes | None = await transaction.driver.fetchval(
                "SELECT points FROM backtest_curves WHERE run_id = $1", run_id
            )
            return found

        stored = await self._database.read(work)
        return [] if stored is None else curve_points(stored)


def packed_curve(columns: Mapping[str, Any]) -> bytes:
    """Curve columns as they are stored."""
    names = ("time_us", "equity_micros", "cash_micros", "locked_micros")
    return zlib.compress(np.stack([columns[n] for n in names], axis=1).astype("<i8").tobytes())


def curve_points(stored: bytes) -> list[CurvePoint]:
    table = np.frombuffer(zlib.decompress(stored), dtype="<i8").reshape(-1, 4)
    points, highest = [], None
    for time_us, equity, cash, locked in table.tolist():
        highest = equity if highest is None else max(highest, equity)
        points.append(CurvePoint(time_us, equity, cash, locked, equity - highest))
    return points


async def wake_watchers(driver: Any) -> None:
    await driver.execute("SELECT pg_notify($1, 'backtests')", CHANNEL)


def _strategy_kinds(new: NewRun) -> list[str]:
    base = new.spec.base if isinstance(new.spec, SweepSpec) else new.spec
    return sorted({s.kind for s in base.strategies})
