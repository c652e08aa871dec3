"""The provider's public keys, fetched from its JWKS address, by key id.

A token with an unknown key id may mean that the provider has new keys, or that somebody makes tokens up: the set is
then fetched again, but no more often than every ``REFETCH_SECONDS``, whatever comes. While the provider is away the
keys that are held go on, for a day at most.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from oddstream_server.domain.errors import Unavailable
from oddstream_server.identity.provider_http import ProviderAway, ProviderHttp

log = structlog.get_logger()

FRESH_SECONDS = 600.0
"""A key that the provider took out is refused after so long."""
REFETCH_SECONDS = 10.0
STALE_SECONDS = 86_400.0
_MAXIMUM_KEYS = 100
ALGORITHMS = {"RSA": ("RS256",), "EC": ("ES256",)}
"""What a key type may sign with. Symmetric types and "none" have no row, so nothing can be confused with them."""


class KeySet:
    """One provider's keys.

    :param issuer: its URL; the JWKS address is in its discovery document.
    :param jwks_url: instead of the document's.
    """

    def __init__(
        self,
        issuer: str,
        jwks_url: str | None = None,
        ca_file: Path | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._http = ProviderHttp(ca_file)
        self._monotonic = monotonic
        self._keys: Mapping[str, PyJWK] = {}
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, key_id: str) -> PyJWK | None:
        """None where the provider has no such key.

        :raises Unavailable: no keys are held, or only too old ones, and the provider is away.
        """
        now = self._monotonic()
        age = None if self._fetched_at is None else now - self._fetched_at
        wanted = age is None or age > FRESH_SECONDS or key_id not in self._keys
        if wanted and (self._asked_at is None or now - self._asked_at >= REFETCH_SECONDS):
            await self._refetch()
        elif self._fetching is not None and wanted:
            await asyncio.shield(self._fetching)
        if self._fetched_at is None or self._monotonic() - self._fetched_at > STALE_SECONDS:
            raise Unavailable("access tokens can't be checked now; come again", retry_after_us=2_000_000)
        return self._keys.get(key_id)

    async def _refetch(self) -> None:
        if self._fetching is None:
            self._asked_at = self._monotonic()
            self._fetching = asyncio.create_task(self._fetch())
            self._fetching.add_done_callback(self._fetched)
        await asyncio.shield(self._fetching)

    def _fetched(self, done: "asyncio.Task[None]") -> None:
        self._fetching = None
        if not done.cancelled():
            done.exception()  # its waiters may all have been cancelled

    async def _fetch(self) -> None:
        try:
            if self._jwks_url is None:
                document = await self._http.get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
                if document.get("issuer") != self._issuer:
                    raise ProviderAway("its discovery document is another issuer's")
                self._jwks_url = self._same_scheme(str(document.get("jwks_uri", "")))
            found = (await self._http.get(self._jwks_url)).get("keys")
        except ProviderAway as error:
            log.warning("the OpenID provider's keys could not be fetched", why=str(error), keys_held=len(self._keys))
            return
        entries = found[:_MAXIMUM_KEYS] if isinstance(found, list) else []
        self._keys = dict(filter(None, map(_usable, entries)))
        self._fetched_at = self._monotonic()
        log.info("the OpenID provider's keys were fetched", keys=len(self._keys))

    def _same_scheme(self, url: str) -> str:
        if urlsplit(url).scheme != urlsplit(self._issuer).scheme:
            raise ProviderAway("its discovery document names keys at another scheme than its own")
        return url


def _usable(entry: Any) -> tuple[str, PyJWK] | None:
    """A key for signatures of a type that we take, under its id; None for every other."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    key_id, key_type = entry.get("kid"), entry.get("kty")
    if not isinstance(key_id, str) or key_type not in ALGORITHMS:
        return None
    algorithm = entry.get("alg") or ALGORITHMS[key_type][0]
    if algorithm not in ALGORITHMS[key_type]:
        return None
    try:
        return key_id, PyJWK(entry, algorithm)
    except (PyJWTError, ValueError, KeyError):
        return None
