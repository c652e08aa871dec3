"""The two clients: the same calls, blocking or awaited."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import grpc
from grpc import aio

from oddstream.connection import Connection
from oddstream.errors import OddstreamError, Unavailable, from_rpc_error
from oddstream.v1 import (
    admin_service_pb2_grpc,
    backtest_service_pb2_grpc,
    market_service_pb2_grpc,
    signal_pb2,
    signal_service_pb2,
    signal_service_pb2_grpc,
)
from oddstream.watch import Checkpoint, SignalCursor

SignalFilter = signal_pb2.SignalFilter
WatchSignalsRequest = signal_service_pb2.WatchSignalsRequest
WatchSignalsStart = signal_service_pb2.WatchSignalsStart
SignalEvent = signal_pb2.SignalEvent


class PagedRequest(Protocol):
    page_token: str


class PagedResponse(Protocol):
    @property
    def next_page_token(self) -> str: ...


Page = TypeVar("Page", bound=PagedResponse)


def _watch_request(
    filter: SignalFilter | None,  # noqa: A002 - the contract's own word
    start: WatchSignalsStart | None,
    include_simulated: bool,
    view: signal_pb2.SignalView.ValueType,
    skip_expired: bool,
) -> WatchSignalsRequest:
    return WatchSignalsRequest(
        filter=filter, start=start, include_simulated=include_simulated, view=view, skip_expired=skip_expired
    )


class SignalWatch:
    """A blocking iterator of signal events that goes on over disconnects; ``cursor`` shows where it stands."""

    def __init__(self, stub: signal_service_pb2_grpc.SignalServiceStub, cursor: SignalCursor) -> None:
        self._stub = stub
        self.cursor = cursor
        self._closed = threading.Event()
        self._call: Any = None  # the stub package has no public name for a call that is also an iterator
        self._events = self._run()

    def __iter__(self) -> Iterator[SignalEvent]:
        return self

    def __next__(self) -> SignalEvent:
        return next(self._events)

    def close(self) -> None:
        """End the watch from any thread; the iteration stops."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()

    def _run(self) -> Iterator[SignalEvent]:
        while not self._closed.is_set():
            error = None
            call = self._stub.WatchSignals(self.cursor.next_request())
            self._call = call
            if self._closed.is_set():  # close() came between, and had nothing to cancel
                call.cancel()
                return
            silence = _Silence(lambda: self.cursor.silence_seconds, call.cancel)
            try:
                with silence:
                    for message in call:
                        silence.heard()
                        yield from self.cursor.receive(message)
                        silence.heard()  # the time that the reader took with the events is not the server's
            except grpc.RpcError as failure:
                if self._closed.is_set():
                    return
                error = from_rpc_error(failure)
            finally:
                call.cancel()
            self._closed.wait(self.cursor.pause_after(error))


class _Silence:
    """Cancels a call from a thread of its own when nothing was heard for too long."""

    def __init__(self, limit: Callable[[], float], give_up: Callable[[], Any]) -> None:
        self._limit = limit
        self._give_up = give_up
        self._heard = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="oddstream silence", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def heard(self) -> None:
        self._heard = time.monotonic()

    def _watch(self) -> None:
        while not self._done.wait(max(0.05, self._heard + self._limit() - time.monotonic())):
            if time.monotonic() - self._heard >= self._limit():
                self._give_up()
                return


class AsyncSignalWatch:
    """An asynchronous iterator of signal events that goes on over disconnects; ``cursor`` shows where it stands."""

    def __init__(self, stub: "signal_service_pb2_grpc.SignalServiceAsyncStub", cursor: SignalCursor) -> None:
        self._stub = stub
        self.cursor = cursor
        self._events = self._run()

    def __aiter__(self) -> AsyncIterator[SignalEvent]:
        return self

    async def __anext__(self) -> SignalEvent:
        return await anext(self._events)

    async def aclose(self) -> None:
        """End the watch and its call."""
        await self._events.aclose()

    async def _run(self) -> Any:  # an async generator; its precise type can't be written before 3.13's defaults
        while True:
            error = None
            call = self._stub.WatchSignals(self.cursor.next_request())
            try:
                while True:
                    async with asyncio.timeout(self.cursor.silence_seconds):
                        message = await call.read()
                    if message is aio.EOF:
                        break
                    for event in self.cursor.receive(cast(signal_service_pb2.WatchSignalsResponse, message)):
                        yield event
            except aio.AioRpcError as failure:
                error = from_rpc_error(failure)
            except TimeoutError:
                error = Unavailable("the stream went silent", code=grpc.StatusCode.UNAVAILABLE)
            finally:
                call.cancel()
            await asyncio.sleep(self.cursor.pause_after(error))


