"""What a strategy declares, and the driver that feeds one row after another to its step.

A strategy is a step function over declared integer state. It sees one row and its own state, so it can't look ahead:
time comes from the row, columns come from :data:`COLUMNS`, and outcomes, results and final close times are not among
them. Live, batch, resume and replay all call the same step through :class:`Kernel`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np

from oddstream_server.domain.signal import Signal
from oddstream_server.strategies.params import Params

MISSING: Final = -1
"""Value of a column that is absent: no bid, an unknown size, an unknown fee."""

COLUMNS: Final[Mapping[str, str]] = {
    "receive_time_us": "when this service received the row",
    "bid_price_micros": "best bid of outcome 0",
    "bid_size_micros": "contracts at the best bid",
    "ask_price_micros": "best ask of outcome 0",
    "ask_size_micros": "contracts at the best ask",
    "bid_fee_micros": "taker fee of one contract of outcome 1 bought at payout - bid, by the schedule known then",
    "ask_fee_micros": "taker fee of one contract of outcome 0 bought at the ask, by the schedule known then",
    "payout_micros": "what one winning contract pays",
}
"""The allow-list of input columns, all int64."""

GROUP_COLUMNS: Final[Mapping[str, str]] = {
    "exclusive": "1 where at most one member can win, as the venue or a reviewer declared it",
    "exhaustive": "1 where one of the members must win, as the venue or a reviewer declared it",
}
"""Columns that a group's step has besides; the same in each member's row."""


class Side(IntEnum):
    """What a kernel says of its subject."""

    NONE = 0
    UP = 1
    """Outcome 0 is too cheap: buy it at the ask."""
    DOWN = 2
    """Outcome 0 is too dear: buy outcome 1 at payout - bid."""
    BUY_EACH = 3
    """Buy outcome 0 of every chosen member at its ask."""
    SELL_EACH = 4
    """Buy outcome 1 of every chosen member at payout - bid."""


@dataclass(frozen=True, slots=True)
class EvidenceField:
    """A number that the step writes to its output beside the verdict."""

    name: str
    unit: str
    """micros, us, count, ppm or bool."""
    source: str = "derived"
    """``derived``, ``params``, or ``market`` for what was read off the market's row."""


OUT_FIELDS: Final = ("side", "entry", "strength_ppm", "net_edge_micros", "fair_value_micros", "time_to_live_us")
"""``entry`` is 1 where the verdict may open an opportunity, 0 where it only keeps one open."""

Step = Callable[[Any, Any, Any, Any], None]
"""``step(state, params, row, out)``: records in, state and out written in place. ``out`` comes cleared."""
GroupStep = Callable[[Any, Any, Any, Any, Any], None]
"""``step_group(state, params, rows, out, chosen)``: one as-of row a member, and one cell a member to mark legs."""


@dataclass(frozen=True, slots=True)
class Recomputed:
    """Net edge and strength as the evidence gives them."""

    net_edge_micros: int | None
    strength_ppm: int


@dataclass(frozen=True, slots=True)
class StrategyKind:
    """A kind of signal: formula, version, inputs, state and step.

    :param version: raised by hand whenever the same input would give another output.
    :param columns: names from :data:`COLUMNS`; the row has these and no more.
    :param state_dtype: a structured dtype of int64 fields and int64 arrays.
    :param warm_up_us: how much data it needs before its first signal.
    :param edge_kind: publish only where the edge after fees is positive.
    :param recompute: net edge and strength from a signal's evidence alone, by the formula in ``description``.
    """

    kind: str
    version: int
    display_name: str
    description: str
    formula_source: str
    strength_map: str
    columns: tuple[str, ...]
    params_type: type[Params]
    state_dtype: np.dtype[Any]
    warm_up_us: int
    recompute: Callable[[Signal], Recomputed]
    evidence: tuple[EvidenceField, ...] = ()
    step: Step | None = None
    step_group: GroupStep | None = None
    edge_kind: bool = False
    has_fair_value: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", self.kind):
            raise ValueError(f"kind {self.kind!r} must be dotted lower_snake_case words, e.g. stat.mean_reversion")
        if self.version < 1:
            raise ValueError(f"{self.kind}: version must be at least 1, got {self.version}")
        allowed = set(COLUMNS) | (set(GROUP_COLUMNS) if self.step_group else set())
        foreign = sorted(set(self.columns) - allowed)
        if foreign:
            raise ValueError(f"{self.kind}: columns {foreign} are not allowed; choose from {sorted(allowed)}")
        if (self.step is None) == (self.step_group is None):
            raise ValueError(f"{self.kind}: declare exactly one of step and step_group")
        if self.state_dtype.names is None or any(
            self.state_dtype[name].base != np.dtype(np.int64) for name in self.state_dtype.names
        ):
            raise ValueError(f"{self.kind}: state_dtype must be structured with int64 fields alone")
        if "receive_time_us" not in self.columns:
            raise ValueError(f"{self.kind}: columns must contain receive_time_us, the only clock of a kernel")

    @property
    def group(self) -> bool:
        return self.step_group is not None

    @property
    def row_dtype(self) -> np.dtype[Any]:
        return np.dtype([(name, np.int64) for name in self.columns])

    @property
    def out_dtype(self) -> np.dtype[Any]:
        return np.dtype([(name, np.int64) for name in (*OUT_FIELDS, *(e.name for e in self.evidence))])


class Kernel:
    """A kind with its parameters, ready to step. Holds no state of a subject: that is passed in."""

    def __init__(self, kind: StrategyKind, params: Params) -> None:
        params.validate()
        self.kind = kind
        self.params = params
        self._params = params.record()
        self._row = np.zeros(1, dtype=kind.row_dtype)
        self._out = np.zeros(1, dtype=kind.out_dtype)
        self._row_record, self._out_record = self._row[0], self._out[0]
        self._cleared = np.zeros((), dtype=kind.out_dtype)[()]

    def new_state(self) -> Any:
        """A zeroed state: an array of one record."""
        return np.zeros(1, dtype=self.kind.state_dtype)

    def load_state(self, stored: bytes) -> Any:
        """:raises ValueError: the bytes are not of this version's state."""
        if len(stored) != self.kind.state_dtype.itemsize:
            raise ValueError(
                f"{self.kind.kind} has a state of {self.kind.state_dtype.itemsize} bytes, got {len(stored)}"
            )
        return np.frombuffer(stored, dtype=self.kind.state_dtype).copy()

    def step(self, state: Any, row: Sequence[int]) -> Any:
        """One step of a single-market kind.

        :param state: array of one record, changed in place.
        :param row: the values of ``kind.columns`` in their order.
        :returns: the output record; it is reused by the next step.
        """
        assert self.kind.step is not None
        self._row[0] = tuple(row)
        self._out[0] = self._cleared
        self.kind.step(state[0], self._params, self._row_record, self._out_record)
        return self._out_record

    def step_group(self, state: Any, rows: Any) -> tuple[Any, Any]:
        """One step of a group kind.

        :param rows: array of one record of ``kind.row_dtype`` a member, the as-of row of each.
        :returns: the output record (reused by the next step) and the chosen members, one int64 cell each.
        """
        assert self.kind.step_group is not None
        chosen = np.zeros(len(rows), dtype=np.int64)
        self._out[0] = self._cleared
        self.kind.step_group(state[0], self._params, rows, self._out_record, chosen)
        return self._out_record, chosen
