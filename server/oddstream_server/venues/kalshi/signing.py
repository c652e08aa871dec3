"""Signatures of Kalshi requests: RSA-PSS with SHA-256, or Ed25519, over time, method and path."""

import base64
from collections.abc import Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from oddstream_server.application.ports import Clock
from oddstream_server.domain.errors import FieldViolation, InvalidArgument


class KalshiSigner:
    """Makes the three headers of a signed request. Neither its repr nor its errors show the key.

    :param key_id: the key's id at Kalshi, a UUID.
    :param private_key_pem: an unencrypted PEM of an RSA or Ed25519 key.
    :raises InvalidArgument: the PEM can't be read or holds a key of another kind.
    """

    def __init__(self, key_id: str, private_key_pem: bytes, clock: Clock) -> None:
        self._key_id = key_id
        self._clock = clock
        try:
            key = load_pem_private_key(private_key_pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise _unusable("can't be read") from None
        if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
            raise _unusable("is neither an RSA nor an Ed25519 key")
        self._key: RSAPrivateKey | Ed25519PrivateKey = key

    def __repr__(self) -> str:
        return "KalshiSigner(...)"

    def headers(self, method: str, path: str) -> Mapping[str, str]:
        """The access headers.

        :param path: the URL's path with ``/trade-api/v2`` or ``/trade-api/ws/v2``, without host and query.
        """
        timestamp_ms = str(self._clock() // 1_000)
        message = f"{timestamp_ms}{method.upper()}{path}".encode()
        return {
            "KALSHI-ACCESS-KEY": self._key_id,
            "KALSHI-ACCESS-TIMESTAMP": timestamp_ms,
            "KALSHI-ACCESS-SIGNATURE": base64.b64encode(self._sign(message)).decode("ascii"),
        }

    def _sign(self, message: bytes) -> bytes:
        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(message)
        digest = hashes.SHA256()
        return self._key.sign(message, padding.PSS(padding.MGF1(digest), salt_length=digest.digest_size), digest)


def _unusable(why: str) -> InvalidArgument:
    return InvalidArgument(
        [
            FieldViolation(
                "kalshi private key", f"{why}; give the unencrypted PEM that Kalshi showed at the key's creation"
            )
        ]
    )
