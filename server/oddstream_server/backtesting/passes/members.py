"""The members of groups as a group strategy sees them: their last quotes, gates, terms and fees.

None of it depends on the strategy, so it is compiled once for all kinds.
"""

from typing import Any, Final

import numpy as np

from oddstream_server.backtesting.passes.intents import revision_at, touch_fee
from oddstream_server.backtesting.records.columns import MISSING

GROUP: Final = np.dtype([(n, np.int64) for n in ("opened", "expire_us", "size_micros", "dirty", "row", "ready")])
"""``ready``: what counts among the members with a quote; see ``needed`` of :mod:`looks`."""


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


def bound_gate(state: Any, params: Any, row: Any, out: Any) -> None:
    """Stands for the gate's step, which is bound in its place."""
    raise NotImplementedError


def bound_stale_after(state: Any, params: Any) -> Any:
    """Stands for the gate's measure of staleness, which is bound in its place."""
    raise NotImplementedError


def see_instant(
    i: Any, end: Any, market: Any, receive_time_us: Any, bid_price: Any, bid_size: Any, ask_price: Any, ask_size: Any,
    epoch: Any, terms: Any, segments: Any, schedules: Any, changes: Any, memo: Any, scratch_order: Any, limbs: Any,
    status: Any, cursors: Any, places: Any, place_bounds: Any, group_of: Any, weights: Any, own_terms: Any,
    groups: Any, info: Any, gate_states: Any, gate_params: Any, gate_cells: Any, gate_row: Any, gate_out_cells: Any,
    gate_out: Any, cells: Any, dirty: Any, needs_fees: Any,
) -> Any:  # fmt: skip
    """The rows of the instant of row ``i``: their markets' gates and members; returns the first row after them.

    :param dirty: the groups that have a row in it, by id; cursors[3] of them.
    """
    now = receive_time_us[i]
    change = cursors[0]
    while change < len(changes) and changes[change]["time_us"] <= now:
        status[changes[change]["market"]] = changes[change]["status"]
        change += 1
    cursors[0] = change
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
    cursors[3] = dirty_count
    return i


def show_members(
    first: Any, last: Any, now: Any, terms: Any, revisions: Any, revision_bounds: Any, revised_terms: Any,
    segments: Any, schedules: Any, memo: Any, scratch_order: Any, limbs: Any, members: Any, info: Any, cells: Any,
    seen_cells: Any, chosen: Any, needs_fees: Any,
) -> Any:  # fmt: skip
    """A group's members as its strategy sees them; True where the gate ends what is open."""
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
                        cells[j, 6] = touch_fee(t, segments, schedules, memo, scratch_order, limbs, cells[j, 3], since)
        for c in range(seen_cells.shape[1]):
            seen_cells[j - first, c] = cells[j, c]
        if info[j]["quoted"] == 0 or info[j]["shut"] != 0 or stale:
            seen_cells[j - first, 1] = MISSING
            seen_cells[j - first, 3] = MISSING
        chosen[j - first] = 0
    return gated
