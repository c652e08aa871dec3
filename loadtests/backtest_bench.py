"""The backtest engine against the bound of its memory, a hand-made loop, vectorbt and hftbacktest: one interleaved run.

    python -m loadtests.backtest_bench     # POINTS=100: a hundred million points at the end; CHECK=1 fails on a miss

One data set: 1,000 binary markets, 1,000 one-minute quotes each in whole cents, a z score over 60 rows, buy at the ask
where z < -2, sell at the bid where z > 0, else settle; Kalshi's fee of 0.07 p (1 - p) rounded up to a cent an order.
Every round measures each contender once, one after another, so that all of them meet the same machine; ratios are of
medians. The strategy is a user's: the engine knows its declaration and its step. The hand-made loop is the same rules
written as one compiled loop without opportunities, latency, sizes, bankroll or ladder: what such a loop costs at least.
"""

import importlib.util
import os
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from loadtests.backtest_real import compare
from oddstream_server.backtesting.acceleration import AVAILABLE
from oddstream_server.backtesting.config import BacktestConfig, Execution, FillModel, Sizing
from oddstream_server.backtesting.engine import conclude
from oddstream_server.backtesting.passes.intents import Terms
from oddstream_server.backtesting.passes.signals import SignalPass
from oddstream_server.backtesting.passes.steps import Steps
from oddstream_server.backtesting.records.columns import BookRows, QuoteRows, Shard, TradeRows
from oddstream_server.backtesting.records.coverage import equity_instants, survey_quotes
from oddstream_server.backtesting.records.universe import RecordedMarket, Universe
from oddstream_server.backtesting.shards import FillAssumption, ShardResult, merge, run_shard
from oddstream_server.backtesting.sweeps import SweepConfig, SweepParameter, judge_set, run_sweep_shard
from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.market import (
    Market,
    MarketState,
    Outcome,
    PriceRange,
    Settlement,
    SettlementState,
    Venue,
)
from oddstream_server.domain.signal import Signal
from oddstream_server.domain.strategy import StrategyOrigin
from oddstream_server.strategies.gate import Gate, GateParams
from oddstream_server.strategies.kernel import Kernel, Recomputed, StrategyKind
from oddstream_server.strategies.params import Params, param
from oddstream_server.strategies.registry import ConfiguredStrategy

MARKETS, ROWS, WINDOW = 1_000, 1_000, 60
START_US = 1_780_000_000_000_000
MINUTE_US = 60_000_000
CENT = 10_000
ROUNDS = 7
CONFIGURED = (FillAssumption.CONFIGURED,)

AIMS = {
    "a run with blotter and exact fees, to the sum of the two price columns": 30.0,
    "vectorbt to a run (at least)": 15.0,
    "a user's strategy through the generic driver, to the hand-made loop": 4.0,
    "a sweep of 100 sets, to one run": 30.0,
    "memory of a sweep in MiB": 200.0,
    "a live step, to the bare step in a loop": 2.0,
    "time a point at many, to that of one million": 1.2,
    "real quotes from Parquet to a result, to polars' scan and sort": 3.0,
    "memory of real quotes in MiB": 1_024.0,
}


@dataclass(frozen=True)
class ZScoreParams(Params):
    z_milli: int = param(2_000, 1, 10_000, "count", "z in thousandths below which it buys")


STATE = np.dtype(
    [(n, np.int64) for n in ("rows", "cursor", "sum", "squares", "held")] + [("ring", np.int64, (WINDOW,))]
)


def step(state: Any, params: Any, row: Any, out: Any) -> None:
    """z of the mid in half cents against the 60 rows before it, all in integers."""
    bid = row["bid_price_micros"]
    x = (bid + row["ask_price_micros"]) // 5_000
    cursor = state["cursor"]
    total = state["sum"]
    squares = state["squares"]
    if state["rows"] < WINDOW:
        state["rows"] += 1
        state["sum"] = total + x
        state["squares"] = squares + x * x
    else:
        old = state["ring"][cursor]
        state["sum"] = total + x - old
        state["squares"] = squares + x * x - old * old
        d = WINDOW * x - total
        held = state["held"]
        z = params["z_milli"]
        if d > 0:
            held = 0
        elif d * d * (WINDOW - 1) * 1_000_000 > WINDOW * (WINDOW * squares - total * total) * z * z:
            held = 1
        state["held"] = held
        if held == 1:
            out["side"] = 1
            out["entry"] = 1
            out["strength_ppm"] = 500_000
            out["net_edge_micros"] = 1
            out["fair_value_micros"] = bid
            out["time_to_live_us"] = 1_000_000_000_000
    state["ring"][cursor] = x
    cursor += 1
    state["cursor"] = 0 if cursor == WINDOW else cursor


