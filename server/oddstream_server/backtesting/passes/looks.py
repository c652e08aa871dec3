"""The loop of a group strategy: whole instants, each event or link looked at once after all of its rows."""

from typing import Any, Final

import numpy as np

from oddstream_server.backtesting.passes.intents import revision_at, tick_at, touch_fee, write_intent
from oddstream_server.backtesting.records.columns import MISSING

GROUP: Final = np.dtype([(n, np.int64) for n in ("opened", "expire_us", "size_micros", "dirty", "row", "ready")])
"""``ready``: what counts among the members with a quote; see ``needed`` of :func:`drive_groups`."""


MEMBER: Final = np.dtype(
    [
        (n, np.int64)
        for n in (
            "quoted",
            "shut",
            "void",
            "stale_from_us",
            "open_leg",
            "armed_leg",
            "price_micros",
            "tick_micros",
            "bid_size_micros",
            "ask_size_micros",
        )
    ]
)
"""``open_leg`` and ``armed_leg``: 1 + the outcome bought, 0 for none."""


def bound_step(state: Any, params: Any, rows: Any, out: Any, chosen: Any) -> None:
    """Stands for the strategy's step, which is bound in its place."""
    raise NotImplementedError


def bound_gate(state: Any, params: Any, row: Any, out: Any) -> None:
    """Stands for the gate's step, which is bound in its place."""
    raise NotImplementedError


def bound_stale_after(state: Any, params: Any) -> Any:
    """Stands for the gate's measure of staleness, which is bound in its place."""
    raise NotImplementedError


def leave_all(
    intents: Any,
    written: Any,
    members: Any,
    info: Any,
    begin: Any,
    end: Any,
    row: Any,
    now: Any,
    sequence: Any,
    strategy: Any,
    subject: Any,
) -> Any:
    """Intents to leave every armed leg; returns the number of intents written in all."""
    for j in range(begin, end):
        if info[j]["armed_leg"] != 0:
            write_intent(intents, written, 2, row, now, sequence, strategy, members[j], info[j]["armed_leg"] - 1)
            intents[written]["subject"] = subject
            written += 1
            info[j]["armed_leg"] = 0
    return written


