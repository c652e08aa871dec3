"""Fifty million real quotes from Parquet to a result, beside what polars takes to scan and sort the same columns.

    python -m loadtests.backtest.real_quotes engine|polars     # one side by itself: seconds and MiB at most, as JSON

Each side is a process of its own, so that its memory is its own. The engine's side is everything from the files on:
prices to integers, times to UTC, markets told apart, shards on disk, signals, fills, bankroll, exact fees, hash.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from loadtests.backtest.recorded_worlds import data_folder, polymarket_us

KIND = "stat.mean_reversion"


def engine(folder: Path) -> dict[str, float | str]:
    from loadtests.backtest.report import outcomes

    begun = time.perf_counter()
    with polymarket_us(folder) as world:
        (outcome,) = outcomes(world, (KIND,))
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "rows": outcome.log.coverage.row_count, "hash": outcome.result_hash}


def polars(folder: Path) -> dict[str, float | str]:
    import polars as pl

    begun = time.perf_counter()
    files = str(folder / "polymarket_us" / "quotes" / "*" / "*.parquet")
    made = pl.scan_parquet(files).select("ts", "slug", "bid", "ask").sort("ts", "slug").collect()
    return {"seconds": time.perf_counter() - begun, "rows": made.height}


def peak_mib() -> float:
    """Largest resident size of this program; what getrusage says counts the program that started this one as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


SIDES = {"engine": engine, "polars": polars}


def measured(side: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.backtest.real_quotes", side], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(rounds: int = 1) -> tuple[float, float] | None:
    """(seconds of the engine over those of polars, MiB of the engine), medians of interleaved rounds; None where the
    recordings or polars are missing, which is said."""
    if not (data_folder() / "polymarket_us").is_dir():
        print(f"no recordings at {data_folder()}, so real quotes aren't measured: set ODDSTREAM_REAL_DATA")
        return None
    if importlib.util.find_spec("polars") is None:
        print("polars is not installed, so real quotes aren't measured: uv sync --group bench")
        return None
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, runs in found.items():
            runs.append(measured(side))
    seconds = {side: sorted(r["seconds"] for r in runs)[len(runs) // 2] for side, runs in found.items()}
    mib = max(r["mib"] for r in found["engine"])
    engine_run, polars_run = found["engine"][0], found["polars"][0]
    print(f"\n{engine_run['rows']:,} real quotes from Parquet to a result: {seconds['engine']:.1f} s, {mib:,.0f} MiB;")
    print(f"  polars scans and sorts the columns in {seconds['polars']:.1f} s, {polars_run['mib']:,.0f} MiB")
    return seconds["engine"] / seconds["polars"], mib


if __name__ == "__main__":
    answer = SIDES[sys.argv[1]](data_folder())
    answer["mib"] = peak_mib()
    answer["processors"] = os.cpu_count() or 1
    print(json.dumps(answer))
