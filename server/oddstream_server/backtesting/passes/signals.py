"""First pass over a shard: a strategy's step over the interleaved rows of its markets, into intents.

Row by row, exactly as live: a market's status as of the row, then the gate, then the step, then the opportunity's life
(:mod:`oddstream_server.strategies.tracker` has its rules; here they run on integers). What comes out is sparse: an
intent to enter where an opportunity is created, an intent to leave where it ends other than by expiring or turns.

The driver knows nothing of a strategy but its declaration. It can be stopped at any row and go on from
:class:`SignalPass`, whose bytes are the checkpoint.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from oddstream_server.backtesting.acceleration import compiled
from oddstream_server.backtesting.passes.intents import (
    INTENT,
    Found,
    Terms,
    found_in,
    load_arrays,
    row_layout,
    tick_at,
    touch_fee,
    write_intent,
)
from oddstream_server.backtesting.passes.offers import gate_open
from oddstream_server.backtesting.passes.steps import Steps
from oddstream_server.backtesting.records.columns import MISSING
from oddstream_server.backtesting.records.universe import BEGINNING
from oddstream_server.strategies.kernel import COLUMNS, SINGLE_COLUMNS
from oddstream_server.strategies.registry import ConfiguredStrategy

WATCH: Final = np.dtype(
    [
        (name, np.int64)
        for name in ("status", "payout_micros", "epoch", "opened", "armed", "expire_us", "price_micros", "size_micros")
    ]
)
"""What each row of a market asks for, on one cache line. ``epoch`` is NO_EPOCH before the first row. ``opened``: side
of the open opportunity. ``armed``: side that was entered and not left. Price and size are of the last revision."""


NO_EPOCH: Final = -(2**62)


_QUOTE_CELLS: Final = tuple(COLUMNS)


_FEE_COLUMNS: Final = ("bid_fee_micros", "ask_fee_micros")


_SIZE_COLUMNS: Final = ("bid_size_micros", "ask_size_micros")


def bound_step(state: Any, params: Any, row: Any, out: Any) -> None:
    """Stands for the strategy's step, which is bound in its place."""
    raise NotImplementedError


