"""Whatever comes in whatever order, each subscriber gets exactly its events, in order, with a proof of continuity."""

import asyncio
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddstream_server.application.ports import SignalFilter
from oddstream_server.domain.errors import OutOfRange, Unavailable
from oddstream_server.domain.market import Venue
from oddstream_server.domain.signal import DataOrigin, Direction, SignalEvent, SignalEventType
from oddstream_server.feed.signals.batches import BatchLimits
from oddstream_server.feed.signals.feed import FeedLimits
from oddstream_server.feed.signals.filters import CompiledFilter, facts_of
from oddstream_server.feed.signals.ring import View
from oddstream_server.feed.signals.subscriptions import SignalSubscription
from tests.feed.memory_log import MemorySignalLog, ReadMessage, make_event, read_message, resume
from tests.feed.running_feed import RunningFeed, assert_continuous, running_feed

MARKETS = ("kalshi:KXA-1", "kalshi:KXB-1", "polymarket:0x1", "simulated:S-1")
KINDS = ("stat.mean_reversion", "arb.event_sum")

events = st.builds(
    make_event,
    markets=st.lists(st.sampled_from(MARKETS), min_size=1, max_size=2),
    event_id=st.sampled_from([None, "kalshi:KXA", "kalshi:KXB"]),
    kind=st.sampled_from(KINDS),
    direction=st.sampled_from(Direction),
    opening_strength_ppm=st.sampled_from([0, 300_000, 900_000]),
    opening_net_edge_micros=st.sampled_from([None, -5_000, 0, 20_000]),
    origin=st.sampled_from([DataOrigin.LIVE, DataOrigin.LIVE, DataOrigin.LIVE, DataOrigin.SIMULATED]),
)
filters = st.builds(
    SignalFilter,
    venues=st.sampled_from([(), (), (Venue.KALSHI,), (Venue.POLYMARKET, Venue.SIMULATED)]),
    event_ids=st.sampled_from([(), (), ("kalshi:KXB",)]),
    market_ids=st.sampled_from([(), (), ("kalshi:KXB-1",), ("kalshi:KXA-1", "polymarket:0x1")]),
    kinds=st.sampled_from([(), (), ("arb.event_sum",)]),
    directions=st.sampled_from([(), (), (Direction.UP,)]),
    minimum_strength_ppm=st.sampled_from([0, 0, 300_000]),
    minimum_net_edge_micros=st.sampled_from([None, None, 0]),
    include_simulated=st.booleans(),
)


def passes(where: SignalFilter, event: SignalEvent) -> bool:
    """The filter's meaning, spelt out."""
    signal = event.signal
    markets = {leg.market_id for leg in signal.legs}
    venues = {signal.venue} | {Venue(m.split(":")[0]) for m in markets}
    return (
        (signal.data_origin is not DataOrigin.SIMULATED or where.include_simulated)
        and (signal.data_origin is not DataOrigin.REPLAY or where.include_replay)
        and (not where.venues or bool(venues & set(where.venues)))
        and (not where.event_ids or signal.event_id in where.event_ids)
        and (not where.market_ids or bool(markets & set(where.market_ids)))
        and (not where.kinds or signal.kind in where.kinds)
        and (not where.strategy_ids or signal.strategy_id in where.strategy_ids)
        and (not where.directions or signal.direction in where.directions)
        and event.opening_strength_ppm >= where.minimum_strength_ppm
        and (
            where.minimum_net_edge_micros is None
            or (
                event.opening_net_edge_micros is not None
                and event.opening_net_edge_micros >= where.minimum_net_edge_micros
            )
        )
    )


@given(filters, events)
def test_a_compiled_filter_means_what_the_filter_says(where: SignalFilter, event: SignalEvent) -> None:
    assert CompiledFilter(where).matches(facts_of(event)) == passes(where, event)


@given(
    filters,
    events,
    st.sampled_from(SignalEventType),
    st.sampled_from([0, 299_999, 300_000, 1_000_000]),
    st.sampled_from([None, -1, 0, 99_000]),
)
def test_whoever_saw_an_opportunity_open_sees_all_of_it(
    where: SignalFilter, opened: SignalEvent, kind: SignalEventType, strength_ppm: int, net_edge_micros: int | None
) -> None:
    later = replace(opened.signal, revision=2, strength_ppm=strength_ppm, net_edge_micros=net_edge_micros)
    compiled = CompiledFilter(where)
    assert compiled.matches(facts_of(opened)) == compiled.matches(
        facts_of(replace(opened, type=kind, signal=later.identified()))
    )


