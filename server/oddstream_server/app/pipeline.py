"""The pipeline's process: adapters of the chosen venues, the strategies, and the leadership."""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from oddstream_server.app.administration import records_folder, records_of, retention_defaults
from oddstream_server.app.process import (
    archive_folder,
    data_folder,
    new_registry,
    now_us,
    open_database,
    open_shared_state,
    operations_socket,
    run_until_stopped,
)
from oddstream_server.app.secrets import open_secrets, read_keyring
from oddstream_server.app.venue_keys import kalshi_credential
from oddstream_server.application.operations.housekeeping import Housekeeping
from oddstream_server.application.ports import VenueAdapter
from oddstream_server.application.secrets.venue_credentials import VenueCredential
from oddstream_server.domain.market import Venue
from oddstream_server.embedded.layout import free_fraction
from oddstream_server.lifecycle import Closing, StopSignal
from oddstream_server.observability.housekeeping_metrics import HousekeepingMetrics
from oddstream_server.observability.operations import State
from oddstream_server.observability.pipeline_metrics import PipelineMetrics
from oddstream_server.pipeline.declarations import Declarations
from oddstream_server.pipeline.leader import Pipeline, PipelineSettings
from oddstream_server.settings import Settings
from oddstream_server.shared_state.books import RedisBookCache
from oddstream_server.storage.administration.controls import ControlsReader
from oddstream_server.storage.administration.requests import RequestHousekeeping
from oddstream_server.storage.administration.runs import PipelineRunStore
from oddstream_server.storage.fitted import FittedStore
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from oddstream_server.storage.tick_store.ticks import TickStore
from oddstream_server.strategies.registry import Registry
from oddstream_server.venues.kalshi.adapter import KalshiAdapter
from oddstream_server.venues.kalshi.config import KalshiConfig
from oddstream_server.venues.polymarket.adapter import PolymarketAdapter
from oddstream_server.venues.polymarket.config import PolymarketConfig
from oddstream_server.venues.simulated.adapter import SimulatedVenue
from oddstream_server.venues.simulated.config import SimulatedConfig

log = structlog.get_logger()


def kalshi(settings: Settings, key: VenueCredential | None) -> KalshiAdapter:
    return KalshiAdapter(
        KalshiConfig(
            rest_url=settings.kalshi_rest_url,
            ws_url=settings.kalshi_websocket_url,
            key_id=key.key_id if key else None,
            private_key_pem=key.private_key.encode() if key else None,
        )
    )


def polymarket(settings: Settings) -> PolymarketAdapter:
    return PolymarketAdapter(
        PolymarketConfig(
            gamma_url=settings.polymarket_gamma_url,
            clob_url=settings.polymarket_clob_url,
            data_url=settings.polymarket_data_url,
            ws_url=settings.polymarket_websocket_url,
            prices_url=settings.polymarket_prices_url,
        )
    )


async def choose_adapters(
    settings: Settings, not_before_us: int | None, kalshi_key: VenueCredential | None = None
) -> Sequence[VenueAdapter]:
    """The named venues; for ``auto`` the real ones that answer, and the simulated one where none does."""
    makers: dict[Venue, Callable[[], VenueAdapter]] = {
        Venue.KALSHI: lambda: kalshi(settings, kalshi_key),
        Venue.POLYMARKET: lambda: polymarket(settings),
        Venue.SIMULATED: lambda: SimulatedVenue(
            SimulatedConfig(
                seed=settings.simulated_seed,
                events=settings.simulated_events,
                speed=settings.simulated_speed,
                underlying_interval_us=1_000_000,
            ),
            now_us,
            not_before_us,
        ),
    }
    if settings.named_venues:
        return [makers[venue]() for venue in settings.named_venues]
    candidates: list[VenueAdapter] = [makers[Venue.KALSHI](), makers[Venue.POLYMARKET]()]
    answers = await asyncio.gather(*(adapter.reachable() for adapter in candidates))
    reached = []
    for adapter, reachable in zip(candidates, answers, strict=True):
        if reachable:
            reached.append(adapter)
        else:
            log.info("venue not reachable, left out", venue=adapter.venue.value)
            await adapter.close()
    return reached or [makers[Venue.SIMULATED]()]


