"""Each channel option has its effect: gRPC ignores a misspelt one without a word."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest

from oddstream_server.transport.health import HealthServicer
from oddstream_server.transport.server import GrpcServer, PortTaken, ServerOptions
from tests.grpc.running_server import World, running

ECHO = "/test.Echo/Echo"
HOLD = "/test.Echo/Hold"


class NoCallsInFlight:
    draining = False
    total = 0

    async def wait_until_idle(self, seconds: float) -> bool:
        return True


class Bare(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        return await continuation(details)


@dataclass
class Echo:
    """Answers with as many bytes as the request says, and holds streams open."""

    peers: list[str] = field(default_factory=list)
    ends: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def echo(self, request: bytes, context: Any) -> bytes:
        self.peers.append(context.peer())
        return b"x" * int(request[:20].strip() or b"0")

    async def hold(self, request: bytes, context: Any) -> None:
        await context.send_initial_metadata(())
        try:
            await asyncio.Event().wait()
        finally:
            self.ends.put_nowait(context.peer())

    def register(self, server: grpc.aio.Server) -> None:
        handlers = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Hold": grpc.unary_stream_rpc_method_handler(self.hold),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))


@contextlib.asynccontextmanager
async def serving(**changed: Any) -> AsyncIterator[tuple[Echo, int]]:
    echo = Echo()
    options = replace(ServerOptions(port=0), **changed)
    server = grpc.aio.server(options=options.channel_options())
    echo.register(server)
    port = server.add_insecure_port(f"127.0.0.1:{options.port}")
    await server.start()
    try:
        yield echo, port
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def connected(port: int, *options: tuple[str, Any]) -> AsyncIterator[grpc.aio.Channel]:
    own = ("grpc.use_local_subchannel_pool", 1)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=(own, *options)) as channel:
        yield channel


async def code_of(call: Any) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def padded(size: int, answer: int = 0) -> bytes:
    return str(answer).encode().ljust(20) + b" " * (size - 20)


def server_on(port: int, *, share: bool = False) -> GrpcServer:
    options = ServerOptions(port=port, share_port=share)
    return GrpcServer(options, Bare(), NoCallsInFlight(), HealthServicer(()), ())


async def test_a_request_may_be_one_mebibyte_and_no_byte_more() -> None:
    async with serving() as (_, port), connected(port) as channel:
        echo = channel.unary_unary(ECHO)
        assert await code_of(echo(padded(1024 * 1024))) is grpc.StatusCode.OK
        assert await code_of(echo(padded(1024 * 1024 + 1))) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_answer_may_be_four_mebibytes_and_no_byte_more() -> None:
    async with serving() as (_, port), connected(port, ("grpc.max_receive_message_length", -1)) as channel:
        echo = channel.unary_unary(ECHO)
        assert await code_of(echo(padded(20, 4 * 1024 * 1024))) is grpc.StatusCode.OK
        assert await code_of(echo(padded(20, 4 * 1024 * 1024 + 1))) is not grpc.StatusCode.OK


async def test_metadata_may_have_sixteen_kibibytes_and_the_bound_is_sharp() -> None:
    async with serving() as (_, port), connected(port) as channel:
        echo = channel.unary_unary(ECHO)

        async def codes(size: int) -> set[grpc.StatusCode]:
            return {await code_of(echo(b"", metadata=(("a", "x" * size),))) for _ in range(30)}

        assert await codes(15_800) == {grpc.StatusCode.OK}
        assert await codes(16_500) == {grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_a_second_server_on_the_port_is_refused() -> None:
    first = server_on(0)
    port = await first.start()
    try:
        with pytest.raises(PortTaken, match=str(port)):
            await server_on(port).start()
    finally:
        await first.drain(0, 0)


async def test_workers_may_share_the_port() -> None:
    first = server_on(0, share=True)
    port = await first.start()
    second = server_on(port, share=True)
    try:
        assert await second.start() == port
    finally:
        await first.drain(0, 0)
        await second.drain(0, 0)


async def test_a_connection_carries_as_many_streams_as_allowed_and_the_next_one_waits() -> None:
    async with serving(maximum_streams=3) as (_, port), connected(port) as channel:
        hold = channel.unary_stream(HOLD)
        streams = [hold(b"") for _ in range(3)]
        await asyncio.gather(*(s.initial_metadata() for s in streams))
        waiting = hold(b"")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await asyncio.shield(asyncio.ensure_future(waiting.initial_metadata()))
        streams[0].cancel()
        async with asyncio.timeout(5):
            await waiting.initial_metadata()


async def test_a_connection_ends_at_its_age_and_calls_move_to_a_new_one() -> None:
    async with serving(maximum_connection_age_seconds=0.3) as (echo, port), connected(port) as channel:
        call = channel.unary_unary(ECHO)
        async with asyncio.timeout(10):
            while len(set(echo.peers)) < 3:
                assert await code_of(call(b"", wait_for_ready=True)) is grpc.StatusCode.OK
                await asyncio.sleep(0.02)


async def test_a_stream_has_the_grace_after_the_connections_age() -> None:
    async with (
        serving(maximum_connection_age_seconds=0.2, connection_grace_seconds=0.8) as (echo, port),
        connected(port) as channel,
    ):
        stream = channel.unary_stream(HOLD)(b"")
        await stream.initial_metadata()
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(5):
            await echo.ends.get()
        assert 0.7 < loop.time() - began < 3


async def test_clients_may_ping_each_second_without_data_and_without_calls() -> None:
    pings = (
        ("grpc.keepalive_time_ms", 1000),
        ("grpc.keepalive_timeout_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    )
    async with serving() as (echo, port), connected(port, *pings) as busy, connected(port, *pings) as idle:
        stream = busy.unary_stream(HOLD)(b"")
        await stream.initial_metadata()
        await idle.unary_unary(ECHO)(b"")
        # By gRPC's defaults both connections end with GOAWAY too_many_pings after about 3 s.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.5):
                await asyncio.shield(asyncio.ensure_future(stream.read()))
        await idle.unary_unary(ECHO)(b"")
        before, after = echo.peers
        assert before == after, "the idle connection was ended"
        stream.cancel()


async def test_a_client_that_vanished_without_a_word_is_noticed_by_the_servers_own_pings() -> None:
    async with (
        serving(keepalive_seconds=1, ping_timeout_seconds=0.5) as (echo, port),
        _black_hole(port) as (hole_port, swallow),
        connected(hole_port) as channel,
    ):
        stream = channel.unary_stream(HOLD)(b"")
        await stream.initial_metadata()
        swallow.set()
        # Without the timeout of pings gRPC notices after a minute.
        async with asyncio.timeout(6):
            await echo.ends.get()
        stream.cancel()


async def test_a_storm_of_streams_is_taken_up_whole() -> None:
    count = 600
    async with serving(maximum_streams=1000) as (_, port), connected(port) as channel:
        hold = channel.unary_stream(HOLD)
        streams = [hold(b"") for _ in range(count)]
        async with asyncio.timeout(30):
            await asyncio.gather(*(s.initial_metadata() for s in streams))
        for stream in streams:
            stream.cancel()


@pytest.mark.parametrize(("hard", "all_taken_up"), [(2, False), (10**9, True)])
async def test_both_limits_of_pending_calls_have_their_effect(hard: int, all_taken_up: bool) -> None:
    few = serving(maximum_streams=1000, maximum_pending_calls=1, hard_maximum_pending_calls=hard)
    async with few as (_, port), connected(port) as channel:
        hold = channel.unary_stream(HOLD)
        streams = [hold(b"") for _ in range(600)]

        async def taken_up(stream: Any) -> bool:
            try:
                async with asyncio.timeout(20):
                    await stream.initial_metadata()
                return not stream.done()
            except grpc.aio.AioRpcError:
                return False

        results = await asyncio.gather(*(taken_up(s) for s in streams))
        for stream in streams:
            stream.cancel()
    assert all(results) == all_taken_up


async def test_the_server_itself_is_built_with_these_options() -> None:
    world = World(options=ServerOptions(port=0, maximum_receive_bytes=2000))
    async with running(world) as server:
        call = server.unary("/oddstream.v1.MarketService/ListMarkets")(b"\x00" * 2001, metadata=server.auth)
        assert await code_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED


@contextlib.asynccontextmanager
async def _black_hole(port: int) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A proxy that passes bytes on until it is told to swallow them, and keeps its connections open."""
    swallow = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if not swallow.is_set():
                    writer.write(data)
                    await writer.drain()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, other_writer))
        for source, target in ((reader, other_writer), (other_reader, writer)):
            task = asyncio.create_task(pump(source, target))
            tasks.add(task)

    proxy = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield proxy.sockets[0].getsockname()[1], swallow
    finally:
        proxy.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def test_who_connects_and_says_nothing_is_sent_away() -> None:
    async with serving(handshake_seconds=0.3) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(10):
            while await reader.read(1024):  # the server's own greeting
                pass
        writer.close()
