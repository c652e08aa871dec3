"""arb.event_sum: the markets of one event together cost less than they must pay.

Two directions, by what is declared of the event (never read off results):

- exhaustive (one member must win): buy outcome 0 of every member at its ask. Pays at least one payout.
  Net edge of one contract of each = payout - sum(asks) - sum(fees).
- exclusive (at most one member wins): buy outcome 1 of every member whose bid is worth more than its fee, at
  payout - bid. Of n legs it pays at least (n - 1) payouts, n if none wins.
  Net edge of one contract of each = sum(bids) - payout - sum(fees).

A void returns stakes and may pay less than that: the legs are a basket, not a riskless trade. Fees are the exact taker
fee of one contract at the touch. Nothing is said of an event whose declaration is missing, that is an augmented
neg-risk event, or one of whose needed members lacks a quote. Strength = clip(net edge / 5 cents).

Computed again from the evidence: for BUY legs of outcome 0, payout less the sum of ask_price and ask_fee of every leg's
market; for legs of outcome 1, the sum of bid_price less bid_fee, less payout; strength = clip(20 x net edge in ppm).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from oddstream_server.domain.signal import Signal
from oddstream_server.strategies.arithmetic import clip_ppm
from oddstream_server.strategies.kernel import MISSING, EvidenceField, Recomputed, StrategyKind
from oddstream_server.strategies.params import Params, param

FULL_STRENGTH_MICROS: Final = 50_000

STATE: Final = np.dtype([("steps", np.int64)])


@dataclass(frozen=True)
class EventSumParams(Params):
    minimum_edge_micros: int = param(1, 1, 1_000_000, "micros", "least edge after fees of one contract of each leg")
    maximum_legs: int = param(500, 2, 1_000, "count", "largest basket that is still worth sending")
    time_to_live_us: int = param(60_000_000, 100_000, 3_600_000_000, "us", "how long a signal holds")


def step_group(state: Any, params: Any, rows: Any, out: Any, chosen: Any) -> None:
    """One look at all members of an event as of one instant; see the module's text for the formula."""
    state["steps"] += 1
    members = len(rows)
    if members < 2:
        return
    payout = rows[0]["payout_micros"]
    buy_edge = 0
    if rows[0]["exhaustive"] == 1 and members <= params["maximum_legs"]:
        asks = rows["ask_price_micros"]
        if asks.min() != MISSING and asks.sum() < payout:
            fees = rows["ask_fee_micros"]
            if fees.min() != MISSING:
                buy_edge = payout - asks.sum() - fees.sum()
    sell_edge = 0
    legs = 0
    if rows[0]["exclusive"] == 1 and rows["bid_price_micros"].sum() + members > payout:
        for i in range(members):
            bid = rows[i]["bid_price_micros"]
            fee = rows[i]["bid_fee_micros"]
            if bid != MISSING and fee != MISSING and bid > fee:
                sell_edge += bid - fee
                legs += 1
        sell_edge -= payout
        if legs < 2 or legs > params["maximum_legs"]:
            sell_edge = 0
    edge = max(buy_edge, sell_edge)
    if edge < params["minimum_edge_micros"]:
        return
    if buy_edge >= sell_edge:
        out["side"] = 3
        legs = members
        chosen[:] = 1
    else:
        out["side"] = 4
        for i in range(members):
            bid = rows[i]["bid_price_micros"]
            fee = rows[i]["bid_fee_micros"]
            if bid != MISSING and fee != MISSING and bid > fee:
                chosen[i] = 1
    out["entry"] = 1
    out["strength_ppm"] = clip_ppm(edge * 1_000_000 // FULL_STRENGTH_MICROS)
    out["net_edge_micros"] = edge
    out["fair_value_micros"] = MISSING
    out["time_to_live_us"] = params["time_to_live_us"]
    out["payout_micros"] = payout
    out["members"] = members
    out["legs"] = legs


def recompute(signal: Signal) -> Recomputed:
    """Net edge and strength from the evidence, by the formula in the module's text."""
    by_market = {(e.source, e.name): e.value for e in signal.evidence}
    payout = next(e.value for e in signal.evidence if e.name == "payout_micros")
    if all(leg.outcome_index == 0 for leg in signal.legs):
        edge = payout - sum(
            by_market[leg.market_id, "ask_price_micros"] + by_market[leg.market_id, "ask_fee_micros"]
            for leg in signal.legs
        )
    else:
        edge = -payout + sum(
            by_market[leg.market_id, "bid_price_micros"] - by_market[leg.market_id, "bid_fee_micros"]
            for leg in signal.legs
        )
    return Recomputed(edge, max(0, min(1_000_000, edge * 1_000_000 // FULL_STRENGTH_MICROS)))


EVENT_SUM: Final = StrategyKind(
    kind="arb.event_sum",
    version=1,
    display_name="Sum of an event",
    description=(
        "Exhaustive event: net edge = payout - sum(asks) - sum(fees), buy outcome 0 of every member. Exclusive event: "
        "net edge = sum(bids) - payout - sum(fees) over members whose bid exceeds its fee, buy their outcome 1; pays "
        "at least n - 1 payouts, n if none wins, less on a void. Size: the smallest leg on all legs' size grids. "
        "Exhaustiveness and exclusivity come from the venue or a reviewed declaration."
    ),
    formula_source="Own; no-arbitrage bound of a partition.",
    strength_map="clip(net_edge / 5 cents)",
    columns=(
        "receive_time_us",
        "bid_price_micros",
        "bid_fee_micros",
        "ask_price_micros",
        "ask_fee_micros",
        "payout_micros",
        "exclusive",
        "exhaustive",
    ),
    params_type=EventSumParams,
    state_dtype=STATE,
    warm_up_us=0,
    recompute=recompute,
    evidence=(
        EvidenceField("payout_micros", "micros"),
        EvidenceField("members", "count"),
        EvidenceField("legs", "count"),
    ),
    step_group=step_group,
    edge_kind=True,
)
