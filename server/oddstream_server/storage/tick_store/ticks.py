"""Quotes and trades: written once in a given order, listed by market, followed by ingest sequence, replayed by time."""

from collections.abc import AsyncIterator, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import asyncpg

from oddstream_server.application.ports import Key, Page, TimeRange
from oddstream_server.domain.quote import Candle, CandleInterval, Quote, Trade
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.partitions import (
    Month,
    Partitions,
    month_of,
    month_start_us,
    next_month,
    partition_name,
    stored_months,
)
from oddstream_server.storage.tick_store import candles
from oddstream_server.storage.tick_store.tick_names import TickNames
from oddstream_server.storage.writes import Write

LIVE, IMPORT = 1, 2
"""Lanes. Live rows come from the fenced leader alone; imports have positions of their own."""

FAR_FUTURE_US = 253_402_300_800_000_000
"""Year 10000: the open end of a span."""

_BOUNDARY_US = 3_600_000_000
_REPLAY_BATCH = 5_000
_TICK_TABLES = ("quotes_live", "quotes_import", "trades_live", "trades_import")
_DAY_US = 86_400_000_000

QUOTE_COLUMNS = (
    "receive_time", "venue_time", "ingest_sequence", "source_key", "bid_price_micros", "bid_size_micros",
    "ask_price_micros", "ask_size_micros", "epoch", "market_key", "source_id", "lane",
)  # fmt: skip
TRADE_COLUMNS = (
    "receive_time", "venue_time", "ingest_sequence", "price_micros", "size_micros", "market_key", "source_id", "lane",
    "taker_outcome_index", "block", "source_key",
)  # fmt: skip
_QUOTES = f"SELECT {', '.join(QUOTE_COLUMNS)} FROM quotes"
_TRADES = f"SELECT {', '.join(TRADE_COLUMNS)} FROM trades"


