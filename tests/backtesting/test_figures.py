"""Figures against empyrical-reloaded and scikit-learn to 1e-12, and what is undefined."""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from oddstream_server.backtesting.figures import forecasts, returns
from oddstream_server.backtesting.result import figures, summarize
from oddstream_server.backtesting.shards import FillAssumption
from oddstream_server.domain.market import Settlement, SettlementState
from tests.backtesting.scenes import SECOND, Scene, a_recorded, cheap_market, cue, holding
from tests.strategies.worlds import START_US

NOT_HERE = "the oracle group is not installed; `make test-oracles` installs it and runs this"

series = arrays(np.float64, st.integers(2, 60), elements=st.floats(-0.5, 0.5, width=32))


@pytest.fixture(scope="module")
def empyrical() -> Any:
    return pytest.importorskip("empyrical", reason=NOT_HERE)


@pytest.fixture(scope="module")
def sklearn() -> Any:
    return pytest.importorskip("sklearn.metrics", reason=NOT_HERE)


@pytest.fixture(autouse=True)
def quiet_oracles() -> Iterator[None]:
    with warnings.catch_warnings():
        # the oracles divide by 0 where we answer None
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def close(expected: Any) -> Any:
    return pytest.approx(expected, rel=1e-12, abs=1e-12)


def agrees(ours: float | None, theirs: float) -> None:
    if ours is None:
        return
    assert ours == close(theirs)


@pytest.mark.oracle
@settings(deadline=None)
@given(series)
def test_returns_agree_with_empyrical(values: Any) -> None:
    empyrical = pytest.importorskip("empyrical", reason=NOT_HERE)
    agrees(returns.annual_volatility(values), empyrical.annual_volatility(values, annualization=365))
    agrees(returns.sharpe(values), empyrical.sharpe_ratio(values, annualization=365))
    agrees(returns.sortino(values), empyrical.sortino_ratio(values, annualization=365))
    agrees(returns.maximum_drawdown(values), empyrical.max_drawdown(values))
    ours = returns.annual_return(values)
    if ours is not None:
        assert ours == pytest.approx(empyrical.annual_return(values, annualization=365), rel=1e-10, abs=1e-12)


@pytest.mark.oracle
def test_each_figure_is_there_for_an_ordinary_series(empyrical: Any) -> None:
    values = np.array([0.01, -0.02, 0.015, 0.0, 0.03, -0.01])
    for ours, theirs in (
        (returns.annual_volatility(values), empyrical.annual_volatility(values, annualization=365)),
        (returns.sharpe(values), empyrical.sharpe_ratio(values, annualization=365)),
        (returns.sortino(values), empyrical.sortino_ratio(values, annualization=365)),
        (returns.maximum_drawdown(values), empyrical.max_drawdown(values)),
        (returns.annual_return(values), empyrical.annual_return(values, annualization=365)),
    ):
        assert ours == close(theirs)


@pytest.mark.oracle
@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=80))
def test_scores_agree_with_scikit_learn(pairs: list[tuple[float, bool]]) -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason=NOT_HERE)
    probabilities = np.array([p for p, _ in pairs])
    happened = np.array([float(h) for _, h in pairs])
    agrees(forecasts.brier(probabilities, happened), sklearn.brier_score_loss(happened, probabilities, pos_label=1))
    clipped = np.clip(probabilities, 1e-6, 1 - 1e-6)
    agrees(forecasts.log_loss(probabilities, happened), sklearn.log_loss(happened, clipped, labels=[0.0, 1.0]))


def test_what_is_not_defined_is_none() -> None:
    nothing, one, flat = np.array([]), np.array([0.1]), np.zeros(5)
    assert returns.annual_return(nothing) is returns.maximum_drawdown(nothing) is None
    for figure in (returns.sharpe, returns.sortino, returns.annual_volatility, returns.probabilistic_sharpe):
        assert figure(one) is None
    assert returns.sharpe(flat) is returns.sortino(flat) is returns.probabilistic_sharpe(flat) is None
    assert returns.annual_volatility(flat) == returns.maximum_drawdown(flat) == 0.0
    assert forecasts.brier(nothing, nothing) is forecasts.log_loss(nothing, nothing) is None
    assert forecasts.wilson(0, 0) is None
    empty = np.array([], dtype=np.int64)
    assert forecasts.realized_edge(empty, empty, []) is None


