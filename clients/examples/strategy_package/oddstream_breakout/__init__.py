"""example.breakout: the mid leaves the range of the last hour.

high, low = highest and lowest mid of the eleven whole five-minute buckets before the running one. excess = mid - high
(UP) or low - mid (DOWN). Opens where excess >= minimum_excess at a spread of at most maximum_spread, ends where the mid
is back at the middle of the channel. Strength = clip(excess / full_excess).

Computed again from the evidence: excess = max(mid_price - channel_high, channel_low - mid_price); strength =
clip(excess / full_excess).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from oddstream_server.domain.signal import Signal
from oddstream_server.strategies.arithmetic import clip_ppm
from oddstream_server.strategies.kernel import MISSING, EvidenceField, Recomputed, StrategyKind
from oddstream_server.strategies.params import Params, param

BUCKET_US: Final = 300_000_000
BUCKETS: Final = 12

STATE: Final = np.dtype(
    [
        ("bucket", np.int64),
        ("side", np.int64),
        ("rows", np.int64, (BUCKETS,)),
        ("high", np.int64, (BUCKETS,)),
        ("low", np.int64, (BUCKETS,)),
    ]
)


@dataclass(frozen=True)
class BreakoutParams(Params):
    _above: ClassVar[tuple[tuple[str, str], ...]] = (("minimum_excess_micros", "full_excess_micros"),)

    minimum_excess_micros: int = param(10_000, 100, 500_000, "micros", "how far out of the channel one opens")
    full_excess_micros: int = param(50_000, 200, 1_000_000, "micros", "how far out strength is 1")
    minimum_buckets: int = param(6, 1, BUCKETS - 1, "count", "buckets of the channel that must hold a quote")
    maximum_spread_micros: int = param(30_000, 100, 1_000_000, "micros", "widest spread at which one opens")
    time_to_live_us: int = param(900_000_000, 1_000_000, 86_400_000_000, "us", "how long a signal holds")


def step(state: Any, params: Any, row: Any, out: Any) -> None:
    """One quote of one market; see the module's text for the formula."""
    held = state["side"]
    state["side"] = 0
    bid = row["bid_price_micros"]
    ask = row["ask_price_micros"]
    if bid == MISSING or ask == MISSING:
        return
    mid = (bid + ask) // 2
    bucket = max(row["receive_time_us"] // BUCKET_US, state["bucket"])
    for i in range(min(bucket - state["bucket"], BUCKETS)):
        state["rows"][(bucket - i) % BUCKETS] = 0
    state["bucket"] = bucket
    high = 0
    low = 0
    filled = 0
    for i in range(1, BUCKETS):
        slot = (bucket - i) % BUCKETS
        if state["rows"][slot] > 0:
            high = state["high"][slot] if filled == 0 else max(high, state["high"][slot])
            low = state["low"][slot] if filled == 0 else min(low, state["low"][slot])
            filled += 1
    slot = bucket % BUCKETS
    fresh = state["rows"][slot] == 0
    state["high"][slot] = mid if fresh else max(state["high"][slot], mid)
    state["low"][slot] = mid if fresh else min(state["low"][slot], mid)
    state["rows"][slot] += 1
    if filled < params["minimum_buckets"]:
        return
    excess = max(mid - high, low - mid)
    side = 1 if 2 * mid > high + low else 2
    opens = excess >= params["minimum_excess_micros"] and ask - bid <= params["maximum_spread_micros"]
    if not opens and held != side:
        return
    state["side"] = side
    out["side"] = side
    out["entry"] = 1 if opens else 0
    out["strength_ppm"] = clip_ppm(excess * 1_000_000 // params["full_excess_micros"])
    out["time_to_live_us"] = params["time_to_live_us"]
    out["mid_price_micros"] = mid
    out["channel_high_micros"] = high
    out["channel_low_micros"] = low
    out["full_excess_micros"] = params["full_excess_micros"]
    out["bid_price_micros"] = bid
    out["ask_price_micros"] = ask


def recompute(signal: Signal) -> Recomputed:
    """Strength from the evidence, by the formula in the module's text."""
    known = {e.name: e.value for e in signal.evidence}
    mid = known["mid_price_micros"]
    excess = max(mid - known["channel_high_micros"], known["channel_low_micros"] - mid)
    return Recomputed(None, max(0, min(1_000_000, excess * 1_000_000 // known["full_excess_micros"])))


BREAKOUT: Final = StrategyKind(
    kind="example.breakout",
    version=1,
    display_name="Channel breakout",
    description=(
        "high, low = highest and lowest mid of the eleven whole five-minute buckets before the running one. excess = "
        "mid - high (UP) or low - mid (DOWN). Opens where excess >= minimum_excess at a narrow spread, ends where the "
        "mid is back at the middle of the channel. No net edge: the kind tells a direction, not a value."
    ),
    formula_source="Donchian's channel rule (1960s), on mids and with a channel of one hour.",
    strength_map="clip(excess / full_excess)",
    columns=("receive_time_us", "bid_price_micros", "ask_price_micros"),
    params_type=BreakoutParams,
    state_dtype=STATE,
    warm_up_us=BUCKETS * BUCKET_US,
    recompute=recompute,
    evidence=(
        EvidenceField("mid_price_micros", "micros"),
        EvidenceField("channel_high_micros", "micros"),
        EvidenceField("channel_low_micros", "micros"),
        EvidenceField("full_excess_micros", "micros", "params"),
        EvidenceField("bid_price_micros", "micros", "market"),
        EvidenceField("ask_price_micros", "micros", "market"),
    ),
    step=step,
    has_net_edge=False,
    enabled_by_default=False,
)
