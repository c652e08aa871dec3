"""A serving process: the gRPC server with its services, the feed, and the chain around every call."""

import asyncio
import socket

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from oddstream.v1 import (
    admin_service_pb2_grpc,
    backtest_service_pb2_grpc,
    market_service_pb2_grpc,
    signal_service_pb2_grpc,
)
from oddstream_server.app.administration import ServingProcess, administration, records_folder, retention_defaults
from oddstream_server.app.process import (
    access_tokens,
    archive_folder,
    certificate_files,
    new_registry,
    now_us,
    open_database,
    open_shared_state,
    operations_socket,
    reachable_host,
    run_until_stopped,
)
from oddstream_server.app.secrets import open_secrets, read_keyring
from oddstream_server.application.access.certificate_roles import CertificateRoles
from oddstream_server.application.access.denials import Denials
from oddstream_server.application.backtests import Backtests
from oddstream_server.application.calls.mutations import Mutations
from oddstream_server.application.executions import Executions
from oddstream_server.application.keys.authentication import Authenticator
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.application.markets import Markets
from oddstream_server.application.operations.strategy_settings import StrategySettings
from oddstream_server.application.performance import Performance
from oddstream_server.application.privacy.people import certificate_pseudonym
from oddstream_server.application.secrets.sealing import Sealer
from oddstream_server.application.signals import Signals
from oddstream_server.feed.live_feeds import LiveFeeds
from oddstream_server.feed.runs import RunFeed
from oddstream_server.feed.signals.feed import FeedLimits
from oddstream_server.feed.streams import StreamLimits
from oddstream_server.interceptors.assembly import ChainSettings, build_chain
from oddstream_server.interceptors.limits.in_flight import InFlight
from oddstream_server.jobs.planning import Planner
from oddstream_server.lifecycle import Closing, StopSignal
from oddstream_server.observability.feed_metrics import FeedMetrics
from oddstream_server.observability.operations import State
from oddstream_server.settings import Settings
from oddstream_server.shared_state.books import RedisBookCache
from oddstream_server.shared_state.limiter import LeasedRateLimiter
from oddstream_server.shared_state.stream_quota import SharedStreamQuota
from oddstream_server.storage.administration.audit_log import AuditLogStore
from oddstream_server.storage.administration.changes import PostgresChanges
from oddstream_server.storage.administration.controls import ControlsReader
from oddstream_server.storage.backtests.recorded import RecordedRows
from oddstream_server.storage.backtests.runs import RunRecords
from oddstream_server.storage.keys import ApiKeyStore
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from oddstream_server.storage.tick_store.ticks import TickStore
from oddstream_server.storage.track_record.executions import ExecutionStore
from oddstream_server.storage.track_record.performance import TrackRecordStore
from oddstream_server.strategies.registry import Registry
from oddstream_server.transport.administration.service import AdminService
from oddstream_server.transport.backtest_service import BacktestService
from oddstream_server.transport.certificates import CertificateStore
from oddstream_server.transport.contract import load_contract
from oddstream_server.transport.converters.streams import QuoteWireCodec, SignalWireCodec
from oddstream_server.transport.health import HealthServicer
from oddstream_server.transport.market_service import MarketService
from oddstream_server.transport.server import GrpcServer, ServerOptions
from oddstream_server.transport.signal_service import SignalService
from oddstream_server.transport.streams import QuoteStreams, SignalStreams
from oddstream_server.transport.tls import prove_older_tls_is_refused, server_credentials

log = structlog.get_logger()

SERVICES = tuple(f"oddstream.v1.{name}Service" for name in ("Market", "Signal", "Backtest", "Admin"))
DRAIN_RETRY_US = 500_000
"""How long streams are asked to wait before they come back: another process takes them meanwhile."""


