"""Executions in PostgreSQL: one row a fill of a venue, what it earned computed by the settlement of the moment."""

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from sqlalchemy import select

from oddstream_server.application.ports import ExecutionFilter, Key, Page
from oddstream_server.domain.execution import Execution, Fill, FillLiquidity, realized_profit_micros
from oddstream_server.domain.market import Market, Venue
from oddstream_server.domain.signal import Action, Signal
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.markets.documents import market_of, settlement_of
from oddstream_server.storage.signals.signal_log import signal_of
from oddstream_server.storage.tables import markets

EXECUTIONS = (
    "SELECT e.*, m.settlement, (m.body->>'payout_micros')::bigint AS payout_micros "
    "FROM executions AS e LEFT JOIN markets AS m USING (market_id)"
)
"""Rows for :func:`execution_of`."""

_COLUMNS = {
    "execution_id": "text", "venue": "text", "venue_fill_id": "text", "market_id": "text", "outcome_index": "smallint",
    "action": "text", "price_micros": "bigint", "size_micros": "bigint", "fee_micros": "bigint", "liquidity": "text",
    "venue_time": "timestamptz", "signal_id": "text", "leg_number": "smallint", "venue_order_id": "text",
    "client_order_id": "text", "owner": "text", "slippage_micros": "bigint", "create_time": "timestamptz",
    "strategy_id": "text", "estimated_fee_micros": "bigint",
}  # fmt: skip


class ExecutionRecords:
    """Fulfils :class:`~oddstream_server.application.ports.ExecutionRecords` in a transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def markets(self, market_ids: Sequence[str]) -> Mapping[str, Market]:
        rows = await self._transaction.core.execute(select(markets).where(markets.c.market_id.in_(market_ids)))
        return {row.market_id: market_of(row) for row in rows}

    async def signals(self, signal_ids: Sequence[str]) -> Mapping[str, Signal]:
        if not signal_ids:
            return {}
        rows = await self._transaction.driver.fetch(
            "SELECT signal_id, body FROM signals WHERE signal_id = ANY($1::text[])", list(signal_ids)
        )
        return {row["signal_id"]: signal_of(row["body"]) for row in rows}

    async def add(self, executions: Sequence[Execution]) -> Mapping[str, Execution]:
        # In one order everywhere: two changes that share fills wait for each other and never both.
        rows = [_row(execution) for execution in sorted(executions, key=lambda e: e.execution_id)]
        marks = ", ".join(f"${i}::{kind}[]" for i, kind in enumerate(_COLUMNS.values(), 1))
        names = ", ".join(_COLUMNS)
        inserted = await self._transaction.driver.fetch(
            f"INSERT INTO executions ({names}) SELECT * FROM unnest({marks}) ON CONFLICT (venue, venue_fill_id) "
            "DO NOTHING RETURNING execution_id",
            *zip(*rows, strict=True),
        )
        known = sorted({row[0] for row in rows} - {row["execution_id"] for row in inserted})
        if not known:
            return {}
        found = await self._transaction.driver.fetch(f"{EXECUTIONS} WHERE execution_id = ANY($1::text[])", known)
        return {row["execution_id"]: execution_of(row) for row in found}

    async def forget_orders(self, owners: Sequence[str]) -> None:
        await forget_orders(self._transaction.driver, owners)


async def forget_orders(driver: "asyncpg.Connection[Any]", owners: Sequence[str]) -> None:
    """Blank the ids of orders: they lead to a person's account at the venue, or are the person's own words."""
    await driver.execute(
        "UPDATE executions SET venue_order_id = '', client_order_id = '' "
        "WHERE owner = ANY($1::text[]) AND (venue_order_id, client_order_id) <> ('', '')",
        list(owners),
    )


class ExecutionStore:
    """Fulfils :class:`~oddstream_server.application.ports.ExecutionStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_executions(self, where: ExecutionFilter, after: Key | None, limit: int) -> Page[Execution]:
        conditions: list[str] = ["true"]
        arguments: list[Any] = []

        def given(condition: str, *values: Any) -> None:
            first = len(arguments) + 1
            arguments.extend(values)
            conditions.append(condition.format(*(f"${first + i}" for i in range(len(values)))))

        for column, values in (
            ("owner", where.owners),
            ("venue", tuple(v.value for v in where.venues)),
            ("market_id", where.market_ids),
            ("signal_id", where.signal_ids),
            ("strategy_id", where.strategy_ids),
        ):
            if values:
                # One value is an equality, by which an index also gives the order.
                given(f"e.{column} = {{}}" if len(values) == 1 else f"e.{column} = ANY({{}}::text[])",
                      values[0] if len(values) == 1 else list(values))  # fmt: skip
        if where.venue_time_from_us is not None:
            given("e.venue_time >= {}", where.venue_time_from_us)
        if where.venue_time_to_us is not None:
            given("e.venue_time < {}", where.venue_time_to_us)
        if after is not None:
            given("(e.create_time, e.execution_id) < ({}, {})", *after)
        arguments.append(limit + 1)

        async def work(transaction: Transaction) -> Page[Execution]:
            rows = await transaction.driver.fetch(
                f"{EXECUTIONS} WHERE {' AND '.join(conditions)} "
                f"ORDER BY e.create_time DESC, e.execution_id DESC LIMIT ${len(arguments)}",
                *arguments,
            )
            found = tuple(execution_of(row) for row in rows[:limit])
            last = (found[-1].create_time_us, found[-1].execution_id) if len(rows) > limit else None
            return Page(found, last)

        return await self._database.read(work)


def execution_of(row: Any) -> Execution:
    """:param row: of :data:`EXECUTIONS`."""
    fill = Fill(
        venue=Venue(row["venue"]),
        venue_fill_id=row["venue_fill_id"],
        market_id=row["market_id"],
        outcome_index=row["outcome_index"],
        action=Action(row["action"]),
        price_micros=row["price_micros"],
        size_micros=row["size_micros"],
        fee_micros=row["fee_micros"],
        liquidity=FillLiquidity(row["liquidity"]),
        venue_time_us=row["venue_time"],
        signal_id=row["signal_id"],
        leg_number=row["leg_number"],
        venue_order_id=row["venue_order_id"],
        client_order_id=row["client_order_id"],
    )
    estimated = row["estimated_fee_micros"]
    settlement = None if row["settlement"] is None else settlement_of(row["settlement"])
    return Execution(
        execution_id=row["execution_id"],
        fill=fill,
        owner=row["owner"],
        create_time_us=row["create_time"],
        strategy_id=row["strategy_id"],
        estimated_fee_micros=estimated,
        realized_profit_micros=realized_profit_micros(
            fill, estimated if fill.fee_micros is None else fill.fee_micros, settlement, row["payout_micros"] or 0
        ),
        slippage_micros=row["slippage_micros"],
    )


def _row(execution: Execution) -> tuple[Any, ...]:
    fill = execution.fill
    return (
        execution.execution_id, fill.venue.value, fill.venue_fill_id, fill.market_id, fill.outcome_index,
        fill.action.value, fill.price_micros, fill.size_micros, fill.fee_micros, fill.liquidity.value,
        fill.venue_time_us, fill.signal_id, fill.leg_number, fill.venue_order_id, fill.client_order_id,
        execution.owner, execution.slippage_micros, execution.create_time_us, execution.strategy_id,
        execution.estimated_fee_micros,
    )  # fmt: skip
