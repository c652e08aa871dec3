"""The whole server above storage on a port of its own: real channel, real chain, real servicers."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer
from prometheus_client import CollectorRegistry

from oddstream.v1 import (
    admin_service_pb2_grpc,
    backtest_service_pb2_grpc,
    market_service_pb2_grpc,
    signal_service_pb2_grpc,
)
from oddstream_server.app.administration import administration
from oddstream_server.application.access.denials import Denials
from oddstream_server.application.calls.mutations import Mutations
from oddstream_server.application.executions import Executions
from oddstream_server.application.keys.authentication import Authenticator, TokenVerifier
from oddstream_server.application.keys.issuing import IssuedKey, new_key
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.application.markets import Markets
from oddstream_server.application.performance import Performance
from oddstream_server.application.ports import RateLimiter
from oddstream_server.application.secrets.sealing import Sealer
from oddstream_server.application.signals import Signals
from oddstream_server.domain.principal import Role, Scopes
from oddstream_server.embedded.keys import Keyring
from oddstream_server.interceptors.assembly import ChainSettings, build_chain
from oddstream_server.interceptors.limits.in_flight import InFlight
from oddstream_server.storage.database import Database
from oddstream_server.storage.signals.signal_log import SignalLogStore
from oddstream_server.strategies.registry import Registry
from oddstream_server.transport.administration.service import AdminService
from oddstream_server.transport.contract import load_contract
from oddstream_server.transport.health import HealthServicer
from oddstream_server.transport.market_service import MarketService
from oddstream_server.transport.server import GrpcServer, ServerOptions
from oddstream_server.transport.signal_service import SignalService
from tests.grpc.memory_backtests import memory_backtest_service
from tests.grpc.memory_executions import MemoryChanges, MemoryExecutions, NoOutcomes
from tests.grpc.memory_ports import (
    MemoryBooks,
    MemoryCatalog,
    MemoryKeys,
    MemoryLimiter,
    MemoryQuota,
    MemorySignals,
    MemoryStrategies,
    MemoryTicks,
)

SERVICES = tuple(
    f"oddstream.v1.{name}" for name in ("MarketService", "SignalService", "BacktestService", "AdminService")
)
PEPPERS = Peppers({1: b"a pepper of a test, long enough"})
CONTRACT = load_contract()

Stream = Callable[[Any, Any], Awaitable[None]]


def now_us() -> int:
    return time.time_ns() // 1000


async def until_cancelled(request: Any, context: Any) -> None:
    """A stream that lasts until its client leaves."""
    await context.send_initial_metadata(())
    await asyncio.Event().wait()


class QuietProcess:
    """A serving process in which all is well."""

    def redis_away(self) -> bool:
        return False

    def connections(self) -> tuple[int, int]:
        return 1, 10

    def streams(self) -> tuple[int, int]:
        return 3, 7

    def held_secrets(self) -> str:
        return ""


def admin_service_without_database() -> AdminService:
    """It refuses what is refused before the database is asked; nothing listens where it would ask."""
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    keyring = Keyring(peppers=PEPPERS.by_version, data_keys={1: b"d" * 32})
    nowhere = Path("/nonexistent")
    use_cases = administration(database, keyring, Registry(), SignalLogStore(database), nowhere, QuietProcess())
    return AdminService(use_cases, now_us)


@dataclass
class World:
    """What the server works on; a test changes it as it likes. Ports are in memory unless a test puts real ones in."""

    keys: MemoryKeys = field(default_factory=MemoryKeys)
    catalog: Any = field(default_factory=MemoryCatalog)
    ticks: Any = field(default_factory=MemoryTicks)
    books: Any = field(default_factory=MemoryBooks)
    signals: Any = field(default_factory=MemorySignals)
    strategies: Any = field(default_factory=MemoryStrategies)
    executions: Any = field(default_factory=MemoryExecutions)
    outcomes: Any = field(default_factory=NoOutcomes)
    limiter: RateLimiter = field(default_factory=MemoryLimiter)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    admin_service: Any = field(default_factory=admin_service_without_database)
    backtest_service: Any = field(default_factory=memory_backtest_service)
    mutations: Mutations | None = None
    """Of MarketService; the other services bring theirs."""
    denials: Denials | None = None
    tokens: TokenVerifier | None = None
    settings: ChainSettings = field(default_factory=ChainSettings)
    options: ServerOptions = field(default_factory=lambda: ServerOptions(port=0))
    watch_signals: Stream = until_cancelled
    watch_quotes: Stream = until_cancelled
    close_streams: Callable[[], Awaitable[None]] | None = None
    register: Sequence[Callable[[grpc.aio.Server], None]] = ()
    """Further services."""

    def issue(self, role: Role = Role.VIEWER, **more: Any) -> IssuedKey:
        """A key that is good."""
        more.setdefault("scopes", Scopes())
        issued = new_key(PEPPERS, owner="test", role=role, now_us=now_us(), **more)
        self.keys.keys[issued.key.key_id] = issued.stored
        return issued


@dataclass
class Running:
    world: World
    server: GrpcServer
    authenticator: Authenticator
    in_flight: InFlight
    health: HealthServicer
    port: int
    channel: grpc.aio.Channel
    key: IssuedKey

    @property
    def auth(self) -> tuple[tuple[str, str], ...]:
        return bearer(self.key.key.text)

    @property
    def markets(self) -> Any:
        return market_service_pb2_grpc.MarketServiceStub(self.channel)

    @property
    def signals(self) -> Any:
        return signal_service_pb2_grpc.SignalServiceStub(self.channel)

    def unary(self, method: str) -> Any:
        """A call by bytes."""
        return self.channel.unary_unary(method)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.world.registry.get_sample_value(name, labels)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@asynccontextmanager
async def running(world: World | None = None) -> AsyncIterator[Running]:
    world = world or World()
    in_flight = InFlight()
    authenticator = Authenticator(world.keys, PEPPERS, now_us, tokens=world.tokens)
    chain = build_chain(
        world.settings, CONTRACT, authenticator, world.limiter, MemoryQuota(), in_flight, world.registry, world.denials
    )
    health = HealthServicer(SERVICES)
    markets = Markets(world.catalog, world.ticks, world.books, world.signals, now_us)
    signals = Signals(world.signals, world.strategies)
    mutations = world.mutations
    if mutations is None:
        changes = MemoryChanges(world.executions, world.catalog.markets_by_id, world.signals)
        mutations = Mutations(changes, Sealer({1: b"d" * 32}), now_us)
    register = (
        partial(health_pb2_grpc.add_HealthServicer_to_server, health),
        partial(
            market_service_pb2_grpc.add_MarketServiceServicer_to_server,
            MarketService(markets, world.watch_quotes, now_us, world.mutations),
        ),
        partial(
            signal_service_pb2_grpc.add_SignalServiceServicer_to_server,
            SignalService(
                signals,
                Performance(world.outcomes, signals, now_us),
                Executions(world.executions),
                mutations,
                world.watch_signals,
            ),
        ),
        partial(admin_service_pb2_grpc.add_AdminServiceServicer_to_server, world.admin_service),
        partial(backtest_service_pb2_grpc.add_BacktestServiceServicer_to_server, world.backtest_service),
        partial(reflection_pb2_grpc.add_ServerReflectionServicer_to_server, ReflectionServicer(SERVICES)),
        *world.register,
    )
    server = GrpcServer(world.options, chain, in_flight, health, register)
    if world.close_streams is not None:
        server.close_streams = world.close_streams
    port = await server.start()
    health.set_serving(True)
    checks = asyncio.create_task(authenticator.run())
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    try:
        yield Running(world, server, authenticator, in_flight, health, port, channel, world.issue())
    finally:
        await channel.close()
        checks.cancel()
        await asyncio.wait([checks])
        await server.drain(0, 0.2)


@dataclass
class Failure:
    """A status as the caller sees it."""

    code: grpc.StatusCode
    text: str
    reason: str
    metadata: dict[str, str]
    fields: dict[str, str]
    """By field path: the rule."""
    correlation_id: str
    trailers: dict[str, str | bytes]
    details: list[Any]

    @property
    def everything(self) -> bytes:
        """All that crossed the wire."""
        return repr((self.text, self.trailers)).encode() + bytes(self.trailers.get("grpc-status-details-bin", b""))


async def failure_of(call: Any) -> Failure:
    """Await a call that has to fail."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return read_failure(error)
    raise AssertionError("the call was to fail")


def read_failure(error: grpc.aio.AioRpcError) -> Failure:
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
    kinds = (
        error_details_pb2.ErrorInfo,
        error_details_pb2.RequestInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
        error_details_pb2.QuotaFailure,
        error_details_pb2.ResourceInfo,
        error_details_pb2.PreconditionFailure,
    )
    details: list[Any] = []
    for packed in status.details:
        kind = next(k for k in kinds if packed.Is(k.DESCRIPTOR))
        details.append(kind.FromString(packed.value))
    info = next((d for d in details if isinstance(d, error_details_pb2.ErrorInfo)), error_details_pb2.ErrorInfo())
    request = next((d for d in details if isinstance(d, error_details_pb2.RequestInfo)), None)
    bad = next((d for d in details if isinstance(d, error_details_pb2.BadRequest)), None)
    return Failure(
        code=error.code(),
        text=error.details() or "",
        reason=info.reason,
        metadata=dict(info.metadata),
        fields={v.field: v.description for v in bad.field_violations} if bad else {},
        correlation_id=request.request_id if request else "",
        trailers=trailers,
        details=details,
    )