def test_a_day_ends_at_midnight_of_utc_and_the_last_one_with_the_range() -> None:
    day = returns.US_A_DAY
    equity = np.array(
        [(day // 2, 999), (day, 110), (day + 1, 7), (2 * day, 121), (2 * day + 5, 242)],
        dtype=[("time_us", np.int64), ("equity_micros", np.int64)],
    )
    found = returns.daily_returns(equity, 100)
    assert found is not None
    assert found.tolist() == close([0.1, 0.1, 1.0])
    equity["equity_micros"][3] = 0
    assert returns.daily_returns(equity, 100) is None


@pytest.mark.oracle
def test_the_probabilistic_sharpe_ratio_of_a_normal_series() -> None:
    values = np.random.Generator(np.random.PCG64(3)).normal(0.001, 0.01, 250)
    ratio, (skewness, kurtosis) = returns.period_sharpe(values), returns.moments(values) or (0.0, 0.0)
    assert ratio is not None
    stats = pytest.importorskip("scipy.stats", reason=NOT_HERE)
    assert skewness == close(stats.skew(values))
    assert kurtosis == close(stats.kurtosis(values, fisher=False))
    spread = math.sqrt(1 - skewness * ratio + (kurtosis - 1) / 4 * ratio**2)
    expected = stats.norm.cdf(ratio * math.sqrt(249) / spread)
    assert returns.probabilistic_sharpe(values) == close(expected)


def test_the_more_trials_the_less_the_best_one_means() -> None:
    rng = np.random.Generator(np.random.PCG64(5))
    trials = [rng.normal(0, 0.01, 250) for _ in range(50)]
    ratios = [r for t in trials if (r := returns.period_sharpe(t)) is not None]
    best = trials[int(np.argmax(ratios))]
    alone = returns.probabilistic_sharpe(best)
    deflated = returns.deflated_sharpe(best, ratios, 50)
    after_many = returns.deflated_sharpe(best, ratios, 50_000)
    assert alone is not None
    assert deflated is not None
    assert after_many is not None
    assert alone > 0.95 > deflated > after_many
    # Bailey and Lopez de Prado 2014 give about 2.25 for ten trials of variance 1 (exact: 1.5746)
    tens = returns.expected_best_sharpe([1.0, -1.0] * 5, 10)
    assert tens == pytest.approx(1.5746 * math.sqrt(10 / 9), rel=1e-3)


def test_wilsons_interval_is_the_published_one() -> None:
    low, high = forecasts.wilson(81, 263) or (0.0, 0.0)
    assert low == pytest.approx(0.2553, abs=5e-5)
    assert high == pytest.approx(0.3662, abs=5e-5)
    low, high = forecasts.wilson(0, 10) or (1.0, 1.0)
    assert low == 0.0
    assert high == pytest.approx(0.2775, abs=5e-5)


def test_calibration_has_fixed_bins_with_counts() -> None:
    bins = forecasts.calibration(np.array([0, 49_999, 50_000, 1_000_000]), np.array([0.0, 1.0, 1.0, 1.0]))
    assert len(bins) == 20
    assert [b.count for b in bins] == [2, 1, *[0] * 16, 0, 1]
    assert bins[0].frequency == 0.5
    assert bins[0].mean_forecast == pytest.approx(0.0249995)
    assert (bins[5].frequency, bins[5].mean_forecast) == (None, None)
    assert (bins[19].start_price_micros, bins[19].end_price_micros) == (950_000, 1_000_000)


def test_trades_of_one_event_widen_the_interval_of_the_edge() -> None:
    profits = np.array([100_000, -50_000] * 20, dtype=np.int64)
    sizes = np.full(40, 1_000_000, dtype=np.int64)
    apart = forecasts.realized_edge(profits, sizes, [f"e{i}" for i in range(40)])
    together = forecasts.realized_edge(profits, sizes, [f"e{i % 2}" for i in range(40)])
    assert apart is not None
    assert together is not None
    assert apart.mean_micros == together.mean_micros == 25_000
    assert apart.low_micros is not None
    assert apart.high_micros is not None
    assert (together.low_micros, together.high_micros) == (-50_000, 100_000)
    assert -50_000 < apart.low_micros < 25_000 < apart.high_micros < 100_000
    assert forecasts.realized_edge(profits, sizes, ["e"] * 40) == forecasts.Edge(25_000, None, None)


def _settled(payout: int | None, void: bool = False) -> list[Settlement]:
    known_us = START_US + 3_000 * SECOND
    return [Settlement(SettlementState.FINAL, payout, 1, known_time_us=known_us, paid_time_us=known_us, void=void)]


def test_a_results_figures_are_those_of_its_trades() -> None:
    markets = [
        a_recorded(cheap_market(0), _settled(1_000_000), 2_000),
        a_recorded(cheap_market(1), _settled(0), 2_000),
        a_recorded(cheap_market(2), _settled(500_000), 2_000),
        a_recorded(cheap_market(3), _settled(None, void=True), 2_000),
    ]
    scene = Scene(markets)
    for number in range(4):
        scene.quote(1, 40, 41, cue=1, number=number).quote(2, 40, 41, cue=1, number=number)
    outcome = scene.run(holding())
    found = figures(outcome)
    price = 0.410001
    assert (found.trade_count, found.void_count) == (4, 1)
    assert found.profit_micros == 24 * (1_000_000 + 500_000) - 3 * 24 * 410_001
    assert (found.win_rate, found.turnover_micros) == (2 / 3, 4 * 24 * 410_001)
    # one that won and one that lost; half a payout and the void are no two-class forecasts
    assert found.brier_crowd == close(((1 - price) ** 2 + price**2) / 2)
    assert found.brier == close((0.4**2 + 0.6**2) / 2)
    assert found.log_loss == close(-(math.log(0.6) + math.log(0.4)) / 2)
    assert found.peak_locked_micros == 4 * 24 * 410_001
    assert found.total_return == found.profit_micros / 100_000_000
    assert found.return_on_locked == close(found.profit_micros / found.peak_locked_micros)
    assert sum(b.count for b in found.calibration) == 2
    result = summarize(outcome, trial_count=7)
    assert result.trial_count == 7
    assert [r.assumption for r in result.fill_ladder] == list(FillAssumption)
    assert result.final_equity_micros == 100_000_000 + found.profit_micros
    assert result.disclaimer_text
    assert result.conventions.notes


def test_a_strategy_without_a_fair_value_has_no_brier_score_of_its_own() -> None:
    scene = Scene([a_recorded(cheap_market(), _settled(1_000_000), 2_000)])
    scene.quote(1, 40, 41, cue=1).quote(2, 40, 41, cue=1)
    found = figures(scene.run(cue("test.blind", edge_kind=True, has_fair_value=False)))
    assert (found.brier, found.log_loss) == (None, None)
    assert found.brier_crowd == close((1 - 0.410001) ** 2)


def test_a_run_without_trades_has_figures_that_say_so() -> None:
    found = figures(Scene([a_recorded()]).quote(1, 40, 41).run())
    assert (found.trade_count, found.profit_micros, found.total_return) == (0, 0, 0.0)
    assert (found.win_rate, found.brier_crowd, found.mean_edge_micros, found.return_on_locked) == (None,) * 4
    assert found.sharpe is None


@pytest.mark.oracle
def test_the_oracles_are_installed_where_they_are_meant_to_be(empyrical: Any, sklearn: Any) -> None:
    assert empyrical.sharpe_ratio
    assert sklearn.brier_score_loss


@pytest.mark.parametrize("events", [2, 7, 300, 2_100])
def test_the_interval_of_the_edge_is_that_of_drawing_whole_events_one_draw_at_a_time(events: int) -> None:
    rng = np.random.default_rng(events)
    clusters = [f"E{k}" for k in (*range(events), *rng.integers(0, events, events).tolist())]
    profits = rng.integers(-(10**8), 10**8, len(clusters))
    sizes = rng.integers(1, 10**8, len(clusters))
    edge = forecasts.realized_edge(profits, sizes, clusters)
    assert edge is not None

    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    profit, size = (np.array([float(v[member == k].sum()) for k in range(len(names))]) for v in (profits, sizes))
    one_by_one = np.random.Generator(np.random.PCG64(0))
    drawn = []
    for _ in range(forecasts.BOOTSTRAP_DRAWS):
        chosen = one_by_one.integers(0, len(names), len(names))
        drawn.append(profit[chosen].sum() / size[chosen].sum() * 1_000_000)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (edge.low_micros, edge.high_micros) == (round(low), round(high))


@pytest.mark.parametrize("count", [2, 37, 1_999])
def test_counting_how_often_a_cluster_is_drawn_adds_up_to_what_drawing_it_does(count: int) -> None:
    rng = np.random.Generator(np.random.PCG64(count))
    totals = rng.integers(-(10**9), 10**12, (count, 2)).astype(np.float64)
    counted = np.concatenate(list(forecasts._drawn_sums(totals)))
    drawn = np.concatenate([totals[draws].sum(axis=1) for draws in forecasts._draws(count)])
    assert counted.shape == (forecasts.BOOTSTRAP_DRAWS, 2)
    assert np.array_equal(counted, drawn)


def test_clusters_may_be_named_or_numbered_in_the_order_of_their_names() -> None:
    names = ["b", "a", "c", "a", "b", "a"]
    earned, sizes = (np.array(values, dtype=np.int64) for values in ([5, -3, 8, 2, 1, 4], [1, 2, 3, 1, 2, 3]))
    numbers = np.array([ord(name) - ord("a") for name in names], dtype=np.int64)
    assert forecasts.realized_edge(earned, sizes, names) == forecasts.realized_edge(earned, sizes, numbers)
