"""Many streams: on one connection, at the same moment, over several processes, and not more than a key may have."""

import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

import oddstream
from oddstream.v1 import signal_service_pb2
from tests.installation import Installation, installation
from tests.reliability.fault_proxy import FaultProxy
from tests.reliability.streams.processes import SOURCES, Stage, drill, stage
from tests.reliability.streams.subscribers import Subscriber, complaints
from tests.reliability.streams.test_dependencies import Reads

pytestmark = pytest.mark.timeout(300)

ON_ONE_CONNECTION = 1_200
AT_THE_SAME_MOMENT = drill(500, 3_000)
MANY = {"streams_per_key": "10000"}


async def open_streams(client: oddstream.AsyncClient, count: int) -> list[Any]:
    """Streams that have said their terms."""
    request = signal_service_pb2.WatchSignalsRequest(start=oddstream.from_now())
    calls: list[Any] = [client.signals.WatchSignals(request) for _ in range(count)]
    firsts = await asyncio.gather(*(call.read() for call in calls))
    assert all(first.HasField("started") for first in firsts)
    return calls


async def test_one_connection_carries_more_than_a_thousand_streams_and_answers_calls(
    database_url: str, redis_url: str
) -> None:
    async with stage(database_url, redis_url, MANY) as here:
        server = await here.serve()
        async with oddstream.AsyncClient(server.target, api_key=here.key) as client:
            calls = await open_streams(client, ON_ONE_CONNECTION)
            assert _established(server.port) == 1
            # The same connection's unary calls are not starved by its streams.
            await client.signals.ListSignals(signal_service_pb2.ListSignalsRequest())
            await _hear_of_one_event(here, calls)
            for call in calls:
                call.cancel()


async def _hear_of_one_event(here: Stage, calls: list[Any]) -> None:
    writer = await here.write(1, 20.0)
    await here.wait_for_head(5)
    await writer.stop()

    async def hear(call: Any) -> None:
        while not (await call.read()).events:
            pass

    async with asyncio.timeout(30):
        await asyncio.gather(*(hear(call) for call in calls))


def _established(port: int) -> int:
    """Connections that the kernel shows as established at the server's end of a port."""
    tables = [Path("/proc/net", name).read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


async def test_a_key_has_no_more_streams_over_all_processes_than_its_quota_and_closing_one_makes_room(
    database_url: str, redis_url: str
) -> None:
    async with stage(database_url, redis_url, {"streams_per_key": "10"}) as here, contextlib.AsyncExitStack() as stack:
        servers = [await here.serve(index=0), await here.serve(index=1)]
        one, other = [
            await stack.enter_async_context(oddstream.AsyncClient(server.target, api_key=here.key))
            for server in servers
        ]
        calls = await open_streams(one, 6) + await open_streams(other, 4)
        for client in (one, other):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await open_streams(client, 1)
            error = oddstream.errors.from_rpc_error(refused.value)
            assert error.reason == "STREAM_QUOTA_EXCEEDED"
            assert error.retry_delay is not None
            await client.signals.ListSignals(signal_service_pb2.ListSignalsRequest())
        calls[0].cancel()
        deadline = time.monotonic() + 10
        while True:
            try:
                calls += await open_streams(other, 1)
            except grpc.aio.AioRpcError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            else:
                break
        for call in calls:
            call.cancel()


async def test_clients_that_all_come_back_at_the_same_moment_all_get_their_streams_while_calls_are_answered(
    database_url: str, redis_url: str
) -> None:
    _allow_open_files(2 * AT_THE_SAME_MOMENT + 1_000)
    async with stage(database_url, redis_url, MANY) as here:
        server = await here.serve()
        writer = await here.write(1, 200.0)
        await here.wait_for_head(300)
        await writer.stop()
        start = await here.from_the_beginning()
        start.position.sequence = await here.head() - 50
        request = signal_service_pb2.WatchSignalsRequest(start=start).SerializeToString()
        clients = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.reliability.streams.storm_client",
            str(server.port), here.key, request.hex(), str(AT_THE_SAME_MOMENT),
            env={"PYTHONPATH": SOURCES}, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert clients.stdin is not None
        assert clients.stdout is not None
        try:
            said = []
            for again in (False, True):
                if again:
                    server.kill()
                    await server.start()
                reads = Reads(server.target, here.key)
                clients.stdin.write(b"\n")
                reads.begin()
                said.append((await clients.stdout.readline()).decode().strip())
                meanwhile = reads.done
                await reads.end()
                assert reads.failed == []
                assert meanwhile >= 1, "calls were starved"
                print(f"all have a stream after {said[-1]} s; {meanwhile} calls, slowest {reads.slowest_s:.2f} s")
                assert float(said[-1]) < 60
        finally:
            clients.stdin.close()
            await clients.wait()


def _allow_open_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


async def test_several_serving_processes_share_the_port_and_one_that_is_killed_costs_nothing() -> None:
    with installation({"workers": "2", "pipelines": "2", "simulated_speed": "4"}) as made:
        said = await asyncio.to_thread(made.start)
        assert "2 serving, 2 pipelines, one leads" in said
        start = oddstream.at_position(oddstream.Position(await _data_set(made), 0))
        async with contextlib.AsyncExitStack() as stack:
            # A proxy each: behind one address the clients would share a connection, and so a process.
            proxies = [await stack.enter_async_context(FaultProxy(made.grpc_port)) for _ in range(12)]
            bots = [Subscriber(proxy.target, made.key, start) for proxy in proxies]
            try:
                for bot in bots:
                    bot.begin()
                await asyncio.gather(*(bot.reach(20) for bot in bots))
                state = await asyncio.to_thread(made.state)
                streams = [state["workers"][f"serve-{n}"]["streams"]["signals"] for n in range(2)]
                assert min(streams) > 0, "one process has all streams"
                assert sum(streams) == len(bots)
                leaders = [state["workers"][name]["leader"] for name in ("pipeline", "pipeline-1")]
                assert sorted(leaders) == [False, True]
                os.kill(_worker_pid(made, "serve", "1"), signal.SIGKILL)
                reached = max(bot.through for bot in bots)
                await asyncio.gather(*(bot.reach(reached + 20) for bot in bots))
                assert sum(bot.reconnects > 0 for bot in bots) == streams[1]
            finally:
                await asyncio.gather(*(bot.end() for bot in bots))
        longest = max((bot.received for bot in bots), key=len)
        for bot in bots:
            assert complaints(bot.received, longest[: len(bot.received)], bot.failure) == []
        assert [e.sequence for e in longest] == list(range(1, len(longest) + 1))
        await asyncio.to_thread(made.stop)
        assert made.leftovers() == []


async def _data_set(made: Installation) -> str:
    async with oddstream.AsyncClient(made.target, api_key=made.key) as client:
        listed: Any = await client.signals.ListSignals(signal_service_pb2.ListSignalsRequest(page_size=1))
    return str(listed.data_set_id)


def _worker_pid(server: Installation, *words: str) -> int:
    for pid in server.leftovers():
        found = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if found[2:3] == [b"oddstream_server"] and {w.encode() for w in words} <= set(found):
            return pid
    raise AssertionError(f"no process of {words}")
