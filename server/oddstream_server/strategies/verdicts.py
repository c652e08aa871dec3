"""Between the domain and a kernel: a quote becomes a row, a kernel's output becomes a verdict with its legs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from oddstream_server.domain.market import Market
from oddstream_server.domain.quote import Quote, Trade
from oddstream_server.domain.signal import Direction, Evidence, Leg
from oddstream_server.strategies.kernel import MISSING, Side, StrategyKind
from oddstream_server.strategies.legs import (
    basket_size_micros,
    leg_at_ask,
    leg_at_bid,
    orderable,
    rows_digest,
    touch_fees_micros,
)
from oddstream_server.strategies.tracker import Verdict

Member = tuple[Market, Quote]
"""A market as known at the row's time, and its as-of quote."""


def column_values(market: Market, quote: Quote) -> dict[str, int]:
    """The columns of one quote."""
    bid_fee, ask_fee = touch_fees_micros(market, quote)
    return {
        "receive_time_us": quote.receive_time_us,
        "bid_price_micros": _or_missing(quote.bid_price_micros),
        "bid_size_micros": _or_missing(quote.bid_size_micros),
        "ask_price_micros": _or_missing(quote.ask_price_micros),
        "ask_size_micros": _or_missing(quote.ask_size_micros),
        "bid_fee_micros": bid_fee,
        "ask_fee_micros": ask_fee,
        "payout_micros": market.payout_micros,
    }


def terms_values(market: Market) -> dict[str, int]:
    """The columns of a market's terms as known."""
    strike = market.strike
    return {
        "close_time_us": _or_missing(market.close_time_us),
        "strike_kind": _STRIKE_KINDS.get(strike.kind, 0) if strike is not None and strike.is_known else 0,
        "strike_floor_micros": MISSING if strike is None else _or_missing(strike.floor_micros),
        "strike_cap_micros": MISSING if strike is None else _or_missing(strike.cap_micros),
        "averaging_us": 0 if strike is None else strike.averaging_us,
    }


_STRIKE_KINDS: Final = {"greater": 1, "greater_or_equal": 2, "less": 3, "less_or_equal": 4, "between": 5}


def print_values(trade: Trade | None) -> dict[str, int]:
    """The columns of a print, or those of a row that is none."""
    if trade is None:
        return {"trade_price_micros": MISSING, "trade_size_micros": MISSING, "trade_outcome": 0}
    taker = trade.taker_outcome_index
    return {
        "trade_price_micros": trade.price_micros,
        "trade_size_micros": trade.size_micros,
        "trade_outcome": taker + 1 if taker in (0, 1) else 0,
    }


@dataclass(frozen=True, slots=True)
class Trigger:
    """The row that a kernel was stepped on, where it isn't the market's own quote."""

    receive_time_us: int
    trade: Trade | None = None
    price: Quote | None = None
    """A price of the underlying."""


def market_verdict(
    kind: StrategyKind, out: Any, market: Market, quote: Quote, trigger: Trigger | None = None
) -> Verdict | None:
    """What a single-market kernel's output says; None where it says nothing or nothing that can be ordered."""
    side = Side(int(out["side"]))
    edge = int(out["net_edge_micros"])
    if side is Side.NONE or (kind.edge_kind and edge <= 0) or not orderable(market):
        return None
    if side is Side.UP:
        price, size = quote.ask_price_micros, quote.ask_size_micros
        make, direction = leg_at_ask, Direction.UP
    else:
        price, size = quote.bid_price_micros, quote.bid_size_micros
        make, direction = leg_at_bid, Direction.DOWN
    tradable = basket_size_micros([(market, size)])
    if tradable == 0 or price is None:
        return None
    trade, underlying = (None, None) if trigger is None else (trigger.trade, trigger.price)
    return Verdict(
        direction=direction,
        opens=bool(out["entry"]),
        strength_ppm=int(out["strength_ppm"]),
        net_edge_micros=edge if kind.has_net_edge else None,
        fair_value_micros=int(out["fair_value_micros"]) if kind.has_fair_value else None,
        time_to_live_us=int(out["time_to_live_us"]),
        legs=(make(market, quote, tradable),),
        evidence=_evidence(kind, out, market),
        input_time_us=quote.receive_time_us if trigger is None else trigger.receive_time_us,
        input_digest=lambda: rows_digest([quote], trade, underlying),
        venue=market.venue,
        all_or_none=False,
        lockup_until_us=market.expected_settlement_time_us,
    )


