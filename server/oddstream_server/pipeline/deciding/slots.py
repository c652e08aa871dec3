"""What the runner keeps of one market and of one event, and the log that undoes a batch."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from oddstream_server.domain.market import Declared, Event, Market, Venue
from oddstream_server.domain.quote import Quote, SourceKind, TickSource
from oddstream_server.domain.signal import SignalEvent, plain
from oddstream_server.strategies.gate import Gate, Shut, shut_by_state
from oddstream_server.strategies.kernel import COLUMNS, MISSING
from oddstream_server.strategies.registry import ConfiguredStrategy
from oddstream_server.strategies.verdicts import Member, column_values

_NO_QUOTE: Final[Mapping[str, int]] = dict.fromkeys(COLUMNS, MISSING)


@dataclass(slots=True)
class Run:
    """One strategy on one subject: the kernel's state (an array of one record) and the open opportunity."""

    state: Any
    opened: SignalEvent | None = None

    def copy(self) -> "Run":
        return Run(self.state.copy(), self.opened)


@dataclass(slots=True)
class MarketSlot:
    """A market as known now, its gate, its last quote and the strategies that look at it alone."""

    market: Market
    gate: Any
    """The gate's state: an array of one record."""
    quote: Quote | None = None
    quote_shut: Shut = Shut.OPEN
    """What the gate said of the last quote."""
    runs: dict[str, Run] = field(default_factory=dict)

    @property
    def shut(self) -> Shut:
        """The market's state goes before what its last quote says."""
        by_state = shut_by_state(self.market)
        return self.quote_shut if by_state is Shut.OPEN else by_state

    def snapshot(self) -> Callable[[], None]:
        """A function that puts the slot back to what it is now."""
        market, gate, quote, shut = self.market, self.gate.copy(), self.quote, self.quote_shut
        runs = {key: run.copy() for key, run in self.runs.items()}

        def undo() -> None:
            self.market, self.gate, self.quote, self.quote_shut, self.runs = market, gate, quote, shut, runs

        return undo

    def encode_quote(self) -> bytes:
        body = {"quote": None if self.quote is None else plain(self.quote), "shut": int(self.quote_shut)}
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    def decode_quote(self, stored: bytes) -> None:
        body = json.loads(stored)
        self.quote_shut = Shut(body["shut"])
        raw = body["quote"]
        if raw is not None:
            source = TickSource(Venue(raw["source"]["venue"]), SourceKind(raw["source"]["kind"]), raw["source"]["name"])
            self.quote = Quote(**{**raw, "source": source})


class EventSlot:
    """An event as known now, one as-of row a member, and the group strategies."""

    def __init__(self, event: Event, strategies: Iterable[ConfiguredStrategy], gate: Gate) -> None:
        self.event = event
        self._gate = gate
        self._strategies = tuple(strategies)
        self.runs: dict[str, Run] = {s.strategy_id: Run(s.kernel.new_state()) for s in self._strategies}
        self.members: tuple[str, ...] = ()
        self.index: dict[str, int] = {}
        self._slots: list[MarketSlot | None] = []
        self._rows: dict[str, Any] = {}
        self._shut: Any = None
        self._stale_from_us: Any = None

    @property
    def speakable(self) -> bool:
        """True where something may be said of the event: enough members, a declaration, no changing meanings."""
        event = self.event
        declared = Declared.YES in (event.exclusivity, event.exhaustiveness)
        return declared and not event.neg_risk_augmented and len(self.members) > 1

    def snapshot(self) -> Callable[[], None]:
        """A function that puts event and runs back; the rows have to be laid out again after it."""
        event, runs = self.event, {key: run.copy() for key, run in self.runs.items()}

        def undo() -> None:
            self.event, self.runs = event, runs

        return undo

    def lay_out(self, markets: Mapping[str, MarketSlot]) -> None:
        """Build the members' rows from the markets' last quotes."""
        self.members = tuple(sorted(set(self.event.market_ids)))
        self.index = {market_id: i for i, market_id in enumerate(self.members)}
        count = len(self.members)
        self._slots = [markets.get(market_id) for market_id in self.members]
        self._rows = {s.strategy_id: np.zeros(count, dtype=s.kind.row_dtype) for s in self._strategies}
        self._shut = np.full(count, int(Shut.STALE), dtype=np.int64)
        self._stale_from_us = np.zeros(count, dtype=np.int64)
        payout = next((slot.market.payout_micros for slot in self._slots if slot is not None), MISSING)
        for i, slot in enumerate(self._slots):
            if slot is None or slot.quote is None:
                self._write(i, {**_NO_QUOTE, "payout_micros": payout})
            else:
                self.update(slot, column_values(slot.market, slot.quote))

    def update(self, slot: MarketSlot, values: Mapping[str, int]) -> None:
        """Write a member's as-of row."""
        assert slot.quote is not None
        i = self.index[slot.market.market_id]
        self._slots[i] = slot
        self._write(i, values)
        self._shut[i] = int(slot.shut)
        self._stale_from_us[i] = slot.quote.receive_time_us + self._gate.stale_after_us(slot.gate)

    def _write(self, i: int, values: Mapping[str, int]) -> None:
        row = {
            **values,
            "exclusive": int(self.event.exclusivity is Declared.YES),
            "exhaustive": int(self.event.exhaustiveness is Declared.YES),
        }
        for strategy in self._strategies:
            self._rows[strategy.strategy_id][i] = tuple(row[c] for c in strategy.kind.columns)

    def visible_rows(self, strategy_id: str, at_us: int) -> Any:
        """The members' rows as of an instant; a member whose gate is shut has neither side."""
        rows = self._rows[strategy_id].copy()
        hidden = (self._shut != 0) | (self._stale_from_us < at_us)
        for name in ("bid_price_micros", "ask_price_micros"):
            if name in rows.dtype.names:
                rows[name][hidden] = MISSING
        return rows

    def shut_of(self, market_id: str, at_us: int) -> Shut:
        i = self.index.get(market_id)
        if i is None:
            return Shut.MARKET_CLOSED
        shut = Shut(int(self._shut[i]))
        return Shut.STALE if shut is Shut.OPEN and self._stale_from_us[i] < at_us else shut

    def as_of_members(self) -> list[Member | None]:
        return [None if slot is None or slot.quote is None else (slot.market, slot.quote) for slot in self._slots]


class UndoLog:
    """How to put back what a batch changed: the first change of each thing is remembered."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, str], Callable[[], None]] = {}

    def __contains__(self, mark: tuple[str, str]) -> bool:
        return mark in self._steps

    def __bool__(self) -> bool:
        return bool(self._steps)

    def keys(self, name: str) -> list[str]:
        return [key for kind, key in self._steps if kind == name]

    def add(self, name: str, key: str, undo: Callable[[], None]) -> None:
        self._steps.setdefault((name, key), undo)

    def add_entry(self, name: str, table: dict[str, Any], key: str) -> None:
        """For a key of a dictionary whose values are replaced, never changed in place."""
        if (name, key) in self._steps:
            return
        before = table.get(key)

        def undo() -> None:
            if before is None:
                table.pop(key, None)
            else:
                table[key] = before

        self._steps[name, key] = undo

    def roll_back(self) -> None:
        for undo in reversed(self._steps.values()):
            undo()
        self._steps.clear()

    def clear(self) -> None:
        self._steps.clear()
