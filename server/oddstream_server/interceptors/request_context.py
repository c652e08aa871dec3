"""The outermost layer: correlation id and trace in, made where absent, and out again; one log line a call."""

import ipaddress
import random
import re
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, ClassVar
from urllib.parse import unquote

import grpc
import structlog

from oddstream_server.application.calls.request import RequestContext, current_request
from oddstream_server.interceptors.call import Call, Method
from oddstream_server.observability.logging import log_call

CORRELATION_KEY = "x-correlation-id"
TRACEPARENT_KEY = "traceparent"
_CORRELATION_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT_PATTERN = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(-.*)?"
)

_ids = random.Random()  # noqa: S311  # seeded by the system in each process
_ID_DIGITS, _IDS_AT_ONCE = 80, 256
_OK = grpc.StatusCode.OK

log = structlog.get_logger()


class RequestContextInterceptor:
    name: ClassVar[str] = "request_context"

    def __init__(self, peers: "PeerAddresses") -> None:
        self._peers = peers

    def enter(self, call: Call) -> None:
        request = call.request_context
        made = next(_made)
        request.traceparent = traceparent_of(call.metadata.get(TRACEPARENT_KEY), made[32:])
        given = call.metadata.get(CORRELATION_KEY, "")
        request.correlation_id = given if given and _CORRELATION_PATTERN.fullmatch(given) else made[:32]
        request.peer_address = self._peers.address_of(call.context.peer(), call.metadata.get("x-forwarded-for"))
        call.trailers += ((CORRELATION_KEY, request.correlation_id), (TRACEPARENT_KEY, request.traceparent))
        # They go out in one batch with the answer and its status.
        call.context.set_trailing_metadata(tuple(call.trailers))
        call.entered = current_request.set(request)
        if call.method.kind.response_streaming and not call.method.open_to_all:
            log.info("stream opened", method=call.method.full_name)

    def leave(self, call: Call, response: Any) -> None:
        seconds = time.perf_counter() - call.began
        # A balancer asks for health each second; its good answers would be most of the log.
        if call.method.open_to_all and call.code in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED):
            log.debug("call ended", **_fields(call.method, call.code, seconds, call.request_context, call.reason))
        else:
            log_call(_fields, call.method, call.code, seconds, call.request_context, call.reason)
        if call.entered is not None:
            current_request.reset(call.entered)


def _fields(
    method: Method, code: grpc.StatusCode, seconds: float, request: RequestContext, reason: str
) -> dict[str, object]:
    fields: dict[str, object] = {
        "method": method.full_name,
        "code": "OK" if code is _OK else code.name,
        "duration_ms": round(seconds * 1000, 3),
        "peer_network": request.peer_network,
        "correlation_id": request.correlation_id,
        "trace_id": request.trace_id,
    }
    if request.principal is not None:
        fields["subject"] = request.principal.subject
    if reason:
        fields["reason"] = reason
    return fields


def traceparent_of(given: str | None, made: str) -> str:
    """Our span of the caller's trace, or of a new unsampled one where theirs is absent or broken (W3C level 1).

    :param made: the span's id and a new trace's, 48 hexadecimal digits that nobody else has.
    """
    match = _TRACEPARENT_PATTERN.fullmatch(given) if given else None
    if match:
        return f"00-{match[1]}-{made[:16]}-{match[2]}"
    return f"00-{made[16:]}-{made[:16]}-00"


def _new_ids() -> Iterator[str]:
    """80 hexadecimal digits for each call. They name it and are no secret, so they need no system call for their
    randomness; many are made at once, which costs a tenth."""
    while True:
        digits = _ids.randbytes(_ID_DIGITS // 2 * _IDS_AT_ONCE).hex()
        for start in range(0, len(digits), _ID_DIGITS):
            yield digits[start : start + _ID_DIGITS]


_made = _new_ids()


class PeerAddresses:
    """From gRPC's peer string, and behind trusted proxies from what they forward, to the caller's address.

    :param trusted_proxies: CIDR blocks; only a call that comes from one of them may name another address.
    """

    def __init__(self, trusted_proxies: Sequence[str] = ()) -> None:
        self._trusted = tuple(ipaddress.ip_network(block) for block in trusted_proxies)

    def address_of(self, peer: str, forwarded_for: str | None) -> str:
        """The IP address, or ``unix``, or ``unknown``."""
        address = _peer_ip(peer)
        if not self._trusted or not forwarded_for or not self._is_trusted(address):
            return address
        # From the right: each trusted proxy appended the address that it saw; what stands further left is hearsay.
        for hop in reversed(forwarded_for.split(",")):
            candidate = hop.strip()
            try:
                ipaddress.ip_address(candidate)
            except ValueError:
                return address
            address = candidate
            if not self._is_trusted(candidate):
                return candidate
        return address

    def _is_trusted(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        return any(ip in network for network in self._trusted)


@lru_cache(maxsize=4096)
def _peer_ip(peer: str) -> str:
    """``ipv4:1.2.3.4:5``, ``ipv6:[::1]:5`` (percent-encoded), ``unix:...``."""
    family, _, rest = unquote(peer).partition(":")
    if family == "unix":
        return "unix"
    if family == "ipv4":
        return rest.rpartition(":")[0]
    if family == "ipv6":
        address = rest.rpartition(":")[0].strip("[]").partition("%")[0]
        try:
            ip = ipaddress.IPv6Address(address)
        except ValueError:
            return "unknown"
        return str(ip.ipv4_mapped or ip)
    return "unknown"
