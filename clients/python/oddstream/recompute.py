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

    :ivar net_edge_micros: None for kinds that tell a direction and not a value.
    :ivar terms: the sum that gives the net edge, term by term; for kinds without one, what the strength is made of.
    """

    net_edge_micros: int | None
    strength_ppm: int
    terms: tuple[Term, ...]

    def equals(self, signal: signal_pb2.Signal) -> bool:
        """True where the signal states exactly these numbers."""
        stated = signal.net_edge_micros if signal.HasField("net_edge_micros") else None
        return self.net_edge_micros == stated and self.strength_ppm == strength_ppm(signal)


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
    except ZeroDivisionError:
        raise CannotRecompute("the evidence has a zero where the formula divides") from None


def _clip(ppm: int) -> int:
    return max(0, min(PPM, ppm))


def _known(signal: signal_pb2.Signal) -> dict[str, int]:
    return {e.name: e.value for e in signal.evidence}


def _value_terms(signal: signal_pb2.Signal, known: dict[str, int]) -> tuple[Term, ...]:
    """The edge of a fair value against the side that the signal takes."""
    if not signal.HasField("fair_value_micros"):
        raise KeyError("fair_value")
    fair = signal.fair_value_micros
    if signal.direction == signal_pb2.SIGNAL_DIRECTION_UP:
        return (
            Term("fair value", fair),
            Term("ask price", -known["ask_price_micros"]),
            Term("fee of one contract at the ask", -known["ask_fee_micros"]),
        )
    return (
        Term("bid price", known["bid_price_micros"]),
        Term("fair value", -fair),
        Term("fee of one contract at the bid", -known["bid_fee_micros"]),
    )


def _between(value: int, known: dict[str, int], name: str) -> int:
    """Strength of a statistic between the parameters where one opens and where it is full."""
    enter, full = known[f"{name}_enter_ppm"], known[f"{name}_full_ppm"]
    return _clip((value - enter) * PPM // (full - enter))


def _mean_reversion(signal: signal_pb2.Signal) -> Recomputed:
    known = _known(signal)
    terms = _value_terms(signal, known)
    return Recomputed(sum(t.value_micros for t in terms), _between(known["z_ppm"], known, "z"), terms)


def _mispricing(signal: signal_pb2.Signal) -> Recomputed:
    known = _known(signal)
    terms = _value_terms(signal, known)
    z = abs(known["residual_micros"]) * 1000 * PPM // known["scale_milli"]
    return Recomputed(sum(t.value_micros for t in terms), _between(z, known, "z"), terms)


def _fair_value(signal: signal_pb2.Signal) -> Recomputed:
    terms = _value_terms(signal, _known(signal))
    edge = sum(t.value_micros for t in terms)
    return Recomputed(edge, _clip(edge * PPM // _FULL_STRENGTH_EDGE_MICROS), terms)


def _momentum(signal: signal_pb2.Signal) -> Recomputed:
    known = _known(signal)
    change, deviation = known["change_logit_micros"], known["deviation_logit_micros"]
    terms = (Term("change of a day in log-odds", change), Term("deviation of that day", deviation))
    return Recomputed(None, _between(abs(change) * PPM // deviation, known, "z"), terms)


def _imbalance(signal: signal_pb2.Signal) -> Recomputed:
    known = _known(signal)
    flow, depth = known["flow_size_micros"], known["depth_contracts"]
    terms = (Term("net flow of ten seconds in contracts", flow), Term("mean depth in contracts", depth * PPM))
    return Recomputed(None, _between(abs(flow) // depth, known, "ratio"), terms)


def _large_trade(signal: signal_pb2.Signal) -> Recomputed:
    known = _known(signal)
    net, depth = known["net_notional_cents"], known["depth_notional_cents"]
    terms = (Term("net notional of large prints", net * 10_000), Term("notional at the touch", depth * 10_000))
    return Recomputed(None, _between(abs(net) * PPM // depth, known, "ratio"), terms)


def _volume_spike(signal: signal_pb2.Signal) -> Recomputed:
    known = _known(signal)
    above, deviation = known["log_volume_e4"] - known["median_e4"], known["deviation_e4"]
    terms = (
        Term("ln(1 + volume) above the usual", above * 100),
        Term("usual distance from it", deviation * 100),
    )
    return Recomputed(None, _between(above * 10_000 * PPM // (14_826 * deviation), known, "z"), terms)


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


def _pair(signal: signal_pb2.Signal) -> Recomputed:
    """Two legs that pay at least one payout together."""
    by_market = {(e.source, e.name): e.value for e in signal.evidence}
    payout = _known(signal)["payout_micros"]
    terms = [Term("payout of at least one leg", payout)]
    for leg in signal.legs:
        bought = leg.outcome_index == 0
        side = "ask" if bought else "bid"
        price = by_market[leg.market_id, f"{side}_price_micros"]
        terms.append(Term(f"price of leg {leg.leg_number}", -(price if bought else payout - price)))
        terms.append(
            Term(f"fee of one contract of leg {leg.leg_number}", -by_market[leg.market_id, f"{side}_fee_micros"])
        )
    edge = sum(t.value_micros for t in terms)
    return Recomputed(edge, _clip(edge * PPM // _FULL_STRENGTH_EDGE_MICROS), tuple(terms))


_FORMULAS: dict[tuple[str, int], Callable[[signal_pb2.Signal], Recomputed]] = {
    ("arb.cross_venue", 1): _pair,
    ("arb.event_sum", 1): _event_sum,
    ("arb.monotone", 1): _pair,
    ("book.imbalance", 1): _imbalance,
    ("calib.longshot", 1): _fair_value,
    ("decay.expiry", 1): _fair_value,
    ("flow.large_trade", 1): _large_trade,
    ("flow.volume_spike", 1): _volume_spike,
    ("stat.mean_reversion", 1): _mean_reversion,
    ("stat.momentum", 1): _momentum,
    ("surface.mispricing", 1): _mispricing,
}
