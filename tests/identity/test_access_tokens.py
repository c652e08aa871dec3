"""Access tokens against a provider that serves its keys over HTTP; forgeries are made by hand, since no library makes
them."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from oddstream_server.application.keys.authentication import Authenticator
from oddstream_server.application.privacy.people import token_pseudonym
from oddstream_server.application.secrets.sealing import Sealer
from oddstream_server.domain.errors import PermissionDenied, Unauthenticated, Unavailable
from oddstream_server.domain.principal import Principal, Role
from oddstream_server.identity.access_tokens import AccessTokens, TokenRules
from oddstream_server.identity.key_set import FRESH_SECONDS, REFETCH_SECONDS, STALE_SECONDS, KeySet
from tests.grpc.memory_ports import MemoryKeys
from tests.grpc.running_server import PEPPERS

AUDIENCE = "oddstream"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_KEY = rsa.generate_private_key(65537, 2048)
ROLES = {"traders": Role.TRADER, "everyone": Role.VIEWER, "operators": Role.ADMIN}


def entry(key: Any, key_id: str, **more: str) -> dict[str, Any]:
    algorithm: Any = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig", **more}


@dataclass
class Provider:
    """Its discovery document and its keys."""

    keys: list[dict[str, Any]] = field(default_factory=lambda: [entry(RSA_KEY, "rsa"), entry(EC_KEY, "ec")])
    issuer: str = ""
    asked: int = 0
    away: bool = False

    async def document(self, request: web.Request) -> web.Response:
        return web.json_response({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"})

    async def key_set(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(status=503) if self.away else web.json_response({"keys": self.keys})


@dataclass
class Checked:
    provider: Provider
    tokens: AccessTokens
    keys: KeySet
    now: float = field(default_factory=time.time)
    monotonic: float = 1000.0

    def claims(self, **more: Any) -> dict[str, Any]:
        found = {
            "iss": self.provider.issuer,
            "aud": AUDIENCE,
            "sub": "person@example.com",
            "exp": int(self.now) + 300,
            "iat": int(self.now),
            "roles": ["traders", "everyone"],
            **more,
        }
        return {name: value for name, value in found.items() if value is not None}

    def token(
        self,
        key: Any = RSA_KEY,
        key_id: str | None = "rsa",
        algorithm: str = "RS256",
        typ: str = "at+jwt",
        **claims: Any,
    ) -> str:
        headers = {"typ": typ} | ({} if key_id is None else {"kid": key_id})
        return jwt.encode(self.claims(**claims), key, algorithm, headers=headers)

    async def refused(self, token: str) -> str:
        with pytest.raises(Unauthenticated) as caught:
            await self.tokens.verify(token)
        return f"{caught.value.reason}: {caught.value.message}"


def pseudonym(subject: str) -> str:
    return token_pseudonym(Sealer({1: b"d" * 32}), "an issuer", subject)


@pytest.fixture
async def checked() -> AsyncIterator[Checked]:
    provider = Provider()
    application = web.Application()
    application.router.add_get("/.well-known/openid-configuration", provider.document)
    application.router.add_get("/keys", provider.key_set)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    provider.issuer = f"http://127.0.0.1:{runner.addresses[0][1]}"
    keys = KeySet(provider.issuer, monotonic=lambda: made.monotonic)
    rules = TokenRules(provider.issuer, AUDIENCE, roles=ROLES, leeway_seconds=30)
    made = Checked(provider, AccessTokens(rules, keys, lambda: int(made.now * 1e6), pseudonym), keys)
    yield made
    await runner.cleanup()


def encoded(part: object) -> str:
    body = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def forged(header: dict[str, Any], claims: dict[str, Any], signature: Callable[[bytes], bytes]) -> str:
    signed = f"{encoded(header)}.{encoded(claims)}"
    return f"{signed}.{encoded(signature(signed.encode()))}"


@pytest.mark.parametrize(("key", "key_id", "algorithm"), [(RSA_KEY, "rsa", "RS256"), (EC_KEY, "ec", "ES256")])
async def test_a_good_token_is_its_holder_with_the_highest_of_its_roles(
    checked: Checked, key: Any, key_id: str, algorithm: str
) -> None:
    principal = await checked.tokens.verify(checked.token(key, key_id, algorithm))
    assert principal.role is Role.TRADER
    assert principal.key_id is None
    assert principal.expire_time_us == (int(checked.now) + 330) * 1_000_000
    # An address that is a subject shows nowhere, and is one caller all the same.
    assert "person" not in principal.subject
    again = await checked.tokens.verify(checked.token(roles="operators"))
    assert again.subject == principal.subject
    assert again.role is Role.ADMIN


async def test_every_bad_token_gets_the_same_answer(checked: Checked) -> None:
    now = int(checked.now)
    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    hs256 = {"alg": "HS256", "kid": "rsa", "typ": "at+jwt"}
    good = checked.token()
    head, body, signature = good.split(".")
    bad = {
        "alg none": forged({"alg": "none", "kid": "rsa"}, checked.claims(), lambda _: b""),
        "alg None": forged({"alg": "None", "kid": "rsa"}, checked.claims(), lambda _: b""),
        "hs256 with the public key": forged(hs256, checked.claims(), lambda s: hmac.digest(pem, s, hashlib.sha256)),
        "hs256 with nothing": forged(hs256, checked.claims(), lambda s: hmac.digest(b"", s, hashlib.sha256)),
        "no signature": f"{head}.{body}.",
        "other claims under a good signature": f"{head}.{encoded(checked.claims(roles=['operators']))}.{signature}",
        "another key": checked.token(OTHER_KEY),
        "another key type's algorithm": checked.token(EC_KEY, "rsa", "ES256"),
        "an algorithm that we don't take": checked.token(algorithm="RS512"),
        "a key that it brings itself": jwt.encode(
            checked.claims(), OTHER_KEY, "RS256", headers={"kid": "own", "jwk": entry(OTHER_KEY, "own")}
        ),
        "a key address that it brings itself": jwt.encode(
            checked.claims(), OTHER_KEY, "RS256", headers={"kid": "own", "jku": "http://127.0.0.1:1/"}
        ),
        "critical header": jwt.encode(
            checked.claims(), RSA_KEY, "RS256", headers={"kid": "rsa", "crit": ["x"], "x": 1}
        ),
        "unknown kid": checked.token(key_id="nobody's"),
        "no kid": checked.token(key_id=None),
        "another kind of token": checked.token(typ="logout+jwt"),
        "foreign audience": checked.token(aud="somebody else"),
        "foreign audiences": checked.token(aud=["a", "b"]),
        "no audience": checked.token(aud=None),
        "foreign issuer": checked.token(iss="http://127.0.0.1:1"),
        "no issuer": checked.token(iss=None),
        "expired": checked.token(exp=now - 31),
        "no expiry": checked.token(exp=None),
        "expiry that is no number": checked.token(exp=True),
        "endless": checked.token(exp=1e300),
        "not yet valid": checked.token(nbf=now + 31 + 5),
        "issued in the future": checked.token(iat=now + 31 + 5),
        "no subject": checked.token(sub=None),
        "empty subject": checked.token(sub=""),
        "subject with a line break": checked.token(sub="a\nb"),
        "endless token": checked.token(more="x" * 9000),
        "garbage": "a.b.c",
        "dots": "..",
    }
    answers = {kind: await checked.refused(token) for kind, token in bad.items()}
    assert set(answers.values()) == {"ACCESS_TOKEN_INVALID: the access token is not valid; log in again"}, answers


async def test_clocks_may_differ_by_the_leeway_and_no_more(checked: Checked) -> None:
    now = int(checked.now)
    assert await checked.tokens.verify(checked.token(exp=now - 28))
    assert await checked.tokens.verify(checked.token(nbf=now + 28, iat=now + 28))


async def test_a_caller_without_a_mapped_role_is_known_and_refused(checked: Checked) -> None:
    for roles in (None, [], ["others"], {"traders": True}, 7, [["traders"]]):
        with pytest.raises(PermissionDenied):
            await checked.tokens.verify(checked.token(roles=roles))


async def test_the_role_claim_may_be_nested(checked: Checked) -> None:
    rules = TokenRules(checked.provider.issuer, AUDIENCE, ("realm", "groups"), ROLES)
    tokens = AccessTokens(rules, checked.keys, lambda: int(checked.now * 1e6), pseudonym)
    assert (await tokens.verify(checked.token(realm={"groups": ["everyone"]}))).role is Role.VIEWER


async def test_new_keys_of_the_provider_are_found_and_made_up_ids_cost_it_little(checked: Checked) -> None:
    await checked.tokens.verify(checked.token())
    assert checked.provider.asked == 1
    for number in range(50):
        await checked.refused(checked.token(key_id=f"made-up-{number}"))
    assert checked.provider.asked == 1
    checked.provider.keys = [entry(OTHER_KEY, "new")]
    checked.monotonic += REFETCH_SECONDS + 1
    assert await checked.tokens.verify(checked.token(OTHER_KEY, "new"))
    assert checked.provider.asked == 2
    # What the provider took out is good no more.
    await checked.refused(checked.token())


async def test_a_key_that_was_taken_out_is_refused_once_the_set_is_no_longer_fresh(checked: Checked) -> None:
    await checked.tokens.verify(checked.token())
    checked.provider.keys = [entry(EC_KEY, "ec")]
    checked.monotonic += FRESH_SECONDS - 1
    assert await checked.tokens.verify(checked.token())
    checked.monotonic += 2
    await checked.refused(checked.token())


async def test_while_the_provider_is_away_the_keys_that_are_held_go_on_for_a_day(checked: Checked) -> None:
    await checked.tokens.verify(checked.token())
    checked.provider.away = True
    checked.monotonic += STALE_SECONDS - 1
    assert await checked.tokens.verify(checked.token())
    checked.monotonic += 2 + REFETCH_SECONDS
    with pytest.raises(Unavailable):
        await checked.tokens.verify(checked.token())


async def test_a_provider_that_was_never_reached_is_unavailable_and_not_a_bad_token(checked: Checked) -> None:
    checked.provider.away = True
    with pytest.raises(Unavailable):
        await checked.tokens.verify(checked.token())
    checked.provider.away = False
    checked.monotonic += REFETCH_SECONDS + 1
    assert await checked.tokens.verify(checked.token())


async def test_keys_that_could_be_confused_are_left_out(checked: Checked) -> None:
    secret = {"kty": "oct", "kid": "shared", "k": encoded(b"planted"), "alg": "HS256"}
    encryption = entry(OTHER_KEY, "encryption") | {"use": "enc"}
    checked.provider.keys += [secret, encryption, {"kty": "RSA", "kid": "broken"}, entry(OTHER_KEY, "pss", alg="PS256")]
    for key_id in ("shared", "encryption", "broken", "pss"):
        assert await checked.keys.key(key_id) is None
    assert await checked.keys.key("rsa") is not None


async def test_an_issuer_whose_document_names_another_is_not_believed(checked: Checked) -> None:
    keys = KeySet(checked.provider.issuer)
    checked.provider.issuer = "http://127.0.0.1:1"
    with pytest.raises(Unavailable):
        await keys.key("rsa")


@pytest.mark.parametrize(("issuer", "audience"), [("", "a"), ("i", "")])
def test_rules_that_would_let_every_token_in_can_not_be_made(issuer: str, audience: str) -> None:
    with pytest.raises(ValueError, match="have to be named"):
        TokenRules(issuer, audience)


async def test_the_authenticator_takes_keys_and_tokens_and_ends_a_tokens_streams_when_it_expires(
    checked: Checked,
) -> None:
    authenticator = Authenticator(
        MemoryKeys(), PEPPERS, lambda: int(checked.now * 1e6), lambda: checked.monotonic, tokens=checked.tokens
    )
    token = checked.token()
    principal: Principal = await authenticator.authenticate(token)
    assert authenticator.cached(token) == principal
    ended: list[Exception] = []
    with authenticator.watching(principal, ended.append):
        await authenticator._recheck()  # what its loop does every two seconds
        assert not ended
        checked.now += 331
        await authenticator._recheck()  # as above
    assert [error.reason for error in ended if isinstance(error, Unauthenticated)] == ["CREDENTIAL_REVOKED"]
    assert authenticator.cached(token) is None
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(token)
    without = Authenticator(MemoryKeys(), PEPPERS, lambda: 0)
    with pytest.raises(Unauthenticated, match="API key"):
        await without.authenticate(token)
