"""Secrets by reference: where one is, what it says, and the port that stores of secrets fulfil.

A reference is ``<store>:<path>`` with an optional ``#<field>``: ``file:/run/secrets/database``,
``vault:secret/oddstream/database#password``, ``vault-database:database/oddstream``, ``aws:oddstream/database``,
``env:DATABASE_PASSWORD``. A secret is one or more named fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import orjson

WHOLE = "value"
"""The one field of a secret that is plain text."""


class SecretError(Exception):
    """Why a secret can't be had; names the reference and holds nothing of the secret."""


class SecretStoreAway(SecretError):
    """The store didn't answer, or didn't let us in: what is held may still be good."""


class SecretMissing(SecretError):
    """The store answers and has no such secret, or the secret has no such field."""


@dataclass(frozen=True, slots=True)
class SecretReference:
    store: str
    path: str
    field: str = ""

    @classmethod
    def parse(cls, text: str) -> "SecretReference":
        """:raises ValueError: with the rule."""
        store, colon, rest = text.strip().partition(":")
        path, _, name = rest.partition("#")
        if not colon or not store or not path:
            raise ValueError("a secret is named <store>:<path> or <store>:<path>#<field>, e.g. vault:secret/database")
        return cls(store, path, name)

    def __str__(self) -> str:
        return f"{self.store}:{self.path}" + (f"#{self.field}" if self.field else "")


@dataclass(frozen=True, slots=True)
class Secret:
    fields: Mapping[str, str] = field(repr=False)
    lease_seconds: float | None = None
    """How long it is good for; None for one that stands until it is changed."""

    @classmethod
    def from_text(cls, text: str) -> "Secret":
        """A JSON object is its fields; anything else is one field, without a newline at its end."""
        if text.lstrip().startswith("{"):
            try:
                found = orjson.loads(text)
            except orjson.JSONDecodeError:
                pass
            else:
                return cls({name: str(value) for name, value in found.items()})
        return cls({WHOLE: text.rstrip("\r\n")})

    def get(self, reference: SecretReference, *names: str) -> str:
        """The field that the reference names, else the first of the names that there is, else the whole text.

        :raises SecretMissing: there is none of them.
        """
        for name in (reference.field,) if reference.field else (*names, WHOLE):
            if name in self.fields:
                return self.fields[name]
        wanted = reference.field or " or ".join(names) or WHOLE
        raise SecretMissing(f"{reference}: has no field {wanted}")


class SecretProvider(Protocol):
    """One store of secrets."""

    async def fetch(self, reference: SecretReference) -> Secret:
        """The secret as the store has it now.

        :raises SecretStoreAway: ask again later.
        :raises SecretMissing: asking again won't help.
        """
        ...
