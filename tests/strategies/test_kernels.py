"""Each kernel by itself: its formula against plain arithmetic, its bounds, and what it refuses."""

import math
import statistics
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddstream_server.domain.errors import InvalidArgument
from oddstream_server.domain.signal import Signal
from oddstream_server.strategies.arithmetic import logit_e4
from oddstream_server.strategies.kernel import MISSING, EvidenceField, Kernel, Recomputed, StrategyKind
from oddstream_server.strategies.kinds.event_sum import EVENT_SUM, EventSumParams
from oddstream_server.strategies.kinds.mean_reversion import (
    BUCKET_US,
    BUCKETS,
    MEAN_REVERSION,
    ROWS_A_BUCKET,
    MeanReversionParams,
)
from oddstream_server.strategies.params import Params, param
from tests.strategies.worlds import START_US


def reversion_row(at_us: int, bid: int, ask: int, fee: int = 0) -> list[int]:
    return [at_us, bid, ask, fee, fee, 1_000_000]


def test_mean_reversion_equals_the_formula_in_fractions() -> None:
    kernel = Kernel(MEAN_REVERSION, MeanReversionParams(minimum_rows=10, minimum_buckets=5))
    state = kernel.new_state()
    mids = [(500_000 + 1_000 * ((7 * i) % 11 - 5)) for i in range(30)]
    for i, mid in enumerate(mids):
        out = kernel.step(state, reversion_row(START_US + i * BUCKET_US, mid - 500, mid + 500))
        assert out["side"] == 0
    xs = [int(logit_e4(np.int64(mid))) for mid in mids]
    out = kernel.step(state, reversion_row(START_US + 30 * BUCKET_US, 449_500, 450_500))
    mean, deviation = Fraction(sum(xs), len(xs)), statistics.stdev(xs)
    z = (int(logit_e4(np.int64(450_000))) - mean) / Fraction(deviation)
    assert (out["side"], out["entry"]) == (1, 1)
    assert int(out["z_ppm"]) == pytest.approx(float(-z * 1_000_000), rel=1e-3)
    assert int(out["fair_value_micros"]) == pytest.approx(1e6 / (1 + math.exp(-float(mean) / 10_000)), abs=60)
    assert out["net_edge_micros"] == out["fair_value_micros"] - 450_500
    assert out["window_rows"] == 30


def test_mean_reversion_says_nothing_where_the_way_back_costs_more_than_half_of_it() -> None:
    kernel = Kernel(MEAN_REVERSION, MeanReversionParams(minimum_rows=10, minimum_buckets=5))
    for fee, speaks in ((0, True), (11_000, True), (13_000, False), (MISSING, False)):
        state = kernel.new_state()
        for i in range(30):
            kernel.step(state, reversion_row(START_US + i * BUCKET_US, 500_000 - 1_000 * (i % 3), 500_000))
        out = kernel.step(state, reversion_row(START_US + 30 * BUCKET_US, 449_000, 449_001, fee))
        assert bool(out["side"]) is speaks, fee


def test_the_window_forgets_by_time_not_by_rows() -> None:
    kernel = Kernel(MEAN_REVERSION, MeanReversionParams())
    state = kernel.new_state()
    for i in range(200):
        kernel.step(state, reversion_row(START_US + i * BUCKET_US, 400_000, 410_000))
        record = state[0]
        assert record["rows"] == min(i + 1, BUCKETS)
        assert record["rows"] == record["bucket_rows"].sum()
        assert record["sum_x"] == record["bucket_x"].sum()
        assert record["sum_xx"] == record["bucket_xx"].sum()
        assert record["filled"] == np.count_nonzero(record["bucket_rows"])
    kernel.step(state, reversion_row(START_US + 10_000 * BUCKET_US, 400_000, 410_000))
    assert state[0]["rows"] == 1


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, BUCKET_US, 7 * BUCKET_US, 100 * BUCKET_US]),
            st.sampled_from([1, 250, 5_000, 500_000, 995_000, 999_750, 999_998]),
        ),
        min_size=5,
        max_size=60,
    ),
    st.sampled_from([0, ROWS_A_BUCKET - 1, ROWS_A_BUCKET]),
    st.sampled_from([500_000, 9_000_000]),
)
def test_mean_reversion_stays_within_64_bits_at_the_edges(
    moves: list[tuple[int, int]], heavy: int, z_enter: int
) -> None:
    """numpy's int64 scalars warn when they overflow, and a warning is an error here."""
    kernel = Kernel(
        MEAN_REVERSION,
        MeanReversionParams(
            z_enter_ppm=z_enter, z_full_ppm=10_000_000, z_exit_ppm=400_000, minimum_rows=3, minimum_buckets=1
        ),
    )
    state = kernel.new_state()
    now = START_US
    kernel.step(state, reversion_row(now, 500_000, 500_001))
    if heavy:  # a full hour of a market that ticks a million times a minute at the table's end
        end = 82_937
        record = state[0]
        for slot in range(BUCKETS):
            record["bucket_rows"][slot], record["bucket_x"][slot] = heavy, heavy * end
            record["bucket_xx"][slot] = heavy * end * end
        record["rows"], record["filled"] = BUCKETS * heavy, BUCKETS
        record["sum_x"], record["sum_xx"] = BUCKETS * heavy * end, BUCKETS * heavy * end * end
    for step_us, bid in moves:
        now += step_us
        out = kernel.step(state, reversion_row(now, bid, bid + 1))
        assert 0 <= out["strength_ppm"] <= 1_000_000
        assert 0 <= state[0]["rows"] <= BUCKETS * ROWS_A_BUCKET
        assert (state[0]["bucket_rows"] <= ROWS_A_BUCKET).all()


