"""Denied calls of AdminService: each is a row of the audit log, and none of them can fill it."""

import structlog

from oddstream_server.application.calls.mutations import record_of_call
from oddstream_server.application.ports import AuditLog, RateLimiter
from oddstream_server.domain.audit import AuditOutcome
from oddstream_server.domain.errors import PermissionDenied, ResourceExhausted
from oddstream_server.domain.principal import Principal

log = structlog.get_logger()

SERVICE = "oddstream.v1.AdminService"
_ROWS_PER_MINUTE = 60


class Denials:
    """Callers without a good key leave no row: anybody could make the log grow."""

    def __init__(self, audit: AuditLog, limiter: RateLimiter) -> None:
        self._audit = audit
        self._limiter = limiter

    async def record(self, principal: Principal, service: str, request_digest: str, error: PermissionDenied) -> None:
        """Tell the audit log of a denied call.

        :raises ResourceExhausted: the caller was denied so often that the answer is another one, without a row.
        """
        if service != SERVICE:
            return
        bucket = f"denied:{principal.subject}"
        decision = await self._limiter.take(bucket, 1, _ROWS_PER_MINUTE, _ROWS_PER_MINUTE)
        if not decision.allowed:
            raise ResourceExhausted(
                "calls that this key may not make come too often",
                subject=f"key {principal.subject}: denied calls per minute",
                retry_after_us=decision.retry_after_us,
            )
        resource = f"Denial/{error.reason}"
        try:
            await self._audit.record(record_of_call(resource, request_digest, outcome=AuditOutcome.DENIED))
        except Exception:
            # It stays denied, and the access log has it, whatever keeps the audit log from being written.
            log.exception("a denied call could not be told to the audit log", subject=principal.subject)
