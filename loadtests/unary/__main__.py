"""``make bench-unary``: one interleaved run over all servers, ratios to the bare echo, missed aims last.

``SECONDS=4 ROUNDS=5`` are the defaults; ``ROWS=1000000,10000000`` are the sizes between which a keyset page of 100 is
compared (0 leaves that out). ``QUICK=1`` takes shorter turns and leaves the pages out. ``CHECK=1`` exits with 1 where
an aim is missed. Each of the 32 connections asks for a market of its own, one call at a time.
"""

import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from loadtests.unary.pages import page_times_ms
from loadtests.unary.raw_client import CONNECTIONS
from loadtests.unary.world import METHOD, SERVICE, Given, market_id, sample_market
from oddstream.v1 import market_service_pb2
from oddstream_server.application.keys.issuing import new_key
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.domain.principal import Role
from oddstream_server.embedded.launch.binaries import postgres_programs, redis_program
from oddstream_server.embedded.launch.placement import Programs, place
from oddstream_server.embedded.layout import DataFolder
from oddstream_server.embedded.postgres.cluster import PostgresCluster
from oddstream_server.embedded.redis_server import RedisServer
from oddstream_server.storage.database import Database
from oddstream_server.storage.keys import ApiKeyStore
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.migrate import upgrade_async

QUICK = os.environ.get("QUICK") == "1"
SECONDS = float(os.environ.get("SECONDS", "1" if QUICK else "4"))
ROUNDS = int(os.environ.get("ROUNDS", "7" if QUICK else "5"))
ROWS = [int(n) for n in os.environ.get("ROWS", "0" if QUICK else "1000000,10000000").split(",") if int(n)]
_WARM_UP_S = 0.5 if QUICK else 1.5
BATCH = 100

MODES = {
    "echo": ("bare grpc.aio echo", "grpc"),
    "cached": ("full chain, market in memory", "grpc"),
    "row": ("full chain, one indexed row", "grpc"),
    "batch": ("full chain, BatchGetMarkets of 100", "grpc"),
    "fastapi": ("FastAPI, market in memory", "http"),
    "fastapi_row": ("FastAPI, one indexed row", "http"),
}


