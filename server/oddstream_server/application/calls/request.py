"""What is known of the call that this task serves: its ids, its caller and how much time it has left.

It travels in a context variable, so that storage can put the correlation id into SQL comments and what is left of the
deadline into ``statement_timeout`` without either being handed through every use case.
"""

import ipaddress
import time
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

from oddstream_server.domain.principal import Principal


@dataclass(slots=True)
class RequestContext:
    """One rpc. The interceptors fill it in as the call passes them."""

    method: str
    """Full name, ``/oddstream.v1.MarketService/GetMarket``."""
    correlation_id: str
    traceparent: str
    """W3C: version, trace id, our span id, flags."""
    peer_address: str = ""
    """The caller's IP address (behind trusted proxies the one they name), or ``unix``. Not for logs."""
    principal: Principal | None = None
    deadline_seconds: float | None = None
    """On the monotonic clock; None where the call may last (streams, work outside of calls)."""

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]

    @property
    def peer_network(self) -> str:
        """What of the caller's address may be logged and kept."""
        return network_of(self.peer_address)

    def remaining_seconds(self) -> float | None:
        """What is left, at least 0; None where there is no deadline."""
        return None if self.deadline_seconds is None else max(0.0, self.deadline_seconds - time.monotonic())


current_request: ContextVar[RequestContext | None] = ContextVar("current_request", default=None)


def remaining_seconds() -> float | None:
    """What is left of the current call's deadline; None outside of calls and in streams."""
    request = current_request.get()
    return None if request is None else request.remaining_seconds()


def correlation_id() -> str:
    """The current call's correlation id; empty outside of calls."""
    request = current_request.get()
    return "" if request is None else request.correlation_id


def require_principal() -> Principal:
    """The caller that was authenticated.

    :raises LookupError: outside of an authenticated call, which is a fault of ours.
    """
    request = current_request.get()
    if request is None or request.principal is None:
        raise LookupError("no authenticated call in this context")
    return request.principal


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """The /24 or /48 of an address: enough to see who floods, and not a person's address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network(f"{ip}/{24 if ip.version == 4 else 48}", strict=False))
