"""Each registered strategy through the generic driver: what it finds in columns is what the live runner finds."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from oddstream_server.backtesting.config import BacktestConfig, Sizing
from oddstream_server.backtesting.engine import run
from oddstream_server.backtesting.passes.groups import GroupPass
from oddstream_server.backtesting.passes.intents import Found, Terms
from oddstream_server.backtesting.passes.signals import SignalPass
from oddstream_server.backtesting.passes.steps import Steps, steps_of
from oddstream_server.backtesting.records.columns import BookRows, PriceRows, QuoteRows, Shard, TradeRows
from oddstream_server.backtesting.records.universe import RecordedMarket, Universe, recorded
from oddstream_server.backtesting.shards import ShardResult, merge, run_shard
from oddstream_server.domain.market import MarketState, Settlement, SettlementState
from oddstream_server.domain.quote import Quote, Trade
from oddstream_server.domain.signal import SignalEvent, SignalEventType
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from oddstream_server.strategies.registry import ConfiguredStrategy, Registry
from tests.strategies.worlds import LOOSE, START_US, World, a_world, a_world_for, entry_of

pytestmark = pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines

KINDS = [kind.kind for kind in Registry()]
SEEDS = (1, 2, 3)


def strategy(kind: str) -> ConfiguredStrategy:
    return Registry().configure(kind, LOOSE.get(kind, {}))


def a_universe(world: World, settlements: tuple[Settlement, ...] = ()) -> Universe:
    # a close that was planned and moved: markets stay open as they do in the live world
    markets = [RecordedMarket(m, ((0, MarketState.OPEN),), settlements) for m in world.markets]
    return Universe(markets, [world.event], world.links, world.fitted)


def a_shard(world: World, universe: Universe) -> Shard:
    """The world's rows, numbered in the order in which they come."""
    numbered = [replace(tick, ingest_sequence=i + 1) for i, tick in enumerate(world.ticks)]
    quotes = [t for t in numbered if isinstance(t, Quote) and t.market_id in universe.index]
    prices = [t for t in numbered if isinstance(t, Quote) and t.market_id in universe.instrument_index]
    return Shard(
        tuple(range(len(universe))),
        QuoteRows.of(quotes, universe.index),
        TradeRows.of([t for t in numbered if isinstance(t, Trade)], universe.index),
        BookRows.none(),
        PriceRows.of(prices, universe.instrument_index),
    )


class Driven:
    """A strategy's pass over a shard, whichever kind of pass it takes."""

    def __init__(self, kind: str, universe: Universe, shard: Shard, *, plain: bool = False) -> None:
        chosen = strategy(kind)
        self.rows: Any = shard.quotes
        if chosen.kind.group:
            self.passing: Any = GroupPass(chosen, 0, Terms(universe), plain=plain)
        else:
            self.passing = SignalPass(chosen, 0, Terms(universe), plain=plain)
            self.rows = steps_of(chosen.kind, universe, shard, plain=plain)

    def run(self, begin: int = 0, end: int | None = None) -> Found:
        found: Found = self.passing.run(self.rows, begin, end)
        return found

    @property
    def times(self) -> Any:
        return getattr(self.rows, "quotes", self.rows).receive_time_us


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
    runner.offer_catalog([world.event], world.markets, world.links)
    runner.offer_fitted(world.fitted)
    return list(runner.decide(world.ticks).events)


