"""Channels: where to, with which key, and how a dead connection is noticed."""

import ipaddress
import uuid
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc import aio

from oddstream.errors import from_rpc_error

DEFAULT_TIMEOUT_SECONDS = 15.0

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A peer that is gone without a word is found out within 5 seconds, on a busy machine too: a ping after 1.5 s of
    # silence, 2 more for its answer.
    ("grpc.keepalive_time_ms", 1_500),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Flow-control windows that grow with the bandwidth would let a stalled reader pile up megabytes unseen.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Beside its name, this is how long an attempt to connect may take: a busy server or a far one needs its time.
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 8 * 1024 * 1024),
    # Retrying is this library's, which knows what is safe to repeat.
    ("grpc.enable_retries", 0),
)


class InsecureTarget(ValueError):
    """A key would cross a network in clear text."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a server.

    :ivar target: ``host:port``.
    :ivar api_key: the key or access token; never shown in ``repr``.
    :ivar credentials: TLS; None is plaintext, which is refused off loopback unless ``allow_plaintext`` is set.
    """

    target: str
    api_key: str | None = field(default=None, repr=False)
    credentials: grpc.ChannelCredentials | None = None
    allow_plaintext: bool = False
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS

    def __post_init__(self) -> None:
        if self.credentials is None and self.api_key and not self.allow_plaintext and not _is_loopback(self.target):
            raise InsecureTarget(
                f"{self.target} is not on this machine and the connection has no TLS, so the key could be read on the "
                "way: pass credentials=grpc.ssl_channel_credentials(), or allow_plaintext=True on a network you trust"
            )

    def metadata(self) -> list[tuple[str, str]]:
        pairs = [("x-correlation-id", str(uuid.uuid4()))]
        if self.api_key:
            pairs.append(("authorization", f"Bearer {self.api_key}"))
        return pairs

    def channel(self) -> grpc.Channel:
        plain = (
            grpc.secure_channel(self.target, self.credentials, CHANNEL_OPTIONS)
            if self.credentials
            else grpc.insecure_channel(self.target, CHANNEL_OPTIONS)
        )
        return grpc.intercept_channel(plain, _Unary(self), _Stream(self))

    def async_channel(self) -> aio.Channel:
        interceptors = [_AsyncUnary(self), _AsyncStream(self)]
        if self.credentials:
            return aio.secure_channel(self.target, self.credentials, CHANNEL_OPTIONS, interceptors=interceptors)
        return aio.insecure_channel(self.target, CHANNEL_OPTIONS, interceptors=interceptors)


def _is_loopback(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    host = target.rpartition("//")[2].rpartition(":")[0].strip("[]").removeprefix("/")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class _Details(grpc.ClientCallDetails):
    method: str
    timeout: float | None
    metadata: tuple[tuple[str, str | bytes], ...] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


def _complete(connection: Connection, details: grpc.ClientCallDetails, timeout: float | None) -> _Details:
    given = list(getattr(details, "metadata", None) or ())
    names = {name for name, _ in given}
    return _Details(
        method=details.method,
        timeout=details.timeout if details.timeout is not None else timeout,
        metadata=(*given, *((n, v) for n, v in connection.metadata() if n not in names)),
        credentials=getattr(details, "credentials", None),
        wait_for_ready=getattr(details, "wait_for_ready", None),
        compression=getattr(details, "compression", None),
    )


class _Unary(grpc.UnaryUnaryClientInterceptor):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # The stub package leaves the message types of interceptors open, so Any is as narrow as it gets in this module.
    def intercept_unary_unary(
        self, continuation: Any, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        call = continuation(_complete(self._connection, client_call_details, self._connection.timeout_seconds), request)
        error = call.exception()
        if isinstance(error, grpc.RpcError):
            raise from_rpc_error(error) from None
        return call


class _Stream(grpc.UnaryStreamClientInterceptor):
    """Adds metadata alone: whoever reads the stream turns its error into a typed one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        return continuation(_complete(self._connection, client_call_details, None), request)


class _AsyncUnary(aio.UnaryUnaryClientInterceptor):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: aio.ClientCallDetails, request: Any
    ) -> Any:
        details = _async_details(self._connection, client_call_details, self._connection.timeout_seconds)
        try:
            return await (await continuation(details, request))
        except aio.AioRpcError as error:
            raise from_rpc_error(error) from None


class _AsyncStream(aio.UnaryStreamClientInterceptor):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_async_details(self._connection, client_call_details, None), request)


def _async_details(
    connection: Connection, details: aio.ClientCallDetails, timeout: float | None
) -> aio.ClientCallDetails:
    given = list(details.metadata or ())
    names = {name for name, _ in given}
    metadata = aio.Metadata(*given, *((n, v) for n, v in connection.metadata() if n not in names))
    return aio.ClientCallDetails(
        details.method,
        details.timeout if details.timeout is not None else timeout,
        metadata,
        details.credentials,
        details.wait_for_ready,
    )
