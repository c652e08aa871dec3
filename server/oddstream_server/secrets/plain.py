"""Secrets in environment variables and in files, as container platforms lay them down."""

from collections.abc import Mapping
from pathlib import Path

from oddstream_server.application.secrets.provider import Secret, SecretMissing, SecretReference, SecretStoreAway

_MAXIMUM_BYTES = 1024 * 1024


class EnvironmentSecrets:
    """``env:NAME``. A process's environment doesn't change, so neither do these."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def __repr__(self) -> str:
        return "EnvironmentSecrets(...)"

    async def fetch(self, reference: SecretReference) -> Secret:
        text = self._environment.get(reference.path)
        if not text:
            raise SecretMissing(f"{reference}: the variable is not set")
        return Secret.from_text(text)


class FileSecrets:
    """``file:/path``. Read at each request, so that a file that is replaced is a secret that is changed."""

    async def fetch(self, reference: SecretReference) -> Secret:
        path = Path(reference.path)
        try:
            if path.stat().st_size > _MAXIMUM_BYTES:
                raise SecretMissing(f"{reference}: the file is larger than a secret can be")
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            # A platform that changes a secret may take the file away for a moment.
            raise SecretStoreAway(f"{reference}: the file is not there") from None
        except UnicodeDecodeError:
            raise SecretMissing(f"{reference}: the file is not UTF-8 text") from None
        except OSError as error:
            raise SecretStoreAway(f"{reference}: {error.strerror}") from None
        if not text.strip():
            raise SecretStoreAway(f"{reference}: the file is empty")
        return Secret.from_text(text)
