"""arb.monotone: of two markets of a strike ladder the one that implies the other is dearer than it.

A market that pays above a strike implies each one that pays above a lower strike; one that pays below a strike implies
each that pays below a higher one. Where A implies B, one contract of outcome 1 of A and one of outcome 0 of B pay at
least one payout, two where the underlying ends between the strikes:

    net edge = bid_A - bid_fee_A - ask_B - ask_fee_B

The pair with the largest edge of the ladder is told. A void may pay less: the legs are a basket, not a riskless trade.
Ladders by date are links whose relation is IMPLIES; arb.cross_venue looks at them. Strength = clip(net edge / 5 cents).

Computed again from the evidence: payout less, for each leg, its price and fee: ask_price + ask_fee for outcome 0,
payout - bid_price + bid_fee for outcome 1; strength = clip(20 x net edge in ppm).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from oddstream_server.strategies.kernel import MISSING, Grouping, StrategyKind
from oddstream_server.strategies.pairs import PAIR_EVIDENCE, buy_value, recompute_pair, sell_value, tell_pair
from oddstream_server.strategies.params import Params, param

STATE: Final = np.dtype([("steps", np.int64)])


@dataclass(frozen=True)
class MonotoneParams(Params):
    minimum_edge_micros: int = param(1, 1, 1_000_000, "micros", "least edge after fees of one contract of each leg")
    time_to_live_us: int = param(60_000_000, 100_000, 3_600_000_000, "us", "how long a signal holds")


def step_group(state: Any, params: Any, rows: Any, out: Any, chosen: Any) -> None:
    """One look at all members of an event as of one instant; see the module's text for the formula."""
    state["steps"] += 1
    members = len(rows)
    best_edge = params["minimum_edge_micros"] - 1
    implying = -1
    implied = -1
    keys = np.empty(members, dtype=np.int64)
    for above in range(2):
        # the implied side comes first: low strikes where a market pays above, high ones where it pays below
        for i in range(members):
            kind = rows[i]["strike_kind"]
            if above == 1 and (kind == 1 or kind == 2):
                keys[i] = rows[i]["strike_floor_micros"]
            elif above == 0 and (kind == 3 or kind == 4):
                keys[i] = -rows[i]["strike_cap_micros"]
            else:
                keys[i] = 2**62
        order = np.argsort(keys, kind="mergesort")
        cheapest = -1
        cheapest_cost = 2**62
        candidate = -1
        candidate_cost = 2**62
        for place in range(members):
            i = order[place]
            if keys[i] == 2**62:
                break
            if place > 0 and keys[i] != keys[order[place - 1]] and candidate_cost < cheapest_cost:
                cheapest = candidate
                cheapest_cost = candidate_cost
            value = sell_value(rows[i])
            if value != MISSING and cheapest >= 0 and value - cheapest_cost > best_edge:
                best_edge = value - cheapest_cost
                implying = i
                implied = cheapest
            cost = buy_value(rows[i])
            if cost != MISSING and cost < candidate_cost:
                candidate = i
                candidate_cost = cost
    if implying < 0:
        return
    tell_pair(out, chosen, implying, 2, implied, 1, best_edge)
    out["time_to_live_us"] = params["time_to_live_us"]
    out["payout_micros"] = rows[implied]["payout_micros"]


MONOTONE: Final = StrategyKind(
    kind="arb.monotone",
    version=1,
    display_name="Order of a ladder",
    description=(
        "A pays above a higher strike than B (or below a lower one), so A implies B: net edge = bid_A - bid_fee_A - "
        "ask_B - ask_fee_B, buy outcome 1 of A and outcome 0 of B. Pays at least one payout, less on a void. Equal to "
        "payout less the legs' prices and fees. Size: the smallest leg on both legs' size grids."
    ),
    formula_source="Own; no-arbitrage bound of nested claims.",
    strength_map="clip(net_edge / 5 cents)",
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
    params_type=MonotoneParams,
    state_dtype=STATE,
    warm_up_us=0,
    recompute=recompute_pair,
    evidence=PAIR_EVIDENCE,
    step_group=step_group,
    edge_kind=True,
    grouping=Grouping.LADDER,
)
