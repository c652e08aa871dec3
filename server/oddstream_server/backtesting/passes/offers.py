"""What the book offers to an order at one row: its touch, the levels behind it, and the place in a queue."""

from typing import Any, Final

import numpy as np

from oddstream_server.backtesting.records.columns import MISSING

AT_SIGNAL, NEXT_QUOTE, CONFIGURED = 1, 2, 4
"""Bits of an offer's moments."""


DECIDE, BUY, SELL = 1, 2, 3
"""Kinds of log entries: an entry is decided on; something can be bought; something can be sold."""


BOOK, PRINT = 0, 1
"""Phases of one instant."""


MAXIMUM_LEVELS: Final = 100


OFFER: Final = np.dtype(
    [
        (name, np.int64)
        for name in (
            "time_us",
            "phase",
            "sequence",
            "kind",
            "moments",
            "intent",
            "price_micros",
            "mid_micros",
            "size_micros",
            "depth_micros",
            "book_side",
            "maker",
        )
    ]
)
"""Price and mid are those of the intent's outcome. ``size_micros`` is MISSING where the venue tells none; ``depth`` is
what stands before it in the same book. ``book_side``: 0 takes from bids, 1 from asks."""


PENDING: Final = np.dtype(
    [
        (name, np.int64)
        for name in (
            "moments",
            "intent",
            "row",
            "arrival_us",
            "expire_us",
            "outcome",
            "resting",
            "rest_price",
            "queue_micros",
            "credited_micros",
            "credited_us",
        )
    ]
)


def gate_open(bid: Any, ask: Any, payout: Any) -> Any:
    """False for a crossed, locked or placeholder book."""
    if bid == MISSING or ask == MISSING:
        return True
    return not (bid >= ask or (bid * 100 <= payout and ask * 100 >= payout * 99))


def write_offer(
    offers: Any,
    at: Any,
    kind: Any,
    moments: Any,
    intent: Any,
    now: Any,
    phase: Any,
    sequence: Any,
    price: Any,
    mid: Any,
    size: Any,
    depth: Any,
    book_side: Any,
    maker: Any,
) -> None:
    offer = offers[at]
    offer["time_us"] = now
    offer["phase"] = phase
    offer["sequence"] = sequence
    offer["kind"] = kind
    offer["moments"] = moments
    offer["intent"] = intent
    offer["price_micros"] = price
    offer["mid_micros"] = mid
    offer["size_micros"] = size
    offer["depth_micros"] = depth
    offer["book_side"] = book_side
    offer["maker"] = maker


def offer_touch(
    offers: Any,
    written: Any,
    pending: Any,
    sells: Any,
    now: Any,
    sequence: Any,
    bid: Any,
    bid_size: Any,
    ask: Any,
    ask_size: Any,
    payout: Any,
    moments: Any,
    levels: Any,
    level_count: Any,
) -> Any:
    """Offer a usable row's touch for the moments given, and for CONFIGURED the levels behind it.

    :param levels: rows (side, price, size) of the recorded book, best first within a side.
    :returns: offers written in all; the same as before where the side is missing.
    """
    outcome = pending["outcome"]
    takes_asks = 1 - outcome if sells == 0 else outcome
    touch = ask if takes_asks else bid
    if touch == MISSING or moments == 0:
        return written
    size = ask_size if takes_asks else bid_size
    mid = touch if bid == MISSING or ask == MISSING else (bid + ask) // 2
    kind = SELL if sells else BUY
    price = touch if outcome == 0 else payout - touch
    mid = mid if outcome == 0 else payout - mid
    write_offer(offers, written, kind, moments, pending["intent"], now, 0, sequence, price, mid, size, 0, takes_asks, 0)
    written += 1
    pending["moments"] = pending["moments"] & ~moments
    if (moments & 4) == 0 or size == MISSING:
        return written
    depth = size
    first = True
    for k in range(level_count):
        if levels[k, 0] != takes_asks:
            continue
        if first:
            if levels[k, 1] != touch:
                break
            first = False
            continue
        price = levels[k, 1] if outcome == 0 else payout - levels[k, 1]
        write_offer(
            offers,
            written,
            kind,
            4,
            pending["intent"],
            now,
            0,
            sequence,
            price,
            price,
            levels[k, 2],
            depth,
            takes_asks,
            0,
        )
        written += 1
        depth += levels[k, 2]
    return written


def rest_on_quote(
    offers: Any,
    written: Any,
    pending: Any,
    now: Any,
    sequence: Any,
    bid: Any,
    bid_size: Any,
    ask: Any,
    ask_size: Any,
    payout: Any,
) -> Any:
    """What a new quote does to a resting entry; returns the offers written in all."""
    outcome = pending["outcome"]
    own, own_size = (bid, bid_size) if outcome == 0 else (ask, ask_size)
    other, other_size = (ask, ask_size) if outcome == 0 else (bid, bid_size)
    price = pending["rest_price"]
    crossed = other != MISSING and (other <= price if outcome == 0 else other >= price)
    if crossed:
        money = price if outcome == 0 else payout - price
        write_offer(
            offers, written, BUY, 4, pending["intent"], now, 0, sequence, money, money, other_size, 0, outcome, 1
        )
        return written + 1
    if own == MISSING or (own < price if outcome == 0 else own > price):
        pending["queue_micros"] = 0
    elif own == price and own_size != MISSING:
        if pending["queue_micros"] == MISSING:
            pending["queue_micros"] = own_size
        elif own_size < pending["queue_micros"]:
            if pending["credited_us"] != now:
                pending["credited_us"] = now
                pending["credited_micros"] = 0
            pending["credited_micros"] += pending["queue_micros"] - own_size
            pending["queue_micros"] = own_size
    return written


def rest_on_print(
    offers: Any, written: Any, pending: Any, now: Any, sequence: Any, price: Any, size: Any, taker: Any, payout: Any
) -> Any:
    """What a print does to a resting entry; returns the offers written in all."""
    outcome = pending["outcome"]
    mine = pending["rest_price"]
    if taker != 1 - outcome or (price > mine if outcome == 0 else price < mine):
        return written
    rest = size
    if price == mine:
        if pending["queue_micros"] == MISSING:
            return written
        if pending["credited_us"] == now:
            explained = min(rest, pending["credited_micros"])
            pending["credited_micros"] -= explained
            rest -= explained
        ahead = min(rest, pending["queue_micros"])
        pending["queue_micros"] -= ahead
        rest -= ahead
    if rest <= 0:
        return written
    money = mine if outcome == 0 else payout - mine
    write_offer(offers, written, BUY, 4, pending["intent"], now, 1, sequence, money, money, rest, 0, outcome, 1)
    return written + 1
