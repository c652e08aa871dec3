"""The engine against a second one that was written from the rules: the same hash on random small worlds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddstream_server.backtesting.config import BacktestConfig, Execution, FillModel, Sizing
from oddstream_server.backtesting.engine import blotter, conclude, run
from oddstream_server.backtesting.shards import ShardResult, merge, run_shard
from oddstream_server.strategies.registry import ConfiguredStrategy, Registry
from tests.backtesting.reference_engine import reference_hash
from tests.backtesting.worlds import BacktestWorld, a_backtest_world

pytestmark = pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines

REVERSION = Registry().configure("stat.mean_reversion", {"minimum_rows": 8, "minimum_buckets": 3})
SUM = Registry().configure("arb.event_sum")
FLOW = Registry().configure(
    "flow.large_trade",
    {"minimum_prints": 10, "percentile_ppm": 800_000, "ratio_enter_ppm": 200_000, "ratio_exit_ppm": 100_000},
)

sizings = st.one_of(
    st.none(),
    st.builds(Sizing, stake_micros=st.sampled_from([1, 700_000, 3_000_000, 400_000_000])),
    st.builds(Sizing, fraction_ppm=st.sampled_from([1, 50_000, 1_000_000])),
    st.builds(
        Sizing,
        kelly_multiplier_ppm=st.sampled_from([250_000, 1_000_000]),
        kelly_cap_ppm=st.sampled_from([20_000, 500_000]),
    ),
)
executions = st.builds(
    Execution,
    fill_model=st.sampled_from(FillModel),
    latency_us=st.sampled_from([0, 1, 500_000, 60_000_000]),
    fill_on_trigger_quote=st.booleans(),
    maximum_event_cost_micros=st.sampled_from([None, None, 2_000_000]),
)


def a_config(
    world: BacktestWorld,
    sizing: Sizing | None = None,
    execution: Execution | None = None,
    bankroll: int = 10**9,
    strategies: tuple[ConfiguredStrategy, ...] = (REVERSION, SUM, FLOW),
) -> BacktestConfig:
    return BacktestConfig(strategies, world.start_us, world.end_us, bankroll, sizing, execution or Execution())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    instants=st.sampled_from([20, 120, 240]),
    order=st.sampled_from([(REVERSION, SUM, FLOW), (FLOW, SUM, REVERSION), (REVERSION,), (SUM,), (FLOW,)]),
    sizing=sizings,
    execution=executions,
    bankroll=st.sampled_from([10**9, 20_000_000, 1_000_000]),
)
def test_both_engines_find_the_same_result(
    seed: int,
    instants: int,
    order: tuple[ConfiguredStrategy, ...],
    sizing: Sizing | None,
    execution: Execution,
    bankroll: int,
) -> None:
    world = a_backtest_world(seed, instants)
    if sizing is not None and sizing.kelly_multiplier_ppm is not None:
        order = tuple(s for s in order if s is not FLOW) or (REVERSION,)  # Kelly needs a fair value
    config = a_config(world, sizing, execution, bankroll, order)
    expected, reference = reference_hash(config, world)
    for plain in (True, False):
        outcome = run(config, world.universe, [world.shard()], plain=plain)
        assert outcome.input_digest == reference.input_digest()
        assert blotter(outcome.account, outcome.log.intents).tolist() == reference.rows
        assert [(a.name, c.profit_micros, len(c.entries)) for a, c in outcome.accounts.items()] == reference.ladder
        assert outcome.signal_count == reference.signals
        assert outcome.result_hash == expected


@pytest.mark.parametrize("model", FillModel)
def test_the_random_worlds_reach_every_end_of_a_position(model: FillModel) -> None:
    seen: set[int] = set()
    makers: set[int] = set()
    for seed in range(60):
        world = a_backtest_world(seed, 200)
        config = a_config(world, Sizing(stake_micros=3_000_000), Execution(fill_model=model))
        entries = run(config, world.universe, [world.shard()]).account.entries
        seen |= set(entries["exit"].tolist())
        makers |= set(entries["maker"].tolist())
    assert seen == {1, 2, 3, 4, 5}
    assert makers == ({1} if model is FillModel.MAKER_QUEUE else {0})


@pytest.mark.parametrize("seed", range(6))
def test_any_cut_into_shards_and_the_way_through_bytes_give_the_same_hash(seed: int) -> None:
    world = a_backtest_world(seed, 200)
    config = a_config(world, Sizing(stake_micros=3_000_000))
    whole = run(config, world.universe, [world.shard()])
    assert len(whole.account.entries) > 3
    for cut in ([(0, 1, 2), (3,), (4,)], [(3, 4), (0, 1, 2)], [(4,), (0, 1, 2, 3)]):
        parts = [run_shard(config, world.universe, world.shard(markets)).to_bytes() for markets in cut]
        log = merge(world.universe, [ShardResult.from_bytes(part) for part in reversed(parts)])
        assert conclude(config, world.universe, log).result_hash == whole.result_hash


def test_a_shard_that_finds_little_keeps_little_memory() -> None:
    world = a_backtest_world(3, 240)
    part = run_shard(a_config(world, strategies=(REVERSION,)), world.universe, world.shard())
    assert len(part.intents) > 3
    for found in (part.intents, part.offers):
        assert found.base is None or found.base.nbytes < 4 * found.nbytes
