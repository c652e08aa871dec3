"""What is read often is read by an index, and the ten-thousandth page costs what the first one costs."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import event

from oddstream_server.application.ports import (
    ExecutionFilter,
    MarketFilter,
    SignalFilter,
    SignalListFilter,
    TimeRange,
    TrackRecordQuery,
)
from oddstream_server.domain.market import MarketState, Venue
from oddstream_server.domain.quote import CandleInterval
from oddstream_server.domain.signal import DataOrigin, SignalState
from oddstream_server.storage.database import Database
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.partitions import Partitions
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from oddstream_server.storage.tick_store.ticks import TickStore
from oddstream_server.storage.track_record.executions import ExecutionStore
from oddstream_server.storage.track_record.performance import TrackRecordStore

POPULATE = """
    INSERT INTO market_keys (market_id) SELECT 'kalshi:' || n FROM generate_series(1, 50) AS n;
    INSERT INTO tick_sources (venue, kind, name) VALUES ('kalshi', 'websocket', 's');
    INSERT INTO quotes SELECT timestamptz '2026-07-02' + n * interval '1 second', NULL, n, n, 430000, NULL,
        450000, NULL, 1, n % 50 + 1, 1, 1 FROM generate_series(1, 200000) AS n;
    INSERT INTO candles (start_time, market_key, interval_seconds, revision, trade_count, volume_micros)
        SELECT timestamptz '2026-07-02' + n * interval '1 minute', m, 60, 1, 0, 0
        FROM generate_series(1, 2000) AS n, generate_series(1, 20) AS m;
    INSERT INTO markets SELECT 'kalshi:' || n, 'kalshi', 'kalshi:E' || n / 5,
        CASE WHEN n % 20 = 0 THEN 'open' ELSE 'settled' END, '', '', 'Will number ' || n || ' come up?', now(), 0, 0,
        '{}', NULL, '', now(), now() FROM generate_series(1, 30000) AS n;
    INSERT INTO signals SELECT 'sig_' || n, n, 'o' || n, 'stat.mean_reversion', 's' || n % 3, 'kalshi:E' || n % 2000,
        'up', 'live', CASE WHEN n % 500 = 0 THEN 'active' ELSE 'expired' END, 'created', ARRAY['kalshi'],
        ARRAY['kalshi:' || n % 3000], 500000, 10000, now(), NULL, NULL, '{}' FROM generate_series(1, 60000) AS n;
    INSERT INTO signal_outcomes SELECT 'sig_' || n, 's' || n % 500, 1, 'd', 'live', timestamptz '2026-07-02' +
        n * interval '1 second', 'kalshi', ARRAY['kalshi'], 1, 'kalshi:E' || n % 2000, 1, false, 10000, 5000, 430000,
        420000, n % 2 = 0 FROM generate_series(1, 60000) AS n;
    INSERT INTO next_quotes SELECT 'sig_' || n, 0, 'kalshi:A', now(), 1, 2, CASE WHEN n % 500 > 0 THEN now() END
        FROM generate_series(1, 60000) AS n;
    INSERT INTO executions SELECT 'exe_' || n, 'kalshi', 'f' || n, 'kalshi:' || n % 3000, 0, 'buy', 430000, 1000000,
        NULL, 'taker', now(), 'sig_' || n, 0, '', '', 'key_' || n % 200, 0, timestamptz '2026-07-02' +
        n * interval '1 second', 's' || n % 500, 10000 FROM generate_series(1, 60000) AS n;
