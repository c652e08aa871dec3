"""What was bought and is held: lots, their ends, what they pay and what they are worth."""

from typing import Any, Final

import numpy as np

from oddstream_server.backtesting.accounts.wide import notional_down, notional_up
from oddstream_server.backtesting.records.columns import MISSING

SOLD, SETTLED, VOIDED, MERGED, OPEN = 1, 2, 3, 4, 5
"""How a position ended; the numbers are those of the contract's PositionExit."""


LOT: Final = np.dtype(
    [
        (name, np.int64)
        for name in (
            "intent",
            "market",
            "outcome",
            "state",
            "size_micros",
            "price_micros",
            "cost_micros",
            "fee_micros",
            "entry_us",
            "maker",
            "parts",
            "paid_micros",
            "exit_us",
            "next",
        )
    ]
)
"""What one fill bought. ``state``: 0 held, 1 gone, 2 paid. ``next``: the market's next lot, -1 at the end."""


ENTRY: Final = np.dtype(
    [
        (name, np.int64)
        for name in (
            "lot",
            "part",
            "intent",
            "entry_us",
            "price_micros",
            "size_micros",
            "cost_micros",
            "fee_micros",
            "maker",
            "exit",
            "exit_us",
            "exit_price_micros",
            "exit_fee_micros",
            "proceeds_micros",
        )
    ]
)
"""One row of the blotter: a part of a lot from its purchase to its end."""


EQUITY: Final = np.dtype([(name, np.int64) for name in ("time_us", "equity_micros", "cash_micros", "locked_micros")])


def share(amount: Any, part: Any, whole: Any) -> Any:
    """``amount x part / whole`` rounded down, for part <= whole < 2^61 and any amount, without leaving 64 bits."""
    high, low = amount // whole, amount % whole
    quotient, rest = 0, 0
    for k in range(61):
        bit = (part >> (60 - k)) & 1
        quotient = quotient * 2
        rest = rest * 2
        if rest >= whole:
            rest -= whole
            quotient += 1
        if bit:
            rest += low
            if rest >= whole:
                rest -= whole
                quotient += 1
    return high * part + quotient


def payout_of(payout: Any, outcome: Any, terms_payout: Any) -> Any:
    """What one contract of an outcome pays."""
    return payout if outcome == 0 else terms_payout - payout


def lot_payment(lot: Any, payout: Any, terms_payout: Any) -> Any:
    """What a lot pays; a payout of -1 returns the stake."""
    if payout < 0:
        return lot["cost_micros"]
    return notional_down(payout_of(payout, lot["outcome"], terms_payout), lot["size_micros"])


def guaranteed(held: Any, members: Any, begin: Any, end: Any) -> Any:
    """Contracts that an exclusive event's positions pay whoever wins.

    :param held: contracts by (market, outcome).
    """
    total = 0
    for j in range(begin, end):
        if members[j] >= 0:
            total += held[members[j], 1]
    least = total
    for j in range(begin, end):
        if members[j] >= 0:
            least = min(least, total - held[members[j], 1] + held[members[j], 0])
    return least


def update_credit(
    bank: Any, credited: Any, held: Any, event: Any, margined: Any, members: Any, bounds: Any, payout: Any
) -> None:
    """Bring the credit of a market's event up to date with what is held."""
    if event < 0 or margined[event] == 0:
        return
    now = notional_down(payout, guaranteed(held, members, bounds[event], bounds[event + 1]))
    bank[0] += now - credited[event]
    bank[2] += now - credited[event]
    credited[event] = now


def close_part(
    lots: Any,
    place: Any,
    entries: Any,
    written: Any,
    size: Any,
    way: Any,
    now: Any,
    price: Any,
    exit_fee: Any,
    proceeds: Any,
) -> Any:
    """Write the end of a part of a lot and take it out; returns the cost of the part."""
    lot = lots[place]
    rest = lot["size_micros"] - size
    cost = lot["cost_micros"] - notional_up(lot["price_micros"], rest)
    fee = lot["fee_micros"] if rest == 0 else share(lot["fee_micros"], size, lot["size_micros"])
    entry = entries[written]
    entry["lot"] = place
    entry["part"] = lot["parts"]
    entry["intent"] = lot["intent"]
    entry["entry_us"] = lot["entry_us"]
    entry["price_micros"] = lot["price_micros"]
    entry["size_micros"] = size
    entry["cost_micros"] = cost
    entry["fee_micros"] = fee
    entry["maker"] = lot["maker"]
    entry["exit"] = way
    entry["exit_us"] = now
    entry["exit_price_micros"] = price
    entry["exit_fee_micros"] = exit_fee
    entry["proceeds_micros"] = proceeds
    lot["parts"] += 1
    lot["size_micros"] = rest
    lot["cost_micros"] -= cost
    lot["fee_micros"] -= fee
    if rest == 0:
        lot["state"] = 1
    return cost


