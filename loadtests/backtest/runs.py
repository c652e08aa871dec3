"""A run, a sweep, a live step and many points, measured."""

import os
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from loadtests.backtest.aims import DRIVER, LIVE, MANY, RUN, SWEEP, SWEEP_MEMORY, VECTORBT
from loadtests.backtest.others import hand_made_loop, hftbacktest_run, vectorbt_run
from loadtests.backtest.rounds import Rounds
from loadtests.backtest.strategy import STATE, WINDOW, Z_SCORE, a_strategy, step
from loadtests.backtest.world import CENT, MARKETS, START_US, World, recorded_markets
from oddstream_server.backtesting.engine import conclude
from oddstream_server.backtesting.passes.intents import Terms
from oddstream_server.backtesting.passes.signals import SignalPass
from oddstream_server.backtesting.passes.steps import Steps
from oddstream_server.backtesting.records.columns import BookRows, Shard, TradeRows
from oddstream_server.backtesting.records.coverage import equity_instants, survey_quotes
from oddstream_server.backtesting.records.universe import Universe
from oddstream_server.backtesting.shards import FillAssumption, ShardResult, merge, run_shard
from oddstream_server.backtesting.sweeps import SweepConfig, SweepParameter, judge_set, run_sweep_shard

ROUNDS = 7
CONFIGURED = (FillAssumption.CONFIGURED,)