def group_rows(quotes: list[tuple[int, int]], exclusive: int = 1, exhaustive: int = 1, fee: int = 1_000) -> Any:
    rows = np.zeros(len(quotes), dtype=EVENT_SUM.row_dtype)
    for i, (bid, ask) in enumerate(quotes):
        rows[i] = (START_US, bid, fee, ask, fee, 1_000_000, exclusive, exhaustive)
    return rows


@pytest.mark.parametrize(
    ("quotes", "declared", "side", "edge", "chosen"),
    [
        ([(200_000, 300_000), (300_000, 600_000)], (0, 1), 3, 1_000_000 - 900_000 - 2_000, [1, 1]),
        ([(200_000, 300_000), (300_000, 600_000)], (1, 0), 0, 0, [0, 0]),
        ([(200_000, 300_000), (300_000, 600_000)], (0, 0), 0, 0, [0, 0]),
        ([(200_000, 300_000), (300_000, 699_000)], (1, 1), 0, 0, [0, 0]),
        ([(200_000, 300_000), (300_000, MISSING)], (1, 1), 0, 0, [0, 0]),
        ([(600_000, 700_000), (500_000, 700_000)], (1, 0), 4, 1_100_000 - 1_000_000 - 2_000, [1, 1]),
        ([(600_000, 700_000), (500_000, 700_000)], (0, 1), 0, 0, [0, 0]),
        ([(600_000, 700_000), (500_000, 700_000), (MISSING, MISSING), (900, 1_000)], (1, 1), 4, 98_000, [1, 1, 0, 0]),
        ([(999_000, 999_500), (MISSING, 5_000)], (1, 0), 0, 0, [0, 0]),
    ],
)
def test_event_sum_takes_each_direction_only_where_it_is_declared(
    quotes: list[tuple[int, int]], declared: tuple[int, int], side: int, edge: int, chosen: list[int]
) -> None:
    kernel = Kernel(EVENT_SUM, EventSumParams())
    out, legs = kernel.step_group(kernel.new_state(), group_rows(quotes, *declared))
    assert (out["side"], out["net_edge_micros"], list(legs)) == (side, edge, chosen)


def test_event_sum_refuses_members_whose_fee_is_unknown() -> None:
    kernel = Kernel(EVENT_SUM, EventSumParams())
    out, _ = kernel.step_group(kernel.new_state(), group_rows([(1_000, 2_000), (1_000, 2_000)], fee=MISSING))
    assert out["side"] == 0


@given(st.lists(st.tuples(st.integers(1, 999_999), st.integers(1, 999_999)), min_size=2, max_size=40))
def test_event_sum_equals_plain_arithmetic_and_never_names_a_loss(pairs: list[tuple[int, int]]) -> None:
    quotes = [(min(p), max(p)) for p in pairs]
    kernel = Kernel(EVENT_SUM, EventSumParams())
    out, chosen = kernel.step_group(kernel.new_state(), group_rows(quotes))
    buy = 1_000_000 - sum(ask + 1_000 for _, ask in quotes)
    bids = [bid for bid, _ in quotes if bid > 1_000]
    sell = sum(bid - 1_000 for bid in bids) - 1_000_000 if len(bids) >= 2 else 0
    best = max(buy, sell)
    if best <= 0:
        assert out["side"] == 0
        assert not chosen.any()
    else:
        assert out["net_edge_micros"] == best
        assert out["strength_ppm"] == min(1_000_000, best * 20)


