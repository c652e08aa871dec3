"""BacktestService over PostgreSQL: who may, how many, once a request id, and what watchers see."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict

from oddstream.v1 import backtest_pb2, backtest_service_pb2_grpc
from oddstream.v1 import backtest_service_pb2 as pb
from oddstream_server.application.backtests import Backtests
from oddstream_server.application.calls.mutations import Mutations
from oddstream_server.application.ports import Decision
from oddstream_server.application.secrets.sealing import Sealer
from oddstream_server.domain.backtest import (
    BacktestResult,
    Conventions,
    DataCoverage,
    FillRung,
    RunError,
    RunMetrics,
)
from oddstream_server.domain.principal import Role, Scopes
from oddstream_server.feed.runs import RunFeed
from oddstream_server.feed.streams import StreamRegistry
from oddstream_server.interceptors.assembly import ChainSettings
from oddstream_server.jobs.planning import Planner
from oddstream_server.storage.administration.changes import PostgresChanges
from oddstream_server.storage.backtests.recorded import RecordedRows
from oddstream_server.storage.backtests.runs import RunRecords
from oddstream_server.storage.backtests.work import RunWorkRecords
from oddstream_server.storage.database import Database
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.strategies.registry import Registry
from oddstream_server.transport.backtest_service import BacktestService
from tests.grpc.administered import request_id
from tests.grpc.backtest_cases import good_config, good_sweep
from tests.grpc.running_server import Running, World, bearer, failure_of, now_us, running
from tests.jobs.bench import SECOND, T0, market, quotes

Auth = tuple[tuple[str, str], ...]


@dataclass
class Bureau:
    server: Running
    database: Database
    feed: RunFeed

    @property
    def stub(self) -> Any:
        return backtest_service_pb2_grpc.BacktestServiceStub(self.server.channel)

    def auth(self, role: Role = Role.ANALYST, **scopes: Any) -> Auth:
        return bearer(self.server.world.issue(role, scopes=Scopes(**scopes)).key.text)

    async def made(self, auth: Auth, **more: Any) -> backtest_pb2.Backtest:
        request = pb.CreateBacktestRequest(config=good_config(), **more)
        return (await self.stub.CreateBacktest(request, metadata=auth)).backtest

    async def count(self, query: str) -> int:
        async with self.database.reading() as transaction:
            return int(await transaction.driver.fetchval(query))


@pytest.fixture
async def bureau(database_url: str, tmp_path: Path) -> AsyncIterator[Bureau]:
    database = Database(database_url, pool_size=8)
    await CatalogStore(database).upsert([], [market(0)], T0)
    store = PostgresPipelineStore(database)
    lease = await store.acquire_lease("test", 60 * SECOND)
    assert lease is not None
    await store.store_batch(lease, list(quotes(0, 20)), lambda _: Decision())
    runs = RunRecords(database)
    feed = RunFeed(runs, StreamRegistry(now_us))
    service = BacktestService(
        Backtests(runs, RecordedRows(database, tmp_path), Planner(Registry()), quota=4, quota_of_role={Role.TRADER: 2}),
        feed,
        now_us,
        Mutations(PostgresChanges(database), Sealer({1: b"d" * 32}), now_us),
    )
    world = World(settings=ChainSettings(units_per_minute=1_000_000), backtest_service=service)
    async with running(world) as server:
        reading = asyncio.create_task(feed.run())
        yield Bureau(server, database, feed)
        reading.cancel()
        await asyncio.wait([reading])
    await database.close()


async def refused(call: Any) -> tuple[str, str]:
    failure = await failure_of(call)
    return failure.code.name, failure.reason


async def test_a_caller_has_as_many_unfinished_runs_as_the_server_allows_and_sweeps_count_too(bureau: Bureau) -> None:
    auth = bureau.auth()
    runs = [await bureau.made(auth) for _ in range(3)]
    await bureau.stub.CreateSweep(pb.CreateSweepRequest(config=good_sweep()), metadata=auth)
    failure = await failure_of(
        bureau.stub.CreateBacktest(pb.CreateBacktestRequest(config=good_config()), metadata=auth)
    )
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BACKTEST_QUOTA_EXCEEDED")
    assert failure.metadata["limit"] == "4"
    await bureau.made(bureau.auth())  # somebody else's count is their own
    await bureau.stub.CancelBacktest(pb.CancelBacktestRequest(backtest_id=runs[0].backtest_id), metadata=auth)
    assert (await bureau.made(auth)).state == backtest_pb2.BACKTEST_STATE_QUEUED


async def test_the_scope_of_a_key_says_how_many_it_may_have(bureau: Bureau) -> None:
    narrow, wide, none = (bureau.auth(backtest_limit=n) for n in (1, 6, 0))
    await bureau.made(narrow)
    request = pb.CreateBacktestRequest(config=good_config())
    wanted = ("RESOURCE_EXHAUSTED", "BACKTEST_QUOTA_EXCEEDED")
    assert await refused(bureau.stub.CreateBacktest(request, metadata=narrow)) == wanted
    assert await refused(bureau.stub.CreateBacktest(request, metadata=none)) == wanted
    for _ in range(6):
        await bureau.made(wide)
    assert await refused(bureau.stub.CreateBacktest(request, metadata=wide)) == wanted


async def test_a_role_may_have_a_limit_of_its_own_and_a_key_before_it(bureau: Bureau) -> None:
    trader, favoured = bureau.auth(Role.TRADER), bureau.auth(Role.TRADER, backtest_limit=3)
    request = pb.CreateBacktestRequest(config=good_config())
    for auth, limit in ((trader, 2), (favoured, 3)):
        for _ in range(limit):
            await bureau.made(auth)
        failure = await failure_of(bureau.stub.CreateBacktest(request, metadata=auth))
        assert (failure.reason, failure.metadata["limit"]) == ("BACKTEST_QUOTA_EXCEEDED", str(limit))


async def test_calls_at_once_do_not_get_past_the_quota(bureau: Bureau) -> None:
    auth = bureau.auth()
    request = pb.CreateBacktestRequest(config=good_config())
    answers = await asyncio.gather(
        *(bureau.stub.CreateBacktest(request, metadata=auth) for _ in range(16)), return_exceptions=True
    )
    assert sum(isinstance(a, pb.CreateBacktestResponse) for a in answers) == 4


async def test_what_another_key_made_is_as_if_it_was_not_there(bureau: Bureau) -> None:
    owner, other, admin = bureau.auth(), bureau.auth(), bureau.auth(Role.ADMIN)
    made = await bureau.made(owner)
    sweep = (await bureau.stub.CreateSweep(pb.CreateSweepRequest(config=good_sweep()), metadata=owner)).sweep
    for method, request in (
        ("GetBacktest", pb.GetBacktestRequest),
        ("CancelBacktest", pb.CancelBacktestRequest),
        ("DeleteBacktest", pb.DeleteBacktestRequest),
        ("ListBacktestTrades", pb.ListBacktestTradesRequest),
        ("GetEquityCurve", pb.GetEquityCurveRequest),
    ):
        call = getattr(bureau.stub, method)(request(backtest_id=made.backtest_id), metadata=other)
        assert await refused(call) == ("NOT_FOUND", "BACKTEST_NOT_FOUND"), method
    watch = bureau.stub.WatchBacktest(pb.WatchBacktestRequest(backtest_id=made.backtest_id), metadata=other)
    assert await refused(watch) == ("NOT_FOUND", "BACKTEST_NOT_FOUND")
    for method, request in (("GetSweep", pb.GetSweepRequest), ("CancelSweep", pb.CancelSweepRequest)):
        call = getattr(bureau.stub, method)(request(sweep_id=sweep.sweep_id), metadata=other)
        assert await refused(call) == ("NOT_FOUND", "SWEEP_NOT_FOUND"), method
    watch = bureau.stub.WatchSweep(pb.WatchSweepRequest(sweep_id=sweep.sweep_id), metadata=other)
    assert await refused(watch) == ("NOT_FOUND", "SWEEP_NOT_FOUND")
    async for message in bureau.stub.WatchSweep(pb.WatchSweepRequest(sweep_id=sweep.sweep_id), metadata=owner):
        assert message.sweep.sweep_id == sweep.sweep_id
        break
    listed_sweeps = await bureau.stub.ListSweeps(pb.ListSweepsRequest(), metadata=other)
    assert not listed_sweeps.sweeps
    listed = await bureau.stub.ListBacktests(pb.ListBacktestsRequest(), metadata=other)
    assert not listed.backtests
    theirs = pb.ListBacktestsRequest(filter=backtest_filter(made.owner))
    assert (await refused(bureau.stub.ListBacktests(theirs, metadata=other)))[0] == "PERMISSION_DENIED"
    seen = await bureau.stub.ListBacktests(theirs, metadata=admin)
    assert [b.backtest_id for b in seen.backtests] == [made.backtest_id]


def backtest_filter(owner: str) -> Any:
    return pb.BacktestFilter(owners=[owner])


async def test_each_mutation_is_done_once_a_request_id_and_is_one_row_of_the_audit_log(bureau: Bureau) -> None:
    auth = bureau.auth()
    made = await bureau.made(auth)
    finished = await bureau.made(auth)
    await bureau.stub.CancelBacktest(pb.CancelBacktestRequest(backtest_id=finished.backtest_id), metadata=auth)
    before = await bureau.count("SELECT count(*) FROM audit_entries")
    calls = [
        ("CreateBacktest", pb.CreateBacktestRequest(config=good_config())),
        ("CreateSweep", pb.CreateSweepRequest(config=good_sweep())),
        ("CancelBacktest", pb.CancelBacktestRequest(backtest_id=made.backtest_id)),
        ("DeleteBacktest", pb.DeleteBacktestRequest(backtest_id=finished.backtest_id)),
    ]
    for method, request in calls:
        request.request_id = request_id()
        call = partial(getattr(bureau.stub, method), request, metadata=auth)
        answers = await asyncio.gather(*(call() for _ in range(16)))
        assert all(answer == answers[0] for answer in answers), method
        assert await call() == answers[0]
    sweep = (await bureau.stub.ListSweeps(pb.ListSweepsRequest(), metadata=auth)).sweeps[0]
    cancel = pb.CancelSweepRequest(sweep_id=sweep.sweep_id, request_id=request_id())
    first = await bureau.stub.CancelSweep(cancel, metadata=auth)
    assert await bureau.stub.CancelSweep(cancel, metadata=auth) == first
    assert await bureau.count("SELECT count(*) FROM audit_entries") == before + 5
    assert await bureau.count("SELECT count(*) FROM backtest_runs") == 3
    assert await bureau.count("SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'") == 1


async def test_a_cancel_of_one_that_had_ended_is_answered_with_its_result_again_after_it_is_gone(
    bureau: Bureau,
) -> None:
    auth = bureau.auth()
    made = await bureau.made(auth)
    work = RunWorkRecords(bureau.database)
    run = await work.claim(made.backtest_id, now_us(), 10)
    assert run is not None
    result = BacktestResult(
        "h", 1, (), "i", "f", (FillRung("configured", 5, 1),), RunMetrics(5, 0, 0, 0, 1, 0), Conventions(),
        DataCoverage(1.0, 1, 1, 0), 1, 6,
    )  # fmt: skip
    point = {name: np.array([1]) for name in ("time_us", "equity_micros", "cash_micros", "locked_micros")}
    assert await work.finish_backtest(made.backtest_id, run.attempt, result, [], point, now_us())
    request = pb.CancelBacktestRequest(backtest_id=made.backtest_id, request_id=request_id())
    first = await bureau.stub.CancelBacktest(request, metadata=auth)
    assert first.backtest.state == backtest_pb2.BACKTEST_STATE_SUCCEEDED
    assert first.backtest.result.result_hash == "h"
    await bureau.stub.DeleteBacktest(pb.DeleteBacktestRequest(backtest_id=made.backtest_id), metadata=auth)
    assert await bureau.stub.CancelBacktest(request, metadata=auth) == first


async def test_a_request_id_with_another_body_is_refused_and_another_caller_may_have_the_same(bureau: Bureau) -> None:
    auth, name = bureau.auth(), request_id()
    first = await bureau.made(auth, request_id=name)
    other = pb.CreateBacktestRequest(config=good_config(), display_name="another", request_id=name)
    assert (await refused(bureau.stub.CreateBacktest(other, metadata=auth)))[1] == "REQUEST_ID_REUSED"
    assert (await bureau.made(bureau.auth(), request_id=name)).backtest_id != first.backtest_id


async def test_an_answered_call_is_answered_again_though_its_markets_are_gone(bureau: Bureau) -> None:
    auth, name = bureau.auth(), request_id()
    first = await bureau.made(auth, request_id=name)
    async with bureau.database.transaction() as transaction:
        await transaction.driver.execute("DELETE FROM quotes")
    assert await bureau.made(auth, request_id=name) == first
    request = pb.CreateBacktestRequest(config=good_config())
    assert await refused(bureau.stub.CreateBacktest(request, metadata=auth)) == (
        "FAILED_PRECONDITION",
        "BACKTEST_WITHOUT_DATA",
    )


async def test_what_does_not_exist_is_named(bureau: Bureau) -> None:
    auth = bureau.auth()
    wanted: list[tuple[pb.CreateBacktestRequest, str, str]] = []

    def case(reason: str, word: str) -> Any:
        request = pb.CreateBacktestRequest(config=good_config())
        wanted.append((request, reason, word))
        return request.config

    case("STRATEGY_NOT_FOUND", "stat.nothing").strategies[0].kind = "stat.nothing"
    case("MARKET_NOT_FOUND", "kalshi:NOWHERE").markets.market_ids.append("kalshi:NOWHERE")
    case("EVENT_NOT_FOUND", "kalshi:NOEVENT").markets.event_ids.append("kalshi:NOEVENT")
    empty = case("BACKTEST_WITHOUT_DATA", "config.range")
    empty.range.start_time.FromSeconds(1_600_000_000)
    empty.range.end_time.FromSeconds(1_600_003_600)
    for request, reason, word in wanted:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bureau.stub.CreateBacktest(request, metadata=auth)
        failure = await failure_of(bureau.stub.CreateBacktest(request, metadata=auth))
        assert failure.reason == reason
        details = dict(caught.value.trailing_metadata() or ())
        assert word.encode() in bytes(details["grpc-status-details-bin"]) or word in failure.text, reason
    assert await bureau.count("SELECT count(*) FROM backtest_runs") == 0
    assert await bureau.count("SELECT count(*) FROM procrastinate_jobs") == 0


async def rest_of(stream: Any) -> list[Any]:
    """All messages up to the stream's end."""
    messages: list[Any] = []
    while (message := await stream.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


async def test_watchers_see_the_run_from_queued_to_its_end_and_then_the_stream_is_over(bureau: Bureau) -> None:
    auth = bureau.auth()
    made = await bureau.made(auth)
    work = RunWorkRecords(bureau.database)
    stream = bureau.stub.WatchBacktest(pb.WatchBacktestRequest(backtest_id=made.backtest_id), metadata=auth)
    first = await stream.read()
    assert first.backtest.state == backtest_pb2.BACKTEST_STATE_QUEUED
    assert first.backtest.config.strategies
    claimed = await work.claim(made.backtest_id, time.time_ns() // 1000, 5)
    assert claimed is not None
    bureau.feed.wake()
    while (message := await stream.read()).backtest.state != backtest_pb2.BACKTEST_STATE_RUNNING:
        pass
    assert not MessageToDict(message.backtest).get("config"), "what doesn't change is sent once"
    await work.fail(
        made.backtest_id, 1, RunError("BACKTEST_LIMIT_EXCEEDED", "too much", "RESOURCE_EXHAUSTED"), now_us()
    )
    bureau.feed.wake()
    messages = await rest_of(stream)
    assert messages[-1].backtest.state == backtest_pb2.BACKTEST_STATE_FAILED


async def test_a_watched_run_that_is_deleted_ends_its_streams(bureau: Bureau) -> None:
    auth = bureau.auth()
    made = await bureau.made(auth)
    unfinished = bureau.stub.DeleteBacktest(pb.DeleteBacktestRequest(backtest_id=made.backtest_id), metadata=auth)
    assert await refused(unfinished) == ("FAILED_PRECONDITION", "BACKTEST_NOT_FINISHED")
    stream = bureau.stub.WatchBacktest(pb.WatchBacktestRequest(backtest_id=made.backtest_id), metadata=auth)
    await stream.read()
    await bureau.stub.CancelBacktest(pb.CancelBacktestRequest(backtest_id=made.backtest_id), metadata=auth)
    bureau.feed.wake()
    last = (await rest_of(stream))[-1]
    assert last.backtest.state == backtest_pb2.BACKTEST_STATE_CANCELLED
    await bureau.stub.DeleteBacktest(pb.DeleteBacktestRequest(backtest_id=made.backtest_id), metadata=auth)
    gone = bureau.stub.GetBacktest(pb.GetBacktestRequest(backtest_id=made.backtest_id), metadata=auth)
    assert await refused(gone) == ("NOT_FOUND", "BACKTEST_NOT_FOUND")