class TickStore:
    """Fulfils :class:`~oddstream_server.application.ports.TickReader`, and writes for the pipeline's transaction."""

    def __init__(
        self, database: Database, names: TickNames | None = None, partitions: Partitions | None = None
    ) -> None:
        self._database = database
        self.names = names or TickNames(database)
        self.partitions = partitions or Partitions(database)

    # --- reading ---

    async def list_quotes(self, market_id: str, span: TimeRange, after: Key | None, limit: int) -> Page[Quote]:
        async def work(transaction: Transaction) -> Page[Quote]:
            rows = await self._page(transaction, _QUOTES, market_id, span, after, limit)
            await self._resolve(transaction, rows)
            return _page_of([self._quote(r) for r in rows], limit)

        return await self._database.read(work)

    async def list_trades(self, market_id: str, span: TimeRange, after: Key | None, limit: int) -> Page[Trade]:
        async def work(transaction: Transaction) -> Page[Trade]:
            rows = await self._page(transaction, _TRADES, market_id, span, after, limit)
            await self._resolve(transaction, rows)
            return _page_of([self._trade(r) for r in rows], limit)

        return await self._database.read(work)

    async def list_candles(
        self, market_id: str, interval: CandleInterval, span: TimeRange, after: Key | None, limit: int
    ) -> Page[Candle]:
        async def work(transaction: Transaction) -> Page[Candle]:
            keys = await self.names.market_keys(transaction.driver, [market_id])
            if not keys:
                return Page((), None)
            begin = max(span.from_us or 0, 0 if after is None else int(after[0]) + 1)
            rows = await transaction.driver.fetch(
                candles.LIST_CANDLES,
                keys[market_id],
                candles.INTERVAL_SECONDS[interval],
                begin,
                FAR_FUTURE_US if span.to_us is None else span.to_us,
                limit + 1,
            )
            found = tuple(candles.candle_of(market_id, interval, tuple(r)) for r in rows[:limit])
            return Page(found, (found[-1].start_time_us,) if len(rows) > limit else None)

        return await self._database.read(work)

    async def latest_quotes(self, market_ids: Sequence[str]) -> Mapping[str, Quote]:
        async def work(transaction: Transaction) -> Mapping[str, Quote]:
            driver = transaction.driver
            keys = await self.names.market_keys(driver, market_ids)
            found: dict[str, Quote] = {}
            for lane in (LIVE, IMPORT):
                open_keys = [key for market_id, key in keys.items() if market_id not in found]
                if not open_keys:
                    break
                rows = await driver.fetch(
                    f"SELECT q.* FROM unnest($1::int[]) AS k(market_key) CROSS JOIN LATERAL ({_QUOTES} AS quotes "
                    f"WHERE lane = {lane} AND quotes.market_key = k.market_key "
                    "ORDER BY receive_time DESC, ingest_sequence DESC LIMIT 1) AS q",
                    open_keys,
                )
                await self._resolve(transaction, rows)
                found |= {quote.market_id: quote for quote in map(self._quote, rows)}
            return found

        return await self._database.read(work)

    async def quotes_after(self, ingest_sequence: int, limit: int) -> Sequence[Quote]:
        async def work(transaction: Transaction) -> Sequence[Quote]:
            rows = await transaction.driver.fetch(
                f"{_QUOTES} WHERE lane = {LIVE} AND ingest_sequence > $1 ORDER BY ingest_sequence LIMIT $2",
                ingest_sequence,
                limit,
            )
            await self._resolve(transaction, rows)
            return [self._quote(r) for r in rows]

        return await self._database.read(work)

    async def live_head(self) -> int:
        async def work(transaction: Transaction) -> int:
            return int(await transaction.driver.fetchval(f"SELECT sequence FROM ingest_lanes WHERE lane = {LIVE}"))

        return await self._database.read(work)

    async def replay(
        self, span: TimeRange, market_ids: Sequence[str] | None = None
    ) -> AsyncIterator[Sequence[Quote | Trade]]:
        """One UTC day at a time through a cursor: the server sorts, at most 5,000 rows are here at once.

        Each day is one snapshot; a row that arrives late for a day already replayed is not seen.
        """
        async with self._database.reading() as transaction:
            months = await stored_months(transaction.driver, _TICK_TABLES)
            keys = None
            if market_ids is not None:
                keys = list((await self.names.market_keys(transaction.driver, market_ids)).values())
        for month in months:
            begin = max(month_start_us(month), span.from_us or 0)
            end = min(month_start_us(next_month(month)), FAR_FUTURE_US if span.to_us is None else span.to_us)
            while begin < end:
                tomorrow = min(end, begin - begin % _DAY_US + _DAY_US)
                async for batch in self._replay_day(begin, tomorrow, keys):
                    yield batch
                begin = tomorrow

    async def _replay_day(
        self, begin_us: int, end_us: int, keys: list[int] | None
    ) -> AsyncIterator[Sequence[Quote | Trade]]:
        async with self._database.reading() as transaction:
            # A consumer may think for long between two batches.
            await transaction.driver.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            where = "WHERE receive_time >= $1 AND receive_time < $2"
            arguments: list[Any] = [begin_us, end_us]
            if keys is not None:
                where += " AND market_key = ANY($3::int[])"
                arguments.append(keys)
            cursor = await transaction.driver.cursor(
                f"SELECT 0, receive_time, venue_time, ingest_sequence, source_key, bid_price_micros, bid_size_micros, "
                "ask_price_micros, ask_size_micros, epoch, market_key, source_id, lane, "
                f"NULL::smallint, NULL::boolean, NULL::text FROM quotes {where} UNION ALL "
                "SELECT 1, receive_time, venue_time, ingest_sequence, NULL, price_micros, size_micros, NULL, NULL, "
                f"NULL, market_key, source_id, lane, taker_outcome_index, block, source_key FROM trades {where} "
                "ORDER BY 2, 4",
                *arguments,
            )
            while rows := await cursor.fetch(_REPLAY_BATCH):
                await self.names.resolve(transaction.driver, {r[10] for r in rows}, {r[11] for r in rows})
                yield [
                    self._quote(r[1:13])
                    if r[0] == 0
                    else self._trade((*r[1:4], r[5], r[6], *r[10:13], r[13], r[14], r[15]))
                    for r in map(tuple, rows)
                ]

    async def _page(
        self, transaction: Transaction, select: str, market_id: str, span: TimeRange, after: Key | None, limit: int
    ) -> list[Any]:
        keys = await self.names.market_keys(transaction.driver, [market_id])
        if not keys:
            return []
        time_us, sequence = (span.from_us or 0, -1) if after is None else (int(after[0]), int(after[1]))
        return list(
            await transaction.driver.fetch(
                f"{select} WHERE market_key = $1 AND receive_time >= $2 AND receive_time < $3 "
                "AND (receive_time, ingest_sequence) > ($2, $4) ORDER BY receive_time, ingest_sequence LIMIT $5",
                keys[market_id],
                max(time_us, span.from_us or 0),
                FAR_FUTURE_US if span.to_us is None else span.to_us,
                sequence,
                limit + 1,
            )
        )

    async def _resolve(self, transaction: Transaction, rows: Sequence[Any]) -> None:
        await self.names.resolve(transaction.driver, {r["market_key"] for r in rows}, {r["source_id"] for r in rows})

    def _quote(self, row: Sequence[Any]) -> Quote:
        return Quote(
            receive_time_us=row[0],
            venue_time_us=row[1],
            ingest_sequence=row[2],
            source_key=row[3],
            bid_price_micros=row[4],
            bid_size_micros=row[5],
            ask_price_micros=row[6],
            ask_size_micros=row[7],
            epoch=row[8],
            market_id=self.names.market_id(row[9]),
            source=self.names.source(row[10]),
        )

    def _trade(self, row: Sequence[Any]) -> Trade:
        return Trade(
            receive_time_us=row[0],
            venue_time_us=row[1],
            ingest_sequence=row[2],
            price_micros=row[3],
            size_micros=row[4],
            market_id=self.names.market_id(row[5]),
            source=self.names.source(row[6]),
            taker_outcome_index=row[8],
            block=row[9],
            source_key=row[10],
        )

    # --- writing ---

    async def prepare(self, ticks: Sequence[Quote | Trade]) -> "TickNumbers":
        """Make what a batch needs before its transaction: keys, sources and partitions."""
        market_keys = await self.names.mint_market_keys({t.market_id for t in ticks})
        source_ids = await self.names.mint_source_ids({t.source for t in ticks})
        for table, kind in (("quotes_live", Quote), ("trades_live", Trade)):
            await self.partitions.ensure(table, {month_of(t.receive_time_us) for t in ticks if isinstance(t, kind)})
        await self.partitions.ensure(
            "candles",
            {month_of(t.receive_time_us if t.venue_time_us is None else t.venue_time_us) for t in ticks},
        )
        return TickNumbers(market_keys, {s: source_ids[s] for s in source_ids})


