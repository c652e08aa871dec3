"""Reads by key that share queries: what is asked for in one turn of the event loop, or while earlier queries run, is
one query. A read by key costs some 250 µs of CPU alone, and some 15 among others.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
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
    :param maximum_queries: at once.
    :param patience_seconds: another query starts beside those that run only when the latest of them has taken this
        long, or when more keys wait than one takes. So the busier it is the more share a query, and a slow one holds
        nobody up for long.
    """

    def __init__(
        self,
        read: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        *,
        maximum_keys: int = 100,
        maximum_queries: int = 2,
        patience_seconds: float = 0.01,
    ) -> None:
        self._read = read
        self._maximum_keys = maximum_keys
        self._maximum_queries = maximum_queries
        self._patience_seconds = patience_seconds
        self._waiting: dict[K, list[asyncio.Future[V | None]]] = {}
        self._queries: set[asyncio.Task[None]] = set()
        self._latest_began = 0.0
        self._scheduled = False
        """True from the first call of a turn until the turn's end, where nothing runs yet."""
        self._look_again: asyncio.TimerHandle | None = None

    async def get(self, key: K) -> V | None:
        """None where there is no such row. Raises what the query raised; everybody whom it was for gets that."""
        loop = asyncio.get_running_loop()
        # A future for each caller: one caller's cancellation is not the others'.
        answer: asyncio.Future[V | None] = loop.create_future()
        self._waiting.setdefault(key, []).append(answer)
        if not self._queries:
            if not self._scheduled:
                self._scheduled = True
                loop.call_soon(self._end_turn)
        elif self._look_again is None:
            # It outlives the query that it was set for: a timer for each would cost a tenth of the query.
            self._look_again = loop.call_later(self._patience_seconds, self._look)
        return await answer

    def _end_turn(self) -> None:
        self._scheduled = False
        self._start_what_is_due()

    def _look(self) -> None:
        self._look_again = None
        self._start_what_is_due()

    def _start_what_is_due(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and (not self._queries or self._may_start_beside(loop.time())):
            self._start(loop)
        if self._waiting and self._look_again is None:
            self._look_again = loop.call_later(self._patience_seconds, self._look)

    def _may_start_beside(self, now: float) -> bool:
        if len(self._queries) >= self._maximum_queries:
            return False
        return len(self._waiting) > self._maximum_keys or now - self._latest_began >= self._patience_seconds

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        keys = list(self._waiting)[: self._maximum_keys]
        batch = {key: self._waiting.pop(key) for key in keys}
        # A context of its own: the first caller's deadline must not become the others'.
        context = Context()
        context.run(current_request.set, _shared_request())
        self._latest_began = loop.time()
        task = loop.create_task(self._answer(batch), context=context)
        self._queries.add(task)
        task.add_done_callback(self._done)

    async def _answer(self, batch: dict[K, "list[asyncio.Future[V | None]]"]) -> None:
        try:
            found = await self._read(list(batch))
        except asyncio.CancelledError:
            for answer in _still_waiting(batch.values()):
                answer.cancel()
            raise
        except Exception as error:
            for answer in _still_waiting(batch.values()):
                answer.set_exception(error)
            return
        for key, answers in batch.items():
            value = found.get(key)
            for answer in _still_waiting((answers,)):
                answer.set_result(value)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._queries.discard(task)
        self._start_what_is_due()


def _still_waiting(answers: "Iterable[list[asyncio.Future[V | None]]]") -> "Iterator[asyncio.Future[V | None]]":
    """Those whose callers have not gone."""
    return (answer for several in answers for answer in several if not answer.done())


def _shared_request() -> RequestContext:
    """The query carries the correlation id of the caller that made it necessary."""
    return RequestContext("shared read", correlation_id(), "", deadline_seconds=time.monotonic() + QUERY_SECONDS)
