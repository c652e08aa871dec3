"""What the runner keeps of a market, an event, a link and an underlying, and the log that undoes a batch."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Final

import numpy as np

from oddstream_server.domain.market import Declared, Event, LinkRelation, Market, MarketLink, Venue
from oddstream_server.domain.quote import Quote, SourceKind, TickSource
from oddstream_server.domain.signal import SignalEvent, plain
from oddstream_server.strategies import tracker
from oddstream_server.strategies.gate import Gate, Shut, shut_by_state
from oddstream_server.strategies.kernel import COLUMNS, MISSING, TERMS_COLUMNS, Grouping
from oddstream_server.strategies.registry import ConfiguredStrategy
from oddstream_server.strategies.verdicts import Member, column_values, terms_values

_NO_QUOTE: Final[Mapping[str, int]] = dict.fromkeys(COLUMNS, MISSING)
_NO_TERMS: Final[Mapping[str, int]] = {**dict.fromkeys(TERMS_COLUMNS, MISSING), "strike_kind": 0, "averaging_us": 0}


@dataclass(slots=True)
class Run:
    """One strategy on one subject: the kernel's state (an array of one record) and the open opportunity."""

    state: Any
    opened: SignalEvent | None = None
    _checkpointed: tuple[SignalEvent | None, bytes] = (None, b"")

    def checkpoint(self) -> bytes:
        """The open opportunity's checkpoint, written out once for as long as it stays the same."""
        if self._checkpointed[0] is not self.opened:
            self._checkpointed = (self.opened, tracker.checkpoint(self.opened))
        return self._checkpointed[1]

    def snapshot(self) -> Callable[[], "Run"]:
        """A function that makes the run as it is now. Bytes, since copying an array of records goes field by field."""
        dtype, stored, opened = self.state.dtype, self.state.tobytes(), self.opened
        return lambda: Run(np.frombuffer(stored, dtype=dtype).copy(), opened)


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
        market, gate, quote, shut = self.market, self.gate.tobytes(), self.quote, self.quote_shut
        runs = {key: run.snapshot() for key, run in self.runs.items()}

        def undo() -> None:
            self.market, self.quote, self.quote_shut = market, quote, shut
            self.gate = np.frombuffer(gate, dtype=self.gate.dtype).copy()
            self.runs = {key: run() for key, run in runs.items()}

        return undo


_RELATIONS: Final = {
    LinkRelation.EQUIVALENT: 1,
    LinkRelation.INVERSE: 2,
    LinkRelation.IMPLIES: 3,
    LinkRelation.IMPLIED_BY: 4,
}


