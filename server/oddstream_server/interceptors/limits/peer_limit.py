"""Callers without a good key, limited by their address: guessing keys and knocking cost little and get nowhere."""

import ipaddress
from functools import lru_cache
from typing import Any, ClassVar

from oddstream_server.application.access.certificate_roles import CertificateRoles
from oddstream_server.application.keys.authentication import Authenticator, bearer_token
from oddstream_server.application.ports import RateLimiter
from oddstream_server.domain.errors import ResourceExhausted, Unauthenticated
from oddstream_server.interceptors.access.client_certificate import certificate_of
from oddstream_server.interceptors.call import Call, Gate, Proceed

_HEALTH_CALLS_PER_MINUTE = 6000


class PeerLimitInterceptor(Gate):
    """Charges an address for each call that turns out to be unauthenticated, and once its quota is used up refuses
    further ones before they reach the key store. A key that was good lately passes whatever its address did: many share
    an address, and one that floods must not lock the others out.

    :param calls_per_minute: unauthenticated calls an address (IPv6: a /64), which may also come all at once.
    :param certificate_roles: a client certificate with a role passes as well, since the handshake proved it.
    """

    name: ClassVar[str] = "peer_limit"

    def __init__(
        self,
        limiter: RateLimiter,
        authenticator: Authenticator,
        calls_per_minute: int = 100,
        certificate_roles: CertificateRoles | None = None,
    ) -> None:
        self._limiter = limiter
        self._authenticator = authenticator
        self._calls_per_minute = calls_per_minute
        self._certificate_roles = certificate_roles

    def passes(self, call: Call) -> bool:
        if call.method.open_to_all:
            return False
        call.known = self._authenticator.cached(bearer_token(call.metadata))
        return call.known is not None  # nothing is charged then, and nobody with a good key is refused for the address

    async def intercept(self, call: Call, proceed: Proceed) -> Any:
        peer = _bucket_of(call.request_context.peer_address)
        if call.method.open_to_all:
            per_minute = _HEALTH_CALLS_PER_MINUTE
            decision = await self._limiter.take(f"open:{peer}", 1, per_minute, per_minute // 10)
            if not decision.allowed:
                raise self._exhausted(call, per_minute, decision.retry_after_us)
            return await proceed(call)
        bucket = f"peer:{peer}"
        known = self._limiter.peek(bucket)
        if not known.allowed and not self._is_known(call):
            raise self._exhausted(call, self._calls_per_minute, known.retry_after_us)
        try:
            return await proceed(call)
        except Unauthenticated:
            if call.request_context.principal is not None:
                raise  # a good key that was revoked while its stream was open
            decision = await self._limiter.take(bucket, 1, self._calls_per_minute, self._calls_per_minute)
            if not decision.allowed:
                raise self._exhausted(call, self._calls_per_minute, decision.retry_after_us) from None
            raise

    def _is_known(self, call: Call) -> bool:
        token = bearer_token(call.metadata)
        if token is None and self._certificate_roles is not None:
            shown = certificate_of(call.context)
            return shown is not None and self._certificate_roles.role_of(shown[0]) is not None
        return self._authenticator.lately_good(token)

    def _exhausted(self, call: Call, per_minute: int, retry_after_us: int) -> ResourceExhausted:
        return ResourceExhausted(
            f"more than {per_minute} unauthenticated calls a minute came from this address",
            subject=f"address {call.request_context.peer_network}: unauthenticated calls per minute",
            retry_after_us=retry_after_us,
        )


@lru_cache(maxsize=4096)
def _bucket_of(address: str) -> str:
    """One home of IPv6 holds a whole /64, so that is what counts as an address."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network(f"{address}/64", strict=False))
