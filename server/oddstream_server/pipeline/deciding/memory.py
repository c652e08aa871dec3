"""What the runner remembers, and its way into checkpoints and back."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from oddstream_server.application.ports import StrategyState
from oddstream_server.domain.market import Event, Market
from oddstream_server.domain.signal import SignalEvent
from oddstream_server.pipeline.deciding import as_of
from oddstream_server.pipeline.deciding.slots import EventSlot, MarketSlot, Run
from oddstream_server.strategies import tracker
from oddstream_server.strategies.gate import Gate
from oddstream_server.strategies.registry import ConfiguredStrategy

GATE_ID: Final = "runner.gate"
MARKETS_ID: Final = "runner.markets"
EVENTS_ID: Final = "runner.events"
POSITION_ID: Final = "runner.position"
"""Names under which the runner's own state is checkpointed beside the strategies'."""


class Memory:
    """Slots of markets and events, the catalog as known, its journal, positions of the venues."""

    def __init__(self, strategies: Sequence[ConfiguredStrategy], gate: Gate) -> None:
        self._by_id = {s.strategy_id: s for s in strategies}
        self._alone = tuple(s for s in strategies if not s.kind.group)
        self._groups = tuple(s for s in strategies if s.kind.group)
        self._gate = gate
        self._stamps = {s.strategy_id: _stamp(s) for s in strategies}
        self.markets: dict[str, MarketSlot] = {}
        self.events: dict[str, EventSlot] = {}
        self.journal = as_of.Journal()
        self.known_markets: dict[str, Market] = {}
        self.known_events: dict[str, Event] = {}
        self.farewells: list[SignalEvent] = []
        """Events that end what a strategy of other parameters had open."""
        self.positions_us: dict[str, int] = {}
        """By venue, the receive time of the last instant decided on."""

    def new_market_slot(self, market: Market) -> MarketSlot:
        runs = {s.strategy_id: Run(s.kernel.new_state()) for s in self._alone}
        return MarketSlot(market, self._gate.new_state(), runs=runs)

    def new_event_slot(self, event: Event) -> EventSlot:
        """The slot without rows: they have to be laid out."""
        return EventSlot(event, self._groups, self._gate)

    def states(self, keys: Iterable[tuple[str, str]]) -> Iterable[StrategyState]:
        """Checkpoints of (strategy id or one of the runner's own names, subject id) pairs."""
        for name, key in keys:
            if name == GATE_ID:
                market = self.markets[key]
                yield StrategyState(name, key, market.gate.tobytes(), market.encode_quote())
            elif name == MARKETS_ID:
                yield StrategyState(name, key, b"", as_of.encode(self.journal.markets[key]))
            elif name == EVENTS_ID:
                yield StrategyState(name, key, b"", as_of.encode(self.journal.events[key]))
            elif name == POSITION_ID:
                yield StrategyState(name, key, self.positions_us[key].to_bytes(8, "big"), b"")
            else:
                holder = self.events if self._by_id[name].kind.group else self.markets
                run = holder[key].runs[name]
                kernel = self._stamps[name] + run.state.tobytes()
                yield StrategyState(name, key, kernel, tracker.checkpoint(run.opened))

    def load(self, stored: Sequence[StrategyState]) -> None:
        """Fill an empty memory from checkpoints, in whatever order they come."""
        for state in stored:
            self._load_facts(state)
        for state in stored:
            if state.strategy_id == GATE_ID and state.subject_id in self.markets:
                slot = self.markets[state.subject_id]
                slot.gate = self._gate.load_state(state.kernel)
                slot.decode_quote(state.opportunities)
        for event_id, versions in self.journal.events.items():
            self.events[event_id] = self.new_event_slot(versions[-1][1])
            self.events[event_id].lay_out(self.markets)
        for state in stored:
            if state.strategy_id in self._by_id:
                self._load_run(state)

    def _load_facts(self, state: StrategyState) -> None:
        if state.strategy_id == MARKETS_ID:
            markets = [(t, v) for t, v in as_of.decode(state.opportunities) if isinstance(v, Market)]
            self.journal.markets[state.subject_id] = markets
            self.known_markets[state.subject_id] = markets[-1][1]
            self.markets[state.subject_id] = self.new_market_slot(markets[-1][1])
        elif state.strategy_id == EVENTS_ID:
            events = [(t, v) for t, v in as_of.decode(state.opportunities) if isinstance(v, Event)]
            self.journal.events[state.subject_id] = events
            self.known_events[state.subject_id] = events[-1][1]
        elif state.strategy_id == POSITION_ID:
            self.positions_us[state.subject_id] = int.from_bytes(state.kernel, "big")

    def _load_run(self, state: StrategyState) -> None:
        strategy = self._by_id[state.strategy_id]
        slot = (self.events if strategy.kind.group else self.markets).get(state.subject_id)
        opened = tracker.from_checkpoint(state.opportunities)
        if slot is not None and state.kernel[:8] == self._stamps[state.strategy_id]:
            slot.runs[state.strategy_id] = Run(strategy.kernel.load_state(state.kernel[8:]), opened)
        elif opened is not None:
            self.farewells.append(tracker.withdrawn(opened, tracker.STRATEGY_CHANGED))


def _stamp(strategy: ConfiguredStrategy) -> bytes:
    """Eight bytes that change with the strategy's version and parameters."""
    kind = strategy.kind
    return hashlib.sha256(f"{kind.kind}/{kind.version}/{strategy.params_digest}".encode()).digest()[:8]
