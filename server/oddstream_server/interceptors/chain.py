"""The layers around every rpc: their names, their order, and the one gRPC interceptor that runs them.

The order is data and is checked when the chain is built. Outermost first:

request_context   ids in, made and out; the call's log line
metrics           counts what every inner layer answers, rejections included
errors            exceptions become statuses; nothing of ours leaks
admission         draining and overload: refused before anything is spent on the call
peer_limit        callers without a good key, by address
authentication    who calls, and whether they may
key_limit         the caller's rate and open streams
deadline          how long it may take
validation        the message, against the contract's rules
venue_scope       the venues that it names, against the key's
"""

import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError, Message

from oddstream_server.application.calls.request import RequestContext
from oddstream_server.domain.errors import FieldViolation, InvalidArgument, Unimplemented
from oddstream_server.interceptors.call import (
    UNKNOWN_METHOD,
    Call,
    Context,
    Layer,
    Method,
    MethodKind,
    Proceed,
    text_metadata,
)
from oddstream_server.interceptors.composition import composed
from oddstream_server.interceptors.limits.in_flight import InFlight
from oddstream_server.interceptors.stream_context import StreamContext

if TYPE_CHECKING:
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    Handler = grpc.RpcMethodHandler  # generic in its stubs alone

ORDER = (
    "request_context",
    "metrics",
    "errors",
    "admission",
    "peer_limit",
    "authentication",
    "key_limit",
    "deadline",
    "validation",
    "venue_scope",
)


_arrived_with: ContextVar[Any] = ContextVar("arrived_with", default=None)
"""The call's metadata as gRPC read it to find the handler, in the task that serves the call; to ask the context for it
is to have it converted once more."""


class ChainOrderError(Exception):
    """The layers handed to the chain are not the ones of ``ORDER`` in its order."""


class Chain(grpc.aio.ServerInterceptor):
    """The only interceptor that the server knows: it composes the layers once a method, not once a call.

    :param methods: what is known of each method, by full name; a registered method that is missing here is refused to
        everybody.
    :raises ChainOrderError: a layer is missing, foreign or out of place.
    """

    def __init__(self, layers: Sequence[Layer], methods: Mapping[str, Method], in_flight: InFlight) -> None:
        names = tuple(layer.name for layer in layers)
        if names != ORDER:
            raise ChainOrderError(f"the layers are {', '.join(names)}; they have to be {', '.join(ORDER)}")
        self._layers = tuple(layers)
        self._methods = methods
        self._in_flight = in_flight
        self._handlers: dict[str, Handler] = {}
        self._unknown = self._compose(UNKNOWN_METHOD, _refuse_unknown, _keep_bytes)

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        name = handler_call_details.method
        _arrived_with.set(handler_call_details.invocation_metadata)
        handler = self._handlers.get(name)
        if handler is not None:
            return handler
        registered = await continuation(handler_call_details)
        if registered is None:
            return self._unknown  # not kept by name: callers choose it
        handler = self._handlers[name] = self._wrap(name, registered)
        return handler

    def _wrap(self, name: str, registered: Handler) -> Handler:
        kind = MethodKind.of(
            request_streaming=registered.request_streaming, response_streaming=registered.response_streaming
        )
        method = self._methods.get(name)
        if method is None:
            _, service, short = name.split("/")
            method = Method(service, short, kind)
        if method.kind is not kind:
            raise TypeError(f"{name} is declared as {method.kind} and registered as {kind}")
        behaviour = (
            registered.unary_unary or registered.unary_stream or registered.stream_unary or registered.stream_stream
        )
        return self._compose(method, _terminal(cast("Behaviour", behaviour), kind), registered.request_deserializer)

    def _compose(self, method: Method, terminal: Proceed, deserialize: Callable[[bytes], Any] | None) -> Handler:
        proceed = composed(self._layers, terminal, method.kind)
        in_flight = self._in_flight
        read = deserialize or _keep_bytes
        streams = method.kind.response_streaming

        async def serve(request: Any, context: Context) -> Any:
            metadata = text_metadata(_arrived_with.get() or context.invocation_metadata())
            if streams:
                context = cast("Context", StreamContext(context))
            call = Call(method, request, context, metadata, read, RequestContext(method.full_name, "", ""))
            in_flight.enter(method)
            try:
                return await proceed(call)
            finally:
                in_flight.leave(method)

        # No deserialiser: gRPC would answer a malformed message with UNKNOWN before any layer sees it.
        return _FACTORIES[method.kind](serve, request_deserializer=None, response_serializer=_serialize)


Behaviour = Callable[[Any, Context], Any]

_FACTORIES: dict[MethodKind, Callable[..., Handler]] = {
    MethodKind.UNARY: grpc.unary_unary_rpc_method_handler,
    MethodKind.SERVER_STREAM: grpc.unary_stream_rpc_method_handler,
    MethodKind.CLIENT_STREAM: grpc.stream_unary_rpc_method_handler,
    MethodKind.BIDI_STREAM: grpc.stream_stream_rpc_method_handler,
}


def _terminal(behaviour: Behaviour, kind: MethodKind) -> Proceed:
    """The registered handler as the innermost step. Generators are driven from here by ``write``, since gRPC would
    leave an abandoned one to the garbage collector, in another context."""
    generates = inspect.isasyncgenfunction(behaviour)
    if kind is MethodKind.UNARY and inspect.iscoroutinefunction(behaviour):

        async def answer(call: Call) -> Any:
            return await behaviour(call.request, call.context)

        return answer

    async def run(call: Call) -> Any:
        request = _read(call.request, call.deserialize) if kind.request_streaming else call.request
        if not generates:
            result = behaviour(request, call.context)
            return await result if inspect.isawaitable(result) else result
        async with aclosing(behaviour(request, call.context)) as responses:
            async for response in responses:
                await call.context.write(response)
        return None

    return run


async def _read(messages: AsyncIterator[bytes], deserialize: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    async for message in messages:
        try:
            yield deserialize(message)
        except DecodeError:
            raise malformed_request() from None


def malformed_request() -> InvalidArgument:
    rule = "the body must be a serialised message of the method's request type, from a client of the same contract"
    return InvalidArgument([FieldViolation("", rule)], reason="MALFORMED_REQUEST")


async def _refuse_unknown(call: Call) -> Any:
    raise Unimplemented("no such method; the contract's methods are listed in oddstream/v1, and reflection shows them")


def _keep_bytes(message: bytes) -> bytes:
    return message


def _serialize(response: Message | bytes) -> bytes:
    """Streams join messages that were encoded once, so what is bytes already goes out as it is."""
    return response if isinstance(response, bytes) else response.SerializeToString()