Identity = tuple[int, int, int | str]
"""A tick's for ever: market key, source id, the source's key."""


class TickNumbers:
    """Keys and source ids of one batch, and the rows that are made of them."""

    def __init__(self, market_keys: Mapping[str, int], source_ids: Mapping[Any, int]) -> None:
        self.market_keys = market_keys
        self._source_ids = source_ids

    def identity(self, tick: Quote | Trade) -> Identity:
        return self.market_keys[tick.market_id], self._source_ids[tick.source], tick.source_key

    def unstored(
        self, ticks: Sequence[Quote | Trade], stored: Container[Identity], sequence: int
    ) -> list[Quote | Trade]:
        """The ticks whose identity is not among the stored ones, each once, in the order given, numbered on from a
        sequence."""
        fresh: dict[Identity, Quote | Trade] = {}
        for tick in ticks:
            identity = self.identity(tick)
            if identity not in stored:
                fresh.setdefault(identity, tick)
        return _numbered(list(fresh.values()), sequence)

    def identities(self, ticks: Sequence[Quote | Trade]) -> tuple[Any, ...]:
        """The arguments of :func:`stored_among`."""
        quotes = [t for t in ticks if isinstance(t, Quote)]
        trades = [t for t in ticks if isinstance(t, Trade)]
        times = [t.receive_time_us for t in quotes] or [0]
        return (
            *_columns(map(self.identity, quotes), 3),
            month_start_us(month_of(min(times) - _BOUNDARY_US)),
            month_start_us(next_month(month_of(max(times)))),
            *_columns(map(self.identity, trades), 3),
        )

    def inserting(self, ticks: Sequence[Quote | Trade]) -> list[Write]:
        """What inserts numbered ticks that aren't stored."""
        trade_keys, records = self._records(ticks)
        writes = []
        if trade_keys:
            writes.append(_insertion("trade_keys", _TRADE_KEY_COLUMNS, trade_keys))
        for (table, month), rows in records.items():
            writes.append(_insertion(partition_name(table, month), _COLUMNS_OF[table], rows))
        return writes

    async def insert_once(
        self, driver: "asyncpg.Connection[Any]", ticks: Sequence[Quote | Trade], sequence: int
    ) -> list[Quote | Trade]:
        """Store the ticks that are new, numbered on from a sequence; answers just those, in the order given.

        Runs in the transaction that holds the live lane's row, so nobody else inserts live ticks meanwhile. It first
        copies all as if nothing were known (a third of the cost of looking first); only when a key is violated it
        rolls back to the savepoint, asks which ones are stored already, and copies the rest.
        """
        known: set[Identity] = set()
        if _near_a_month_start(ticks):
            # A partition's key knows its own month alone.
            known = await self.stored(driver, ticks)
        numbered = self.unstored(ticks, known, sequence)
        if not numbered:
            return []
        await driver.execute("SAVEPOINT stored_once")
        try:
            await self._copy(driver, numbered)
        except asyncpg.UniqueViolationError:
            await driver.execute("ROLLBACK TO SAVEPOINT stored_once")
            numbered = self.unstored(ticks, await self.stored(driver, ticks), sequence)
            await self._copy(driver, numbered)
        return numbered

    async def stored(self, driver: "asyncpg.Connection[Any]", ticks: Sequence[Quote | Trade]) -> set[Identity]:
        """The identities among those of some ticks that are stored."""
        row = await driver.fetchrow(f"SELECT {stored_among(1)}", *self.identities(ticks))
        return self.stored_in(row, ticks)

    def stored_in(self, row: Any, ticks: Sequence[Quote | Trade]) -> set[Identity]:
        """From the two columns of :func:`stored_among`."""
        quotes = [self.identity(t) for t in ticks if isinstance(t, Quote)]
        trades = [self.identity(t) for t in ticks if isinstance(t, Trade)]
        return {quotes[n - 1] for n in row["stored_quotes"]} | {trades[n - 1] for n in row["stored_trades"]}

    async def _copy(self, driver: "asyncpg.Connection[Any]", ticks: Sequence[Quote | Trade]) -> None:
        trade_keys, records = self._records(ticks)
        if trade_keys:
            await driver.copy_records_to_table("trade_keys", records=trade_keys, columns=_TRADE_KEY_COLUMNS)
        for (table, month), rows in records.items():
            await driver.copy_records_to_table(partition_name(table, month), records=rows, columns=_COLUMNS_OF[table])

    def _records(
        self, ticks: Sequence[Quote | Trade]
    ) -> tuple[list[tuple[Any, ...]], dict[tuple[str, Month], list[tuple[Any, ...]]]]:
        """Rows of ``trade_keys``, and those of each table and month."""
        trade_keys: list[tuple[Any, ...]] = []
        records: dict[tuple[str, Month], list[tuple[Any, ...]]] = {}
        for t in ticks:
            market_key, source_id, source_key = self.identity(t)
            month = month_of(t.receive_time_us)
            if isinstance(t, Quote):
                records.setdefault(("quotes_live", month), []).append(
                    (
                        t.receive_time_us,
                        t.venue_time_us,
                        t.ingest_sequence,
                        source_key,
                        t.bid_price_micros,
                        t.bid_size_micros,
                        t.ask_price_micros,
                        t.ask_size_micros,
                        t.epoch,
                        market_key,
                        source_id,
                        LIVE,
                    )
                )
            else:
                trade_keys.append((market_key, source_id, source_key, t.receive_time_us))
                records.setdefault(("trades_live", month), []).append(
                    (
                        t.receive_time_us,
                        t.venue_time_us,
                        t.ingest_sequence,
                        t.price_micros,
                        t.size_micros,
                        market_key,
                        source_id,
                        LIVE,
                        t.taker_outcome_index,
                        t.block,
                        source_key,
                    )
                )
        return trade_keys, records


