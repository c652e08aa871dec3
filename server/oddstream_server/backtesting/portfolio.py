"""Second half of a run: one bankroll takes what all shards found, in one order of time.

Offers of an entry are taken as far as its budget, the free cash, the event's limit, the size on offer and the venue's
steps allow; offers of an exit as far as something is held. Cash stays locked until the venue pays; a purchase of the
other outcome merges with what is held; outcomes of which at most one can win are margined once: what they must pay
together is credited as long as they are held. At one instant payments come first, then books, then prints, and the
equity is taken last.
"""

from typing import Any, Final

import numpy as np

from oddstream_server.backtesting.charges import MAXIMUM_SIZE_MICROS, NO_SCHEDULE, affordable_size, charge
from oddstream_server.backtesting.columns import MISSING
from oddstream_server.backtesting.signals import segment_schedule
from oddstream_server.backtesting.wide import notional_down, notional_up

SOLD, SETTLED, VOIDED, MERGED, OPEN = 1, 2, 3, 4, 5
"""How a position ended; the numbers are those of the contract's PositionExit."""
FIXED, FRACTION, KELLY = 0, 1, 2

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
"""What one fill bought and is still held. ``state``: 0 held, 1 gone, 2 paid. ``next``: the market's next lot, -1 at the end."""

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

EQUITY: Final = np.dtype(
    [(name, np.int64) for name in ("time_us", "equity_micros", "cash_micros", "locked_micros")]
)

CASH, LOCKED, CREDIT, PEAK, FEES, TURNOVER, UNPRICED, SIGNALLED = range(8)
"""Places in the bank."""
BANK_PLACES: Final = 8


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


def update_credit(bank: Any, credits: Any, held: Any, event: Any, margined: Any, members: Any, bounds: Any, payout: Any) -> None:
    """Bring the credit of a market's event up to date with what is held."""
    if event < 0 or margined[event] == 0:
        return
    now = notional_down(payout, guaranteed(held, members, bounds[event], bounds[event + 1]))
    bank[0] += now - credits[event]
    bank[2] += now - credits[event]
    credits[event] = now