class Server:
    def __init__(self, mode: str, given: Given) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "loadtests.unary.servers", mode, json.dumps(asdict(given))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def cpu_s(self) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(json.loads(self.process.stdout.readline())["cpu_s"])

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(mode: str, server: Server, key: str) -> tuple[float, float]:
    """Calls a second, and the server's CPU in microseconds a call."""
    kind = MODES[mode][1]
    path = f"/{SERVICE}/{'BatchGetMarkets' if mode == 'batch' else METHOD}"
    if mode == "batch":
        requests = [market_service_pb2.BatchGetMarketsRequest(market_ids=[market_id(n) for n in range(BATCH)])]
    else:
        requests = [market_service_pb2.GetMarketRequest(market_id=market_id(n)) for n in range(CONNECTIONS)]
    paths = [path] if kind == "grpc" else [f"/markets/{market_id(n)}" for n in range(CONNECTIONS)]
    client = subprocess.Popen(
        [
            *(sys.executable, "-m", "loadtests.unary.raw_client", kind, str(server.port)),
            *(",".join(paths), key, ",".join(request.SerializeToString().hex() for request in requests), "100"),
            *(str(_WARM_UP_S), str(SECONDS)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "measuring\n", f"the client of {mode} failed"
    before = server.cpu_s()
    found = json.loads(client.stdout.readline())
    cpu = server.cpu_s() - before
    client.wait()
    return found["calls"] / found["seconds"], cpu / found["calls"] * 1e6


async def run() -> list[str]:
    with tempfile.TemporaryDirectory(prefix="oddstream-bench-") as root:
        Path(root).chmod(0o711)
        folder = DataFolder.at(Path(root) / "data")
        folder.create()
        placement = await place(folder, Programs(postgres_programs(), redis_program()))
        postgres = PostgresCluster(placement, password_file=folder.keys / "postgres_password")
        redis = RedisServer(placement)
        await postgres.start(lambda _: None)
        await redis.start(lambda _: None)
        try:
            await upgrade_async(postgres.address.url())
            given = Given(postgres.address.url(), redis.url, secrets.token_hex(32), f"{root}/log.jsonl")
            key = await prepare(given)
            await asyncio.to_thread(print_stages, given, key)
            missed = await asyncio.to_thread(compare, given, key)
            if ROWS:
                missed += await pages(given)
        finally:
            await redis.stop(lambda _: None)
            await postgres.stop(lambda _: None)
    return missed


async def prepare(given: Given) -> str:
    database = Database(given.database_url)
    now_us = time.time_ns() // 1000
    await CatalogStore(database).upsert([], [sample_market(n) for n in range(1000)], now_us)
    issued = new_key(Peppers({1: bytes.fromhex(given.pepper)}), owner="bench", role=Role.ADMIN, now_us=now_us)
    await ApiKeyStore(database).create(issued.stored)
    await database.close()
    return issued.key.text


def print_stages(given: Given, key: str) -> None:
    """Where the time of a cached read goes inside of the chain."""
    command = [sys.executable, "-m", "loadtests.unary.servers", "stages", json.dumps(asdict(given)), key]
    found: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    told = ", ".join(f"{name} {spent:.1f}" for name, spent in found.items())
    print(f"CPU µs of a cached read by stage, gRPC left out: {told}; together {sum(found.values()):.0f}", flush=True)


def compare(given: Given, key: str) -> list[str]:
    results: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    servers = {mode: Server("row" if mode == "batch" else mode, given) for mode in MODES}
    try:
        for _ in range(ROUNDS):
            for mode, server in servers.items():
                results[mode].append(measure(mode, server, key))
    finally:
        for server in servers.values():
            server.end()
    # A ratio is of one round, so that what disturbs the machine for a while disturbs both of its sides.
    ratios = {
        mode: statistics.median(mine[0] / bare[0] for mine, bare in zip(found, results["echo"], strict=True))
        for mode, found in results.items()
    }
    print(f"{'':38} {'calls/s':>9} {'of echo':>8} {'CPU µs/call':>12} {'echo of it':>11}")
    cpu = {}
    for mode, (words, _) in MODES.items():
        rate = statistics.median(r for r, _ in results[mode])
        cpu[mode] = statistics.median(c for _, c in results[mode])
        share = statistics.median(bare[1] / mine[1] for mine, bare in zip(results[mode], results["echo"], strict=True))
        print(f"{words:38} {rate:>9,.0f} {ratios[mode]:>8.2f} {cpu[mode]:>12.0f} {share:>11.2f}")
    print(
        f"where the time of a row goes: gRPC {cpu['echo']:.0f}, chain and handler {cpu['cached'] - cpu['echo']:.0f}, "
        f"database {cpu['row'] - cpu['cached']:.0f} µs of CPU"
    )
    aims = [
        (ratios["cached"] >= 0.85, f"cached read {ratios['cached']:.2f} of the bare echo, aim 0.85"),
        (ratios["row"] >= 0.65, f"one row {ratios['row']:.2f} of the bare echo, aim 0.65"),
        (
            ratios["cached"] > ratios["fastapi"],
            f"cached read {ratios['cached'] / ratios['fastapi']:.2f} of FastAPI's, aim above 1",
        ),
        (
            ratios["row"] > ratios["fastapi_row"],
            f"one row {ratios['row'] / ratios['fastapi_row']:.2f} of FastAPI's, aim above 1",
        ),
    ]
    return [text for met, text in aims if not met]


async def pages(given: Given) -> list[str]:
    medians = []
    for rows in ROWS:
        p50, p99 = await page_times_ms(given, rows)
        medians.append(p50)
        print(f"keyset page of 100 quotes at {rows:>12,} rows   p50 {p50:.2f} ms   p99 {p99:.2f} ms", flush=True)
    growth = medians[-1] / medians[0]
    print(f"page at {ROWS[-1]:,} rows takes {growth:.2f} times the page at {ROWS[0]:,}")
    return [] if growth <= 1.7 else [f"page at {ROWS[-1]:,} rows takes {growth:.2f} of that at {ROWS[0]:,}, aim 1.7"]


def main() -> None:
    missed = asyncio.run(run())
    for aim in missed:
        print(f"missed: {aim}", file=sys.stderr)
    if missed and os.environ.get("CHECK") == "1":
        raise SystemExit(1)


if __name__ == "__main__":
    main()