def live_entries(events: list[SignalEvent]) -> list[tuple[object, ...]]:
    return [
        entry_of(e, leg)
        for e in events
        if e.type is SignalEventType.CREATED
        for leg in sorted(e.signal.legs, key=lambda leg: leg.market_id)
    ]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_batch_finds_what_live_finds(kind: str, seed: int) -> None:
    world = a_world_for(kind, seed)
    universe = a_universe(world)
    events = live_events(kind, world)
    found = Driven(kind, universe, a_shard(world, universe)).run()
    assert len(events) > 20, "the world has to make the strategy speak"
    assert entries(universe, found.intents) == live_entries(events)
    kinds = [e.type for e in events]
    assert found.created_count == kinds.count(SignalEventType.CREATED)
    assert found.revised_count == kinds.count(SignalEventType.REVISED)
    assert found.ended_count == kinds.count(SignalEventType.WITHDRAWN) + kinds.count(SignalEventType.SUPERSEDED)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_plain_compiled_pieced_and_resumed_runs_are_the_same_bytes(kind: str, seed: int) -> None:
    world = a_world_for(kind, seed)
    universe = a_universe(world)
    shard = a_shard(world, universe)
    whole = Driven(kind, universe, shard)
    expected = whole.run()
    plain = Driven(kind, universe, shard, plain=True)
    assert plain.run().intents.tobytes() == expected.intents.tobytes()
    assert plain.passing.checkpoint() == whole.passing.checkpoint()

    current, found, pieces, written = Driven(kind, universe, shard), list[Found](), list[Any](), 0
    starts = np.flatnonzero(np.diff(current.times, prepend=-1))[::17].tolist()
    for begin, end in pairwise([*starts, len(current.rows)]):
        found.append(current.run(begin, end))
        stored, current = current.passing.checkpoint(), Driven(kind, universe, shard)
        current.passing.restore(stored)
    for part in found:
        part.intents["basket"] += written
        written += len(part.intents)
        pieces.append(part.intents)
    assert np.concatenate(pieces).tobytes() == expected.intents.tobytes()
    assert sum(f.created_count for f in found) == expected.created_count