def test_the_driver_clears_the_output_before_each_step() -> None:
    kernel = Kernel(EVENT_SUM, EventSumParams())
    state = kernel.new_state()
    out, _ = kernel.step_group(state, group_rows([(200_000, 300_000), (300_000, 600_000)]))
    assert out["side"] == 3
    out, chosen = kernel.step_group(state, group_rows([(200_000, 900_000), (300_000, 900_000)]))
    assert not any(out.values())
    assert not chosen.any()


def test_a_state_of_another_size_is_refused() -> None:
    kernel = Kernel(EVENT_SUM, EventSumParams())
    with pytest.raises(ValueError, match=r"arb\.event_sum has a state of 8 bytes, got 3"):
        kernel.load_state(b"abc")


@pytest.mark.parametrize(
    ("params", "field", "rule"),
    [
        ({"z_entry_ppm": 1}, "params.z_entry_ppm", "is not a parameter; use one of"),
        ({"z_enter_ppm": 1}, "params.z_enter_ppm", "must be from 500000 to 9000000 ppm, got 1; the default is 2000000"),
        ({"z_enter_ppm": True}, "params.z_enter_ppm", "must be a whole number of ppm"),
        ({"z_enter_ppm": 5_000_000}, "params.z_enter_ppm", "must be below z_full_ppm; lower it or raise z_full_ppm"),
        ({"z_exit_ppm": 3_000_000}, "params.z_exit_ppm", "must be below z_enter_ppm"),
    ],
)
def test_a_wrong_parameter_is_refused_with_its_field_rule_and_way_out(
    params: dict[str, int], field: str, rule: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        MeanReversionParams.from_mapping(params)
    (violation,) = caught.value.violations
    assert violation.field == field
    assert rule in violation.description


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "Mean"}, "must be dotted lower_snake_case"),
        ({"version": 0}, "version must be at least 1"),
        ({"columns": ("receive_time_us", "result")}, r"columns \['result'\] are not allowed"),
        ({"columns": ("receive_time_us", "exclusive")}, r"columns \['exclusive'\] are not allowed"),
        ({"columns": ("bid_price_micros",)}, "must contain receive_time_us"),
        ({"step": None}, "exactly one of step and step_group"),
        ({"state_dtype": np.dtype([("x", np.float64)])}, "int64 fields alone"),
    ],
)
def test_a_kind_that_breaks_the_interface_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        a_kind(**changes)


@pytest.mark.parametrize("name", ["kind", "version"])
def test_a_kind_declares_what_it_writes(name: str) -> None:
    kind = a_kind(evidence=(EvidenceField("seen", "count"),))
    assert kind.out_dtype.names is not None
    assert "seen" in kind.out_dtype.names
    assert kind.row_dtype.names == ("receive_time_us",)
    assert getattr(kind, name) is not None


class OneParam(Params):
    pass


def a_kind(**changes: Any) -> StrategyKind:
    def recompute(signal: Signal) -> Recomputed:
        return Recomputed(None, signal.strength_ppm)

    declared: dict[str, Any] = {
        "kind": "test.kind",
        "version": 1,
        "display_name": "Test",
        "description": "none",
        "formula_source": "none",
        "strength_map": "none",
        "columns": ("receive_time_us",),
        "params_type": OneParam,
        "state_dtype": np.dtype([("x", np.int64)]),
        "warm_up_us": 0,
        "recompute": recompute,
        "step": lambda state, params, row, out: None,
    }
    return StrategyKind(**{**declared, **changes})


def test_a_parameter_says_what_it_means() -> None:
    for kind in (MEAN_REVERSION, EVENT_SUM):
        for name, rule in kind.params_type.rules().items():
            assert rule.minimum <= rule.default <= rule.maximum, name
            assert rule.description
            assert rule.unit in ("micros", "us", "count", "ppm", "bool")
    assert param(1, 0, 2, "count", "x") is not None


def test_what_a_step_writes_has_to_be_declared() -> None:
    def step(state: Any, params: Any, row: Any, out: Any) -> None:
        out["score"] = 1

    kernel = Kernel(replace(MEAN_REVERSION, step=step), MeanReversionParams())
    with pytest.raises(ValueError, match="wrote \\['score'\\], which it must declare"):
        kernel.step(kernel.new_state(), reversion_row(START_US, 499_000, 501_000))
