"""The strategies over the ticks: kernel states, open opportunities and the catalog as of each row, in memory.

:meth:`StrategyRunner.decide` is deterministic and does no I/O: it is called inside the transaction that stores the
ticks, and what it changed is kept by :meth:`commit` or undone by :meth:`rollback`. Each market and each event has its
own state, so the result depends on the order of a subject's own ticks alone. Ticks of one receive time are one
instant: a group is looked at once, after all of them. Venues have positions of their own: their clocks may differ (the
simulated one may run ahead), and no subject belongs to two of them.
"""

from collections.abc import Callable, Iterable, Sequence, Set
from itertools import groupby
from typing import Any

from oddstream_server.application.ports import Decision, StrategyState
from oddstream_server.domain.halt import HaltScope
from oddstream_server.domain.market import Event, Market, Venue, split_market_id
from oddstream_server.domain.quote import Quote, Trade
from oddstream_server.domain.signal import DataOrigin, SignalEvent
from oddstream_server.pipeline.deciding import as_of
from oddstream_server.pipeline.deciding.memory import EVENTS_ID, GATE_ID, MARKETS_ID, POSITION_ID, Memory
from oddstream_server.pipeline.deciding.slots import EventSlot, MarketSlot, Run, UndoLog
from oddstream_server.strategies import tracker
from oddstream_server.strategies.gate import Gate, GateParams, Shut
from oddstream_server.strategies.registry import ConfiguredStrategy
from oddstream_server.strategies.verdicts import column_values, group_verdict, market_verdict


def origin_of(venue: Venue) -> DataOrigin:
    """Data of the simulated venue is SIMULATED, of every other one LIVE."""
    return DataOrigin.SIMULATED if venue is Venue.SIMULATED else DataOrigin.LIVE


