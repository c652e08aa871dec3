"""Recorded rows wherever they are: PostgreSQL and the archive, read as one."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import select

from oddstream_server.application import as_of
from oddstream_server.application.ports.backtests import LinkHistory, MarketHistory, MarketRows
from oddstream_server.domain.backtest import MarketSelection
from oddstream_server.domain.errors import Unavailable
from oddstream_server.domain.fitted import FittedObject
from oddstream_server.domain.market import Event, Market, Settlement, SettlementState, Venue
from oddstream_server.storage.backtests.archive import Archive, ArchivedDay, archived_days
from oddstream_server.storage.backtests.columns import (
    LEVEL_KEY,
    LEVELS,
    LEVELS_TABLE,
    QUOTES,
    TRADES,
    Columns,
    copy_columns,
    joined,
    ordered,
    sorted_once,
    within,
    without_repeats,
)
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.fitted import FittedStore
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.markets.documents import market_of
from oddstream_server.storage.markets.link_records import link_histories
from oddstream_server.storage.tables import markets, settlements

_TABLES: Final = ("quotes", "trades", "books")
_ORDER: Final = ("receive_time_us", "ingest_sequence")
_TRIES: Final = 5
_CHUNK: Final = 5_000


class _Counted:
    """How many rows of each table a market has, and when its first one came."""

    def __init__(self, first_us: int) -> None:
        self.first_us = first_us
        self.rows = dict.fromkeys(_TABLES, 0)

    def add(self, table: str, count: int, first_us: int) -> None:
        self.rows[table] += count
        self.first_us = min(self.first_us, first_us)


class RecordedRows:
    """Fulfils :class:`~oddstream_server.application.ports.backtests.RecordedData`."""

    def __init__(self, database: Database, archive_root: Path) -> None:
        self._database = database
        self._archive = Archive(database, archive_root)

    async def has_rows(self, selection: MarketSelection, start_us: int, end_us: int, *, simulated: bool) -> bool:
        """False where there is surely nothing; a day in the archive counts without a look inside."""
        async with self._database.reading() as transaction:
            driver = transaction.driver
            keys = await self._keys(driver, selection, simulated=simulated)
            if not keys:
                return False
            condition = within(start_us, end_us, keys.values() if _narrow(selection) else None)
            if _narrow(selection):
                found = await driver.fetchval(f"SELECT true FROM quotes WHERE {condition} LIMIT 1")
            else:
                found = await driver.fetchval(
                    f"SELECT true FROM quotes JOIN tick_sources USING (source_id) WHERE {condition} "
                    f"AND (venue = 'simulated') = {simulated} LIMIT 1"
                )
            days = await archived_days(driver, start_us, end_us, dropped=True)
        venues = {market_id.partition(":")[0] for market_id in keys}
        return bool(found) or any(day.venue in venues for day in days)

    async def count_rows(
        self, selection: MarketSelection, start_us: int, end_us: int, *, simulated: bool
    ) -> Sequence[MarketRows]:
        for _ in range(_TRIES):
            async with self._database.reading(snapshot=True) as transaction:
                driver = transaction.driver
                days = await archived_days(driver, start_us, end_us, dropped=True)
                keys = await self._keys(driver, selection, simulated=simulated)
                ids = {key: market_id for market_id, key in keys.items()}
                chosen = keys.values() if _narrow(selection) else None
                found: dict[str, _Counted] = {}
                for table in _TABLES:
                    for key, (count, first) in (
                        await _counted(driver, table, within(start_us, end_us, chosen))
                    ).items():
                        if key in ids:
                            found.setdefault(ids[key], _Counted(first)).add(table, count, first)
            for day in days:
                await asyncio.to_thread(self._count_archived, day, set(keys), start_us, end_us, found)
            if not days or await self._unchanged(days, start_us, end_us):
                return [
                    MarketRows(m, c.rows["quotes"], c.rows["trades"], c.first_us, c.rows["books"])
                    for m, c in sorted(found.items())
                ]
        raise Unavailable("the archive changed again and again meanwhile; try again")

    def _count_archived(
        self, day: ArchivedDay, wanted: set[str], start_us: int, end_us: int, found: dict[str, "_Counted"]
    ) -> None:
        # A late row may be counted twice; counts cut shards and show progress, and nothing else.
        for table in _TABLES:
            file = day.file(table)
            if file is None:
                continue
            held = pq.read_table(
                self._archive.root / file,
                columns=["market_id", "receive_time_us"],
                filters=[("receive_time_us", ">=", start_us), ("receive_time_us", "<", end_us)],
            )
            grouped = held.group_by("market_id").aggregate([("receive_time_us", "count"), ("receive_time_us", "min")])
            for market_id, count, first in zip(
                grouped["market_id"].to_pylist(),
                grouped["receive_time_us_count"].to_pylist(),
                grouped["receive_time_us_min"].to_pylist(),
                strict=True,
            ):
                if market_id in wanted:
                    found.setdefault(market_id, _Counted(first)).add(table, count, first)

    async def quotes(self, market_ids: Sequence[str], start_us: int, end_us: int) -> Columns:
        return ordered(await self._rows("quotes", "quotes", QUOTES, "", market_ids, start_us, end_us), *_ORDER)

    async def trades(self, market_ids: Sequence[str], start_us: int, end_us: int) -> Columns:
        rows = await self._rows("trades", "trades", TRADES, " AND NOT block", market_ids, start_us, end_us)
        return ordered(rows, *_ORDER)

    async def books(self, market_ids: Sequence[str], start_us: int, end_us: int) -> Columns:
        rows = await self._rows("books", LEVELS_TABLE, LEVELS, "", market_ids, start_us, end_us)
        return sorted_once(rows, *LEVEL_KEY)

    async def links(self, market_ids: Sequence[str]) -> Sequence[LinkHistory]:
        async with self._database.reading() as transaction:
            found = await link_histories(transaction.driver, market_ids)
        return [LinkHistory(link, tuple(changes)) for link, changes in found]

    async def fitted(self) -> Sequence[FittedObject]:
        return await FittedStore(self._database).all()

    async def _rows(
        self,
        name: str,
        table: str,
        columns: Mapping[str, str],
        more: str,
        market_ids: Sequence[str],
        start_us: int,
        end_us: int,
    ) -> Columns:
        at = {market_id: place for place, market_id in enumerate(market_ids)}
        for _ in range(_TRIES):
            async with self._database.reading(snapshot=True) as transaction:
                driver = transaction.driver
                days = await archived_days(driver, start_us, end_us, dropped=True)
                rows = await driver.fetch(
                    "SELECT market_id, market_key FROM market_keys WHERE market_id = ANY($1::text[])", list(market_ids)
                )
                places = {row[1]: at[row[0]] for row in rows}
                found = await copy_columns(driver, table, columns, within(start_us, end_us, places) + more)
            keys = np.array(sorted(places), dtype=np.int64)
            by_key = np.array([places[k] for k in keys.tolist()], dtype=np.int32)
            held = found.pop("market_key")
            found["market"] = by_key[np.searchsorted(keys, held)] if len(keys) else np.empty(0, dtype=np.int32)
            parts = [found]
            for day in days:
                part = await asyncio.to_thread(self._archived, day, name, tuple(found), market_ids, start_us, end_us)
                if part is not None:
                    parts.append(part)
            if not days or await self._unchanged(days, start_us, end_us):
                if len(parts) == 1:
                    return found
                return joined(parts) if name == "books" else without_repeats(joined(parts))
        raise Unavailable("the archive changed again and again meanwhile; try again")

    def _archived(
        self,
        day: ArchivedDay,
        table: str,
        names: tuple[str, ...],
        market_ids: Sequence[str],
        start_us: int,
        end_us: int,
    ) -> Columns | None:
        file = day.file(table)
        here = [m for m in market_ids if m.startswith(f"{day.venue}:")]
        if file is None or not here:
            return None
        filters: list[Any] = [
            ("market_id", "in", here),
            ("receive_time_us", ">=", start_us),
            ("receive_time_us", "<", end_us),
        ]
        if table == "trades":
            filters.append(("block", "=", False))
        held = pq.read_table(
            self._archive.root / file,
            columns=["market_id", *(n for n in names if n != "market")],
            filters=filters,
        )
        at = {m: i for i, m in enumerate(market_ids)}
        words = held["market_id"].combine_chunks()
        if len(words) == 0:
            return None
        by_code = np.array([at.get(m, -1) for m in words.dictionary.to_pylist()], dtype=np.int32)
        columns: Columns = {"market": by_code[words.indices.to_numpy()]}
        for name in names:
            if name != "market":
                columns[name] = pc.fill_null(held[name], -1).to_numpy()
        return {name: columns[name] for name in names}

    async def _unchanged(self, days: Sequence[ArchivedDay], start_us: int, end_us: int) -> bool:
        return list(await self._archive.days(start_us, end_us, dropped=True)) == list(days)

    async def histories(self, market_ids: Sequence[str]) -> Sequence[MarketHistory]:
        found: list[MarketHistory] = []
        for start in range(0, len(market_ids), _CHUNK):
            some = list(market_ids[start : start + _CHUNK])

            async def work(transaction: Transaction, some: list[str] = some) -> tuple[list[Any], list[Any]]:
                rows = (await transaction.core.execute(select(markets).where(markets.c.market_id.in_(some)))).all()
                revisions = await transaction.core.execute(
                    select(settlements)
                    .where(settlements.c.market_id.in_(some))
                    .order_by(settlements.c.market_id, settlements.c.revision)
                )
                return list(rows), list(revisions.all())

            rows, revisions = await self._database.read(work)
            versions = await self._versions(some)
            by_market: dict[str, list[Settlement]] = {}
            for r in revisions:
                by_market.setdefault(r.market_id, []).append(
                    Settlement(
                        state=SettlementState(r.settlement_state),
                        yes_payout_micros=r.yes_payout_micros,
                        revision=r.revision,
                        determined_time_us=r.determined_time,
                        known_time_us=r.known_time,
                        paid_time_us=r.paid_time,
                        void=r.void,
                    )
                )
            found += [
                MarketHistory(
                    market_of(row),
                    row.create_time,
                    tuple(by_market.get(row.market_id, ())),
                    versions.get(row.market_id, ()),
                )
                for row in rows
            ]
        return sorted(found, key=lambda h: h.market.market_id)

    async def _versions(self, market_ids: Sequence[str]) -> dict[str, tuple[tuple[int, Market], ...]]:
        """What the journals of live runs say of markets."""
        async with self._database.reading() as transaction:
            rows = await transaction.driver.fetch(
                "SELECT subject_id, opportunities FROM strategy_states "
                "WHERE strategy_id = $1 AND subject_id = ANY($2::text[])",
                as_of.MARKETS_ID,
                list(market_ids),
            )
        return {
            market_id: tuple((time, fact) for time, fact in as_of.decode(stored) if isinstance(fact, Market))
            for market_id, stored in rows
        }

    async def events(self, market_ids: Sequence[str]) -> Sequence[Event]:
        async with self._database.reading() as transaction:
            rows = await transaction.driver.fetch(
                "SELECT DISTINCT event_id FROM markets WHERE market_id = ANY($1::text[]) AND event_id IS NOT NULL",
                list(market_ids),
            )
        ids = sorted(row[0] for row in rows)
        catalog, found = CatalogStore(self._database), []
        for start in range(0, len(ids), _CHUNK):
            found += list((await catalog.events_by_id(ids[start : start + _CHUNK])).values())
        return sorted(found, key=lambda e: e.event_id)

    async def unknown_ids(self, selection: MarketSelection) -> tuple[Sequence[str], Sequence[str]]:
        async def work(transaction: Transaction) -> tuple[Sequence[str], Sequence[str]]:
            known: list[set[str]] = []
            for table, ids in (("market", selection.market_ids), ("event", selection.event_ids)):
                rows = await transaction.driver.fetch(
                    f"SELECT {table}_id FROM {table}s WHERE {table}_id = ANY($1::text[])", list(ids)
                )
                known.append({row[0] for row in rows})
            return (
                [m for m in selection.market_ids if m not in known[0]],
                [e for e in selection.event_ids if e not in known[1]],
            )

        return await self._database.read(work)

    async def _keys(
        self, driver: "asyncpg.Connection[Any]", selection: MarketSelection, *, simulated: bool
    ) -> dict[str, int]:
        """The tick keys of a selection's markets, by id."""
        venues = list(selection.venues) or list(Venue)
        venues = [v for v in venues if (v is Venue.SIMULATED) == simulated]
        conditions, arguments = ["venue = ANY($1::text[])"], [[v.value for v in venues]]
        for column, values in (
            ("event_id", selection.event_ids),
            ("market_id", selection.market_ids),
            ("series_id", selection.series_ids),
            ("category", selection.categories),
        ):
            if values:
                arguments.append(list(values))
                conditions.append(f"{column} = ANY(${len(arguments)}::text[])")
        rows = await driver.fetch(
            f"SELECT market_id, market_key FROM markets JOIN market_keys USING (market_id) "
            f"WHERE {' AND '.join(conditions)}",
            *arguments,
        )
        return {row[0]: row[1] for row in rows}


def _narrow(selection: MarketSelection) -> bool:
    return bool(selection.event_ids or selection.market_ids or selection.series_ids or selection.categories)


async def _counted(driver: "asyncpg.Connection[Any]", table: str, condition: str) -> dict[int, tuple[int, int]]:
    """By market key: how many rows, and the first one's receive time."""
    what = "count(*)"
    if table == "books":
        table, what = "books_live", "sum(cardinality(bid_prices_micros) + cardinality(ask_prices_micros))::bigint"
    rows = await driver.fetch(
        f"SELECT market_key, {what}, min(receive_time) FROM {table} WHERE {condition} GROUP BY market_key"
    )
    return {row[0]: (row[1], row[2]) for row in rows}
