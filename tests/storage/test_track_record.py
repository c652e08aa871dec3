"""The aggregate over outcomes, cut by venue and horizon, and what executions earned beside it."""

import random
from dataclasses import replace
from typing import Any

import pytest

from oddstream_server.application.ports import Lease, NextQuote, SettlementUpdate, TimeRange, TrackRecordQuery
from oddstream_server.domain.execution import Execution, Fill, FillLiquidity, execution_id, realized_profit_micros
from oddstream_server.domain.grading import Touch
from oddstream_server.domain.market import Market, MarketState, Settlement, SettlementState, Venue
from oddstream_server.domain.signal import Action, DataOrigin, Grade, Signal, SignalEvent, SignalEventType
from oddstream_server.domain.track_record import Figures, Horizon, TrackRecord
from oddstream_server.storage.database import Database
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.migrate import downgrade, upgrade
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.track_record import outcomes
from oddstream_server.storage.track_record.executions import ExecutionRecords
from oddstream_server.storage.track_record.performance import MAXIMUM_CLUSTERS, TrackRecordStore, _Tally
from oddstream_server.storage.writes import write_together

STRATEGY = "calib.longshot"
MARKETS = ("kalshi:A", "kalshi:B", "polymarket:0xc", "simulated:S")
HOURS = (None, 0.5, 5, 50, 500)


def made(samples: Any, number: int, market: str, hours: float | None, **changes: Any) -> SignalEvent:
    signal: Signal = samples.signal(f"opp{number}", markets=(market,), event_id=f"kalshi:E{number % 5}")
    venue = Venue(market.partition(":")[0])
    signal = replace(
        signal,
        kind=STRATEGY,
        strategy_id=STRATEGY,
        venue=venue,
        input_time_us=samples.t0 + number,
        lockup_until_us=None if hours is None else samples.t0 + number + int(hours * samples.hour),
        data_origin=DataOrigin.SIMULATED if venue is Venue.SIMULATED else DataOrigin.LIVE,
        **changes,
    ).identified()
    return SignalEvent(SignalEventType.CREATED, signal, 500_000, 12_000)


def graded(event: SignalEvent, edge: int | None, revision: int = 1) -> SignalEvent:
    correct = None if edge is None else edge > 0
    grade = Grade(revision, edge, correct, edge is None, event.signal.input_time_us)
    return replace(event, type=SignalEventType.GRADED, grade=grade)


async def settle(catalog: CatalogStore, samples: Any, market_id: str, paid: int | None, revision: int = 1) -> Market:
    settlement = Settlement(SettlementState.FINAL, paid, revision, samples.t0, samples.t0, void=paid is None)
    await catalog.record_settlements([SettlementUpdate(market_id, MarketState.SETTLED, settlement)], samples.t0)
    return (await catalog.markets_by_id([market_id]))[market_id]


async def record(database: Database, **more: Any) -> TrackRecord:
    query = replace(TrackRecordQuery(STRATEGY, 1, DataOrigin.LIVE, TimeRange()), **more)
    return await TrackRecordStore(database).track_record(query, 1)


@pytest.fixture
async def world(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease, catalog: CatalogStore
) -> list[SignalEvent]:
    """Sixty graded signals over venues and horizons, one of them a void, and five that aren't graded."""
    rng = random.Random(3)
    await catalog.upsert([], [samples.market(m) for m in MARKETS], samples.t0)
    events = [made(samples, n, MARKETS[n % 4], HOURS[n % 5]) for n in range(65)]
    await pipeline.append_events(lease, events)
    for n, market in enumerate(MARKETS):
        await settle(catalog, samples, market, 10**6 * (n % 2))
    await pipeline.append_events(lease, [graded(e, rng.randrange(-400_000, 500_000)) for e in events[:59]])
    await pipeline.append_events(lease, [graded(events[59], None)])
    return events


def of(found: TrackRecord, venue: Venue | None, horizon: Horizon | None) -> Figures:
    (figures,) = [s.figures for s in found.slices if (s.venue, s.horizon) == (venue, horizon)]
    return figures


