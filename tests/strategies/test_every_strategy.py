"""What has to hold of each registered strategy, generated: live, batch, replay and resume agree byte for byte."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import pytest

from oddstream_server.application.ports import StrategyState
from oddstream_server.domain.market import MarketState
from oddstream_server.domain.quote import Quote
from oddstream_server.domain.signal import DataOrigin, SignalEvent, SignalEventType, plain, signal_event_from_plain
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from oddstream_server.strategies.registry import ConfiguredStrategy, Registry
from tests.strategies.worlds import World, a_world, bodies

KINDS = [kind.kind for kind in Registry()]
SEEDS = (1, 2, 3)


def strategy(kind: str) -> ConfiguredStrategy:
    loose = {"stat.mean_reversion": {"minimum_rows": 8, "minimum_buckets": 3}}
    return Registry().configure(kind, loose.get(kind, {}))


def instants(quotes: Sequence[Quote]) -> Iterator[list[Quote]]:
    for _, group in groupby(quotes, key=lambda q: q.receive_time_us):
        yield list(group)


def batches(quotes: Sequence[Quote], rng: random.Random) -> Iterator[list[Quote]]:
    batch: list[Quote] = []
    for instant in instants(quotes):
        batch += instant
        if rng.random() < 0.2:
            yield batch
            batch = []
    if batch:
        yield batch


def a_runner(kind: str, world: World, origin: DataOrigin = DataOrigin.LIVE) -> StrategyRunner:
    runner = StrategyRunner([strategy(kind)], origin=lambda _: origin)
    runner.offer_catalog([world.event], world.markets)
    return runner


def run_live(kind: str, world: World, seed: int = 0) -> list[SignalEvent]:
    runner, found = a_runner(kind, world), list[SignalEvent]()
    for batch in batches(world.quotes, random.Random(seed)):
        found += runner.decide(batch).events
        runner.commit()
    return found


def run_replayed(kind: str, world: World) -> list[SignalEvent]:
    runner, found = a_runner(kind, world, DataOrigin.REPLAY), list[SignalEvent]()
    stored = [replace(q, ingest_sequence=1000 + i) for i, q in enumerate(world.quotes)]
    for instant in instants(stored):
        found += runner.decide(instant).events
        runner.commit()
    return found


def run_whole(kind: str, world: World) -> list[SignalEvent]:
    return list(a_runner(kind, world).decide(world.quotes).events)


def run_resumed(kind: str, world: World) -> list[SignalEvent]:
    rng, found = random.Random(99), list[SignalEvent]()
    saved: dict[tuple[str, str], StrategyState] = {}
    runner = a_runner(kind, world)
    for batch in batches(world.quotes, rng):
        decision = runner.decide(batch)
        runner.commit()
        found += decision.events
        saved |= {(s.strategy_id, s.subject_id): s for s in decision.states}
        if rng.random() < 0.3:
            runner = a_runner(kind, world)
            rows = list(saved.values())
            rng.shuffle(rows)
            runner.restore(rows)
    return found


def run_with_failed_transactions(kind: str, world: World) -> list[SignalEvent]:
    rng, found = random.Random(7), list[SignalEvent]()
    runner = a_runner(kind, world)
    for batch in batches(world.quotes, rng):
        while rng.random() < 0.4:
            runner.decide(batch[: rng.randint(1, len(batch))])
            runner.rollback()
        found += runner.decide(batch).events
        runner.commit()
    return found


WAYS: list[Callable[[str, World], list[SignalEvent]]] = [
    run_replayed,
    run_whole,
    run_resumed,
    run_with_failed_transactions,
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_run_gives_the_bytes_of_the_live_run(
    kind: str, way: Callable[[str, World], list[SignalEvent]], seed: int
) -> None:
    world = a_world(seed)
    live = run_live(kind, world)
    assert len(live) > 20, "the world has to make the strategy speak"
    assert bodies(way(kind, world)) == bodies(live)


@pytest.mark.parametrize("kind", KINDS)
def test_events_up_to_an_instant_depend_on_rows_up_to_it_alone(kind: str) -> None:
    world = a_world(4)
    whole = run_whole(kind, world)
    for share in (0.3, 0.5, 0.8):
        cut_us = world.quotes[int(len(world.quotes) * share)].receive_time_us
        prefix = replace(world, quotes=tuple(q for q in world.quotes if q.receive_time_us <= cut_us))
        found = bodies(run_whole(kind, prefix))
        assert 5 < len(found) < len(whole)
        assert bodies(whole)[: len(found)] == found


@pytest.mark.parametrize("kind", KINDS)
def test_poisoned_future_rows_leave_earlier_events_alone(kind: str) -> None:
    world = a_world(5)
    cut = len(world.quotes) // 2
    while world.quotes[cut].receive_time_us == world.quotes[cut - 1].receive_time_us:
        cut += 1
    poison = tuple(
        replace(q, bid_price_micros=10_000, ask_price_micros=20_000, epoch=q.epoch + 7) for q in world.quotes[cut:]
    )
    poisoned = replace(world, quotes=world.quotes[:cut] + poison)
    before = bodies(run_whole(kind, replace(world, quotes=world.quotes[:cut])))
    assert len(before) > 5
    assert bodies(run_whole(kind, poisoned))[: len(before)] == before
    assert bodies(run_whole(kind, world))[: len(before)] == before


@pytest.mark.parametrize("kind", KINDS)
def test_results_and_later_facts_of_a_market_are_out_of_reach(kind: str) -> None:
    world = a_world(6)
    told = replace(
        world,
        markets=tuple(
            replace(m, title="won", rules_text="yes", volume_micros=10**12, open_interest_micros=5, category="x")
            for m in world.markets
        ),
    )
    assert bodies(run_whole(kind, told)) == bodies(run_whole(kind, world))


@pytest.mark.parametrize("kind", KINDS)
def test_each_opportunity_lives_by_the_rules(kind: str) -> None:
    world = a_world(8, instants=800)
    events = run_live(kind, world)
    open_by_id: dict[str, SignalEvent] = {}
    seen: Counter[SignalEventType] = Counter()
    for event in events:
        signal = event.signal
        seen[event.type] += 1
        before = open_by_id.get(signal.opportunity_id)
        if event.type is SignalEventType.CREATED:
            assert before is None
            assert signal.revision == 1
            assert event.opening_strength_ppm == signal.strength_ppm
            open_by_id[signal.opportunity_id] = event
        else:
            assert before is not None, "an event of an opportunity that never opened, or ended before"
            assert event.opening_strength_ppm == before.opening_strength_ppm
            assert event.opening_net_edge_micros == before.opening_net_edge_micros
            if event.type is SignalEventType.REVISED:
                assert signal.revision == before.signal.revision + 1
                assert signal.supersedes_signal_id == before.signal.signal_id
                assert signal.input_time_us < before.signal.expire_time_us
                open_by_id[signal.opportunity_id] = event
            else:
                assert signal == before.signal
                del open_by_id[signal.opportunity_id]
        if event.type is SignalEventType.SUPERSEDED:
            assert event.superseded_by_opportunity_id not in (None, signal.opportunity_id)
    assert seen[SignalEventType.CREATED] > 5
    assert seen[SignalEventType.WITHDRAWN] > 0
    assert len({e.event_key for e in events}) == len(events)


@pytest.mark.parametrize("kind", KINDS)
def test_every_signal_is_computed_again_from_its_evidence(kind: str) -> None:
    chosen = strategy(kind).kind
    signals = [
        e.signal for e in run_live(kind, a_world(9)) if e.type in (SignalEventType.CREATED, SignalEventType.REVISED)
    ]
    assert len(signals) > 10
    for signal in signals:
        again = chosen.recompute(signal)
        assert (again.net_edge_micros, again.strength_ppm) == (signal.net_edge_micros, signal.strength_ppm)
        assert signal.net_edge_micros is not None
        assert signal.net_edge_micros > 0


@pytest.mark.parametrize("kind", KINDS)
def test_events_survive_the_way_through_json(kind: str) -> None:
    for event in run_live(kind, a_world(10)):
        assert signal_event_from_plain(plain(event)) == event


@pytest.mark.parametrize("kind", KINDS)
def test_a_market_that_closes_takes_its_opportunity_with_it(kind: str) -> None:
    world = a_world(11)
    runner = a_runner(kind, world)
    opened: dict[str, SignalEvent] = {}
    for instant in instants(world.quotes):
        for event in runner.decide(instant).events:
            if event.type in (SignalEventType.CREATED, SignalEventType.REVISED):
                opened[event.signal.opportunity_id] = event
            else:
                opened.pop(event.signal.opportunity_id)
        runner.commit()
        now_us = instant[0].receive_time_us
        alive = [e for e in opened.values() if e.signal.expire_time_us > now_us + 1]
        if alive:
            break
    assert alive
    leg = alive[0].signal.legs[0]
    closed = next(replace(m, state=MarketState.CLOSED) for m in world.markets if m.market_id == leg.market_id)
    runner.offer_catalog([], [closed])
    assert runner.has_news
    (event,) = (e for e in runner.decide([], now_us + 1).events if e.signal == alive[0].signal)
    assert event.type is SignalEventType.WITHDRAWN
    assert event.reason == "MARKET_CLOSED"


@pytest.mark.parametrize("kind", KINDS)
def test_other_parameters_drop_the_state_and_withdraw_what_is_open(kind: str) -> None:
    world = a_world(12)
    runner = a_runner(kind, world)
    saved: dict[tuple[str, str], StrategyState] = {}
    for instant in instants(world.quotes):
        decision = runner.decide(instant)
        runner.commit()
        saved |= {(s.strategy_id, s.subject_id): s for s in decision.states}
        if decision.events and decision.events[-1].type is SignalEventType.CREATED:
            break
    opened = decision.events[-1].signal
    changed = StrategyRunner([Registry().configure(kind, {"time_to_live_us": 7_000_000})])
    changed.restore(saved.values())
    assert changed.has_news
    (event,) = changed.decide([], opened.input_time_us + 1).events
    assert (event.type, event.reason, event.signal) == (SignalEventType.WITHDRAWN, "STRATEGY_CHANGED", opened)
    changed.commit()
    assert not changed.has_news