@pytest.mark.parametrize("kind", KINDS)
def test_intents_up_to_an_instant_depend_on_rows_up_to_it_alone(kind: str) -> None:
    world = a_world_for(kind, 4, instants=800)
    universe = a_universe(world)
    shard = a_shard(world, universe)
    whole = Driven(kind, universe, shard).run().intents
    for share in (0.3, 0.5, 0.8):
        cut_us = world.ticks[int(len(world.ticks) * share)].receive_time_us
        found = Driven(kind, universe, shard.until(cut_us)).run().intents
        assert 3 < len(found) < len(whole)
        assert found.tobytes() == whole[: len(found)].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_poisoned_later_rows_leave_earlier_intents_alone(kind: str) -> None:
    world = a_world_for(kind, 5, instants=800)
    universe = a_universe(world)
    shard = a_shard(world, universe)
    cut_us = world.ticks[len(world.ticks) // 2].receive_time_us

    def later(rows: Any, value: int, column: Any) -> Any:
        return np.where(rows.receive_time_us >= cut_us, value, column).astype(column.dtype)

    quotes, trades, prices = shard.quotes, shard.trades, shard.prices
    poisoned = replace(
        shard,
        quotes=replace(
            quotes,
            bid_price_micros=later(quotes, 10_000, quotes.bid_price_micros),
            ask_price_micros=later(quotes, 20_000, quotes.ask_price_micros),
            epoch=later(quotes, 99, quotes.epoch),
        ),
        trades=replace(trades, size_micros=later(trades, 10**12, trades.size_micros)),
        prices=replace(prices, price_micros=later(prices, 1, prices.price_micros)),
    )
    before = Driven(kind, universe, shard.until(cut_us)).run().intents
    assert len(before) > 3
    found = Driven(kind, universe, poisoned).run().intents
    assert found[found["time_us"] < cut_us].tobytes() == before.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_settlements_reach_the_bankroll_and_never_the_strategy(kind: str) -> None:
    world = a_world_for(kind, 6, instants=800)
    end_us = world.ticks[-1].receive_time_us + 1
    results = []
    for payout in (0, 1_000_000):
        won = Settlement(SettlementState.FINAL, payout, 1, known_time_us=end_us, paid_time_us=end_us)
        universe = a_universe(world, (won,))
        shard = a_shard(world, universe)
        config = BacktestConfig((strategy(kind),), START_US, end_us, 10**9, Sizing(stake_micros=5_000_000))
        results.append((run_shard(config, universe, shard), run(config, universe, [shard])))
    (found, no), (other, yes) = results
    assert len(found.intents) > 3
    assert found.to_bytes() == other.to_bytes()
    assert no.result_hash != yes.result_hash


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_give_the_result_of_one(kind: str) -> None:
    first, second = a_world_for(kind, 7), renamed(a_world_for(kind, 8))
    worlds = (first, second)
    markets = [RecordedMarket(m, ((0, MarketState.OPEN),)) for w in worlds for m in w.markets]
    links = [link for w in worlds for link in w.links]
    universe = Universe(markets, [w.event for w in worlds], links, first.fitted)
    both = World((), first.event, *(tuple(t for w in worlds for t in getattr(w, n)) for n in ("quotes", "prints")))
    rows = a_shard(replace(both, prices=first.prices), universe)
    ours = [universe.index[m.market_id] for m in first.markets]
    theirs = [universe.index[m.market_id] for m in second.markets]

    def shard(*markets: int) -> Shard:
        quotes, trades = rows.quotes, rows.trades
        return Shard(
            tuple(sorted(markets)),
            quotes.taken(np.isin(quotes.market, markets)),
            trades.taken(np.isin(trades.market, markets)),
            rows.books,
            rows.prices,
        )

    end_us = both.ticks[-1].receive_time_us + 1
    config = BacktestConfig((strategy(kind),), START_US, end_us, 10**8, Sizing(fraction_ppm=20_000))
    one = run(config, universe, [shard(*ours, *theirs)])
    two = run(config, universe, [shard(*theirs), shard(*ours)])
    assert len(one.log.intents) > 10
    assert two.result_hash == one.result_hash
    parts = [ShardResult.from_bytes(run_shard(config, universe, s).to_bytes()) for s in (shard(*ours), shard(*theirs))]
    assert merge(universe, parts).offers.tobytes() == one.log.offers.tobytes()


def renamed(world: World) -> World:
    """The same world with other ids."""
    names = {m.market_id: m.market_id.replace("M", "N").replace("0x2", "0x3") for m in world.markets}
    markets = tuple(
        replace(m, market_id=names[m.market_id], event_id="kalshi:F" if m.event_id else None) for m in world.markets
    )
    return replace(
        world,
        markets=markets,
        event=replace(world.event, event_id="kalshi:F", market_ids=tuple(names[m] for m in world.event.market_ids)),
        quotes=tuple(replace(q, market_id=names[q.market_id]) for q in world.quotes),
        prints=tuple(replace(t, market_id=names[t.market_id]) for t in world.prints),
        links=tuple(
            replace(x, link_id="lnk_b", market_id=names[x.market_id], other_market_id=names[x.other_market_id])
            for x in world.links
        ),
    )


def test_a_recorded_market_is_known_from_the_instant_it_was_first_seen() -> None:
    world = a_world(1)
    late_us = world.quotes[len(world.quotes) // 2].receive_time_us
    universe = Universe([recorded(m, late_us) for m in world.markets], [world.event])
    found = Driven("stat.mean_reversion", universe, a_shard(world, universe)).run()
    early = a_universe(world)
    from_start = Driven("stat.mean_reversion", early, a_shard(world, early)).run()
    assert len(found.intents) > 0
    assert found.intents["time_us"].min() >= late_us > from_start.intents["time_us"].min()


def test_rows_made_for_another_strategy_are_refused() -> None:
    world = a_world_for("flow.large_trade", 1)
    universe = a_universe(world)
    shard = a_shard(world, universe)
    driven = Driven("flow.large_trade", universe, shard)
    with pytest.raises(AssertionError, match="another strategy"):
        driven.passing.run(Steps.of_quotes(shard.quotes))
