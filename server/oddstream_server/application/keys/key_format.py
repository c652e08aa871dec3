"""The form of an API key: ``ods_<live|test>_<12 id>_<43 secret><6 checksum>``.

The secret's 43 characters of base 62 carry 256 bits. The checksum (CRC-32 of all that stands before it) lets garbage
and typing errors be refused without a query; it is no protection.
"""

import re
import secrets
import string
import zlib
from dataclasses import dataclass
from enum import StrEnum

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_ID_CHARACTERS = 12
_SECRET_CHARACTERS = 43
_CHECKSUM_CHARACTERS = 6
_PATTERN = re.compile(r"ods_(live|test)_([a-z2-7]{12})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})")

KEY_ID_PREFIX = "key_"


class KeyMode(StrEnum):
    LIVE = "live"
    TEST = "test"


@dataclass(frozen=True, slots=True, repr=False)
class KeyText:
    """A well-formed key. Its repr shows the id alone."""

    mode: KeyMode
    key_id: str
    """``key_`` and the 12 characters."""
    body: str
    """All but the checksum; what the HMAC is taken of."""

    @property
    def text(self) -> str:
        """The whole key, as it is shown once."""
        return self.body + checksum(self.body)

    @property
    def prefix(self) -> str:
        """What may be shown and logged for ever."""
        return self.body.rpartition("_")[0]

    def __repr__(self) -> str:
        return f"KeyText({self.prefix}_…)"


def checksum(body: str) -> str:
    """CRC-32 of the body in six characters of base 62."""
    number = zlib.crc32(body.encode())
    digits = []
    for _ in range(_CHECKSUM_CHARACTERS):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def generate(mode: KeyMode, key_id: str | None = None) -> KeyText:
    """A new key, or a new secret for the key with an id."""
    name = key_id.removeprefix(KEY_ID_PREFIX) if key_id else _new_name()
    secret = "".join(secrets.choice(_BASE62) for _ in range(_SECRET_CHARACTERS))
    return KeyText(mode, KEY_ID_PREFIX + name, f"ods_{mode.value}_{name}_{secret}")


def _new_name() -> str:
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_CHARACTERS))


def parse(text: str) -> KeyText | None:
    """None for what is no key of ours or was mistyped."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        return None
    body = text[:-_CHECKSUM_CHARACTERS]
    if checksum(body) != match[4]:
        return None
    return KeyText(KeyMode(match[1]), KEY_ID_PREFIX + match[2], body)