def _recompute(signal: Signal) -> Recomputed:
    return Recomputed(signal.net_edge_micros, signal.strength_ppm)


Z_SCORE = StrategyKind(
    kind="bench.z_score",
    version=1,
    display_name="z score",
    description="z of the mid over 60 rows",
    formula_source="Own.",
    strength_map="constant",
    columns=("receive_time_us", "bid_price_micros", "ask_price_micros"),
    params_type=ZScoreParams,
    state_dtype=STATE,
    warm_up_us=0,
    recompute=_recompute,
    step=step,
    has_fair_value=True,
)


def a_strategy() -> ConfiguredStrategy:
    kernel = Kernel(Z_SCORE, ZScoreParams())
    return ConfiguredStrategy("bench.z_score", kernel, Gate(GateParams()), StrategyOrigin.BUILT_IN)


@dataclass(frozen=True)
class World:
    universe: Universe
    shard: Shard
    bid_cents: Any
    """float64 [row, market], for the others."""
    ask_cents: Any
    won: Any
    end_us: int

    def config(self) -> BacktestConfig:
        # the others fill at the signal's quote, so the engine is asked to do what nobody could
        rules = Execution(FillModel.TOUCH, fill_on_trigger_quote=True)
        return BacktestConfig((a_strategy(),), START_US, self.end_us, 10**15, Sizing(stake_micros=50_000_000), rules)


def a_market(number: int) -> Market:
    native = f"M{number:07}"
    return Market(
        market_id=f"simulated:{native}",
        venue=Venue.SIMULATED,
        venue_market_id=native,
        event_id=None,
        title=native,
        outcomes=(Outcome(0, "Yes", native), Outcome(1, "No", native)),
        state=MarketState.OPEN,
        price_ranges=(PriceRange(0, 1_000_000, CENT),),
        minimum_size_micros=1_000_000,
        size_step_micros=1_000_000,
        fee_schedules=(FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, rounding_step_micros=CENT),),
    )


def recorded_markets(count: int, won: Any, end_us: int) -> list[RecordedMarket]:
    return [
        RecordedMarket(
            a_market(i),
            ((0, MarketState.OPEN), (end_us, MarketState.CLOSED)),
            (
                Settlement(
                    SettlementState.FINAL,
                    1_000_000 if won[i % MARKETS] else 0,
                    1,
                    known_time_us=end_us,
                    paid_time_us=end_us,
                ),
            ),
        )
        for i in range(count)
    ]


def a_world() -> World:
    rng = np.random.Generator(np.random.PCG64(1))
    mid = np.clip(50 + np.cumsum(rng.normal(0, 0.6, (ROWS, MARKETS)), axis=0), 3, 97) + rng.normal(
        0, 1, (ROWS, MARKETS)
    )
    bid = np.clip(np.floor(mid - 0.5), 1, 97)
    ask = np.minimum(bid + rng.integers(1, 3, (ROWS, MARKETS)), 99)
    times = START_US + MINUTE_US * np.arange(ROWS, dtype=np.int64)[:, None] + np.arange(MARKETS, dtype=np.int64)
    end_us = START_US + MINUTE_US * ROWS
    won = mid[-1] > 50
    points = ROWS * MARKETS
    quotes = QuoteRows(
        market=np.tile(np.arange(MARKETS, dtype=np.int32), ROWS),
        receive_time_us=times.reshape(-1).copy(),
        ingest_sequence=np.arange(points, dtype=np.int64),
        bid_price_micros=(bid * CENT).reshape(-1).astype(np.int32),
        bid_size_micros=np.full(points, -1, dtype=np.int64),
        ask_price_micros=(ask * CENT).reshape(-1).astype(np.int32),
        ask_size_micros=np.full(points, -1, dtype=np.int64),
        epoch=np.zeros(points, dtype=np.int32),
    )
    universe = Universe(recorded_markets(MARKETS, won, end_us))
    shard = Shard(tuple(range(MARKETS)), quotes, TradeRows.none(), BookRows.none())
    return World(universe, shard, bid, ask, won, end_us)