class GroupSlot:
    """An event or a link as known now, one as-of row a member, and the strategies that look at it."""

    def __init__(self, facts: Event | MarketLink, strategies: Iterable[ConfiguredStrategy], gate: Gate) -> None:
        self.facts = facts
        self._gate = gate
        linked = isinstance(facts, MarketLink)
        self.strategies = tuple(s for s in strategies if (s.kind.grouping is Grouping.LINK) == linked)
        self.runs: dict[str, Run] = {s.strategy_id: Run(s.kernel.new_state()) for s in self.strategies}
        self.members: tuple[str, ...] = ()
        self.index: dict[str, int] = {}
        self._slots: list[MarketSlot | None] = []
        self._rows: dict[str, Any] = {}
        self._shut: Any = None
        self._stale_from_us: Any = None
        self._strikes = 0

    @property
    def group_id(self) -> str:
        return self.facts.event_id if isinstance(self.facts, Event) else self.facts.link_id

    def speakable(self, strategy: ConfiguredStrategy) -> bool:
        """True where something may be said of the group: enough members, and what relates them is known."""
        facts = self.facts
        if isinstance(facts, MarketLink):
            return facts.tradable and all(slot is not None and slot.quote is not None for slot in self._slots)
        if facts.neg_risk_augmented or len(self.members) < 2:
            return False
        if strategy.kind.grouping is Grouping.LADDER:
            return self._strikes > 1
        return Declared.YES in (facts.exclusivity, facts.exhaustiveness)

    def snapshot(self) -> Callable[[], None]:
        """A function that puts facts and runs back; the rows have to be laid out again after it."""
        facts, runs = self.facts, {key: run.snapshot() for key, run in self.runs.items()}

        def undo() -> None:
            self.facts, self.runs = facts, {key: run() for key, run in runs.items()}

        return undo

    def lay_out(self, markets: Mapping[str, MarketSlot]) -> None:
        """Build the members' rows from the markets' last quotes."""
        facts = self.facts
        if isinstance(facts, Event):
            self.members = tuple(sorted(set(facts.market_ids)))
        else:
            self.members = (facts.market_id, facts.other_market_id)
        self.index = {market_id: i for i, market_id in enumerate(self.members)}
        count = len(self.members)
        self._slots = [markets.get(market_id) for market_id in self.members]
        self._rows = {s.strategy_id: np.zeros(count, dtype=s.kind.row_dtype) for s in self.strategies}
        self._shut = np.full(count, int(Shut.STALE), dtype=np.int64)
        self._stale_from_us = np.zeros(count, dtype=np.int64)
        self._strikes = sum(slot is not None and slot.market.strike is not None for slot in self._slots)
        payout = next((slot.market.payout_micros for slot in self._slots if slot is not None), MISSING)
        for i, slot in enumerate(self._slots):
            if slot is None or slot.quote is None:
                self._write(i, {**_NO_QUOTE, "payout_micros": payout}, None if slot is None else slot.market)
            else:
                self.update(slot, column_values(slot.market, slot.quote))

    def update(self, slot: MarketSlot, values: Mapping[str, int]) -> None:
        """Write a member's as-of row."""
        assert slot.quote is not None
        i = self.index[slot.market.market_id]
        if self._slots[i] is None:
            self._strikes += slot.market.strike is not None
        self._slots[i] = slot
        self._write(i, values, slot.market)
        self._shut[i] = int(slot.shut)
        self._stale_from_us[i] = slot.quote.receive_time_us + self._gate.stale_after_us(slot.gate)

    def _write(self, i: int, values: Mapping[str, int], market: Market | None) -> None:
        facts = self.facts
        row = {**values, **(_NO_TERMS if market is None else terms_values(market))}
        if isinstance(facts, MarketLink):
            row |= {"exclusive": 0, "exhaustive": 0, "relation": _RELATIONS[facts.relation]}
        else:
            row["exclusive"] = int(facts.exclusivity is Declared.YES)
            row["exhaustive"] = int(facts.exhaustiveness is Declared.YES)
        for strategy in self.strategies:
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


@dataclass(slots=True)
class UnderlyingSlot:
    """The price of what markets are about, as of now, with its volatility's state (an array of one record)."""

    state: Any
    price: Quote | None = None

    def snapshot(self) -> Callable[[], None]:
        state, price = self.state.copy(), self.price

        def undo() -> None:
            self.state, self.price = state, price

        return undo


def encode_quote(quote: Quote | None, shut: Shut = Shut.OPEN) -> bytes:
    """JSON with sorted keys, put together by hand: a checkpoint is written for every tick."""
    if quote is None:
        return f'{{"quote":null,"shut":{int(shut)}}}'.encode()
    values = ",".join([f'"{name}":{_json(getattr(quote, name))}' for name in _QUOTE_FIELDS])
    return f'{{"quote":{{{values}}},"shut":{int(shut)}}}'.encode()


_QUOTE_FIELDS: Final = tuple(sorted(f.name for f in fields(Quote)))


def _json(value: object) -> str:
    if value is None:
        return "null"
    return str(value) if type(value) is int else _json_once(value)


@lru_cache(maxsize=10_000)
def _json_once(value: object) -> str:
    """Of what is the same in many quotes: the market's id, the source."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"))


def decode_quote(stored: bytes) -> tuple[Quote | None, Shut]:
    body = json.loads(stored)
    raw = body["quote"]
    if raw is None:
        return None, Shut(body["shut"])
    source = TickSource(Venue(raw["source"]["venue"]), SourceKind(raw["source"]["kind"]), raw["source"]["name"])
    return Quote(**{**raw, "source": source}), Shut(body["shut"])


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
