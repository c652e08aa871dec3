"""Files of prices go into the tick store once, and a backtest reads them as of each row."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oddstream_server.backtesting.records.columns import MISSING
from oddstream_server.domain.backtest import BacktestSpec, MarketSelection, StrategySelection
from oddstream_server.domain.errors import InvalidArgument
from oddstream_server.domain.market import Strike, Venue
from oddstream_server.jobs.reading import find_data, read_shard
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from oddstream_server.pipeline.imports.prices import import_prices
from oddstream_server.storage.backtests.recorded import RecordedRows
from oddstream_server.storage.tick_store.imports import QuoteImports
from tests.pipeline.conftest import Stores
from tests.strategies.worlds import START_US, a_market, a_quote

NOW_US = 1_795_000_000_000_000
ROWS = [("BRTI", 0, 65_000.25), ("BRTI", 1, 65_001.5), ("ETHRTI", 1, 4_000.0), ("BRTI", 2, -1.0), ("BRTI", 3, 65_002.0)]


def text_of(second: int) -> str:
    return datetime.fromtimestamp(START_US / 1e6 + second, UTC).isoformat()


def a_file(folder: Path, form: str) -> Path:
    path = folder / f"prices.{form}"
    if form == "csv":
        path.write_text("series,ts,price\n" + "".join(f"{s},{text_of(t)},{p}\n" for s, t, p in ROWS))
        return path
    times = pa.array([START_US + t * 1_000_000 for _, t, _ in ROWS], pa.timestamp("us", tz="UTC"))
    table = {"series": [s for s, _, _ in ROWS], "ts": times, "price": [p for _, _, p in ROWS]}
    pq.write_table(pa.table(table), path)
    return path


@pytest.mark.parametrize("form", ["csv", "parquet"])
async def test_a_backtest_reads_the_prices_of_what_its_markets_are_about(
    stores: Stores, tmp_path: Path, form: str
) -> None:
    strike = Strike("greater", floor_micros=65_000_000_000, underlying_id="kalshi:underlying.BRTI")
    market = replace(a_market(0, event_id=None), strike=strike)
    await stores.catalog.upsert([], [market], START_US)
    lease = await stores.store.acquire_lease("test", 60_000_000)
    assert lease is not None
    await stores.store.store_batch(
        lease, [a_quote(market.market_id, START_US, 400_000, 410_000)], StrategyRunner([]).decide
    )
    path, target = a_file(tmp_path, form), QuoteImports(stores.database)
    report = await import_prices(path, Venue.KALSHI, target=target, clock=lambda: NOW_US, batch_rows=2)
    assert (report.rows, report.rows_now, report.rejected) == (5, 5, 1)
    again = await import_prices(path, Venue.KALSHI, target=target, clock=lambda: NOW_US)
    assert (again.rows, again.rows_now) == (5, 0)
    async with stores.database.reading() as transaction:
        (kept,) = await transaction.driver.fetch("SELECT reason, times, payload FROM quarantine")
    assert (kept["reason"], kept["times"]) == ("price_not_positive", 1)
    assert orjson.loads(kept["payload"])["row"] == 3
    spec = BacktestSpec(
        (StrategySelection("decay.expiry"),), START_US, START_US + 3_600_000_000, 1_000_000, markets=MarketSelection()
    )
    data = RecordedRows(stores.database, tmp_path / "archive")
    run = await find_data(data, spec, 0, 1_000)
    assert run.universe.market_ids == (market.market_id,), "an underlying is no market"
    shard = await read_shard(data, run, run.shards[0])
    assert run.universe.instruments == ("kalshi:underlying.BRTI",)
    assert shard.prices.market.tolist() == [0, 0, 0, 0]
    assert shard.prices.receive_time_us.tolist() == [START_US + 1_000_000 * t for t in range(4)]
    assert shard.prices.price_micros.tolist() == [65_000_250_000, 65_001_500_000, MISSING, 65_002_000_000]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("series,ts\nBRTI,2026-07-01T00:00:00Z\n", "file"),
        ("series,ts,price\n,2026-07-01T00:00:00Z,1\n", "file"),
        ("series,ts,price\nBR TI,2026-07-01T00:00:00Z,1\n", "series"),
        (f"series,ts,price\n{'A' * 65},2026-07-01T00:00:00Z,1\n", "series"),
    ],
)
async def test_a_file_that_lacks_something_is_refused_by_name(
    stores: Stores, tmp_path: Path, body: str, field: str
) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(body)
    with pytest.raises(InvalidArgument) as caught:
        await import_prices(path, Venue.KALSHI, target=QuoteImports(stores.database), clock=lambda: NOW_US)
    assert caught.value.violations[0].field == field


async def test_a_file_that_is_not_there_is_refused(stores: Stores, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="not a file"):
        await import_prices(
            tmp_path / "none.csv", Venue.KALSHI, target=QuoteImports(stores.database), clock=lambda: NOW_US
        )
