"""A tick's whole way: a venue's socket, the pipeline's process, PostgreSQL, the serving process, one subscriber.

Venue (the tests' emulator of Polymarket) and subscriber are this process. Each tick is a whole book of one market,
after which an open opportunity on its event is revised; the next one goes out when the event of the last one arrived.
Between ticks one row is committed on a connection of its own: the floor.
"""

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from prometheus_client import CollectorRegistry

from loadtests.stream.probed import STAGES
from loadtests.stream.raw_client import METHOD, SERVICE, Connection, Measure, Stream
from oddstream.v1 import signal_pb2, signal_service_pb2
from oddstream_server.app.secrets import open_secrets, read_keyring
from oddstream_server.application.keys.issuing import first_admin_key
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.domain.market import Declared, Event, Market, MarketState
from oddstream_server.embedded.launch.binaries import postgres_programs, redis_program
from oddstream_server.embedded.launch.placement import Programs, place
from oddstream_server.embedded.layout import DataFolder
from oddstream_server.embedded.postgres.cluster import PostgresCluster
from oddstream_server.embedded.redis_server import RedisServer
from oddstream_server.settings import Settings
from oddstream_server.storage.database import Database
from oddstream_server.storage.keys import ApiKeyStore
from oddstream_server.storage.migrate import upgrade_async
from oddstream_server.storage.signals.signal_log import SignalLogStore
from oddstream_server.venues.simulated import SimulatedConfig
from tests.emulator import polymarket_rows
from tests.emulator.polymarket import PolymarketEmulator
from tests.emulator.stage import Stage

KIND = "arb.event_sum"
PARTS = ("socket", "normalise", "strategy", "commit", "wake", "write")
_AIM = 3.0
_START_S = 60.0


def now_us() -> int:
    return time.time_ns() // 1000


