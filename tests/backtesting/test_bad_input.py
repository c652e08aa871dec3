"""What a backtest refuses, with the field, the rule and the way out."""

from typing import Any

import numpy as np
import pytest

from oddstream_server.backtesting.config import BacktestConfig, Execution, Sizing
from oddstream_server.backtesting.records.columns import QuoteRows
from oddstream_server.backtesting.records.universe import RecordedMarket, Universe
from oddstream_server.backtesting.shards import StrategyFailed, merge, run_shard
from oddstream_server.domain.errors import InvalidArgument
from oddstream_server.domain.market import MarketState, Settlement, SettlementState
from tests.backtesting.scenes import END_US, Scene, a_recorded, cheap_market, cue
from tests.backtesting.worlds import a_backtest_world
from tests.strategies.worlds import START_US


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({}, "sizing"),
        ({"stake_micros": 1, "fraction_ppm": 1}, "sizing"),
        ({"stake_micros": 0}, "sizing.stake_micros"),
        ({"fraction_ppm": 1_000_001}, "sizing.fraction_ppm"),
        ({"kelly_multiplier_ppm": 5, "kelly_cap_ppm": 0}, "sizing.kelly_cap_ppm"),
    ],
)
def test_a_sizing_has_one_rule_within_bounds(values: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Sizing(**values)
    assert field in [v.field for v in refused.value.violations]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"latency_us": -1}, "execution.latency"),
        ({"latency_us": 60_000_001}, "execution.latency"),
        ({"maximum_event_cost_micros": 0}, "execution.maximum_event_cost_micros"),
    ],
)
def test_an_execution_stays_within_bounds(values: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Execution(**values)  # type: ignore[arg-type]  # fields by name
    assert refused.value.violations[0].field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"strategies": ()}, "strategies"),
        ({"strategies": (cue(), cue())}, "strategies"),
        ({"start_us": END_US}, "range"),
        ({"starting_bankroll_micros": 0}, "starting_bankroll_micros"),
        ({"strategies": (cue(has_fair_value=False),), "sizing": Sizing(kelly_multiplier_ppm=1)}, "sizing.capped_kelly"),
    ],
)
def test_a_config_names_the_field_that_breaks_its_rule(changes: dict[str, Any], field: str) -> None:
    values: dict[str, Any] = {"strategies": (cue(),), "start_us": START_US, "end_us": END_US}
    with pytest.raises(InvalidArgument) as refused:
        BacktestConfig(**{**values, "starting_bankroll_micros": 1, **changes})
    assert field in [v.field for v in refused.value.violations]


def test_an_unknown_market_is_named() -> None:
    with pytest.raises(InvalidArgument, match="kalshi:M9"):
        Universe([a_recorded()]).index_of("kalshi:M9")


def test_the_same_market_twice_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="twice"):
        Universe([a_recorded(), a_recorded()])


def test_a_settlement_without_its_known_time_is_refused() -> None:
    untold = Settlement(SettlementState.FINAL, 0, 1)
    with pytest.raises(InvalidArgument, match="known time"):
        Universe([RecordedMarket(cheap_market(), ((0, MarketState.OPEN),), (untold,))])


def test_a_payout_beyond_the_integers_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="10 USD"):
        Universe([a_recorded(cheap_market(payout_micros=10_000_001))])


@pytest.mark.parametrize("sequences", [[2, 1], [1, 1]])
def test_rows_out_of_order_or_equal_are_refused(sequences: list[int]) -> None:
    narrow, wide = np.zeros(2, dtype=np.int32), np.zeros(2, dtype=np.int64)
    with pytest.raises(InvalidArgument, match="must ascend"):
        QuoteRows(narrow, wide, np.array(sequences, dtype=np.int64), narrow, wide, narrow, wide, narrow)


def test_a_column_of_another_type_is_refused() -> None:
    narrow, wide = np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.int64)
    with pytest.raises(ValueError, match="bid_price_micros must be int32"):
        QuoteRows(narrow, wide, wide, wide, wide, narrow, wide, narrow)  # type: ignore[arg-type]  # the fault meant


def _divides_by_zero(state: Any, params: Any, row: Any, out: Any) -> None:
    state["rows"] = row["ask_price_micros"] // (row["ask_price_micros"] % 10)


def test_a_strategy_that_raises_fails_the_run_and_is_named() -> None:
    scene = Scene([a_recorded()]).quote(1, 40, 41, cue=1).quote(2, 40, 41)
    with pytest.raises(StrategyFailed, match=r"test\.broken raised ZeroDivisionError") as failed:
        scene.run(cue("test.broken", step=_divides_by_zero))
    assert failed.value.metadata == {"kind": "test.broken"}


def _takes_more_than_there_is(state: Any, params: Any, row: Any, out: Any) -> None:
    raise MemoryError


def test_a_strategy_that_runs_out_of_memory_is_not_taken_for_one_that_raises() -> None:
    scene = Scene([a_recorded()]).quote(1, 40, 41, cue=1).quote(2, 40, 41)
    with pytest.raises(MemoryError):
        scene.run(cue("test.hungry", step=_takes_more_than_there_is))


def test_two_shards_with_one_market_do_not_merge() -> None:
    world = a_backtest_world(1)
    config = BacktestConfig((cue(),), world.start_us, world.end_us, 10**9)
    parts = [run_shard(config, world.universe, world.shard(markets)) for markets in ((0, 1, 2), (2, 3))]
    with pytest.raises(ValueError, match="same market"):
        merge(world.universe, parts)


def test_shards_hold_whole_events_and_about_so_many_rows() -> None:
    world = a_backtest_world(1)
    assert world.universe.shards([10, 10, 10, 5, 5], 12) == [(0, 1, 2), (3, 4)]
    assert world.universe.shards([10, 10, 10, 5, 5], 9) == [(0, 1, 2), (3,), (4,)]
    assert world.universe.shards([1, 1, 1, 1, 1], 100) == [(0, 1, 2, 3, 4)]
