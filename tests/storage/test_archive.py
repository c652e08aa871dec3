"""Closed days in Parquet: rows come back the same, wherever they are, late ones too; damage is found."""

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oddstream_server.application.ports import Decision
from oddstream_server.domain.backtest import MarketSelection
from oddstream_server.domain.retention import RetentionSubject
from oddstream_server.storage.administration.retention import RetentionStore
from oddstream_server.storage.backtests import archive as archive_module
from oddstream_server.storage.backtests.archive import Archive, NotArchived
from oddstream_server.storage.backtests.recorded import RecordedRows
from oddstream_server.storage.database import Database
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.tick_store.ticks import TickStore

DAY_US = 86_400_000_000


@dataclasses.dataclass
class Kept:
    database: Database
    root: Path
    t0: int
    samples: Any

    async def store(self, ticks: list[Any]) -> None:
        store = PostgresPipelineStore(self.database, TickStore(self.database))
        lease = await store.acquire_lease("test", 60_000_000)
        assert lease is not None
        await store.store_batch(lease, ticks, lambda _: Decision())
        await store.release_lease(lease)

    async def rows(self, table: str = "quotes") -> dict[str, list[int]]:
        data = RecordedRows(self.database, self.root)
        columns = await getattr(data, table)(["kalshi:A"], 0, self.t0 + 90 * DAY_US)
        return {name: np.asarray(values).tolist() for name, values in columns.items()}


@pytest.fixture
async def kept(samples: Any, database_url: str, tmp_path: Path) -> AsyncIterator[Kept]:
    database = Database(database_url)
    made = Kept(database, tmp_path, samples.t0, samples)
    await CatalogStore(database).upsert([], [samples.market("kalshi:A")], samples.t0)
    quotes = [dataclasses.replace(samples.quote(n), market_id="kalshi:A", receive_time_us=samples.t0 + n * DAY_US // 4)
              for n in range(12)]  # fmt: skip
    quotes[3] = dataclasses.replace(quotes[3], bid_price_micros=None, ask_size_micros=None)
    await made.store([*quotes, dataclasses.replace(samples.trade("t"), market_id="kalshi:A")])
    yield made
    await database.close()


async def test_rows_are_the_same_before_and_after_they_went_to_the_archive(kept: Kept) -> None:
    archive = Archive(kept.database, kept.root)
    before, trades = await kept.rows(), await kept.rows("trades")
    assert len(before["market"]) == 12
    assert before["bid_price_micros"][3] == -1
    assert len(trades["market"]) == 1
    later = kept.t0 + 40 * DAY_US
    with pytest.raises(NotArchived):
        await archive.drop_before(later)
    days = await archive.archive_closed(later)
    assert sum(d.quote_count for d in days) == 12
    assert await archive.archive_closed(later) == []
    assert await kept.rows() == before
    assert await archive.drop_before(later)
    assert await kept.rows() == before
    assert await kept.rows("trades") == trades
    data = RecordedRows(kept.database, kept.root)
    counted = await data.count_rows(MarketSelection(), 0, later, simulated=False)
    assert [(r.quote_count, r.trade_count) for r in counted] == [(12, 1)]
    assert await archive.verify() == []


async def test_a_late_row_of_a_dropped_day_is_read_and_makes_the_next_generation(kept: Kept) -> None:
    archive = Archive(kept.database, kept.root)
    later = kept.t0 + 40 * DAY_US
    await archive.archive_closed(later)
    await archive.drop_before(later)
    late = dataclasses.replace(kept.samples.quote(99), market_id="kalshi:A", receive_time_us=kept.t0 + 5)
    await kept.store([late])
    before = await kept.rows()
    assert len(before["market"]) == 13
    (day,) = await archive.archive_closed(later)
    assert day.generation == 2
    assert await kept.rows() == before
    await archive.drop_before(later)
    assert await kept.rows() == before
    assert await archive.verify() == []


async def test_damage_is_found(kept: Kept) -> None:
    archive = Archive(kept.database, kept.root)
    first = (await archive.archive_closed(kept.t0 + 40 * DAY_US))[0]
    assert first.quote_file is not None
    path = kept.root / first.quote_file
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert await archive.verify() == [first.quote_file]


async def test_the_retention_of_ticks_drops_nothing_that_is_not_in_the_archive(kept: Kept) -> None:
    archive = Archive(kept.database, kept.root)
    store = RetentionStore(kept.database, archive)
    later = kept.t0 + 40 * DAY_US
    before, trades = await kept.rows(), await kept.rows("trades")
    planned = await store.purge(RetentionSubject.TICKS, later, dry_run=True)
    assert (planned.rows, planned.partitions) == (13, 2)
    # Another process archives meanwhile and isn't done: what isn't in the files stays.
    async with kept.database.transaction() as transaction:
        await transaction.driver.execute(f"SELECT pg_advisory_xact_lock({archive_module._LOCK})")
        refused = await store.purge(RetentionSubject.TICKS, later, dry_run=False)
    assert (refused.rows, refused.partitions) == (0, 0)
    assert await archive.days(0, later) == []
    assert await kept.rows() == before
    done = await store.purge(RetentionSubject.TICKS, later, dry_run=False)
    assert (done.rows, done.partitions) == (13, 2)
    async with kept.database.reading() as transaction:
        assert await transaction.driver.fetchval("SELECT count(*) FROM quotes") == 0
    assert await kept.rows() == before
    assert await kept.rows("trades") == trades
