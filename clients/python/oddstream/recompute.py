"""A signal's net edge and strength computed again from its own evidence, by the documented formula of its kind.

A kind's formula is the ``description`` of its strategy (``GetStrategy``); integers throughout, divisions rounded down.
"""

from collections.abc import Callable
from dataclasses import dataclass

from oddstream.v1 import signal_pb2

PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Term:
    """One line of a working: what it is, and its exact value."""

    name: str
    value_micros: int


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What the formula gives for the evidence.

    :ivar terms: the sum that gives the net edge, term by term.
    """

    net_edge_micros: int
    strength_ppm: int
    terms: tuple[Term, ...]

    def equals(self, signal: signal_pb2.Signal) -> bool:
        """True where the signal states exactly these numbers."""
        return (
            signal.HasField("net_edge_micros")
            and self.net_edge_micros == signal.net_edge_micros
            and self.strength_ppm == strength_ppm(signal)
        )


class CannotRecompute(ValueError):
    """The kind or version is not known here, or the signal lacks evidence."""


def strength_ppm(signal: signal_pb2.Signal) -> int:
    """The strength in parts per million; it comes in steps of one, so nothing is lost."""
    return round(signal.strength * PPM)


def recompute(signal: signal_pb2.Signal) -> Recomputed:
    """:param signal: in the FULL view.

    :raises CannotRecompute: says why in words.
    """
    formula = _FORMULAS.get((signal.kind, signal.kind_version))
    if formula is None:
        raise CannotRecompute(
            f"this version of oddstream doesn't know the formula of {signal.kind} version {signal.kind_version}"
        )
    if not signal.evidence:
        raise CannotRecompute("the signal came without its evidence: ask for the FULL view")
    try:
        return formula(signal)
    except (KeyError, StopIteration) as missing:
        raise CannotRecompute(f"the evidence lacks {missing.args[0] if missing.args else 'a value'}") from None


def _clip(ppm: int) -> int:
    return max(0, min(PPM, ppm))


def _mean_reversion(signal: signal_pb2.Signal) -> Recomputed:
    known = {e.name: e.value for e in signal.evidence}
    if not signal.HasField("fair_value_micros"):
        raise KeyError("fair_value")
    fair = signal.fair_value_micros
    if signal.direction == signal_pb2.SIGNAL_DIRECTION_UP:
        terms = (
            Term("fair value", fair),
            Term("ask price", -known["ask_price_micros"]),
            Term("fee of one contract at the ask", -known["ask_fee_micros"]),
        )
    else:
        terms = (
            Term("bid price", known["bid_price_micros"]),
            Term("fair value", -fair),
            Term("fee of one contract at the bid", -known["bid_fee_micros"]),
        )
    above = known["z_ppm"] - known["z_enter_ppm"]
    strength = _clip(above * PPM // (known["z_full_ppm"] - known["z_enter_ppm"]))
    return Recomputed(sum(t.value_micros for t in terms), strength, terms)


_FULL_STRENGTH_EDGE_MICROS = 50_000


def _event_sum(signal: signal_pb2.Signal) -> Recomputed:
    by_market = {(e.source, e.name): e.value for e in signal.evidence}
    payout = {e.name: e.value for e in signal.evidence}["payout_micros"]
    buys_outcome_0 = all(leg.outcome_index == 0 for leg in signal.legs)
    side = "ask" if buys_outcome_0 else "bid"
    prices = sum(by_market[leg.market_id, f"{side}_price_micros"] for leg in signal.legs)
    fees = sum(by_market[leg.market_id, f"{side}_fee_micros"] for leg in signal.legs)
    charged = Term(f"fees of one contract of each of {len(signal.legs)} legs", -fees)
    if buys_outcome_0:
        terms = (Term("payout of the one that wins", payout), Term("sum of the asks", -prices), charged)
    else:
        terms = (Term("sum of the bids", prices), Term("payout of the one that wins", -payout), charged)
    edge = sum(t.value_micros for t in terms)
    return Recomputed(edge, _clip(edge * PPM // _FULL_STRENGTH_EDGE_MICROS), terms)


_FORMULAS: dict[tuple[str, int], Callable[[signal_pb2.Signal], Recomputed]] = {
    ("arb.event_sum", 1): _event_sum,
    ("stat.mean_reversion", 1): _mean_reversion,
}
