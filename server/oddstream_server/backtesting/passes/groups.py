"""First pass over a shard for strategies that look at all members of an event at once.

Rows of one receive time are one instant: each event with a row in it is looked at after all of them, events by id. A
member whose gate is shut, or whose last quote is stale by the gate's measure, shows neither side. Rules and output are
those of :mod:`signals`; the legs of one look share a basket's number.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from oddstream_server.backtesting.acceleration import compiled
from oddstream_server.backtesting.passes.intents import INTENT, Found, Terms, found_in, load_arrays, row_layout
from oddstream_server.backtesting.passes.looks import drive_groups
from oddstream_server.backtesting.passes.members import GROUP, MEMBER
from oddstream_server.backtesting.records.columns import MISSING, QuoteRows
from oddstream_server.backtesting.records.groups import Groups
from oddstream_server.backtesting.records.universe import BEGINNING
from oddstream_server.strategies import gate
from oddstream_server.strategies.kernel import COLUMNS, GROUP_COLUMNS, LINK_COLUMNS, TERMS_COLUMNS
from oddstream_server.strategies.registry import ConfiguredStrategy

_ALL: Final = (*COLUMNS, *TERMS_COLUMNS, *GROUP_COLUMNS, *LINK_COLUMNS)
_NO_TERMS: Final = {"strike_kind": 0, "averaging_us": 0}
"""Terms of a member that has shown no quote yet; the other columns of it are MISSING."""


_GATE_ROW: Final = np.dtype(
    [(n, np.int64) for n in ("receive_time_us", "epoch", "bid_price_micros", "ask_price_micros", "payout_micros")]
)


_GATE_OUT: Final = np.dtype([("shut", np.int64), ("void", np.int64)])


class GroupPass:
    """A group strategy on its way over rows in order; see :class:`signals.SignalPass` for the parameters."""

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
        kind, universe = strategy.kind, terms.universe
        assert kind.step_group is not None
        self._terms = terms
        layout = self._layout = Groups(universe, kind.grouping)
        markets, groups, places = max(len(universe), 1), max(len(layout.valid_us), 1), len(layout.members)
        largest = int(np.diff(layout.bounds).max(initial=0))
        self._drive: Callable[..., Any] = compiled(
            drive_groups,
            plain=plain,
            bound_step=kind.step_group,
            bound_gate=gate.gate_step,
            bound_stale_after=gate.stale_after_us,
        )
        self._status = np.zeros(markets, dtype=np.int64)
        self._cursors = np.zeros(4, dtype=np.int64)
        self._cursors[2] = 2 * places
        self._groups = np.zeros(groups, dtype=GROUP)
        self._info = np.zeros(max(places, 1), dtype=MEMBER)
        self._gate_states = np.zeros(markets, dtype=gate.STATE)
        self._gate_params = strategy.gate.params.record().reshape(1)
        self._gate_cells = np.zeros(5, dtype=np.int64)
        self._gate_out_cells = np.zeros(2, dtype=np.int64)
        self._state_cells = np.zeros((groups, kind.state_dtype.itemsize // 8), dtype=np.int64)
        self._params = strategy.params.record().reshape(1)
        self._cells = np.full((max(places, 1), len(_ALL)), MISSING, dtype=np.int64)
        for name, value in _NO_TERMS.items():
            self._cells[:, _ALL.index(name)] = value
        for name in ("payout_micros", *GROUP_COLUMNS, *LINK_COLUMNS):
            self._cells[:places, _ALL.index(name)] = layout.cells[name][layout.group_of]
        self._seen_cells = np.zeros((max(largest, 1), len(_ALL)), dtype=np.int64)
        self._row_dtype = row_layout(kind.columns, _ALL)
        self._out_cells = np.zeros(kind.out_dtype.itemsize // 8, dtype=np.int64)
        self._out = self._out_cells.view(kind.out_dtype)
        self._states = self._state_cells.reshape(-1).view(kind.state_dtype)
        self._chosen = np.zeros(max(largest, 1), dtype=np.int64)
        self._dirty = np.zeros(groups, dtype=np.int64)
        self._counts = np.zeros(5, dtype=np.int64)
        needs_fees = any(name in kind.columns for name in ("bid_fee_micros", "ask_fee_micros"))
        self._options = np.array(
            [
                number,
                needs_fees,
                kind.edge_kind,
                kind.has_fair_value,
                holds,
                first_us,
                layout.needed,
                layout.first_subject,
            ],
            dtype=np.int64,
        )

    def run(self, quotes: QuoteRows, begin: int = 0, end: int | None = None) -> Found:
        """Go over rows ``begin`` to ``end``, which must not part an instant; calls go on where the one before ended."""
        end = len(quotes) if end is None else end
        chunks, before = [], self._counts.copy()
        universe, layout = self._terms.universe, self._layout
        capacity = max(256, (end - begin) // 16) + 2 * int(self._cursors[2])
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
                layout.places,
                layout.place_bounds,
                layout.group_of,
                layout.weights,
                universe.market_terms,
                layout.members,
                layout.bounds,
                layout.valid_us,
                self._groups,
                self._info,
                self._gate_states,
                self._gate_params,
                self._gate_cells,
                self._gate_cells.view(_GATE_ROW),
                self._gate_out_cells,
                self._gate_out_cells.view(_GATE_OUT),
                self._states,
                self._state_cells,
                self._params,
                self._cells,
                self._seen_cells,
                self._seen_cells.reshape(-1).view(self._row_dtype),
                self._out_cells,
                self._out,
                self._chosen,
                self._dirty,
                intents,
                self._counts,
                self._options,
            )
            chunks.append(intents[: self._cursors[1]])
        return found_in(chunks, self._counts - before)

    def _carried(self) -> tuple[Any, ...]:
        return (
            self._status,
            self._cursors,
            self._groups,
            self._info,
            self._gate_states,
            self._cells,
            self._state_cells,
            self._counts,
        )

    def checkpoint(self) -> bytes:
        """Everything that the rest of the pass depends on."""
        return b"".join(a.tobytes() for a in self._carried())

    def restore(self, stored: bytes) -> None:
        """Go on from a checkpoint of the same strategy and universe."""
        load_arrays(self._carried(), stored)
