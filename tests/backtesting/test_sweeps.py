"""Sweeps: which sets, one result whoever computes them, and what may be concluded."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from oddstream_server.backtesting.config import BacktestConfig, Execution, FillModel, Sizing
from oddstream_server.backtesting.engine import run
from oddstream_server.backtesting.figures.overfitting import overfitting_probability
from oddstream_server.backtesting.shards import ShardResult
from oddstream_server.backtesting.sweeps import (
    SweepConfig,
    SweepParameter,
    WalkForward,
    conclude_sweep,
    judge_set,
    run_sweep,
    run_sweep_shard,
)
from oddstream_server.domain.errors import InvalidArgument
from oddstream_server.strategies.registry import Registry
from tests.backtesting.worlds import MINUTE_US, BacktestWorld, a_backtest_world

REVERSION = Registry().configure("stat.mean_reversion", {"minimum_rows": 8, "minimum_buckets": 3})
PARAMETERS = (
    SweepParameter("z_enter_ppm", (1_200_000, 2_000_000, 3_000_000)),
    SweepParameter("minimum_rows", (6, 12)),
)


def a_base(world: BacktestWorld) -> BacktestConfig:
    rules = Execution(fill_model=FillModel.TOUCH)
    return BacktestConfig((REVERSION,), world.start_us, world.end_us, 10**9, Sizing(stake_micros=3_000_000), rules)


@pytest.fixture(scope="module")
def world() -> BacktestWorld:
    return a_backtest_world(5, 300)


def test_a_grid_is_every_combination_in_order(world: BacktestWorld) -> None:
    config = SweepConfig(a_base(world), PARAMETERS)
    assert len(config.sets()) == 6
    assert config.sets()[1] == {"z_enter_ppm": 1_200_000, "minimum_rows": 12}
    assert config.config_of(2).strategies[0].params.minimum_rows == 12  # type: ignore[attr-defined]  # of the kind


def test_a_random_choice_repeats_no_set_and_depends_on_its_seed_alone(world: BacktestWorld) -> None:
    config = SweepConfig(a_base(world), PARAMETERS, random_count=4, seed=1)
    drawn = config.sets()
    assert len({tuple(s.items()) for s in drawn}) == 4
    assert drawn == SweepConfig(a_base(world), PARAMETERS, random_count=4, seed=1).sets()
    assert drawn != SweepConfig(a_base(world), PARAMETERS, random_count=4, seed=2).sets()
    everything = SweepConfig(a_base(world), PARAMETERS, random_count=6).sets()
    assert sorted(map(str, everything)) == sorted(map(str, SweepConfig(a_base(world), PARAMETERS).sets()))


def _parts(
    config: SweepConfig, world: BacktestWorld, cut: list[tuple[int, ...]]
) -> Iterator[tuple[int, list[ShardResult]]]:
    kept: dict[int, list[bytes]] = {}
    for markets in cut:
        shard = world.shard(markets)
        begun = run_sweep_shard(config, world.universe, shard)
        # a worker that dies after two sets, and one that goes on with those that are missing
        for number, part in (next(begun), next(begun)):
            kept.setdefault(number, []).append(part.to_bytes())
        missing = [n for n in range(1, len(config.sets()) + 1) if len(kept.get(n, [])) <= cut.index(markets)]
        for number, part in run_sweep_shard(config, world.universe, shard, missing, threads=2):
            kept.setdefault(number, []).append(part.to_bytes())
    for number, parts in kept.items():
        yield number, [ShardResult.from_bytes(part) for part in reversed(parts)]


def test_one_worker_two_workers_threads_and_a_resumed_shard_give_one_hash(world: BacktestWorld) -> None:
    config = SweepConfig(a_base(world), PARAMETERS, walk_forward=WalkForward(30 * MINUTE_US, 20 * MINUTE_US))
    whole = run_sweep(config, world.universe, [world.shard()])
    assert any(s.metrics.trade_count for s in whole.sets)
    assert run_sweep(config, world.universe, [world.shard()], threads=2) == whole
    assert run_sweep(config, world.universe, [world.shard()], plain=True) == whole
    judged = [judge_set(config, world.universe, n, p) for n, p in _parts(config, world, [(3,), (0, 1, 2), (4,)])]
    assert conclude_sweep(config, judged[::-1], 0) == whole


def test_a_set_is_the_backtest_with_its_parameters(world: BacktestWorld) -> None:
    config = SweepConfig(a_base(world), PARAMETERS)
    swept = run_sweep(config, world.universe, [world.shard()])
    for number in (1, 6):
        alone = run(config.config_of(number), world.universe, [world.shard()])
        assert swept.sets[number - 1].metrics.profit_micros == alone.account.profit_micros
        assert swept.sets[number - 1].metrics.trade_count == len(alone.account.entries)
    assert swept.trial_count == 6
    assert swept.coverage == alone.log.coverage


def test_walk_forward_judges_what_training_chose(world: BacktestWorld) -> None:
    walk = WalkForward(30 * MINUTE_US, 20 * MINUTE_US)
    config = SweepConfig(a_base(world), PARAMETERS, walk_forward=walk)
    result = run_sweep(config, world.universe, [world.shard()])
    windows = result.walk_forward_windows
    assert len(windows) == len(walk.windows(world.start_us, world.end_us)) > 2
    assert result.walk_forward_profit_micros == sum(w.testing_profit_micros for w in windows)
    for before, after in pairwise(windows):
        assert after.testing_start_us == before.testing_end_us
    chosen = config.config_of(windows[0].chosen_set_number)
    assert set(chosen.instants_us) >= {windows[0].testing_start_us, windows[0].testing_end_us}


def test_sets_without_skill_overfit_about_half_of_the_time_and_one_with_skill_never() -> None:
    rng = np.random.Generator(np.random.PCG64(11))
    noise = rng.normal(0, 1, (400, 20))
    without = overfitting_probability(noise)
    assert without is not None
    assert 0.25 < without < 0.8
    skilled = noise.copy()
    skilled[:, 3] += 0.5
    assert overfitting_probability(skilled) == 0.0


def test_the_best_of_two_that_only_swap_luck_is_always_overfitted() -> None:
    profits = np.array([[1.0, -1.0], [1.1, -1.1], [-1.0, 1.0], [-1.1, 1.1]] * 1)
    probability = overfitting_probability(profits)
    assert probability is not None
    assert probability >= 0.5
    assert overfitting_probability(profits[:, :1]) is None
    assert overfitting_probability(profits[:2]) is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"parameters": ()}, "parameters"),
        ({"parameters": (SweepParameter("nothing", (1,)),)}, "parameters[0].name"),
        ({"parameters": (SweepParameter("minimum_rows", (5, 1)),)}, "parameters[0].values[1]"),
        ({"parameters": (SweepParameter("minimum_rows", (5, 5)),)}, "parameters[0].values"),
        ({"parameters": (SweepParameter("minimum_rows", tuple(range(3, 2_004))),)}, "search"),
        ({"random_count": 7}, "search.random.set_count"),
        ({"walk_forward": WalkForward(10**12, 10**12)}, "walk_forward"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_with_the_field(
    world: BacktestWorld, changes: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        replace(SweepConfig(a_base(world), PARAMETERS), **changes)  # type: ignore[arg-type]  # fields by name
    assert field in [v.field for v in refused.value.violations]


def test_a_combination_that_breaks_a_rule_between_parameters_is_named(world: BacktestWorld) -> None:
    both = (SweepParameter("z_enter_ppm", (2_000_000,)), SweepParameter("z_exit_ppm", (1_000_000, 3_000_000)))
    with pytest.raises(InvalidArgument) as refused:
        SweepConfig(a_base(world), both)
    assert "z_exit_ppm=3000000" in refused.value.violations[0].field


def test_a_missing_set_is_no_sweep(world: BacktestWorld) -> None:
    config = SweepConfig(a_base(world), PARAMETERS)
    ((number, part),) = run_sweep_shard(config, world.universe, world.shard(), [2])
    with pytest.raises(ValueError, match="judged once"):
        conclude_sweep(config, [judge_set(config, world.universe, number, [part])], 0)
