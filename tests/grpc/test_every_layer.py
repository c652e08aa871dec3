"""Each layer of the chain against each kind of rpc: unary, server stream, health's Watch, a method that isn't there."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from oddstream.v1 import market_service_pb2
from oddstream_server.application.calls.request import remaining_seconds
from oddstream_server.domain.errors import NotFound
from oddstream_server.domain.principal import Role
from oddstream_server.interceptors.assembly import ChainSettings, build_chain
from oddstream_server.interceptors.chain import ORDER, Chain, ChainOrderError
from oddstream_server.interceptors.errors import ErrorsInterceptor
from oddstream_server.interceptors.limits.in_flight import InFlight
from tests.grpc.running_server import Failure, Running, World, bearer, failure_of, read_failure, running

UNARY = "/oddstream.v1.MarketService/ListMarkets"
STREAM = "/oddstream.v1.SignalService/WatchSignals"
HEALTH = "/grpc.health.v1.Health/Watch"
UNKNOWN = "/oddstream.v1.MarketService/GuessTheFuture"
KINDS = (UNARY, STREAM, HEALTH, UNKNOWN)
KEYED = (UNARY, STREAM, UNKNOWN)

MALFORMED = b"\xff\xff\xff"


async def one_message(request: Any, context: Any) -> None:
    await context.write(b"")


async def slow(request: Any, context: Any) -> None:
    await asyncio.sleep(0.3)
    await context.write(b"")


def call(server: Running, method: str, body: bytes = b"", *, key: bool = True, **more: Any) -> Any:
    metadata = (*(server.auth if key else ()), *more.pop("metadata", ()))
    return server.channel.unary_stream(method)(body, metadata=metadata, **more)


async def begin(server: Running, method: str, **more: Any) -> Any:
    """A call whose first message has come."""
    begun = call(server, method, **more)
    await anext(aiter(begun))
    return begun


async def trailers_of(server: Running, method: str, **more: Any) -> dict[str, Any]:
    made = call(server, method, **more)
    if method == HEALTH:
        await anext(aiter(made))
        server.health.end_watchers()
    try:
        async for _ in made:
            pass
    except grpc.aio.AioRpcError:
        pass
    return dict(await made.trailing_metadata())


# --- the chain itself ---


async def test_the_chain_refuses_to_be_built_in_another_order() -> None:
    with pytest.raises(ChainOrderError, match="request_context, metrics, errors"):
        Chain((ErrorsInterceptor(),), {}, InFlight())


def test_the_order_of_the_layers_is_the_decided_one() -> None:
    decided = ("request_context", "metrics", "errors", "peer_limit", "authentication", "key_limit", "deadline")
    assert tuple(name for name in ORDER if name in decided) == decided
    assert ORDER[-2:] == ("validation", "venue_scope")
    assert build_chain  # the served chain is checked against ORDER whenever a server is built


# --- request context ---


@pytest.mark.parametrize("method", KINDS)
async def test_a_correlation_id_goes_out_as_it_came_in(method: str) -> None:
    async with running(World(watch_signals=one_message)) as server:
        trailers = await trailers_of(server, method, metadata=(("x-correlation-id", "order-17.a"),))
        assert trailers["x-correlation-id"] == "order-17.a"


@pytest.mark.parametrize("method", KINDS)
async def test_a_correlation_id_is_made_where_none_came_or_it_is_not_fit_to_log(method: str) -> None:
    async with running(World(watch_signals=one_message)) as server:
        for given in ((), (("x-correlation-id", "two words"),), (("x-correlation-id", "x" * 200),)):
            trailers = await trailers_of(server, method, metadata=given)
            assert len(trailers["x-correlation-id"]) == 32


async def test_a_trace_is_continued_with_a_span_of_our_own() -> None:
    async with running() as server:
        given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        trailers = await trailers_of(server, UNARY, metadata=(("traceparent", given),))
        version, trace, span, flags = trailers["traceparent"].split("-")
        assert (version, trace, flags) == ("00", "0af7651916cd43dd8448eb211c80319c", "01")
        assert span != "b7ad6b7169203331"


@pytest.mark.parametrize("given", ["nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff-" + "1" * 32 + "-1-01"])
async def test_a_broken_trace_is_replaced_by_a_new_one(given: str) -> None:
    async with running() as server:
        trailers = await trailers_of(server, UNARY, metadata=(("traceparent", given),))
        assert trailers["traceparent"].split("-")[1] not in given


# --- metrics ---


def labels_of(method: str) -> dict[str, str]:
    if method == UNKNOWN:
        return {"grpc_type": "bidi_stream", "grpc_service": "unknown", "grpc_method": "unknown"}
    _, service, name = method.split("/")
    kind = "unary" if method == UNARY else "server_stream"
    return {"grpc_type": kind, "grpc_service": service, "grpc_method": name}


@pytest.mark.parametrize(
    ("method", "code", "sent"),
    [(UNARY, "OK", 1), (STREAM, "OK", 1), (HEALTH, "Unavailable", 2), (UNKNOWN, "Unimplemented", 0)],
)
async def test_every_kind_is_counted_with_its_code_and_messages(method: str, code: str, sent: int) -> None:
    async with running(World(watch_signals=one_message)) as server:
        labels = labels_of(method)
        assert server.sample("grpc_server_handled_total", grpc_code=code, **labels) == 0
        await trailers_of(server, method)
        assert server.sample("grpc_server_started_total", **labels) == 1
        assert server.sample("grpc_server_handled_total", grpc_code=code, **labels) == 1
        assert server.sample("grpc_server_msg_sent_total", **labels) == sent - (method == HEALTH)
        assert server.sample("grpc_server_handling_seconds_count", **labels) == 1


async def test_a_refused_call_is_counted_too() -> None:
    async with running() as server:
        await failure_of(call(server, UNARY, key=False))
        assert server.sample("grpc_server_handled_total", grpc_code="Unauthenticated", **labels_of(UNARY)) == 1


async def test_names_that_callers_make_up_make_no_series() -> None:
    async with running() as server:
        before = sum(len(family.samples) for family in server.world.registry.collect())
        for number in range(20):
            await failure_of(call(server, f"/made.Up/Method{number}"))
        assert sum(len(family.samples) for family in server.world.registry.collect()) == before
        assert server.sample("grpc_server_started_total", **labels_of(UNKNOWN)) == 20


async def test_a_stream_that_its_client_leaves_counts_as_cancelled() -> None:
    async with running() as server:
        stream = call(server, STREAM)
        await stream.initial_metadata()
        stream.cancel()
        assert await server.in_flight.wait_until_idle(5)
        assert server.sample("grpc_server_handled_total", grpc_code="Canceled", **labels_of(STREAM)) == 1


# --- errors ---

SECRET = "password=hunter2 postgresql://oddstream:hunter2@db/oddstream"


def assert_masked(failure: Failure) -> None:
    assert failure.code is grpc.StatusCode.INTERNAL
    assert failure.reason == "INTERNAL"
    assert failure.text == f"internal error (ref {failure.correlation_id})"
    assert failure.trailers["x-correlation-id"] == failure.correlation_id
    assert b"hunter2" not in failure.everything
    assert b"RuntimeError" not in failure.everything


async def failing(request: Any, context: Any) -> None:
    await context.write(b"")
    raise RuntimeError(SECRET)


async def test_an_exceptions_text_never_leaves_a_unary_call() -> None:
    world = World()
    world.catalog.failure = RuntimeError(SECRET)
    async with running(world) as server:
        assert_masked(await failure_of(call(server, UNARY)))


async def test_an_exceptions_text_never_leaves_a_stream() -> None:
    async with running(World(watch_signals=failing)) as server:
        assert_masked(await failure_of(call(server, STREAM)))


async def test_an_exceptions_text_never_leaves_a_layer() -> None:
    class Broken(World().limiter.__class__):  # type: ignore[misc]  # the limiter's class, whatever it is
        async def take(self, *_: Any) -> Any:
            raise RuntimeError(SECRET)

    async with running(World(limiter=Broken())) as server:
        assert_masked(await failure_of(call(server, UNARY)))
        assert_masked(await failure_of(call(server, HEALTH)))


async def test_an_exception_of_a_generator_never_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(ReflectionServicer, "_list_services", fail)
    async with running() as server:
        reflection = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        assert_masked(await failure_of(reflection.ServerReflectionInfo(asked, metadata=server.auth)))


async def test_a_malformed_message_in_a_client_stream_is_an_invalid_argument() -> None:
    async with running() as server:
        ask = server.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        failure = await failure_of(ask(iter([MALFORMED]), metadata=server.auth))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")


async def test_a_registered_method_that_nothing_declares_is_refused_to_everybody() -> None:
    async def serve(request: bytes, context: Any) -> bytes:
        return b"served"

    def register(server: grpc.aio.Server) -> None:
        handlers = {"Serve": grpc.unary_unary_rpc_method_handler(serve)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("undeclared.Service", handlers),))

    world = World(register=(register,))
    async with running(world) as server:
        metadata = bearer(world.issue(Role.ADMIN).key.text)
        failure = await failure_of(server.unary("/undeclared.Service/Serve")(b"", metadata=metadata))
        assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")


async def test_a_cancelled_error_of_the_handlers_own_answers_internal_instead_of_hanging() -> None:
    world = World()
    world.catalog.failure = asyncio.CancelledError(SECRET)
    async with running(world) as server:
        async with asyncio.timeout(20):
            assert_masked(await failure_of(call(server, UNARY)))


async def test_a_cancelled_error_of_a_streams_own_answers_internal_instead_of_hanging() -> None:
    async def leaking(request: Any, context: Any) -> None:
        raise asyncio.CancelledError(SECRET)

    async with running(World(watch_signals=leaking)) as server:
        async with asyncio.timeout(20):
            assert_masked(await failure_of(call(server, STREAM)))


async def test_an_error_inside_of_a_task_group_is_told_as_what_it_is() -> None:
    async def grouped(request: Any, context: Any) -> None:
        async def fail() -> None:
            raise NotFound("Market", "kalshi:X")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())

    async with running(World(watch_signals=grouped)) as server:
        failure = await failure_of(call(server, STREAM))
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "MARKET_NOT_FOUND")


async def test_an_unknown_method_is_unimplemented_with_a_reason() -> None:
    async with running() as server:
        failure = await failure_of(call(server, UNKNOWN))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNIMPLEMENTED")


async def test_health_of_an_unknown_service_is_not_found_with_a_reason() -> None:
    async with running() as server:
        body = health_pb2.HealthCheckRequest(service="oddstream.v1.Nothing").SerializeToString()
        failure = await failure_of(call(server, "/grpc.health.v1.Health/Check", body, key=False))
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND")


# --- admission ---


@pytest.mark.parametrize("method", [STREAM, UNKNOWN])
async def test_a_draining_server_refuses_new_streams_and_says_when_to_come_again(method: str) -> None:
    async with running() as server:
        server.in_flight.draining = True
        failure = await failure_of(call(server, method))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert int(failure.trailers["grpc-retry-pushback-ms"]) > 0


@pytest.mark.parametrize("method", [UNARY, HEALTH])
async def test_a_draining_server_still_answers_unary_calls_and_health(method: str) -> None:
    async with running() as server:
        server.in_flight.draining = True
        await begin(server, method)


async def test_calls_beyond_what_the_server_serves_well_are_shed_while_streams_and_health_go_on() -> None:
    world = World(settings=ChainSettings(maximum_unary_calls=0), watch_signals=one_message)
    async with running(world) as server:
        failure = await failure_of(call(server, UNARY))
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED")
        assert int(failure.trailers["grpc-retry-pushback-ms"]) > 0
        await begin(server, STREAM)
        await begin(server, HEALTH)


# --- peer limit ---


@pytest.mark.parametrize("method", KEYED)
async def test_an_address_without_a_good_key_is_cut_off_after_its_quota(method: str) -> None:
    world = World(settings=ChainSettings(unauthenticated_calls_per_minute=3))
    async with running(world) as server:
        reasons = [(await failure_of(call(server, method, key=False))).reason for _ in range(5)]
        assert reasons == ["API_KEY_MISSING"] * 3 + ["RATE_LIMITED"] * 2


async def test_health_is_answered_to_an_address_that_used_up_its_quota() -> None:
    world = World(settings=ChainSettings(unauthenticated_calls_per_minute=1))
    async with running(world) as server:
        for _ in range(3):
            await failure_of(call(server, UNARY, key=False))
        await begin(server, HEALTH, key=False)


async def test_a_known_key_goes_on_from_an_address_that_used_up_its_quota() -> None:
    world = World(settings=ChainSettings(unauthenticated_calls_per_minute=1))
    async with running(world) as server:
        await begin(server, UNARY)
        for _ in range(3):
            await failure_of(call(server, UNARY, key=False))
        await begin(server, UNARY)
        server.authenticator.forget()  # as each five seconds
        await begin(server, UNARY)


async def test_a_key_that_was_revoked_meanwhile_goes_on_no_more_from_an_address_that_used_up_its_quota() -> None:
    world = World(settings=ChainSettings(unauthenticated_calls_per_minute=1))
    async with running(world) as server:
        await begin(server, UNARY)
        for _ in range(3):
            await failure_of(call(server, UNARY, key=False))
        world.keys.keys.clear()
        server.authenticator.forget()
        # Checked once, found bad, and a stranger from then on.
        codes = [(await failure_of(call(server, UNARY))).code for _ in range(2)]
        assert codes[1] is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_call_above_the_limit_is_shed_before_anything_is_spent_on_it_and_served_once_there_is_room() -> None:
    release, entered = asyncio.Event(), asyncio.Semaphore(0)
    world = World(settings=ChainSettings(maximum_unary_calls=3))
    listed = world.catalog.list_markets

    async def slowly(*arguments: Any) -> Any:
        entered.release()
        await release.wait()
        return await listed(*arguments)

    world.catalog.list_markets = slowly  # type: ignore[method-assign]  # a database that is slow
    async with running(world) as server:
        inside = [asyncio.ensure_future(begin(server, UNARY)) for _ in range(3)]
        for _ in inside:
            await entered.acquire()
        for key in (True, False):  # whoever calls: not even the key is looked at
            failure = await failure_of(call(server, UNARY, key=key))
            assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_OVERLOADED")
            assert int(failure.trailers["grpc-retry-pushback-ms"]) > 0
        release.set()
        await asyncio.gather(*inside)
        await begin(server, UNARY)


async def test_good_calls_cost_an_address_nothing() -> None:
    world = World(settings=ChainSettings(unauthenticated_calls_per_minute=2))
    async with running(world) as server:
        for _ in range(5):
            server.authenticator.forget()
            await begin(server, UNARY)
        assert (await failure_of(call(server, UNARY, key=False))).reason == "API_KEY_MISSING"


async def test_behind_a_trusted_proxy_the_forwarded_address_is_limited() -> None:
    settings = ChainSettings(unauthenticated_calls_per_minute=1, trusted_proxies=("127.0.0.0/8",))
    async with running(World(settings=settings)) as server:

        async def reason(forwarded: str) -> str:
            metadata = (("x-forwarded-for", forwarded),)
            return (await failure_of(call(server, UNARY, key=False, metadata=metadata))).reason

        assert await reason("203.0.113.1") == "API_KEY_MISSING"
        assert await reason("203.0.113.1") == "RATE_LIMITED"
        assert await reason("203.0.113.2") == "API_KEY_MISSING"
        assert await reason("203.0.113.9, 203.0.113.2") == "RATE_LIMITED"


async def test_without_a_trusted_proxy_nobody_names_another_address() -> None:
    async with running(World(settings=ChainSettings(unauthenticated_calls_per_minute=1))) as server:
        for number, expected in enumerate(["API_KEY_MISSING", "RATE_LIMITED", "RATE_LIMITED"]):
            metadata = (("x-forwarded-for", f"203.0.113.{number}"),)
            assert (await failure_of(call(server, UNARY, key=False, metadata=metadata))).reason == expected


# --- authentication: who is let in has a file of its own ---


@pytest.mark.parametrize("method", KEYED)
async def test_every_kind_but_health_needs_a_key(method: str) -> None:
    async with running() as server:
        assert (await failure_of(call(server, method, key=False))).code is grpc.StatusCode.UNAUTHENTICATED


async def test_health_watch_needs_no_key() -> None:
    async with running() as server:
        await begin(server, HEALTH, key=False)


async def test_without_the_key_store_a_checked_key_still_passes_and_another_is_unavailable() -> None:
    world = World()
    async with running(world) as server:
        other = world.issue()
        await begin(server, UNARY)
        world.keys.away = True
        await begin(server, UNARY)
        metadata = (("authorization", f"Bearer {other.key.text}"),)
        failure = await failure_of(call(server, UNARY, key=False, metadata=metadata))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
        assert int(failure.trailers["grpc-retry-pushback-ms"]) > 0


# --- key limit ---


@pytest.mark.parametrize("method", KEYED)
async def test_a_key_that_used_up_its_units_is_told_when_to_come_again(method: str) -> None:
    async with running(World(settings=ChainSettings(units_per_minute=1), watch_signals=one_message)) as server:
        limited = None
        for _ in range(12):
            try:
                async for _ in call(server, method):
                    pass
            except grpc.aio.AioRpcError as error:
                limited = read_failure(error)
        assert limited is not None
        assert (limited.code, limited.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert limited.trailers["grpc-retry-pushback-ms"] == "700"
        subject = next(d for d in limited.details if hasattr(d, "violations")).violations[0].subject
        assert server.key.key.key_id in subject


async def test_health_is_limited_by_no_key() -> None:
    async with running(World(settings=ChainSettings(units_per_minute=1))) as server:
        for _ in range(15):
            await begin(server, HEALTH)


async def test_a_key_has_a_quota_of_open_streams_and_gets_its_place_back() -> None:
    async with running(World(settings=ChainSettings(streams_per_key=2))) as server:
        first, second = call(server, STREAM), call(server, STREAM)
        await asyncio.gather(first.initial_metadata(), second.initial_metadata())
        failure = await failure_of(call(server, STREAM))
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STREAM_QUOTA_EXCEEDED")
        first.cancel()
        while server.in_flight.streams > 1:
            await asyncio.sleep(0.01)
        await call(server, STREAM).initial_metadata()


# --- deadline ---


async def test_a_unary_call_is_ended_at_the_servers_maximum() -> None:
    async def forever(*_: Any) -> Any:
        await asyncio.Event().wait()

    world = World(settings=ChainSettings(default_deadline_seconds=0.1, maximum_deadline_seconds=0.1))
    world.catalog.list_markets = forever  # type: ignore[method-assign]  # a database that hangs
    async with running(world) as server:
        for timeout in (None, 30):
            failure = await failure_of(call(server, UNARY, timeout=timeout))
            assert (failure.code, failure.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


async def test_a_timeout_of_the_handlers_own_is_our_fault_and_not_the_callers_deadline() -> None:
    world = World()
    world.catalog.failure = TimeoutError(SECRET)
    async with running(world) as server:
        assert_masked(await failure_of(call(server, UNARY)))


async def test_the_rest_of_the_deadline_reaches_storage() -> None:
    seen: list[float | None] = []
    world = World()
    listed = world.catalog.list_markets

    async def note(*arguments: Any) -> Any:
        seen.append(remaining_seconds())
        return await listed(*arguments)

    world.catalog.list_markets = note  # type: ignore[method-assign]  # looks over storage's shoulder
    async with running(world) as server:
        await begin(server, UNARY, timeout=5)
        await begin(server, UNARY)
        await begin(server, UNARY, timeout=300)
        given, default, maximum = (s or 0 for s in seen)
        assert 4 < given <= 5
        assert 9 < default <= 10
        assert 29 < maximum <= 30
    assert remaining_seconds() is None


@pytest.mark.parametrize("method", [STREAM, HEALTH])
async def test_a_stream_outlasts_the_maximum_of_unary_calls(method: str) -> None:
    settings = ChainSettings(default_deadline_seconds=0.05, maximum_deadline_seconds=0.05)
    async with running(World(settings=settings, watch_signals=slow)) as server:
        watch = call(server, method)
        if method == HEALTH:
            await anext(aiter(watch))
            await asyncio.sleep(0.2)
            server.health.set_serving(False)
        await anext(aiter(watch))


# --- validation ---


@pytest.mark.parametrize("method", [UNARY, STREAM, HEALTH])
async def test_malformed_bytes_are_an_invalid_argument(method: str) -> None:
    async with running() as server:
        failure = await failure_of(call(server, method, MALFORMED))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")


async def test_bytes_for_an_unknown_method_are_not_looked_at() -> None:
    async with running() as server:
        failure = await failure_of(call(server, UNKNOWN, MALFORMED))
        assert failure.code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_broken_rule_names_the_field_and_the_way_out() -> None:
    async with running() as server:
        body = market_service_pb2.ListMarketsRequest(page_size=-1).SerializeToString()
        failure = await failure_of(call(server, UNARY, body))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert list(failure.fields) == ["page_size"]
