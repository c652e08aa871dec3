"""Reads by key that share queries: what is asked for in one turn of the event loop, or while earlier queries run, is
one query. A read by key costs some 250 µs of CPU alone, and some 15 among others.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from typing import Generic, TypeVar

from oddstream_server.application.calls.request import RequestContext, correlation_id, current_request

K = TypeVar("K")
V = TypeVar("V")

QUERY_SECONDS = 5.0
"""Bound of a shared query: it has none of its callers' deadlines, and each caller stops waiting at its own."""


class SharedReads(Generic[K, V]):
    """:param read: answers what there is of the keys; must be free of effects.
    :param maximum_keys: of one query; more are several.
    :param maximum_queries: at once. Fewer make larger queries when there is much to do.
    """

    def __init__(
        self,
        read: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        *,
        maximum_keys: int = 100,
        maximum_queries: int = 2,
    ) -> None:
        self._read = read
        self._maximum_keys = maximum_keys
        self._maximum_queries = maximum_queries
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._queries: set[asyncio.Task[None]] = set()
        self._scheduled = False

    async def get(self, key: K) -> V | None:
        """None where there is no such row. Raises what the query raised; everybody whom it was for gets that."""
        answer = self._waiting.get(key)
        if answer is None:
            loop = asyncio.get_running_loop()
            answer = self._waiting[key] = loop.create_future()
            if not self._scheduled and len(self._queries) < self._maximum_queries:
                self._scheduled = True
                loop.call_soon(self._start)
        return await asyncio.shield(answer)  # one caller's cancellation is not the others'

    def _start(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._queries) < self._maximum_queries:
            keys = list(self._waiting)[: self._maximum_keys]
            batch = {key: self._waiting.pop(key) for key in keys}
            # A context of its own: the first caller's deadline must not become the others'.
            context = Context()
            context.run(current_request.set, _shared_request())
            task = asyncio.get_running_loop().create_task(self._answer(batch), context=context)
            self._queries.add(task)
            task.add_done_callback(self._done)

    async def _answer(self, batch: dict[K, "asyncio.Future[V | None]"]) -> None:
        try:
            found = await self._read(list(batch))
        except asyncio.CancelledError:
            for answer in batch.values():
                answer.cancel()
            raise
        except Exception as error:
            for answer in batch.values():
                answer.set_exception(error)
                answer.exception()  # its waiters may all have been cancelled
            return
        for key, answer in batch.items():
            answer.set_result(found.get(key))

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._queries.discard(task)
        self._start()


def _shared_request() -> RequestContext:
    """The query carries the correlation id of the caller that made it necessary."""
    return RequestContext("shared read", correlation_id(), "", deadline_seconds=time.monotonic() + QUERY_SECONDS)
