"""Two servers on one database, and servers and workers that are restarted while backtests run."""

import asyncio
import os
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from oddstream.v1 import backtest_pb2, backtest_service_pb2_grpc
from oddstream.v1 import backtest_service_pb2 as pb
from oddstream_server.domain.principal import Role
from tests.jobs.bench import MINUTE, ROWS, T0, children_of, gone, record
from tests.reliability.backtests.misbehaving import installed
from tests.reliability.streams.processes import SOURCES, Server, Stage, drill, stage

pytestmark = pytest.mark.timeout(900)

FINISHED = (
    backtest_pb2.BACKTEST_STATE_SUCCEEDED,
    backtest_pb2.BACKTEST_STATE_FAILED,
    backtest_pb2.BACKTEST_STATE_CANCELLED,
)


@asynccontextmanager
async def stub_of(server: Server, here: Stage) -> AsyncIterator[Any]:
    """The service of one server; calls wait for a server that is away."""
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
    async with grpc.aio.insecure_channel(server.target, options=options) as channel:
        yield _Authorized(backtest_service_pb2_grpc.BacktestServiceStub(channel), here.key)


class _Authorized:
    def __init__(self, stub: Any, key: str) -> None:
        self._stub = stub
        self._more: dict[str, Any] = {"metadata": (("authorization", f"Bearer {key}"),), "wait_for_ready": True}

    def __getattr__(self, method: str) -> Any:
        return partial(getattr(self._stub, method), **self._more)


def request(kind: str = "stat.mean_reversion") -> pb.CreateBacktestRequest:
    config = backtest_pb2.BacktestConfig(starting_bankroll_micros=1_000_000_000)
    config.strategies.add(kind=kind)
    config.range.start_time.FromMicroseconds(T0)
    config.range.end_time.FromMicroseconds(T0 + ROWS * MINUTE)
    return pb.CreateBacktestRequest(config=config, request_id=str(uuid.uuid4()))


async def followed(stub: Any, backtest_id: str) -> backtest_pb2.Backtest:
    """Watch to the end, over servers that go away."""
    async with asyncio.timeout(400):
        while True:
            try:
                message: pb.WatchBacktestResponse
                async for message in stub.WatchBacktest(pb.WatchBacktestRequest(backtest_id=backtest_id)):
                    if message.HasField("backtest") and message.backtest.state in FINISHED:
                        return message.backtest
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.1)


def start_worker(here: Stage, index: int) -> "subprocess.Popen[str]":
    return here.start(["worker", "--index", str(index)], {"backtest_maximum_attempts": "1000"})


@asynccontextmanager
async def recorded(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(database_url, redis_url, {"backtests_per_key": "100"}, Role.ANALYST) as here:
        here.sources = installed(tmp_path / "site") + os.pathsep + SOURCES
        await record(here.database)
        yield here


async def test_a_restart_of_server_and_worker_changes_no_result_and_watchers_see_the_end(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with recorded(database_url, redis_url, tmp_path) as here:
        server = await here.serve()
        worker = start_worker(here, 0)
        async with stub_of(server, here) as stub:
            calm = (await stub.CreateBacktest(request())).backtest
            wanted = await followed(stub, calm.backtest_id)
            assert wanted.state == backtest_pb2.BACKTEST_STATE_SUCCEEDED

            made = [(await stub.CreateBacktest(request())).backtest.backtest_id for _ in range(drill(2, 6))]
            watching = [asyncio.create_task(followed(stub, backtest_id)) for backtest_id in made]
            for _ in range(drill(1, 5)):
                async with asyncio.timeout(120):
                    while not any(map(children_of, made)):
                        await asyncio.sleep(0.02)
                server.kill()
                worker.kill()
                await asyncio.to_thread(worker.wait)
                worker = start_worker(here, 0)
                await server.start()
            ended = await asyncio.gather(*watching)
            assert {b.state for b in ended} == {backtest_pb2.BACKTEST_STATE_SUCCEEDED}
            assert {b.result.result_hash for b in ended} == {wanted.result.result_hash}
            assert max(b.attempt for b in ended) > 1, "nothing was disturbed"
            listed = await stub.ListBacktests(pb.ListBacktestsRequest(page_size=100))
            assert {b.backtest_id for b in listed.backtests} == {calm.backtest_id, *made}


async def test_two_servers_make_one_run_of_a_request_and_each_sees_and_cancels_what_the_other_made(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with recorded(database_url, redis_url, tmp_path) as here:
        one, two = await asyncio.gather(here.serve(index=0), here.serve(index=1))
        async with stub_of(one, here) as first, stub_of(two, here) as second:
            for _ in range(drill(3, 30)):
                asked = request()
                answers = await asyncio.gather(
                    *(stub.CreateBacktest(asked) for stub in (first, second) * 3), return_exceptions=True
                )
                ids = {a.backtest.backtest_id for a in answers if isinstance(a, pb.CreateBacktestResponse)}
                # one that is under way elsewhere is told to come again
                others = [a for a in answers if not isinstance(a, pb.CreateBacktestResponse)]
                assert len(ids) == 1, others
                assert all("progress" in str(a) for a in others), others
                again = [(await stub.CreateBacktest(asked)).backtest.backtest_id for stub in (first, second)]
                assert set(again) == ids
            listed = [b.backtest_id for b in (await first.ListBacktests(pb.ListBacktestsRequest())).backtests]
            assert len(listed) == drill(3, 30)
            for backtest_id in listed[1:]:
                await second.CancelBacktest(
                    pb.CancelBacktestRequest(backtest_id=backtest_id, request_id=str(uuid.uuid4()))
                )

            start_worker(here, 0)
            assert (await followed(second, listed[0])).state == backtest_pb2.BACKTEST_STATE_SUCCEEDED
            endless = (await first.CreateBacktest(request("test.endless"))).backtest.backtest_id
            watching = asyncio.create_task(followed(first, endless))
            async with asyncio.timeout(60):
                while not children_of(endless):
                    await asyncio.sleep(0.02)
            await second.CancelBacktest(pb.CancelBacktestRequest(backtest_id=endless, request_id=str(uuid.uuid4())))
            await gone(endless)
            assert (await watching).state == backtest_pb2.BACKTEST_STATE_CANCELLED
