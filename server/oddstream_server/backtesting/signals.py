"""First pass over a shard: a strategy's step over the interleaved rows of its markets, into intents.

Row by row, exactly as live: a market's status as of the row, then the gate, then the step, then the opportunity's life
(:mod:`oddstream_server.strategies.tracker` has its rules; here they run on integers). What comes out is sparse: an
intent to enter where an opportunity is created, an intent to leave where it ends other than by expiring or turns.

The driver knows nothing of a strategy but its declaration. It can be stopped at any row and go on from
:class:`SignalPass`, whose bytes are the checkpoint.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from oddstream_server.backtesting.acceleration import compiled
from oddstream_server.backtesting.charges import NO_SCHEDULE, raw_fee, stepped_fee, balance_rounding, ORDER
from oddstream_server.backtesting.columns import MISSING, QuoteRows
from oddstream_server.backtesting.universe import BEGINNING, Status, Universe
from oddstream_server.backtesting.wide import LIMBS
from oddstream_server.domain.errors import FailedPrecondition
from oddstream_server.strategies.kernel import COLUMNS
from oddstream_server.strategies.registry import ConfiguredStrategy

ENTER: Final = 1
LEAVE: Final = 2

INTENT: Final = np.dtype(
    [
        (name, np.int64)
        for name in (
            "kind",
            "row",
            "time_us",
            "sequence",
            "strategy",
            "subject",
            "market",
            "outcome",
            "basket",
            "legs",
            "strength_ppm",
            "net_edge_micros",
            "fair_micros",
            "expire_us",
            "price_micros",
            "size_micros",
            "fee_micros",
        )
    ]
)
"""One leg of what a strategy wants. ``outcome`` is the one to buy or to sell; price, size, fair value and the fee of one
contract are in its terms, at the signal. ``basket`` numbers intents that belong together, ``legs`` of them. ``subject``
is the market's index, or for a group the number of markets plus the event's index."""

WATCH: Final = np.dtype(
    [
        (name, np.int64)
        for name in ("seen", "epoch", "opened", "armed", "expire_us", "price_micros", "size_micros", "tick_micros")
    ]
)
"""``opened``: side of the open opportunity. ``armed``: side that was entered and not left."""

CREATED, REVISED, ENDED, SIGNAL_ROWS, WARM_ROWS = range(5)
"""Places of the pass's counts."""

_ALL: Final = tuple(COLUMNS)
_FEE_COLUMNS: Final = ("bid_fee_micros", "ask_fee_micros")


def bound_step(state: Any, params: Any, row: Any, out: Any) -> None:
    """Stands for the strategy's step, which is bound in its place."""
    raise NotImplementedError


def segment_schedule(segments: Any, begin: Any, end: Any, now_us: Any) -> Any:
    """The schedule that holds at an instant, of the segments from ``begin`` to ``end``."""
    place = end - 1
    while place > begin and segments[place]["from_us"] > now_us:
        place -= 1
    if place < begin:
        return NO_SCHEDULE
    return segments[place]["schedule"]


def touch_fee(
    terms: Any, segments: Any, schedules: Any, memo: Any, order: Any, limbs: Any, price_micros: Any, now_us: Any
) -> Any:
    """Taker fee of one contract at a price by the schedule known then; MISSING where none is.

    :param memo: fees by schedule and hundredth of a cent, -2 where not yet computed.
    """
    place = segment_schedule(segments, terms["known_segment_begin"], terms["known_segment_end"], now_us)
    if place == NO_SCHEDULE:
        return MISSING
    slot = price_micros // 100
    fits = place < memo.shape[0] and slot < memo.shape[1] and slot * 100 == price_micros
    if fits and terms["payout_micros"] == 1_000_000 and memo[place, slot] != -2:
        return memo[place, slot]
    raw = raw_fee(schedules[place], 0, price_micros, 1_000_000, terms["payout_micros"], limbs)
    fee = stepped_fee(schedules[place], order[0], raw)
    fee += balance_rounding(schedules[place], 1, price_micros, 1_000_000, fee)
    if fits and terms["payout_micros"] == 1_000_000:
        memo[place, slot] = fee
    return fee


def tick_at(terms: Any, ranges: Any, price_micros: Any) -> Any:
    """The finest tick that holds at an outcome-0 price; 1 outside of all ranges."""
    tick = 0
    for place in range(terms["range_begin"], terms["range_end"]):
        if ranges[place]["start_micros"] <= price_micros <= ranges[place]["end_micros"]:
            if tick == 0 or ranges[place]["tick_micros"] < tick:
                tick = ranges[place]["tick_micros"]
    return max(tick, 1)


