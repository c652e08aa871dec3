"""Who is let in, and what the others hear."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from oddstream.v1 import market_service_pb2, signal_service_pb2
from oddstream_server.application.calls.request import current_request
from oddstream_server.application.keys.authentication import OnEnd
from oddstream_server.application.keys.issuing import new_key
from oddstream_server.application.keys.key_format import KeyMode, checksum, generate
from oddstream_server.domain.errors import Unauthenticated
from oddstream_server.domain.principal import Principal, Role, Scopes
from oddstream_server.interceptors.assembly import ChainSettings
from tests.grpc.running_server import CONTRACT, PEPPERS, World, bearer, failure_of, now_us, read_failure, running

LIST = "/oddstream.v1.MarketService/ListMarkets"


def wrong_secret(text: str) -> str:
    body = text[:-7] + ("A" if text[-7] != "A" else "B")
    return body + checksum(body)


def bad_credentials(world: World) -> dict[str, tuple[tuple[str, str], ...]]:
    expired = new_key(PEPPERS, owner="t", role=Role.ADMIN, now_us=now_us(), expire_time_us=now_us() - 1)
    world.keys.keys[expired.key.key_id] = expired.stored
    revoked = world.issue(Role.ADMIN)
    world.keys.keys[revoked.key.key_id] = replace(revoked.stored, revoke_time_us=now_us())
    good = world.issue(Role.ADMIN).key.text
    return {
        "garbage": bearer("garbage"),
        "bad checksum": bearer(good[:-1] + ("0" if good[-1] != "0" else "1")),
        "unknown": bearer(generate(KeyMode.LIVE).text),
        "wrong secret": bearer(wrong_secret(good)),
        "expired": bearer(expired.key.text),
        "revoked": bearer(revoked.key.text),
    }


async def test_every_kind_of_bad_key_gets_the_same_answer() -> None:
    world = World()
    async with running(world) as server:
        answers = {}
        for kind, metadata in bad_credentials(world).items():
            failure = await failure_of(server.unary(LIST)(b"", metadata=metadata))
            answers[kind] = (failure.code, failure.reason, failure.text)
        assert set(answers.values()) == {
            (
                grpc.StatusCode.UNAUTHENTICATED,
                "API_KEY_INVALID",
                "the API key is not valid; ask an admin for a new one",
            )
        }, answers


@pytest.mark.parametrize("metadata", [(), (("authorization", "Basic abc"),), (("authorization", "Bearer "),)])
async def test_a_call_without_a_bearer_token_is_told_what_to_send(metadata: Any) -> None:
    async with running() as server:
        failure = await failure_of(server.unary(LIST)(b"", metadata=metadata))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "API_KEY_MISSING")
        assert "authorization: Bearer" in failure.text


async def test_garbage_never_reaches_the_key_store() -> None:
    world = World()
    async with running(world) as server:
        good = server.key.key.text
        for token in ("garbage", "ods_live_x", good[:-1] + ("0" if good[-1] != "0" else "1"), "x" * 4000):
            await failure_of(server.unary(LIST)(b"", metadata=bearer(token)))
        assert world.keys.reads == 0


async def test_no_rpc_is_open_without_a_key() -> None:
    async with running() as server:
        for method in CONTRACT.methods:
            failure = await failure_of(server.channel.unary_stream(method)(b""))
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "API_KEY_MISSING"), method


async def test_each_rpc_is_open_from_its_declared_role_upwards_and_to_nobody_below() -> None:
    world = World(settings=ChainSettings(units_per_minute=60_000))
    async with running(world) as server:
        keys = {role: world.issue(role).key.text for role in Role}
        for method in CONTRACT.methods.values():
            for role, token in keys.items():
                call = server.channel.unary_stream(method.full_name)(b"\xff", metadata=bearer(token))
                failure = await failure_of(call)
                if role >= method.role:
                    # The body is malformed, so an allowed call gets as far as the validation and no further.
                    assert failure.reason == "MALFORMED_REQUEST", (method, role, failure)
                else:
                    assert failure.code is grpc.StatusCode.PERMISSION_DENIED, (method, role, failure)
                    assert failure.reason == "PERMISSION_DENIED"
                    assert failure.metadata == {
                        "permission": method.permission,
                        "required_role": method.role.name.lower(),
                        "role": role.name.lower(),
                    }


async def test_a_keys_scopes_narrow_services_and_networks() -> None:
    world = World()
    async with running(world) as server:
        only_signals = world.issue(scopes=Scopes(services=("SignalService",))).key.text
        elsewhere = world.issue(scopes=Scopes(networks=("203.0.113.0/24",))).key.text
        loopback = world.issue(scopes=Scopes(networks=("127.0.0.0/8",))).key.text
        denied = await failure_of(server.unary(LIST)(b"", metadata=bearer(only_signals)))
        assert (denied.code, denied.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_DENIED")
        assert denied.metadata == {"service": "MarketService"}
        await server.signals.ListSignals(signal_service_pb2.ListSignalsRequest(), metadata=bearer(only_signals))
        denied = await failure_of(server.unary(LIST)(b"", metadata=bearer(elsewhere)))
        assert (denied.code, denied.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NETWORK_DENIED")
        await server.markets.ListMarkets(market_service_pb2.ListMarketsRequest(), metadata=bearer(loopback))


async def test_health_needs_no_key_and_reflection_does() -> None:
    async with running() as server:
        health = health_pb2_grpc.HealthStub(server.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service="oddstream.v1.SignalService"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        ask = [reflection_pb2.ServerReflectionRequest(list_services="")]
        # Nothing is sent: a message that meets the refusal on its way is an INTERNAL to grpc.aio's client (grpc#36066).
        failure = await failure_of(reflection.ServerReflectionInfo(iter(())))
        assert failure.reason == "API_KEY_MISSING"
        answers = [a async for a in reflection.ServerReflectionInfo(iter(ask), metadata=server.auth)]
        names = {s.name for s in answers[0].list_services_response.service}
        assert "oddstream.v1.MarketService" in names


async def test_a_checked_key_is_read_once_in_five_seconds_however_often_it_calls() -> None:
    world = World()
    async with running(world) as server:
        request = market_service_pb2.ListMarketsRequest()
        await asyncio.gather(*(server.markets.ListMarkets(request, metadata=server.auth) for _ in range(20)))
        await server.markets.ListMarkets(request, metadata=server.auth)
        assert world.keys.reads == 1


async def test_an_announced_revocation_holds_from_the_next_call_on() -> None:
    world = World()
    async with running(world) as server:
        request = market_service_pb2.ListMarketsRequest()
        await server.markets.ListMarkets(request, metadata=server.auth)
        await world.keys.revoke(server.key.key.key_id, now_us())
        server.authenticator.forget()
        failure = await failure_of(server.markets.ListMarkets(request, metadata=server.auth))
        assert failure.reason == "API_KEY_INVALID"


async def test_a_revoked_key_ends_its_open_streams_within_five_seconds_without_being_announced() -> None:
    world = World()
    async with running(world) as server:
        quiet = server.signals.WatchSignals(signal_service_pb2.WatchSignalsRequest(), metadata=server.auth)
        await quiet.initial_metadata()
        await world.keys.revoke(server.key.key.key_id, now_us())
        began = time.monotonic()
        failure = await failure_of(quiet)
        assert time.monotonic() - began < 5
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REVOKED")


async def test_a_revoked_key_ends_a_busy_stream_too() -> None:
    async def busy(request: Any, context: Any) -> None:
        while True:
            await context.write(b"")
            await asyncio.sleep(0.001)

    world = World(watch_signals=busy)
    async with running(world) as server:
        stream = server.signals.WatchSignals(signal_service_pb2.WatchSignalsRequest(), metadata=server.auth)
        await anext(aiter(stream))
        await world.keys.revoke(server.key.key.key_id, now_us())
        server.authenticator.forget()
        began = time.monotonic()
        failure = await failure_of(stream)
        assert time.monotonic() - began < 5
        assert failure.reason == "CREDENTIAL_REVOKED"


async def test_a_revoked_key_ends_a_stream_whose_client_does_not_read() -> None:
    left = asyncio.Event()

    async def flood(request: Any, context: Any) -> None:
        try:
            while True:
                await context.write(b"\x0a" + b"\x80\x80\x04" + bytes(65536))
        finally:
            left.set()

    world = World(watch_signals=flood)
    async with running(world) as server:
        stream = server.channel.unary_stream("/oddstream.v1.SignalService/WatchSignals")(b"", metadata=server.auth)
        messages = aiter(stream)
        await anext(messages)
        await asyncio.sleep(0.5)  # until the transport's buffers are full and the handler hangs in a write
        assert not left.is_set()
        await world.keys.revoke(server.key.key.key_id, now_us())
        server.authenticator.forget()
        async with asyncio.timeout(5):
            await left.wait()
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async for _ in messages:
                pass
        assert read_failure(ended.value).reason == "CREDENTIAL_REVOKED"


async def test_other_keys_streams_go_on_when_one_key_is_revoked() -> None:
    world = World()
    async with running(world) as server:
        other = world.issue()
        mine = server.signals.WatchSignals(signal_service_pb2.WatchSignalsRequest(), metadata=server.auth)
        theirs = server.signals.WatchSignals(signal_service_pb2.WatchSignalsRequest(), metadata=bearer(other.key.text))
        await asyncio.gather(mine.initial_metadata(), theirs.initial_metadata())
        await world.keys.revoke(server.key.key.key_id, now_us())
        server.authenticator.forget()
        assert (await failure_of(mine)).reason == "CREDENTIAL_REVOKED"
        assert not theirs.done()
        theirs.cancel()


async def test_the_principal_is_in_the_context_of_the_call() -> None:
    seen: list[Any] = []

    async def note(request: Any, context: Any) -> None:
        seen.append(current_request.get())

    async with running(World(watch_quotes=note)) as server:
        call = server.markets.WatchQuotes(market_service_pb2.WatchQuotesRequest(), metadata=server.auth)
        assert [m async for m in call] == []
        assert seen[0].principal.key_id == server.key.key.key_id
        assert seen[0].peer_address == "127.0.0.1"
        assert seen[0].deadline_seconds is None


async def test_a_stream_ends_when_its_secret_was_replaced_or_what_its_key_may_do_was_changed() -> None:
    world = World()
    async with running(world) as server:
        for change, expected in (
            ({"secret_hmac": b"n" * 32}, (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REVOKED")),
            ({"role": Role.ANALYST}, (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")),
        ):
            key = world.issue()
            stream = server.signals.WatchSignals(
                signal_service_pb2.WatchSignalsRequest(), metadata=bearer(key.key.text)
            )
            await stream.initial_metadata()
            principal = replace(key.stored.principal, role=change.get("role", key.stored.principal.role))
            proof = change.get("secret_hmac", key.stored.secret_hmac)
            world.keys.keys[key.key.key_id] = replace(key.stored, principal=principal, secret_hmac=proof)
            server.authenticator.forget()
            failure = await failure_of(stream)
            assert (failure.code, failure.reason) == expected


async def test_a_stream_that_loses_its_key_at_any_moment_of_its_beginning_ends_with_a_status() -> None:
    """Also where its first message is on its way: gRPC sends no status over initial metadata that are."""
    world = World()
    async with running(world) as server:
        watching = server.authenticator.watching
        loop = asyncio.get_running_loop()
        turns = 0

        def after(left: int, end: Callable[[], None]) -> None:
            if left:
                loop.call_soon(after, left - 1, end)
            else:
                end()

        def watching_and_ending(principal: Principal, on_end: OnEnd) -> AbstractContextManager[None]:
            after(turns, lambda: on_end(Unauthenticated("over", reason="CREDENTIAL_REVOKED")))
            return watching(principal, on_end)

        server.authenticator.watching = watching_and_ending  # type: ignore[method-assign]  # the key's end, on a turn of ours
        metadata = bearer(world.issue().key.text)
        for turns in range(1, 60):
            stream = server.signals.WatchSignals(signal_service_pb2.WatchSignalsRequest(), metadata=metadata)
            async with asyncio.timeout(10):
                failure = await failure_of(stream)
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REVOKED"), turns
