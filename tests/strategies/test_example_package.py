"""The example strategy package: installed as packages are, found by its entry point, and as good as a built-in kind."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oddstream.v1 import signal_service_pb2 as pb
from oddstream_server.application.operations.strategy_settings import StrategySettings
from oddstream_server.application.ports import Controls
from oddstream_server.backtesting.config import BacktestConfig, Sizing
from oddstream_server.backtesting.engine import run
from oddstream_server.domain.backtest import BacktestSpec, StrategySelection
from oddstream_server.domain.strategy import StrategyOrigin
from oddstream_server.jobs.planning import Planner
from oddstream_server.strategies.registry import ConfiguredStrategy, Registry
from tests.backtesting import test_every_strategy_in_batch as in_batch
from tests.grpc.running_server import World, running
from tests.strategies import test_every_strategy as live
from tests.strategies.worlds import START_US, a_world

PACKAGE = Path(__file__).parents[2] / "clients" / "examples" / "strategy_package"
KIND = "example.breakout"
LOOSE = {"minimum_excess_micros": 5_000, "minimum_buckets": 2, "full_excess_micros": 60_000}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as an installer leaves it."""
    target = tmp_path_factory.mktemp("site")
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "install", "--offline", "--quiet", "--no-deps", "--target", str(target)]
    subprocess.run([*command, "--python", sys.executable, str(PACKAGE)], check=True, timeout=60)
    return target


@pytest.fixture
def registry(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.syspath_prepend(installed)
    found = Registry()
    found.load_entry_points()
    yield found
    sys.modules.pop("oddstream_breakout", None)


@pytest.fixture
def checked(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> ConfiguredStrategy:
    """The generated tests of the built-in kinds are pointed at the package's."""
    chosen = registry.configure(KIND, LOOSE)
    for suite in (live, in_batch):
        monkeypatch.setattr(suite, "strategy", lambda kind: chosen)
    return chosen


def test_an_installed_package_adds_its_kind_by_its_entry_point(registry: Registry, installed: Path) -> None:
    assert KIND in [kind.kind for kind in registry]
    assert registry.configure(KIND).origin is StrategyOrigin.ENTRY_POINT
    assert sys.modules["oddstream_breakout"].__file__ == str(installed / "oddstream_breakout" / "__init__.py")
    without = Registry()
    assert KIND not in [kind.kind for kind in without]


@pytest.mark.parametrize("way", live.WAYS, ids=lambda way: way.__name__)
def test_it_says_the_same_live_replayed_resumed_and_after_failures(checked: ConfiguredStrategy, way: Any) -> None:
    live.test_every_way_to_run_gives_the_bytes_of_the_live_run(KIND, way, 1)


@pytest.mark.parametrize(
    "check",
    [
        live.test_events_up_to_an_instant_depend_on_rows_up_to_it_alone,
        live.test_poisoned_future_rows_leave_earlier_events_alone,
        live.test_each_opportunity_lives_by_the_rules,
        live.test_every_signal_is_computed_again_from_its_evidence,
        live.test_no_intermediate_leaves_64_bits_at_the_largest_inputs,
        in_batch.test_intents_up_to_an_instant_depend_on_rows_up_to_it_alone,
        in_batch.test_poisoned_later_rows_leave_earlier_intents_alone,
    ],
    ids=lambda check: check.__name__.removeprefix("test_"),
)
def test_it_passes_what_every_built_in_kind_passes(checked: ConfiguredStrategy, check: Any) -> None:
    check(KIND)


def test_a_backtest_finds_what_the_live_run_found(checked: ConfiguredStrategy) -> None:
    in_batch.test_batch_finds_what_live_finds(KIND, 1)


def test_the_service_takes_it_for_a_backtest_and_gets_a_result(registry: Registry) -> None:
    world = a_world(2)
    spec = BacktestSpec((StrategySelection(KIND),), START_US, world.ticks[-1].receive_time_us + 1, 1_000_000_000)
    checked = Planner(registry).check_backtest(spec)
    assert {name for name, _ in checked.strategies[0].params} == set(registry.kind(KIND).params_type.rules())
    universe = in_batch.a_universe(world)
    config = BacktestConfig(
        (registry.configure(KIND, LOOSE),), spec.start_us, spec.end_us, 1_000_000_000, Sizing(stake_micros=10_000_000)
    )
    outcome = run(config, universe, [in_batch.a_shard(world, universe)])
    assert outcome.log.counts.created > 5


class NoControls:
    async def controls(self) -> Controls:
        return Controls(1)


async def test_it_is_in_the_list_of_strategies_with_its_formula_and_parameters(registry: Registry) -> None:
    async with running(World(strategies=StrategySettings(registry, NoControls()))) as server:
        request = pb.ListStrategiesRequest(page_size=100)
        listed = (await server.signals.ListStrategies(request, metadata=server.auth)).strategies
    (shown,) = [strategy for strategy in listed if strategy.kind == KIND]
    assert shown.strategy_id == KIND
    assert not shown.enabled
    assert "Donchian" in shown.formula_source
    assert set(shown.params) == set(registry.kind(KIND).params_type.rules())
