"""calib.longshot: markets at this price, of this category and this long before their end, came out otherwise.

q = calibrated price: what outcome 0 paid on average in settled markets whose mid lay in the same band, of the same
category and the same time before the scheduled close, drawn towards the price where there are few of them
(:mod:`oddstream_server.strategies.fitting` has the fit). The table was fitted before the row, on markets that had
settled before the fit. Net edge UP = q - ask - ask_fee, DOWN = bid - q - bid_fee; the larger one counts, and an
opportunity opens where it is at least minimum_edge, and stays open while it is positive. Strength = clip(net edge / 5
cents).

Computed again from the evidence: net edge = fair_value - ask_price - ask_fee (UP) or bid_price - fair_value - bid_fee
(DOWN); strength = clip(20 x net edge in ppm).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from oddstream_server.domain.signal import Signal
from oddstream_server.strategies.arithmetic import clip_ppm
from oddstream_server.strategies.kernel import MISSING, EvidenceField, Recomputed, StrategyKind
from oddstream_server.strategies.params import Params, param
from oddstream_server.strategies.valuation import FULL_STRENGTH_MICROS, VALUE_EVIDENCE, recompute_value, tell_value

STATE: Final = np.dtype([("side", np.int64)])


@dataclass(frozen=True)
class LongshotParams(Params):
    minimum_edge_micros: int = param(10_000, 1, 1_000_000, "micros", "least edge after fees from which one opens")
    minimum_count: int = param(100, 10, 10_000_000, "count", "settled markets that the value must rest on")
    time_to_live_us: int = param(3_600_000_000, 1_000_000, 86_400_000_000, "us", "how long a signal holds")


def step(state: Any, params: Any, row: Any, out: Any) -> None:
    """One quote of one market; see the module's text for the formula."""
    held = state["side"]
    state["side"] = 0
    fair = row["calibrated_price_micros"]
    if fair == MISSING or row["calibration_fit_time_us"] >= row["receive_time_us"]:
        return
    if row["calibration_count"] < params["minimum_count"]:
        return
    side = tell_value(row, out, fair, held, params["minimum_edge_micros"])
    if side == 0:
        return
    state["side"] = side
    out["strength_ppm"] = clip_ppm(out["net_edge_micros"] * 1_000_000 // FULL_STRENGTH_MICROS)
    out["time_to_live_us"] = params["time_to_live_us"]
    out["calibration_count"] = row["calibration_count"]
    out["calibration_fit_time_us"] = row["calibration_fit_time_us"]


def recompute(signal: Signal) -> Recomputed:
    """Net edge and strength from the evidence, by the formula in the module's text."""
    return recompute_value(signal)


LONGSHOT: Final = StrategyKind(
    kind="calib.longshot",
    version=1,
    display_name="Favourite and longshot calibration",
    description=(
        "fair = what outcome 0 paid on average in settled markets of the same price band, category and time to the "
        "end, drawn towards the price where they are few; fitted before the row. UP: net edge = fair_value - "
        "ask_price - ask_fee. DOWN: net edge = bid_price - fair_value - bid_fee. Opens from minimum_edge on, ends "
        "where the edge does."
    ),
    formula_source="Own table; the favourite-longshot bias of Griffith (1949) and Ali (1977).",
    strength_map="clip(net_edge / 5 cents)",
    columns=(
        "receive_time_us",
        "bid_price_micros",
        "ask_price_micros",
        "bid_fee_micros",
        "ask_fee_micros",
        "calibrated_price_micros",
        "calibration_count",
        "calibration_fit_time_us",
    ),
    params_type=LongshotParams,
    state_dtype=STATE,
    warm_up_us=0,
    recompute=recompute,
    evidence=(
        *VALUE_EVIDENCE,
        EvidenceField("calibration_count", "count", "fitted"),
        EvidenceField("calibration_fit_time_us", "us", "fitted"),
    ),
    step=step,
    edge_kind=True,
    has_fair_value=True,
    enabled_by_default=False,
)
