"""No key grants more than its maker has: else one narrow key of an admin would be worth all of them."""

import ipaddress
from collections.abc import Iterable, Sequence

from oddstream_server.domain.errors import PermissionDenied
from oddstream_server.domain.principal import Principal, Role, Scopes

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_COUNTS = ("calls_per_minute", "stream_limit", "backtest_limit")


def require_grantable(maker: Principal, role: Role, scopes: Scopes) -> None:
    """Check that role and scopes of a key are within its maker's. What the maker's scopes leave open, a key may leave
    open; what they narrow, it has to narrow as much or more. Expiry isn't compared: a key that could make none that
    outlives it would leave nobody to administer.

    :param scopes: of the key as it will be, its networks without host bits.
    :raises PermissionDenied: SCOPE_DENIED (PERMISSION_DENIED for the role); names what is wider, and the way out.
    """
    own = maker.scopes
    if role > maker.role:
        raise PermissionDenied(
            f"a key of the role {role.name.lower()} would hold more than yours, which is {maker.role.name.lower()}",
            metadata={"role": maker.role.name.lower(), "required_role": role.name.lower()},
        )
    _require_among("services", own.services, scopes.services)
    _require_among("venues", [v.value for v in own.venues], [v.value for v in scopes.venues])
    networks = [ipaddress.ip_network(network, strict=False) for network in own.networks]
    outside = [n for n in scopes.networks if not _within(ipaddress.ip_network(n, strict=False), networks)]
    if own.networks and (outside or not scopes.networks):
        raise _wider("networks", own.networks, outside)
    for name in _COUNTS:
        limit, wanted = getattr(own, name), getattr(scopes, name)
        if limit is not None and (wanted is None or wanted > limit):
            raise _wider(name, [f"at most {limit}"], [] if wanted is None else [str(wanted)])


def _require_among(name: str, own: Sequence[str], wanted: Sequence[str]) -> None:
    outside = [value for value in wanted if value not in own]
    if own and (outside or not wanted):
        raise _wider(name, own, outside)


def _within(network: _Network, blocks: Iterable[_Network]) -> bool:
    return any(
        block.version == network.version and network.subnet_of(block)  # type: ignore[arg-type]  # the versions agree
        for block in blocks
    )


def _wider(name: str, own: Sequence[str], outside: Sequence[str]) -> PermissionDenied:
    asked = f"{', '.join(outside)}" if outside else "nothing, which means all"
    return PermissionDenied(
        f"scopes.{name}: your own key is narrowed to {', '.join(own)}, and this one would have {asked}; a key never "
        "grants more than its maker has",
        reason="SCOPE_DENIED",
        metadata={"scope": name},
    )
