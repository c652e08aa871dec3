"""stat.mean_reversion: the mid is far from its own recent mean, and the way back is worth more than it costs.

Formula, all in integers. With x = logit(mid), over the last hour of the market in buckets of a minute (the rows before
this one): m = mean(x), s = standard deviation (n - 1), z = (x - m) / s, fair = expit(m).
An opportunity opens where |z| >= z_enter and (ask - bid) + fees of one contract on both sides < |mid - fair| / 2; it
stays open while |z| >= z_exit and the edge is positive.
Direction against the move: z < 0 buys outcome 0, edge = fair - ask - ask_fee; z > 0 buys outcome 1,
edge = bid - fair - bid_fee. Strength = clip((|z| - z_enter) / (z_full - z_enter)).

Computed again from the evidence: net edge = fair_value - ask_price - ask_fee (direction UP) or
bid_price - fair_value - bid_fee (DOWN); strength as above with z, z_enter and z_full in millionths.

Bounds: |x| <= 82,938; a bucket holds at most 10^6 rows (further ones of the same minute are left out of the window),
so that the sum of squares stays below 4.2e17 and no product leaves 64 bits.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from oddstream_server.domain.signal import Direction, Signal
from oddstream_server.strategies.arithmetic import clip_ppm, expit_micros, integer_square_root, logit_e4
from oddstream_server.strategies.kernel import MISSING, EvidenceField, Recomputed, StrategyKind
from oddstream_server.strategies.params import Params, param

BUCKETS: Final = 60
BUCKET_US: Final = 60_000_000
ROWS_A_BUCKET: Final = 1_000_000

STATE: Final = np.dtype(
    [
        ("bucket", np.int64),
        ("side", np.int64),
        ("rows", np.int64),
        ("filled", np.int64),
        ("sum_x", np.int64),
        ("sum_xx", np.int64),
        ("bucket_rows", np.int64, (BUCKETS,)),
        ("bucket_x", np.int64, (BUCKETS,)),
        ("bucket_xx", np.int64, (BUCKETS,)),
    ]
)


@dataclass(frozen=True)
class MeanReversionParams(Params):
    _above: ClassVar[tuple[tuple[str, str], ...]] = (("z_exit_ppm", "z_enter_ppm"), ("z_enter_ppm", "z_full_ppm"))

    z_enter_ppm: int = param(2_000_000, 500_000, 9_000_000, "ppm", "|z| from which an opportunity opens")
    z_full_ppm: int = param(4_000_000, 600_000, 10_000_000, "ppm", "|z| from which the strength is 1")
    z_exit_ppm: int = param(1_000_000, 1, 8_000_000, "ppm", "|z| below which the opportunity ends")
    minimum_rows: int = param(20, 3, 100_000, "count", "rows that the window must hold")
    minimum_buckets: int = param(10, 1, BUCKETS, "count", "minutes of the window that must hold rows")
    time_to_live_us: int = param(600_000_000, 1_000_000, 86_400_000_000, "us", "how long a signal holds")


def step(state: Any, params: Any, row: Any, out: Any) -> None:
    """One quote of one market; see the module's text for the formula."""
    bid = row["bid_price_micros"]
    ask = row["ask_price_micros"]
    if bid == MISSING or ask == MISSING:
        state["side"] = 0
        return
    payout = row["payout_micros"]
    x = logit_e4((bid + ask) * 500_000 // payout)
    bucket = max(row["receive_time_us"] // BUCKET_US, state["bucket"])
    _roll(state, bucket)
    if state["rows"] >= params["minimum_rows"] and state["filled"] >= params["minimum_buckets"]:
        _judge(state, params, row, out, x)
    else:
        state["side"] = 0
    slot = bucket % BUCKETS
    if state["bucket_rows"][slot] < ROWS_A_BUCKET:
        if state["bucket_rows"][slot] == 0:
            state["filled"] += 1
        state["bucket_rows"][slot] += 1
        state["bucket_x"][slot] += x
        state["bucket_xx"][slot] += x * x
        state["rows"] += 1
        state["sum_x"] += x
        state["sum_xx"] += x * x


def _roll(state: Any, bucket: Any) -> None:
    """Forget the buckets that fell out of the window that ends with ``bucket``."""
    passed = min(bucket - state["bucket"], BUCKETS)
    for i in range(passed):
        slot = (bucket - i) % BUCKETS
        if state["bucket_rows"][slot] > 0:
            state["filled"] -= 1
            state["rows"] -= state["bucket_rows"][slot]
            state["sum_x"] -= state["bucket_x"][slot]
            state["sum_xx"] -= state["bucket_xx"][slot]
            state["bucket_rows"][slot] = 0
            state["bucket_x"][slot] = 0
            state["bucket_xx"][slot] = 0
    state["bucket"] = bucket


def _judge(state: Any, params: Any, row: Any, out: Any, x: Any) -> None:
    held = state["side"]
    state["side"] = 0
    rows = state["rows"]
    mean = state["sum_x"] // rows
    rest = state["sum_x"] - mean * rows
    # exact: sum of (x - mean)^2 about the floored mean, then shifted to the true mean
    squares = state["sum_xx"] - mean * (state["sum_x"] + rest) - rest * rest // rows
    variance = squares // (rows - 1)
    if variance < 1:
        return
    if 2 * rest >= rows:
        mean += 1
    distance = x - mean
    exit_milli = params["z_exit_ppm"] // 1000
    if distance * distance * 1_000_000 < exit_milli * exit_milli * variance:
        return
    deviation = integer_square_root(variance * 10_000)  # in millionths of log-odds
    z = abs(distance) * 100_000_000 // deviation
    if z < params["z_exit_ppm"]:
        return
    bid_fee = row["bid_fee_micros"]
    ask_fee = row["ask_fee_micros"]
    if bid_fee == MISSING or ask_fee == MISSING:
        return
    bid = row["bid_price_micros"]
    ask = row["ask_price_micros"]
    fair = expit_micros(mean) * row["payout_micros"] // 1_000_000
    if distance < 0:
        side = 1
        edge = fair - ask - ask_fee
    else:
        side = 2
        edge = bid - fair - bid_fee
    if edge <= 0:
        return
    # twice the excursion is |bid + ask - 2 fair|; the cost has to be below half of one
    opens = z >= params["z_enter_ppm"] and 4 * (ask - bid + bid_fee + ask_fee) < abs(bid + ask - 2 * fair)
    if not opens and held != side:
        return
    state["side"] = side
    out["side"] = side
    out["entry"] = 1 if opens else 0
    out["strength_ppm"] = clip_ppm(
        (z - params["z_enter_ppm"]) * 1_000_000 // (params["z_full_ppm"] - params["z_enter_ppm"])
    )
    out["net_edge_micros"] = edge
    out["fair_value_micros"] = fair
    out["time_to_live_us"] = params["time_to_live_us"]
    out["z_ppm"] = z
    out["z_enter_ppm"] = params["z_enter_ppm"]
    out["z_full_ppm"] = params["z_full_ppm"]
    out["mean_logit_micros"] = mean * 100
    out["deviation_logit_micros"] = deviation
    out["window_rows"] = rows
    out["bid_price_micros"] = bid
    out["bid_fee_micros"] = bid_fee
    out["ask_price_micros"] = ask
    out["ask_fee_micros"] = ask_fee


def recompute(signal: Signal) -> Recomputed:
    """Net edge and strength from the evidence, by the formula in the module's text."""
    known = {e.name: e.value for e in signal.evidence}
    fair = signal.fair_value_micros
    assert fair is not None
    if signal.direction is Direction.UP:
        edge = fair - known["ask_price_micros"] - known["ask_fee_micros"]
    else:
        edge = known["bid_price_micros"] - fair - known["bid_fee_micros"]
    above = known["z_ppm"] - known["z_enter_ppm"]
    span = known["z_full_ppm"] - known["z_enter_ppm"]
    return Recomputed(edge, max(0, min(1_000_000, above * 1_000_000 // span)))


MEAN_REVERSION: Final = StrategyKind(
    kind="stat.mean_reversion",
    version=1,
    display_name="Mean reversion",
    description=(
        "z = (logit(mid) - mean) / standard deviation over the last hour in buckets of a minute; fair = expit(mean). "
        "Opens where |z| >= z_enter and spread + fees < half of |mid - fair|; ends below z_exit. UP: net edge = "
        "fair_value - ask_price - ask_fee. DOWN: net edge = bid_price - fair_value - bid_fee."
    ),
    formula_source="Own; z-score reversion on the log-odds scale.",
    strength_map="clip((|z| - z_enter) / (z_full - z_enter))",
    columns=(
        "receive_time_us",
        "bid_price_micros",
        "ask_price_micros",
        "bid_fee_micros",
        "ask_fee_micros",
        "payout_micros",
    ),
    params_type=MeanReversionParams,
    state_dtype=STATE,
    warm_up_us=10 * BUCKET_US,
    recompute=recompute,
    evidence=(
        EvidenceField("z_ppm", "ppm"),
        EvidenceField("z_enter_ppm", "ppm", "params"),
        EvidenceField("z_full_ppm", "ppm", "params"),
        EvidenceField("mean_logit_micros", "micros"),
        EvidenceField("deviation_logit_micros", "micros"),
        EvidenceField("window_rows", "count"),
        EvidenceField("bid_price_micros", "micros", "market"),
        EvidenceField("bid_fee_micros", "micros", "market"),
        EvidenceField("ask_price_micros", "micros", "market"),
        EvidenceField("ask_fee_micros", "micros", "market"),
    ),
    step=step,
    has_fair_value=True,
)
