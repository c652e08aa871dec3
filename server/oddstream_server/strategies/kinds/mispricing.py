"""surface.mispricing: a strike ladder's market is out of line with a monotone curve through all of them.

The chance to end above a strike can't grow with it. Of the members that pay above a strike (and have both sides): mid =
(bid + ask) / 2, weight = 10^6 / spread; fit = the non-increasing curve over ascending strikes with the least weighted
squares, by pooling adjacent violators; members that pay below one are taken the same way from high strikes to low.
residual = mid - fit; scale^2 = (spread / 2)^2 + mean square of the other members' residuals; z = residual / scale.
Of the members whose edge after fees is positive, the one of largest |z| is told: against the residual, fair = fit, net
edge UP = fit - ask - ask_fee, DOWN = bid - fit - bid_fee. It opens where |z| >= z_enter with at least minimum_members,
and stays open while |z| >= z_exit. Strength = clip((|z| - z_enter) / (z_full - z_enter)).

Computed again from the evidence: net edge = fair_value - ask_price - ask_fee or bid_price - fair_value - bid_fee;
z = 1000 x |residual| x 10^6 / scale_milli; strength as above.

Bounds: weights are at most 10^6, so the sums of a block of a thousand members stay below 10^15.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from oddstream_server.domain.signal import Direction, Signal
from oddstream_server.strategies.arithmetic import clip_ppm, integer_square_root
from oddstream_server.strategies.kernel import MISSING, EvidenceField, Grouping, Recomputed, StrategyKind
from oddstream_server.strategies.params import Params, param

FAR: Final = 2**62

STATE: Final = np.dtype([("side", np.int64), ("strike", np.int64)])


@dataclass(frozen=True)
class MispricingParams(Params):
    _above: ClassVar[tuple[tuple[str, str], ...]] = (("z_exit_ppm", "z_enter_ppm"), ("z_enter_ppm", "z_full_ppm"))

    z_enter_ppm: int = param(1_500_000, 500_000, 9_000_000, "ppm", "|z| from which an opportunity opens")
    z_full_ppm: int = param(4_000_000, 600_000, 10_000_000, "ppm", "|z| from which the strength is 1")
    z_exit_ppm: int = param(1_000_000, 1, 8_000_000, "ppm", "|z| below which the opportunity ends")
    minimum_members: int = param(4, 3, 1_000, "count", "members that the curve must go through")
    minimum_edge_micros: int = param(5_000, 1, 1_000_000, "micros", "least edge after fees from which one opens")
    time_to_live_us: int = param(60_000_000, 100_000, 3_600_000_000, "us", "how long a signal holds")


def fit_non_increasing(values: Any, weights: Any, count: Any, fitted: Any) -> None:
    """Weighted isotonic regression by pooling adjacent violators; values of a block are divided rounding down."""
    sums = np.empty(count, dtype=np.int64)
    totals = np.empty(count, dtype=np.int64)
    lengths = np.empty(count, dtype=np.int64)
    blocks = 0
    for i in range(count):
        sums[blocks] = values[i] * weights[i]
        totals[blocks] = weights[i]
        lengths[blocks] = 1
        blocks += 1
        while blocks > 1 and sums[blocks - 2] // totals[blocks - 2] < sums[blocks - 1] // totals[blocks - 1]:
            sums[blocks - 2] += sums[blocks - 1]
            totals[blocks - 2] += totals[blocks - 1]
            lengths[blocks - 2] += lengths[blocks - 1]
            blocks -= 1
    at = 0
    for block in range(blocks):
        for _ in range(lengths[block]):
            fitted[at] = sums[block] // totals[block]
            at += 1


def step_group(state: Any, params: Any, rows: Any, out: Any, chosen: Any) -> None:
    """One look at all members of an event as of one instant; see the module's text for the formula."""
    held_side = state["side"]
    held_strike = state["strike"]
    state["side"] = 0
    members = len(rows)
    keys = np.empty(members, dtype=np.int64)
    best = -1
    best_z = params["z_exit_ppm"] - 1
    best_side = 0
    best_edge = 0
    best_fit = 0
    best_residual = 0
    best_scale = 1
    best_count = 0
    for above in range(2):
        usable = 0
        for i in range(members):
            kind = rows[i]["strike_kind"]
            keys[i] = FAR
            if rows[i]["bid_price_micros"] != MISSING and rows[i]["ask_price_micros"] != MISSING:
                if above == 1 and (kind == 1 or kind == 2):
                    keys[i] = rows[i]["strike_floor_micros"]
                    usable += 1
                elif above == 0 and (kind == 3 or kind == 4):
                    keys[i] = -rows[i]["strike_cap_micros"]
                    usable += 1
        if usable < params["minimum_members"]:
            continue
        order = np.argsort(keys, kind="mergesort")
        mids = np.empty(usable, dtype=np.int64)
        weights = np.empty(usable, dtype=np.int64)
        fitted = np.empty(usable, dtype=np.int64)
        for place in range(usable):
            row = rows[order[place]]
            mids[place] = (row["bid_price_micros"] + row["ask_price_micros"]) // 2
            spread = max(row["ask_price_micros"] - row["bid_price_micros"], 1)
            weights[place] = max(1_000_000 // spread, 1)
        fit_non_increasing(mids, weights, usable, fitted)
        squares = 0
        for place in range(usable):
            squares += (mids[place] - fitted[place]) * (mids[place] - fitted[place])
        if squares == 0:
            continue
        for place in range(usable):
            residual = mids[place] - fitted[place]
            if residual == 0:
                continue
            row = rows[order[place]]
            half = (row["ask_price_micros"] - row["bid_price_micros"]) // 2
            others = (squares - residual * residual) // (usable - 1)
            scale = max(integer_square_root((half * half + others) * 1_000_000), 1)
            z = abs(residual) * 1_000_000_000 // scale
            if residual < 0 and row["ask_fee_micros"] != MISSING:
                side = 1
                edge = fitted[place] - row["ask_price_micros"] - row["ask_fee_micros"]
            elif residual > 0 and row["bid_fee_micros"] != MISSING:
                side = 2
                edge = row["bid_price_micros"] - fitted[place] - row["bid_fee_micros"]
            else:
                continue
            if edge > 0 and z > best_z:
                best = order[place]
                best_z = z
                best_side = side
                best_edge = edge
                best_fit = fitted[place]
                best_residual = residual
                best_scale = scale
                best_count = usable
    if best < 0:
        return
    row = rows[best]
    strike = row["strike_floor_micros"] if row["strike_kind"] < 3 else -row["strike_cap_micros"]
    opens = best_z >= params["z_enter_ppm"] and best_edge >= params["minimum_edge_micros"]
    if not opens and (held_side != best_side or held_strike != strike):
        return
    state["side"] = best_side
    state["strike"] = strike
    chosen[best] = 1
    out["side"] = best_side
    out["entry"] = 1 if opens else 0
    out["strength_ppm"] = clip_ppm(
        (best_z - params["z_enter_ppm"]) * 1_000_000 // (params["z_full_ppm"] - params["z_enter_ppm"])
    )
    out["net_edge_micros"] = best_edge
    out["fair_value_micros"] = best_fit
    out["time_to_live_us"] = params["time_to_live_us"]
    out["residual_micros"] = best_residual
    out["scale_milli"] = best_scale
    out["members"] = best_count
    out["z_enter_ppm"] = params["z_enter_ppm"]
    out["z_full_ppm"] = params["z_full_ppm"]


def recompute(signal: Signal) -> Recomputed:
    """Net edge and strength from the evidence, by the formula in the module's text."""
    known = {e.name: e.value for e in signal.evidence}
    fair = signal.fair_value_micros
    assert fair is not None
    if signal.direction is Direction.UP:
        edge = fair - known["ask_price_micros"] - known["ask_fee_micros"]
    else:
        edge = known["bid_price_micros"] - fair - known["bid_fee_micros"]
    z = abs(known["residual_micros"]) * 1_000_000_000 // known["scale_milli"]
    span = known["z_full_ppm"] - known["z_enter_ppm"]
    return Recomputed(edge, max(0, min(1_000_000, (z - known["z_enter_ppm"]) * 1_000_000 // span)))


MISPRICING: Final = StrategyKind(
    kind="surface.mispricing",
    version=1,
    display_name="Ladder out of line",
    description=(
        "fit = non-increasing curve of least weighted squares through the mids of a strike ladder (weight 10^6 / "
        "spread); residual = mid - fit; scale = square root of (spread / 2)^2 + mean square of the others' residuals, "
        "in thousandths of a micro; z = residual / scale. The member of largest |z| is told against its residual, "
        "fair = fit. UP: net edge = fair_value - ask_price - ask_fee. DOWN: net edge = bid_price - fair_value - "
        "bid_fee."
    ),
    formula_source="Isotonic regression by pooling adjacent violators: Ayer, Brunk, Ewing, Reid and Silverman (1955).",
    strength_map="clip((|z| - z_enter) / (z_full - z_enter))",
    columns=(
        "receive_time_us",
        "bid_price_micros",
        "bid_fee_micros",
        "ask_price_micros",
        "ask_fee_micros",
        "payout_micros",
        "strike_kind",
        "strike_floor_micros",
        "strike_cap_micros",
    ),
    params_type=MispricingParams,
    state_dtype=STATE,
    warm_up_us=0,
    recompute=recompute,
    evidence=(
        EvidenceField("residual_micros", "micros"),
        EvidenceField("scale_milli", "count"),
        EvidenceField("members", "count"),
        EvidenceField("z_enter_ppm", "ppm", "params"),
        EvidenceField("z_full_ppm", "ppm", "params"),
    ),
    step_group=step_group,
    edge_kind=True,
    has_fair_value=True,
    grouping=Grouping.LADDER,
)
