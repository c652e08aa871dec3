"""What is turned away before anything is spent on it: calls beyond the limit, and new streams in a drain."""

import random
from typing import Any, ClassVar

from oddstream_server.domain.errors import ResourceExhausted, Unavailable
from oddstream_server.interceptors.call import Call, Gate, Proceed
from oddstream_server.interceptors.limits.in_flight import InFlight


class AdmissionInterceptor(Gate):
    """:param maximum_unary: calls in flight beyond which further ones are shed; streams have limits of their own."""

    name: ClassVar[str] = "admission"

    def __init__(self, in_flight: InFlight, maximum_unary: int = 2000) -> None:
        self._in_flight = in_flight
        self._maximum_unary = maximum_unary

    def passes(self, call: Call) -> bool:
        return self._in_flight.unary <= self._maximum_unary

    async def intercept(self, call: Call, proceed: Proceed) -> Any:
        if call.method.open_to_all:
            return await proceed(call)
        if call.method.kind.response_streaming:
            if self._in_flight.draining:
                raise Unavailable(
                    "this server is going down; open the stream on another connection",
                    reason="DRAINING",
                    retry_after_us=_jittered_us(500_000),
                )
        elif self._in_flight.unary > self._maximum_unary:
            raise ResourceExhausted(
                "the server has more calls in flight than it serves well",
                subject="server calls in flight",
                retry_after_us=_jittered_us(200_000),
                reason="SERVER_OVERLOADED",
            )
        return await proceed(call)


def _jittered_us(middle_us: int) -> int:
    """Spread, so that those turned away together don't come back together."""
    return int(middle_us * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
