"""Access tokens, good and bad, at every method of the contract."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from oddstream_server.domain.principal import Role
from oddstream_server.identity.access_tokens import AccessTokens, TokenRules
from oddstream_server.interceptors.assembly import ChainSettings
from tests.grpc.running_server import CONTRACT, Running, World, bearer, failure_of, now_us, running

ISSUER, AUDIENCE, SUBJECT = "https://login.example.org", "oddstream", "planted.person@example.org"
OWN, FOREIGN = (rsa.generate_private_key(65537, 2048) for _ in range(2))
INVALID = (grpc.StatusCode.UNAUTHENTICATED, "ACCESS_TOKEN_INVALID", "the access token is not valid; log in again")


class OneKey:
    """The provider's key set, without a provider."""

    async def key(self, key_id: str) -> jwt.PyJWK | None:
        shown = RSAAlgorithm.to_jwk(OWN.public_key(), as_dict=True)
        return jwt.PyJWK({**shown, "kid": "own", "use": "sig"}) if key_id == "own" else None


def world_with_tokens() -> World:
    rules = TokenRules(ISSUER, AUDIENCE, roles={role.name: role for role in Role})
    keys: Any = OneKey()
    tokens = AccessTokens(
        rules, keys, now_us, lambda subject: "sub_" + hashlib.sha256(subject.encode()).hexdigest()[:26]
    )
    return World(settings=ChainSettings(units_per_minute=10_000_000), tokens=tokens)


def claims(**more: Any) -> dict[str, Any]:
    now = int(time.time())
    body = {"iss": ISSUER, "aud": AUDIENCE, "sub": SUBJECT, "exp": now + 300, "iat": now, "roles": ["ADMIN"]}
    return {name: value for name, value in (body | more).items() if value is not None}


def token(key: rsa.RSAPrivateKey = OWN, key_id: str = "own", **more: Any) -> str:
    return jwt.encode(claims(**more), key, "RS256", headers={"kid": key_id, "typ": "at+jwt"})


def forged(algorithm: str, secret: bytes | None) -> str:
    """By hand: no library makes these."""

    def coded(body: bytes) -> str:
        return base64.urlsafe_b64encode(body).rstrip(b"=").decode()

    header = {"alg": algorithm, "kid": "own", "typ": "at+jwt"}
    signed = f"{coded(json.dumps(header).encode())}.{coded(json.dumps(claims()).encode())}"
    proof = b"" if secret is None else hmac.digest(secret, signed.encode(), "sha256")
    return f"{signed}.{coded(proof)}"


def bad_tokens() -> dict[str, str]:
    now = int(time.time())
    public = OWN.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {
        "no algorithm": forged("none", None),
        "HS256 with the public key": forged("HS256", public),
        "another audience": token(aud="another"),
        "another issuer": token(iss="https://another.example.org"),
        "expired": token(exp=now - 60),
        "not yet valid": token(nbf=now + 60),
        "an unknown key": token(key_id="unknown"),
        "another's signature": token(FOREIGN),
        "no subject": token(sub=None),
        "no end": token(exp=None),
    }


async def outcome(server: Running, method: str, text: str) -> tuple[grpc.StatusCode, str, str]:
    server.world.limiter.taken.clear()  # type: ignore[attr-defined]  # the limiter in memory
    call: Any = server.channel.unary_stream(method)
    failure = await failure_of(call(b"\xff\xff", metadata=bearer(text)))
    assert b"planted" not in failure.everything
    return failure.code, failure.reason, failure.text


async def test_no_method_accepts_a_bad_token_and_all_bad_tokens_are_answered_alike() -> None:
    bad = bad_tokens()
    async with running(world_with_tokens()) as server:
        for method in CONTRACT.methods:
            for kind, text in bad.items():
                assert await outcome(server, method, text) == INVALID, (method, kind)


async def test_a_good_token_opens_what_its_role_opens_and_nothing_above() -> None:
    async with running(world_with_tokens()) as server:
        good = {role: token(roles=[role.name]) for role in Role}
        unmapped = token(roles=["STRANGER"])
        for name, method in CONTRACT.methods.items():
            for role, text in good.items():
                expected = "MALFORMED_REQUEST" if role >= method.role else "PERMISSION_DENIED"
                assert (await outcome(server, name, text))[1] == expected, (name, role)
            assert (await outcome(server, name, unmapped))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_where_no_provider_is_set_up_a_token_is_a_bad_key() -> None:
    async with running() as server:
        method = next(iter(CONTRACT.methods))
        assert (await outcome(server, method, token()))[1] == "API_KEY_INVALID"
