"""Files of quotes come in by binary COPY: once, resumable, exact."""

import asyncio
import dataclasses
from typing import Any

import asyncpg
import numpy as np
import pytest

from oddstream_server.application.ports import Decision, Lease, TimeRange
from oddstream_server.domain.errors import Aborted, Unavailable
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import CandleInterval, Quote, SourceKind, TickSource
from oddstream_server.storage.database import Database
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.tick_store.imports import MISSING, QuoteColumns, QuoteImport, QuoteImports
from oddstream_server.storage.tick_store.ticks import TickStore

FILE = TickSource(Venue.POLYMARKET_US, SourceKind.IMPORT, "sha256-of-a-file")
EVERYTHING = TimeRange()
MARKETS = [f"polymarket_us:m{n}" for n in range(7)]
ROWS = 1_000


@pytest.fixture
def imports(database: Database, ticks: TickStore) -> QuoteImports:
    return QuoteImports(database, ticks)


def file_of(t0: int, day: int) -> dict[str, Any]:
    """A file of 1,000 rows over two months, with every pattern of absent fields; the same each time it is read."""
    chance = np.random.default_rng(20_260_710)

    def some(values: Any, share: float) -> Any:
        return np.where(chance.random(ROWS) < share, MISSING, values)

    receive_time = t0 + np.sort(chance.integers(0, 45 * day, ROWS))
    return {
        "market": chance.integers(0, len(MARKETS), ROWS),
        "receive_time_us": receive_time,
        "venue_time_us": some(receive_time - chance.integers(0, 90_000_000, ROWS), 0.5),
        "bid_price_micros": some(chance.integers(1, 99, ROWS) * 10_000, 0.1),
        "bid_size_micros": some(chance.integers(1, 10**12, ROWS), 0.3),
        "ask_price_micros": some(chance.integers(1, 99, ROWS) * 10_000, 0.1),
        "ask_size_micros": some(chance.integers(1, 10**12, ROWS), 0.9),
    }


async def columns_of(quotes: QuoteImport, file: dict[str, Any], start: int, stop: int) -> QuoteColumns:
    keys = await quotes.market_keys(MARKETS)
    rows = slice(start, stop)
    return QuoteColumns(
        first_row=start,
        market_key=keys[file["market"][rows]],
        **{name: column[rows] for name, column in file.items() if name != "market"},
    )


async def read_in(quotes: QuoteImport, file: dict[str, Any], rows: int) -> None:
    while quotes.position < ROWS:
        stop = min(ROWS, quotes.position + rows)
        await quotes.write(await columns_of(quotes, file, quotes.position, stop))


def expected_quotes(file: dict[str, Any]) -> list[Quote]:
    def value(name: str, row: int) -> int | None:
        found = int(file[name][row])
        return None if found == MISSING else found

    return [
        Quote(
            market_id=MARKETS[file["market"][row]],
            receive_time_us=int(file["receive_time_us"][row]),
            venue_time_us=value("venue_time_us", row),
            bid_price_micros=value("bid_price_micros", row),
            bid_size_micros=value("bid_size_micros", row),
            ask_price_micros=value("ask_price_micros", row),
            ask_size_micros=value("ask_size_micros", row),
            source=FILE,
            source_key=row,
        )
        for row in range(ROWS)
    ]


async def stored_quotes(ticks: TickStore) -> list[Quote]:
    found = [t async for some in ticks.replay(EVERYTHING) for t in some]
    assert all(isinstance(t, Quote) for t in found)
    return [dataclasses.replace(t, ingest_sequence=0) for t in found]  # type: ignore[misc]  # asserted above


async def test_every_row_is_stored_exactly_with_its_absent_fields(
    samples: Any, imports: QuoteImports, ticks: TickStore
) -> None:
    file = file_of(samples.t0, samples.day)
    async with imports.open(FILE, ROWS) as quotes:
        assert (quotes.position, quotes.complete) == (0, False)
        await read_in(quotes, file, 333)
        assert (quotes.position, quotes.complete) == (ROWS, True)
    assert await stored_quotes(ticks) == expected_quotes(file)


