"""The operator's API keys at venues, kept in envelopes: each is sealed with a data key of its own (AES-256-GCM), and
that data key is wrapped by a key that is not in the database. A dump of the database opens nothing.

Changing the wrapping key re-wraps data keys; :meth:`VenueCredentials.reseal` does both at once, with a new data key.
"""

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from oddstream_server.application.ports import Clock
from oddstream_server.domain.market import Venue

_NONCE_BYTES = 12
_DATA_KEY_BITS = 256


class CredentialUnreadable(Exception):
    """Names the venue and the wrapping key; holds nothing of the credential."""


@dataclass(frozen=True, slots=True)
class VenueCredential:
    key_id: str
    private_key: str = field(repr=False)
    """PEM."""


@dataclass(frozen=True, slots=True)
class SealedCredential:
    """A row: what lies in the database."""

    venue: Venue
    sealed: bytes
    """Nonce (12 bytes) and ciphertext with its tag."""
    wrapped_data_key: bytes
    wrapping_key: str
    """Name and version of the key that unwraps, e.g. ``keyring/2`` or ``transit/venues/3``."""
    revision: int
    update_time_us: int


class VenueCredentialStore(Protocol):
    async def find(self, venue: Venue) -> SealedCredential | None: ...

    async def all(self) -> Sequence[SealedCredential]: ...

    async def put(self, credential: SealedCredential, *, replaces: int | None) -> bool:
        """Store a row.

        :param replaces: the revision that it replaces; None where there was none.
        :return: False where another revision is there by now, and nothing was written.
        """
        ...

    async def remove(self, venue: Venue) -> bool: ...


class KeyWrapper(Protocol):
    """Wraps data keys with a key that never is in the database."""

    async def newest(self) -> str:
        """Name and version of the key that wraps now."""
        ...

    async def wrap(self, data_key: bytes, belongs_to: str) -> tuple[bytes, str]:
        """The wrapped key, and the name and version of what wrapped it."""
        ...

    async def unwrap(self, wrapped: bytes, wrapping_key: str, belongs_to: str) -> bytes:
        """:raises CredentialUnreadable: the version isn't held, or the wrapped key was changed or belongs elsewhere."""
        ...


class KeyringWrapper:
    """Wraps with the data keys of the server's keyring, by version.

    :param data_keys: 32 bytes each; the highest version wraps.
    """

    _NAME = "keyring"

    def __init__(self, data_keys: Mapping[int, bytes]) -> None:
        # A key of its own, so that none is used for two things.
        self._ciphers = {version: AESGCM(_derived(key)) for version, key in data_keys.items()}

    def __repr__(self) -> str:
        return f"KeyringWrapper(versions {sorted(self._ciphers)})"

    async def newest(self) -> str:
        return f"{self._NAME}/{max(self._ciphers)}"

    async def wrap(self, data_key: bytes, belongs_to: str) -> tuple[bytes, str]:
        version = max(self._ciphers)
        return _encrypt(self._ciphers[version], data_key, belongs_to), f"{self._NAME}/{version}"

    async def unwrap(self, wrapped: bytes, wrapping_key: str, belongs_to: str) -> bytes:
        name, _, version = wrapping_key.rpartition("/")
        cipher = self._ciphers.get(int(version)) if name == self._NAME and version.isdigit() else None
        if cipher is None:
            raise CredentialUnreadable(f"{belongs_to}: its wrapping key {wrapping_key} is not held here")
        return _decrypt(cipher, wrapped, belongs_to)


class VenueCredentials:
    """Set, read, remove and re-seal them."""

    def __init__(self, store: VenueCredentialStore, wrapper: KeyWrapper, now: Clock) -> None:
        self._store = store
        self._wrapper = wrapper
        self._now = now

    async def set(self, venue: Venue, credential: VenueCredential) -> None:
        """Seal and store; one that is there is replaced."""
        while True:
            known = await self._store.find(venue)
            revision = known.revision if known else None
            if await self._store.put(await self._sealed(venue, credential, revision), replaces=revision):
                return

    async def get(self, venue: Venue) -> VenueCredential | None:
        """:raises CredentialUnreadable: there is one, and its keys don't open it."""
        row = await self._store.find(venue)
        return None if row is None else await self._opened(row)

    async def list(self) -> Sequence[SealedCredential]:
        """As they lie in the database."""
        return await self._store.all()

    async def remove(self, venue: Venue) -> bool:
        """False where there was none."""
        return await self._store.remove(venue)

    async def reseal(self) -> int:
        """Seal every one anew that isn't wrapped by the newest key; answers how many. Run again, it does the rest."""
        newest = await self._wrapper.newest()
        done = 0
        for row in await self._store.all():
            if row.wrapping_key == newest:
                continue
            fresh = await self._sealed(row.venue, await self._opened(row), row.revision)
            done += await self._store.put(fresh, replaces=row.revision)
        return done

    async def _sealed(self, venue: Venue, credential: VenueCredential, revision: int | None) -> SealedCredential:
        data_key = AESGCM.generate_key(_DATA_KEY_BITS)
        place = _place(venue)
        wrapped, wrapping_key = await self._wrapper.wrap(data_key, place)
        body = orjson.dumps({"key_id": credential.key_id, "private_key": credential.private_key})
        return SealedCredential(
            venue,
            _encrypt(AESGCM(data_key), body, place),
            wrapped,
            wrapping_key,
            (revision or 0) + 1,
            self._now(),
        )

    async def _opened(self, row: SealedCredential) -> VenueCredential:
        place = _place(row.venue)
        data_key = await self._wrapper.unwrap(row.wrapped_data_key, row.wrapping_key, place)
        body = orjson.loads(_decrypt(AESGCM(data_key), row.sealed, place))
        return VenueCredential(body["key_id"], body["private_key"])


def _place(venue: Venue) -> str:
    """What a row is sealed for, so that it opens nowhere else."""
    return f"venue_credentials/{venue.value}"


def _encrypt(cipher: AESGCM, value: bytes, belongs_to: str) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, value, belongs_to.encode())


def _decrypt(cipher: AESGCM, sealed: bytes, belongs_to: str) -> bytes:
    try:
        return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], belongs_to.encode())
    except (InvalidTag, ValueError):
        raise CredentialUnreadable(f"{belongs_to}: it was changed, or belongs elsewhere") from None


def _derived(key: bytes) -> bytes:
    return hmac.digest(key, b"oddstream wrap venue credentials", hashlib.sha256)
