"""The backtest engine against the bound of its memory, a hand-made loop, vectorbt and hftbacktest: one interleaved run.

    python -m loadtests.backtest     # POINTS=100: a hundred million points at the end; CHECK=1 fails on a miss

One data set: 1,000 binary markets, 1,000 one-minute quotes each in whole cents, a z score over 60 rows, buy at the ask
where z < -2, sell at the bid where z > 0, else settle; Kalshi's fee of 0.07 p (1 - p) rounded up to a cent an order.
Every round measures each contender once, one after another, so that all of them meet the same machine; ratios are of
medians of processor time. The strategy is a user's: the engine knows its declaration and its step. The hand-made loop
is the same rules written as one compiled loop without opportunities, latency, sizes, bankroll or ladder: what such a
loop costs at least.
"""

import os
import sys

from loadtests.backtest.aims import REAL, REAL_MEMORY, report
from loadtests.backtest.real_quotes import compare
from loadtests.backtest.runs import measure_live, measure_many, measure_run, measure_sweep
from loadtests.backtest.world import a_world
from oddstream_server.backtesting.acceleration import AVAILABLE


def measure_real() -> dict[str, float]:
    found = compare()
    return {} if found is None else dict(zip((REAL, REAL_MEMORY), found, strict=True))


def main() -> int:
    if not AVAILABLE:
        print("numba is not installed: the engine runs as plain Python, and there is nothing to measure (uv sync)")
        return 1 if os.environ.get("CHECK") == "1" else 0
    world = a_world()
    found = measure_run(world) | measure_sweep(world) | measure_live()
    found |= measure_many(world, int(os.environ.get("POINTS", "20")))
    found |= measure_real()
    missed = report(found)
    for name in missed:
        print(f"MISSED: {name}: {found[name]:.1f}")
    return 1 if missed and os.environ.get("CHECK") == "1" else 0


if __name__ == "__main__":
    sys.exit(main())
