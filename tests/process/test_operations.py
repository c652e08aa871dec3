import asyncio

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from oddstream_server.observability.operations import OperationsServer, WorkerClient, merge_metrics, process_metrics


@pytest.fixture
async def operations():
    registry = CollectorRegistry()
    Counter("oddstream_things", "Things.", registry=registry).inc(3)
    state = {"ready": True, "venues": {"kalshi": "live"}}

    async def answer():
        return state

    server = OperationsServer(answer, process_metrics(registry))
    yield server, state
    await server.close()


async def test_ready_follows_the_state_and_live_does_not(operations):
    server, state = operations
    await server.listen_tcp("127.0.0.1", 0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as http:
        assert (await http.get("/health/ready")).status == 200
        state["ready"] = False
        assert (await http.get("/health/ready")).status == 503
        assert (await http.get("/health/live")).status == 200


async def test_a_worker_is_asked_over_its_unix_socket_and_a_missing_one_answers_nothing(operations, tmp_path):
    server, state = operations
    await server.listen_unix(tmp_path / "serve-0.sock")
    worker = WorkerClient("serve-0", tmp_path / "serve-0.sock")
    assert await worker.state() == state
    assert b"oddstream_things_total 3.0" in await worker.metrics()
    missing = WorkerClient("serve-1", tmp_path / "serve-1.sock")
    assert await missing.state() is None
    assert await missing.metrics() == b""


async def test_a_worker_that_hangs_is_given_up_after_the_timeout(tmp_path):
    ended = asyncio.Event()

    async def silent(reader, writer):
        await reader.read()
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_unix_server(silent, tmp_path / "w.sock")
    assert await WorkerClient("w", tmp_path / "w.sock", timeout_seconds=0.1).state() is None
    await ended.wait()
    server.close()
    await server.wait_closed()


def test_merged_metrics_keep_names_types_and_buckets_and_tell_workers_apart():
    texts = {}
    for worker, value in (("serve-0", 1), ("serve-1", 2)):
        registry = CollectorRegistry()
        Counter("grpc_server_handled", "Calls.", ["grpc_code"], registry=registry).labels("OK").inc(value)
        Histogram("latency_seconds", "Latency.", buckets=(0.1, 1), registry=registry).observe(0.05)
        texts[worker] = generate_latest(registry)
    merged = merge_metrics(texts).decode()
    assert 'grpc_server_handled_total{grpc_code="OK",worker="serve-0"} 1.0' in merged
    assert 'grpc_server_handled_total{grpc_code="OK",worker="serve-1"} 2.0' in merged
    assert 'latency_seconds_bucket{le="0.1",worker="serve-1"} 1.0' in merged
    assert merged.count("# TYPE grpc_server_handled_total counter") == 1
    assert merged.count("# TYPE latency_seconds histogram") == 1