"""

BIG = {
    "quotes_live_2026_07", "candles_2026_07", "markets", "signals", "signal_outcomes", "next_quotes", "executions",
}  # fmt: skip


class Plans:
    """Listens to the statements of some calls, then lets the server explain each with its arguments."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements: list[tuple[str, Sequence[Any]]] = []

    async def listen(self) -> None:
        async with self._database.reading() as transaction:
            transaction.driver.add_query_logger(self._heard)
        event.listen(self._database._engine.sync_engine, "before_cursor_execute", self._heard_by_core)

    async def of(self, calls: Awaitable[Any]) -> list[dict[str, Any]]:
        """The nodes of every plan of what is awaited."""
        self._statements.clear()
        await calls
        statements = [s for s in self._statements if s[0].lstrip().upper().startswith(("SELECT", "WITH"))]
        assert statements
        pending = []
        async with self._database.reading() as transaction:
            for query, arguments in statements:
                explained = await transaction.driver.fetchval(
                    f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {query}", *arguments
                )
                pending.append(explained[0]["Plan"])
        found = []
        while pending:
            node = pending.pop()
            found.append(node)
            pending += node.get("Plans", ())
        return found

    def _heard(self, record: Any) -> None:
        self._statements.append((record.query, record.args))

    def _heard_by_core(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        self._statements.append((statement, parameters))


def whole_table_scans(nodes: Sequence[dict[str, Any]]) -> list[str]:
    return [n["Relation Name"] for n in nodes if n["Node Type"] == "Seq Scan" and n["Relation Name"] in BIG]


def buffers(nodes: Sequence[dict[str, Any]]) -> int:
    """Of the topmost node of each plan they are the sum; the largest is enough for one statement."""
    return max(int(n["Shared Hit Blocks"]) + int(n["Shared Read Blocks"]) for n in nodes)


@pytest.fixture
async def plans(database_url: str) -> AsyncIterator[tuple[Plans, Database]]:
    database = Database(database_url, pool_size=1, max_overflow=0)
    partitions = Partitions(database)
    for table in ("quotes_live", "trades_live", "candles"):
        await partitions.ensure(table, [(2026, month) for month in (5, 6, 7, 8, 9)])
    async with database.transaction() as transaction:
        await transaction.driver.execute(POPULATE)
    async with database.transaction() as transaction:
        await transaction.driver.execute("ANALYZE")
    found = Plans(database)
    await found.listen()
    yield found, database
    await database.close()


async def test_hot_reads_use_indexes(plans: tuple[Plans, Database]) -> None:
    explained, database = plans
    ticks, log, catalog = TickStore(database), SignalLogStore(database), CatalogStore(database)
    records, executions = TrackRecordStore(database), ExecutionStore(database)
    everything, july = TimeRange(), 1_782_993_600_000_000
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "quotes of a market": lambda: ticks.list_quotes("kalshi:7", everything, None, 100),
        "quotes of a market in a span": lambda: ticks.list_quotes("kalshi:7", TimeRange(july, july + 10**9), None, 100),
        "trades of a market": lambda: ticks.list_trades("kalshi:7", everything, None, 100),
        "candles": lambda: ticks.list_candles("kalshi:7", CandleInterval.MINUTE, everything, None, 100),
        "latest quotes": lambda: ticks.latest_quotes([f"kalshi:{n}" for n in range(1, 20)]),
        "the live tail": lambda: ticks.quotes_after(199_900, 1_000),
        "signals": lambda: log.list_signals(SignalListFilter(), None, 100),
        "active signals": lambda: log.list_signals(SignalListFilter(states=(SignalState.ACTIVE,)), None, 100),
        "signals of an event": lambda: log.list_signals(
            SignalListFilter(SignalFilter(event_ids=("kalshi:E77",))), None, 100
        ),
        "signals of a market": lambda: log.list_signals(
            SignalListFilter(SignalFilter(market_ids=("kalshi:77", "kalshi:78"))), None, 100
        ),
        "a signal": lambda: log.get_signal("sig_77"),
        "the active snapshot": lambda: log.active_snapshot(),
        "markets of an event": lambda: catalog.list_markets(MarketFilter(event_ids=("kalshi:E77",)), None, 100),
        "open markets of a venue": lambda: catalog.list_markets(
            MarketFilter(venues=(Venue.KALSHI,), states=(MarketState.OPEN,)), None, 100
        ),
        "a track record": lambda: records.track_record(TrackRecordQuery("s7", 1, DataOrigin.LIVE, everything), july),
        "a track record of a day": lambda: records.track_record(
            TrackRecordQuery("s7", 1, DataOrigin.LIVE, TimeRange(july, july + 10**9), owner="key_7"), july
        ),
        "legs that wait": lambda: PostgresPipelineStore(database).waiting_quotes(),
        "executions": lambda: executions.list_executions(ExecutionFilter(), None, 100),
        "executions of an owner": lambda: executions.list_executions(ExecutionFilter(owners=("key_7",)), None, 100),
        "executions of a strategy": lambda: executions.list_executions(
            ExecutionFilter(strategy_ids=("s7",)), (july, "exe_1"), 100
        ),
        "executions of a signal": lambda: executions.list_executions(ExecutionFilter(signal_ids=("sig_7",)), None, 100),
        "markets by title": lambda: catalog.list_markets(MarketFilter(text="number 777"), None, 100),
    }
    for what, call in calls.items():
        nodes = await explained.of(_tolerant(call()))
        assert whole_table_scans(nodes) == [], what
        assert buffers(nodes) < 1_500, what


async def _tolerant(call: Awaitable[Any]) -> None:
    # The rows of the population have empty documents, which no reader could make sense of; only plans matter here.
    with suppress(KeyError, TypeError):
        await call


async def test_a_page_from_deep_inside_costs_what_the_first_one_costs(plans: tuple[Plans, Database]) -> None:
    explained, database = plans
    ticks, log = TickStore(database), SignalLogStore(database)
    july = 1_782_950_400_000_000
    first = await explained.of(ticks.list_quotes("kalshi:7", TimeRange(), None, 20))
    # 4,000 quotes of this market, 20 a page: somewhere in page 180.
    row = 180 * 20 * 50 + 6
    deep = await explained.of(ticks.list_quotes("kalshi:7", TimeRange(), (july + row * 1_000_000, row), 20))
    assert buffers(deep) <= buffers(first) + 10
    first = await explained.of(_tolerant(log.list_signals(SignalListFilter(), None, 5)))
    deep = await explained.of(_tolerant(log.list_signals(SignalListFilter(), (60_000 - 10_000 * 5,), 5)))
    assert buffers(deep) <= buffers(first) + 10
