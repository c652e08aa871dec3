"""arb.cross_venue: two markets that a reviewer linked together cost less than they must pay.

A confirmed link says how outcome 0 of the first market relates to outcome 0 of the second; of each relation the pairs
whose legs pay at least one payout together:

- both win together (EQUIVALENT): outcome 0 of one and outcome 1 of the other, either way round;
- one wins when the other loses (INVERSE): outcome 0 of both, or outcome 1 of both;
- the first implies the second (IMPLIES): outcome 1 of the first and outcome 0 of the second; IMPLIED_BY the reverse.
  Ladders by date are such links, within one venue.

    net edge = payout - sum of the legs' prices - sum of their fees

Void rules, payout times and, across venues, the currency of the collateral differ: the legs are a basket and no
riskless trade. Strength = clip(net edge / 5 cents).

Computed again from the evidence: payout less, for each leg, ask_price + ask_fee for outcome 0, payout - bid_price +
bid_fee for outcome 1; strength = clip(20 x net edge in ppm).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from oddstream_server.strategies.kernel import MISSING, Grouping, StrategyKind
from oddstream_server.strategies.pairs import PAIR_EVIDENCE, buy_value, recompute_pair, sell_value, tell_pair
from oddstream_server.strategies.params import Params, param

STATE: Final = np.dtype([("steps", np.int64)])


@dataclass(frozen=True)
class CrossVenueParams(Params):
    minimum_edge_micros: int = param(1, 1, 1_000_000, "micros", "least edge after fees of one contract of each leg")
    time_to_live_us: int = param(60_000_000, 100_000, 3_600_000_000, "us", "how long a signal holds")


def step_group(state: Any, params: Any, rows: Any, out: Any, chosen: Any) -> None:
    """One look at both markets as of one instant; see the module's text for the formula."""
    state["steps"] += 1
    payout = rows[0]["payout_micros"]
    if len(rows) != 2 or payout != rows[1]["payout_micros"]:
        return
    relation = rows[0]["relation"]
    buys_0 = buy_value(rows[0])
    buys_1 = buy_value(rows[1])
    sells_0 = sell_value(rows[0])
    sells_1 = sell_value(rows[1])
    edge = params["minimum_edge_micros"] - 1
    first = 0
    second = 0
    if (relation == 1 or relation == 3) and sells_0 != MISSING and buys_1 != MISSING and sells_0 - buys_1 > edge:
        edge = sells_0 - buys_1
        first = 2
        second = 1
    if (relation == 1 or relation == 4) and sells_1 != MISSING and buys_0 != MISSING and sells_1 - buys_0 > edge:
        edge = sells_1 - buys_0
        first = 1
        second = 2
    if relation == 2 and buys_0 != MISSING and buys_1 != MISSING and payout - buys_0 - buys_1 > edge:
        edge = payout - buys_0 - buys_1
        first = 1
        second = 1
    if relation == 2 and sells_0 != MISSING and sells_1 != MISSING and sells_0 + sells_1 - payout > edge:
        edge = sells_0 + sells_1 - payout
        first = 2
        second = 2
    if first == 0:
        return
    tell_pair(out, chosen, 0, first, 1, second, edge)
    out["time_to_live_us"] = params["time_to_live_us"]
    out["payout_micros"] = payout


CROSS_VENUE: Final = StrategyKind(
    kind="arb.cross_venue",
    version=1,
    display_name="Linked markets",
    description=(
        "Two legs of a confirmed link that pay at least one payout together: net edge = payout - sum of prices - sum "
        "of fees. EQUIVALENT: outcome 0 of one and outcome 1 of the other; INVERSE: the same outcome of both; "
        "IMPLIES: outcome 1 of the first and outcome 0 of the second. Void rules, payout times and the collateral's "
        "currency differ between venues. Size: the smallest leg on both legs' size grids."
    ),
    formula_source="Own; no-arbitrage bound of equivalent, inverse and nested claims.",
    strength_map="clip(net_edge / 5 cents)",
    columns=(
        "receive_time_us",
        "bid_price_micros",
        "bid_fee_micros",
        "ask_price_micros",
        "ask_fee_micros",
        "payout_micros",
        "relation",
    ),
    params_type=CrossVenueParams,
    state_dtype=STATE,
    warm_up_us=0,
    recompute=recompute_pair,
    evidence=PAIR_EVIDENCE,
    step_group=step_group,
    edge_kind=True,
    grouping=Grouping.LINK,
)
