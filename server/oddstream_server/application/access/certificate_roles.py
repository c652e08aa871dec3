"""Callers that show a client certificate instead of a key: from the names in it to a principal."""

from collections.abc import Callable, Mapping, Sequence

from oddstream_server.domain.errors import PermissionDenied
from oddstream_server.domain.principal import Principal, Role


class CertificateRoles:
    """:param roles: the role of each name. A name is a URI or DNS name of the certificate, or its common name.
    :param pseudonym: of a name; rows and logs have it in the name's place, which may be a person's.

    Who signs the certificates was settled by the handshake; this says what their holders may do.
    """

    def __init__(self, roles: Mapping[str, Role], pseudonym: Callable[[str], str]) -> None:
        self._roles = dict(roles)
        self._pseudonym = pseudonym

    def role_of(self, names: Sequence[str]) -> Role | None:
        """Of the first name that has one."""
        return next((self._roles[name] for name in names if name in self._roles), None)

    def principal(self, names: Sequence[str], expire_time_us: int) -> Principal:
        """The caller by the first of its names that has a role.

        :param names: URIs, then DNS names, then the common name.
        :raises PermissionDenied: none has.
        """
        for name in names:
            role = self._roles.get(name)
            if role is not None:
                return Principal(self._pseudonym(name), role, expire_time_us=expire_time_us)
        raise PermissionDenied("no name of the client certificate has a role here", metadata={"names": "|".join(names)})
