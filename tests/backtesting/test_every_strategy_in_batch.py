"""Each registered strategy through the generic driver: what it finds in columns is what the live runner finds."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from oddstream_server.backtesting.config import BacktestConfig, Sizing
from oddstream_server.backtesting.engine import run
from oddstream_server.backtesting.passes.groups import GroupPass
from oddstream_server.backtesting.passes.intents import Found, Terms
from oddstream_server.backtesting.passes.signals import SignalPass
from oddstream_server.backtesting.records.columns import BookRows, QuoteRows, Shard, TradeRows
from oddstream_server.backtesting.records.universe import RecordedMarket, Universe, recorded
from oddstream_server.backtesting.shards import ShardResult, merge, run_shard
from oddstream_server.domain.market import Settlement, SettlementState
from oddstream_server.domain.signal import SignalEvent, SignalEventType
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from oddstream_server.strategies.registry import ConfiguredStrategy, Registry
from tests.strategies.worlds import START_US, World, a_world

KINDS = [kind.kind for kind in Registry()]
SEEDS = (1, 2, 3)


def strategy(kind: str) -> ConfiguredStrategy:
    loose = {"stat.mean_reversion": {"minimum_rows": 8, "minimum_buckets": 3}}
    return Registry().configure(kind, loose.get(kind, {}))


def a_universe(world: World, settlements: tuple[Settlement, ...] = ()) -> Universe:
    markets = [replace(recorded(m), settlements=settlements) for m in world.markets]
    return Universe(markets, [world.event])


def columns(world: World, universe: Universe) -> QuoteRows:
    return QuoteRows.of([replace(q, ingest_sequence=i + 1) for i, q in enumerate(world.quotes)], universe.index)


def a_pass(kind: str, universe: Universe, *, plain: bool = False) -> SignalPass | GroupPass:
    chosen = strategy(kind)
    passing: Any = GroupPass if chosen.kind.group else SignalPass
    made: SignalPass | GroupPass = passing(chosen, 0, Terms(universe), plain=plain)
    return made


def entries(universe: Universe, intents: Any) -> list[tuple[object, ...]]:
    """What an intent to enter says, leg by leg."""
    return [
        (
            int(i["time_us"]),
            universe.market_ids[i["market"]],
            int(i["outcome"]),
            int(i["strength_ppm"]),
            int(i["net_edge_micros"]),
            int(i["expire_us"]),
            int(i["price_micros"]),
            int(i["size_micros"]),
        )
        for i in intents
        if i["kind"] == 1
    ]


def live_events(kind: str, world: World) -> list[SignalEvent]:
    runner = StrategyRunner([strategy(kind)])
    runner.offer_catalog([world.event], world.markets)
    return list(runner.decide(world.quotes).events)


def live_entries(events: list[SignalEvent]) -> list[tuple[object, ...]]:
    return [
        (
            e.signal.input_time_us,
            leg.market_id,
            leg.outcome_index,
            e.signal.strength_ppm,
            e.signal.net_edge_micros,
            e.signal.expire_time_us,
            leg.limit_price_micros,
            -1 if leg.available_size_micros is None else leg.available_size_micros,
        )
        for e in events
        if e.type is SignalEventType.CREATED
        for leg in sorted(e.signal.legs, key=lambda leg: leg.market_id)
    ]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_batch_finds_what_live_finds(kind: str, seed: int) -> None:
    world = a_world(seed)
    universe = a_universe(world)
    events = live_events(kind, world)
    found = a_pass(kind, universe).run(columns(world, universe))
    assert len(events) > 20, "the world has to make the strategy speak"
    assert entries(universe, found.intents) == live_entries(events)
    kinds = [e.type for e in events]
    assert found.created_count == kinds.count(SignalEventType.CREATED)
    assert found.revised_count == kinds.count(SignalEventType.REVISED)
    assert found.ended_count == kinds.count(SignalEventType.WITHDRAWN) + kinds.count(SignalEventType.SUPERSEDED)


def _instant_bounds(quotes: QuoteRows, every: int) -> list[int]:
    starts = np.flatnonzero(np.diff(quotes.receive_time_us, prepend=-1))
    return [*starts[::every].tolist(), len(quotes)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_plain_compiled_pieced_and_resumed_runs_are_the_same_bytes(kind: str, seed: int) -> None:
    world = a_world(seed)
    universe = a_universe(world)
    quotes = columns(world, universe)
    whole = a_pass(kind, universe)
    expected = whole.run(quotes)
    plain = a_pass(kind, universe, plain=True)
    assert plain.run(quotes).intents.tobytes() == expected.intents.tobytes()
    assert plain.checkpoint() == whole.checkpoint()

    current, found, bounds = a_pass(kind, universe), list[Found](), _instant_bounds(quotes, 17)
    for begin, end in zip(bounds, bounds[1:], strict=False):
        found.append(current.run(quotes, begin, end))
        stored, current = current.checkpoint(), a_pass(kind, universe)
        current.restore(stored)
    written = 0
    pieces = []
    for part in found:
        part.intents["basket"] += written
        written += len(part.intents)
        pieces.append(part.intents)
    assert np.concatenate(pieces).tobytes() == expected.intents.tobytes()
    assert sum(f.created_count for f in found) == expected.created_count


@pytest.mark.parametrize("kind", KINDS)
def test_intents_up_to_an_instant_depend_on_rows_up_to_it_alone(kind: str) -> None:
    world = a_world(4)
    universe = a_universe(world)
    quotes = columns(world, universe)
    whole = a_pass(kind, universe).run(quotes).intents
    for share in (0.3, 0.5, 0.8):
        cut_us = int(quotes.receive_time_us[int(len(quotes) * share)])
        found = a_pass(kind, universe).run(quotes.until(cut_us)).intents
        assert 5 < len(found) < len(whole)
        assert found.tobytes() == whole[: len(found)].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_poisoned_later_rows_leave_earlier_intents_alone(kind: str) -> None:
    world = a_world(5)
    universe = a_universe(world)
    quotes = columns(world, universe)
    cut_us = int(quotes.receive_time_us[len(quotes) // 2])
    later = quotes.receive_time_us >= cut_us
    poisoned = replace(
        quotes,
        bid_price_micros=np.where(later, 10_000, quotes.bid_price_micros).astype(np.int32),
        ask_price_micros=np.where(later, 20_000, quotes.ask_price_micros).astype(np.int32),
        epoch=np.where(later, 99, quotes.epoch).astype(np.int32),
    )
    before = a_pass(kind, universe).run(quotes.until(cut_us)).intents
    assert len(before) > 5
    found = a_pass(kind, universe).run(poisoned).intents
    assert found[found["time_us"] < cut_us].tobytes() == before.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_settlements_reach_the_bankroll_and_never_the_strategy(kind: str) -> None:
    world = a_world(6)
    end_us = world.quotes[-1].receive_time_us + 1
    results = []
    for payout in (0, 1_000_000):
        won = Settlement(SettlementState.FINAL, payout, 1, known_time_us=end_us, paid_time_us=end_us)
        universe = a_universe(world, (won,))
        shard = Shard((0, 1, 2), columns(world, universe), TradeRows.none(), BookRows.none())
        config = BacktestConfig((strategy(kind),), START_US, end_us, 10**9, Sizing(stake_micros=5_000_000))
        results.append((run_shard(config, universe, shard), run(config, universe, [shard])))
    (found, no), (other, yes) = results
    assert len(found.intents) > 5
    assert found.to_bytes() == other.to_bytes()
    assert no.account.profit_micros != yes.account.profit_micros


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_give_the_result_of_one(kind: str) -> None:
    first, second = a_world(7), a_world(8)
    moved = [
        replace(m, market_id=m.market_id.replace("M", "N"), event_id="kalshi:F", venue_market_id=f"N{i}")
        for i, m in enumerate(second.markets)
    ]
    event = replace(second.event, event_id="kalshi:F", market_ids=tuple(m.market_id for m in moved))
    universe = Universe([*map(recorded, first.markets), *map(recorded, moved)], [first.event, event])
    quotes = [*first.quotes, *(replace(q, market_id=q.market_id.replace("M", "N")) for q in second.quotes)]
    quotes.sort(key=lambda q: (q.receive_time_us, q.market_id))
    rows = QuoteRows.of([replace(q, ingest_sequence=i) for i, q in enumerate(quotes)], universe.index)
    end_us = quotes[-1].receive_time_us + 1

    def shard(*markets: int) -> Shard:
        return Shard(markets, rows.taken(np.isin(rows.market, markets)), TradeRows.none(), BookRows.none())

    config = BacktestConfig((strategy(kind),), START_US, end_us, 10**8, Sizing(fraction_ppm=20_000))
    one = run(config, universe, [shard(*range(6))])
    two = run(config, universe, [shard(3, 4, 5), shard(0, 1, 2)])
    assert len(one.account.entries) > 10
    assert two.result_hash == one.result_hash
    parts = [
        ShardResult.from_bytes(run_shard(config, universe, s).to_bytes()) for s in (shard(0, 1, 2), shard(3, 4, 5))
    ]
    assert merge(universe, parts).offers.tobytes() == one.log.offers.tobytes()


def test_a_recorded_market_is_known_from_the_instant_it_was_first_seen() -> None:
    world = a_world(1)
    late_us = world.quotes[len(world.quotes) // 2].receive_time_us
    universe = Universe([recorded(m, late_us) for m in world.markets], [world.event])
    found = a_pass("stat.mean_reversion", universe).run(columns(world, universe))
    from_start = a_pass("stat.mean_reversion", a_universe(world)).run(columns(world, universe))
    assert len(found.intents) > 0
    assert found.intents["time_us"].min() >= late_us > from_start.intents["time_us"].min()
    assert isinstance(universe.markets[0], RecordedMarket)
