"""How long a unary call may take: what its client gave it, within our own maximum; storage takes the rest over as
``statement_timeout``. Streams last as long as they last."""

import asyncio
import time
from typing import Any, ClassVar

from oddstream_server.domain.errors import DeadlineExceeded
from oddstream_server.interceptors.call import Call, Proceed

_LOOK_SECONDS = 0.02
"""How often calls that are under way are looked at. A timer for each would cost ten times as much as looking, and a
deadline that is answered 20 ms late is answered: the client's own clock has ended the call by then."""


class DeadlineInterceptor:
    """:param default_seconds: for calls without a deadline.
    :param maximum_seconds: a longer deadline is cut to this.
    """

    name: ClassVar[str] = "deadline"

    def __init__(self, default_seconds: float = 10.0, maximum_seconds: float = 30.0) -> None:
        self._default = default_seconds
        self._maximum = maximum_seconds
        self._under_way: dict[asyncio.Task[Any], float] = {}
        """When each call has to be over, on the monotonic clock."""
        self._over: set[asyncio.Task[Any]] = set()
        """Calls that were cancelled here and haven't ended yet."""
        self._looking: asyncio.TimerHandle | None = None

    async def intercept(self, call: Call, proceed: Proceed) -> Any:
        if call.method.kind.response_streaming:
            return await proceed(call)
        given = call.context.time_remaining()
        seconds = self._default if given is None else given
        if seconds > self._maximum:
            seconds = self._maximum
        task = asyncio.current_task()
        assert task is not None
        cancelled_before = task.cancelling()
        deadline = time.monotonic() + seconds
        call.request_context.deadline_seconds = self._under_way[task] = deadline
        if self._looking is None:
            self._looking = task.get_loop().call_later(min(seconds, _LOOK_SECONDS), self._look)
        try:
            return await proceed(call)
        except asyncio.CancelledError:
            if task in self._over:
                self._over.discard(task)
                if task.uncancel() <= cancelled_before:  # else the client went away as well
                    raise DeadlineExceeded(
                        f"not ready within {seconds:.3f} s; ask for less, or give it more time"
                    ) from None
            raise
        finally:
            self._under_way.pop(task, None)
            if task in self._over:  # it ended by itself before the cancellation reached it
                self._over.discard(task)
                task.uncancel()

    def _look(self) -> None:
        self._looking = None
        now = time.monotonic()
        for task in [task for task, deadline in self._under_way.items() if deadline <= now]:
            del self._under_way[task]
            self._over.add(task)
            task.cancel()
        if self._under_way:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)
