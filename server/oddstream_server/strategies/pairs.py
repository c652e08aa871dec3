"""What baskets of two legs share: one contract of each leg pays at least one payout, whatever happens but a void."""

from typing import Any, Final

from oddstream_server.domain.signal import Signal
from oddstream_server.strategies.arithmetic import clip_ppm
from oddstream_server.strategies.kernel import MISSING, EvidenceField, Recomputed
from oddstream_server.strategies.valuation import FULL_STRENGTH_MICROS

PAIR_EVIDENCE: Final = (EvidenceField("payout_micros", "micros"),)


def buy_value(row: Any) -> Any:
    """What one contract of outcome 0 costs at the ask with its fee; MISSING where that is not known."""
    if row["ask_price_micros"] == MISSING or row["ask_fee_micros"] == MISSING:
        return MISSING
    return row["ask_price_micros"] + row["ask_fee_micros"]


def sell_value(row: Any) -> Any:
    """What the bid leaves after the fee of buying outcome 1 at payout - bid; MISSING where that is not known.

    It may be negative, but never MISSING's value: then nothing is left either.
    """
    if row["bid_price_micros"] == MISSING or row["bid_fee_micros"] == MISSING:
        return MISSING
    return max(row["bid_price_micros"] - row["bid_fee_micros"], 0)


def tell_pair(out: Any, chosen: Any, first: Any, first_leg: Any, second: Any, second_leg: Any, edge: Any) -> None:
    """Write the basket: a leg is 1 for outcome 0 at the ask, 2 for outcome 1 at payout - bid."""
    chosen[first] = first_leg
    chosen[second] = second_leg
    out["side"] = 5
    out["entry"] = 1
    out["strength_ppm"] = clip_ppm(edge * 1_000_000 // FULL_STRENGTH_MICROS)
    out["net_edge_micros"] = edge
    out["fair_value_micros"] = MISSING


def recompute_pair(signal: Signal) -> Recomputed:
    """payout - sum of the legs' prices - sum of the fees; strength = clip(net edge / 5 cents)."""
    known = {(e.source, e.name): e.value for e in signal.evidence}
    payout = next(e.value for e in signal.evidence if e.name == "payout_micros")
    edge = payout
    for leg in signal.legs:
        if leg.outcome_index == 0:
            edge -= known[leg.market_id, "ask_price_micros"] + known[leg.market_id, "ask_fee_micros"]
        else:
            edge -= payout - known[leg.market_id, "bid_price_micros"] + known[leg.market_id, "bid_fee_micros"]
    return Recomputed(edge, max(0, min(1_000_000, edge * 1_000_000 // FULL_STRENGTH_MICROS)))
