"""The track record through the whole server: what it counts, and whose."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

import oddstream
from oddstream.v1 import signal_service_pb2, strategy_pb2, time_range_pb2, venue_pb2
from oddstream_server.application.ports import SettlementUpdate
from oddstream_server.domain.market import MarketState, Settlement, SettlementState, Venue
from oddstream_server.domain.principal import Role, Scopes
from oddstream_server.pipeline.grading import Grader
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from tests.grpc.running_server import bearer, failure_of
from tests.grpc.stored_world import MARKET, SECOND, T0, StoredWorld
from tests.grpc.test_executions import fill, report, trader

pb = signal_service_pb2
STRATEGY = "stat.mean_reversion"
Auth = tuple[tuple[str, str], ...]


async def performance(stored: StoredWorld, auth: Auth, **asked: Any) -> strategy_pb2.StrategyPerformance:
    request = pb.GetStrategyPerformanceRequest(strategy_id=STRATEGY, **asked)
    answer = await stored.server.signals.GetStrategyPerformance(request, metadata=auth)
    found: strategy_pb2.StrategyPerformance = answer.performance
    return found


async def settle(stored: StoredWorld, paid: int = 0) -> None:
    """Settle the signals' market, and grade them as the pipeline does."""
    settlement = Settlement(SettlementState.FINAL, paid, 1, T0, T0, T0)
    await stored.catalog.record_settlements([SettlementUpdate(MARKET, MarketState.SETTLED, settlement)], T0)
    store = PostgresPipelineStore(stored.database)
    lease = await store.acquire_lease("test", 60 * SECOND)
    assert lease is not None
    grader = Grader(SignalLogStore(stored.database), stored.catalog)
    await store.append_events(lease, await grader.graded([MARKET], T0))


async def test_live_signals_are_counted_and_simulated_ones_only_where_they_are_asked_for(stored: StoredWorld) -> None:
    auth = stored.server.auth
    before = await performance(stored, auth)
    assert (before.overall.signal_count, before.overall.graded_count) == (3, 0)
    assert not before.overall.HasField("hit_rate")
    assert not before.overall.calibration
    await settle(stored)
    live = await performance(stored, auth)
    # Three signals buy outcome 1 at 0.59 with a fee of 0.02, and it pays 1; they said 0.62.
    figures = live.overall
    assert (figures.graded_count, figures.hit_rate, figures.mean_realized_edge_micros) == (3, 1.0, 390_000)
    assert figures.brier == pytest.approx(0.38**2, abs=1e-12)
    assert figures.brier_crowd == pytest.approx(0.41**2, abs=1e-12)
    (told,) = [b for b in figures.calibration if b.count]
    assert (told.start_price_micros, told.count, told.mean_forecast, told.frequency) == (600_000, 3, 0.62, 1.0)
    assert (live.strategy_id, live.kind_version, live.disclaimer.code) == (STRATEGY, 2, "RISK_2")
    assert live.disclaimer.text
    assert live.period.start_time == Timestamp(seconds=T0 // SECOND)
    assert live.period.end_time.ToMicroseconds() == T0 + 1
    simulated = await performance(stored, auth, simulated=True)
    assert simulated.overall.signal_count == 1
    assert [(s.venue, s.horizon) for s in live.slices] == [
        (venue_pb2.VENUE_KALSHI, strategy_pb2.PERFORMANCE_HORIZON_UNSPECIFIED),
        (venue_pb2.VENUE_UNSPECIFIED, strategy_pb2.PERFORMANCE_HORIZON_UNDER_WEEK),
        (venue_pb2.VENUE_KALSHI, strategy_pb2.PERFORMANCE_HORIZON_UNDER_WEEK),
    ]
    assert [s.figures for s in live.slices] == [figures] * 3


async def test_versions_and_periods_are_apart(stored: StoredWorld) -> None:
    auth = stored.server.auth
    old = await performance(stored, auth, kind_version=1)
    assert (old.kind_version, old.overall.signal_count) == (1, 0)
    assert not old.HasField("period") or not old.period.HasField("start_time")
    later = time_range_pb2.TimeRange(start_time=Timestamp(seconds=T0 // SECOND + 1))
    assert (await performance(stored, auth, period=later)).overall.signal_count == 0
    until = time_range_pb2.TimeRange(end_time=Timestamp(seconds=T0 // SECOND + 1))
    assert (await performance(stored, auth, period=until)).overall.signal_count == 3


async def test_a_strategy_that_is_not_there_is_not_found(stored: StoredWorld) -> None:
    request = pb.GetStrategyPerformanceRequest(strategy_id="no.such")
    failure = await failure_of(stored.server.signals.GetStrategyPerformance(request, metadata=stored.server.auth))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "STRATEGY_NOT_FOUND")


async def test_what_was_really_earned_is_the_callers_own_and_everybodys_for_an_admin(stored: StoredWorld) -> None:
    one, other = trader(stored), trader(stored)
    admin = bearer(stored.server.world.issue(Role.ADMIN).key.text)
    await report(stored, one, fill(1), fill(2, signal_id=None, leg_number=None))
    await report(stored, other, fill(3, size_micros=1_000_000, fee_micros=0))
    unsettled = (await performance(stored, admin)).overall
    assert unsettled.execution_count == 2, "one of the three was for no signal"
    assert not unsettled.HasField("executed_profit_micros")
    await settle(stored)
    earned = {
        name: (figures.execution_count, figures.executed_profit_micros)
        for name, figures in [
            ("one", (await performance(stored, one)).overall),
            ("other", (await performance(stored, other)).overall),
            ("viewer", (await performance(stored, stored.server.auth)).overall),
            ("admin", (await performance(stored, admin)).overall),
        ]
    }
    assert earned == {
        "one": (1, 4_000_000 - 160_000),
        "other": (1, 400_000),
        "viewer": (0, 0),
        "admin": (2, 4_400_000 - 160_000),
    }


async def test_a_key_of_other_venues_sees_no_signal_with_a_leg_elsewhere(stored: StoredWorld) -> None:
    scoped = bearer(stored.server.world.issue(Role.VIEWER, scopes=Scopes(venues=(Venue.POLYMARKET,))).key.text)
    inside = bearer(stored.server.world.issue(Role.VIEWER, scopes=Scopes(venues=(Venue.KALSHI,))).key.text)
    assert (await performance(stored, scoped)).overall.signal_count == 0
    assert (await performance(stored, inside)).overall.signal_count == 3


async def test_both_clients_report_list_and_measure(stored: StoredWorld) -> None:
    key = stored.server.world.issue(Role.TRADER).key.text
    target = f"127.0.0.1:{stored.server.port}"
    async with oddstream.AsyncClient(target, api_key=key) as client:
        reported = await client.report_executions(fill(n) for n in range(501))
        assert [r.already_reported for r in reported] == [False] * 501
        listed = [execution async for execution in client.executions(page_size=200)]
        assert {e.execution_id for e in listed} == {r.execution.execution_id for r in reported}
        record = await client.strategy_performance(STRATEGY)
        assert record.overall.execution_count == 501

    def by_threads() -> None:
        with oddstream.Client(target, api_key=key) as blocking:
            again = blocking.report_executions([fill(7), fill(501)])
            assert [r.already_reported for r in again] == [True, False]
            where = pb.ExecutionFilter(market_ids=[MARKET])
            assert len(list(blocking.executions(where))) == 502
            assert blocking.strategy_performance(STRATEGY, simulated=True).overall.signal_count == 1

    await asyncio.to_thread(by_threads)