async def test_the_same_file_twice_is_stored_once(samples: Any, imports: QuoteImports, ticks: TickStore) -> None:
    file = file_of(samples.t0, samples.day)
    for _ in range(2):
        async with imports.open(FILE, ROWS) as quotes:
            await read_in(quotes, file, 400)
            await quotes.build_candles()
    assert len(await stored_quotes(ticks)) == ROWS


async def test_an_import_that_was_killed_goes_on_where_its_last_commit_was(
    samples: Any, imports: QuoteImports, ticks: TickStore, database_dsn: str
) -> None:
    file = file_of(samples.t0, samples.day)
    killer, locker = await asyncpg.connect(database_dsn), await asyncpg.connect(database_dsn)

    async def kill_at_once() -> None:
        while not await killer.fetchval(
            "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND query LIKE 'COPY%'"
        ):
            await asyncio.sleep(0)

    async with imports.open(FILE, ROWS) as quotes:
        await quotes.write(await columns_of(quotes, file, 0, 300))
        # The table is held, so the kill always finds the next write in the middle.
        await locker.execute("BEGIN; LOCK TABLE quotes_import_2026_07 IN SHARE MODE")
        writing = asyncio.create_task(quotes.write(await columns_of(quotes, file, 300, 700)))
        await kill_at_once()
        await locker.execute("ROLLBACK")
        with pytest.raises(Unavailable):
            await writing
        assert quotes.position == 300
    await killer.close()
    await locker.close()
    async with imports.open(FILE, ROWS) as quotes:
        assert quotes.position == 300
        await read_in(quotes, file, 500)
    assert await stored_quotes(ticks) == expected_quotes(file)


async def test_two_processes_with_one_file_do_not_store_it_twice(
    samples: Any, imports: QuoteImports, ticks: TickStore
) -> None:
    file = file_of(samples.t0, samples.day)
    async with imports.open(FILE, ROWS) as one, imports.open(FILE, ROWS) as other:
        await one.write(await columns_of(one, file, 0, 500))
        with pytest.raises(Aborted, match="another process"):
            await other.write(await columns_of(other, file, 0, 500))
    assert len(await stored_quotes(ticks)) == 500


async def test_rows_must_go_on_from_the_position(samples: Any, imports: QuoteImports) -> None:
    file = file_of(samples.t0, samples.day)
    async with imports.open(FILE, ROWS) as quotes:
        columns = await columns_of(quotes, file, 10, 20)
        with pytest.raises(ValueError, match="the next row is 0"):
            await quotes.write(columns)


async def test_candles_of_an_import_are_those_of_the_same_quotes_stored_live(
    samples: Any, imports: QuoteImports, ticks: TickStore, pipeline: PostgresPipelineStore, lease: Lease
) -> None:
    file = file_of(samples.t0, samples.day)
    async with imports.open(FILE, ROWS) as quotes:
        await read_in(quotes, file, 250)
        steps: list[tuple[int, int]] = []
        await quotes.build_candles(lambda done, total: steps.append((done, total)))
        assert steps == [(7, 7)]
        await quotes.build_candles()
    socket = TickSource(Venue.POLYMARKET_US, SourceKind.WEBSOCKET, "s")
    live = [dataclasses.replace(q, market_id=q.market_id + "-live", source=socket) for q in expected_quotes(file)]
    await pipeline.store_batch(lease, live, lambda _: Decision())
    for market in MARKETS:
        for interval in CandleInterval:
            imported = (await ticks.list_candles(market, interval, EVERYTHING, None, 5_000)).items
            stored = (await ticks.list_candles(market + "-live", interval, EVERYTHING, None, 5_000)).items
            assert imported
            assert [dataclasses.replace(c, market_id=market) for c in stored] == list(imported)


async def test_imported_quotes_do_not_reach_the_live_tail(
    samples: Any, imports: QuoteImports, ticks: TickStore
) -> None:
    file = file_of(samples.t0, samples.day)
    async with imports.open(FILE, ROWS) as quotes:
        await read_in(quotes, file, 1_000)
    assert await ticks.live_head() == 0
    assert await ticks.quotes_after(0, 10) == []
    latest = await ticks.latest_quotes(MARKETS)
    assert latest.keys() == set(MARKETS)
