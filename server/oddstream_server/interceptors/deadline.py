"""How long a unary call may take: what its client gave it, within our own maximum; storage takes the rest over as
``statement_timeout``. Streams last as long as they last."""

import asyncio
import time
from typing import Any, ClassVar

from oddstream_server.domain.errors import DeadlineExceeded
from oddstream_server.interceptors.call import Call, Proceed


class DeadlineInterceptor:
    """:param default_seconds: for calls without a deadline.
    :param maximum_seconds: a longer deadline is cut to this.
    """

    name: ClassVar[str] = "deadline"

    def __init__(self, default_seconds: float = 10.0, maximum_seconds: float = 30.0) -> None:
        self._default = default_seconds
        self._maximum = maximum_seconds

    async def intercept(self, call: Call, proceed: Proceed) -> Any:
        if call.method.kind.response_streaming:
            return await proceed(call)
        given = call.context.time_remaining()
        seconds = min(self._default if given is None else given, self._maximum)
        call.request_context.deadline_seconds = time.monotonic() + seconds
        try:
            async with asyncio.timeout(seconds) as scope:
                return await proceed(call)
        except TimeoutError:
            if not scope.expired():
                raise
            raise DeadlineExceeded(f"not ready within {seconds:.3f} s; ask for less, or give it more time") from None
