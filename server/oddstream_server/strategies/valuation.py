"""What kinds with a value for outcome 0 share: the better of buying it at the ask and selling it at the bid."""

from typing import Any, Final

from oddstream_server.domain.signal import Direction, Signal
from oddstream_server.strategies.kernel import MISSING, EvidenceField, Recomputed

FULL_STRENGTH_MICROS: Final = 50_000
"""The net edge from which an edge kind's strength is 1: 5 cents."""

VALUE_EVIDENCE: Final = (
    EvidenceField("bid_price_micros", "micros", "market"),
    EvidenceField("bid_fee_micros", "micros", "market"),
    EvidenceField("ask_price_micros", "micros", "market"),
    EvidenceField("ask_fee_micros", "micros", "market"),
)
"""What :func:`tell_value` writes beside the verdict; MISSING where a side is."""


def tell_value(row: Any, out: Any, fair: Any, held: Any, minimum_edge: Any) -> Any:
    """Write side, entry, net edge and fair value; answers the side, 0 where there is nothing to say.

    :param held: the side of an open opportunity: it goes on while its edge is positive and no larger one opens.
    """
    ask_edge = 0
    bid_edge = 0
    if row["ask_price_micros"] != MISSING and row["ask_fee_micros"] != MISSING:
        ask_edge = fair - row["ask_price_micros"] - row["ask_fee_micros"]
    if row["bid_price_micros"] != MISSING and row["bid_fee_micros"] != MISSING:
        bid_edge = row["bid_price_micros"] - fair - row["bid_fee_micros"]
    side = 1 if ask_edge >= bid_edge else 2
    edge = max(ask_edge, bid_edge)
    if edge <= 0 or (edge < minimum_edge and held != side):
        return 0
    out["side"] = side
    out["entry"] = 1 if edge >= minimum_edge else 0
    out["net_edge_micros"] = edge
    out["fair_value_micros"] = fair
    out["bid_price_micros"] = row["bid_price_micros"]
    out["bid_fee_micros"] = row["bid_fee_micros"]
    out["ask_price_micros"] = row["ask_price_micros"]
    out["ask_fee_micros"] = row["ask_fee_micros"]
    return side


def recompute_value(signal: Signal) -> Recomputed:
    """Net edge from fair value, price and fee; strength = clip(net edge / 5 cents)."""
    known = {e.name: e.value for e in signal.evidence}
    fair = signal.fair_value_micros
    assert fair is not None
    if signal.direction is Direction.UP:
        edge = fair - known["ask_price_micros"] - known["ask_fee_micros"]
    else:
        edge = known["bid_price_micros"] - fair - known["bid_fee_micros"]
    return Recomputed(edge, max(0, min(1_000_000, edge * 1_000_000 // FULL_STRENGTH_MICROS)))