def event_slot(terms: Any, market: Any) -> Any:
    """Place of a market's event among the events and, for markets without one, of the market behind them."""
    return terms["event"] if terms["event"] >= 0 else -1 - market


def prune(lots: Any, heads: Any, tails: Any, market: Any) -> None:
    """Take the lots that are gone out of a market's list."""
    place = heads[market]
    before = -1
    while place >= 0:
        after = lots[place]["next"]
        if lots[place]["state"] != 1:
            before = place
        elif before < 0:
            heads[market] = after
        else:
            lots[before]["next"] = after
        place = after
    tails[market] = before


def holds_already(lots: Any, place: Any, intents: Any, which: Any) -> Any:
    """True where the strategy holds the outcome of this subject from another entry: it doesn't add to it."""
    wanted = intents[which]
    while place >= 0:
        lot = lots[place]
        if lot["state"] == 0 and lot["outcome"] == wanted["outcome"] and lot["intent"] != which:
            mine = intents[lot["intent"]]
            if mine["strategy"] == wanted["strategy"] and mine["subject"] == wanted["subject"]:
                return True
        place = lot["next"]
    return False


def closes(lot: Any, intents: Any, wanted: Any) -> Any:
    """True where an exit sells this lot: it is held, and of the same strategy, subject and outcome."""
    if lot["state"] != 0 or lot["outcome"] != wanted["outcome"]:
        return False
    mine = intents[lot["intent"]]
    return mine["strategy"] == wanted["strategy"] and mine["subject"] == wanted["subject"]


def sellable(lots: Any, place: Any, intents: Any, wanted: Any, available: Any, step: Any) -> Any:
    """How much an exit's fill sells of a market's lots: what is held, up to what the book takes in whole steps."""
    held = 0
    while place >= 0:
        lot = lots[place]
        if closes(lot, intents, wanted):
            held += lot["size_micros"]
        place = lot["next"]
    return min(held, available // step * step)


def mark_lot(lot: Any, known: Any, mark: Any, terms: Any) -> Any:
    """A held lot's worth: its payout once that is known, else the bid of its outcome, 0 where there is none."""
    if known[0] != 0:
        return lot_payment(lot, known[1], terms["payout_micros"])
    return notional_down(mark_price(lot["outcome"], mark, terms["payout_micros"]), lot["size_micros"])


def mark_price(outcome: Any, mark: Any, payout: Any) -> Any:
    """Bid of an outcome, 0 where there is none."""
    if outcome == 0:
        return max(mark[0], 0)
    return payout - mark[1] if mark[1] != MISSING else 0


def close_all(
    lots: Any, lot_count: Any, entries: Any, written: Any, known: Any, marks: Any, mark_of: Any, terms: Any, end_us: Any
) -> Any:
    """Write what is left at the end: paid lots as settled or voided, held ones as open at their mark."""
    for place in range(lot_count):
        lot = lots[place]
        if lot["state"] == 1:
            continue
        m = lot["market"]
        payout = terms[m]["payout_micros"]
        if lot["state"] == 2:
            price = lot["price_micros"] if known[m, 4] < 0 else payout_of(known[m, 4], lot["outcome"], payout)
            way = 3 if known[m, 5] != 0 else 2
            close_part(
                lots, place, entries, written, lot["size_micros"], way, lot["exit_us"], price, 0, lot["paid_micros"]
            )
        else:
            price = mark_price(lot["outcome"], marks[len(marks) - 1, mark_of[m]], payout)
            worth = mark_lot(lot, known[m], marks[len(marks) - 1, mark_of[m]], terms[m])
            if known[m, 0] != 0:
                price = lot["price_micros"] if known[m, 1] < 0 else payout_of(known[m, 1], lot["outcome"], payout)
            close_part(lots, place, entries, written, lot["size_micros"], 5, end_us, price, 0, worth)
        written += 1
    return written
