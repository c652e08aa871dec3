"""The chain as it is served: every layer with what it needs."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from oddstream_server.application.access.certificate_roles import CertificateRoles
from oddstream_server.application.access.denials import Denials
from oddstream_server.application.keys.authentication import Authenticator
from oddstream_server.application.ports import RateLimiter, StreamQuota
from oddstream_server.interceptors.access.authentication import AuthenticationInterceptor
from oddstream_server.interceptors.access.venue_scope import VenueScopeInterceptor
from oddstream_server.interceptors.call import Layer
from oddstream_server.interceptors.chain import Chain
from oddstream_server.interceptors.deadline import DeadlineInterceptor
from oddstream_server.interceptors.errors import ErrorsInterceptor
from oddstream_server.interceptors.limits.admission import AdmissionInterceptor
from oddstream_server.interceptors.limits.in_flight import InFlight
from oddstream_server.interceptors.limits.key_limit import KeyLimitInterceptor
from oddstream_server.interceptors.limits.peer_limit import PeerLimitInterceptor
from oddstream_server.interceptors.methods import method_table
from oddstream_server.interceptors.metrics import MetricsInterceptor
from oddstream_server.interceptors.request_context import PeerAddresses, RequestContextInterceptor
from oddstream_server.interceptors.validation import ValidationInterceptor
from oddstream_server.transport.contract import Contract


@dataclass(frozen=True, slots=True)
class ChainSettings:
    trusted_proxies: tuple[str, ...] = ()
    """CIDR blocks whose x-forwarded-for is believed."""
    unauthenticated_calls_per_minute: int = 100
    """An address."""
    units_per_minute: int = 6000
    """A key, unless its scopes say otherwise."""
    streams_per_key: int = 100
    certificate_roles: CertificateRoles | None = None
    """What client certificates are good for; None where the port asks for none."""
    maximum_unary_calls: int = 2000
    """In flight at once, in this process."""
    default_deadline_seconds: float = 10.0
    maximum_deadline_seconds: float = 30.0


def build_chain(
    settings: ChainSettings,
    contract: Contract,
    authenticator: Authenticator,
    limiter: RateLimiter,
    quota: StreamQuota,
    in_flight: InFlight,
    registry: CollectorRegistry,
    denials: Denials | None = None,
) -> Chain:
    methods = method_table(contract)
    layers = build_layers(settings, contract, authenticator, limiter, quota, in_flight, registry, denials)
    return Chain(layers, methods, in_flight)


def build_layers(
    settings: ChainSettings,
    contract: Contract,
    authenticator: Authenticator,
    limiter: RateLimiter,
    quota: StreamQuota,
    in_flight: InFlight,
    registry: CollectorRegistry,
    denials: Denials | None = None,
) -> tuple[Layer, ...]:
    """The layers in their order, outermost first."""
    methods = method_table(contract)
    return (
        RequestContextInterceptor(PeerAddresses(settings.trusted_proxies)),
        MetricsInterceptor(registry, methods.values()),
        ErrorsInterceptor(),
        AdmissionInterceptor(in_flight, settings.maximum_unary_calls),
        PeerLimitInterceptor(
            limiter, authenticator, settings.unauthenticated_calls_per_minute, settings.certificate_roles
        ),
        AuthenticationInterceptor(authenticator, settings.certificate_roles, denials),
        KeyLimitInterceptor(limiter, quota, settings.units_per_minute, settings.streams_per_key),
        DeadlineInterceptor(settings.default_deadline_seconds, settings.maximum_deadline_seconds),
        ValidationInterceptor(contract),
        VenueScopeInterceptor(),
    )
