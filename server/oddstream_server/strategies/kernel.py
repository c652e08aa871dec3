"""What a strategy declares, and the driver that feeds one row after another to its step.

A strategy is a step function over declared integer state. It sees one row and its own state, so it can't look ahead:
time comes from the row, columns come from an allow-list, and outcomes, results and final close times are not among
them. Live, batch, resume and replay all call the same step through :class:`Kernel`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
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
"""The columns that every row of a quote has, all int64."""

PRINT_COLUMNS: Final[Mapping[str, str]] = {
    "trade_price_micros": "price of outcome 0 of the print that this row is; MISSING where the row is a quote",
    "trade_size_micros": "contracts of the print; MISSING where the row is a quote",
    "trade_outcome": "1 where the taker bought outcome 0, 2 where outcome 1, 0 where that is unknown or no print",
}
"""A kind that names one of them is stepped on prints too, with the quote as of the print; blocks stay out."""

TERMS_COLUMNS: Final[Mapping[str, str]] = {
    "close_time_us": "when trading was to end, as known then",
    "strike_kind": "0 none, 1 greater, 2 greater or equal, 3 less, 4 less or equal, 5 between",
    "strike_floor_micros": "lower bound of what the underlying must reach",
    "strike_cap_micros": "upper bound of it",
    "averaging_us": "length of the average that the market settles on; 0 for a single price",
}
"""What the market's terms said at that time."""

UNDERLYING_COLUMNS: Final[Mapping[str, str]] = {
    "underlying_price_micros": "last price of what the market is about",
    "underlying_time_us": "when it was received",
    "underlying_volatility_ppb": "deviation of its return over the square root of a second, estimated up to then",
}
"""A kind that names one of them is stepped on new prices of the underlying too, with the quote as of that instant."""

FITTED_COLUMNS: Final[Mapping[str, str]] = {
    "calibrated_price_micros": "what outcome 0 was worth in markets alike: mid, category, time to the end",
    "calibration_count": "settled markets that this rests on",
    "calibration_fit_time_us": "when it was fitted, before this row",
    "baseline_median_e4": "median of ln(1 + contracts of an hour) at this hour of the week, in 1/10,000",
    "baseline_deviation_e4": "median distance from it, in 1/10,000",
    "baseline_count": "hours that this rests on",
    "baseline_fit_time_us": "when it was fitted, before this row",
}
"""Values of fitted objects, each of one that was fitted before the row; MISSING where there is none."""

SINGLE_COLUMNS: Final[Mapping[str, str]] = {
    **COLUMNS,
    **PRINT_COLUMNS,
    **TERMS_COLUMNS,
    **UNDERLYING_COLUMNS,
    **FITTED_COLUMNS,
}
"""The allow-list of a kind that looks at one market."""

GROUP_COLUMNS: Final[Mapping[str, str]] = {
    "exclusive": "1 where at most one member can win, as the venue or a reviewer declared it",
    "exhaustive": "1 where one of the members must win, as the venue or a reviewer declared it",
}
"""Columns that a group's step has besides; the same in each member's row."""

LINK_COLUMNS: Final[Mapping[str, str]] = {
    "relation": "1 both win together, 2 one wins when the other loses, 3 the first implies the second, 4 the reverse",
}
"""Columns of the two markets of a confirmed link; the same in both rows."""


class Grouping(StrEnum):
    """Which markets a group's step sees together, as of the row."""

    PARTITION = "partition"
    """The markets of an event that is declared exclusive or exhaustive."""
    LADDER = "ladder"
    """The markets of an event, whatever is declared of it: their strikes tell how they relate."""
    LINK = "link"
    """The two markets of a confirmed link, in its order."""


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
    MIXED = 5
    """Buy outcome 0 of the members chosen with 1 at their ask, and outcome 1 of those chosen with 2 at payout - bid."""


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
"""``step(state, params, row, out)``: state and out are written in place, out comes cleared. All are read by field name;
the state is a record, the others are records or dictionaries of integers."""
GroupStep = Callable[[Any, Any, Any, Any, Any], None]
"""``step_group(state, params, rows, out, chosen)``: one as-of row a member, and one cell a member to mark legs.

With UP or DOWN exactly one member is chosen."""


@dataclass(frozen=True, slots=True)
class Recomputed:
    """Net edge and strength as the evidence gives them."""

    net_edge_micros: int | None
    strength_ppm: int


@dataclass(frozen=True, slots=True)
class StrategyKind:
    """A kind of signal: formula, version, inputs, state and step.

    :param version: raised by hand whenever the same input would give another output.
    :param columns: names from :data:`SINGLE_COLUMNS`, or for a group those of quotes, terms and the group;
        the row has these and no more.
    :param state_dtype: a structured dtype of int64 fields and int64 arrays.
    :param warm_up_us: how much data it needs before its first signal.
    :param edge_kind: publish only where the edge after fees is positive.
    :param has_net_edge: False for a kind that says where a price goes and not what that is worth.
    :param enabled_by_default: False where it says nothing before something was fitted for it, or more than most want.
    :param grouping: what a group's step sees together.
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
    has_net_edge: bool = True
    enabled_by_default: bool = True
    grouping: Grouping = Grouping.PARTITION

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", self.kind):
            raise ValueError(f"kind {self.kind!r} must be dotted lower_snake_case words, e.g. stat.mean_reversion")
        if self.version < 1:
            raise ValueError(f"{self.kind}: version must be at least 1, got {self.version}")
        allowed = set(SINGLE_COLUMNS)
        if self.step_group is not None:
            allowed = set(COLUMNS) | set(TERMS_COLUMNS) | set(GROUP_COLUMNS)
            if self.grouping is Grouping.LINK:
                allowed |= set(LINK_COLUMNS)
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
    def wants_prints(self) -> bool:
        return not PRINT_COLUMNS.keys().isdisjoint(self.columns)

    @property
    def wants_underlying(self) -> bool:
        return not UNDERLYING_COLUMNS.keys().isdisjoint(self.columns)

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
        # Dictionaries of Python's own integers: a step reads and writes them several times faster than records.
        record = params.record()
        self._params = {name: int(record[name]) for name in record.dtype.names}
        self._cleared = dict.fromkeys(kind.out_dtype.names or (), 0)

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
        :returns: the output by field.
        """
        assert self.kind.step is not None
        out = self._cleared.copy()
        self.kind.step(state[0], self._params, dict(zip(self.kind.columns, row, strict=True)), out)
        return self._declared(out)

    def step_group(self, state: Any, rows: Any) -> tuple[Any, Any]:
        """One step of a group kind.

        :param rows: array of one record of ``kind.row_dtype`` a member, the as-of row of each.
        :returns: the output by field and the chosen members, one int64 cell each.
        """
        assert self.kind.step_group is not None
        chosen = np.zeros(len(rows), dtype=np.int64)
        out = self._cleared.copy()
        self.kind.step_group(state[0], self._params, rows, out, chosen)
        return self._declared(out), chosen

    def _declared(self, out: dict[str, Any]) -> dict[str, Any]:
        """:raises ValueError: the step wrote a field that its kind doesn't declare."""
        if len(out) != len(self._cleared):
            raise ValueError(
                f"{self.kind.kind} wrote {sorted(out.keys() - self._cleared.keys())}, which it must declare"
            )
        return out