class Subscriber(Measure):
    """Notes when an event of the kind arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = asyncio.Event()
        self.arrived_us = 0
        self.lost = 0

    def message(self, stream: Stream, body: bytes) -> None:
        arrived_us = now_us()
        message = signal_service_pb2.WatchSignalsResponse.FromString(body)
        if stream.through >= 0:
            inside = message.through_sequence - message.after_sequence
            self.lost += message.after_sequence != stream.through or len(message.events) != inside
        else:
            self.started += 1
        stream.through = message.through_sequence
        if any(event.signal.kind == KIND for event in message.events):
            self.arrived_us = arrived_us
            self.arrived.set()


class Venue:
    """The emulator, standing still but for the books that are asked for."""

    def __init__(self, emulator: PolymarketEmulator, event: Event, markets: Sequence[Market]) -> None:
        self.emulator, self.event, self.markets = emulator, event, markets
        self._asks = [900_000 // len(markets) // 10_000 * 10_000] * len(markets)
        self._turn = 0

    async def open_the_opportunity(self) -> None:
        """Books whose asks are together well below the payout."""
        for number in range(len(self.markets)):
            await self._send(number)

    async def tick(self) -> int:
        """One market's ask moves by a tick; answers the instant just before it went into the socket."""
        self._turn += 1
        self._asks[0] += 10_000 if self._turn % 2 else -10_000
        return await self._send(0)

    async def _send(self, number: int) -> int:
        market, ask = self.markets[number], self._asks[number]
        book = {
            "event_type": "book",
            "market": polymarket_rows.condition_id(market.market_id),
            "asset_id": polymarket_rows.token_id(market.market_id, 0),
            "timestamp": str(now_us() // 1000),
            "hash": "",
            "bids": [{"price": f"{(ask - 20_000) / 1e6:.2f}", "size": "500"}],
            "asks": [{"price": f"{ask / 1e6:.2f}", "size": "500"}],
        }
        frame = orjson.dumps([book]).decode()
        sent_us = now_us()
        for client in self.emulator.clients:
            await client.connection._socket.send_str(frame)
        return sent_us


def partition(stage: Stage) -> tuple[Event, Sequence[Market]]:
    """The smallest event that trades for the next hour and one of whose markets must win."""
    until_us = now_us() + 3_600_000_000
    whole = [
        (event, markets)
        for event, markets in stage.entries()
        if event.exclusivity is Declared.YES
        and event.exhaustiveness is Declared.YES
        and len(markets) > 1
        and all(m.state is MarketState.OPEN and (m.close_time_us or 0) > until_us for m in markets)
    ]
    return min(whole, key=lambda found: len(found[1]))


async def measure(ticks: int, warm_up: int) -> tuple[list[dict[str, int]], list[int], int]:
    """Instants of each tick, what one commit took each time, and how many events were lost."""
    async with AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="oddstream-bench-")))
        root.chmod(0o711)
        folder = DataFolder.at(root / "data")
        folder.create()
        placement = await place(folder, Programs(postgres_programs(), redis_program()))
        postgres = PostgresCluster(placement, password_file=folder.keys / "postgres_password")
        redis = RedisServer(placement)
        for service in (postgres, redis):
            await service.start(lambda _: None)
            stack.push_async_callback(service.stop, lambda _: None)
        await upgrade_async(postgres.address.url())
        stage = Stage(SimulatedConfig(seed=7, events=28, gap_interval_us=None), now_us())
        event, markets = partition(stage)
        emulator = await stack.enter_async_context(PolymarketEmulator(stage))
        environment = {
            "ODDSTREAM_DATA_DIR": str(folder.root),
            "ODDSTREAM_DATABASE_URL": postgres.address.url(),
            "ODDSTREAM_REDIS_URL": redis.url,
            "ODDSTREAM_GRPC_PORT": str(_free_port()),
            "ODDSTREAM_VENUES": "polymarket",
            "ODDSTREAM_POLYMARKET_GAMMA_URL": emulator.gamma_url,
            "ODDSTREAM_POLYMARKET_CLOB_URL": emulator.clob_url,
            "ODDSTREAM_POLYMARKET_DATA_URL": emulator.data_url,
            "ODDSTREAM_POLYMARKET_WEBSOCKET_URL": emulator.ws_url,
            "ODDSTREAM_DRAIN_SECONDS": "0",
            "ODDSTREAM_GRACE_SECONDS": "1",
            "ODDSTREAM_LOG_FILE": str(root / "log.jsonl"),
        }
        key = await _prepare(environment)
        files = [root / f"{kind}.json" for kind in ("pipeline", "serve")]
        processes = [_start(file, environment) for file in files]
        try:
            venue = Venue(emulator, event, markets)
            subscriber, stream = await _subscribe(int(environment["ODDSTREAM_GRPC_PORT"]), key)
            try:
                floor = await asyncpg.connect(postgres.address.url().replace("+asyncpg", ""))
                stack.push_async_callback(floor.close)
                noted, floors = await _ticks(venue, subscriber, floor, ticks, warm_up)
            finally:
                asyncio.get_running_loop().remove_reader(stream)
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                await asyncio.to_thread(process.wait)
        return _with_stages(noted, [json.loads(file.read_text()) for file in files]), floors, subscriber.lost


def _start(file: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "loadtests.stream.probed", file.stem, str(file)],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
    )


async def _prepare(environment: Mapping[str, str]) -> str:
    """What the supervisor does before it starts workers; answers an admin key."""
    given: dict[str, Any] = {name.removeprefix("ODDSTREAM_").lower(): value for name, value in environment.items()}
    settings = Settings(**given)
    database = Database(environment["ODDSTREAM_DATABASE_URL"])
    await SignalLogStore(database).mint_data_set_id()
    keyring = await read_keyring(settings, open_secrets(settings, CollectorRegistry()), database_is_new=True)
    issued = await first_admin_key(ApiKeyStore(database), Peppers(keyring.peppers), now_us())
    await database.close()
    assert issued is not None
    return issued.key.text


