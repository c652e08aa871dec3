"""What the strategies would have earned on recorded data, as the table of docs/backtests.md.

    python -m loadtests.backtest.report     # writes the table; CHECK=1 compares it and exits 1 where it differs

The recordings are private: ODDSTREAM_REAL_DATA names their folder. Each strategy runs with its defaults on every market
of a recording, with a bankroll of 10,000 USD, a hundredth of it a trade, and half a second from signal to venue.
"""

import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from loadtests.backtest.recorded_worlds import RecordedWorld, data_folder, kalshi_ladders, polymarket_us
from oddstream_server.backtesting.config import BacktestConfig
from oddstream_server.backtesting.engine import Outcome, conclude
from oddstream_server.backtesting.records.coverage import equity_instants, survey_quotes
from oddstream_server.backtesting.result import BacktestResult, known_payouts, summarize
from oddstream_server.backtesting.shards import LADDER, ShardResult, merge, run_shard
from oddstream_server.strategies.registry import Registry

PAGE = Path(__file__).parents[2] / "docs" / "backtests.md"
BEGIN, END = "<!-- the table begins -->", "<!-- the table ends -->"
BANKROLL_MICROS = 10_000_000_000
LADDER_KINDS = (
    "arb.event_sum", "surface.mispricing", "decay.expiry", "stat.mean_reversion", "stat.momentum",
)  # fmt: skip
US_KINDS = ("stat.mean_reversion", "stat.momentum")


@dataclass(frozen=True)
class Report:
    """One strategy on one recording."""

    kind: str
    result: BacktestResult
    settled: int
    """Markets with rows whose result is known within the range."""
    paid: int
    """Those of them whose outcome 0 paid."""


def run(world: RecordedWorld, kinds: tuple[str, ...]) -> Iterator[Report]:
    """Every strategy by itself; shards are read once for all of them."""
    for kind, outcome in zip(kinds, outcomes(world, kinds), strict=True):
        payouts = known_payouts(outcome)
        yield Report(kind, summarize(outcome), int((payouts >= 0).sum()), int((payouts > 0).sum()))


def outcomes(world: RecordedWorld, kinds: tuple[str, ...]) -> list[Outcome]:
    registry = Registry()
    configs = [
        BacktestConfig((registry.configure(kind),), world.start_us, world.end_us, BANKROLL_MICROS) for kind in kinds
    ]
    parts: list[list[ShardResult]] = [[] for _ in kinds]
    instants = equity_instants(world.start_us, world.end_us)
    for shard in world.shards():
        survey = survey_quotes(shard.quotes, shard.markets, world.universe, instants, world.start_us, world.end_us)
        shared = survey, shard.digests(world.universe.instrument_of)
        for config, found in zip(configs, parts, strict=True):
            found.append(run_shard(config, world.universe, shard, shared=shared))
    return [
        conclude(config, world.universe, merge(world.universe, found))
        for config, found in zip(configs, parts, strict=True)
    ]


def table(world: RecordedWorld, reports: list[Report]) -> Iterator[str]:
    coverage = reports[0].result.coverage
    yield f"### {world.name}"
    yield ""
    yield (
        f"{coverage.row_count:,} quotes of {coverage.market_count:,} markets, {_moment(world.start_us)} to "
        f"{_moment(world.end_us)} UTC; coverage {coverage.ratio:.2%} of open time, {coverage.gap_count:,} gaps. "
        f"{reports[0].settled:,} markets have a known result, and {_share(reports[0].paid, reports[0].settled)} of "
        f"them paid their outcome 0. Input `{reports[0].result.input_digest[:16]}`."
    )
    yield ""
    rungs = " | ".join(a.name.replace("_", " ").lower() for a in LADDER)
    yield f"| strategy | signals | {rungs} | Brier, strategy and crowd | result hash |"
    yield "|---|--:|" + "--:|" * len(LADDER) + "--:|---|"
    for report in reports:
        result = report.result
        ladder = " | ".join(f"{r.profit_micros / 1e6:,.2f} in {r.trade_count:,}" for r in result.fill_ladder)
        scores = " / ".join(
            "-" if s is None else f"{s:.4f}" for s in (result.metrics.brier, result.metrics.brier_crowd)
        )
        yield f"| {report.kind} | {result.signal_count:,} | {ladder} | {scores} | `{result.result_hash[:16]}` |"
    yield ""
    for report in reports:
        bins = [b for b in report.result.metrics.calibration if b.count]
        if bins:
            yield f"Calibration of {report.kind}, one forecast a trade in a settled market:"
            yield ""
            yield "| forecast | trades | mean forecast | came true |"
            yield "|---|--:|--:|--:|"
            for b in bins:
                span = f"{b.start_price_micros / 1e6:.2f} to {b.end_price_micros / 1e6:.2f}"
                yield f"| {span} | {b.count:,} | {b.mean_forecast:.4f} | {b.frequency:.4f} |"
            yield ""


def _moment(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M")


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "none"


def main() -> int:
    folder = data_folder()
    if not folder.is_dir():
        print(f"no recorded data at {folder}: set ODDSTREAM_REAL_DATA")
        return 2
    np.seterr(all="raise")
    begun = time.perf_counter()
    lines: list[str] = []
    world = kalshi_ladders(folder)
    lines += table(world, list(run(world, LADDER_KINDS)))
    with polymarket_us(folder) as world:
        lines += table(world, list(run(world, US_KINDS)))
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.perf_counter() - begun:,.0f} s, {mib:,.0f} MiB at most")
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n{END}{after}"
    print("\n".join(lines))
    if os.environ.get("CHECK") == "1":
        print("the table is as committed" if made == page else "MISSED: the table differs from the committed one")
        return 0 if made == page else 1
    PAGE.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
