"""Signed requests are good by the public key, and the private one shows nowhere."""

import base64
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from oddstream_server.domain.errors import InvalidArgument
from oddstream_server.venues.kalshi.config import KalshiConfig
from oddstream_server.venues.kalshi.signing import KalshiSigner

NOW = 1_786_000_000_123_456


def pem(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def clock() -> int:
    return NOW


_MESSAGE = b"1786000000123GET/trade-api/ws/v2"


def test_an_rsa_signature_is_pss_with_sha256_over_time_method_and_path() -> None:
    key = rsa.generate_private_key(65537, 2048)
    headers = KalshiSigner("key-id", pem(key), clock).headers("get", "/trade-api/ws/v2")
    assert headers["KALSHI-ACCESS-KEY"] == "key-id"
    assert headers["KALSHI-ACCESS-TIMESTAMP"] == "1786000000123"
    key.public_key().verify(
        base64.b64decode(headers["KALSHI-ACCESS-SIGNATURE"], validate=True),
        _MESSAGE,
        padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=32),
        hashes.SHA256(),
    )


def test_an_ed25519_key_signs_the_same_message() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    headers = KalshiSigner("key-id", pem(key), clock).headers("GET", "/trade-api/ws/v2")
    key.public_key().verify(base64.b64decode(headers["KALSHI-ACCESS-SIGNATURE"]), _MESSAGE)


@pytest.mark.parametrize(
    "make",
    [lambda: b"-----BEGIN nothing-----", lambda: b"", lambda: pem(ec.generate_private_key(ec.SECP256R1()))],
    ids=["garbage", "empty", "elliptic curve"],
)
def test_another_key_is_refused_with_the_way_out_and_without_its_text(make: Callable[[], bytes]) -> None:
    content = make()
    with pytest.raises(InvalidArgument) as refused:
        KalshiSigner("key-id", content, clock)
    assert "kalshi private key" in str(refused.value)
    assert "PEM that Kalshi showed" in str(refused.value)
    assert refused.value.__cause__ is None
    if content:
        assert content.decode() not in str(refused.value)


def test_no_repr_shows_the_private_key() -> None:
    content = pem(ed25519.Ed25519PrivateKey.generate())
    config = KalshiConfig(key_id="key-id", private_key_pem=content)
    body = content.decode().splitlines()[1]
    assert body not in repr(config)
    assert body not in repr(KalshiSigner("key-id", content, clock))
