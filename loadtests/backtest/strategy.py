"""The strategy that every engine of the benchmark plays: a z score over 60 rows, all in integers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from oddstream_server.domain.signal import Signal
from oddstream_server.domain.strategy import StrategyOrigin
from oddstream_server.strategies.gate import Gate, GateParams
from oddstream_server.strategies.kernel import Kernel, Recomputed, StrategyKind
from oddstream_server.strategies.params import Params, param
from oddstream_server.strategies.registry import ConfiguredStrategy

WINDOW = 60


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
