"""The server's own secret in every key's hash, by version, so that it can be changed while old keys stay good."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from oddstream_server.application.keys.key_format import KeyText

_MINIMUM_BYTES = 16


@dataclass(frozen=True, slots=True, repr=False)
class Peppers:
    """:param by_version: secrets of at least 16 bytes; the highest version is used for new keys."""

    by_version: Mapping[int, bytes]

    def __post_init__(self) -> None:
        if not self.by_version:
            raise ValueError("at least one pepper is needed")
        short = [version for version, pepper in self.by_version.items() if len(pepper) < _MINIMUM_BYTES]
        if short:
            raise ValueError(f"peppers of version {short} are shorter than {_MINIMUM_BYTES} bytes")

    @property
    def newest(self) -> int:
        return max(self.by_version)

    def proof(self, key: KeyText, version: int) -> bytes:
        """HMAC-SHA256 of the key.

        A slow hash would add nothing to 256 random bits, and would let anybody keep the server busy.

        :raises KeyError: the version is not held.
        """
        return hmac.digest(self.by_version[version], key.body.encode(), hashlib.sha256)

    def matches(self, key: KeyText, version: int, stored: bytes) -> bool:
        """Compared in constant time; False where the pepper of that version is not held any more."""
        known = version in self.by_version
        proof = self.proof(key, version if known else self.newest)
        return hmac.compare_digest(proof, stored) and known
