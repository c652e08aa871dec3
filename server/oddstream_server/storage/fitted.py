"""Fitted objects by version, and the hours that they are fitted to."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from oddstream_server.application.ports import SettledHour, TradedHour
from oddstream_server.domain.fitted import FittedName, FittedObject
from oddstream_server.domain.money import MICROS
from oddstream_server.storage.database import Database, Transaction

_ROWS = 5_000
_HOUR_SECONDS = 3_600

_SETTLED = f"""
SELECT m.category, (m.body->>'payout_micros')::bigint AS payout, w.left_us, c.bid_close, c.ask_close,
       s.yes_payout_micros, s.known_time
FROM (SELECT DISTINCT ON (market_id) market_id, yes_payout_micros, known_time FROM settlements
      WHERE known_time < $1 AND settlement_state <> 'provisional' ORDER BY market_id, revision DESC) AS s
JOIN markets AS m USING (market_id)
JOIN market_keys AS k USING (market_id)
CROSS JOIN unnest($2::bigint[]) AS w(left_us)
CROSS JOIN LATERAL (
    SELECT bid_close, ask_close FROM candles
    WHERE market_key = k.market_key AND interval_seconds = {_HOUR_SECONDS}
      AND start_time <= m.close_time - w.left_us * interval '1 microsecond' - interval '1 hour'
      AND start_time > m.close_time - w.left_us * interval '1 microsecond' - interval '3 hours'
    ORDER BY start_time DESC LIMIT 1
) AS c
WHERE s.yes_payout_micros IS NOT NULL AND c.bid_close IS NOT NULL AND c.ask_close IS NOT NULL
"""
"""The last whole hour before each instant; a market that didn't trade in the two before it is left out."""

_TRADED = f"""
SELECT m.venue, m.category, c.start_time, c.volume_micros
FROM candles AS c JOIN market_keys AS k USING (market_key) JOIN markets AS m USING (market_id)
WHERE c.interval_seconds = {_HOUR_SECONDS} AND c.trade_count > 0 AND c.start_time < $1
"""


class FittedStore:
    """Fulfils :class:`~oddstream_server.application.ports.FittedObjects`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> Sequence[FittedObject]:
        async def work(transaction: Transaction) -> Sequence[FittedObject]:
            rows = await transaction.driver.fetch(
                "SELECT name, version, layout, fit_time, effective_time, samples, cells::text "
                "FROM fitted_objects ORDER BY name, version"
            )
            return [_object(*row) for row in rows if row[0] in set(FittedName)]

        return await self._database.read(work)

    async def add(self, name: FittedName, make: Callable[[int], FittedObject]) -> FittedObject:
        async with self._database.transaction() as transaction:
            driver = transaction.driver
            await driver.execute("SELECT pg_advisory_xact_lock(hashtext('fitted_objects ' || $1))", name.value)
            version = await driver.fetchval(
                "SELECT coalesce(max(version), 0) + 1 FROM fitted_objects WHERE name = $1", name.value
            )
            made = make(version)
            await driver.execute(
                "INSERT INTO fitted_objects (name, version, layout, fit_time, effective_time, samples, cells) "
                "VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb)",
                made.name.value,
                made.version,
                made.layout,
                made.fit_time_us,
                made.effective_time_us,
                made.samples,
                json.dumps(made.cells, sort_keys=True),
            )
        return made


def _object(
    name: str, version: int, layout: int, fit_time_us: int, effective_time_us: int, samples: int, cells: str
) -> FittedObject:
    found = {key: tuple(values) for key, values in json.loads(cells).items()}
    return FittedObject(FittedName(name), version, layout, fit_time_us, effective_time_us, samples, found)


class StoredHours:
    """Fulfils :class:`~oddstream_server.application.ports.FittingData`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def settled_hours(self, before_us: int, left_us: Sequence[int]) -> AsyncIterator[Sequence[SettledHour]]:
        async for rows in self._stream(_SETTLED, before_us, list(left_us)):
            yield [
                SettledHour(
                    category=row["category"],
                    left_us=row["left_us"],
                    mid_micros=(row["bid_close"] + row["ask_close"]) * MICROS // (2 * row["payout"]),
                    payout_micros=row["yes_payout_micros"] * MICROS // row["payout"],
                    known_time_us=row["known_time"],
                )
                for row in rows
            ]

    async def traded_hours(self, before_us: int) -> AsyncIterator[Sequence[TradedHour]]:
        async for rows in self._stream(_TRADED, before_us):
            yield [
                TradedHour(row["venue"], row["category"], row["start_time"], row["volume_micros"] // MICROS)
                for row in rows
            ]

    async def _stream(self, statement: str, *arguments: Any) -> AsyncIterator[Sequence[Any]]:
        async with self._database.reading() as transaction:
            rows: list[Any] = []
            async for row in transaction.driver.cursor(statement, *arguments, prefetch=_ROWS):
                rows.append(row)
                if len(rows) == _ROWS:
                    yield rows
                    rows = []
            if rows:
                yield rows