def drive(
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
    extra: Any,
    made_by: Any,
    quote_row: Any,
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
    cursors: Any,
    watch: Any,
    ticks: Any,
    states: Any,
    state_cells: Any,
    params: Any,
    row_cells: Any,
    row: Any,
    out_cells: Any,
    out: Any,
    intents: Any,
    counts: Any,
    options: Any,
) -> Any:
    """Rows ``begin`` to ``end``; returns the row to go on with, before ``end`` where ``intents`` is full.

    :param cursors: [next change, intents written].
    :param options: [strategy, needs fees, edge kind, has fair value, holds, first instant of performance, needs sizes,
        cells of quotes].
    """
    strategy, needs_fees, edge_kind, has_fair = options[0], options[1] != 0, options[2] != 0, options[3] != 0
    holds, first_us, needs_sizes = options[4] != 0, options[5], options[6] != 0
    extras, base, composed = extra.shape[1], options[7], len(made_by) > 0
    change, written = cursors[0], cursors[1]
    change_count, capacity = len(changes), len(intents)
    next_change_us = changes[change]["time_us"] if change < change_count else 2**62
    i = begin
    while i < end and written + 2 <= capacity:
        now = receive_time_us[i]
        while next_change_us <= now:
            watch[changes[change]["market"]]["status"] = changes[change]["status"]
            change += 1
            next_change_us = changes[change]["time_us"] if change < change_count else 2**62
        m = market[i]
        w = watch[m]
        known = w["status"]
        if known == 0:
            i += 1
            continue
        bid, ask = bid_price[i], ask_price[i]
        payout = w["payout_micros"]
        side = 0
        at = quote_row[i] if composed else i
        printed = 1 if composed and made_by[i] == 2 else 0
        if composed and made_by[i] != 1 and (w["epoch"] == NO_EPOCH or known != 2 or not gate_open(bid, ask, payout)):
            # neither a print nor a price says anything of a market that is shut or shows no quote yet
            i += 1
            continue
        if w["epoch"] != epoch[i] and w["epoch"] != NO_EPOCH:
            for j in range(state_cells.shape[1]):
                state_cells[m, j] = 0
            if w["opened"] != 0 and w["expire_us"] > now:
                counts[2] += 1
            if w["armed"] != 0 and not holds:
                write_intent(intents, written, 2, at, now, ingest_sequence[i], strategy, m, w["armed"] - 1)
                intents[written]["phase"] = printed
                written += 1
            w["opened"] = 0
            w["armed"] = 0
        w["epoch"] = epoch[i]
        shut = known != 2 or not gate_open(bid, ask, payout)
        if not shut:
            row_cells[0] = now
            row_cells[1] = bid
            row_cells[3] = ask
            if needs_sizes:
                row_cells[2] = bid_size[i]
                row_cells[4] = ask_size[i]
            if needs_fees:
                row_cells[5] = MISSING
                row_cells[6] = MISSING
                if bid != MISSING:
                    row_cells[5] = touch_fee(
                        terms[m], segments, schedules, memo, scratch_order, limbs, payout - bid, now
                    )
                if ask != MISSING:
                    row_cells[6] = touch_fee(terms[m], segments, schedules, memo, scratch_order, limbs, ask, now)
            row_cells[7] = payout
            for j in range(extras):
                row_cells[base + j] = extra[i, j]
            # one by one: a loop whose length the compiler can't know costs as much as a step
            out_cells[0] = 0
            out_cells[1] = 0
            out_cells[2] = 0
            out_cells[3] = 0
            out_cells[4] = 0
            out_cells[5] = 0
            for j in range(6, len(out_cells)):
                out_cells[j] = 0
            bound_step(states[m], params[0], row[0], out[0])
            side = min(out_cells[0], 2)
            if now < first_us:
                counts[4] += 1
                side = 0
        if side != 0:
            size = ask_size[i] if side == 1 else bid_size[i]
            if (ask if side == 1 else bid) == MISSING:
                side = 0
            if size != MISSING:
                step = terms[m]["size_step_micros"]
                size = size // step * step
                if size < terms[m]["minimum_size_micros"] or size == 0:
                    side = 0
            if terms[m]["orderable"] == 0 or (edge_kind and out_cells[3] <= 0):
                side = 0
        opened = w["opened"]
        if opened != 0 and w["expire_us"] <= now:
            opened = 0
        if side == 0:
            if w["opened"] == 0 and w["armed"] == 0:
                i += 1
                continue
            if opened != 0:
                counts[2] += 1
            if w["armed"] != 0 and not holds:
                write_intent(intents, written, 2, at, now, ingest_sequence[i], strategy, m, w["armed"] - 1)
                intents[written]["phase"] = printed
                written += 1
            w["armed"] = 0
            w["opened"] = 0
            i += 1
            continue
        counts[3] += 1
        book_price = ask if side == 1 else bid
        if opened == side:
            moved = abs(book_price - w["price_micros"]) >= ticks[m]
            before = w["size_micros"]
            if not moved:
                unknown = before == MISSING or size == MISSING
                moved = before != size if unknown else abs(size - before) * 5 >= before
            if moved:
                counts[1] += 1
                w["price_micros"] = book_price
                w["size_micros"] = size
                ticks[m] = tick_at(terms, ranges, revisions, revision_bounds, m, book_price, now)
                w["expire_us"] = now + out_cells[5]
            w["opened"] = opened
            i += 1
            continue
        if opened != 0:
            counts[2] += 1
            opened = 0
        if w["armed"] != 0 and w["armed"] != side:
            if not holds:
                write_intent(intents, written, 2, at, now, ingest_sequence[i], strategy, m, w["armed"] - 1)
                intents[written]["phase"] = printed
                written += 1
            w["armed"] = 0
        if out_cells[1] != 0:
            counts[0] += 1
            opened = side
            w["armed"] = side
            w["price_micros"] = book_price
            w["size_micros"] = size
            ticks[m] = tick_at(terms, ranges, revisions, revision_bounds, m, book_price, now)
            w["expire_us"] = now + out_cells[5]
            write_intent(intents, written, 1, at, now, ingest_sequence[i], strategy, m, side - 1)
            intent = intents[written]
            intent["phase"] = printed
            price = ask if side == 1 else payout - bid
            intent["strength_ppm"] = out_cells[2]
            intent["net_edge_micros"] = out_cells[3]
            if has_fair:
                intent["fair_micros"] = out_cells[4] if side == 1 else payout - out_cells[4]
            intent["expire_us"] = w["expire_us"]
            intent["price_micros"] = price
            intent["size_micros"] = size
            intent["fee_micros"] = touch_fee(terms[m], segments, schedules, memo, scratch_order, limbs, price, now)
            written += 1
        w["opened"] = opened
        i += 1
    cursors[0] = change
    cursors[1] = written
    return i