def write_intent(
    intents: Any, at: Any, kind: Any, row: Any, now_us: Any, sequence: Any, strategy: Any, market: Any, outcome: Any
) -> None:
    """An intent of a single market with everything that entries and exits share."""
    intent = intents[at]
    intent["kind"] = kind
    intent["row"] = row
    intent["time_us"] = now_us
    intent["sequence"] = sequence
    intent["strategy"] = strategy
    intent["subject"] = market
    intent["market"] = market
    intent["outcome"] = outcome
    intent["basket"] = at
    intent["legs"] = 1
    intent["strength_ppm"] = 0
    intent["net_edge_micros"] = 0
    intent["fair_micros"] = MISSING
    intent["expire_us"] = now_us
    intent["price_micros"] = MISSING
    intent["size_micros"] = MISSING
    intent["fee_micros"] = MISSING


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
    terms: Any,
    ranges: Any,
    segments: Any,
    schedules: Any,
    changes: Any,
    memo: Any,
    scratch_order: Any,
    limbs: Any,
    status: Any,
    cursors: Any,
    watch: Any,
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
    :param options: [strategy, needs fees, edge kind, has fair value, holds, first instant of performance].
    """
    strategy, needs_fees, edge_kind, has_fair = options[0], options[1], options[2], options[3]
    holds, first_us = options[4] != 0, options[5]
    change, written = cursors[0], cursors[1]
    change_count, capacity = len(changes), len(intents)
    next_change_us = changes[change]["time_us"] if change < change_count else 2**62
    i = begin
    while i < end and written + 2 <= capacity:
        now = receive_time_us[i]
        while next_change_us <= now:
            status[changes[change]["market"]] = changes[change]["status"]
            change += 1
            next_change_us = changes[change]["time_us"] if change < change_count else 2**62
        m = market[i]
        known = status[m]
        if known == 0:
            i += 1
            continue
        w = watch[m]
        bid, ask = bid_price[i], ask_price[i]
        payout = terms[m]["payout_micros"]
        side = 0
        if w["seen"] == 0:
            w["seen"] = 1
        elif w["epoch"] != epoch[i]:
            state_cells[m, :] = 0
            if w["opened"] != 0 and w["expire_us"] > now:
                counts[2] += 1
            if w["armed"] != 0 and not holds:
                write_intent(intents, written, 2, i, now, ingest_sequence[i], strategy, m, w["armed"] - 1)
                written += 1
            w["opened"] = 0
            w["armed"] = 0
        w["epoch"] = epoch[i]
        shut = known != 2
        if bid != MISSING and ask != MISSING:
            shut = shut or bid >= ask or (bid * 100 <= payout and ask * 100 >= payout * 99)
        if not shut:
            row_cells[0] = now
            row_cells[1] = bid
            row_cells[2] = bid_size[i]
            row_cells[3] = ask
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
            for j in range(len(out_cells)):
                out_cells[j] = 0
            bound_step(states[m], params[0], row[0], out[0])
            side = min(out_cells[0], 2)
            if now < first_us:
                counts[4] += 1
                side = 0
        if side != 0:
            size = ask_size[i] if side == 1 else bid_size[i]
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
            if opened != 0:
                counts[2] += 1
            if w["armed"] != 0 and not holds:
                write_intent(intents, written, 2, i, now, ingest_sequence[i], strategy, m, w["armed"] - 1)
                written += 1
            w["armed"] = 0
            w["opened"] = 0
            i += 1
            continue
        counts[3] += 1
        book_price = ask if side == 1 else bid
        if opened == side:
            moved = abs(book_price - w["price_micros"]) >= w["tick_micros"]
            before = w["size_micros"]
            if not moved:
                if before == MISSING or size == MISSING:
                    moved = before != size
                else:
                    moved = abs(size - before) * 5 >= before
            if moved:
                counts[1] += 1
                w["price_micros"] = book_price
                w["size_micros"] = size
                w["tick_micros"] = tick_at(terms[m], ranges, book_price)
                w["expire_us"] = now + out_cells[5]
            w["opened"] = opened
            i += 1
            continue
        if opened != 0:
            counts[2] += 1
            opened = 0
        if w["armed"] != 0 and w["armed"] != side:
            if not holds:
                write_intent(intents, written, 2, i, now, ingest_sequence[i], strategy, m, w["armed"] - 1)
                written += 1
            w["armed"] = 0
        if out_cells[1] != 0:
            counts[0] += 1
            opened = side
            w["armed"] = side
            w["price_micros"] = book_price
            w["size_micros"] = size
            w["tick_micros"] = tick_at(terms[m], ranges, book_price)
            w["expire_us"] = now + out_cells[5]
            write_intent(intents, written, 1, i, now, ingest_sequence[i], strategy, m, side - 1)
            intent = intents[written]
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


@dataclass(frozen=True, slots=True)
class Found:
    """What a pass found in some rows."""

    intents: Any
    """Array of :data:`INTENT` in the order of rows."""
    created_count: int
    revised_count: int
    ended_count: int
    warm_row_count: int


def row_layout(names: tuple[str, ...], cells: tuple[str, ...]) -> np.dtype[Any]:
    """A record of int64 that shows the named ones of some cells.

    :raises FailedPrecondition: a column isn't recorded for backtests.
    """
    foreign = sorted(set(names) - set(cells))
    if foreign:
        raise FailedPrecondition(f"backtests have no column {', '.join(foreign)}; run without the strategy that needs it")
    return np.dtype(
        {
            "names": list(names),
            "formats": [np.int64] * len(names),
            "offsets": [8 * cells.index(name) for name in names],
            "itemsize": 8 * len(cells),
        }
    )


def read_only(table: Any) -> Any:
    """A table that compiled code sees as plain writable memory, with at least one row so that it can be bound."""
    return table if len(table) else np.zeros(1, dtype=table.dtype)[:0]


class Terms:
    """A universe's tables and the scratch that goes with them, as the passes want them."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe
        count = min(len(universe.schedules), 64)
        self.memo = np.full((count, 10_001), -2, dtype=np.int64)
        self.order = np.zeros(1, dtype=ORDER)
        self.limbs = np.zeros(LIMBS, dtype=np.int64)

    @property
    def tables(self) -> tuple[Any, ...]:
        u = self.universe
        return (u.terms, u.ranges, u.segments, u.schedules, u.changes, self.memo, self.order, self.limbs)


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
        row_dtype = row_layout(kind.columns, _ALL)
        self._drive: Callable[..., Any] = compiled(drive, plain=plain, bound_step=kind.step)
        self._status = np.zeros(count, dtype=np.int64)
        self._watch = np.zeros(count, dtype=WATCH)
        self._cursors = np.zeros(2, dtype=np.int64)
        self._counts = np.zeros(5, dtype=np.int64)
        self._state_cells = np.zeros((count, kind.state_dtype.itemsize // 8), dtype=np.int64)
        self._states = self._state_cells.reshape(-1).view(kind.state_dtype)
        self._params = strategy.params.record().reshape(1)
        self._row_cells = np.zeros(len(_ALL), dtype=np.int64)
        self._row = self._row_cells.view(row_dtype)
        self._out_cells = np.zeros(kind.out_dtype.itemsize // 8, dtype=np.int64)
        self._out = self._out_cells.view(kind.out_dtype)
        needs_fees = any(name in kind.columns for name in _FEE_COLUMNS)
        self._options = np.array(
            [number, needs_fees, kind.edge_kind, kind.has_fair_value, holds, first_us], dtype=np.int64
        )

    def run(self, quotes: QuoteRows, begin: int = 0, end: int | None = None) -> Found:
        """Go over rows ``begin`` to ``end``; calls go on where the one before ended."""
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
                *self._terms.tables,
                self._status,
                self._cursors,
                self._watch,
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
        created, revised, ended, _, warm = (self._counts - before).tolist()
        return Found(np.concatenate(chunks) if chunks else np.empty(0, dtype=INTENT), created, revised, ended, warm)

    def checkpoint(self) -> bytes:
        """Everything that the rest of the pass depends on."""
        return b"".join(
            a.tobytes() for a in (self._status, self._watch, self._cursors, self._counts, self._state_cells)
        )

    def restore(self, stored: bytes) -> None:
        """Go on from a checkpoint of the same strategy and universe."""
        place = 0
        for array in (self._status, self._watch, self._cursors, self._counts, self._state_cells):
            piece = np.frombuffer(stored, dtype=array.dtype, count=array.size, offset=place)
            array[...] = piece.reshape(array.shape)
            place += array.nbytes
