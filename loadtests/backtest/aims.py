"""What the engine wants to reach, as ratios, since machines differ."""

RUN = "a run with blotter and exact fees, to the sum of the two price columns"
VECTORBT = "vectorbt to a run (at least)"
DRIVER = "a user's strategy through the generic driver, to the hand-made loop"
SWEEP = "a sweep of 100 sets, to one run"
SWEEP_MEMORY = "memory of a sweep in MiB"
LIVE = "a live step, to the bare step in a loop"
MANY = "time a point at many, to that of one million"
REAL = "real quotes from Parquet to a result, to polars' scan and sort"
REAL_MEMORY = "memory of real quotes in MiB"

AIMS = {
    RUN: 30.0,
    VECTORBT: 15.0,
    DRIVER: 4.0,
    SWEEP: 30.0,
    SWEEP_MEMORY: 200.0,
    LIVE: 2.0,
    MANY: 1.2,
    REAL: 3.0,
    REAL_MEMORY: 1_024.0,
}


def report(found: dict[str, float]) -> list[str]:
    """Print each aim beside what was found; returns the aims that were missed."""
    print("\naims:")
    missed = []
    for name, aim in AIMS.items():
        if name not in found:
            print(f"  not measured: {name}")
            continue
        least = "at least" in name
        good = found[name] >= aim if least else found[name] <= aim
        missed += [] if good else [name]
        print(f"  {'met   ' if good else 'missed'} {name}: {found[name]:.1f} ({'>=' if least else '<='} {aim:g})")
    return missed