class SignalPass:
    """A single-market strategy on its way over rows in order.

    :param first_us: rows before it warm the strategy up and are no performance.
    :param holds: positions wait for the settlement: no intents to leave.
    """

    def __init__(
        self,
        strategy: ConfiguredStrategy,
        number: int,
        terms: Terms,
        *,
        first_us: int = BEGINNING,
        holds: bool = False,
        plain: bool = False,
    ) -> None:
        kind = strategy.kind
        assert kind.step is not None
        self._terms = terms
        count = max(len(terms.universe), 1)
        self._names = tuple(name for name in SINGLE_COLUMNS if name in kind.columns and name not in _QUOTE_CELLS)
        cells = (*_QUOTE_CELLS, *self._names)
        row_dtype = row_layout(kind.columns, cells)
        self._drive: Callable[..., Any] = compiled(drive, plain=plain, bound_step=kind.step)
        self._watch = np.zeros(count, dtype=WATCH)
        self._watch["epoch"] = NO_EPOCH
        self._watch["payout_micros"][: len(terms.universe)] = terms.universe.terms["payout_micros"]
        self._ticks = np.zeros(count, dtype=np.int64)
        self._cursors = np.zeros(2, dtype=np.int64)
        self._counts = np.zeros(5, dtype=np.int64)
        self._state_cells = np.zeros((count, kind.state_dtype.itemsize // 8), dtype=np.int64)
        self._states = self._state_cells.reshape(-1).view(kind.state_dtype)
        self._params = strategy.params.record().reshape(1)
        self._row_cells = np.zeros(len(cells), dtype=np.int64)
        self._row = self._row_cells.view(row_dtype)
        self._out_cells = np.zeros(kind.out_dtype.itemsize // 8, dtype=np.int64)
        self._out = self._out_cells.view(kind.out_dtype)
        needs_fees = any(name in kind.columns for name in _FEE_COLUMNS)
        needs_sizes = any(name in kind.columns for name in _SIZE_COLUMNS)
        flags = (needs_fees, kind.edge_kind, kind.has_fair_value, holds)
        self._options = np.array([number, *flags, first_us, needs_sizes, len(_QUOTE_CELLS)], dtype=np.int64)

    def run(self, steps: Steps, begin: int = 0, end: int | None = None) -> Found:
        """Go over rows ``begin`` to ``end``; calls go on where the one before ended.

        :param steps: rows with the columns that the strategy declares (:func:`~steps.steps_of`).
        """
        quotes = steps.quotes
        extra = steps.extra if self._names else np.empty((0, 0), dtype=np.int64)
        assert steps.names == self._names, "the rows were made for another strategy"
        end = len(quotes) if end is None else end
        chunks, before = [], self._counts.copy()
        capacity = max(256, (end - begin) // 16)
        while begin < end:
            intents = np.empty(capacity, dtype=INTENT)
            self._cursors[1] = 0
            begin = self._drive(
                begin,
                end,
                quotes.market,
                quotes.receive_time_us,
                quotes.ingest_sequence,
                quotes.bid_price_micros,
                quotes.bid_size_micros,
                quotes.ask_price_micros,
                quotes.ask_size_micros,
                quotes.epoch,
                extra,
                steps.made_by,
                steps.quote_row,
                *self._terms.tables,
                self._cursors,
                self._watch,
                self._ticks,
                self._states,
                self._state_cells,
                self._params,
                self._row_cells,
                self._row,
                self._out_cells,
                self._out,
                intents,
                self._counts,
                self._options,
            )
            chunks.append(intents[: self._cursors[1]])
        return found_in(chunks, self._counts - before)

    def _carried(self) -> tuple[Any, ...]:
        return (self._watch, self._ticks, self._cursors, self._counts, self._state_cells)

    def checkpoint(self) -> bytes:
        """Everything that the rest of the pass depends on."""
        return b"".join(array.tobytes() for array in self._carried())

    def restore(self, stored: bytes) -> None:
        """Go on from a checkpoint of the same strategy and universe."""
        load_arrays(self._carried(), stored)