_TRADE_KEY_COLUMNS = ("market_key", "source_id", "source_key", "receive_time")
_COLUMNS_OF = {"quotes_live": QUOTE_COLUMNS, "trades_live": TRADE_COLUMNS}
_TYPES = {
    "receive_time": "timestamptz", "venue_time": "timestamptz", "epoch": "int", "market_key": "int",
    "source_id": "int", "lane": "smallint", "taker_outcome_index": "smallint", "block": "boolean",
}  # fmt: skip


def _insertion(table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> Write:
    kinds = {**_TYPES, "source_key": "bigint" if columns is QUOTE_COLUMNS else "text"}
    arrays = ", ".join(f"{{{i}}}::{kinds.get(column, 'bigint')}[]" for i, column in enumerate(columns))
    return Write(f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM unnest({arrays})", _columns(rows, 0))


def _columns(rows: Iterable[tuple[Any, ...]], width: int) -> tuple[list[Any], ...]:
    """Rows turned into columns; ``width`` empty ones where there is no row."""
    return tuple(map(list, zip(*rows, strict=True))) or tuple([] for _ in range(width))


def stored_among(first: int) -> str:
    """Two columns, ``stored_quotes`` and ``stored_trades``: the numbers from 1 on of those identities, among the
    arguments from a place on, that are stored. The arguments are those of :meth:`TickNumbers.identities`."""
    a = [f"${n}" for n in range(first, first + 8)]
    return (
        f"ARRAY(SELECT k.number FROM unnest({a[0]}::int[], {a[1]}::int[], {a[2]}::bigint[]) "
        "WITH ORDINALITY AS k(market_key, source_id, source_key, number) "
        f"WHERE EXISTS (SELECT FROM quotes AS q WHERE q.lane = {LIVE} AND q.market_key = k.market_key AND "
        f"q.source_id = k.source_id AND q.source_key = k.source_key AND q.receive_time >= {a[3]} AND "
        f"q.receive_time < {a[4]})) AS stored_quotes, "
        f"ARRAY(SELECT k.number FROM unnest({a[5]}::int[], {a[6]}::int[], {a[7]}::text[]) "
        "WITH ORDINALITY AS k(market_key, source_id, source_key, number) "
        "JOIN trade_keys USING (market_key, source_id, source_key)) AS stored_trades"
    )


def _numbered(ticks: Sequence[Quote | Trade], sequence: int) -> list[Quote | Trade]:
    return [replace(tick, ingest_sequence=number) for number, tick in enumerate(ticks, sequence + 1)]


def _near_a_month_start(ticks: Sequence[Quote | Trade]) -> bool:
    times = [t.receive_time_us for t in ticks if isinstance(t, Quote)]
    return bool(times) and month_of(min(times) - _BOUNDARY_US) != month_of(max(times))


def _page_of(items: list[Any], limit: int) -> Page[Any]:
    shown = tuple(items[:limit])
    more = len(items) > limit
    return Page(shown, (shown[-1].receive_time_us, shown[-1].ingest_sequence) if more else None)
