"""What has to hold of each registered strategy, generated: live, batch, replay and resume agree byte for byte."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby

import numpy as np
import pytest

from oddstream_server.application.ports import StrategyState
from oddstream_server.domain.market import MarketState
from oddstream_server.domain.quote import Quote, Trade
from oddstream_server.domain.signal import DataOrigin, SignalEvent, SignalEventType, plain, signal_event_from_plain
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from oddstream_server.strategies.kernel import MISSING, Kernel
from oddstream_server.strategies.registry import ConfiguredStrategy, Registry
from tests.strategies.worlds import LOOSE, World, a_world_for, bodies

pytestmark = pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines

KINDS = [kind.kind for kind in Registry()]
SEEDS = (1, 2)


def strategy(kind: str) -> ConfiguredStrategy:
    return Registry().configure(kind, LOOSE.get(kind, {}))


Tick = Quote | Trade


def instants(ticks: Sequence[Tick]) -> Iterator[list[Tick]]:
    for _, group in groupby(ticks, key=lambda tick: tick.receive_time_us):
        yield list(group)


def batches(ticks: Sequence[Tick], rng: random.Random) -> Iterator[list[Tick]]:
    batch: list[Tick] = []
    for instant in instants(ticks):
        batch += instant
        if rng.random() < 0.2:
            yield batch
            batch = []
    if batch:
        yield batch


def a_runner(kind: str, world: World, origin: DataOrigin = DataOrigin.LIVE) -> StrategyRunner:
    runner = StrategyRunner([strategy(kind)], origin=lambda _: origin)
    runner.offer_catalog([world.event], world.markets, world.links)
    runner.offer_fitted(world.fitted)
    return runner


def run_live(kind: str, world: World, seed: int = 0) -> list[SignalEvent]:
    runner, found = a_runner(kind, world), list[SignalEvent]()
    for batch in batches(world.ticks, random.Random(seed)):
        found += runner.decide(batch).events
        runner.commit()
    return found


def run_replayed(kind: str, world: World) -> list[SignalEvent]:
    runner, found = a_runner(kind, world, DataOrigin.REPLAY), list[SignalEvent]()
    stored = [replace(q, ingest_sequence=1000 + i) for i, q in enumerate(world.ticks)]
    for instant in instants(stored):
        found += runner.decide(instant).events
        runner.commit()
    return found


def run_whole(kind: str, world: World) -> list[SignalEvent]:
    return list(a_runner(kind, world).decide(world.ticks).events)


def run_resumed(kind: str, world: World) -> list[SignalEvent]:
    rng, found = random.Random(99), list[SignalEvent]()
    saved: dict[tuple[str, str], StrategyState] = {}
    runner = a_runner(kind, world)
    for batch in batches(world.ticks, rng):
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
    for batch in batches(world.ticks, rng):
        while rng.random() < 0.4:
            runner.decide(batch[: rng.randint(1, len(batch))])
            runner.rollback()
        found += runner.decide(batch).events
        runner.commit()
    return found


@cache
def live_bodies(kind: str, seed: int) -> list[bytes]:
    """Of one world, once for all the ways that are compared with it."""
    return bodies(run_live(kind, a_world_for(kind, seed)))


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
    live = live_bodies(kind, seed)
    assert len(live) > 20, "the world has to make the strategy speak"
    assert bodies(way(kind, a_world_for(kind, seed))) == live


@pytest.mark.parametrize("kind", KINDS)
def test_events_up_to_an_instant_depend_on_rows_up_to_it_alone(kind: str) -> None:
    world = a_world_for(kind, 4, instants=800)
    whole = run_whole(kind, world)
    for share in (0.3, 0.5, 0.8):
        cut_us = world.ticks[int(len(world.ticks) * share)].receive_time_us
        found = bodies(run_whole(kind, world.until(cut_us)))
        assert 5 < len(found) < len(whole)
        assert bodies(whole)[: len(found)] == found


@pytest.mark.parametrize("kind", KINDS)
def test_poisoned_future_rows_leave_earlier_events_alone(kind: str) -> None:
    world = a_world_for(kind, 5)
    cut_us = world.ticks[len(world.ticks) // 2].receive_time_us
    poisoned = replace(
        world,
        quotes=tuple(
            replace(q, bid_price_micros=10_000, ask_price_micros=20_000, epoch=q.epoch + 7)
            if q.receive_time_us > cut_us
            else q
            for q in world.quotes
        ),
        prints=tuple(
            replace(t, size_micros=t.size_micros * 1_000, taker_outcome_index=1) if t.receive_time_us > cut_us else t
            for t in world.prints
        ),
        prices=tuple(
            replace(p, bid_price_micros=1, ask_price_micros=1) if p.receive_time_us > cut_us else p
            for p in world.prices
        ),
    )
    before = bodies(run_whole(kind, world.until(cut_us)))
    assert len(before) > 5
    assert bodies(run_whole(kind, poisoned))[: len(before)] == before
    assert bodies(run_whole(kind, world))[: len(before)] == before


@pytest.mark.parametrize("kind", KINDS)
def test_results_and_later_facts_of_a_market_are_out_of_reach(kind: str) -> None:
    world = a_world_for(kind, 6)
    told = replace(
        world,
        markets=tuple(
            replace(m, title="won", rules_text="yes", volume_micros=10**12, open_interest_micros=5)
            for m in world.markets
        ),
    )
    assert bodies(run_whole(kind, told)) == bodies(run_whole(kind, world))


@pytest.mark.parametrize("kind", KINDS)
def test_each_opportunity_lives_by_the_rules(kind: str) -> None:
    world = a_world_for(kind, 8, instants=800)
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
    assert seen[SignalEventType.WITHDRAWN] + seen[SignalEventType.SUPERSEDED] > 0
    assert len({e.event_key for e in events}) == len(events)


@pytest.mark.parametrize("kind", KINDS)
def test_every_signal_is_computed_again_from_its_evidence(kind: str) -> None:
    chosen = strategy(kind).kind
    signals = [
        e.signal
        for e in run_live(kind, a_world_for(kind, 9))
        if e.type in (SignalEventType.CREATED, SignalEventType.REVISED)
    ]
    assert len(signals) > 10
    for signal in signals:
        again = chosen.recompute(signal)
        assert (again.net_edge_micros, again.strength_ppm) == (signal.net_edge_micros, signal.strength_ppm)
        assert (signal.net_edge_micros is not None) == chosen.has_net_edge
        assert signal.net_edge_micros is None or signal.net_edge_micros > 0


@pytest.mark.parametrize("kind", KINDS)
def test_events_survive_the_way_through_json(kind: str) -> None:
    for event in run_live(kind, a_world_for(kind, 10)):
        assert signal_event_from_plain(plain(event)) == event


@pytest.mark.parametrize("kind", KINDS)
def test_a_market_that_closes_takes_its_opportunity_with_it(kind: str) -> None:
    world = a_world_for(kind, 11)
    runner = a_runner(kind, world)
    opened: dict[str, SignalEvent] = {}
    for instant in instants(world.ticks):
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
    world = a_world_for(kind, 12)
    runner = a_runner(kind, world)
    saved: dict[tuple[str, str], StrategyState] = {}
    for instant in instants(world.ticks):
        decision = runner.decide(instant)
        runner.commit()
        saved |= {(s.strategy_id, s.subject_id): s for s in decision.states}
        if decision.events and decision.events[-1].type is SignalEventType.CREATED:
            break
    opened = decision.events[-1].signal
    changed = StrategyRunner([Registry().configure(kind, {"time_to_live_us": 7_000_000})])
    changed.restore(saved.values())
    assert changed.has_news
    ends = changed.decide([], opened.input_time_us + 1).events
    assert {(event.type, event.reason) for event in ends} == {(SignalEventType.WITHDRAWN, "STRATEGY_CHANGED")}
    assert opened in [event.signal for event in ends]
    changed.commit()
    assert not changed.has_news


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_another_layout_is_dropped_and_what_it_had_open_is_withdrawn(kind: str) -> None:
    """As after an upgrade whose kernel keeps other fields under the same version and parameters."""
    world = a_world_for(kind, 12)
    runner = a_runner(kind, world)
    saved: dict[tuple[str, str], StrategyState] = {}
    for instant in instants(world.ticks):
        decision = runner.decide(instant)
        runner.commit()
        saved |= {(s.strategy_id, s.subject_id): s for s in decision.states}
        if decision.events and decision.events[-1].type is SignalEventType.CREATED:
            break
    opened = decision.events[-1].signal
    old = strategy(kind)
    layout = np.dtype([*old.kind.state_dtype.descr, ("added", np.int64)])
    upgraded = replace(old, kernel=Kernel(replace(old.kind, state_dtype=layout), old.params))
    dropped: list[tuple[str, str]] = []
    changed = StrategyRunner([upgraded], on_dropped=lambda name, subject: dropped.append((name, subject)))
    changed.restore(saved.values())
    assert (kind, opened.subject_id) in dropped
    ends = changed.decide([], opened.input_time_us + 1).events
    assert opened in [event.signal for event in ends]
    assert {event.reason for event in ends} == {"STRATEGY_CHANGED"}


@pytest.mark.parametrize("kind", KINDS)
def test_no_intermediate_leaves_64_bits_at_the_largest_inputs(kind: str) -> None:
    """numpy warns where an integer wraps, and warnings are errors here."""
    chosen = strategy(kind)
    rng = random.Random(3)
    state = chosen.kernel.new_state()
    for i in range(400):
        row = {
            **{name: rng.choice((0, 1, MISSING, 10**6)) for name in chosen.kind.columns},
            **{name: rng.choice((10**13, 1, MISSING)) for name in chosen.kind.columns if "size" in name},
            **{
                name: rng.choice((1, 999_999, MISSING))
                for name in chosen.kind.columns
                if name.endswith("id_price_micros")
            },
            "payout_micros": 10**6,
            "receive_time_us": 2**52 + i * rng.choice((0, 1, 3 * 10**6, 10**9)),
            "trade_price_micros": rng.choice((0, 1, 10**6)),
            "underlying_price_micros": rng.choice((1, 10**8, 10**15)),
            "underlying_time_us": 2**52 + i * 10**9 - 1,
            "underlying_volatility_ppb": rng.choice((1, 10**4, 10**7)),
            "close_time_us": 2**52 + rng.choice((10**9, 10**12, 3 * 10**12)) + i * 10**9,
            "strike_kind": rng.randrange(6),
            "strike_floor_micros": rng.choice((-(10**9), 0, 10**8, 10**15)),
            "strike_cap_micros": rng.choice((1, 10**15)),
            "baseline_deviation_e4": rng.choice((0, 1, 10**6)),
            "relation": rng.randrange(5),
        }
        if "ask_price_micros" in row and row.get("bid_price_micros", 0) >= row["ask_price_micros"]:
            row["bid_price_micros"] = MISSING
        values = [row[name] for name in chosen.kind.columns]
        if chosen.kind.group:
            chosen.kernel.step_group(state, np.array([tuple(values)] * 5, dtype=chosen.kind.row_dtype))
        else:
            chosen.kernel.step(state, values)
