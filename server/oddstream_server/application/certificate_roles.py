"""Callers that show a client certificate instead of a key: from the names in it to a principal."""

from collections.abc import Mapping, Sequence

from oddstream_server.domain.errors import PermissionDenied
from oddstream_server.domain.principal import Principal, Role


class CertificateRoles:
    """:param roles: the role of each name. A name is a URI or DNS name of the certificate, or its common name.

    Who signs the certificates was settled by the handshake; this says what their holders may do.
    """

    def __init__(self, roles: Mapping[str, Role]) -> None:
        self._roles = dict(roles)

    def principal(self, names: Sequence[str], expire_time_us: int) -> Principal:
        """The caller by the first of its names that has a role.

        :param names: URIs, then DNS names, then the common name.
        :raises PermissionDenied: none has.
        """
        for name in names:
            role = self._roles.get(name)
            if role is not None:
                return Principal(f"cert:{name}", role, expire_time_us=expire_time_us)
        raise PermissionDenied("no name of the client certificate has a role here", metadata={"names": "|".join(names)})
