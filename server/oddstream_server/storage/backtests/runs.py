"""Runs as the service sees them: listed, watched, and read when they are done."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from oddstream_server.application.ports import Key, Page
from oddstream_server.domain.backtest import (
    BacktestResult,
    BlotterFilter,
    BlotterRow,
    CurvePoint,
    Run,
    RunFilter,
    RunKind,
    SweepResult,
)
from oddstream_server.storage.backtests.documents import (
    RUN_COLUMNS,
    result_of,
    run_of,
)
from oddstream_server.storage.database import Database, Transaction

TRADE_COLUMNS = (
    "trade_number", "kind", "market_id", "event_id", "outcome_index", "bought", "entry_price_micros", "size_micros",
    "fee_micros", "slippage_micros", "maker", "exit", "exit_price_micros", "profit_micros", "strength_ppm",
    "fair_value_micros", "signal_time", "entry_time", "exit_time",
)  # fmt: skip


class RunRecords:
    """Fulfils :class:`~oddstream_server.application.ports.backtests.RunStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