class StrategyRunner:
    """All configured strategies on all markets and events that ticks come for.

    :param origin: data origin of the signals of a venue.
    :param on_failure: told (strategy id, subject id, error) when a kernel raises. Its window is void then and its open
        opportunity ends; the other strategies and the batch go on.
    :param checkpoints: False where decisions need no states and are never rolled back, as in a replay.
    :raises ValueError: the strategies have different gates: one gate judges a market for all of them.
    """

    def __init__(
        self,
        strategies: Sequence[ConfiguredStrategy],
        origin: Callable[[Venue], DataOrigin] = origin_of,
        on_failure: Callable[[str, str, Exception], None] = lambda strategy_id, subject_id, error: None,
        checkpoints: bool = True,
    ) -> None:
        self._set_strategies(strategies)
        self._origin = origin
        self._halts: tuple[HaltScope, ...] = ()
        self._on_failure = on_failure
        self._checkpoints = checkpoints
        self._reset()

    def _set_strategies(self, strategies: Sequence[ConfiguredStrategy]) -> None:
        if len({s.gate.digest() for s in strategies}) > 1:
            raise ValueError("all strategies of a runner have to share one gate's parameters")
        self.strategies = tuple(sorted(strategies, key=lambda s: s.strategy_id))
        self._alone = tuple(s for s in self.strategies if not s.kind.group)
        self._groups = tuple(s for s in self.strategies if s.kind.group)
        self._digests = {s.strategy_id: s.params_digest for s in self.strategies}
        self._gate = self.strategies[0].gate if self.strategies else Gate(GateParams())

    def reconfigure(self, strategies: Sequence[ConfiguredStrategy]) -> None:
        """Run other strategies; :meth:`restore` has to follow, since states belong to strategies.

        :raises ValueError: as the constructor does.
        """
        self._set_strategies(strategies)

    def _reset(self) -> None:
        self._memory = Memory(self.strategies, self._gate)
        self._offered: dict[tuple[int, str], Market | Event] = {}
        self._undo = UndoLog()
        self._changed: dict[tuple[str, str], None] = {}

    @property
    def strategy_ids(self) -> tuple[str, ...]:
        """Ids whose states :meth:`restore` wants, the runner's own included."""
        return (*(s.strategy_id for s in self.strategies), GATE_ID, MARKETS_ID, EVENTS_ID, POSITION_ID)

    def position_us(self, venue: Venue) -> int:
        """Receive time of the last instant of a venue that was decided on; 0 at first."""
        return self._memory.positions_us.get(venue.value, 0)

    @property
    def journal(self) -> as_of.Journal:
        return self._memory.journal

    # --- catalog ------------------------------------------------------------------------------------------------

    def offer_catalog(self, events: Iterable[Event], markets: Iterable[Market]) -> None:
        """New facts about events and markets; they hold from the next instant that is decided on."""
        for event in events:
            essential_event = as_of.essential_event(event)
            if self._memory.known_events.get(event.event_id) != essential_event:
                self._offered[0, event.event_id] = essential_event
        for market in markets:
            essential_market = as_of.essential_market(market)
            if self._memory.known_markets.get(market.market_id) != essential_market:
                self._offered[1, market.market_id] = essential_market

    @property
    def has_news(self) -> bool:
        """True where something waits to be decided on even if no tick comes."""
        return bool(self._memory.farewells) or any(
            key in (self._memory.markets if rank else self._memory.events) for rank, key in self._offered
        )

    def _apply_offers(self, venue: Venue, at_us: int) -> list[SignalEvent]:
        events: list[SignalEvent] = []
        dirty: set[str] = set()
        for key in sorted(key for key, version in self._offered.items() if version.venue is venue):
            version = self._offered.pop(key)
            if isinstance(version, Event):
                self._learn_event(version, at_us, dirty)
            else:
                events += self._learn_market(version, at_us, dirty)
        for event_id in sorted(dirty):
            events += self._look_at_group(self._memory.events[event_id], set(), at_us)
        return events

    def _learn_event(self, event: Event, at_us: int, dirty: set[str]) -> None:
        self._undo.add_entry("known_events", self._memory.known_events, event.event_id)
        self._memory.known_events[event.event_id] = event
        slot = self._memory.events.get(event.event_id)
        if slot is not None:
            self._touch_event(slot)
            slot.event = event
            self._write_journal(self._memory.journal.events, EVENTS_ID, event.event_id, event, at_us)
            slot.lay_out(self._memory.markets)
            dirty.add(event.event_id)

    def _learn_market(self, market: Market, at_us: int, dirty: set[str]) -> Sequence[SignalEvent]:
        self._undo.add_entry("known_markets", self._memory.known_markets, market.market_id)
        self._memory.known_markets[market.market_id] = market
        slot = self._memory.markets.get(market.market_id)
        if slot is None:
            return ()
        self._touch_market(slot)
        slot.market = market
        self._write_journal(self._memory.journal.markets, MARKETS_ID, market.market_id, market, at_us)
        events: list[SignalEvent] = []
        if slot.shut is not Shut.OPEN:
            for strategy in self._alone:
                events += self._observe(strategy, market, slot.runs, None, at_us, slot.shut.reason)
        event_slot = self._event_slot(market, at_us)
        if event_slot is not None and slot.quote is not None:
            self._touch_event(event_slot)
            event_slot.update(slot, column_values(market, slot.quote))
            dirty.add(event_slot.event.event_id)
        return events

    # --- deciding -----------------------------------------------------------------------------------------------

    def decide(self, ticks: Sequence[Quote | Trade], now_us: int | None = None) -> Decision:
        """What the strategies make of ticks in order.

        :param ticks: whole instants: no later call brings a tick of the same venue and receive time.
        :param now_us: the instant of a call without ticks.
        """
        if self._undo:
            self.rollback()
        self._begin()
        by_venue: dict[Venue, list[Quote | Trade]] = {}
        for tick in ticks:
            by_venue.setdefault(tick.source.venue, []).append(tick)
        events: list[SignalEvent] = []
        if by_venue or now_us is not None:
            events += self._say_farewell(ticks[0].receive_time_us if ticks else now_us or 0)
        for venue in sorted(by_venue):
            self._move_to(venue, by_venue[venue][0].receive_time_us)
            events += self._apply_offers(venue, by_venue[venue][0].receive_time_us)
            for instant_us, instant in groupby(by_venue[venue], key=lambda tick: tick.receive_time_us):
                self._move_to(venue, instant_us)
                events += self._look_at_instant(instant, instant_us)
        if now_us is not None and not ticks:
            for venue in sorted({version.venue for version in self._offered.values()}):
                # never the instant of ticks decided on before: a replay applies facts ahead of an instant's ticks
                at_us = max(now_us, self.position_us(venue) + 1)
                self._move_to(venue, at_us)
                events += self._apply_offers(venue, at_us)
        return Decision(tuple(events), tuple(self._memory.states(self._changed)) if self._checkpoints else ())

    def _move_to(self, venue: Venue, instant_us: int) -> None:
        self._memory.positions_us[venue.value] = max(self.position_us(venue), instant_us)
        self._changed[POSITION_ID, venue.value] = None

    def _say_farewell(self, at_us: int) -> list[SignalEvent]:
        leaving, self._memory.farewells = self._memory.farewells, []
        return [event for event in leaving if tracker.unexpired(event, at_us)]

    def _look_at_instant(self, instant: Iterable[Quote | Trade], at_us: int) -> list[SignalEvent]:
        events: list[SignalEvent] = []
        gaps: dict[str, set[str]] = {}
        for tick in instant:
            if isinstance(tick, Quote):
                events += self._look_at_quote(tick, gaps)
        for event_id in sorted(gaps):
            events += self._look_at_group(self._memory.events[event_id], gaps[event_id], at_us)
        return events

    def commit(self) -> None:
        """Keep what the last :meth:`decide` changed: its transaction is committed."""
        self._undo.clear()
        self._changed.clear()

    def rollback(self) -> None:
        """Undo what the last :meth:`decide` changed: its transaction failed."""
        touched = set(self._undo.keys("event"))
        touched |= {self._memory.markets[key].market.event_id or "" for key in self._undo.keys("market")}
        self._undo.roll_back()
        for event_id in touched & self._memory.events.keys():
            self._memory.events[event_id].lay_out(self._memory.markets)
        self._changed.clear()

    def _begin(self) -> None:
        memory, offered = self._memory, dict(self._offered)
        farewells, positions_us = list(memory.farewells), dict(memory.positions_us)

        def undo() -> None:
            memory.farewells, memory.positions_us = farewells, positions_us
            self._offered = offered | self._offered

        self._undo.add("batch", "", undo)

    def _look_at_quote(self, quote: Quote, gaps: dict[str, set[str]]) -> list[SignalEvent]:
        slot = self._market_slot(quote.market_id, quote.receive_time_us)
        if slot is None:
            return []
        self._touch_market(slot)
        market, at_us = slot.market, quote.receive_time_us
        values = column_values(market, quote)
        slot.quote = quote
        slot.quote_shut, void = self._gate.step(
            slot.gate,
            at_us,
            quote.epoch,
            values["bid_price_micros"],
            values["ask_price_micros"],
            market.payout_micros,
        )
        events: list[SignalEvent] = []
        for strategy in self._alone:
            run = slot.runs[strategy.strategy_id]
            if void:
                run.state = strategy.kernel.new_state()
                events += self._observe(strategy, market, slot.runs, None, at_us, Shut.GAP.reason)
            if slot.shut is not Shut.OPEN:
                events += self._observe(strategy, market, slot.runs, None, at_us, slot.shut.reason)
                continue
            verdict = None
            try:
                out = strategy.kernel.step(run.state, [values[name] for name in strategy.kind.columns])
                if out["side"]:
                    verdict = market_verdict(strategy.kind, out, market, quote)
            except Exception as error:
                self._give_up(strategy, market.market_id, run, error)
            events += self._observe(strategy, market, slot.runs, verdict, at_us)
        event_slot = self._event_slot(market, at_us)
        if event_slot is not None and market.market_id in event_slot.index:
            self._touch_event(event_slot)
            event_slot.update(slot, values)
            dirty = gaps.setdefault(event_slot.event.event_id, set())
            if void:
                dirty.add(market.market_id)
        return events

    def _look_at_group(self, slot: EventSlot, gaps: set[str], at_us: int) -> list[SignalEvent]:
        """Look at an event as of an instant; ``gaps`` are the members whose windows became void at it."""
        if not slot.speakable and all(run.opened is None for run in slot.runs.values()):
            return []
        self._touch_event(slot)
        events: list[SignalEvent] = []
        for strategy in self._groups:
            run = slot.runs[strategy.strategy_id]
            if run.opened is not None:
                reason = _gate_reason(run.opened, slot, gaps, at_us)
                if reason is not None:
                    events += self._observe(strategy, slot.event, slot.runs, None, at_us, reason)
            verdict = None
            try:
                if slot.speakable:
                    out, chosen = strategy.kernel.step_group(run.state, slot.visible_rows(strategy.strategy_id, at_us))
                    if out["side"]:
                        verdict = group_verdict(strategy.kind, out, chosen, slot.as_of_members(), at_us)
            except Exception as error:
                self._give_up(strategy, slot.event.event_id, run, error)
            events += self._observe(strategy, slot.event, slot.runs, verdict, at_us)
        return events

    def _give_up(self, strategy: ConfiguredStrategy, subject_id: str, run: Run, error: Exception) -> None:
        """A kernel of somebody else's may raise anything: it starts anew on this subject and hurts nobody else."""
        run.state = strategy.kernel.new_state()
        self._on_failure(strategy.strategy_id, subject_id, error)

    def _observe(
        self,
        strategy: ConfiguredStrategy,
        about: Market | Event,
        runs: dict[str, Run],
        verdict: tracker.Verdict | None,
        row_time_us: int,
        reason: str = tracker.CONDITION_ENDED,
    ) -> tuple[SignalEvent, ...]:
        run = runs[strategy.strategy_id]
        if verdict is not None and self._halts and self._is_halted(strategy, verdict):
            verdict, reason = None, tracker.HALTED
        if verdict is None and run.opened is None:
            return ()
        subject = tracker.Subject(
            strategy_id=strategy.strategy_id,
            kind=strategy.kind.kind,
            version=strategy.kind.version,
            params_digest=self._digests[strategy.strategy_id],
            subject_id=about.market_id if isinstance(about, Market) else about.event_id,
            event_id=about.event_id,
            data_origin=self._origin(about.venue),
        )
        run.opened, events = tracker.observe(subject, run.opened, verdict, row_time_us, reason)
        return events

    # --- what operators ordered -----------------------------------------------------------------------------------

    def halt(self, scopes: Iterable[HaltScope]) -> None:
        """Say nothing within these scopes from now on; others are lifted. Kernels go on seeing every row."""
        self._halts = tuple(scopes)

    def keep_open(self, signal_ids: Set[str]) -> None:
        """Forget the open opportunities whose last signal is not among these: somebody else ended them.

        Between batches alone: what a batch changed has to be committed or rolled back.
        """
        for _strategy_id, _subject_id, run in self._memory.runs():
            if run.opened is not None and run.opened.signal.signal_id not in signal_ids:
                run.opened = None
        leaving = self._memory.farewells
        self._memory.farewells = [event for event in leaving if event.signal.signal_id in signal_ids]

    def _is_halted(self, strategy: ConfiguredStrategy, verdict: tracker.Verdict) -> bool:
        venues = {verdict.venue, *(split_market_id(leg.market_id)[0] for leg in verdict.legs)}
        return any(scope.covers(strategy.kind.kind, venues) for scope in self._halts)

    # --- slots --------------------------------------------------------------------------------------------------

    def _market_slot(self, market_id: str, at_us: int) -> MarketSlot | None:
        slot = self._memory.markets.get(market_id)
        if slot is None and (market := self._memory.known_markets.get(market_id)) is not None:
            slot = self._memory.new_market_slot(market)
            self._undo.add_entry("markets", self._memory.markets, market_id)
            self._memory.markets[market_id] = slot
            self._write_journal(self._memory.journal.markets, MARKETS_ID, market_id, market, at_us)
        return slot

    def _event_slot(self, market: Market, at_us: int) -> EventSlot | None:
        event_id = market.event_id
        if event_id is None or not self._groups:
            return None
        slot = self._memory.events.get(event_id)
        if slot is None and (event := self._memory.known_events.get(event_id)) is not None:
            slot = self._memory.new_event_slot(event)
            self._undo.add_entry("events", self._memory.events, event_id)
            self._memory.events[event_id] = slot
            self._write_journal(self._memory.journal.events, EVENTS_ID, event_id, event, at_us)
            slot.lay_out(self._memory.markets)
        return slot

    def _write_journal(
        self, table: dict[str, list[tuple[int, Any]]], name: str, key: str, version: Any, at_us: int
    ) -> None:
        versions = table.get(key, [])
        if versions and versions[-1][1] == version:
            return
        self._undo.add_entry(name, table, key)
        table[key] = [*(v for v in versions if v[0] != at_us), (at_us, version)]
        self._changed[name, key] = None

    def _touch_market(self, slot: MarketSlot) -> None:
        market_id = slot.market.market_id
        if not self._checkpoints:
            return
        if ("market", market_id) not in self._undo:
            self._undo.add("market", market_id, slot.snapshot())
        self._changed[GATE_ID, market_id] = None
        for strategy in self._alone:
            self._changed[strategy.strategy_id, market_id] = None

    def _touch_event(self, slot: EventSlot) -> None:
        event_id = slot.event.event_id
        if not self._checkpoints:
            return
        if ("event", event_id) not in self._undo:
            self._undo.add("event", event_id, slot.snapshot())
        for strategy in self._groups:
            self._changed[strategy.strategy_id, event_id] = None

    def restore(self, states: Iterable[StrategyState]) -> None:
        """Forget everything and go on from checkpoints; facts offered so far are offered again.

        A state of another version or other parameters is dropped, and its open opportunity is withdrawn with
        STRATEGY_CHANGED by the next :meth:`decide`.
        """
        memory = self._memory
        offers = [*memory.known_events.values(), *memory.known_markets.values(), *self._offered.values()]
        self._reset()
        self._memory.load(list(states))
        self.offer_catalog(
            [offer for offer in offers if isinstance(offer, Event)],
            [offer for offer in offers if isinstance(offer, Market)],
        )


def _gate_reason(opened: SignalEvent, slot: EventSlot, gaps: set[str], at_us: int) -> str | None:
    """Why a gate ends an opportunity: the first of its legs by market id that one shut; None where none did."""
    for market_id in sorted(leg.market_id for leg in opened.signal.legs):
        shut = Shut.GAP if market_id in gaps else slot.shut_of(market_id, at_us)
        if shut is not Shut.OPEN:
            return shut.reason
    return None
