"""flow.large_trade: prints of a size that is rare in this market took one side, and more than the book shows.

A print is large where its notional (price x size of the outcome that the taker bought) is above the 99.5th percentile
of the market's earlier prints. The percentile comes from a histogram in the state with four bins an octave of the
notional: the lower end of the bin in which 99.5 % of the prints lie at or below. net = sum over the last minute
(twelve buckets of five seconds) of the large prints' notional, outcome 0 bought less outcome 1 bought. depth =
notional at the touch of the side that they take: ask price x ask size where net > 0, (payout - bid) x bid size where
net < 0. ratio = |net| / depth. An opportunity opens on a large print with ratio >= ratio_enter after at least
minimum_prints, and stays open while ratio >= ratio_exit. Direction: the side bought. Strength = clip((ratio -
ratio_enter) / (ratio_full - ratio_enter)). No net edge. Block trades and prints whose taker is unknown stay out.

Computed again from the evidence: ratio = |net| / depth in millionths, both in whole cents; strength as above.

Bounds: a size counts up to four million contracts, so a notional stays below 4.1e18; the sums count whole cents.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from oddstream_server.domain.signal import Signal
from oddstream_server.strategies.arithmetic import clip_ppm
from oddstream_server.strategies.kernel import MISSING, EvidenceField, Recomputed, StrategyKind
from oddstream_server.strategies.params import Params, param

BUCKET_US: Final = 5_000_000
BUCKETS: Final = 12
BINS: Final = 160
LARGEST_SIZE: Final = 4_000_000_000_000
CENT: Final = 10_000
HALVED_AT: Final = 1_000_000

STATE: Final = np.dtype(
    [
        ("bucket", np.int64),
        ("side", np.int64),
        ("prints", np.int64),
        ("net_cents", np.int64),
        ("net", np.int64, (BUCKETS,)),
        ("bins", np.int64, (BINS,)),
    ]
)


@dataclass(frozen=True)
class LargeTradeParams(Params):
    _above: ClassVar[tuple[tuple[str, str], ...]] = (
        ("ratio_exit_ppm", "ratio_enter_ppm"),
        ("ratio_enter_ppm", "ratio_full_ppm"),
    )

    percentile_ppm: int = param(995_000, 500_000, 999_999, "ppm", "share of prints that a large one is above")
    minimum_prints: int = param(200, 10, 1_000_000, "count", "prints seen before one can be large")
    ratio_enter_ppm: int = param(1_000_000, 10_000, 900_000_000, "ppm", "|net| / depth from which one opens")
    ratio_full_ppm: int = param(5_000_000, 20_000, 1_000_000_000, "ppm", "|net| / depth from which the strength is 1")
    ratio_exit_ppm: int = param(250_000, 1, 800_000_000, "ppm", "|net| / depth below which it ends")
    time_to_live_us: int = param(60_000_000, 1_000_000, 3_600_000_000, "us", "how long a signal holds")


def notional_bin(cents: Any) -> Any:
    """Four bins an octave: the octave and the next two bits of whole cents."""
    octave = 0
    value = cents
    while value >= 8:
        value = value >> 1
        octave += 1
    return min(4 * octave + value, BINS - 1) if octave > 0 else value


def bin_floor(place: Any) -> Any:
    """The least whole cents of a bin."""
    if place < 8:
        return place
    octave = (place - 4) // 4
    return (place - 4 * octave) << octave


def step(state: Any, params: Any, row: Any, out: Any) -> None:
    """One quote or print of one market; see the module's text for the formula."""
    bucket = max(row["receive_time_us"] // BUCKET_US, state["bucket"])
    if bucket != state["bucket"]:
        passed = min(bucket - state["bucket"], BUCKETS)
        for i in range(passed):
            slot = (bucket - i) % BUCKETS
            state["net_cents"] -= state["net"][slot]
            state["net"][slot] = 0
        state["bucket"] = bucket
    large = 0
    threshold = 0
    outcome = row["trade_outcome"]
    if row["trade_size_micros"] > 0 and outcome > 0:
        price = row["trade_price_micros"]
        if outcome == 2:
            price = row["payout_micros"] - price
        cents = max(price, 0) * min(row["trade_size_micros"], LARGEST_SIZE) // (1_000_000 * CENT)
        threshold = _threshold(state, params)
        if state["prints"] >= params["minimum_prints"] and cents > threshold:
            large = 1
            signed = cents if outcome == 1 else -cents
            state["net"][bucket % BUCKETS] += signed
            state["net_cents"] += signed
        _count(state, cents)
    _judge(state, params, row, out, large)


def _threshold(state: Any, params: Any) -> Any:
    """Whole cents that the wanted share of earlier prints doesn't exceed; the first cents beyond its bin."""
    wanted = state["prints"] * params["percentile_ppm"]
    below = 0
    for place in range(BINS):
        below += state["bins"][place]
        if below * 1_000_000 >= wanted:
            return bin_floor(place + 1) - 1
    return bin_floor(BINS)


def _count(state: Any, cents: Any) -> None:
    state["bins"][notional_bin(cents)] += 1
    state["prints"] += 1
    if state["prints"] >= HALVED_AT:
        total = 0
        for place in range(BINS):
            state["bins"][place] = state["bins"][place] // 2
            total += state["bins"][place]
        state["prints"] = total


def _judge(state: Any, params: Any, row: Any, out: Any, large: Any) -> None:
    held = state["side"]
    state["side"] = 0
    net = state["net_cents"]
    if net == 0:
        return
    side = 1 if net > 0 else 2
    if side == 1:
        price = row["ask_price_micros"]
        size = row["ask_size_micros"]
    else:
        price = row["bid_price_micros"]
        size = row["bid_size_micros"]
    if price == MISSING or size == MISSING:
        return
    if side == 2:
        price = row["payout_micros"] - price
    depth = max(price, 0) * min(size, LARGEST_SIZE) // (1_000_000 * CENT)
    if depth < 1:
        return
    ratio = abs(net) * 1_000_000 // depth
    if ratio < params["ratio_exit_ppm"]:
        return
    opens = large == 1 and ratio >= params["ratio_enter_ppm"]
    if not opens and held != side:
        return
    state["side"] = side
    out["side"] = side
    out["entry"] = 1 if opens else 0
    out["strength_ppm"] = clip_ppm(
        (ratio - params["ratio_enter_ppm"]) * 1_000_000 // (params["ratio_full_ppm"] - params["ratio_enter_ppm"])
    )
    out["time_to_live_us"] = params["time_to_live_us"]
    out["net_notional_cents"] = net
    out["depth_notional_cents"] = depth
    out["ratio_enter_ppm"] = params["ratio_enter_ppm"]
    out["ratio_full_ppm"] = params["ratio_full_ppm"]
    out["earlier_prints"] = state["prints"]


def recompute(signal: Signal) -> Recomputed:
    """Strength from the evidence, by the formula in the module's text."""
    known = {e.name: e.value for e in signal.evidence}
    ratio = abs(known["net_notional_cents"]) * 1_000_000 // known["depth_notional_cents"]
    span = known["ratio_full_ppm"] - known["ratio_enter_ppm"]
    return Recomputed(None, max(0, min(1_000_000, (ratio - known["ratio_enter_ppm"]) * 1_000_000 // span)))


LARGE_TRADE: Final = StrategyKind(
    kind="flow.large_trade",
    version=1,
    display_name="Large trades",
    description=(
        "net = notional in whole cents of the last minute's prints above the 99.5th percentile of the market's earlier "
        "prints, outcome 0 bought less outcome 1 bought; depth = notional at the touch of the side that they take; "
        "ratio = |net| / depth in millionths. Opens on such a print where ratio >= ratio_enter, ends below ratio_exit. "
        "UP where outcome 0 was bought. No net edge: the kind tells a direction, not a value."
    ),
    formula_source="Own; signed volume of large trades against the depth at the touch.",
    strength_map="clip((|net| / depth - ratio_enter) / (ratio_full - ratio_enter))",
    columns=(
        "receive_time_us",
        "bid_price_micros",
        "bid_size_micros",
        "ask_price_micros",
        "ask_size_micros",
        "payout_micros",
        "trade_price_micros",
        "trade_size_micros",
        "trade_outcome",
    ),
    params_type=LargeTradeParams,
    state_dtype=STATE,
    warm_up_us=0,
    recompute=recompute,
    evidence=(
        EvidenceField("net_notional_cents", "count"),
        EvidenceField("depth_notional_cents", "count"),
        EvidenceField("ratio_enter_ppm", "ppm", "params"),
        EvidenceField("ratio_full_ppm", "ppm", "params"),
        EvidenceField("earlier_prints", "count"),
    ),
    step=step,
    has_net_edge=False,
)
