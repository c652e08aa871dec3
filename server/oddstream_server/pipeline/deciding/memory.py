"""What the runner remembers, and its way into checkpoints and back."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from oddstream_server.application import as_of
from oddstream_server.application.as_of import EVENTS_ID, LINKS_ID, MARKETS_ID
from oddstream_server.application.ports import StrategyState
from oddstream_server.domain.market import Event, Market, MarketLink, MarketState, Venue
from oddstream_server.domain.signal import SignalEvent
from oddstream_server.pipeline.deciding.slots import (
    GroupSlot,
    MarketSlot,
    Run,
    UnderlyingSlot,
    decode_quote,
    encode_quote,
)
from oddstream_server.strategies import tracker
from oddstream_server.strategies.gate import STATE as GATE_STATE
from oddstream_server.strategies.gate import Gate
from oddstream_server.strategies.registry import ConfiguredStrategy
from oddstream_server.strategies.underlying import STATE as UNDERLYING_STATE

GATE_ID: Final = "runner.gate"
POSITION_ID: Final = "runner.position"
UNDERLYING_ID: Final = "runner.underlying"
OWN_IDS: Final = (GATE_ID, MARKETS_ID, EVENTS_ID, LINKS_ID, POSITION_ID, UNDERLYING_ID)
"""Names under which the runner's own state is checkpointed beside the strategies'."""
_STAMP: Final = 8
"""Bytes before a state that tell whether it can be gone on from."""
_ALIVE: Final = (MarketState.UNOPENED, MarketState.OPEN, MarketState.PAUSED, MarketState.DISPUTED)


class Memory:
    """Slots of markets, groups and underlyings, the catalog as known, its journal, positions of the clocks.

    :param on_dropped: told (name, subject id) of a checkpoint that can't be gone on from.
    """

    def __init__(
        self,
        strategies: Sequence[ConfiguredStrategy],
        gate: Gate,
        on_dropped: Callable[[str, str], None] = lambda name, subject_id: None,
    ) -> None:
        self._on_dropped = on_dropped
        self._by_id = {s.strategy_id: s for s in strategies}
        self._alone = tuple(s for s in strategies if not s.kind.group)
        self._groups = tuple(s for s in strategies if s.kind.group)
        self._gate = gate
        self._stamps = {s.strategy_id: _stamp(s) for s in strategies} | {
            GATE_ID: _digest(f"{gate.digest()}/{GATE_STATE.descr}"),
            UNDERLYING_ID: _digest(str(UNDERLYING_STATE.descr)),
        }
        self.markets: dict[str, MarketSlot] = {}
        self.groups: dict[str, GroupSlot] = {}
        """By event id and by link id, which are never alike."""
        self.underlyings: dict[str, UnderlyingSlot] = {}
        self.about: dict[str, dict[str, None]] = {}
        """Of an underlying, the markets that trade on it."""
        self.journal = as_of.Journal()
        self.known_markets: dict[str, Market] = {}
        self.known_events: dict[str, Event] = {}
        self.known_links: dict[str, MarketLink] = {}
        self.links_of: dict[str, dict[str, None]] = {}
        """Of a market, the ids of links that were ever known."""
        self.farewells: list[SignalEvent] = []
        """Events that end what no strategy goes on with."""
        self.positions_us: dict[str, int] = {}
        """By clock, the receive time of the last instant decided on."""

    def new_market_slot(self, market: Market) -> MarketSlot:
        runs = {s.strategy_id: Run(s.kernel.new_state()) for s in self._alone}
        return MarketSlot(market, self._gate.new_state(), runs=runs)

    def new_group_slot(self, facts: Event | MarketLink) -> GroupSlot:
        """The slot without rows: they have to be laid out."""
        return GroupSlot(facts, self._groups, self._gate)

    def new_underlying_slot(self) -> UnderlyingSlot:
        return UnderlyingSlot(np.zeros(1, dtype=UNDERLYING_STATE))

    def know_link(self, link: MarketLink) -> None:
        self.known_links[link.link_id] = link
        for market_id in (link.market_id, link.other_market_id):
            self.links_of.setdefault(market_id, {})[link.link_id] = None

    def index_underlying(self, market: Market) -> None:
        """Remember what the market is about while it trades."""
        underlying = "" if market.strike is None else market.strike.underlying_id
        if underlying and market.state in _ALIVE:
            self.about.setdefault(underlying, {})[market.market_id] = None

    def runs(self) -> Iterable[tuple[str, str, Run]]:
        """Every (strategy id, subject id, run)."""
        holders: tuple[Mapping[str, MarketSlot | GroupSlot], ...] = (self.markets, self.groups)
        for holder in holders:
            for key, slot in holder.items():
                for name, run in slot.runs.items():
                    yield name, key, run

    # --- out ----------------------------------------------------------------------------------------------------

    def states(self, keys: Iterable[tuple[str, str]]) -> Iterable[StrategyState]:
        """Checkpoints of (strategy id or one of the runner's own names, subject id) pairs."""
        for name, key in keys:
            if name == GATE_ID:
                market = self.markets[key]
                kernel = self._stamps[name] + market.gate.tobytes()
                yield StrategyState(name, key, kernel, encode_quote(market.quote, market.quote_shut))
            elif name == UNDERLYING_ID:
                underlying = self.underlyings[key]
                kernel = self._stamps[name] + underlying.state.tobytes()
                yield StrategyState(name, key, kernel, encode_quote(underlying.price))
            elif name == MARKETS_ID:
                yield StrategyState(name, key, b"", as_of.encode(self.journal.markets[key]))
            elif name == EVENTS_ID:
                yield StrategyState(name, key, b"", as_of.encode(self.journal.events[key]))
            elif name == LINKS_ID:
                yield StrategyState(name, key, b"", as_of.encode(self.journal.links[key]))
            elif name == POSITION_ID:
                yield StrategyState(name, key, self.positions_us[key].to_bytes(8, "big"), b"")
            else:
                run = self.groups[key].runs[name] if self._by_id[name].kind.group else self.markets[key].runs[name]
                kernel = self._stamps[name] + run.state.tobytes()
                yield StrategyState(name, key, kernel, run.checkpoint())

    # --- in -----------------------------------------------------------------------------------------------------

    def load(self, stored: Sequence[StrategyState]) -> None:
        """Fill an empty memory from checkpoints, in whatever order they come.

        One of another layout, version or parameters is dropped, and what it had open is said farewell to.
        """
        for state in stored:
            if state.strategy_id in OWN_IDS:
                self._load_facts(state)
        for state in stored:
            if state.strategy_id == GATE_ID and state.subject_id in self.markets:
                self._load_gate(state)
        facts: list[Event | MarketLink] = [versions[-1][1] for versions in self.journal.events.values()]
        facts += [versions[-1][1] for versions in self.journal.links.values()]
        for fact in facts:
            slot = self.new_group_slot(fact)
            slot.lay_out(self.markets)
            self.groups[slot.group_id] = slot
        for state in stored:
            if state.strategy_id in self._by_id:
                self._load_run(state)

    def _load_facts(self, state: StrategyState) -> None:
        name, key = state.strategy_id, state.subject_id
        if name == POSITION_ID:
            clock = Venue(key).clock if key in set(Venue) else key
            position_us = int.from_bytes(state.kernel, "big")
            self.positions_us[clock] = max(self.positions_us.get(clock, 0), position_us)
        elif name == UNDERLYING_ID:
            found = self._decoded(state, decode_quote)
            if found is not None and state.kernel[:_STAMP] == self._stamps[name]:
                array = np.frombuffer(state.kernel[_STAMP:], dtype=UNDERLYING_STATE).copy()
                self.underlyings[key] = UnderlyingSlot(array, found[0])
        elif name in (MARKETS_ID, EVENTS_ID, LINKS_ID):
            for time_us, fact in self._decoded(state, as_of.decode) or ():
                self._load_fact(time_us, fact)

    def _load_fact(self, time_us: int, fact: as_of.Fact) -> None:
        if isinstance(fact, Market):
            self.journal.markets.setdefault(fact.market_id, []).append((time_us, fact))
            self.known_markets[fact.market_id] = fact
            self.markets[fact.market_id] = self.new_market_slot(fact)
            self.index_underlying(fact)
        elif isinstance(fact, Event):
            self.journal.events.setdefault(fact.event_id, []).append((time_us, fact))
            self.known_events[fact.event_id] = fact
        else:
            self.journal.links.setdefault(fact.link_id, []).append((time_us, fact))
            self.know_link(fact)

    def _load_gate(self, state: StrategyState) -> None:
        slot, found = self.markets[state.subject_id], self._decoded(state, decode_quote)
        if found is None:
            return
        slot.quote, slot.quote_shut = found
        if state.kernel[:_STAMP] == self._stamps[GATE_ID]:
            slot.gate = self._gate.load_state(state.kernel[_STAMP:])
        else:
            self._on_dropped(GATE_ID, state.subject_id)

    def _decoded(self, state: StrategyState, decode: Callable[[bytes], Any]) -> Any:
        """What the bytes say; None where an older or newer release wrote them in a way that this one can't read."""
        try:
            return decode(state.opportunities)
        except (ValueError, TypeError, KeyError, AttributeError):
            self._on_dropped(state.strategy_id, state.subject_id)
            return None

    def _load_run(self, state: StrategyState) -> None:
        strategy = self._by_id[state.strategy_id]
        slot = (self.groups if strategy.kind.group else self.markets).get(state.subject_id)
        opened: SignalEvent | None = self._decoded(state, tracker.from_checkpoint)
        if state.kernel[:_STAMP] != self._stamps[state.strategy_id]:
            self._on_dropped(state.strategy_id, state.subject_id)
        elif slot is not None and state.strategy_id in slot.runs:
            slot.runs[state.strategy_id] = Run(strategy.kernel.load_state(state.kernel[_STAMP:]), opened)
            return
        if opened is not None:
            self.farewells.append(tracker.withdrawn(opened, tracker.STRATEGY_CHANGED))

    # --- forgetting ---------------------------------------------------------------------------------------------

    def prune(self, before_us: int) -> list[str]:
        """Forget markets that are over and had no quote since an instant, and groups without a market left.

        Answers the subjects whose checkpoints are of no use any more.
        """
        gone = [
            market_id
            for market_id, slot in self.markets.items()
            if slot.market.state not in _ALIVE
            and (slot.quote is None or slot.quote.receive_time_us < before_us)
            and all(run.opened is None or run.opened.signal.expire_time_us < before_us for run in slot.runs.values())
        ]
        for market_id in gone:
            market = self.markets.pop(market_id).market
            self.known_markets.pop(market_id, None)
            self.journal.markets.pop(market_id, None)
            if market.strike is not None:
                self.about.get(market.strike.underlying_id, {}).pop(market_id, None)
        lost = set(gone)
        for group_id, group in list(self.groups.items()):
            if not lost.isdisjoint(group.members):
                if self.markets.keys().isdisjoint(group.members):
                    del self.groups[group_id]
                    self.known_events.pop(group_id, None)
                    self.journal.events.pop(group_id, None)
                    self.journal.links.pop(group_id, None)
                    gone.append(group_id)
                else:
                    group.lay_out(self.markets)
        return gone


def _stamp(strategy: ConfiguredStrategy) -> bytes:
    """Changes with the strategy's version, its parameters and the layout of its state."""
    kind = strategy.kind
    return _digest(f"{kind.kind}/{kind.version}/{strategy.params_digest}/{kind.state_dtype.descr}")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:_STAMP]
