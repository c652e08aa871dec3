"""Who may call what: the rule of each rpc against the caller's role and scopes. What isn't declared is refused."""

import ipaddress
from dataclasses import dataclass

from oddstream_server.domain.errors import PermissionDenied
from oddstream_server.domain.principal import Principal, Role


@dataclass(frozen=True, slots=True)
class Access:
    """What the contract declares of an rpc."""

    permission: str
    """``<noun>.<verb>``"""
    role: Role
    """The lowest role that holds the permission."""
    cost: int = 1
    """Units that a call takes from the caller's rate limit, at least 1."""


def authorize(principal: Principal, access: Access | None, service: str, peer_address: str) -> None:
    """Check role, service scope and network scope of a call, in this order.

    :param service: short name, e.g. ``SignalService``.
    :param peer_address: the caller's IP address, or ``unix``.
    :raises PermissionDenied: the metadata names what was required.
    """
    if access is None:
        raise PermissionDenied("this method is declared for nobody", metadata={"service": service})
    if principal.role < access.role:
        raise PermissionDenied(
            f"needs the permission {access.permission}, which begins with the role {access.role.name.lower()}",
            metadata={
                "permission": access.permission,
                "required_role": access.role.name.lower(),
                "role": principal.role.name.lower(),
            },
        )
    if principal.scopes.services and service not in principal.scopes.services:
        raise PermissionDenied(
            f"the key's scopes leave out {service}", reason="SCOPE_DENIED", metadata={"service": service}
        )
    if principal.scopes.networks and not _within(peer_address, principal.scopes.networks):
        raise PermissionDenied("the key may not be used from this address", reason="NETWORK_DENIED")


def _within(peer_address: str, networks: tuple[str, ...]) -> bool:
    try:
        address = ipaddress.ip_address(peer_address)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return any(address in ipaddress.ip_network(network) for network in networks)
