"""Kalshi's request signatures, from the venue's side."""

import base64
import time
from collections.abc import Mapping
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

CLOCK_TOLERANCE_MS = 60_000


class TestKey:
    """A key pair that only the emulator and its test know."""

    __test__ = False  # the name says what it is for; pytest must not collect it

    def __init__(self, key_id: str = "5f0c1a52-7c1d-4a6e-9a53-0c7a3f1d2b11") -> None:
        self.key_id = key_id

    @cached_property
    def _private(self) -> rsa.RSAPrivateKey:
        """Made when it is asked for: every worker imports every test, and each key takes a tenth of a second."""
        return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)

    @property
    def private_key_pem(self) -> bytes:
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def refusal(self, headers: Mapping[str, str], method: str, path: str) -> str | None:
        """Why the headers don't sign the request; None where they do."""
        if headers.get("KALSHI-ACCESS-KEY") != self.key_id:
            return "unknown key"
        timestamp = headers.get("KALSHI-ACCESS-TIMESTAMP", "")
        if not timestamp.isdigit() or abs(int(timestamp) - time.time_ns() // 1_000_000) > CLOCK_TOLERANCE_MS:
            return "timestamp is off"
        digest = hashes.SHA256()
        try:
            self._private.public_key().verify(
                base64.b64decode(headers.get("KALSHI-ACCESS-SIGNATURE", ""), validate=True),
                f"{timestamp}{method}{path}".encode(),
                padding.PSS(padding.MGF1(digest), salt_length=digest.digest_size),
                digest,
            )
        except (InvalidSignature, ValueError):
            return "signature is wrong"
        return None
