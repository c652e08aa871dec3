"""What drives a watch: a blocking and an asynchronous iterator that open the stream again whenever it breaks."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
from grpc import aio

from oddstream.errors import Unavailable, from_rpc_error
from oddstream.watching.cursor import Cursor, Item

AnyCursor = TypeVar("AnyCursor", bound=Cursor[Any, Any, Any])


class Watch(Generic[Item, AnyCursor]):
    """A blocking iterator that goes on over disconnects; ``cursor`` shows where it stands.

    :param open_call: the stub's method.
    """

    def __init__(self, open_call: Callable[[Any], Any], cursor: AnyCursor) -> None:
        self._open_call = open_call
        self.cursor = cursor
        self._closed = threading.Event()
        self._call: Any = None  # the stub package has no public name for a call that is also an iterator
        self._items = self._run()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        return next(self._items)

    def close(self) -> None:
        """End the watch from any thread; the iteration stops."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()

    def _run(self) -> Iterator[Item]:
        while not self._closed.is_set():
            error = None
            call = self._open_call(self.cursor.next_request())
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
                        silence.heard()  # the time that the reader took with the items is not the server's
                        if self.cursor.finished:
                            return
            except grpc.RpcError as failure:
                if self._closed.is_set():
                    return
                error = from_rpc_error(failure)
            finally:
                call.cancel()
            if self.cursor.finished:
                return
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


class AsyncWatch(Generic[Item, AnyCursor]):
    """An asynchronous iterator that goes on over disconnects; ``cursor`` shows where it stands. See :class:`Watch`."""

    def __init__(self, open_call: Callable[[Any], Any], cursor: AnyCursor) -> None:
        self._open_call = open_call
        self.cursor = cursor
        self._items = self._run()

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        return await anext(self._items)

    async def aclose(self) -> None:
        """End the watch and its call."""
        await self._items.aclose()

    async def _run(self) -> Any:  # an async generator; its precise type can't be written before 3.13's defaults
        while True:
            error = None
            call = self._open_call(self.cursor.next_request())
            try:
                while True:
                    async with asyncio.timeout(self.cursor.silence_seconds):
                        message = await call.read()
                    if message is aio.EOF:
                        break
                    for item in self.cursor.receive(message):
                        yield item
                    if self.cursor.finished:
                        return
            except aio.AioRpcError as failure:
                error = from_rpc_error(failure)
            except TimeoutError:
                error = Unavailable("the stream went silent", code=grpc.StatusCode.UNAVAILABLE)
            finally:
                call.cancel()
            if self.cursor.finished:
                return
            await asyncio.sleep(self.cursor.pause_after(error))