def hand_made_loop() -> Callable[..., Any]:
    import numba

    @numba.njit(nogil=True, error_model="numpy")
    def loop(market: Any, bid: Any, ask: Any, ring: Any, cells: Any, blotter: Any) -> Any:
        written = 0
        for i in range(len(market)):
            m = market[i]
            x = (bid[i] + ask[i]) // 5_000
            cursor, total, squares = cells[m, 0], cells[m, 1], cells[m, 2]
            if cells[m, 3] >= WINDOW:
                d = WINDOW * x - total
                if d > 0:
                    if cells[m, 4] > 0:
                        price = bid[i] // CENT
                        fee = (7 * 100 * price * (100 - price) + 9_999) // 10_000
                        blotter[written, 0] = i
                        blotter[written, 1] = 100 * (price - cells[m, 4]) - fee - cells[m, 5]
                        written += 1
                        cells[m, 4] = 0
                elif cells[m, 4] == 0 and d * d * (WINDOW - 1) > 4 * WINDOW * (WINDOW * squares - total * total):
                    price = ask[i] // CENT
                    cells[m, 4] = price
                    cells[m, 5] = (7 * 100 * price * (100 - price) + 9_999) // 10_000
                old = ring[m, cursor]
                cells[m, 1] = total + x - old
                cells[m, 2] = squares + x * x - old * old
            else:
                cells[m, 1] = total + x
                cells[m, 2] = squares + x * x
                cells[m, 3] += 1
            ring[m, cursor] = x
            cursor += 1
            cells[m, 0] = 0 if cursor == WINDOW else cursor
        return written

    made: Callable[..., Any] = loop
    return made


def vectorbt_run(world: World) -> Callable[[], int] | None:
    if importlib.util.find_spec("vectorbt") is None:
        print("vectorbt is not installed, so it isn't measured: uv sync --group bench")
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import vectorbt as vbt

    bid, ask = world.bid_cents / 100, world.ask_cents / 100

    def run() -> int:
        mid = (bid + ask) / 2
        sums, squares = np.cumsum(mid, axis=0), np.cumsum(mid * mid, axis=0)
        nothing = np.zeros((1, MARKETS))
        total = sums[WINDOW - 1 : -1] - np.vstack([nothing, sums[: -WINDOW - 1]])
        of_squares = squares[WINDOW - 1 : -1] - np.vstack([nothing, squares[: -WINDOW - 1]])
        mean = total / WINDOW
        z = np.full_like(mid, np.nan)
        z[WINDOW:] = (mid[WINDOW:] - mean) / np.sqrt((of_squares - WINDOW * mean * mean) / (WINDOW - 1))
        entries, exits = z < -2, z > 0
        portfolio = vbt.Portfolio.from_signals(
            mid, entries, exits, price=np.where(entries, ask, bid), size=100.0, init_cash=1e9, accumulate=False
        )
        return int(portfolio.orders.count().sum())

    return run