@dataclass
class Reader:
    """A client: reads when it has a permit, and may lose its connection and come back with its token."""

    f: RunningFeed
    where: SignalFilter
    start: int
    view: View
    subscription: SignalSubscription | None = None
    permits: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    messages: list[ReadMessage] = field(default_factory=list)

    async def read(self) -> None:
        while True:
            await self.permits.acquire()
            if self.subscription is None:
                token = self.messages[-1].token if self.messages else None
                start = resume(token) if token else self.f.after(self.start)
                try:
                    self.subscription = await self.f.watch(self.where, start, view=self.view, heartbeat_s=60)
                except (Unavailable, OutOfRange) as error:  # as a bot does where the log is away or lags: again, later
                    if isinstance(error, OutOfRange) and not self.f.log.hidden:
                        raise
                    continue
            while (delivery := self.subscription.take()) is None:
                await self.subscription.woken()
            self.messages.append(read_message(delivery.batch))

    def cut(self) -> None:
        if self.subscription is not None and self.subscription._waiter is None:
            self.subscription.close()
            self.subscription = None

    @property
    def got(self) -> list[int]:
        return [s for m in self.messages for s in m.sequences]


append = st.tuples(st.just("append"), st.lists(events, min_size=1, max_size=9), st.booleans())
read = st.tuples(st.just("read"), st.integers(0, 3), st.integers(1, 4))
steps = st.lists(
    st.one_of(
        append,
        append,
        read,
        read,
        st.tuples(st.just("turns"), st.integers(1, 12), st.just(0)),
        st.tuples(st.just("fail"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("hide"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("cut"), st.integers(0, 3), st.just(0)),
    ),
    max_size=40,
)


@pytest.mark.timeout(300)
@settings(max_examples=150, deadline=None)
@given(
    before=st.lists(events, max_size=30),
    preloaded=st.integers(0, 12),
    ring_entries=st.integers(1, 12),
    batch_entries=st.integers(1, 5),
    page_entries=st.integers(1, 6),
    readers=st.lists(st.tuples(filters, st.integers(0, 30), st.sampled_from(View)), min_size=4, max_size=4),
    script=steps,
)
def test_each_subscriber_gets_exactly_its_events_in_order(
    before: list[SignalEvent],
    preloaded: int,
    ring_entries: int,
    batch_entries: int,
    page_entries: int,
    readers: list[tuple[SignalFilter, int, View]],
    script: list[tuple[str, list[SignalEvent] | int, int]],
) -> None:
    limits = FeedLimits(
        ring_entries=ring_entries,
        preloaded_entries=preloaded,
        read_entries=5,
        page_entries=page_entries,
        poll_s=0.02,
        retry_s=0.001,
        batch=BatchLimits(entries=batch_entries),
    )
    asyncio.run(_play(before, limits, readers, script))


async def _play(
    before: list[SignalEvent],
    limits: FeedLimits,
    readers: list[tuple[SignalFilter, int, View]],
    script: list[tuple[str, list[SignalEvent] | int, int]],
) -> None:
    log = MemorySignalLog()
    log.append(*before)
    async with running_feed(log, limits) as f:
        clients = [Reader(f, where, min(start, len(before)), view) for where, start, view in readers]
        tasks = [asyncio.create_task(c.read()) for c in clients]
        for name, first, second in script:
            await _step(f, clients, name, first, second)
        log.failing_reads = log.hidden = 0
        await _finish(clients, log, tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for client in clients:
        assert_continuous(client.messages, client.start)
        wanted = [e.sequence for e in log.events if e.sequence > client.start and passes(client.where, e)]
        assert client.got == wanted
        views = {m.view for m in client.messages if m.view}
        assert views <= {client.view.name.lower()}


async def _step(f: RunningFeed, clients: list[Reader], name: str, first: list[SignalEvent] | int, second: int) -> None:
    if isinstance(first, list):
        f.log.append(*first)
        if second:
            f.feed.wake()
        return
    match name:
        case "read":
            for _ in range(second):
                clients[first].permits.release()
        case "turns":
            for _ in range(first):
                await asyncio.sleep(0)
        case "fail":
            f.log.failing_reads = first
        case "hide":
            f.log.hidden = min(first, len(f.log.events) - f.feed.ring.head)
        case "cut":
            clients[first].cut()


async def _finish(clients: list[Reader], log: MemorySignalLog, tasks: list["asyncio.Task[None]"]) -> None:
    """Let everybody read on until all have what they are owed; a hole or a hang fails by the timeout."""
    wanted = {id(c): sum(1 for e in log.events if e.sequence > c.start and passes(c.where, e)) for c in clients}
    async with asyncio.timeout(20):
        while any(len(c.got) < wanted[id(c)] for c in clients):
            for client, task in zip(clients, tasks, strict=True):
                if task.done():
                    task.result()
                client.permits.release()
            await asyncio.sleep(0.001)
