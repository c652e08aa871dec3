"""Going down: who hears what, in which order."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from oddstream.v1 import market_service_pb2, signal_service_pb2
from oddstream_server.application.ports import EventFilter, Key
from oddstream_server.domain.errors import Unavailable
from oddstream_server.transport.health import HealthServicer
from tests.grpc.memory_ports import MemoryCatalog
from tests.grpc.running_server import World, failure_of, running

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class SlowCatalog(MemoryCatalog):
    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.cleaned = asyncio.Event()

    async def list_events(self, where: EventFilter, after: Key | None, limit: int) -> Any:
        self.asked.set()
        try:
            await self.answer.wait()
        finally:
            self.cleaned.set()
        return await super().list_events(where, after, limit)


class Streams:
    """What the feed does: streams that end with a status of their own when they are told."""

    def __init__(self) -> None:
        self.told = asyncio.Event()

    async def watch(self, request: Any, context: Any) -> None:
        await context.send_initial_metadata(())
        await self.told.wait()
        await context.write(signal_service_pb2.WatchSignalsResponse(head_sequence=1))
        raise Unavailable("going down", reason="DRAINING", retry_after_us=1000)

    async def close(self) -> None:
        self.told.set()


async def test_health_says_so_first_while_calls_are_still_served() -> None:
    async with running() as server:
        health = health_pb2_grpc.HealthStub(server.channel)
        watch = aiter(health.Watch(health_pb2.HealthCheckRequest()))
        assert (await anext(watch)).status == SERVING
        drain = asyncio.create_task(server.server.drain(1, 1))
        assert (await anext(watch)).status == NOT_SERVING
        request = market_service_pb2.ListMarketsRequest()
        await server.markets.ListMarkets(request, metadata=server.auth)
        stream = server.signals.WatchSignals(signal_service_pb2.WatchSignalsRequest(), metadata=server.auth)
        await stream.initial_metadata()
        stream.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await anext(watch)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        await drain


async def test_open_streams_hear_their_closing_and_get_their_own_status() -> None:
    streams = Streams()
    async with running(World(watch_signals=streams.watch, close_streams=streams.close)) as server:
        call = server.signals.WatchSignals(signal_service_pb2.WatchSignalsRequest(), metadata=server.auth)
        await call.initial_metadata()
        drain = asyncio.create_task(server.server.drain(0, 5))
        messages = aiter(call)
        assert (await anext(messages)).head_sequence == 1
        failure = await failure_of(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        await drain
        assert server.in_flight.total == 0


async def test_a_call_inside_finishes_before_the_drain_ends() -> None:
    catalog = SlowCatalog()
    async with running(World(catalog=catalog)) as server:
        call = server.markets.ListEvents(market_service_pb2.ListEventsRequest(), metadata=server.auth)
        pending = asyncio.ensure_future(call)
        await catalog.asked.wait()
        drain = asyncio.create_task(server.server.drain(0, 10))
        while not server.in_flight.draining:
            await asyncio.sleep(0)
        catalog.answer.set()
        assert list((await pending).events) == []
        await drain


async def test_a_call_that_outlasts_the_grace_is_cleaned_up_before_the_drain_ends() -> None:
    catalog = SlowCatalog()
    async with running(World(catalog=catalog)) as server:
        call = server.markets.ListEvents(market_service_pb2.ListEventsRequest(), metadata=server.auth)
        pending = asyncio.ensure_future(failure_of(call))
        await catalog.asked.wait()
        await server.server.drain(0, 0.1)
        assert catalog.cleaned.is_set()
        assert server.in_flight.total == 0
        await pending


async def test_an_open_health_watch_does_not_hold_the_drain_up() -> None:
    async with running() as server:
        health = health_pb2_grpc.HealthStub(server.channel)
        watches = [aiter(health.Watch(health_pb2.HealthCheckRequest())) for _ in range(5)]
        for watch in watches:
            await anext(watch)
        async with asyncio.timeout(5):
            await server.server.drain(0, 60)


async def test_a_server_that_drained_stays_not_serving() -> None:
    async with running() as server:
        server.health.leave()
        server.health.set_serving(True)
        health = health_pb2_grpc.HealthStub(server.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING


async def test_a_fresh_server_is_not_serving_until_it_is_told() -> None:
    servicer = HealthServicer(["oddstream.v1.MarketService"])
    for service in ("", "oddstream.v1.MarketService"):
        answer = await servicer.Check(health_pb2.HealthCheckRequest(service=service), None)  # type: ignore[arg-type]  # unused
        assert answer.status == NOT_SERVING


async def test_one_service_may_be_away_while_the_others_serve() -> None:
    async with running() as server:
        health = health_pb2_grpc.HealthStub(server.channel)
        watch = aiter(health.Watch(health_pb2.HealthCheckRequest(service="oddstream.v1.SignalService")))
        assert (await anext(watch)).status == SERVING
        server.health.set_serving(False, "oddstream.v1.SignalService")
        assert (await anext(watch)).status == NOT_SERVING
        assert (
            await health.Check(health_pb2.HealthCheckRequest(service="oddstream.v1.MarketService"))
        ).status == SERVING
        unknown = aiter(health.Watch(health_pb2.HealthCheckRequest(service="no.such")))
        assert (await anext(unknown)).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