async def _subscribe(port: int, key: str) -> tuple[Subscriber, socket.socket]:
    """One stream with evidence, as soon as the server answers."""
    request = signal_service_pb2.WatchSignalsRequest(view=signal_pb2.SIGNAL_VIEW_FULL).SerializeToString()
    loop, subscriber = asyncio.get_running_loop(), Subscriber()
    deadline = loop.time() + _START_S
    while True:
        try:
            connection = Connection(port, f"/{SERVICE}/{METHOD}", [(request, None)], subscriber, key)
        except ConnectionRefusedError:
            if loop.time() > deadline:
                raise
            await asyncio.sleep(0.1)
            continue
        loop.add_reader(connection.socket, connection.read)
        return subscriber, connection.socket


async def _ticks(
    venue: Venue, subscriber: Subscriber, floor: "asyncpg.Connection[Any]", ticks: int, warm_up: int
) -> tuple[list[dict[str, int]], list[int]]:
    await floor.execute("CREATE TABLE bench_floor (body bytea)")
    insert = await floor.prepare("INSERT INTO bench_floor VALUES ($1)")
    body = os.urandom(1_000)
    async with asyncio.timeout(_START_S):
        while not subscriber.arrived.is_set():  # until the pipeline follows the markets
            await venue.open_the_opportunity()
            await asyncio.sleep(0.5)
    noted: list[dict[str, int]] = []
    floors: list[int] = []
    for number in range(warm_up + ticks):
        await asyncio.sleep(0.02)
        began = time.perf_counter_ns()
        await insert.fetch(body)
        took_us = (time.perf_counter_ns() - began) // 1000
        await asyncio.sleep(0.02)
        subscriber.arrived.clear()
        sent_us = await venue.tick()
        async with asyncio.timeout(10):
            await subscriber.arrived.wait()
        if number >= warm_up:
            floors.append(took_us)
            noted.append({"sent": sent_us, "arrived": subscriber.arrived_us})
    return noted, floors


def _with_stages(
    noted: Sequence[Mapping[str, int]], processes: Sequence[Mapping[str, Sequence[int]]]
) -> list[dict[str, int]]:
    """Each tick with the first instant of each stage between its start and its end; one that lacks a stage is out."""
    whole: list[dict[str, int]] = []
    for tick in noted:
        found = dict(tick)
        for stage in STAGES:
            instants = [i for process in processes for i in process[stage] if tick["sent"] <= i <= tick["arrived"]]
            if instants:
                found[stage] = instants[0]
        if found.keys() >= set(STAGES):
            whole.append(found)
    return whole


def parts(tick: Mapping[str, int]) -> dict[str, int]:
    """Microseconds of each stage; together they are the whole way.

    The commit's is all between the queue and the commit's answer but the decision: taking over, the batch's
    statements, the flush.
    """
    decide = tick["decided"] - tick["decide_began"]
    return {
        "socket": tick["received"] - tick["sent"],
        "normalise": tick["queued"] - tick["received"],
        "strategy": decide,
        "commit": tick["committed"] - tick["queued"] - decide,
        "wake": tick["published"] - tick["committed"],
        "write": tick["arrived"] - tick["published"],
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(*, quick: bool) -> list[str]:
    """Prints the table; answers the aims that were missed."""
    ticks, floors, lost = asyncio.run(measure(100 if quick else 400, 40))
    split = [parts(tick) for tick in ticks]
    whole = [tick["arrived"] - tick["sent"] for tick in ticks]
    floor = statistics.median(floors)
    p99 = sorted(whole)[int(len(whole) * 0.99)]
    p50 = statistics.median(whole)
    times = p50 / floor
    stages = ", ".join(f"{part} {statistics.median(s[part] for s in split) / 1000:.2f}" for part in PARTS)
    print(f"\na tick to one subscriber: p50 {p50 / 1000:.2f} ms, p99 {p99 / 1000:.2f} ms; one commit p50 "
          f"{floor / 1000:.2f} ms, so {times:.1f} times that; {len(ticks)} ticks, {lost} lost")  # fmt: skip
    print(f"    p50 of each stage, ms: {stages}", flush=True)
    missed = [f"{lost} events lost on the whole way"] if lost else []
    if times > _AIM:
        missed.append(f"a tick to one subscriber takes {times:.1f} times a commit, aim at most {_AIM:.0f}")
    return missed