async def serve(settings: Settings, index: int, stop: StopSignal) -> None:
    """Serve until stopped, then drain.

    :param index: number of the serving process; with several they share the port.
    """
    process = f"serve-{index}"
    closing = Closing()
    registry = new_registry()
    secrets = open_secrets(settings, registry)
    database = open_database(settings, process, secrets)
    closing.add("database", database.close)
    shared_state = open_shared_state(settings, registry, secrets)
    closing.add("redis", shared_state.close)

    signal_log = SignalLogStore(database)
    ticks = TickStore(database)
    catalog = CatalogStore(database)
    strategies = Registry()
    strategies.load_entry_points()

    keyring = await read_keyring(settings, secrets)
    sealer = Sealer(keyring.data_keys)
    authenticator = Authenticator(
        ApiKeyStore(database), Peppers(keyring.peppers), now_us, tokens=access_tokens(settings, sealer)
    )
    metrics = FeedMetrics(registry)
    feeds = LiveFeeds(
        signal_log,
        ticks,
        catalog,
        SignalWireCodec(),
        QuoteWireCodec(),
        now_us,
        observer=metrics,
        stream_limits=StreamLimits(
            maximum_age_s=settings.stream_maximum_age_seconds, slow_after_s=settings.slow_consumer_seconds
        ),
        signal_limits=FeedLimits(ring_entries=settings.signals_in_memory),
        also_wakes={"backtests": lambda: run_feed.wake(), "keys": authenticator.forget},
    )

    markets = Markets(catalog, ticks, RedisBookCache(shared_state, registry), signal_log, now_us)
    signals = Signals(signal_log, StrategySettings(strategies, ControlsReader(database)))
    mutations = Mutations(PostgresChanges(database), sealer, now_us)
    market_service = MarketService(markets, QuoteStreams(feeds.quotes, now_us).watch, now_us, mutations)
    signal_service = SignalService(
        signals,
        Performance(TrackRecordStore(database), signals, now_us),
        Executions(ExecutionStore(database)),
        mutations,
        SignalStreams(feeds.signals, now_us).watch,
    )
    run_records = RunRecords(database)
    run_feed = RunFeed(run_records, feeds.registry)
    backtests = Backtests(
        run_records,
        RecordedRows(database, archive_folder(settings)),
        Planner(strategies),
        settings.backtests_per_key,
        dict(settings.backtests_per_role),
    )
    backtest_service = BacktestService(backtests, run_feed, now_us, mutations)
    use_cases = administration(
        database,
        keyring,
        strategies,
        signal_log,
        records_folder(settings),
        ServingProcess(database, shared_state, feeds.signals, secrets),
        retention_defaults(settings),
        archive_folder(settings),
        settings.oidc_issuer or "",
    )
    admin_service = AdminService(use_cases, now_us)

    in_flight = InFlight()
    limiter = LeasedRateLimiter(shared_state, registry)
    stream_quota = SharedStreamQuota(shared_state, f"{socket.gethostname()}:{settings.data_dir}:{process}", registry)
    chain = build_chain(
        ChainSettings(
            trusted_proxies=settings.trusted_proxies,
            unauthenticated_calls_per_minute=settings.unauthenticated_calls_per_minute,
            units_per_minute=settings.calls_per_minute,
            streams_per_key=settings.streams_per_key,
            maximum_unary_calls=settings.maximum_unary_calls,
            certificate_roles=CertificateRoles(
                dict(settings.tls_client_roles), lambda name: certificate_pseudonym(sealer, name)
            )
            if settings.tls_client_ca_file
            else None,
        ),
        load_contract(),
        authenticator,
        limiter,
        stream_quota,
        in_flight,
        registry,
        Denials(AuditLogStore(database), limiter),
    )
    health = HealthServicer(SERVICES)
    certificates = certificate_files(settings)

    def register(server: grpc.aio.Server) -> None:
        market_service_pb2_grpc.add_MarketServiceServicer_to_server(market_service, server)
        signal_service_pb2_grpc.add_SignalServiceServicer_to_server(signal_service, server)
        backtest_service_pb2_grpc.add_BacktestServiceServicer_to_server(backtest_service, server)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(admin_service, server)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        reflection.enable_server_reflection((*SERVICES, reflection.SERVICE_NAME), server)

    async def close_streams() -> None:
        if not await feeds.close(DRAIN_RETRY_US, settings.grace_seconds):
            log.warning("streams were still open when their time to close was over", streams=metrics.open_streams)

    server = GrpcServer(
        options=ServerOptions(
            host=settings.grpc_host,
            port=settings.grpc_port,
            share_port=settings.workers > 1,
            maximum_streams=settings.streams_per_connection,
        ),
        interceptor=chain,
        in_flight=in_flight,
        health=health,
        register=(register,),
        credentials=server_credentials(CertificateStore(certificates, registry)) if certificates else None,
        close_streams=close_streams,
    )

    serving = False
    port = 0

    async def state() -> State:
        return {
            "ready": serving,
            "port": port,
            "streams": metrics.open_streams,
            "head_sequence": feeds.signals.bounds.head_sequence,
            "oldest_sequence": feeds.signals.bounds.oldest_sequence,
            "data_set_id": feeds.signals.data_set_id,
            "calls_in_flight": in_flight.total,
            "secrets": secrets.state(),
            "redis": "away" if shared_state.away else "up",
            "database_connections": database.connections_in_use(),
            "database_connections_maximum": database.maximum_connections,
        }

    async def start() -> None:
        nonlocal serving, port
        await feeds.ready()
        await use_cases.subjects.erase_again()  # whom a restore brought back goes before anybody can ask
        port = await server.start()
        if certificates:
            await prove_older_tls_is_refused(reachable_host(settings.grpc_host), port)
        health.set_serving(True)
        serving = True
        log.info("serving", address=server.options.address, port=port, tls=certificates is not None)
        await asyncio.Event().wait()

    async def drain() -> None:
        nonlocal serving
        serving = False
        log.info("draining", calls=in_flight.total, streams=metrics.open_streams)
        await server.drain(settings.drain_seconds, settings.grace_seconds)

    try:
        async with operations_socket(settings, process, registry, state):
            await run_until_stopped(
                stop,
                [
                    ("feeds", feeds.run()),
                    ("watched backtests", run_feed.run()),
                    ("authenticator", authenticator.run()),
                    ("stream quota", stream_quota.run()),
                    ("server", start()),
                ],
                drain,
            )
    finally:
        await closing.close()
    log.info("stopped")
