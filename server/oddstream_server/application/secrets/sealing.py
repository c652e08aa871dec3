"""Sealed values: AES-256-GCM under versioned data keys, and blind indexes to find them by.

A sealed value is the key's version (2 bytes), a nonce (12 bytes), and the ciphertext with its tag. What it belongs to
is authenticated with it, so that one row's value can't be put into another row.
"""

import base64
import hashlib
import hmac
import os
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION_BYTES = 2
_NONCE_BYTES = 12
_KEY_BYTES = 32
_PSEUDONYM_CHARACTERS = 26


class SealBroken(Exception):
    """A sealed value can't be opened: it was changed, belongs elsewhere, or its key's version isn't held."""


class Sealer:
    """:param data_keys: by version, 32 bytes each; the highest version seals."""

    def __init__(self, data_keys: Mapping[int, bytes]) -> None:
        if not data_keys:
            raise ValueError("at least one data key is needed")
        wrong = sorted(version for version, key in data_keys.items() if len(key) != _KEY_BYTES)
        if wrong:
            raise ValueError(f"data keys of version {wrong} don't have {_KEY_BYTES} bytes")
        self._ciphers = {version: AESGCM(_derived(key, "seal")) for version, key in data_keys.items()}
        self._index_keys = {version: _derived(key, "blind index") for version, key in data_keys.items()}
        self._newest = max(data_keys)

    def __repr__(self) -> str:
        return f"Sealer(versions {sorted(self._ciphers)})"

    def seal(self, value: bytes, belongs_to: str) -> bytes:
        """:param belongs_to: e.g. ``subjects/sub_.../email``; opening needs the same."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._ciphers[self._newest].encrypt(nonce, value, belongs_to.encode())
        return self._newest.to_bytes(_VERSION_BYTES, "big") + nonce + sealed

    def seal_text(self, value: str, belongs_to: str) -> bytes:
        return self.seal(value.encode(), belongs_to)

    def open_text(self, sealed: bytes, belongs_to: str) -> str:
        return self.open(sealed, belongs_to).decode()

    def open(self, sealed: bytes, belongs_to: str) -> bytes:
        """:raises SealBroken:"""
        version = int.from_bytes(sealed[:_VERSION_BYTES], "big")
        cipher = self._ciphers.get(version)
        if cipher is None:
            raise SealBroken(f"data key version {version} is not held")
        body = sealed[_VERSION_BYTES:]
        try:
            return cipher.decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], belongs_to.encode())
        except InvalidTag:
            raise SealBroken(f"a value of {belongs_to.partition('/')[0]} was changed or belongs elsewhere") from None

    def is_current(self, sealed: bytes) -> bool:
        """False where a newer key should seal it again."""
        return int.from_bytes(sealed[:_VERSION_BYTES], "big") == self._newest

    def index(self, value: str, purpose: str) -> bytes:
        """What a value is found by without being told: a keyed hash under the newest key."""
        return self.indexes(value, purpose)[0]

    def pseudonym(self, value: str, purpose: str) -> str:
        """A name for somebody that is always the same and tells nobody who it is: without the key it can't even be
        tried out. Under the oldest key that is held: rotation doesn't rename people."""
        digest = self.indexes(value, purpose)[-1]
        return "sub_" + base64.b32encode(digest).decode().lower()[:_PSEUDONYM_CHARACTERS]

    def indexes(self, value: str, purpose: str) -> tuple[bytes, ...]:
        """The same under every key that is held, newest first: older rows are found too."""
        text = f"{purpose}\0{value}".encode()
        return tuple(
            hmac.digest(self._index_keys[version], text, hashlib.sha256)
            for version in sorted(self._index_keys, reverse=True)
        )


def _derived(key: bytes, use: str) -> bytes:
    """One key a use, so that none is used for two things."""
    return hmac.digest(key, f"oddstream {use}".encode(), hashlib.sha256)
