"""What one key may take: units a minute, by each method's cost, and open streams."""

from typing import Any, ClassVar

from oddstream_server.application.ports import RateLimiter, StreamQuota
from oddstream_server.domain.errors import ResourceExhausted
from oddstream_server.interceptors.call import Call, Gate, Proceed

_STREAM_RETRY_US = 1_000_000


class KeyLimitInterceptor(Gate):
    """:param units_per_minute: for keys whose scopes state no limit; a tenth of it may come at once.
    :param streams_per_key: open streams of one key in all processes, unless its scopes say otherwise.
    """

    name: ClassVar[str] = "key_limit"

    def __init__(
        self, limiter: RateLimiter, quota: StreamQuota, units_per_minute: int = 6000, streams_per_key: int = 100
    ) -> None:
        self._limiter = limiter
        self._quota = quota
        self._units_per_minute = units_per_minute
        self._streams_per_key = streams_per_key

    def passes(self, call: Call) -> bool:
        principal = call.request_context.principal
        if principal is None:
            return False
        access = call.method.access
        return self._limiter.spend(f"key:{principal.subject}", access.cost if access else 1)

    async def intercept(self, call: Call, proceed: Proceed) -> Any:
        principal = call.request_context.principal
        if principal is None:  # open to all
            return await proceed(call)
        subject = principal.subject
        per_minute = principal.scopes.calls_per_minute or self._units_per_minute
        cost = call.method.access.cost if call.method.access else 1
        bucket = f"key:{subject}"
        if not self._limiter.spend(bucket, cost):
            decision = await self._limiter.take(bucket, cost, per_minute, max(10, per_minute // 10))
            if not decision.allowed:
                raise ResourceExhausted(
                    f"the key takes more than {per_minute} units a minute; this method costs {cost}",
                    subject=f"key {subject}: units per minute",
                    retry_after_us=decision.retry_after_us,
                    metadata={"limit_per_minute": str(per_minute), "cost": str(cost)},
                )
        if not call.method.kind.response_streaming:
            return await proceed(call)
        own_limit = principal.scopes.stream_limit
        limit = self._streams_per_key if own_limit is None else own_limit
        if not await self._quota.take(subject, limit):
            raise ResourceExhausted(
                f"the key may have {limit} streams open, and has them; close one first",
                subject=f"key {subject}: open streams",
                retry_after_us=_STREAM_RETRY_US,
                reason="STREAM_QUOTA_EXCEEDED",
                metadata={"limit": str(limit)},
            )
        try:
            return await proceed(call)
        finally:
            self._quota.give_back(subject)
