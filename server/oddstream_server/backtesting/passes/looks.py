"""The loop of a group strategy: whole instants, each event or link looked at once after all of its rows."""

from typing import Any

from oddstream_server.backtesting.passes.intents import tick_at, touch_fee, write_intent
from oddstream_server.backtesting.passes.members import see_instant, show_members
from oddstream_server.backtesting.records.columns import MISSING


def bound_step(state: Any, params: Any, rows: Any, out: Any, chosen: Any) -> None:
    """Stands for the strategy's step, which is bound in its place."""
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


def tell_group(
    event: Any, row: Any, now: Any, sequence: Any, first: Any, last: Any, opened: Any, side: Any, terms: Any,
    ranges: Any, revisions: Any, revision_bounds: Any, segments: Any, schedules: Any, memo: Any, scratch_order: Any,
    limbs: Any, members: Any, groups: Any, info: Any, seen_cells: Any, out_cells: Any, chosen: Any, intents: Any,
    written: Any, counts: Any, options: Any,
) -> Any:  # fmt: skip
    """What becomes of a group's opportunity after a look; returns the number of intents written in all.

    :param opened: 1 where one is open as of this instant.
    :param side: what the strategy said, 0 for nothing.
    """
    strategy, edge_kind, has_fair, holds = options[0], options[2] != 0, options[3] != 0, options[4] != 0
    group, count, subjects = groups[event], last - first, options[7]
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
        return written
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
            return written
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
            return written
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

    :param cursors: [next change, intents written, largest number of intents that one instant can make,
        groups with a row in it].
    :param places: a market's places among ``members``, from ``place_bounds[m]`` to ``place_bounds[m + 1]``.
    :param weights: what a place adds to its group's ``ready`` at its first quote; options[6] of it are needed.
    :param own_terms: by market, the cells of its terms, which are seen from its first quote on.
    :param speakable_us: [from, to) of each group: when something may be said of it.
    """
    strategy, needs_fees = options[0], options[1] != 0
    holds, first_us, needed, subjects = options[4] != 0, options[5], options[6], options[7]
    written = cursors[1]
    i = begin
    while i < end and written + cursors[2] <= len(intents):
        now = receive_time_us[i]
        i = see_instant(
            i, end, market, receive_time_us, bid_price, bid_size, ask_price, ask_size, epoch, terms, segments,
            schedules, changes, memo, scratch_order, limbs, status, cursors, places, place_bounds, group_of, weights,
            own_terms, groups, info, gate_states, gate_params, gate_cells, gate_row, gate_out_cells, gate_out, cells,
            dirty, needs_fees,
        )  # fmt: skip
        for d in range(cursors[3]):
            event = dirty[d]
            group = groups[event]
            group["dirty"] = 0
            row = group["row"]
            sequence = ingest_sequence[row]
            first, last = bounds[event], bounds[event + 1]
            count = last - first
            gated = show_members(
                first, last, now, terms, revisions, revision_bounds, revised_terms, segments, schedules, memo,
                scratch_order, limbs, members, info, cells, seen_cells, chosen, needs_fees,
            )  # fmt: skip
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
            written = tell_group(
                event, row, now, sequence, first, last, opened, side, terms, ranges, revisions, revision_bounds,
                segments, schedules, memo, scratch_order, limbs, members, groups, info, seen_cells, out_cells, chosen,
                intents, written, counts, options,
            )  # fmt: skip
    cursors[1] = written
    return i