def close_part(
    lots: Any, place: Any, entries: Any, written: Any, size: Any, way: Any, now: Any, price: Any, exit_fee: Any,
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


def stake(rules: Any, bankroll: Any, price: Any, fee: Any, fair: Any, payout: Any) -> Any:
    """What an entry may cost: fixed, a share of the bankroll, or a capped part of the Kelly fraction.

    :param rules: [kind, stake or share in ppm, cap in ppm].
    """
    if rules[0] == FIXED:
        return rules[1]
    if bankroll <= 0:
        return 0
    if rules[0] == FRACTION:
        return notional_down(rules[1], bankroll)
    cost = price + fee
    if fair == MISSING or fee == MISSING or cost >= payout or fair <= cost:
        return 0
    kelly = (fair - cost) * 1_000_000 // (payout - cost)
    return notional_down(min(kelly * rules[1] // 1_000_000, rules[2]), bankroll)


def budget_basket(
    intents: Any, first: Any, terms: Any, rules: Any, bankroll: Any, budgets: Any, limits: Any, started: Any
) -> None:
    """Decide what the entries of one basket may cost, or how large each leg may be."""
    head = intents[first]
    legs = head["legs"]
    if legs == 1:
        payout = terms[head["market"]]["payout_micros"]
        budgets[first] = stake(rules, bankroll, head["price_micros"], head["fee_micros"], head["fair_micros"], payout)
        limits[first] = MAXIMUM_SIZE_MICROS
        started[first] = 1
        return
    unit, size, grid, priced = 0, MAXIMUM_SIZE_MICROS, 1, True
    for k in range(first, first + legs):
        leg = intents[k]
        unit += leg["price_micros"] + max(leg["fee_micros"], 0)
        priced = priced and leg["fee_micros"] != MISSING
        if leg["size_micros"] != MISSING:
            size = min(size, leg["size_micros"])
        step = terms[leg["market"]]["size_step_micros"]
        a, b = grid, step
        while b != 0:
            a, b = b, a % b
        grid = grid // a * step
    edge = head["net_edge_micros"]
    payout = unit + edge
    budget = min(stake(rules, bankroll, unit, 0, payout, payout + 1), unit * 10_000_000)
    # contracts = budget / unit, split so that nothing leaves 64 bits
    whole = budget // unit if unit > 0 else 0
    if unit > 0:
        size = min(size, whole * 1_000_000 + (budget - whole * unit) * 1_000_000 // unit)
    size = size // grid * grid if priced else 0
    for k in range(first, first + legs):
        budgets[k] = 2**61
        limits[k] = size
        started[k] = 1


def run_bank(
    offers: Any,
    intents: Any,
    payments: Any,
    grid_us: Any,
    marks: Any,
    mark_of: Any,
    terms: Any,
    segments: Any,
    schedules: Any,
    members: Any,
    bounds: Any,
    margined: Any,
    rules: Any,
    options: Any,
    bank: Any,
    budgets: Any,
    limits: Any,
    started: Any,
    orders: Any,
    lots: Any,
    entries: Any,
    heads: Any,
    tails: Any,
    known: Any,
    held: Any,
    event_cost: Any,
    credits: Any,
    pools: Any,
    active: Any,
    equity: Any,
    limbs: Any,
) -> Any:
    """Walk the log once; returns the number of lots and of blotter rows.

    :param options: [moment bit, price at the mid, fees, largest cost of an event].
    :param known: by market: [payout known, payout, void, paid, payout as paid, void as paid].
    :param pools: by market: [time, sequence, taken from bids, taken from asks] of the last book that was taken from.
    """
    moment, at_mid, with_fees, event_limit = options[0], options[1] != 0, options[2] != 0, options[3]
    free = len(schedules) - 1
    lot_count, written, active_count = 0, 0, 0
    o, p, g = 0, 0, 0
    while o < len(offers) or p < len(payments) or g < len(grid_us):
        offer_us = offers[o]["time_us"] if o < len(offers) else 2**62
        payment_us = payments[p]["time_us"] if p < len(payments) else 2**62
        mark_us = grid_us[g] if g < len(grid_us) else 2**62
        if payment_us <= offer_us and payment_us <= mark_us:
            if g == len(grid_us):
                break  # after the end of the range
            m = payments[p]["market"]
            if payments[p]["pays"] == 0:
                known[m, 0] = 1
                known[m, 1] = payments[p]["payout_micros"]
                known[m, 2] = payments[p]["void"]
            else:
                known[m, 3] = 1
                known[m, 4] = known[m, 1]
                known[m, 5] = known[m, 2]
                payout = terms[m]["payout_micros"]
                place = heads[m]
                while place >= 0:
                    lot = lots[place]
                    if lot["state"] != 1:
                        due = lot_payment(lot, known[m, 1], payout)
                        bank[0] += due - lot["paid_micros"]
                        if lot["state"] == 0:
                            bank[1] -= lot["cost_micros"]
                            event_cost[event_slot(terms[m], m)] -= lot["cost_micros"]
                            held[m, lot["outcome"]] -= lot["size_micros"]
                            lot["state"] = 2
                            lot["exit_us"] = payment_us
                        lot["paid_micros"] = due
                    place = lot["next"]
                update_credit(bank, credits, held, terms[m]["event"], margined, members, bounds, payout)
            p += 1
            continue
        if mark_us < offer_us:
            value = 0
            kept = 0
            for k in range(active_count):
                lot = lots[active[k]]
                if lot["state"] != 0:
                    continue
                active[kept] = active[k]
                kept += 1
                value += mark_lot(lot, known[lot["market"]], marks[g, mark_of[lot["market"]]], terms[lot["market"]])
            active_count = kept
            equity[g]["time_us"] = mark_us
            equity[g]["equity_micros"] = bank[0] - bank[2] + value
            equity[g]["cash_micros"] = bank[0]
            equity[g]["locked_micros"] = bank[1] - bank[2]
            g += 1
            continue
        offer = offers[o]
        o += 1
        if (offer["moments"] & moment) == 0:
            continue
        which = offer["intent"]
        intent = intents[which]
        m = intent["market"]
        if offer["kind"] == 1:
            if which == intent["basket"]:
                bank[7] += 1
                budget_basket(intents, which, terms, rules, bank[0] - bank[2] + bank[1], budgets, limits, started)
            continue
        if known[m, 0] != 0:
            continue
        if pools[m, 0] != offer_us or pools[m, 1] != offer["sequence"]:
            pools[m, 0] = offer_us
            pools[m, 1] = offer["sequence"]
            pools[m, 2] = 0
            pools[m, 3] = 0
        available = MAXIMUM_SIZE_MICROS
        if offer["size_micros"] != MISSING:
            available = offer["size_micros"]
            if offer["maker"] == 0:
                taken = pools[m, 2 + offer["book_side"]]
                available = min(available, max(offer["depth_micros"] + available - taken, 0))
        rate = free
        if with_fees:
            rate = segment_schedule(segments, terms[m]["segment_begin"], terms[m]["segment_end"], offer_us)
            if rate == NO_SCHEDULE:
                bank[6] += 1
                continue
        payout = terms[m]["payout_micros"]
        step = terms[m]["size_step_micros"]
        price = offer["mid_micros"] if at_mid else offer["price_micros"]
        outcome = intent["outcome"]
        slot = event_slot(terms[m], m)
        used = 0
        if price <= 0 or price >= payout:
            continue
        if offer["kind"] == 2:
            if started[which] == 0 or holds_already(lots, heads[m], intents, which):
                continue
            budget = min(budgets[which], bank[0])
            if event_limit >= 0:
                budget = min(budget, event_limit - event_cost[slot])
            size = affordable_size(
                schedules[rate], orders[which], offer["maker"], price, min(available, limits[which]), step, budget,
                payout, limbs,
            )
            if size == 0 or (started[which] == 1 and size < terms[m]["minimum_size_micros"]):
                continue
            started[which] = 2
            fee = charge(schedules[rate], orders[which], offer["maker"], 1, price, size, payout, limbs)
            cost = notional_up(price, size)
            bank[0] -= cost + fee
            bank[1] += cost
            bank[4] += fee
            bank[5] += cost
            budgets[which] -= cost + fee
            limits[which] -= size
            event_cost[slot] += cost
            held[m, outcome] += size
            used = size
            lot = lots[lot_count]
            lot["intent"] = which
            lot["market"] = m
            lot["outcome"] = outcome
            lot["state"] = 0
            lot["size_micros"] = size
            lot["price_micros"] = price
            lot["cost_micros"] = cost
            lot["fee_micros"] = fee
            lot["entry_us"] = offer_us
            lot["maker"] = offer["maker"]
            lot["parts"] = 0
            lot["paid_micros"] = 0
            lot["exit_us"] = MISSING
            lot["next"] = -1
            if heads[m] < 0:
                heads[m] = lot_count
            else:
                lots[tails[m]]["next"] = lot_count
            tails[m] = lot_count
            place = heads[m]
            while place >= 0 and lot["state"] == 0:
                other = lots[place]
                if other["state"] == 0 and other["outcome"] != outcome:
                    size = min(other["size_micros"], lot["size_micros"])
                    whole = notional_down(payout, size)
                    first = notional_down(payout - price, size)
                    freed = close_part(lots, place, entries, written, size, 4, offer_us, payout - price, 0, first)
                    freed += close_part(
                        lots, lot_count, entries, written + 1, size, 4, offer_us, price, 0, whole - first
                    )
                    written += 2
                    bank[0] += whole
                    bank[1] -= freed
                    event_cost[slot] -= freed
                    held[m, 0] -= size
                    held[m, 1] -= size
                place = other["next"]
            if lot["state"] == 0:
                active[active_count] = lot_count
                active_count += 1
            lot_count += 1
        else:
            place = heads[m]
            while place >= 0 and available > 0:
                lot = lots[place]
                mine = intents[lot["intent"]]
                if (
                    lot["state"] == 0
                    and lot["outcome"] == outcome
                    and mine["strategy"] == intent["strategy"]
                    and mine["subject"] == intent["subject"]
                ):
                    size = min(lot["size_micros"], available // step * step)
                    if size > 0:
                        fee = charge(schedules[rate], orders[which], 0, 0, price, size, payout, limbs)
                        proceeds = notional_down(price, size)
                        freed = close_part(lots, place, entries, written, size, 1, offer_us, price, fee, proceeds)
                        written += 1
                        bank[0] += proceeds - fee
                        bank[1] -= freed
                        bank[4] += fee
                        event_cost[slot] -= freed
                        held[m, outcome] -= size
                        available -= size
                        used += size
                place = lot["next"]
        if used > 0:
            if offer["maker"] == 0:
                pools[m, 2 + offer["book_side"]] += used
            update_credit(bank, credits, held, terms[m]["event"], margined, members, bounds, payout)
            bank[3] = max(bank[3], bank[1] - bank[2])
    return lot_count, written


def event_slot(terms: Any, market: Any) -> Any:
    """Place of a market's event among the events and, for markets without one, of the market behind them."""
    return terms["event"] if terms["event"] >= 0 else -1 - market


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
