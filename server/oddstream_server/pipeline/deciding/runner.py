"""The strategies over the ticks: kernel states, open opportunities and the catalog as of each row, in memory.

:meth:`StrategyRunner.decide` is deterministic and does no I/O: it is called inside the transaction that stores the
ticks, and what it changed is kept by :meth:`commit` or undone by :meth:`rollback`. Each market and each group has its
own state, so the result depends on the order of a subject's own ticks alone. Ticks of one receive time are one
instant: a group is looked at once, after all of them. Each clock has a position of its own (the simulated venue's may
run ahead), and no subject belongs to two of them.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from oddstream_server.application import as_of
from oddstream_server.application.as_of import EVENTS_ID, LINKS_ID, MARKETS_ID
from oddstream_server.application.ports import Decision, HitRate, StrategyState
from oddstream_server.domain.fitted import FittedObject
from oddstream_server.domain.halt import HaltScope
from oddstream_server.domain.market import Event, Market, MarketLink, Venue, is_underlying
from oddstream_server.domain.quote import Quote, Trade
from oddstream_server.domain.signal import DataOrigin, SignalEvent
from oddstream_server.pipeline.deciding.memory import (
    GATE_ID,
    OWN_IDS,
    POSITION_ID,
    UNDERLYING_ID,
    Memory,
)
from oddstream_server.pipeline.deciding.open_ones import covered, farewells
from oddstream_server.pipeline.deciding.rows import Rows
from oddstream_server.pipeline.deciding.slots import GroupSlot, MarketSlot, Run, UndoLog
from oddstream_server.strategies import tracker
from oddstream_server.strategies.fitting import FittedTables
from oddstream_server.strategies.gate import Gate, GateParams, Shut
from oddstream_server.strategies.registry import ConfiguredStrategy
from oddstream_server.strategies.underlying import price_step
from oddstream_server.strategies.verdicts import Trigger, column_values, group_verdict, market_verdict


def origin_of(venue: Venue) -> DataOrigin:
    """Data of the simulated venue is SIMULATED, of every other one LIVE."""
    return DataOrigin.SIMULATED if venue is Venue.SIMULATED else DataOrigin.LIVE


def _clock_of(fact: as_of.Fact) -> str:
    return Venue(as_of.fact_venue(fact)).clock


class StrategyRunner:
    """All configured strategies on all markets, events and links that ticks come for.

    :param origin: data origin of the signals of a venue.
    :param on_failure: told (strategy id, subject id, error) when a kernel raises. Its window is void then and its open
        opportunity ends; the other strategies and the batch go on.
    :param on_dropped: told (strategy id or one of the runner's own names, subject id) of a checkpoint of another
        layout, version or parameters, which can't be gone on from.
    :param checkpoints: False where decisions need no states and are never rolled back, as in a replay.
    :raises ValueError: the strategies have different gates: one gate judges a market for all of them.
    """

    def __init__(
        self,
        strategies: Sequence[ConfiguredStrategy],
        origin: Callable[[Venue], DataOrigin] = origin_of,
        on_failure: Callable[[str, str, Exception], None] = lambda strategy_id, subject_id, error: None,
        on_dropped: Callable[[str, str], None] = lambda strategy_id, subject_id: None,
        checkpoints: bool = True,
    ) -> None:
        self._set_strategies(strategies)
        self._origin = origin
        self._halts: tuple[HaltScope, ...] = ()
        self._fitted: tuple[FittedObject, ...] = ()
        self._confidences: dict[tuple[str, DataOrigin], int] = {}
        self._on_failure = on_failure
        self._on_dropped = on_dropped
        self._checkpoints = checkpoints
        self._reset()

    def _set_strategies(self, strategies: Sequence[ConfiguredStrategy]) -> None:
        if len({s.gate.digest() for s in strategies}) > 1:
            raise ValueError("all strategies of a runner have to share one gate's parameters")
        self.strategies = tuple(sorted(strategies, key=lambda s: s.strategy_id))
        self._alone = tuple(s for s in self.strategies if not s.kind.group)
        self._on_prints = tuple(s for s in self._alone if s.kind.wants_prints)
        self._on_prices = tuple(s for s in self._alone if s.kind.wants_underlying)
        self._grouped = any(s.kind.group for s in self.strategies)
        self._digests = {s.strategy_id: s.params_digest for s in self.strategies}
        self._gate = self.strategies[0].gate if self.strategies else Gate(GateParams())

    def reconfigure(self, strategies: Sequence[ConfiguredStrategy]) -> None:
        """Run other strategies; :meth:`restore` has to follow, since states belong to strategies.

        :raises ValueError: as the constructor does.
        """
        self._set_strategies(strategies)
        self._confidences = {}

    def _reset(self) -> None:
        self._memory = Memory(self.strategies, self._gate, self._on_dropped)
        self._rows = Rows(self.strategies, FittedTables(self._fitted))
        self._offered: dict[tuple[int, str], as_of.Fact] = {}
        self._undo = UndoLog()
        self._changed: dict[tuple[str, str], None] = {}

    @property
    def strategy_ids(self) -> tuple[str, ...]:
        """Ids whose states :meth:`restore` wants, the runner's own included."""
        return (*(s.strategy_id for s in self.strategies), *OWN_IDS)

    def position_us(self, venue: Venue) -> int:
        """Receive time of the last instant of a venue's clock that was decided on; 0 at first."""
        return self._memory.positions_us.get(venue.clock, 0)

    @property
    def journal(self) -> as_of.Journal:
        return self._memory.journal

    # --- catalog ------------------------------------------------------------------------------------------------

    def offer_catalog(
        self, events: Iterable[Event], markets: Iterable[Market], links: Iterable[MarketLink] = ()
    ) -> None:
        """New facts about events, markets and links; they hold from the next instant that is decided on.

        A link that was never confirmed is left out, and so is one between two clocks: nothing tells which tick came
        first.
        """
        for event in events:
            self._offer(as_of.essential_event(event), self._memory.known_events.get(event.event_id))
        for market in markets:
            self._offer(as_of.essential_market(market), self._memory.known_markets.get(market.market_id))
        for link in links:
            if not link.tradable and link.link_id not in self._memory.known_links:
                self._offered.pop(as_of.fact_key(link), None)
                continue
            if Venue(link.other_market_id.partition(":")[0]).clock == _clock_of(link):
                self._offer(as_of.essential_link(link), self._memory.known_links.get(link.link_id))

    def _offer(self, fact: as_of.Fact, known: as_of.Fact | None) -> None:
        if fact != known:
            self._offered[as_of.fact_key(fact)] = fact

    def offer_fitted(self, objects: Iterable[FittedObject]) -> None:
        """All fitted objects there are; each is used for rows after its effect."""
        self._fitted = tuple(objects)
        self._rows.tables = FittedTables(self._fitted)

    def offer_hit_rates(self, rates: Iterable[HitRate]) -> Sequence[HitRate]:
        """What the signals graded so far came to; a signal's confidence is that of its strategy as it runs now.

        Answers those that count from now on: of the running versions and parameters.
        """
        running = {(s.strategy_id, s.kind.version, s.params_digest) for s in self.strategies}
        counting = [rate for rate in rates if (rate.strategy_id, rate.kind_version, rate.params_digest) in running]
        self._confidences = {(rate.strategy_id, rate.data_origin): rate.rate_ppm for rate in counting}
        return counting

    @property
    def has_news(self) -> bool:
        """True where something waits to be decided on even if no tick comes."""
        memory = self._memory
        return bool(memory.farewells) or any(
            key in (memory.markets if rank == 1 else memory.groups) for rank, key in self._offered
        )

    def _apply_offers(self, clock: str, at_us: int) -> list[SignalEvent]:
        events: list[SignalEvent] = []
        dirty: set[str] = set()
        for key in sorted(key for key, fact in self._offered.items() if _clock_of(fact) == clock):
            fact = self._offered.pop(key)
            if isinstance(fact, Market):
                events += self._learn_market(fact, at_us, dirty)
            else:
                self._learn_group(fact, at_us, dirty)
        for group_id in sorted(dirty):
            events += self._look_at_group(self._memory.groups[group_id], set(), at_us)
        return events

    def _learn_group(self, facts: Event | MarketLink, at_us: int, dirty: set[str]) -> None:
        memory = self._memory
        if isinstance(facts, Event):
            self._undo.add_entry("known_events", memory.known_events, facts.event_id)
            memory.known_events[facts.event_id] = facts
            slot = memory.groups.get(facts.event_id)
        else:
            self._undo.add_entry("known_links", memory.known_links, facts.link_id)
            memory.know_link(facts)
            slot = memory.groups.get(facts.link_id)
            if slot is None and {facts.market_id, facts.other_market_id} & memory.markets.keys():
                slot = self._new_group(facts, at_us)
        if slot is not None:
            self._touch_group(slot)
            slot.facts = facts
            self._write_group_journal(facts, at_us)
            slot.lay_out(memory.markets)
            dirty.add(slot.group_id)

    def _learn_market(self, market: Market, at_us: int, dirty: set[str]) -> Sequence[SignalEvent]:
        memory = self._memory
        self._undo.add_entry("known_markets", memory.known_markets, market.market_id)
        memory.known_markets[market.market_id] = market
        slot = memory.markets.get(market.market_id)
        if slot is None:
            return ()
        self._touch_market(slot)
        slot.market = market
        memory.index_underlying(market)
        self._write_journal(memory.journal.markets, MARKETS_ID, market.market_id, market, at_us)
        events: list[SignalEvent] = []
        if slot.shut is not Shut.OPEN:
            for strategy in self._alone:
                events += self._observe(strategy, market, slot.runs, None, at_us, slot.shut.reason)
        if slot.quote is not None:
            for group in self._groups_of(market, at_us):
                self._touch_group(group)
                group.update(slot, column_values(market, slot.quote))
                dirty.add(group.group_id)
        return events

    # --- deciding -----------------------------------------------------------------------------------------------

    def decide(self, ticks: Sequence[Quote | Trade], now_us: int | None = None) -> Decision:
        """What the strategies make of ticks in order.

        :param ticks: whole instants: no later call brings a tick of the same clock and receive time.
        :param now_us: the instant of a call without ticks.
        """
        if self._undo:
            self.rollback()
        self._begin()
        by_clock: dict[str, list[Quote | Trade]] = {}
        for tick in ticks:
            by_clock.setdefault(tick.source.venue.clock, []).append(tick)
        events: list[SignalEvent] = []
        if by_clock or now_us is not None:
            events += self._say_farewell(ticks[0].receive_time_us if ticks else now_us or 0)
        for clock in sorted(by_clock):
            self._move_to(clock, by_clock[clock][0].receive_time_us)
            events += self._apply_offers(clock, by_clock[clock][0].receive_time_us)
            for instant_us, instant in groupby(by_clock[clock], key=lambda tick: tick.receive_time_us):
                self._move_to(clock, instant_us)
                events += self._look_at_instant(instant, instant_us)
        if now_us is not None and not ticks:
            for clock in sorted({_clock_of(fact) for fact in self._offered.values()}):
                # never the instant of ticks decided on before: a replay applies facts ahead of an instant's ticks
                at_us = max(now_us, self._memory.positions_us.get(clock, 0) + 1)
                self._move_to(clock, at_us)
                events += self._apply_offers(clock, at_us)
        return Decision(tuple(events), tuple(self._memory.states(self._changed)) if self._checkpoints else ())

    def _move_to(self, clock: str, instant_us: int) -> None:
        self._memory.positions_us[clock] = max(self._memory.positions_us.get(clock, 0), instant_us)
        self._changed[POSITION_ID, clock] = None

    def _say_farewell(self, at_us: int) -> list[SignalEvent]:
        leaving, self._memory.farewells = self._memory.farewells, []
        return [e for e in leaving if tracker.unexpired(e, max(at_us, self.position_us(e.signal.venue)))]

    def _look_at_instant(self, instant: Iterable[Quote | Trade], at_us: int) -> list[SignalEvent]:
        events: list[SignalEvent] = []
        gaps: dict[str, set[str]] = {}
        for tick in instant:
            if isinstance(tick, Trade):
                events += self._look_at_trade(tick)
            elif (slot := self._market_slot(tick.market_id, at_us)) is not None:
                events += self._look_at_quote(slot, tick, gaps)
            elif is_underlying(tick.market_id):
                events += self._look_at_price(tick)
        for group_id in sorted(gaps):
            events += self._look_at_group(self._memory.groups[group_id], gaps[group_id], at_us)
        return events

    def commit(self) -> None:
        """Keep what the last :meth:`decide` changed: its transaction is committed."""
        self._undo.clear()
        self._changed.clear()

    def rollback(self) -> None:
        """Undo what the last :meth:`decide` changed: its transaction failed."""
        memory = self._memory
        touched = set(self._undo.keys("group"))
        for market_id in self._undo.keys("market"):
            touched.add(memory.markets[market_id].market.event_id or "")
            touched |= memory.links_of.get(market_id, {}).keys()
        self._undo.roll_back()
        for group_id in touched & memory.groups.keys():
            memory.groups[group_id].lay_out(memory.markets)
        self._changed.clear()

    def _begin(self) -> None:
        memory, offered = self._memory, dict(self._offered)
        farewells_, positions_us = list(memory.farewells), dict(memory.positions_us)

        def undo() -> None:
            memory.farewells, memory.positions_us = farewells_, positions_us
            self._offered = offered | self._offered

        self._undo.add("batch", "", undo)

    # --- one tick -----------------------------------------------------------------------------------------------

    def _look_at_quote(self, slot: MarketSlot, quote: Quote, gaps: dict[str, set[str]]) -> list[SignalEvent]:
        self._touch_market(slot, self._alone)
        market, at_us = slot.market, quote.receive_time_us
        values = self._rows.values(self._memory, market, quote, at_us)
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
        if void:
            for strategy in self._alone:
                slot.runs[strategy.strategy_id].state = strategy.kernel.new_state()
                events += self._observe(strategy, market, slot.runs, None, at_us, Shut.GAP.reason)
        events += self._step(slot, self._alone, values, at_us)
        for group in self._groups_of(market, at_us):
            if market.market_id in group.index:
                self._touch_group(group)
                group.update(slot, values)
                dirty = gaps.setdefault(group.group_id, set())
                if void:
                    dirty.add(market.market_id)
        return events

    def _look_at_trade(self, trade: Trade) -> list[SignalEvent]:
        """A print with the quote as of it; one of a market without a quote says nothing yet."""
        if not self._on_prints or trade.block:
            return []
        slot = self._memory.markets.get(trade.market_id)
        if slot is None or slot.quote is None or slot.shut is not Shut.OPEN:
            return []
        self._touch_market(slot, self._on_prints)
        at_us = trade.receive_time_us
        values = self._rows.values(self._memory, slot.market, slot.quote, at_us, trade)
        return self._step(slot, self._on_prints, values, at_us, Trigger(at_us, trade=trade))

    def _look_at_price(self, price: Quote) -> list[SignalEvent]:
        """A price of an underlying: a step of what looks at it, on each open market about it, by market id."""
        if not self._on_prices or not price.bid_price_micros:
            return []
        memory, key, at_us = self._memory, price.market_id, price.receive_time_us
        underlying = memory.underlyings.get(key)
        if underlying is None:
            underlying = memory.new_underlying_slot()
            self._undo.add_entry("underlyings", memory.underlyings, key)
            memory.underlyings[key] = underlying
        if self._checkpoints:
            if ("underlying", key) not in self._undo:
                self._undo.add("underlying", key, underlying.snapshot())
            self._changed[UNDERLYING_ID, key] = None
        price_step(underlying.state[0], at_us, price.bid_price_micros)
        underlying.price = price
        events: list[SignalEvent] = []
        for market_id in sorted(memory.about.get(key, {})):
            slot = memory.markets.get(market_id)
            if slot is None or slot.quote is None or slot.shut is not Shut.OPEN:
                continue
            self._touch_market(slot, self._on_prices)
            values = self._rows.values(memory, slot.market, slot.quote, at_us)
            events += self._step(slot, self._on_prices, values, at_us, Trigger(at_us, price=price))
        return events

    def _step(
        self,
        slot: MarketSlot,
        strategies: Sequence[ConfiguredStrategy],
        values: dict[str, int],
        at_us: int,
        trigger: Trigger | None = None,
    ) -> list[SignalEvent]:
        market, events = slot.market, list[SignalEvent]()
        assert slot.quote is not None
        for strategy in strategies:
            if slot.shut is not Shut.OPEN:
                events += self._observe(strategy, market, slot.runs, None, at_us, slot.shut.reason)
                continue
            run, verdict = slot.runs[strategy.strategy_id], None
            try:
                out = strategy.kernel.step(run.state, [values[name] for name in strategy.kind.columns])
                if out["side"]:
                    verdict = market_verdict(strategy.kind, out, market, slot.quote, trigger)
            except Exception as error:
                self._give_up(strategy, market.market_id, run, error)
            events += self._observe(strategy, market, slot.runs, verdict, at_us)
        return events

    def _look_at_group(self, slot: GroupSlot, gaps: set[str], at_us: int) -> list[SignalEvent]:
        """Look at a group as of an instant; ``gaps`` are the members whose windows became void at it."""
        events: list[SignalEvent] = []
        for strategy in slot.strategies:
            run, speakable = slot.runs[strategy.strategy_id], slot.speakable(strategy)
            if not speakable and run.opened is None:
                continue
            self._touch_group(slot)
            if run.opened is not None:
                reason = _gate_reason(run.opened, slot, gaps, at_us)
                if reason is not None:
                    events += self._observe(strategy, slot.facts, slot.runs, None, at_us, reason)
            verdict = None
            try:
                if speakable:
                    out, chosen = strategy.kernel.step_group(run.state, slot.visible_rows(strategy.strategy_id, at_us))
                    if out["side"]:
                        verdict = group_verdict(strategy.kind, out, chosen, slot.as_of_members(), at_us)
            except Exception as error:
                self._give_up(strategy, slot.group_id, run, error)
            events += self._observe(strategy, slot.facts, slot.runs, verdict, at_us)
        return events

    def _give_up(self, strategy: ConfiguredStrategy, subject_id: str, run: Run, error: Exception) -> None:
        """A kernel of somebody else's may raise anything: it starts anew on this subject and hurts nobody else."""
        run.state = strategy.kernel.new_state()
        self._on_failure(strategy.strategy_id, subject_id, error)

    def _observe(
        self,
        strategy: ConfiguredStrategy,
        about: as_of.Fact,
        runs: dict[str, Run],
        verdict: tracker.Verdict | None,
        row_time_us: int,
        reason: str = tracker.CONDITION_ENDED,
    ) -> tuple[SignalEvent, ...]:
        run = runs[strategy.strategy_id]
        if verdict is not None and self._halts and covered(self._halts, strategy.kind.kind, verdict.legs):
            verdict, reason = None, tracker.HALTED
        if verdict is None and run.opened is None:
            return ()
        event_id = self._event_id_of(about)
        origin = self._origin(Venue(as_of.fact_venue(about)))
        subject = tracker.Subject(
            strategy_id=strategy.strategy_id,
            kind=strategy.kind.kind,
            version=strategy.kind.version,
            params_digest=self._digests[strategy.strategy_id],
            subject_id=as_of.fact_key(about)[1],
            event_id=event_id,
            data_origin=origin,
            confidence_ppm=self._confidences.get((strategy.strategy_id, origin)),
        )
        run.opened, events = tracker.observe(subject, run.opened, verdict, row_time_us, reason)
        return events

    def _event_id_of(self, about: as_of.Fact) -> str | None:
        if isinstance(about, MarketLink):
            market = self._memory.known_markets.get(about.market_id)
            return None if market is None else market.event_id
        return about.event_id

    # --- slots --------------------------------------------------------------------------------------------------

    def _market_slot(self, market_id: str, at_us: int) -> MarketSlot | None:
        memory = self._memory
        slot = memory.markets.get(market_id)
        if slot is None and (market := memory.known_markets.get(market_id)) is not None:
            slot = memory.new_market_slot(market)
            self._undo.add_entry("markets", memory.markets, market_id)
            memory.markets[market_id] = slot
            memory.index_underlying(market)
            self._write_journal(memory.journal.markets, MARKETS_ID, market_id, market, at_us)
        return slot

    def _groups_of(self, market: Market, at_us: int) -> list[GroupSlot]:
        """The event of a market, then its links by id; made at the first tick of a member."""
        if not self._grouped:
            return []
        memory, found = self._memory, list[GroupSlot]()
        if market.event_id is not None:
            slot = memory.groups.get(market.event_id)
            if slot is None and (event := memory.known_events.get(market.event_id)) is not None:
                slot = self._new_group(event, at_us)
            if slot is not None:
                found.append(slot)
        for link_id in sorted(memory.links_of.get(market.market_id, ())):
            slot = memory.groups.get(link_id)
            if slot is None and (link := memory.known_links.get(link_id)) is not None:
                slot = self._new_group(link, at_us)
            if slot is not None:
                found.append(slot)
        return found

    def _new_group(self, facts: Event | MarketLink, at_us: int) -> GroupSlot:
        memory, slot = self._memory, self._memory.new_group_slot(facts)
        self._undo.add_entry("groups", memory.groups, slot.group_id)
        memory.groups[slot.group_id] = slot
        self._write_group_journal(facts, at_us)
        slot.lay_out(memory.markets)
        return slot

    def _write_group_journal(self, facts: Event | MarketLink, at_us: int) -> None:
        journal = self._memory.journal
        if isinstance(facts, Event):
            self._write_journal(journal.events, EVENTS_ID, facts.event_id, facts, at_us)
        else:
            self._write_journal(journal.links, LINKS_ID, facts.link_id, facts, at_us)

    def _write_journal(
        self, table: dict[str, list[tuple[int, Any]]], name: str, key: str, version: Any, at_us: int
    ) -> None:
        versions = table.get(key, [])
        if versions and versions[-1][1] == version:
            return
        self._undo.add_entry(name, table, key)
        table[key] = [*(v for v in versions if v[0] != at_us), (at_us, version)]
        self._changed[name, key] = None

    def _touch_market(self, slot: MarketSlot, strategies: Sequence[ConfiguredStrategy] | None = None) -> None:
        market_id = slot.market.market_id
        if not self._checkpoints:
            return
        if ("market", market_id) not in self._undo:
            self._undo.add("market", market_id, slot.snapshot())
        self._changed[GATE_ID, market_id] = None
        for strategy in self._alone if strategies is None else strategies:
            self._changed[strategy.strategy_id, market_id] = None

    def _touch_group(self, slot: GroupSlot) -> None:
        if not self._checkpoints:
            return
        if ("group", slot.group_id) not in self._undo:
            self._undo.add("group", slot.group_id, slot.snapshot())
        for strategy in slot.strategies:
            self._changed[strategy.strategy_id, slot.group_id] = None

    # --- from outside of the ticks ------------------------------------------------------------------------------

    def restore(self, states: Iterable[StrategyState]) -> None:
        """Forget everything and go on from checkpoints; facts offered so far are offered again.

        A state of another layout, version or parameters is dropped, and its open opportunity is withdrawn with
        STRATEGY_CHANGED by the next :meth:`decide`.
        """
        memory = self._memory
        offers = [
            *memory.known_events.values(),
            *memory.known_markets.values(),
            *memory.known_links.values(),
            *self._offered.values(),
        ]
        self._reset()
        self._memory.load(list(states))
        self.offer_catalog(
            [offer for offer in offers if isinstance(offer, Event)],
            [offer for offer in offers if isinstance(offer, Market)],
            [offer for offer in offers if isinstance(offer, MarketLink)],
        )

    def halt(self, scopes: Iterable[HaltScope]) -> None:
        """Say nothing within these scopes from now on; others are lifted. Kernels go on seeing every row."""
        self._halts = tuple(scopes)

    def keep_open(self, active: Iterable[SignalEvent]) -> None:
        """Agree with what the log holds as ACTIVE: its last CREATED or REVISED events.

        What is open here and not there was ended by somebody else and is forgotten. What is active there and nothing
        here goes on with (its strategy is gone, or its checkpoint was dropped) is withdrawn with STRATEGY_CHANGED by
        the next :meth:`decide`. Between batches alone: what a batch changed has to be committed or rolled back.
        """
        self._memory.farewells = farewells(self._memory, active)

    def prune(self, before_us: int) -> Sequence[str]:
        """Forget markets that are over and had no tick since an instant; answers subjects to delete checkpoints of."""
        if self._undo:
            self.rollback()
        return self._memory.prune(before_us)


def _gate_reason(opened: SignalEvent, slot: GroupSlot, gaps: set[str], at_us: int) -> str | None:
    """Why a gate ends an opportunity: the first of its legs by market id that one shut; None where none did."""
    for market_id in sorted(leg.market_id for leg in opened.signal.legs):
        shut = Shut.GAP if market_id in gaps else slot.shut_of(market_id, at_us)
        if shut is not Shut.OPEN:
            return shut.reason
    return None
