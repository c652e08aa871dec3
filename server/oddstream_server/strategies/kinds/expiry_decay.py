"""decay.expiry: what a price ladder's market is worth by the price of the underlying and the time that is left.

With S the underlying's last price, K a strike, sigma its volatility a square root of a second (estimated up to the row)
and tau the time to the scheduled close:

    p(K) = Phi((ln(S / K) - sigma^2 tau / 2) / (sigma sqrt(tau)))

greater: fair = payout x p(floor); less: payout x (1 - p(cap)); between: payout x (p(floor) - p(cap)). Where the
market settles on an average over the last w seconds (crypto: 60 s), the average's variance takes the place
of sigma^2 tau: sigma^2 (tau - 2 w / 3), and nothing is said once the averaging has begun, since the part that is past
is not known here. Net edge UP = fair - ask - ask_fee, DOWN = bid - fair - bid_fee. An opportunity opens where it is
at least minimum_edge, and stays open while it is positive. Strength = clip(net edge / 5 cents). Nothing is said where
the underlying's price is older than maximum_age, or closer to the end than minimum_time, or further than
maximum_time, or where the strike isn't known yet (a price at the start of the market's window).

Computed again from the evidence: net edge = fair_value - ask_price - ask_fee (UP) or bid_price - fair_value - bid_fee
(DOWN); strength = clip(20 x net edge in ppm). The fair value itself follows from underlying_price, floor, cap, sigma
and time_left by the formula above, with the integer tables of the server.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from oddstream_server.domain.signal import Signal
from oddstream_server.strategies.arithmetic import clip_ppm, integer_square_root, log_ratio_ppb, normal_ppm
from oddstream_server.strategies.kernel import MISSING, EvidenceField, Recomputed, StrategyKind
from oddstream_server.strategies.params import Params, param
from oddstream_server.strategies.valuation import FULL_STRENGTH_MICROS, VALUE_EVIDENCE, recompute_value, tell_value

STATE: Final = np.dtype([("side", np.int64)])


@dataclass(frozen=True)
class ExpiryDecayParams(Params):
    _above: ClassVar[tuple[tuple[str, str], ...]] = (("minimum_time_us", "maximum_time_us"),)

    minimum_edge_micros: int = param(30_000, 1, 1_000_000, "micros", "least edge after fees from which one opens")
    maximum_age_us: int = param(10_000_000, 100_000, 3_600_000_000, "us", "oldest price of the underlying")
    minimum_time_us: int = param(30_000_000, 0, 86_400_000_000, "us", "least time to the end, or to the averaging")
    maximum_time_us: int = param(86_400_000_000, 1, 2_592_000_000_000, "us", "longest time to the end")
    time_to_live_us: int = param(60_000_000, 100_000, 3_600_000_000, "us", "how long a signal holds")


def above_ppm(price: Any, strike: Any, volatility_ppb: Any, left_us: Any) -> Any:
    """The chance in millionths that the underlying ends above a strike."""
    if strike <= 0:
        return 1_000_000
    if price >= strike * 8:
        return 1_000_000
    if strike >= price * 8:
        return 0
    deviation = volatility_ppb * integer_square_root(left_us) // 1_000  # of the log return until then, in billionths
    if deviation < 1:
        return 1_000_000 if price > strike else 0
    drift = deviation // 1_000 * deviation // 2_000_000
    z = (log_ratio_ppb(price, strike) - drift) * 1_000_000 // deviation
    return normal_ppm(z)


def step(state: Any, params: Any, row: Any, out: Any) -> None:
    """One quote of one market or one price of its underlying; see the module's text for the formula."""
    held = state["side"]
    state["side"] = 0
    now = row["receive_time_us"]
    price = row["underlying_price_micros"]
    volatility = row["underlying_volatility_ppb"]
    close = row["close_time_us"]
    kind = row["strike_kind"]
    if kind == 0 or close == MISSING or price <= 0 or volatility <= 0:
        return
    if now - row["underlying_time_us"] > params["maximum_age_us"]:
        return
    left = close - now
    averaging = row["averaging_us"]
    if left < params["minimum_time_us"] + averaging or left > params["maximum_time_us"]:
        return
    effective = left - averaging * 2 // 3
    share = 0
    if kind == 1 or kind == 2:
        share = above_ppm(price, row["strike_floor_micros"], volatility, effective)
    elif kind == 3 or kind == 4:
        share = 1_000_000 - above_ppm(price, row["strike_cap_micros"], volatility, effective)
    else:
        share = above_ppm(price, row["strike_floor_micros"], volatility, effective)
        share -= above_ppm(price, row["strike_cap_micros"], volatility, effective)
    fair = max(share, 0) * row["payout_micros"] // 1_000_000
    side = tell_value(row, out, fair, held, params["minimum_edge_micros"])
    if side == 0:
        return
    state["side"] = side
    out["strength_ppm"] = clip_ppm(out["net_edge_micros"] * 1_000_000 // FULL_STRENGTH_MICROS)
    out["time_to_live_us"] = min(params["time_to_live_us"], left)
    out["underlying_price_micros"] = price
    out["underlying_time_us"] = row["underlying_time_us"]
    out["volatility_ppb"] = volatility
    out["time_left_us"] = left
    out["averaging_us"] = averaging
    out["strike_kind"] = kind
    out["strike_floor_micros"] = row["strike_floor_micros"]
    out["strike_cap_micros"] = row["strike_cap_micros"]


def recompute(signal: Signal) -> Recomputed:
    """Net edge and strength from the evidence, by the formula in the module's text."""
    return recompute_value(signal)


EXPIRY_DECAY: Final = StrategyKind(
    kind="decay.expiry",
    version=1,
    display_name="Decay towards the expiry",
    description=(
        "fair = payout x Phi((ln(S / K) - sigma^2 tau / 2) / (sigma sqrt(tau))) for a market that pays above K, one "
        "less that below it, the difference between two strikes; sigma^2 (tau - 2 w / 3) where it settles on an "
        "average over w seconds. S and sigma are the underlying's up to the row. UP: net edge = fair_value - "
        "ask_price - ask_fee. DOWN: net edge = bid_price - fair_value - bid_fee. Opens from minimum_edge on, ends "
        "where the edge does."
    ),
    formula_source="Black and Scholes (1973), a cash-or-nothing option without interest; variance of an average.",
    strength_map="clip(net_edge / 5 cents)",
    columns=(
        "receive_time_us",
        "bid_price_micros",
        "ask_price_micros",
        "bid_fee_micros",
        "ask_fee_micros",
        "payout_micros",
        "close_time_us",
        "strike_kind",
        "strike_floor_micros",
        "strike_cap_micros",
        "averaging_us",
        "underlying_price_micros",
        "underlying_time_us",
        "underlying_volatility_ppb",
    ),
    params_type=ExpiryDecayParams,
    state_dtype=STATE,
    warm_up_us=0,
    recompute=recompute,
    evidence=(
        *VALUE_EVIDENCE,
        EvidenceField("underlying_price_micros", "micros", "underlying"),
        EvidenceField("underlying_time_us", "us", "underlying"),
        EvidenceField("volatility_ppb", "count", "underlying"),
        EvidenceField("time_left_us", "us"),
        EvidenceField("averaging_us", "us", "market"),
        EvidenceField("strike_kind", "count", "market"),
        EvidenceField("strike_floor_micros", "micros", "market"),
        EvidenceField("strike_cap_micros", "micros", "market"),
    ),
    step=step,
    edge_kind=True,
    has_fair_value=True,
)
