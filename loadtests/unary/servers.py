"""The servers that are compared, each a process of its own: ``python -m loadtests.unary.servers <mode>``.

``echo`` is gRPC alone, answering the same bytes. ``cached`` and ``row`` are this project's chain and handler, with the
market in memory and in PostgreSQL. ``fastapi`` and ``fastapi_row`` do the same reads as JSON, with the same key check,
limiter, log line and metrics. Prints its port, then on each line of stdin the CPU seconds it has used. ``stages``
prints the CPU time of each layer and ends.
"""

import asyncio
import json
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from loadtests.unary.raw_client import CONNECTIONS
from loadtests.unary.stages import stage_times_us
from loadtests.unary.world import METHOD, SERVICE, Given, sample_market
from oddstream.v1 import market_service_pb2_grpc
from oddstream_server.application.keys.authentication import Authenticator
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.application.markets import Markets
from oddstream_server.domain.market import Market
from oddstream_server.interceptors.assembly import ChainSettings, build_layers
from oddstream_server.interceptors.call import Layer
from oddstream_server.interceptors.chain import Chain
from oddstream_server.interceptors.limits.in_flight import InFlight
from oddstream_server.interceptors.methods import method_table
from oddstream_server.lifecycle import calm_collector
from oddstream_server.observability.logging import configure_logging
from oddstream_server.shared_state.connection import SharedState
from oddstream_server.shared_state.limiter import LeasedRateLimiter
from oddstream_server.shared_state.stream_quota import SharedStreamQuota
from oddstream_server.storage.database import Database
from oddstream_server.storage.keys import ApiKeyStore
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.tick_store.ticks import TickStore
from oddstream_server.transport.contract import Contract, load_contract
from oddstream_server.transport.converters.markets import market_message
from oddstream_server.transport.health import HealthServicer
from oddstream_server.transport.market_service import MarketService
from oddstream_server.transport.server import GrpcServer, ServerOptions

UNITS_PER_MINUTE = 100_000_000


def now_us() -> int:
    return time.time_ns() // 1000


class HeldMarkets(Markets):
    """The use case with its read answered from memory, so that what is measured is the chain."""

    async def get_market(self, market_id: str) -> Market:
        return _HELD[market_id]


async def echo() -> int:
    body = market_message(sample_market(), full=True, now_us=now_us())
    answer = b"\x0a" + _length(body.ByteSize()) + body.SerializeToString()

    async def handle(_request: bytes, _context: Any) -> bytes:
        return answer

    server = grpc.aio.server(options=ServerOptions().channel_options())
    handlers = {METHOD: grpc.unary_unary_rpc_method_handler(handle)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _KEPT.append(server)
    return port


@dataclass(frozen=True)
class Parts:
    """What the chain and its handler are made of."""

    layers: tuple[Layer, ...]
    contract: Contract
    in_flight: InFlight
    service: MarketService
    authenticator: Authenticator


def parts(given: Given, *, cached: bool) -> Parts:
    registry = CollectorRegistry()
    database = Database(given.database_url, pool_size=4, max_overflow=0)
    shared = SharedState(given.redis_url, registry, timeout_seconds=2)
    authenticator = Authenticator(ApiKeyStore(database), Peppers({1: bytes.fromhex(given.pepper)}), now_us)
    in_flight = InFlight()
    unused: Any = None  # GetMarket and BatchGetMarkets read the catalog alone
    kind = HeldMarkets if cached else Markets
    markets = kind(CatalogStore(database), TickStore(database), unused, unused, now_us)
    service = MarketService(markets, unused, now_us)  # type: ignore[abstract]  # its decorator answers the rest
    contract = load_contract()
    layers = build_layers(
        ChainSettings(units_per_minute=UNITS_PER_MINUTE),
        contract,
        authenticator,
        LeasedRateLimiter(shared, registry),
        SharedStreamQuota(shared, "bench", registry),
        in_flight,
        registry,
    )
    return Parts(layers, contract, in_flight, service, authenticator)


async def chain(given: Given, *, cached: bool) -> int:
    made = parts(given, cached=cached)
    server = GrpcServer(
        ServerOptions(port=0),
        Chain(made.layers, method_table(made.contract), made.in_flight),
        made.in_flight,
        HealthServicer([SERVICE]),
        (lambda s: market_service_pb2_grpc.add_MarketServiceServicer_to_server(made.service, s),),
    )
    _KEPT.extend((server, asyncio.create_task(made.authenticator.run())))
    return await server.start()


async def stages(given: Given, key: str) -> None:
    """Print where the time of a cached read goes, as one JSON object."""
    made = parts(given, cached=True)
    print(json.dumps(await stage_times_us(made.layers, made.contract, made.service.GetMarket, key)), flush=True)


def _length(size: int) -> bytes:
    out = bytearray()
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes((*out, size))


_HELD = {market.market_id: market for market in map(sample_market, range(CONNECTIONS))}
_KEPT: list[Any] = []
"""What has to live as long as the server."""


async def serve(mode: str, given: Given) -> None:
    configure_logging(level="info", json=True, file=Path(given.log_file), process=mode)
    if mode == "echo":
        port = await echo()
    elif mode.startswith("fastapi"):
        from loadtests.unary.fastapi_service import start

        port = await start(given, cached=mode == "fastapi")
    else:
        port = await chain(given, cached=mode == "cached")
    calm_collector()  # as the product does; for all servers alike
    print(port, flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    profile = _profiler()
    while await reader.readline():
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({"cpu_s": used.ru_utime + used.ru_stime}), flush=True)
    if profile is not None:
        profile()
    os._exit(0)


def _profiler() -> Any:
    """Where the time goes, for ``PROFILE=<file>``."""
    file = os.environ.get("PROFILE")
    if not file:
        return None
    import cProfile

    profile = cProfile.Profile()
    profile.enable()
    return lambda: (profile.disable(), profile.dump_stats(file))


if __name__ == "__main__":
    os.sched_setaffinity(0, {0})
    given = Given(**json.loads(sys.argv[2]))
    if sys.argv[1] == "stages":
        configure_logging(level="info", json=True, file=Path(given.log_file), process="stages")
        asyncio.run(stages(given, sys.argv[3]))
    else:
        asyncio.run(serve(sys.argv[1], given))