def measure_run(world: World) -> dict[str, float]:
    quotes, config, universe, shard = world.shard.quotes, world.config(), world.universe, world.shard
    instants = equity_instants(START_US, world.end_us)
    survey = survey_quotes(quotes, shard.markets, universe, instants, START_US, world.end_us)
    shared = (survey, shard.digests(universe.instrument_of))
    terms = Terms(universe)
    steps = Steps.of_quotes(quotes)
    loop = hand_made_loop()

    def run_once(assumptions: Any) -> Any:
        part = run_shard(config, universe, shard, assumptions=assumptions, shared=shared)
        return conclude(config, universe, merge(universe, [part]), assumptions=assumptions)

    halves = [tuple(range(MARKETS // 2)), tuple(range(MARKETS // 2, MARKETS))]
    cut = [Shard(m, quotes.taken(np.isin(quotes.market, m)), TradeRows.none(), BookRows.none()) for m in halves]
    cut_shared = [
        (survey_quotes(c.quotes, c.markets, universe, instants, START_US, world.end_us), c.digests()) for c in cut
    ]

    def on_two_threads() -> Any:
        with ThreadPoolExecutor(2) as pool:
            parts = list(
                pool.map(
                    lambda k: run_shard(config, universe, cut[k], assumptions=CONFIGURED, shared=cut_shared[k]), (0, 1)
                )
            )
        return conclude(config, universe, merge(universe, parts), assumptions=CONFIGURED)

    contenders: dict[str, Callable[[], Any]] = {
        "numpy.sum of bid and ask": lambda: quotes.bid_price_micros.sum() + quotes.ask_price_micros.sum(),
        "hand-made loop": lambda: loop(
            quotes.market,
            quotes.bid_price_micros,
            quotes.ask_price_micros,
            np.zeros((MARKETS, WINDOW), dtype=np.int64),
            np.zeros((MARKETS, 8), dtype=np.int64),
            np.zeros((100_000, 2), dtype=np.int64),
        ),
        "generic driver: signals of a user's strategy": lambda: SignalPass(a_strategy(), 0, terms).run(steps),
        "run: signals, fills, bankroll, exact fees, blotter, hash": lambda: run_once(CONFIGURED),
        "the same on two threads": lambda: on_two_threads(),
        "run with the fill ladder": lambda: run_once(tuple(FillAssumption)),
    }
    others = {"vectorbt": vectorbt_run(world), "hftbacktest": hftbacktest_run(world)}
    contenders |= {name: run for name, run in others.items() if run is not None}
    rounds = Rounds(contenders)
    rounds.play(ROUNDS)
    print(f"\n1,000 markets x 1,000 quotes, {ROUNDS} rounds, medians:")
    rounds.print("numpy.sum of bid and ask")
    outcome = rounds.answers["run with the fill ladder"]
    print(f"  {len(outcome.account.entries):,} trades; the ladder:")
    for assumption, account in outcome.accounts.items():
        print(f"    {assumption.name:<24} {account.profit_micros / 1e6:>14,.2f} USD")
    assert (
        rounds.answers["the same on two threads"].result_hash
        == rounds.answers["run: signals, fills, bankroll, exact fees, blotter, hash"].result_hash
    )
    run = rounds.median("run: signals, fills, bankroll, exact fees, blotter, hash")
    found = {
        RUN: run / rounds.median("numpy.sum of bid and ask"),
        DRIVER: rounds.median("generic driver: signals of a user's strategy") / rounds.median("hand-made loop"),
    }
    if others["vectorbt"] is not None:
        found[VECTORBT] = rounds.median("vectorbt") / run
    return found


def measure_sweep(world: World) -> dict[str, float]:
    config = SweepConfig(world.config(), (SweepParameter("z_milli", tuple(range(1_500, 2_500, 10))),))
    base = config.config_of(1)

    def one() -> None:
        part = run_shard(base, world.universe, world.shard, assumptions=CONFIGURED)
        conclude(base, world.universe, merge(world.universe, [part]), assumptions=CONFIGURED)

    def sweep() -> None:
        for number, part in run_sweep_shard(config, world.universe, world.shard, threads=os.cpu_count() or 1):
            judge_set(config, world.universe, number, [part])

    one()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds: dict[str, list[float]] = {"one": [], "sweep": []}
    for _ in range(3):
        for name, run in (("one", one), ("sweep", sweep)):
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    one_s, sweep_s = (statistics.median(seconds[name]) for name in ("one", "sweep"))
    print(f"\na sweep of 100 sets: {sweep_s * 1e3:,.0f} ms, {sweep_s / one_s:.1f} x one run; {grown:,.0f} MiB more")
    return {SWEEP: sweep_s / one_s, SWEEP_MEMORY: grown}


def measure_live() -> dict[str, float]:
    """The step as the pipeline calls it, and the same function on records that are there already."""
    strategy = a_strategy()
    kernel, state = strategy.kernel, strategy.kernel.new_state()
    rows = [(START_US + i, 400_000 + i % 7 * CENT, 410_000 + i % 7 * CENT) for i in range(2_000)]
    records = np.array(rows, dtype=Z_SCORE.row_dtype)
    out = np.zeros(1, dtype=Z_SCORE.out_dtype)
    params = strategy.params.record()
    seconds: dict[str, list[float]] = {"live": [], "bare": []}
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for row in rows:
            kernel.step(state, row)
        seconds["live"].append(time.perf_counter() - begun)
        bare_state, begun = np.zeros(1, dtype=STATE)[0], time.perf_counter()
        for record in records:
            step(bare_state, params, record, out[0])
        seconds["bare"].append(time.perf_counter() - begun)
    live, bare = (statistics.median(seconds[name]) / len(rows) for name in ("live", "bare"))
    print(f"\na live step: {live * 1e6:.2f} us, {live / bare:.2f} x the bare step ({bare * 1e6:.2f} us)")
    return {LIVE: live / bare}


def measure_many(world: World, millions: int) -> dict[str, float]:
    """The same shard over and over, each time as other markets of one universe and one bankroll."""

    def time_a_point(count: int) -> float:
        universe = Universe(recorded_markets(MARKETS * count, world.won, world.end_us))
        quotes, config = world.shard.quotes, world.config()
        parts: list[ShardResult] = []
        seconds = 0.0
        for k in range(count):
            moved = replace(
                quotes, market=quotes.market + MARKETS * k, ingest_sequence=quotes.ingest_sequence + len(quotes) * k
            )
            shard = Shard(tuple(range(MARKETS * k, MARKETS * (k + 1))), moved, TradeRows.none(), BookRows.none())
            begun = time.perf_counter()
            parts.append(run_shard(config, universe, shard, assumptions=CONFIGURED))
            seconds += time.perf_counter() - begun
        begun = time.perf_counter()
        conclude(config, universe, merge(universe, parts), assumptions=CONFIGURED)
        return (seconds + time.perf_counter() - begun) / (count * len(quotes))

    time_a_point(1)
    one = statistics.median(time_a_point(1) for _ in range(5))
    many = time_a_point(millions)
    print(f"\n{millions} million points: {many * 1e9:.1f} ns a point, {many / one:.2f} x that of one million")
    return {MANY: many / one}