async def run_pipeline(settings: Settings, process: str, stop: StopSignal) -> None:
    """Contend for the leadership and lead until stopped.

    :param process: this process's name among the workers, as its operations socket has it.
    """
    closing = Closing()
    registry = new_registry()
    stores = open_secrets(settings, registry)
    database = open_database(settings, process, stores)
    closing.add("database", database.close)
    shared_state = open_shared_state(settings, registry, stores)
    closing.add("redis", shared_state.close)

    ticks = TickStore(database)
    signal_log = SignalLogStore(database)
    keyring = await read_keyring(settings, stores)
    strategies = Registry()
    strategies.load_entry_points()
    declarations = Declarations.read(settings.declarations_file) if settings.declarations_file else Declarations()

    kalshi_key = await kalshi_credential(settings, stores, database)
    adapters = await choose_adapters(settings, await _last_simulated_us(signal_log), kalshi_key)
    for adapter in adapters:
        closing.add(f"venue {adapter.venue.value}", adapter.close)
    metrics = PipelineMetrics(registry, [adapter.venue for adapter in adapters], now_us)
    pipeline = Pipeline(
        holder=f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}",
        store=PostgresPipelineStore(database, ticks),
        catalog=CatalogStore(database),
        adapters=adapters,
        strategies=strategies.configured(()),
        clock=now_us,
        declarations=declarations,
        books=RedisBookCache(shared_state, registry),
        log=signal_log,
        observer=metrics,
        settings=PipelineSettings(
            markets_per_venue=settings.markets_per_venue,
            window_markets_per_venue=settings.window_markets_per_venue,
            discovery_seconds=settings.discovery_seconds,
            lease_seconds=settings.lease_seconds,
            depth_seconds=settings.depth_seconds,
            depth_levels=settings.depth_levels,
            link_proposals_seconds=settings.link_proposals_seconds,
        ),
        free_disk_ppm=_free_disk(settings),
        controls=ControlsReader(database),
        configure=strategies.configured,
        runs=PipelineRunStore(database),
        fitted=FittedStore(database),
        report=lambda: told(metrics, adapters),
    )

    async def state() -> State:
        return {"ready": True, "secrets": stores.state(), **told(metrics, adapters)}

    records = records_of(
        database, records_folder(settings), retention_defaults(settings), keyring, archive_folder(settings)
    )
    housekeeping = Housekeeping(
        records.audit,
        records.retention,
        records.subjects,
        RequestHousekeeping(database),
        HousekeepingMetrics(registry),
        lambda: pipeline.lease is not None,
        now_us,
    )

    ended = asyncio.Event()

    async def run() -> None:
        await pipeline.run()
        ended.set()
        await asyncio.Event().wait()  # the stop signal ends the process, not the end of this task

    async def drain() -> None:
        pipeline.stop()
        await ended.wait()

    try:
        async with operations_socket(settings, process, registry, state):
            await run_until_stopped(stop, [("pipeline", run()), ("housekeeping", housekeeping.run())], drain)
    finally:
        await closing.close()
    log.info("stopped")


def told(metrics: PipelineMetrics, adapters: Sequence[VenueAdapter]) -> dict[str, Any]:
    """How the pipeline does, with its venues' breakers."""
    body = metrics.state()
    breakers = {adapter.venue.value: adapter.breaker_state() for adapter in adapters}
    for venue, of_venue in body["venues"].items():
        of_venue["breaker"] = breakers[venue]
    return body


async def _last_simulated_us(signal_log: SignalLogStore) -> int | None:
    """Until when an earlier session of the simulated venue got; a new one's past begins after it."""
    statuses = await signal_log.feed_statuses()
    return next((s.last_receive_time_us for s in statuses if s.venue is Venue.SIMULATED), None)


def _free_disk(settings: Settings) -> Callable[[], int] | None:
    if not settings.embedded_database:
        return None  # the database is elsewhere, and so is its disk
    root = data_folder(settings).root
    return lambda: int(free_fraction(root) * 1_000_000)
