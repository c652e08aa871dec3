"""stat.momentum: the price moved over a day by more than its own half hours make likely.

With x = logit(mid) in buckets of half an hour, each standing for its last row: change = x now - x of the newest bucket
that is at least a day old (and less than 26 hours); s = square root of the sum of the squared changes from bucket to
bucket since then, which is the day's deviation of a path without drift; z = change / s.
An opportunity opens where |z| >= z_enter and |change| >= minimum_change, and stays open while |z| >= z_exit.
Direction with the move: change > 0 buys outcome 0. Strength = clip((|z| - z_enter) / (z_full - z_enter)). The kind says
where the price goes and not what that is worth, so it has no net edge.

Computed again from the evidence: z = |change| / deviation, both in millionths of log-odds; strength as above.

Bounds: |x| <= 82,938, so a squared change is below 2.8e10 and the sum over a day below 1.5e12.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from oddstream_server.domain.signal import Signal
from oddstream_server.strategies.arithmetic import clip_ppm, integer_square_root, logit_e4
from oddstream_server.strategies.kernel import MISSING, EvidenceField, Recomputed, StrategyKind
from oddstream_server.strategies.params import Params, param

BUCKET_US: Final = 1_800_000_000
DAY: Final = 48
BUCKETS: Final = 52

STATE: Final = np.dtype(
    [
        ("bucket", np.int64),
        ("side", np.int64),
        ("last_x", np.int64),
        ("before_x", np.int64),
        ("sum_squares", np.int64),
        ("filled", np.int64, (BUCKETS,)),
        ("x", np.int64, (BUCKETS,)),
        ("squares", np.int64, (BUCKETS,)),
    ]
)


@dataclass(frozen=True)
class MomentumParams(Params):
    _above: ClassVar[tuple[tuple[str, str], ...]] = (("z_exit_ppm", "z_enter_ppm"), ("z_enter_ppm", "z_full_ppm"))

    z_enter_ppm: int = param(2_000_000, 500_000, 6_000_000, "ppm", "|z| from which an opportunity opens")
    z_full_ppm: int = param(4_000_000, 600_000, 7_000_000, "ppm", "|z| from which the strength is 1")
    z_exit_ppm: int = param(1_000_000, 1, 5_000_000, "ppm", "|z| below which the opportunity ends")
    minimum_change_e4: int = param(4_000, 1, 80_000, "count", "least change in 1/10,000 of log-odds")
    minimum_buckets: int = param(8, 2, DAY, "count", "half hours of the day that must hold rows")
    time_to_live_us: int = param(3_600_000_000, 1_000_000, 86_400_000_000, "us", "how long a signal holds")


def step(state: Any, params: Any, row: Any, out: Any) -> None:
    """One quote of one market; see the module's text for the formula."""
    bid = row["bid_price_micros"]
    ask = row["ask_price_micros"]
    if bid == MISSING or ask == MISSING:
        state["side"] = 0
        return
    x = logit_e4((bid + ask) * 500_000 // row["payout_micros"])
    bucket = max(row["receive_time_us"] // BUCKET_US, state["bucket"])
    if bucket != state["bucket"]:
        _roll(state, bucket)
    slot = bucket % BUCKETS
    if state["filled"][slot] == 0:
        state["filled"][slot] = 1
        state["before_x"] = state["last_x"] if state["last_x"] != 0 else x
    change_here = x - state["before_x"]
    state["sum_squares"] += change_here * change_here - state["squares"][slot]
    state["squares"][slot] = change_here * change_here
    state["x"][slot] = x
    state["last_x"] = x if x != 0 else 1
    _judge(state, params, row, out, x, bucket)


def _roll(state: Any, bucket: Any) -> None:
    """Forget the buckets that fell out of the window that ends with ``bucket``."""
    passed = min(bucket - state["bucket"], BUCKETS)
    for i in range(passed):
        slot = (bucket - i) % BUCKETS
        state["sum_squares"] -= state["squares"][slot]
        state["squares"][slot] = 0
        state["filled"][slot] = 0
        state["x"][slot] = 0
    state["bucket"] = bucket
    if passed == BUCKETS:
        state["last_x"] = 0


def _judge(state: Any, params: Any, row: Any, out: Any, x: Any, bucket: Any) -> None:
    held = state["side"]
    state["side"] = 0
    age = DAY
    while age < BUCKETS and state["filled"][(bucket - age) % BUCKETS] == 0:
        age += 1
    if age == BUCKETS:
        return
    change = x - state["x"][(bucket - age) % BUCKETS]
    squares = state["sum_squares"]
    for older in range(age, BUCKETS):
        squares -= state["squares"][(bucket - older) % BUCKETS]
    if squares < 1:
        return
    deviation = integer_square_root(squares * 10_000)  # in millionths of log-odds
    z = abs(change) * 100_000_000 // deviation
    if z < params["z_exit_ppm"]:
        return
    side = 1 if change > 0 else 2
    buckets = 0
    for younger in range(age):
        buckets += state["filled"][(bucket - younger) % BUCKETS]
    opens = (
        z >= params["z_enter_ppm"]
        and abs(change) >= params["minimum_change_e4"]
        and buckets >= params["minimum_buckets"]
    )
    if not opens and held != side:
        return
    state["side"] = side
    out["side"] = side
    out["entry"] = 1 if opens else 0
    out["strength_ppm"] = clip_ppm(
        (z - params["z_enter_ppm"]) * 1_000_000 // (params["z_full_ppm"] - params["z_enter_ppm"])
    )
    out["time_to_live_us"] = params["time_to_live_us"]
    out["change_logit_micros"] = change * 100
    out["deviation_logit_micros"] = deviation
    out["z_enter_ppm"] = params["z_enter_ppm"]
    out["z_full_ppm"] = params["z_full_ppm"]
    out["window_buckets"] = buckets
    out["bid_price_micros"] = row["bid_price_micros"]
    out["ask_price_micros"] = row["ask_price_micros"]


def recompute(signal: Signal) -> Recomputed:
    """Strength from the evidence, by the formula in the module's text."""
    known = {e.name: e.value for e in signal.evidence}
    z = abs(known["change_logit_micros"]) * 1_000_000 // known["deviation_logit_micros"]
    span = known["z_full_ppm"] - known["z_enter_ppm"]
    return Recomputed(None, max(0, min(1_000_000, (z - known["z_enter_ppm"]) * 1_000_000 // span)))


MOMENTUM: Final = StrategyKind(
    kind="stat.momentum",
    version=1,
    display_name="Momentum of a day",
    description=(
        "change = logit(mid) now less that of a day ago; deviation = square root of the sum of the squared changes "
        "from half hour to half hour since; z = |change| / deviation. Opens where z >= z_enter and |change| is large "
        "enough, ends below z_exit. UP where the change is positive. No net edge: the kind tells a direction, not a "
        "value."
    ),
    formula_source="Own; time-series momentum on the log-odds scale, scaled by the realised deviation of the same day.",
    strength_map="clip((|z| - z_enter) / (z_full - z_enter))",
    columns=("receive_time_us", "bid_price_micros", "ask_price_micros", "payout_micros"),
    params_type=MomentumParams,
    state_dtype=STATE,
    warm_up_us=DAY * BUCKET_US,
    recompute=recompute,
    evidence=(
        EvidenceField("change_logit_micros", "micros"),
        EvidenceField("deviation_logit_micros", "micros"),
        EvidenceField("z_enter_ppm", "ppm", "params"),
        EvidenceField("z_full_ppm", "ppm", "params"),
        EvidenceField("window_buckets", "count"),
        EvidenceField("bid_price_micros", "micros", "market"),
        EvidenceField("ask_price_micros", "micros", "market"),
    ),
    step=step,
    has_net_edge=False,
)
