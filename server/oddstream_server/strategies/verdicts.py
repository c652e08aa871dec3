"""Between the domain and a kernel: a quote becomes a row, a kernel's output becomes a verdict with its legs."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from oddstream_server.domain.market import Market
from oddstream_server.domain.quote import Quote
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
    """The value of every column of the allow-list for one quote."""
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


def market_verdict(kind: StrategyKind, out: Any, market: Market, quote: Quote) -> Verdict | None:
    """What a single-market kernel's output says; None where it says nothing or nothing that can be ordered."""
    side = Side(int(out["side"]))
    edge = int(out["net_edge_micros"])
    if side is Side.NONE or (kind.edge_kind and edge <= 0) or not orderable(market):
        return None
    if side is Side.UP:
        size = quote.ask_size_micros
        make, direction = leg_at_ask, Direction.UP
    else:
        size = quote.bid_size_micros
        make, direction = leg_at_bid, Direction.DOWN
    tradable = basket_size_micros([(market, size)])
    if tradable == 0:
        return None
    return Verdict(
        direction=direction,
        opens=bool(out["entry"]),
        strength_ppm=int(out["strength_ppm"]),
        net_edge_micros=edge,
        fair_value_micros=int(out["fair_value_micros"]) if kind.has_fair_value else None,
        time_to_live_us=int(out["time_to_live_us"]),
        legs=(make(market, quote, tradable),),
        evidence=_evidence(kind, out, market.market_id),
        input_time_us=quote.receive_time_us,
        input_digest=lambda: rows_digest([quote]),
        venue=market.venue,
        all_or_none=False,
        lockup_until_us=market.expected_settlement_time_us,
    )


def group_verdict(
    kind: StrategyKind, out: Any, chosen: Any, members: Sequence[Member | None], now_us: int
) -> Verdict | None:
    """What a group kernel's output says of the chosen members.

    :param members: in the order of the rows; None for one without a quote, which no kernel may choose.

    Legs come smallest size first, since that one is the most likely to be missed.
    """
    side = Side(int(out["side"]))
    edge = int(out["net_edge_micros"])
    picked = [member for member, cell in zip(members, chosen, strict=True) if cell and member is not None]
    if side is Side.NONE or not picked or (kind.edge_kind and edge <= 0):
        return None
    if not all(orderable(market) for market, _ in picked):
        return None
    buys = side is Side.BUY_EACH
    sizes = [quote.ask_size_micros if buys else quote.bid_size_micros for _, quote in picked]
    size = basket_size_micros([(market, s) for (market, _), s in zip(picked, sizes, strict=True)])
    if size == 0:
        return None
    order = sorted(
        range(len(picked)), key=lambda i: (_UNKNOWN if (s := sizes[i]) is None else s, picked[i][0].market_id)
    )
    make: Callable[[Market, Quote, int | None], Leg] = leg_at_ask if buys else leg_at_bid
    ends = [market.expected_settlement_time_us for market, _ in picked]
    return Verdict(
        direction=Direction.BASKET,
        opens=bool(out["entry"]),
        strength_ppm=int(out["strength_ppm"]),
        net_edge_micros=edge,
        fair_value_micros=None,
        time_to_live_us=int(out["time_to_live_us"]),
        legs=tuple(make(*picked[i], size) for i in order),
        evidence=_evidence(kind, out, "") + tuple(e for i in order for e in _touch(*picked[i], buys=buys)),
        input_time_us=now_us,
        input_digest=lambda: rows_digest([member[1] for member in members if member is not None]),
        venue=picked[order[0]][0].venue,
        all_or_none=True,
        lockup_until_us=None if any(end is None for end in ends) else max(end for end in ends if end is not None),
    )


_UNKNOWN: Final = 2**62


def _touch(market: Market, quote: Quote, *, buys: bool) -> tuple[Evidence, ...]:
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


def _evidence(kind: StrategyKind, out: Any, market_id: str) -> tuple[Evidence, ...]:
    return tuple(
        Evidence(f.name, int(out[f.name]), f.unit, market_id if f.source == "market" else f.source)
        for f in kind.evidence
    )


def _or_missing(value: int | None) -> int:
    return MISSING if value is None else value