async def test_slices_add_up_and_live_is_never_mixed_with_simulated(
    world: list[SignalEvent], database: Database
) -> None:
    found = await record(database)
    live = [e for e in world if e.signal.data_origin is DataOrigin.LIVE]
    assert found.overall.signal_count == len(live)
    assert {s.venue for s in found.slices} == {None, Venue.KALSHI, Venue.POLYMARKET}
    assert {s.horizon for s in found.slices} == {None, *Horizon}
    by_venue = [of(found, venue, None) for venue in (Venue.KALSHI, Venue.POLYMARKET)]
    assert sum(f.signal_count for f in by_venue) == found.overall.signal_count
    by_horizon = [of(found, None, horizon) for horizon in Horizon]
    unknown = sum(e.signal.lockup_until_us is None for e in live)
    assert sum(f.signal_count for f in by_horizon) == found.overall.signal_count - unknown
    assert sum(s.figures.graded_count for s in found.slices if s.venue and s.horizon) == sum(
        f.graded_count for f in by_horizon
    )
    simulated = await record(database, origin=DataOrigin.SIMULATED)
    assert {s.venue for s in simulated.slices} == {None, Venue.SIMULATED}
    assert simulated.overall.signal_count == len(world) - len(live)
    replayed = await record(database, origin=DataOrigin.REPLAY)
    assert (replayed.overall, replayed.slices, replayed.first_trigger_us) == (Figures(), (), None)


async def test_voids_and_open_signals_are_counted_apart(world: list[SignalEvent], database: Database) -> None:
    overall = (await record(database, origin=DataOrigin.SIMULATED)).overall
    assert (overall.signal_count, overall.graded_count, overall.void_count) == (16, 14, 1)


async def test_a_period_and_venues_narrow_the_record(
    world: list[SignalEvent], database: Database, samples: Any
) -> None:
    within = TimeRange(samples.t0 + 8, samples.t0 + 16)
    assert (await record(database, triggers=within)).overall.signal_count == 6
    kalshi = await record(database, within_venues=(Venue.KALSHI,))
    assert kalshi.overall == of(await record(database), Venue.KALSHI, None)


async def test_a_higher_revision_replaces_a_grade_and_a_lower_one_does_not(
    world: list[SignalEvent], database: Database, pipeline: PostgresPipelineStore, lease: Lease
) -> None:
    before = (await record(database)).overall
    await pipeline.append_events(lease, [graded(world[0], 777_777, revision=3)])
    after = (await record(database)).overall
    await pipeline.append_events(lease, [graded(world[0], -1, revision=2)])
    assert before != after == (await record(database)).overall


async def test_only_a_waiting_leg_takes_a_quote_and_a_grade_ends_the_wait(
    samples: Any, database: Database, pipeline: PostgresPipelineStore, lease: Lease, catalog: CatalogStore
) -> None:
    await catalog.upsert([], [samples.market("kalshi:A")], samples.t0)
    first, second = made(samples, 1, "kalshi:A", 1), made(samples, 2, "kalshi:A", 1)
    await pipeline.append_events(lease, [first, second])
    waiting = await pipeline.waiting_quotes()
    assert [(w.signal_id, w.market_id, w.after_us) for w in waiting] == [
        (e.signal.signal_id, "kalshi:A", e.signal.input_time_us) for e in (first, second)
    ]
    touches = [Touch(400_000, 440_000, samples.t0 + 9), Touch(100_000, 110_000, samples.t0 + 10)]
    async with database.transaction() as transaction:
        for touch in touches:
            found = [NextQuote(first.signal.signal_id, 0, touch)]
            await write_together(transaction.driver, outcomes.keeping(found))
    assert [w.signal_id for w in await pipeline.waiting_quotes()] == [second.signal.signal_id]
    await settle(catalog, samples, "kalshi:A", 10**6)
    await pipeline.append_events(lease, [graded(first, 570_000), graded(second, 570_000)])
    assert await pipeline.waiting_quotes() == []
    overall = (await record(database)).overall
    assert overall.mean_next_quote_edge_micros == 10**6 - 440_000, "of the one that had a quote, and without a fee"


