"""Backtests on real recordings: results don't reach strategies, and figures agree with a second way to compute them.

The recordings are private and not part of the project: without ODDSTREAM_REAL_DATA these tests are skipped.
"""

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from loadtests.backtest.recorded_worlds import (
    LADDER_RESULTS,
    LADDERS,
    US_RESULTS,
    RecordedWorld,
    data_folder,
    kalshi_ladders,
    polymarket_us,
)
from loadtests.backtest.report import outcomes
from oddstream_server.backtesting.config import BacktestConfig
from oddstream_server.backtesting.engine import Outcome
from oddstream_server.backtesting.result import figures, known_payouts, trades
from oddstream_server.backtesting.shards import run_shard
from oddstream_server.strategies.registry import Registry

NOT_HERE = "the oracle group is not installed; `make test-oracles` installs it and runs this"

DATA = data_folder()
LINES = 2_000
"""Of the ladders, so that a test stays short."""

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no recorded data at {DATA}; set ODDSTREAM_REAL_DATA"),
    pytest.mark.no_cover,  # tracing would take most of the time, and shorter tests run the same lines
    pytest.mark.timeout(900),  # whoever comes first compiles every kind
]


def a_part_of_the_recordings(folder: Path, *, poisoned: bool) -> Path:
    """The first lines of the ladders, and the first day of Polymarket US; with every result turned round."""
    (folder / LADDERS).parent.mkdir(parents=True)
    with gzip.open(DATA / LADDERS, "rt") as source, gzip.open(folder / LADDERS, "wt", compresslevel=1) as target:
        reader = csv.DictReader(source)
        assert reader.fieldnames is not None
        writer = csv.DictWriter(target, reader.fieldnames)
        writer.writeheader()
        for _, row in zip(range(LINES), reader, strict=False):
            writer.writerow({**row, "result": "yes" if poisoned else "no"})
    turned = {"yes": "no", "no": "yes"} if poisoned else {}
    with gzip.open(DATA / LADDER_RESULTS, "rt") as source, gzip.open(folder / LADDER_RESULTS, "wt") as target:
        reader = csv.DictReader(source)
        assert reader.fieldnames is not None
        writer = csv.DictWriter(target, reader.fieldnames)
        writer.writeheader()
        writer.writerows({**row, "result": turned.get(row["result"], row["result"])} for row in reader)
    us = folder / "polymarket_us"
    us.mkdir()
    (us / "quotes").symlink_to((DATA / "polymarket_us/quotes").resolve())
    (us / "markets.parquet").symlink_to((DATA / "polymarket_us/markets.parquet").resolve())
    results = pq.read_table(DATA / US_RESULTS)
    if poisoned:
        flipped = pc.subtract(1, results["outcome_yes"]).cast(pa.int32())
        results = results.set_column(results.column_names.index("outcome_yes"), "outcome_yes", flipped)
    pq.write_table(results, folder / US_RESULTS)
    return folder


@pytest.fixture(scope="module")
def true_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_part_of_the_recordings(tmp_path_factory.mktemp("true"), poisoned=False)


@pytest.fixture(scope="module")
def poisoned_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_part_of_the_recordings(tmp_path_factory.mktemp("poisoned"), poisoned=True)


@pytest.fixture(scope="module")
def first_day(true_folder: Path) -> Iterator[RecordedWorld]:
    with polymarket_us(true_folder, days=1) as world:
        yield world


def found(world: RecordedWorld, shard_number: int) -> Iterator[tuple[str, bytes]]:
    """What every kind finds in a shard: intents, and what they could have been filled at."""
    shard = list(world.shards())[shard_number]
    registry = Registry()
    for kind in registry:
        config = BacktestConfig((registry.configure(kind.kind),), world.start_us, world.end_us, 10**10)
        yield kind.kind, run_shard(config, world.universe, shard).to_bytes()


def test_no_kind_finds_anything_else_on_ladders_whose_results_are_turned_round(
    true_folder: Path, poisoned_folder: Path
) -> None:
    true, poisoned = kalshi_ladders(true_folder), kalshi_ladders(poisoned_folder)
    assert not np.array_equal(true.universe.payments, poisoned.universe.payments)
    assert dict(found(true, 0)) == dict(found(poisoned, 0))


