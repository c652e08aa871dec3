"""One rpc on its way through the chain, and what is known of its method."""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import Token
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol, runtime_checkable

import grpc

from oddstream_server.application.access.authorization import Access
from oddstream_server.application.calls.request import RequestContext
from oddstream_server.domain.errors import OddstreamError
from oddstream_server.domain.principal import Principal


class MethodKind(StrEnum):
    """As ``grpc_type`` in the metrics."""

    UNARY = "unary"
    SERVER_STREAM = "server_stream"
    CLIENT_STREAM = "client_stream"
    BIDI_STREAM = "bidi_stream"

    @property
    def request_streaming(self) -> bool:
        return self in (MethodKind.CLIENT_STREAM, MethodKind.BIDI_STREAM)

    @property
    def response_streaming(self) -> bool:
        return self in (MethodKind.SERVER_STREAM, MethodKind.BIDI_STREAM)

    @classmethod
    def of(cls, *, request_streaming: bool, response_streaming: bool) -> "MethodKind":
        if request_streaming:
            return cls.BIDI_STREAM if response_streaming else cls.CLIENT_STREAM
        return cls.SERVER_STREAM if response_streaming else cls.UNARY


@dataclass(frozen=True, slots=True)
class Method:
    """One rpc of the contract, of a standard service, or ``UNKNOWN_METHOD``."""

    service: str
    """Full name, ``oddstream.v1.MarketService``."""
    name: str
    kind: MethodKind
    access: Access | None = None
    """Who may call it; None refuses everybody."""
    open_to_all: bool = False
    """True for the few methods that need no key (health); they are listed one by one."""
    full_name: str = field(init=False)
    """``/oddstream.v1.MarketService/GetMarket``"""
    service_name: str = field(init=False)
    """Without its package, ``MarketService``: as scopes name it."""

    def __post_init__(self) -> None:
        # Made once: each layer asks for them at each call.
        object.__setattr__(self, "full_name", f"/{self.service}/{self.name}")
        object.__setattr__(self, "service_name", self.service.rpartition(".")[2])


UNKNOWN_METHOD = Method("unknown", "unknown", MethodKind.BIDI_STREAM)
"""Stands for every name that nothing is registered for, so that callers can't make label values."""

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True)
class Call:
    """The state of one rpc. ``request`` is bytes until the validation has read it; in a client stream it is an async
    iterator."""

    method: Method
    request: Any
    context: Context
    metadata: Mapping[str, str]
    """Text metadata of the call; of a repeated key the last value."""
    deserialize: Callable[[bytes], Any]
    request_context: RequestContext
    trailers: list[tuple[str, str | bytes]] = field(default_factory=list)
    """Sent with whatever status the call ends with."""
    code: grpc.StatusCode = grpc.StatusCode.OK
    """How it ended; set by the errors interceptor."""
    reason: str = ""
    began: float = field(default_factory=time.perf_counter)
    """On the performance counter."""
    known: Principal | None = None
    """The caller, where the key was found good a moment ago; ``request_context.principal`` is who was let in."""
    entered: Token[RequestContext | None] | None = None
    """Of the context variable; kept by the layer that sets it."""


Proceed = Callable[[Call], Awaitable[Any]]


@runtime_checkable
class Bracket(Protocol):
    """A layer that does something before and after each call, waits for nothing, and raises nothing."""

    name: ClassVar[str]

    def enter(self, call: Call) -> None: ...

    def leave(self, call: Call, response: Any) -> None:
        """:param response: None where the call failed, and after a stream."""
        ...


class Interceptor(Protocol):
    """One layer around every rpc, whatever its kind.

    A unary call's ``proceed`` answers the response; a streaming one's writes to ``call.context`` and answers None when
    the stream is over. There is no other shape, so a layer can't serve one kind and break the other.
    """

    name: ClassVar[str]

    async def intercept(self, call: Call, proceed: Proceed) -> Any: ...


@runtime_checkable
class Gate(Interceptor, Protocol):
    """A layer that most unary calls pass without it waiting for anything: then :meth:`intercept` is left out."""

    def passes(self, call: Call) -> bool:
        """True where the layer has done all it had to do before the call. False hands the call to ``intercept``, and
        must leave it such that ``intercept`` can do the whole."""
        ...

    async def failed(self, call: Call, error: OddstreamError) -> None:
        """A call that had passed failed behind this layer; most gates have nothing to say to that."""
        return


Layer = Bracket | Interceptor


def text_metadata(pairs: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    return {key: value for key, value in pairs or () if isinstance(value, str)}
