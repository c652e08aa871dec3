"""The gRPC server: its channel options, its port, and how it goes down."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import grpc
import structlog

from oddstream_server.transport.health import HealthServicer

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What of the transport can be set. gRPC ignores a misspelt channel option silently, so all of them are made in
    :meth:`channel_options` and each has a test of its effect."""

    host: str = "127.0.0.1"
    port: int = 50051
    share_port: bool = False
    """Several processes on one port; without it a second server on the port is refused."""
    maximum_receive_bytes: int = 1024 * 1024
    maximum_send_bytes: int = 4 * 1024 * 1024
    maximum_metadata_bytes: int = 16 * 1024
    maximum_streams: int = 10_000
    """A connection, unary calls included: an edge carries many clients over few connections. What one key may hold
    open is the key limit's business, and what the process serves the admission's."""
    maximum_pending_calls: int = 10_000
    """Calls that arrived and wait to be taken up, a reconnect storm's worth; beyond it gRPC refuses some at random."""
    hard_maximum_pending_calls: int = 20_000
    """Beyond it gRPC refuses all."""
    keepalive_seconds: float = 1.5
    """With the timeout well below five seconds: a client that vanished without a word holds its streams no longer, on
    a busy machine neither."""
    ping_timeout_seconds: float = 2.0
    minimum_client_ping_seconds: float = 1.0
    maximum_connection_age_seconds: float = 1800.0
    connection_grace_seconds: float = 60.0
    handshake_seconds: float = 10.0
    """For TLS and the first HTTP/2 frames; who connects and says nothing is gone after it, and not after gRPC's 120."""

    def channel_options(self) -> tuple[tuple[str, int], ...]:
        return (
            ("grpc.so_reuseport", int(self.share_port)),
            ("grpc.max_receive_message_length", self.maximum_receive_bytes),
            ("grpc.max_send_message_length", self.maximum_send_bytes),
            # Both at one value: between them gRPC would refuse at random.
            ("grpc.max_metadata_size", self.maximum_metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.maximum_metadata_bytes),
            ("grpc.max_concurrent_streams", self.maximum_streams),
            ("grpc.server.max_pending_requests", self.maximum_pending_calls),
            ("grpc.server.max_pending_requests_hard_limit", self.hard_maximum_pending_calls),
            ("grpc.keepalive_time_ms", _ms(self.keepalive_seconds)),
            # Not grpc.keepalive_timeout_ms: it lets a black hole go unnoticed for a minute.
            ("grpc.http2.ping_timeout_ms", _ms(self.ping_timeout_seconds)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _ms(self.minimum_client_ping_seconds)),
            ("grpc.max_connection_age_ms", _ms(self.maximum_connection_age_seconds)),
            ("grpc.max_connection_age_grace_ms", _ms(self.connection_grace_seconds)),
            ("grpc.server_handshake_timeout_ms", _ms(self.handshake_seconds)),
        )

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host and not self.host.startswith("[") else self.host
        return f"{host}:{self.port}"


class CallsInFlight(Protocol):
    """What the drain needs to know of the calls inside; the interceptors count them."""

    draining: bool

    @property
    def total(self) -> int: ...

    async def wait_until_idle(self, seconds: float) -> bool: ...


class PortTaken(Exception):
    """The port is in use or not ours to use."""


async def _nothing_to_close() -> None:
    return None


@dataclass(slots=True)
class GrpcServer:
    """One server with its services.

    :param register: functions that add a servicer to the server.
    :param interceptor: the chain.
    :param credentials: TLS; None is plaintext, which the settings allow on loopback alone.
    :param close_streams: tells open streams that they are about to end, and returns when they were told.
    """

    options: ServerOptions
    interceptor: grpc.aio.ServerInterceptor
    in_flight: CallsInFlight
    health: HealthServicer
    register: Sequence[Callable[[grpc.aio.Server], None]]
    credentials: grpc.ServerCredentials | None = None
    close_streams: Callable[[], Awaitable[None]] = _nothing_to_close
    _server: grpc.aio.Server | None = field(default=None, init=False)

    async def start(self) -> int:
        """Bind and serve; health stays NOT_SERVING until the caller says otherwise.

        :raises PortTaken: with the address.
        :return: the port, which is a free one where 0 was asked for.
        """
        server = grpc.aio.server(interceptors=[self.interceptor], options=self.options.channel_options())
        for register in self.register:
            register(server)
        try:
            port = (
                server.add_secure_port(self.options.address, self.credentials)
                if self.credentials
                else server.add_insecure_port(self.options.address)
            )
        except RuntimeError:
            raise PortTaken(
                f"gRPC can't listen on {self.options.address}: another server has the port, or it isn't ours to use"
            ) from None
        await server.start()
        self._server = server
        return port

    async def drain(self, notice_seconds: float, grace_seconds: float) -> None:
        """Go down without failing a call.

        :param notice_seconds: at least fall x interval of whatever watches health in front of us.
        :param grace_seconds: for the calls that are inside after that.
        """
        if self._server is None:
            return
        # Balancers hear first that this server is leaving. Calls still come until they have noticed, and are served.
        self.health.leave()
        await asyncio.sleep(notice_seconds)
        # Whoever opens a stream from here on is sent elsewhere; unary calls are still welcome.
        self.in_flight.draining = True
        # Open streams are told, get the place from which to go on, and end with a status of their own.
        await self.close_streams()
        # A health watcher would otherwise stay until the grace is over.
        self.health.end_watchers()
        # Now no new connections and calls; what is inside may finish. Nothing of ours cancels a handler: gRPC does so
        # when the grace is over, to those alone that outlast it.
        await self._server.stop(grace_seconds)
        # stop() doesn't wait for the cleanup of handlers, and what they clean up needs the database and Redis.
        if not await self.in_flight.wait_until_idle(max(1.0, grace_seconds)):
            log.warning("calls were still inside when the drain ended", calls=self.in_flight.total)
        self._server = None


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
