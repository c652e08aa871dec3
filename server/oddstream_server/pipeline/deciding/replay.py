"""Replay: stored ticks through the same kernels, with the catalog as it was known at each row.

What comes out are the events of the live run again, byte for byte in their canonical form, with the data origin REPLAY.
A log that holds them already drops them, since their ids are the same; states are kept apart from the live ones.
"""

import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from oddstream_server.application import as_of
from oddstream_server.application.as_of import EVENTS_ID, LINKS_ID, MARKETS_ID
from oddstream_server.application.ports import Catalog, Lease, PipelineStore, StrategyState, TickReader, TimeRange
from oddstream_server.domain.fitted import FittedObject
from oddstream_server.domain.market import Event, Market, MarketLink
from oddstream_server.domain.quote import Quote, Trade
from oddstream_server.domain.signal import DataOrigin, SignalEvent
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from oddstream_server.strategies.registry import ConfiguredStrategy

_APPEND = 500

Tick = Quote | Trade


@dataclass(slots=True)
class ReplayResult:
    """What a replay came to."""

    ticks: int = 0
    events: int = 0
    appended: int = 0
    """Events that the log didn't hold yet."""
    digest: str = field(default_factory=lambda: hashlib.sha256().hexdigest())
    """SHA-256 over the events' canonical bytes in order: the same input gives the same digest."""


async def replayed_events(
    reader: TickReader,
    catalog: Catalog,
    journal: as_of.Journal,
    strategies: Sequence[ConfiguredStrategy],
    span: TimeRange,
    market_ids: Sequence[str] | None = None,
    on_ticks: Callable[[int], None] = lambda count: None,
    fitted: Sequence[FittedObject] = (),
) -> AsyncIterator[Sequence[SignalEvent]]:
    """The events of stored ticks, in order, in batches.

    :param journal: facts as they were known; markets without one (imports) are taken from the catalog.
    :param on_ticks: told the number of ticks of each batch read.
    :param fitted: all fitted objects there are; each is used for rows after its effect.
    """
    runner = StrategyRunner(strategies, origin=lambda _: DataOrigin.REPLAY, checkpoints=False)
    runner.offer_fitted(fitted)
    changes = deque(journal.changes())
    known = set(journal.markets)
    waiting: list[Tick] = []

    def decided(ticks: Sequence[Tick]) -> list[SignalEvent]:
        events: list[SignalEvent] = []
        ready: list[Tick] = []
        for tick in ticks:
            while changes and changes[0][0] <= tick.receive_time_us:
                events += _decide(runner, ready)
                ready = []
                at_us = changes[0][0]
                due: list[as_of.Fact] = []
                while changes and changes[0][0] == at_us:
                    due.append(changes.popleft()[1])
                runner.offer_catalog(
                    [v for v in due if isinstance(v, Event)],
                    [v for v in due if isinstance(v, Market)],
                    [v for v in due if isinstance(v, MarketLink)],
                )
                if at_us < tick.receive_time_us and runner.has_news:
                    events += runner.decide([], at_us).events
                    runner.commit()
            ready.append(tick)
        return [*events, *_decide(runner, ready)]

    async for batch in reader.replay(span, market_ids):
        on_ticks(len(batch))
        strangers = {tick.market_id for tick in batch} - known
        if strangers:
            known |= strangers
            later = await _introduce(runner, catalog, sorted(strangers), journal)
            if later.markets:
                changes = deque(sorted([*changes, *later.changes()], key=lambda change: change[0]))
        waiting += batch
        # The last instant may go on in the next batch.
        last_us = waiting[-1].receive_time_us
        whole = next((i for i in range(len(waiting), 0, -1) if waiting[i - 1].receive_time_us != last_us), 0)
        events = decided(waiting[:whole])
        waiting = waiting[whole:]
        if events:
            yield events
    events = decided(waiting)
    if events:
        yield events


async def replay(
    *,
    reader: TickReader,
    catalog: Catalog,
    store: PipelineStore,
    lease: Callable[[], Lease],
    strategies: Sequence[ConfiguredStrategy],
    span: TimeRange,
    market_ids: Sequence[str] | None = None,
    fitted: Sequence[FittedObject] = (),
) -> ReplayResult:
    """Run stored ticks through the strategies and append what they say to the log, under the leader's lease.

    It may be stopped and started again: what was appended is known by its id.

    :raises Fenced: another leader took over.
    """
    result = ReplayResult()
    digest = hashlib.sha256()

    def count(ticks: int) -> None:
        result.ticks += ticks

    journal = await load_journal(store)
    async for events in replayed_events(reader, catalog, journal, strategies, span, market_ids, count, fitted):
        for event in events:
            digest.update(event.canonical_bytes())
        result.events += len(events)
        for start in range(0, len(events), _APPEND):
            result.appended += len(await store.append_events(lease(), events[start : start + _APPEND]))
    result.digest = digest.hexdigest()
    return result


async def load_journal(store: PipelineStore) -> as_of.Journal:
    """The catalog's journal as the live runs wrote it."""
    return journal_of(await store.load_states([MARKETS_ID, EVENTS_ID, LINKS_ID]))


def journal_of(states: Sequence[StrategyState]) -> as_of.Journal:
    """The catalog's journal among checkpoints."""
    journal = as_of.Journal()
    for state in states:
        if state.strategy_id not in (MARKETS_ID, EVENTS_ID, LINKS_ID):
            continue
        for time_us, version in as_of.decode(state.opportunities):
            if isinstance(version, Market):
                journal.markets.setdefault(version.market_id, []).append((time_us, version))
            elif isinstance(version, Event):
                journal.events.setdefault(version.event_id, []).append((time_us, version))
            else:
                journal.links.setdefault(version.link_id, []).append((time_us, version))
    return journal


def _decide(runner: StrategyRunner, ticks: Sequence[Tick]) -> Sequence[SignalEvent]:
    if not ticks:
        return ()
    events = runner.decide(ticks).events
    runner.commit()
    return events


async def _introduce(
    runner: StrategyRunner, catalog: Catalog, market_ids: Sequence[str], journal: as_of.Journal
) -> as_of.Journal:
    """Markets that no live run saw: today's facts, without what tells how they ended.

    Answers what becomes known of them later.
    """
    markets = await catalog.markets_by_id(market_ids)
    event_ids = {m.event_id for m in markets.values() if m.event_id is not None} - journal.events.keys()
    events = await catalog.events_by_id(sorted(event_ids))
    found = as_of.from_catalog(markets.values(), events.values())
    runner.offer_catalog(
        [versions[0][1] for versions in found.events.values()],
        [versions[0][1] for versions in found.markets.values()],
    )
    return as_of.Journal(markets={key: versions[1:] for key, versions in found.markets.items() if versions[1:]})
