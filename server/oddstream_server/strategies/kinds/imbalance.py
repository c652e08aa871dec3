"""book.imbalance: more was added to one side of the top of the book than to the other.

Order-flow imbalance of Cont, Kukanov and Stoikov, "The Price Impact of Order Book Events" (2014), at the top of the
book, which is what is recorded of every market; deeper levels are not used. From one quote to the next, with bid
price and size b, q and ask price and size a, r (before: b', q', a', r'):

    e = [b >= b'] q - [b <= b'] q' - [a <= a'] r + [a >= a'] r'

flow = sum of e over the last ten seconds, in buckets of a second; depth = mean of (q + r) / 2 over the rows of the last
minute, in buckets of a second; ratio = flow / depth. An opportunity opens where |ratio| >= ratio_enter while the spread
is at most maximum_spread, and stays open while |ratio| >= ratio_exit. UP where the flow is positive. Strength =
clip((|ratio| - ratio_enter) / (ratio_full - ratio_enter)). It expires in seconds. No net edge.
It speaks so often that it is off until an operator switches it on.
It speaks so often that it is off until an operator switches it on.

Computed again from the evidence: ratio = |flow| / depth in millionths, rounded down; strength as above.

Bounds: sizes count up to a million contracts and a bucket takes 20,000 rows, so no sum leaves 64 bits.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from oddstream_server.domain.signal import Signal
from oddstream_server.strategies.arithmetic import clip_ppm
from oddstream_server.strategies.kernel import MISSING, EvidenceField, Recomputed, StrategyKind
from oddstream_server.strategies.params import Params, param

BUCKET_US: Final = 1_000_000
FLOW_BUCKETS: Final = 10
BUCKETS: Final = 60
ROWS_A_BUCKET: Final = 20_000
LARGEST_SIZE: Final = 1_000_000_000_000

STATE: Final = np.dtype(
    [
        ("bucket", np.int64),
        ("side", np.int64),
        ("seen", np.int64),
        ("bid_price", np.int64),
        ("bid_size", np.int64),
        ("ask_price", np.int64),
        ("ask_size", np.int64),
        ("sum_flow", np.int64),
        ("sum_depth", np.int64),
        ("rows", np.int64),
        ("flow", np.int64, (BUCKETS,)),
        ("depth", np.int64, (BUCKETS,)),
        ("bucket_rows", np.int64, (BUCKETS,)),
    ]
)


@dataclass(frozen=True)
class ImbalanceParams(Params):
    _above: ClassVar[tuple[tuple[str, str], ...]] = (
        ("ratio_exit_ppm", "ratio_enter_ppm"),
        ("ratio_enter_ppm", "ratio_full_ppm"),
    )

    ratio_enter_ppm: int = param(8_000_000, 100_000, 900_000_000, "ppm", "|flow / depth| from which one opens")
    ratio_full_ppm: int = param(20_000_000, 200_000, 1_000_000_000, "ppm", "|flow / depth| from which strength is 1")
    ratio_exit_ppm: int = param(4_000_000, 1, 800_000_000, "ppm", "|flow / depth| below which it ends")
    minimum_rows: int = param(20, 2, 100_000, "count", "rows that the last minute must hold")
    maximum_spread_micros: int = param(20_000, 100, 1_000_000, "micros", "widest spread at which one opens")
    time_to_live_us: int = param(5_000_000, 100_000, 60_000_000, "us", "how long a signal holds")


def step(state: Any, params: Any, row: Any, out: Any) -> None:
    """One quote of one market; see the module's text for the formula."""
    bid = row["bid_price_micros"]
    ask = row["ask_price_micros"]
    bid_size = row["bid_size_micros"]
    ask_size = row["ask_size_micros"]
    if bid == MISSING or ask == MISSING or bid_size == MISSING or ask_size == MISSING:
        state["seen"] = 0
        state["side"] = 0
        return
    bid_size = min(bid_size, LARGEST_SIZE)
    ask_size = min(ask_size, LARGEST_SIZE)
    bucket = max(row["receive_time_us"] // BUCKET_US, state["bucket"])
    if bucket != state["bucket"]:
        _roll(state, bucket)
    flow = 0
    if state["seen"] == 1:
        if bid >= state["bid_price"]:
            flow += bid_size
        if bid <= state["bid_price"]:
            flow -= state["bid_size"]
        if ask <= state["ask_price"]:
            flow -= ask_size
        if ask >= state["ask_price"]:
            flow += state["ask_size"]
    state["seen"] = 1
    state["bid_price"] = bid
    state["bid_size"] = bid_size
    state["ask_price"] = ask
    state["ask_size"] = ask_size
    slot = bucket % BUCKETS
    if state["bucket_rows"][slot] < ROWS_A_BUCKET:
        depth = (bid_size + ask_size) // 2
        state["bucket_rows"][slot] += 1
        state["rows"] += 1
        state["flow"][slot] += flow
        state["sum_flow"] += flow
        state["depth"][slot] += depth
        state["sum_depth"] += depth
    _judge(state, params, row, out)


def _roll(state: Any, bucket: Any) -> None:
    """Forget what fell out of the windows that end with ``bucket``: flow after ten seconds, depth after a minute."""
    passed = bucket - state["bucket"]
    first = state["bucket"] - FLOW_BUCKETS + 1
    for i in range(min(passed, FLOW_BUCKETS)):
        slot = (first + i) % BUCKETS
        state["sum_flow"] -= state["flow"][slot]
        state["flow"][slot] = 0
    for i in range(min(passed, BUCKETS)):
        slot = (bucket - i) % BUCKETS
        state["rows"] -= state["bucket_rows"][slot]
        state["sum_depth"] -= state["depth"][slot]
        state["bucket_rows"][slot] = 0
        state["depth"][slot] = 0
    state["bucket"] = bucket


def _judge(state: Any, params: Any, row: Any, out: Any) -> None:
    held = state["side"]
    state["side"] = 0
    if state["rows"] < params["minimum_rows"]:
        return
    depth = state["sum_depth"] // state["rows"]
    flow = state["sum_flow"]
    if depth // 1_000_000 < 1:
        return
    ratio = abs(flow) // (depth // 1_000_000)
    if ratio < params["ratio_exit_ppm"]:
        return
    side = 1 if flow > 0 else 2
    spread = row["ask_price_micros"] - row["bid_price_micros"]
    opens = ratio >= params["ratio_enter_ppm"] and spread <= params["maximum_spread_micros"]
    if not opens and held != side:
        return
    state["side"] = side
    out["side"] = side
    out["entry"] = 1 if opens else 0
    out["strength_ppm"] = clip_ppm(
        (ratio - params["ratio_enter_ppm"]) * 1_000_000 // (params["ratio_full_ppm"] - params["ratio_enter_ppm"])
    )
    out["time_to_live_us"] = params["time_to_live_us"]
    out["flow_size_micros"] = flow
    out["depth_contracts"] = depth // 1_000_000
    out["ratio_enter_ppm"] = params["ratio_enter_ppm"]
    out["ratio_full_ppm"] = params["ratio_full_ppm"]
    out["window_rows"] = state["rows"]
    out["bid_price_micros"] = row["bid_price_micros"]
    out["ask_price_micros"] = row["ask_price_micros"]


def recompute(signal: Signal) -> Recomputed:
    """Strength from the evidence, by the formula in the module's text."""
    known = {e.name: e.value for e in signal.evidence}
    ratio = abs(known["flow_size_micros"]) // known["depth_contracts"]
    span = known["ratio_full_ppm"] - known["ratio_enter_ppm"]
    return Recomputed(None, max(0, min(1_000_000, (ratio - known["ratio_enter_ppm"]) * 1_000_000 // span)))


IMBALANCE: Final = StrategyKind(
    kind="book.imbalance",
    version=1,
    display_name="Order-flow imbalance",
    description=(
        "flow = sum over ten seconds of what was added to the best bid and taken from the best ask less the reverse, "
        "in micros of a contract; depth = mean size of a side of the top over a minute, in whole contracts; ratio = "
        "|flow| / depth in millionths. Opens where ratio >= ratio_enter at a narrow spread, ends below ratio_exit. UP "
        "where the flow is positive. No net edge: the kind tells a direction for seconds, not a value."
    ),
    formula_source="Cont, Kukanov and Stoikov, The Price Impact of Order Book Events (2014), at the top of the book.",
    strength_map="clip((|ratio| - ratio_enter) / (ratio_full - ratio_enter))",
    columns=("receive_time_us", "bid_price_micros", "bid_size_micros", "ask_price_micros", "ask_size_micros"),
    params_type=ImbalanceParams,
    state_dtype=STATE,
    warm_up_us=BUCKETS * BUCKET_US,
    recompute=recompute,
    evidence=(
        EvidenceField("flow_size_micros", "micros"),
        EvidenceField("depth_contracts", "count"),
        EvidenceField("ratio_enter_ppm", "ppm", "params"),
        EvidenceField("ratio_full_ppm", "ppm", "params"),
        EvidenceField("window_rows", "count"),
        EvidenceField("bid_price_micros", "micros", "market"),
        EvidenceField("ask_price_micros", "micros", "market"),
    ),
    step=step,
    has_net_edge=False,
    enabled_by_default=False,
)
