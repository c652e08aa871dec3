"""A keyset page of 100 quotes out of many, through the store that serves ListQuotes."""

import random
import statistics
import time

from loadtests.unary.world import Given
from oddstream_server.application.ports import TimeRange
from oddstream_server.storage.database import Database
from oddstream_server.storage.partitions import Partitions
from oddstream_server.storage.tick_store.ticks import TickStore

PAGE = 100
MARKETS = 1000
_PAGES = 400
_START_US = 1_782_864_000_000_000  # 2026-07-01
_SPAN_US = 30 * 86_400_000_000

_NAMES = f"""
INSERT INTO market_keys (market_id) SELECT 'kalshi:KXPAGE-' || n FROM generate_series(0, {MARKETS - 1}) AS n
ON CONFLICT DO NOTHING
"""
_SOURCE = """
INSERT INTO tick_sources (venue, kind, name) VALUES ('kalshi', 'websocket', 'bench') ON CONFLICT DO NOTHING
"""
# Row n is of market n modulo 1000, and instants are spread evenly over a month: every market has its part of each day.
_FILL = """
INSERT INTO quotes (receive_time, ingest_sequence, source_key, bid_price_micros, bid_size_micros, ask_price_micros,
    ask_size_micros, epoch, market_key, source_id, lane)
SELECT to_timestamp($1::float8 + n * $2::float8), n, n, 430000, 1000000, 450000, 1000000, 1,
    k.first_key + (n % $5)::int, s.source_id, 1
FROM generate_series($3::bigint, $4::bigint - 1) AS n,
    (SELECT min(market_key) AS first_key FROM market_keys WHERE market_id LIKE 'kalshi:KXPAGE-%') AS k,
    (SELECT source_id FROM tick_sources WHERE name = 'bench') AS s
"""
_CHUNK = 1_000_000


async def page_times_ms(given: Given, rows: int) -> tuple[float, float]:
    """Median and 99th percentile of a page from a random place, with so many rows in the table."""
    database = Database(given.database_url)
    try:
        await _fill(database, rows)
        return await _read(TickStore(database))
    finally:
        await database.close()


async def _fill(database: Database, rows: int) -> None:
    await Partitions(database).ahead(_START_US + _SPAN_US // 2)
    async with database.transaction() as transaction:
        await transaction.driver.execute("TRUNCATE quotes")
        await transaction.driver.execute(_NAMES)
        await transaction.driver.execute(_SOURCE)
    for first in range(0, rows, _CHUNK):
        async with database.transaction() as transaction:
            step_s = _SPAN_US / rows / 1e6
            last = min(first + _CHUNK, rows)
            await transaction.driver.execute(_FILL, _START_US / 1e6, step_s, first, last, MARKETS, timeout=600)
    async with database.transaction() as transaction:
        await transaction.driver.execute("ANALYZE quotes", timeout=600)


async def _read(ticks: TickStore) -> tuple[float, float]:
    choice = random.Random(1)  # places to read, no secret
    times = []
    for number in range(_PAGES + 50):
        market = f"kalshi:KXPAGE-{choice.randrange(MARKETS)}"
        after = (_START_US + choice.randrange(_SPAN_US * 8 // 10), 0)
        began = time.perf_counter()
        page = await ticks.list_quotes(market, TimeRange(), after, PAGE)
        if number >= 50:  # the first ones fill caches
            times.append((time.perf_counter() - began) * 1000)
        if len(page.items) != PAGE:
            raise AssertionError(f"a page of {len(page.items)} rows: there were to be {PAGE}")
    times.sort()
    return statistics.median(times), times[int(len(times) * 0.99)]