class Client:
    """A blocking client; thread-safe, one channel.

    :param target: ``host:port``.
    :param credentials: TLS; without it only a server on this machine gets the key.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        allow_plaintext: bool = False,
        timeout_seconds: float = 15.0,
    ) -> None:
        self.connection = Connection(target, api_key, credentials, allow_plaintext, timeout_seconds)
        self.channel = self.connection.channel()
        self.markets = market_service_pb2_grpc.MarketServiceStub(self.channel)
        self.signals = signal_service_pb2_grpc.SignalServiceStub(self.channel)
        self.backtests = backtest_service_pb2_grpc.BacktestServiceStub(self.channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(self.channel)

    def pages(self, method: Callable[[Any], Page], request: PagedRequest) -> Iterator[Page]:
        """Every page of a list, e.g. ``client.pages(client.markets.ListMarkets, ListMarketsRequest())``."""
        following = type(request)()
        following.CopyFrom(request)  # type: ignore[attr-defined]  # a protobuf message, whose base is not generic
        while True:
            page = method(following)
            yield page
            if not page.next_page_token:
                return
            following.page_token = page.next_page_token

    def watch_signals(
        self,
        filter: SignalFilter | None = None,  # noqa: A002 - the contract's own word
        *,
        start: WatchSignalsStart | None = None,
        checkpoint: Checkpoint | None = None,
        include_simulated: bool = False,
        view: signal_pb2.SignalView.ValueType = signal_pb2.SIGNAL_VIEW_BASIC,
        skip_expired: bool = False,
        on_message: Callable[[signal_service_pb2.WatchSignalsResponse], None] | None = None,
        on_break: Callable[[OddstreamError | None, float], None] | None = None,
    ) -> SignalWatch:
        """Follow the signal log; resumes by itself and never leaves a hole.

        :param start: see :func:`oddstream.from_now` and its kin; a checkpoint that holds a position wins.
        :param checkpoint: loaded now, saved each time that the reader asks for more.
        :param on_message: sees each message before its events: heartbeats, feed states, the head.
        :param on_break: sees each break: what for (None where the stream ended with OK) and seconds to the next try.
        :raises OddstreamError: what can't get better by itself.
        """
        request = _watch_request(filter, start, include_simulated, view, skip_expired)
        cursor = SignalCursor(request, checkpoint=checkpoint, on_message=on_message, on_break=on_break)
        return SignalWatch(self.signals, cursor)

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """An asynchronous client; make it inside the running event loop that uses it. See :class:`Client`."""

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        allow_plaintext: bool = False,
        timeout_seconds: float = 15.0,
    ) -> None:
        self.connection = Connection(target, api_key, credentials, allow_plaintext, timeout_seconds)
        self.channel = self.connection.async_channel()
        self.markets = market_service_pb2_grpc.MarketServiceStub(self.channel)
        self.signals = signal_service_pb2_grpc.SignalServiceStub(self.channel)
        self.backtests = backtest_service_pb2_grpc.BacktestServiceStub(self.channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(self.channel)

    async def pages(self, method: Callable[[Any], Awaitable[Page]], request: PagedRequest) -> AsyncIterator[Page]:
        """Every page of a list, e.g. ``client.pages(client.markets.ListMarkets, ListMarketsRequest())``."""
        following = type(request)()
        following.CopyFrom(request)  # type: ignore[attr-defined]  # a protobuf message, whose base is not generic
        while True:
            page = await method(following)
            yield page
            if not page.next_page_token:
                return
            following.page_token = page.next_page_token

    def watch_signals(
        self,
        filter: SignalFilter | None = None,  # noqa: A002 - the contract's own word
        *,
        start: WatchSignalsStart | None = None,
        checkpoint: Checkpoint | None = None,
        include_simulated: bool = False,
        view: signal_pb2.SignalView.ValueType = signal_pb2.SIGNAL_VIEW_BASIC,
        skip_expired: bool = False,
        on_message: Callable[[signal_service_pb2.WatchSignalsResponse], None] | None = None,
        on_break: Callable[[OddstreamError | None, float], None] | None = None,
    ) -> AsyncSignalWatch:
        """Follow the signal log; see :meth:`Client.watch_signals`."""
        request = _watch_request(filter, start, include_simulated, view, skip_expired)
        cursor = SignalCursor(request, checkpoint=checkpoint, on_message=on_message, on_break=on_break)
        return AsyncSignalWatch(self.signals, cursor)

    async def close(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