def drive_groups(
    begin: Any,
    end: Any,
    market: Any,
    receive_time_us: Any,
    ingest_sequence: Any,
    bid_price: Any,
    bid_size: Any,
    ask_price: Any,
    ask_size: Any,
    epoch: Any,
    terms: Any,
    ranges: Any,
    revisions: Any,
    revision_bounds: Any,
    revised_terms: Any,
    segments: Any,
    schedules: Any,
    changes: Any,
    memo: Any,
    scratch_order: Any,
    limbs: Any,
    status: Any,
    cursors: Any,
    places: Any,
    place_bounds: Any,
    group_of: Any,
    weights: Any,
    own_terms: Any,
    members: Any,
    bounds: Any,
    speakable_us: Any,
    groups: Any,
    info: Any,
    gate_states: Any,
    gate_params: Any,
    gate_cells: Any,
    gate_row: Any,
    gate_out_cells: Any,
    gate_out: Any,
    states: Any,
    state_cells: Any,
    params: Any,
    cells: Any,
    seen_cells: Any,
    seen_rows: Any,
    out_cells: Any,
    out: Any,
    chosen: Any,
    dirty: Any,
    intents: Any,
    counts: Any,
    options: Any,
) -> Any:
    """Whole instants from row ``begin``; returns the row to go on with, before ``end`` where ``intents`` is full.

    :param cursors: [next change, intents written, largest number of intents that one instant can make].
    :param places: a market's places among ``members``, from ``place_bounds[m]`` to ``place_bounds[m + 1]``.
    :param weights: what a place adds to its group's ``ready`` at its first quote; options[6] of it are needed.
    :param own_terms: by market, the cells of its terms, which are seen from its first quote on.
    :param speakable_us: [from, to) of each group: when something may be said of it.
    """
    strategy, needs_fees, edge_kind, has_fair = options[0], options[1] != 0, options[2] != 0, options[3] != 0
    holds, first_us, needed, subjects = options[4] != 0, options[5], options[6], options[7]
    change, written = cursors[0], cursors[1]
    change_count = len(changes)
    i = begin
    while i < end and written + cursors[2] <= len(intents):
        now = receive_time_us[i]
        while change < change_count and changes[change]["time_us"] <= now:
            status[changes[change]["market"]] = changes[change]["status"]
            change += 1
        dirty_count = 0
        while i < end and receive_time_us[i] == now:
            m = market[i]
            if status[m] == 0 or place_bounds[m] == place_bounds[m + 1]:
                i += 1
                continue
            bid, ask = bid_price[i], ask_price[i]
            payout = terms[m]["payout_micros"]
            gate_cells[0] = now
            gate_cells[1] = epoch[i]
            gate_cells[2] = bid
            gate_cells[3] = ask
            gate_cells[4] = payout
            gate_out_cells[0] = 0
            gate_out_cells[1] = 0
            bound_gate(gate_states[m], gate_params[0], gate_row[0], gate_out[0])
            shut = gate_out_cells[0] if status[m] == 2 else 4
            stale_from = now + bound_stale_after(gate_states[m], gate_params[0])
            bid_fee, ask_fee = MISSING, MISSING
            if needs_fees and bid != MISSING:
                bid_fee = touch_fee(terms[m], segments, schedules, memo, scratch_order, limbs, payout - bid, now)
            if needs_fees and ask != MISSING:
                ask_fee = touch_fee(terms[m], segments, schedules, memo, scratch_order, limbs, ask, now)
            for k in range(place_bounds[m], place_bounds[m + 1]):
                place = places[k]
                event = group_of[place]
                group = groups[event]
                member = info[place]
                if member["quoted"] == 0:
                    member["quoted"] = 1
                    group["ready"] += weights[place]
                    for c in range(own_terms.shape[1]):
                        cells[place, 8 + c] = own_terms[m, c]
                member["shut"] = shut
                if gate_out_cells[1] != 0:
                    member["void"] = 1
                member["stale_from_us"] = stale_from
                member["bid_size_micros"] = bid_size[i]
                member["ask_size_micros"] = ask_size[i]
                cells[place, 0] = now
                cells[place, 1] = bid
                cells[place, 2] = bid_size[i]
                cells[place, 3] = ask
                cells[place, 4] = ask_size[i]
                cells[place, 5] = bid_fee
                cells[place, 6] = ask_fee
                cells[place, 7] = payout
                group["row"] = i
                if group["dirty"] == 0:
                    group["dirty"] = 1
                    # groups by id: insert in order
                    j = dirty_count
                    while j > 0 and dirty[j - 1] > event:
                        dirty[j] = dirty[j - 1]
                        j -= 1
                    dirty[j] = event
                    dirty_count += 1
            i += 1
        for d in range(dirty_count):
            event = dirty[d]
            group = groups[event]
            group["dirty"] = 0
            row = group["row"]
            sequence = ingest_sequence[row]
            first, last = bounds[event], bounds[event + 1]
            count = last - first
            gated = False
            for j in range(first, last):
                stale = info[j]["stale_from_us"] < now
                if info[j]["open_leg"] != 0 and (info[j]["shut"] != 0 or stale or info[j]["void"] != 0):
                    gated = True
                info[j]["void"] = 0
                if info[j]["quoted"] != 0 and revision_bounds[members[j]] < revision_bounds[members[j] + 1]:
                    revision = revision_at(revisions, revision_bounds, members[j], now)
                    if revision >= 0:
                        for c in range(revised_terms.shape[1]):
                            cells[j, 8 + c] = revised_terms[revision, c]
                        since = revisions[revision]["time_us"]
                        if needs_fees and cells[j, 0] < since:
                            # the last quote, at what it costs under the terms of now
                            t = terms[members[j]]
                            if cells[j, 1] != MISSING:
                                cells[j, 5] = touch_fee(
                                    t, segments, schedules, memo, scratch_order, limbs, cells[j, 7] - cells[j, 1], since
                                )
                            if cells[j, 3] != MISSING:
                                cells[j, 6] = touch_fee(
                                    t, segments, schedules, memo, scratch_order, limbs, cells[j, 3], since
                                )
                for c in range(seen_cells.shape[1]):
                    seen_cells[j - first, c] = cells[j, c]
                if info[j]["quoted"] == 0 or info[j]["shut"] != 0 or stale:
                    seen_cells[j - first, 1] = MISSING
                    seen_cells[j - first, 3] = MISSING
                chosen[j - first] = 0
            opened = group["opened"]
            if opened != 0 and group["expire_us"] <= now:
                opened = 0
            if gated and opened != 0:
                counts[2] += 1
                opened = 0
            if gated and not holds:
                written = leave_all(
                    intents, written, members, info, first, last, row, now, sequence, strategy, subjects + event
                )
            side = 0
            if speakable_us[event, 0] <= now and now < speakable_us[event, 1] and group["ready"] >= needed:
                for j in range(len(out_cells)):
                    out_cells[j] = 0
                bound_step(states[event], params[0], seen_rows[:count], out[0], chosen[:count])
                side = out_cells[0]
                if now < first_us:
                    counts[4] += 1
                    side = 0
            # from here on a chosen cell is 1 + the outcome to buy
            if side != 0 and side != 5:
                for j in range(count):
                    if chosen[j] != 0:
                        chosen[j] = 1 if side == 1 or side == 3 else 2
            elif side == 5:
                for j in range(count):
                    if chosen[j] > 1:
                        chosen[j] = 2
            size = MISSING
            legs = 0
            known = True
            grid = 1
            minimum = 0
            if side != 0:
                for j in range(first, last):
                    if chosen[j - first] == 0 or info[j]["quoted"] == 0:
                        chosen[j - first] = 0
                        continue
                    m = members[j]
                    legs += 1
                    if terms[m]["orderable"] == 0:
                        side = 0
                    offered = info[j]["ask_size_micros"] if chosen[j - first] == 1 else info[j]["bid_size_micros"]
                    if offered == MISSING:
                        known = False
                    elif size == MISSING or offered < size:
                        size = offered
                    a, b = grid, terms[m]["size_step_micros"]
                    while b != 0:
                        a, b = b, a % b
                    grid = grid // a * terms[m]["size_step_micros"]
                    minimum = max(minimum, terms[m]["minimum_size_micros"])
                if not known:
                    size = MISSING
                else:
                    size = size // grid * grid
                    if size < minimum or size == 0:
                        side = 0
                if legs == 0 or (edge_kind and out_cells[3] <= 0):
                    side = 0
            if side == 0:
                if opened != 0:
                    counts[2] += 1
                if not holds:
                    written = leave_all(
                        intents, written, members, info, first, last, row, now, sequence, strategy, subjects + event
                    )
                group["opened"] = 0
                for j in range(first, last):
                    info[j]["open_leg"] = 0
                continue
            counts[3] += 1
            same = opened != 0
            moved = False
            for j in range(first, last):
                leg = chosen[j - first]
                if same and leg != info[j]["open_leg"]:
                    same = False
                if same and leg != 0:
                    price = seen_cells[j - first, 3] if leg == 1 else seen_cells[j - first, 1]
                    if abs(price - info[j]["price_micros"]) >= info[j]["tick_micros"]:
                        moved = True
            if same:
                before = group["size_micros"]
                if before == MISSING or size == MISSING:
                    moved = moved or before != size
                else:
                    moved = moved or abs(size - before) * 5 >= before
                if not moved:
                    group["opened"] = 1
                    continue
                counts[1] += 1
            else:
                if opened != 0:
                    counts[2] += 1
                turned = False
                for j in range(first, last):
                    leg = chosen[j - first]
                    turned = turned or (info[j]["armed_leg"] != 0 and info[j]["armed_leg"] != leg)
                if turned and not holds:
                    written = leave_all(
                        intents, written, members, info, first, last, row, now, sequence, strategy, subjects + event
                    )
                if out_cells[1] == 0:
                    group["opened"] = 0
                    for j in range(first, last):
                        info[j]["open_leg"] = 0
                    continue
                counts[0] += 1
            group["opened"] = 1
            group["expire_us"] = now + out_cells[5]
            group["size_micros"] = size
            basket = written
            for j in range(first, last):
                info[j]["open_leg"] = chosen[j - first]
                if chosen[j - first] == 0:
                    continue
                outcome = chosen[j - first] - 1
                m = members[j]
                book_price = seen_cells[j - first, 3] if outcome == 0 else seen_cells[j - first, 1]
                info[j]["price_micros"] = book_price
                info[j]["tick_micros"] = tick_at(terms, ranges, revisions, revision_bounds, m, book_price, now)
                if same:
                    continue
                info[j]["armed_leg"] = outcome + 1
                write_intent(intents, written, 1, row, now, sequence, strategy, m, outcome)
                intent = intents[written]
                price = book_price if outcome == 0 else terms[m]["payout_micros"] - book_price
                intent["subject"] = subjects + event
                intent["basket"] = basket
                intent["legs"] = legs
                intent["strength_ppm"] = out_cells[2]
                intent["net_edge_micros"] = out_cells[3]
                if has_fair:
                    fair = out_cells[4]
                    intent["fair_micros"] = fair if outcome == 0 else terms[m]["payout_micros"] - fair
                intent["expire_us"] = group["expire_us"]
                intent["price_micros"] = price
                intent["size_micros"] = size
                intent["fee_micros"] = touch_fee(terms[m], segments, schedules, memo, scratch_order, limbs, price, now)
                written += 1
    cursors[0] = change
    cursors[1] = written
    return i
