"""Etags: the version of a resource in a short opaque word."""

import hashlib

from oddstream_server.domain.errors import Aborted


def etag_of(*version: object) -> str:
    """Equal for equal parts, and for no others."""
    return hashlib.sha256("/".join(str(part) for part in version).encode()).hexdigest()[:16]


def require_etag(given: str, current: str) -> None:
    """Compare where one is given.

    :raises Aborted: ETAG_MISMATCH.
    """
    if given and given != current:
        raise Aborted("the resource has changed since it was read; read it again and decide anew")
