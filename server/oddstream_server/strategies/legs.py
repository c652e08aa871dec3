"""From a market's quote to what one order needs: fees known at that time, legs, sizes on a common grid."""

import hashlib
import json
import math
from collections.abc import Sequence
from functools import lru_cache

from oddstream_server.domain.fees import FeeSchedule, schedule_at
from oddstream_server.domain.market import Market
from oddstream_server.domain.money import MICROS
from oddstream_server.domain.quote import Quote, Trade
from oddstream_server.domain.signal import Action, BookSide, Leg
from oddstream_server.strategies.kernel import MISSING


def touch_fees_micros(market: Market, quote: Quote) -> tuple[int, int]:
    """Taker fee of one contract at the bid (of outcome 1 at payout - bid) and at the ask.

    :data:`MISSING` where the side is, or where no schedule is known for the quote's time.
    """
    schedule = schedule_at(market.fee_schedules, quote.receive_time_us)
    if schedule is None:
        return MISSING, MISSING
    payout = market.payout_micros
    bid, ask = quote.bid_price_micros, quote.ask_price_micros
    return (
        MISSING if bid is None else _fee_of_one_micros(schedule, payout - bid, payout),
        MISSING if ask is None else _fee_of_one_micros(schedule, ask, payout),
    )


@lru_cache(maxsize=65_536)
def _fee_of_one_micros(schedule: FeeSchedule, price_micros: int, payout_micros: int) -> int:
    return schedule.fill_fee_micros(price_micros, MICROS, payout_micros=payout_micros)


def orderable(market: Market) -> bool:
    """True where a leg on either outcome can be written down: two outcomes and a price grid."""
    return len(market.outcomes) == 2 and bool(market.price_ranges)


def leg_at_ask(market: Market, quote: Quote, size_micros: int | None) -> Leg:
    """Buy outcome 0 at the ask. The quote must have one."""
    assert quote.ask_price_micros is not None
    return _leg(market, quote, 0, quote.ask_price_micros, BookSide.ASK, quote.ask_price_micros, size_micros)


def leg_at_bid(market: Market, quote: Quote, size_micros: int | None) -> Leg:
    """Buy outcome 1 at payout - bid, which takes from the bids. The quote must have one."""
    assert quote.bid_price_micros is not None
    price = market.payout_micros - quote.bid_price_micros
    return _leg(market, quote, 1, price, BookSide.BID, quote.bid_price_micros, size_micros)


def _leg(
    market: Market, quote: Quote, outcome: int, price: int, side: BookSide, book_price: int, size_micros: int | None
) -> Leg:
    schedule = schedule_at(market.fee_schedules, quote.receive_time_us)
    fee = (
        None
        if schedule is None
        else schedule.fill_fee_micros(
            price, MICROS if size_micros is None else size_micros, payout_micros=market.payout_micros
        )
    )
    return Leg(
        market_id=market.market_id,
        outcome_index=outcome,
        venue_instrument_id=market.outcomes[outcome].venue_instrument_id,
        action=Action.BUY,
        limit_price_micros=price,
        book_side=side,
        book_price_micros=book_price,
        available_size_micros=size_micros,
        tick_micros=market.tick_micros(book_price),
        minimum_size_micros=market.minimum_size_micros,
        size_step_micros=market.size_step_micros,
        neg_risk=market.neg_risk,
        taker_delay_us=market.taker_delay_us,
        expected_fee_micros=fee,
        book_epoch=quote.epoch,
        book_receive_time_us=quote.receive_time_us,
        book_venue_time_us=quote.venue_time_us,
        outcome_label=market.outcomes[outcome].label,
    )


def basket_size_micros(legs: Sequence[tuple[Market, int | None]]) -> int | None:
    """Contracts that every leg can fill: the smallest size, rounded down to the grid that all legs share.

    :param legs: each leg's market and the size at its touch.
    :returns: None where a size is unknown; 0 where the smallest leg is below a market's minimum.
    """
    sizes = [size for _, size in legs]
    if any(size is None for size in sizes):
        return None
    step = math.lcm(*(max(market.size_step_micros, 1) for market, _ in legs))
    size = min(size for size in sizes if size is not None) // step * step
    return size if size >= max(market.minimum_size_micros for market, _ in legs) else 0


def rows_digest(quotes: Sequence[Quote], trade: Trade | None = None, price: Quote | None = None) -> str:
    """SHA-256 over what the venue showed, in hex: nothing that differs between live and replay goes in.

    Ingest sequence, source and source key of quotes stay out; receive time and epoch belong to the row.

    :param trade: the print that was the row, where it was one.
    :param price: the underlying's price that was the row, where it was one.
    """
    body: list[object] = [_quote_row(q) for q in quotes]
    if trade is not None:
        body.append((trade.receive_time_us, trade.source_key, trade.price_micros, trade.size_micros))
    if price is not None:
        body.append(_quote_row(price))
    return hashlib.sha256(json.dumps(body, separators=(",", ":")).encode()).hexdigest()


def _quote_row(q: Quote) -> tuple[object, ...]:
    return (
        q.market_id,
        q.receive_time_us,
        q.venue_time_us,
        q.bid_price_micros,
        q.bid_size_micros,
        q.ask_price_micros,
        q.ask_size_micros,
        q.epoch,
    )