_OUTCOME_0: Final = 1
"""A chosen leg of outcome 0, at the ask."""
_OUTCOME_1: Final = 2
"""A chosen leg of outcome 1, at payout - bid."""
_ALL_OF_SIDE: Final = {
    Side.UP: _OUTCOME_0,
    Side.DOWN: _OUTCOME_1,
    Side.BUY_EACH: _OUTCOME_0,
    Side.SELL_EACH: _OUTCOME_1,
}
_DIRECTIONS: Final = {Side.UP: Direction.UP, Side.DOWN: Direction.DOWN}


def group_verdict(
    kind: StrategyKind, out: Any, chosen: Any, members: Sequence[Member | None], now_us: int
) -> Verdict | None:
    """What a group kernel's output says of the chosen members.

    :param members: in the order of the rows; None for one without a quote, which no kernel may choose.

    Legs come smallest size first, since that one is the most likely to be missed.
    """
    side = Side(int(out["side"]))
    edge = int(out["net_edge_micros"])
    picked = [
        (*member, _ALL_OF_SIDE.get(side, int(cell)) == _OUTCOME_0)
        for member, cell in zip(members, chosen, strict=True)
        if cell and member is not None
    ]
    if side is Side.NONE or not picked or (kind.edge_kind and edge <= 0):
        return None
    if not all(orderable(market) for market, _, _ in picked):
        return None
    sizes = [quote.ask_size_micros if buys else quote.bid_size_micros for _, quote, buys in picked]
    size = basket_size_micros([(market, s) for (market, _, _), s in zip(picked, sizes, strict=True)])
    if size == 0:
        return None
    order = sorted(
        range(len(picked)), key=lambda i: (_UNKNOWN if (s := sizes[i]) is None else s, picked[i][0].market_id)
    )
    ends = [market.expected_settlement_time_us for market, _, _ in picked]
    return Verdict(
        direction=_DIRECTIONS.get(side, Direction.BASKET),
        opens=bool(out["entry"]),
        strength_ppm=int(out["strength_ppm"]),
        net_edge_micros=edge if kind.has_net_edge else None,
        fair_value_micros=int(out["fair_value_micros"]) if kind.has_fair_value else None,
        time_to_live_us=int(out["time_to_live_us"]),
        legs=tuple(_leg_of(*picked[i], size) for i in order),
        evidence=_evidence(kind, out) + tuple(e for i in order for e in _touch(*picked[i])),
        input_time_us=now_us,
        input_digest=lambda: rows_digest([member[1] for member in members if member is not None]),
        venue=picked[order[0]][0].venue,
        all_or_none=len(picked) > 1,
        lockup_until_us=None if any(end is None for end in ends) else max(end for end in ends if end is not None),
    )


def _leg_of(market: Market, quote: Quote, buys: bool, size_micros: int | None) -> Leg:
    return leg_at_ask(market, quote, size_micros) if buys else leg_at_bid(market, quote, size_micros)


_UNKNOWN: Final = 2**62


def _touch(market: Market, quote: Quote, buys: bool) -> tuple[Evidence, ...]:
    """A leg's price, fee of one contract and, where known, size at the touch."""
    side = "ask" if buys else "bid"
    price = quote.ask_price_micros if buys else quote.bid_price_micros
    size = quote.ask_size_micros if buys else quote.bid_size_micros
    fee = touch_fees_micros(market, quote)[1 if buys else 0]
    assert price is not None
    found = [
        Evidence(f"{side}_price_micros", price, "micros", market.market_id),
        Evidence(f"{side}_fee_micros", fee, "micros", market.market_id),
    ]
    if size is not None:
        found.append(Evidence(f"{side}_size_micros", size, "micros", market.market_id))
    return tuple(found)


def _evidence(kind: StrategyKind, out: Any, market: Market | None = None) -> tuple[Evidence, ...]:
    """What a kernel wrote, with where it comes from by name: its market, or the price that the market is about."""
    names = {"market": "", "underlying": ""}
    if market is not None:
        underlying_id = "" if market.strike is None else market.strike.underlying_id
        names = {"market": market.market_id, "underlying": underlying_id}
    return tuple(Evidence(f.name, int(out[f.name]), f.unit, names.get(f.source, f.source)) for f in kind.evidence)


def _or_missing(value: int | None) -> int:
    return MISSING if value is None else value