def test_no_kind_finds_anything_else_on_markets_whose_outcomes_are_turned_round(
    first_day: RecordedWorld, poisoned_folder: Path
) -> None:
    with polymarket_us(poisoned_folder, days=1) as poisoned:
        assert not np.array_equal(first_day.universe.payments, poisoned.universe.payments)
        right = dict(found(first_day, 0))
        assert right == dict(found(poisoned, 0))
    assert len(right["stat.mean_reversion"]) > 10_000, "nothing was found that could have differed"


# --- a second way to the figures ---


@pytest.fixture(scope="module")
def outcome(first_day: RecordedWorld) -> Outcome:
    (made,) = outcomes(first_day, ("stat.mean_reversion",))
    assert len(made.account.entries) > 50
    return made


def raw_outcomes(folder: Path, end_us: int) -> Any:
    """The outcomes file as polars reads it: results that are known before the end."""
    pl = pytest.importorskip("polars", reason=NOT_HERE)
    results = pl.read_parquet(folder / US_RESULTS)
    known = pl.col("last_ts").dt.replace_time_zone("America/New_York").dt.epoch("us") + 3_600_000_000
    return results.filter(known <= end_us)


@pytest.mark.oracle
def test_the_base_rate_is_what_polars_makes_of_the_raw_files(
    outcome: Outcome, first_day: RecordedWorld, true_folder: Path
) -> None:
    pl = pytest.importorskip("polars", reason=NOT_HERE)
    day = sorted((true_folder / "polymarket_us/quotes").rglob("*.parquet"))[0]
    slugs = pl.scan_parquet(day).select("slug").unique().collect()
    settled = raw_outcomes(true_folder, first_day.end_us).join(slugs, on="slug", how="semi")
    payouts = known_payouts(outcome)
    assert int((payouts >= 0).sum()) == settled.height > 100
    assert int((payouts > 0).sum()) == settled["outcome_yes"].sum()
    assert outcome.log.coverage.market_count == slugs.height
    assert outcome.log.coverage.row_count == pl.scan_parquet(day).select(pl.len()).collect().item()


@pytest.mark.oracle
def test_the_calibration_is_what_polars_makes_of_the_blotter_and_the_raw_outcomes(
    outcome: Outcome, first_day: RecordedWorld, true_folder: Path
) -> None:
    pl = pytest.importorskip("polars", reason=NOT_HERE)
    blotter = pl.DataFrame(
        [
            (t.market_id.partition(":")[2], t.outcome_index, t.entry_price_micros, t.fair_value_micros, t.entry_time_us)
            for t in trades(outcome)
        ],
        schema=["slug", "outcome", "price", "fair", "entry_us"],
        orient="row",
    ).unique(["slug", "outcome", "entry_us"])
    joined = blotter.join(raw_outcomes(true_folder, first_day.end_us), on="slug").with_columns(
        happened=(pl.col("outcome_yes") == 1 - pl.col("outcome")).cast(pl.Float64),
        forecast=pl.coalesce("fair", "price"),
    )
    bins = (
        joined.with_columns(bin=pl.col("forecast") // 50_000)
        .group_by("bin")
        .agg(count=pl.len(), mean=pl.col("forecast").mean() / 1e6, frequency=pl.col("happened").mean())
        .sort("bin")
    )
    metrics = figures(outcome)
    ours = [b for b in metrics.calibration if b.count]
    assert [b.start_price_micros // 50_000 for b in ours] == bins["bin"].to_list()
    assert [b.count for b in ours] == bins["count"].to_list()
    assert [b.mean_forecast for b in ours] == pytest.approx(bins["mean"].to_list(), abs=1e-12)
    assert [b.frequency for b in ours] == pytest.approx(bins["frequency"].to_list(), abs=1e-12)
    crowd = joined.select(((pl.col("price") / 1e6 - pl.col("happened")) ** 2).mean()).item()
    assert metrics.brier_crowd == pytest.approx(crowd, abs=1e-12)