async def test_hit_rates_are_of_one_configuration_and_origin_from_the_minimum_on(
    world: list[SignalEvent], database: Database, pipeline: PostgresPipelineStore
) -> None:
    found = {(rate.data_origin, rate.rate_ppm) for rate in await pipeline.hit_rates(14)}
    live, simulated = (await record(database)).overall, (await record(database, origin=DataOrigin.SIMULATED)).overall
    assert found == {
        (DataOrigin.LIVE, int((live.hit_rate or 0) * 10**6)),
        (DataOrigin.SIMULATED, int((simulated.hit_rate or 0) * 10**6)),
    }
    assert {rate.data_origin for rate in await pipeline.hit_rates(15)} == {DataOrigin.LIVE}


async def test_what_executions_earned_is_summed_as_the_domain_computes_each(
    world: list[SignalEvent], samples: Any, database: Database, catalog: CatalogStore
) -> None:
    rng = random.Random(11)
    await settle(catalog, samples, "kalshi:A", None, 2)
    await settle(catalog, samples, "kalshi:B", 300_001, 2)
    known = await catalog.markets_by_id(MARKETS)
    executions = []
    for n in range(200):
        signal = rng.choice(world).signal
        fill = Fill(
            Venue(signal.venue), f"f{n}", signal.legs[0].market_id, rng.randrange(2), rng.choice(list(Action)),
            rng.randrange(1, 10**6), rng.randrange(1, 10**13), rng.choice((None, rng.randrange(-9, 10**6))),
            FillLiquidity.TAKER, samples.t0, signal.signal_id, 0, "", "",
        )  # fmt: skip
        estimated = rng.choice((None, rng.randrange(10**6)))
        executions.append(
            Execution(
                execution_id(fill.venue, fill.venue_fill_id), fill, f"key_{n % 3}", samples.t0, STRATEGY, estimated
            )
        )
    async with database.transaction() as transaction:
        assert await ExecutionRecords(transaction).add(executions) == {}

    def earned(mine: list[Execution]) -> tuple[int, int | None]:
        profits = [
            realized_profit_micros(
                e.fill, e.fee_micros, known[e.fill.market_id].settlement, known[e.fill.market_id].payout_micros
            )
            for e in mine
        ]
        settled = [profit for profit in profits if profit is not None]
        return len(mine), sum(settled) if settled else None

    live = [e for e in executions if e.fill.venue is not Venue.SIMULATED]
    overall = (await record(database)).overall
    assert (overall.execution_count, overall.executed_profit_micros) == earned(live)
    own = await record(database, owner="key_1")
    assert (own.overall.execution_count, own.overall.executed_profit_micros) == earned(
        [e for e in live if e.owner == "key_1"]
    )
    kalshi = of(own, Venue.KALSHI, None)
    assert (kalshi.execution_count, kalshi.executed_profit_micros) == earned(
        [e for e in live if e.owner == "key_1" and e.fill.venue is Venue.KALSHI]
    )


def test_the_bootstrap_joins_neighbours_where_events_are_very_many() -> None:
    tally = _Tally()
    for number in range(5 * MAXIMUM_CLUSTERS + 3):
        tally.clusters[f"kalshi:E{number:06}"] = [number, 2]
    names, edges, counts = tally._joined()
    assert len(names) == len(edges) == len(counts) == MAXIMUM_CLUSTERS
    assert (edges.sum(), counts.sum()) == (sum(range(5_003)), 2 * 5_003)
    assert {5, 6} >= set((counts // 2).tolist())


async def test_outcomes_go_with_their_signals(world: list[SignalEvent], database: Database) -> None:
    async with database.transaction() as transaction:
        await transaction.driver.execute("DELETE FROM signals")
        for table in ("signal_outcomes", "next_quotes"):
            assert await transaction.driver.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_signals_of_before_the_table_are_taken_over(
    world: list[SignalEvent], database: Database, database_url: str
) -> None:
    async def rows() -> list[Any]:
        async with database.reading() as transaction:
            columns = "signal_id, strategy_id, kind_version, params_digest, data_origin, trigger_time, venue, venues"
            graded = "horizon, cluster, grade_revision, void, edge_micros, fair_micros, price_micros, happened"
            query = f"SELECT {columns}, {graded} FROM signal_outcomes ORDER BY signal_id"
            return [tuple(row) for row in await transaction.driver.fetch(query)]

    before = await rows()
    assert len(before) == len(world)
    downgrade(database_url, "0006")
    upgrade(database_url)
    assert await rows() == before
