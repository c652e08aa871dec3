"""Second half of a run: one bankroll takes what all shards found, in one order of time.

Offers of an entry are taken as far as its budget, the free cash, the event's limit, the size on offer and the venue's
steps allow; offers of an exit as far as something is held. Cash stays locked until the venue pays; a purchase of the
other outcome merges with what is held; outcomes of which at most one can win are margined once: what they must pay
together is credited as long as they are held. At one instant payments come first, then books, then prints, and the
equity is taken last.
"""

from typing import Any, Final

from oddstream_server.backtesting.accounts.charges import MAXIMUM_SIZE_MICROS, NO_SCHEDULE, affordable_size, charge
from oddstream_server.backtesting.accounts.lots import (
    close_part,
    closes,
    event_slot,
    holds_already,
    lot_payment,
    mark_lot,
    prune,
    sellable,
    share,
    update_credit,
)
from oddstream_server.backtesting.accounts.wide import notional_down, notional_up
from oddstream_server.backtesting.passes.intents import segment_schedule
from oddstream_server.backtesting.records.columns import MISSING

FIXED, FRACTION, KELLY = 0, 1, 2


CASH, LOCKED, CREDIT, PEAK, FEES, TURNOVER, UNPRICED, SIGNALLED = range(8)
"""Places in the bank."""


BANK_PLACES: Final = 8


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
    credited: Any,
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
                update_credit(bank, credited, held, terms[m]["event"], margined, members, bounds, payout)
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
                schedules[rate],
                orders[which],
                offer["maker"],
                price,
                min(available, limits[which]),
                step,
                budget,
                payout,
                limbs,
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
            # the venue sees one fill, whose fee is rounded once; the lots that it closes share it and the proceeds
            used = sellable(lots, heads[m], intents, intent, available, step)
            if used > 0:
                fee = charge(schedules[rate], orders[which], 0, 0, price, used, payout, limbs)
                bank[0] += notional_down(price, used) - fee
                bank[4] += fee
                held[m, outcome] -= used
                sold, fee_before, proceeds_before = 0, 0, 0
                place = heads[m]
                while sold < used:
                    lot = lots[place]
                    if closes(lot, intents, intent):
                        size = min(lot["size_micros"], used - sold)
                        sold += size
                        # up to this lot, so that the last one gets the rest
                        fee_so_far, proceeds_so_far = share(fee, sold, used), notional_down(price, sold)
                        freed = close_part(
                            lots, place, entries, written, size, 1, offer_us, price, fee_so_far - fee_before,
                            proceeds_so_far - proceeds_before,
                        )  # fmt: skip
                        fee_before, proceeds_before = fee_so_far, proceeds_so_far
                        written += 1
                        bank[1] -= freed
                        event_cost[slot] -= freed
                    place = lot["next"]
        if used > 0:
            if offer["maker"] == 0:
                pools[m, 2 + offer["book_side"]] += used
            prune(lots, heads, tails, m)
            update_credit(bank, credited, held, terms[m]["event"], margined, members, bounds, payout)
            bank[3] = max(bank[3], bank[1] - bank[2])
    return lot_count, written