def hftbacktest_run(world: World) -> Callable[[], int] | None:
    if importlib.util.find_spec("hftbacktest") is None:
        print("hftbacktest is not installed, so it isn't measured: uv sync --group bench")
        return None
    import numba
    from hftbacktest import BUY_EVENT, DEPTH_EVENT, EXCH_EVENT, GTC, LOCAL_EVENT, SELL_EVENT, BacktestAsset
    from hftbacktest import LIMIT as LIMIT_ORDER
    from hftbacktest import HashMapMarketDepthBacktest as Backtest
    from hftbacktest.types import event_dtype

    flags = DEPTH_EVENT | EXCH_EVENT | LOCAL_EVENT

    def feed(market: int) -> Any:
        bid, ask = world.bid_cents[:, market] / 100, world.ask_cents[:, market] / 100
        rows = []
        before = (None, None)
        for r in range(ROWS):
            at = (r + 1) * 60_000_000_000
            for side, price, last in ((BUY_EVENT, bid[r], before[0]), (SELL_EVENT, ask[r], before[1])):
                if last is not None and last != price:
                    rows.append((flags | side, at, at, last, 0.0, 0, 0, 0.0))
                rows.append((flags | side, at, at, price, 1_000.0, 0, 0, 0.0))
            before = (bid[r], ask[r])
        return np.array(rows, dtype=event_dtype)

    @numba.njit
    def play(hbt: Any) -> Any:
        ring = np.zeros(WINDOW)
        seen, orders, held = 0, 0, False
        while hbt.elapse(60_000_000_000) == 0:
            depth = hbt.depth(0)
            x = (depth.best_bid + depth.best_ask) / 2
            if seen >= WINDOW:
                deviation = np.sqrt(np.sum((ring - ring.mean()) ** 2) / (WINDOW - 1))
                z = (x - ring.mean()) / deviation if deviation > 0 else 0.0
                if z < -2 and not held:
                    hbt.submit_buy_order(0, seen, depth.best_ask, 100, GTC, LIMIT_ORDER, False)
                    held, orders = True, orders + 1
                elif z > 0 and held:
                    hbt.submit_sell_order(0, seen, depth.best_bid, 100, GTC, LIMIT_ORDER, False)
                    held, orders = False, orders + 1
            ring[seen % WINDOW] = x
            seen += 1
            hbt.clear_inactive_orders(0)
        return orders

    feeds = [feed(market) for market in range(MARKETS)]

    def run() -> int:
        orders = 0
        for data in feeds:
            asset = (
                BacktestAsset()
                .data(data)
                .linear_asset(1.0)
                .constant_order_latency(0, 0)
                .risk_adverse_queue_model()
                .no_partial_fill_exchange()
                .trading_value_fee_model(0.0, 0.0)
                .tick_size(0.01)
                .lot_size(1.0)
            )
            hbt = Backtest([asset])
            orders += play(hbt)
            hbt.close()
        return orders

    return run


class Rounds:
    """Contenders by name, each measured once a round."""

    def __init__(self, contenders: dict[str, Callable[[], Any]]) -> None:
        self._contenders = contenders
        self.answers = {name: run() for name, run in contenders.items()}  # warm
        self._seconds: dict[str, list[float]] = {name: [] for name in contenders}

    def play(self, rounds: int) -> None:
        for _ in range(rounds):
            for name, run in self._contenders.items():
                begun = time.perf_counter()
                run()
                self._seconds[name].append(time.perf_counter() - begun)

    def median(self, name: str) -> float:
        return statistics.median(self._seconds[name])

    def print(self, bound: str) -> None:
        for name in self._contenders:
            ms, ratio = self.median(name) * 1e3, self.median(name) / self.median(bound)
            print(f"  {name:<62} {ms:10.2f} ms  {ratio:10.1f} x the sum")


def measure(world: World) -> dict[str, float]:
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
    names = list(AIMS)
    found = {
        names[0]: run / rounds.median("numpy.sum of bid and ask"),
        names[2]: rounds.median("generic driver: signals of a user's strategy") / rounds.median("hand-made loop"),
    }
    if others["vectorbt"] is not None:
        found[names[1]] = rounds.median("vectorbt") / run
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
    names = list(AIMS)
    return {names[3]: sweep_s / one_s, names[4]: grown}


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
    return {list(AIMS)[5]: live / bare}


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
    return {list(AIMS)[6]: many / one}


def measure_real() -> dict[str, float]:
    found = compare()
    return {} if found is None else dict(zip(list(AIMS)[7:], found, strict=True))


def main() -> int:
    if not AVAILABLE:
        print("numba is not installed: the engine runs as plain Python, and there is nothing to measure (uv sync)")
        return 1 if os.environ.get("CHECK") == "1" else 0
    world = a_world()
    found = measure(world) | measure_sweep(world) | measure_live()
    found |= measure_many(world, int(os.environ.get("POINTS", "20")))
    found |= measure_real()
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
    for name in missed:
        print(f"MISSED: {name}: {found[name]:.1f}")
    return 1 if missed and os.environ.get("CHECK") == "1" else 0


if __name__ == "__main__":
    sys.exit(main())
