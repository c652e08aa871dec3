"""Quote files: columns, time zones, resumption, markets, and what goes wrong."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oddstream_server.application.ports import QuarantinedRow, TimeRange
from oddstream_server.application.quote_columns import MISSING, QuoteColumns
from oddstream_server.domain.errors import InvalidArgument
from oddstream_server.domain.market import Declared, MarketState, Venue
from oddstream_server.domain.quote import TickSource
from oddstream_server.pipeline.declarations import Declaration, Declarations
from oddstream_server.pipeline.imports.columns import local_to_utc_us, read_rows
from oddstream_server.pipeline.imports.command import ImportReport, import_quotes
from oddstream_server.pipeline.imports.forms import FORMS, columns_of, form_named
from oddstream_server.pipeline.imports.rejects import KEPT_ROWS
from oddstream_server.storage.tick_store.imports import QuoteImports
from tests.pipeline.conftest import Stores

US = FORMS["polymarket_us"]
LADDER = FORMS["kalshi_ladder"]
NOW_US = 1_795_000_000_000_000

LADDER_HEAD = (
    "captured_at,series,event_ticker,ticker,strike_type,floor_strike,cap_strike,yes_bid,yes_ask,close_time,spot,result"
)
LADDER_ROWS = [
    "2026-07-03T05:14:40.295146+00:00,KXBTC,KXBTC-1,KXBTC-1-B1,between,50700,50799.99,0.0,0.01,2026-07-03T06:00:00Z,6,yes",
    "2026-07-03T05:14:40.295146+00:00,KXBTC,KXBTC-1,KXBTC-1-T2,greater,50800,,0.45,0.47,2026-07-03T06:00:00Z,6,no",
]


def us_file(path: Path, rows: list[tuple[datetime, str, float | None, float | None]]) -> Path:
    times, slugs, bids, asks = zip(*rows, strict=True)
    table = pa.table(
        {
            "ts": pa.array(times, pa.timestamp("us")),
            "slug": list(slugs),
            "category": ["sports"] * len(rows),
            "bid": pa.array(bids, pa.float64()),
            "ask": pa.array(asks, pa.float64()),
        }
    )
    pq.write_table(table, path, row_group_size=3)
    return path


def wall(text: str) -> datetime:
    return datetime.fromisoformat(text)


def utc_us(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000_000)


def us_rows(count: int) -> list[tuple[datetime, str, float | None, float | None]]:
    return [
        (wall(f"2026-07-14T00:{i // 60:02}:{i % 60:02}"), f"slug-{i % 4}", 0.4 if i % 3 else None, 0.43)
        for i in range(count)
    ]


async def imported(path: Path, stores: Stores, form: str = "polymarket_us", **more: Any) -> ImportReport:
    return await import_quotes(
        path,
        form_named(form),
        target=QuoteImports(stores.database, stores.ticks),
        catalog=stores.catalog,
        clock=lambda: NOW_US,
        **more,
    )


@pytest.mark.parametrize(
    ("local", "utc"),
    [
        ("2026-07-14T00:00:35", "2026-07-14T04:00:35"),
        ("2026-01-14T00:00:35", "2026-01-14T05:00:35"),
        ("2026-11-01T00:59:59", "2026-11-01T04:59:59"),
        ("2026-11-01T01:30:00", "2026-11-01T05:30:00"),  # comes twice: the first one
        ("2026-11-01T02:00:00", "2026-11-01T07:00:00"),
        ("2026-03-08T01:59:59", "2026-03-08T06:59:59"),
        ("2026-03-08T02:30:00", "2026-03-08T07:30:00"),  # doesn't exist: 03:30 summer time
        ("2026-03-08T03:00:00", "2026-03-08T07:00:00"),
    ],
)
def test_us_eastern_wall_clock_becomes_utc(local: str, utc: str) -> None:
    stamps = np.array([utc_us(local)], dtype=np.int64)
    assert local_to_utc_us(stamps, ZoneInfo("America/New_York")).tolist() == [utc_us(utc)]


def test_sides_that_are_missing_empty_or_impossible_are_absent_and_only_the_last_are_counted(tmp_path: Path) -> None:
    rows: list[tuple[datetime, str, float | None, float | None]] = [
        (wall("2026-07-14T00:00:00"), "a", 0.4, 0.43),
        (wall("2026-07-14T00:00:01"), "a", None, 0.43),
        (wall("2026-07-14T00:00:02"), "a", 0.0, 1.0),
        (wall("2026-07-14T00:00:03"), "a", 0.5, 0.4),
        (wall("2026-07-14T00:00:04"), "a", 1.2, -0.1),
        (wall("2026-07-14T00:00:05"), "a", float("inf"), 0.0000004),
    ]
    (found,) = read_rows(us_file(tmp_path / "q.parquet", rows), US)
    absent = MISSING
    assert found.bid_price_micros.tolist() == [400_000, absent, absent, 500_000, absent, absent]
    assert found.ask_price_micros.tolist() == [430_000, 430_000, absent, 400_000, absent, absent]
    assert found.rejected.tolist() == [4, 5]
    assert found.receive_time_us.tolist()[0] == utc_us("2026-07-14T04:00:00")


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("position", [0, 1, 3, 5, 7, 19, 20])
def test_reading_from_a_row_on_gives_the_rest_whatever_the_batches(tmp_path: Path, suffix: str, position: int) -> None:
    path = us_file(tmp_path / "q.parquet", us_rows(20))
    if suffix == "csv":
        table = pq.read_table(path).to_pylist()
        path = tmp_path / "q.csv"
        path.write_text(
            "ts,slug,category,bid,ask\n"
            + "".join(f"{r['ts']},{r['slug']},{r['category']},{r['bid'] or ''},{r['ask']}\n" for r in table)
        )
    whole = list(read_rows(path, US))
    times = np.concatenate([b.receive_time_us for b in whole]).tolist()
    natives = [b.natives[c] for b in whole for c in b.market_codes]
    rest = list(read_rows(path, US, position, batch_rows=4))
    assert [t for b in rest for t in b.receive_time_us.tolist()] == times[position:]
    assert [b.natives[c] for b in rest for c in b.market_codes] == natives[position:]
    assert len(times) == 20
    assert not rest or rest[0].first_row == position


async def test_an_import_creates_markets_stores_quotes_and_is_idempotent(tmp_path: Path, stores: Stores) -> None:
    path = us_file(tmp_path / "q.parquet", us_rows(20))
    told = tmp_path / "markets.parquet"
    pq.write_table(pa.table({"slug": ["slug-1"], "question": ["Will it rain?"], "category": ["weather"]}), told)
    seen: list[tuple[str, int, int | None]] = []
    report = await imported(path, stores, markets_file=told, batch_rows=6, progress=lambda *step: seen.append(step))
    assert (report.rows, report.rows_now, report.markets_created, report.rejected) == (20, 20, 4, 0)
    assert [step for step in seen if step[0] == "quotes"][-1] == ("quotes", 20, 20)
    market = (await stores.catalog.markets_by_id(["polymarket_us:slug-1"]))["polymarket_us:slug-1"]
    assert (market.title, market.category, market.state) == ("Will it rain?", "weather", MarketState.CLOSED)
    page = await stores.ticks.list_quotes("polymarket_us:slug-1", TimeRange(), None, 100)
    assert [q.source_key for q in page.items] == [1, 5, 9, 13, 17]
    again = await imported(path, stores, markets_file=told)
    assert (again.rows, again.rows_now, again.markets_created) == (20, 0, 0)


@dataclass
class Breaking:
    """An import that breaks after some writes, as when the process is killed."""

    target: QuoteImports
    writes: int
    rows: list[int] = field(default_factory=list)

    @asynccontextmanager
    async def open(self, source: TickSource, total_rows: int | None = None) -> AsyncIterator["_BreakingImport"]:
        async with self.target.open(source, total_rows) as opened:
            yield _BreakingImport(opened, self)


@dataclass
class _BreakingImport:
    opened: Any
    owner: Breaking

    @property
    def position(self) -> int:
        return int(self.opened.position)

    async def market_keys(self, market_ids: Any) -> npt.NDArray[np.int32]:
        found: npt.NDArray[np.int32] = await self.opened.market_keys(market_ids)
        return found

    async def write(self, columns: QuoteColumns, rejects: Sequence[QuarantinedRow] = ()) -> None:
        if len(self.owner.rows) == self.owner.writes:
            raise ConnectionError("killed")
        await self.opened.write(columns, rejects)
        self.owner.rows.append(len(columns))

    async def build_candles(self, report: Any = None) -> None:
        await self.opened.build_candles(report)


async def test_a_broken_import_goes_on_where_it_stopped(tmp_path: Path, stores: Stores) -> None:
    path = us_file(tmp_path / "q.parquet", us_rows(20))
    target = QuoteImports(stores.database, stores.ticks)
    for writes in (2, 1):
        with pytest.raises(ConnectionError):
            await import_quotes(
                path,
                US,
                target=Breaking(target, writes),
                catalog=stores.catalog,
                clock=lambda: NOW_US,
                batch_rows=3,
            )
    report = await imported(path, stores, batch_rows=3)
    assert (report.rows, report.rows_now) == (20, 11)
    stored = [batch async for batch in stores.ticks.replay(TimeRange())]
    assert [q.source_key for batch in stored for q in batch] == list(range(20))


async def test_rows_that_can_not_be_are_quarantined_once_with_their_place_in_the_file(
    tmp_path: Path, stores: Stores
) -> None:
    rows = us_rows(20)
    rows[4] = (*rows[4][:2], 1.2, 0.43)
    rows[17] = (*rows[17][:2], 0.4, float("inf"))
    path = us_file(tmp_path / "q.parquet", rows)
    with pytest.raises(ConnectionError):
        await import_quotes(
            path,
            US,
            target=Breaking(QuoteImports(stores.database, stores.ticks), 2),
            catalog=stores.catalog,
            clock=lambda: NOW_US,
            batch_rows=3,
        )
    assert (await imported(path, stores, batch_rows=3)).rejected == 1, "the other one was met by the call that broke"
    await imported(path, stores)
    async with stores.database.reading() as transaction:
        kept = await transaction.driver.fetch(
            "SELECT venue, source, reason, times, payload FROM quarantine ORDER BY payload"
        )
    assert [(r["venue"], r["source"], r["reason"], r["times"]) for r in kept] == [
        ("polymarket_us", "import quotes", "side_out_of_range", 1)
    ] * 2
    told = [orjson.loads(r["payload"]) for r in kept]
    assert [(t["file"], t["row"], t["slug"], t["bid"], t["ask"]) for t in told] == [
        ("q.parquet", 17, "slug-1", "0.4", "inf"),
        ("q.parquet", 4, "slug-0", "1.2", "0.43"),
    ]


async def test_of_a_file_without_one_good_row_a_sample_is_quarantined(tmp_path: Path, stores: Stores) -> None:
    row = (wall("2026-07-14T00:00:00"), "a", 7.0, 8.0)
    report = await imported(us_file(tmp_path / "q.parquet", [row] * (KEPT_ROWS + 9)), stores)
    assert report.rejected == KEPT_ROWS + 9
    async with stores.database.reading() as transaction:
        assert await transaction.driver.fetchval("SELECT count(*) FROM quarantine") == KEPT_ROWS


async def test_a_ladder_brings_events_and_declarations_without_reading_results(tmp_path: Path, stores: Stores) -> None:
    path = tmp_path / "ladder.csv"
    path.write_text("\n".join([LADDER_HEAD, *LADDER_ROWS, ""]))
    declared = Declarations([Declaration(Venue.KALSHI, "KXBTC", "contract terms", "reviewer", True, True)])
    report = await imported(path, stores, "kalshi_ladder", declarations=declared)
    assert (report.rows, report.markets_created) == (2, 2)
    event = (await stores.catalog.events_by_id(["kalshi:KXBTC-1"]))["kalshi:KXBTC-1"]
    assert sorted(event.market_ids) == ["kalshi:KXBTC-1-B1", "kalshi:KXBTC-1-T2"]
    assert (event.exclusivity, event.exhaustiveness) == (Declared.YES, Declared.YES)
    assert event.exhaustiveness_source == "declared: contract terms (reviewed by reviewer)"
    market = (await stores.catalog.markets_by_id(["kalshi:KXBTC-1-T2"]))["kalshi:KXBTC-1-T2"]
    assert market.settlement is None
    assert market.strike is not None
    assert (market.strike.kind, market.strike.floor_micros, market.strike.cap_micros) == (
        "greater",
        50_800_000_000,
        None,
    )
    page = await stores.ticks.list_quotes("kalshi:KXBTC-1-B1", TimeRange(), None, 10)
    (quote,) = page.items
    assert (quote.bid_price_micros, quote.ask_price_micros) == (None, 10_000)
    assert quote.receive_time_us == utc_us("2026-07-03T05:14:40.295146")
    assert "result" not in columns_of(LADDER)
    assert "spot" not in columns_of(LADDER)


@pytest.mark.parametrize(
    ("content", "field_name", "text"),
    [
        (
            "ts,slug,category,bid\n2026-07-14 00:00:00,a,s,0.5\n",
            "file",
            "has no column ask; the form polymarket_us needs",
        ),
        (None, "file", "is not a file; name a Parquet or CSV file"),
    ],
)
async def test_a_file_of_another_form_is_refused_by_name(
    tmp_path: Path, stores: Stores, content: str | None, field_name: str, text: str
) -> None:
    path = tmp_path / "q.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidArgument) as caught:
        await imported(path, stores)
    (violation,) = caught.value.violations
    assert violation.field == field_name
    assert text in violation.description


def test_an_unknown_form_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidArgument, match=r"kalshi_ladder: .*polymarket_us|polymarket_us: .*kalshi_ladder"):
        form_named("betfair")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ("{}", ["declarations"]),
        ("nonsense", ["declarations"]),
        ("[5]", ["declarations[0]"]),
        ('[{"venue":"x","series_id":"","reviewer":"r","source":"s","exclusive":true}]',
         ["declarations[0].venue", "declarations[0].series_id"]),
        ('[{"venue":"kalshi","series_id":"S","reviewer":"r","source":"s"}]', ["declarations[0]"]),
        ('[{"venue":"kalshi","series_id":"S","reviewer":"r","source":"s","exclusive":1}]', ["declarations[0]"]),
        ('[{"venue":"kalshi","series_id":"S","reviewer":"r","source":"s","exclusive":true},'
         '{"venue":"kalshi","series_id":"S","reviewer":"r","source":"s","exhaustive":true}]', ["declarations"]),
    ],
)  # fmt: skip
def test_a_declaration_that_is_not_whole_is_refused(tmp_path: Path, body: str, fields: list[str]) -> None:
    path = tmp_path / "declarations.json"
    path.write_text(body)
    with pytest.raises(InvalidArgument) as caught:
        Declarations.read(path)
    assert [v.field for v in caught.value.violations] == fields


async def test_the_loop_stays_free_while_a_file_is_read(tmp_path: Path, stores: Stores) -> None:
    path = us_file(tmp_path / "q.parquet", us_rows(3_000))
    ticks = 0

    async def beat() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    beating = asyncio.create_task(beat())
    await imported(path, stores, batch_rows=500)
    beating.cancel()
    assert ticks > 20
