"""Access tokens of an OpenID provider (JWT, RFC 9068): checked, and turned into a principal.

The key's type decides the algorithm, never the token: a token that says ``none`` or HS256 finds no key that may do so.
Why a token is refused is in the log, with none of its content; the caller gets one answer for every reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import jwt
import structlog

from oddstream_server.application.ports import Clock
from oddstream_server.domain.errors import PermissionDenied, Unauthenticated
from oddstream_server.domain.principal import Principal, Role
from oddstream_server.identity.key_set import ALGORITHMS, KeySet

log = structlog.get_logger()

_MAXIMUM_CHARACTERS = 8_192
_MAXIMUM_SUBJECT = 200
_TYPES = ("jwt", "at+jwt", "application/at+jwt")


@dataclass(frozen=True, slots=True)
class TokenRules:
    """:raises ValueError: an empty issuer or audience would let every token in."""

    issuer: str
    audience: str
    role_claim: tuple[str, ...] = ("roles",)
    """Path to the claim with the caller's roles or groups: a string, a list, or words between spaces."""
    roles: Mapping[str, Role] = field(default_factory=dict)
    """What each value of the claim is good for; the highest counts. A caller without one is refused."""
    leeway_seconds: float = 30.0
    """How far the provider's clock and ours may differ."""

    def __post_init__(self) -> None:
        if not self.issuer or not self.audience:
            raise ValueError("issuer and audience have to be named")


def invalid_token() -> Unauthenticated:
    return Unauthenticated("the access token is not valid; log in again", reason="ACCESS_TOKEN_INVALID")


class AccessTokens:
    """Fulfils :class:`~oddstream_server.application.keys.authentication.TokenVerifier`.

    :param pseudonym: of a token's subject; no log, row or error has the subject itself.
    """

    def __init__(self, rules: TokenRules, keys: KeySet, now: Clock, pseudonym: Callable[[str], str]) -> None:
        self._rules = rules
        self._keys = keys
        self._now = now
        self._pseudonym = pseudonym

    def recognises(self, token: str) -> bool:
        """True for what has the form of a JWT, good or bad: three parts with dots between."""
        return token.count(".") == 2

    async def verify(self, token: str) -> Principal:
        """:raises Unauthenticated: it is not good.
        :raises PermissionDenied: it is, and no role is mapped to what it claims.
        :raises Unavailable: the provider's keys can't be had.
        """
        if len(token) > _MAXIMUM_CHARACTERS:
            _refuse("it is too long")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError):
            _refuse("its header can't be read")
        key_id = header.get("kid")
        # Before any key is asked for: what names another algorithm is never worth a fetch.
        if not any(header.get("alg") in allowed for allowed in ALGORITHMS.values()):
            _refuse("its algorithm is not taken here")
        if not isinstance(key_id, str) or "crit" in header or str(header.get("typ", "JWT")).lower() not in _TYPES:
            _refuse("its header is not an access token's")
        key = await self._keys.key(key_id)
        if key is None:
            _refuse("the provider has no such key")
        return self._principal(self._claims(token, key))

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        rules = self._rules
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS[str(key.key_type)]),
                issuer=rules.issuer,
                audience=rules.audience,
                # Times are checked below, on the server's own clock.
                options={
                    "require": ["exp", "iss", "aud", "sub"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.PyJWTError as error:
            _refuse(type(error).__name__)
        now, leeway = self._now() / 1e6, rules.leeway_seconds
        expires, begins, issued = (_number(claims, name) for name in ("exp", "nbf", "iat"))
        if expires is None or expires + leeway <= now:
            _refuse("it has expired")
        if (begins is not None and begins - leeway > now) or (issued is not None and issued - leeway > now):
            _refuse("it is not valid yet")
        return claims

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= _MAXIMUM_SUBJECT or not subject.isprintable():
            _refuse("its subject can't be used")
        held = [self._rules.roles[name] for name in _words(claims, self._rules.role_claim) if name in self._rules.roles]
        if not held:
            raise PermissionDenied("no role here is mapped to what the access token claims")
        expire_us = int((float(claims["exp"]) + self._rules.leeway_seconds) * 1_000_000)
        # Some providers' subjects are e-mail addresses, and a principal's name is logged and audited.
        return Principal(self._pseudonym(subject), max(held), expire_time_us=expire_us)


def _refuse(why: str) -> NoReturn:
    log.info("an access token was refused", why=why)
    raise invalid_token()


def _number(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        _refuse(f"its {name} is not a time")
    return float(value)


def _words(claims: Mapping[str, Any], path: Sequence[str]) -> list[str]:
    value: Any = claims
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, str):
        return value.split()
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
