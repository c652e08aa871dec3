"""HashiCorp Vault and OpenBao over their HTTP API: AppRole, key/value (version 2), dynamic database roles, transit.

Five endpoints over the HTTP client that the server has anyway: the Python client of Vault blocks its thread, and brings
a second HTTP client.
"""

import asyncio
import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from oddstream_server.application.secrets.provider import Secret, SecretMissing, SecretReference, SecretStoreAway
from oddstream_server.secrets.requests import Answer, StoreSession

KEY_VALUE, DATABASE = "vault", "vault-database"
_FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class VaultConfig:
    url: str
    token: str | None = field(default=None, repr=False)
    """Instead of AppRole, e.g. from an agent beside the server."""
    role_id: str | None = None
    secret_id: str | None = field(default=None, repr=False)
    secret_id_file: Path | None = None
    """Read at each login, so that a new secret id needs no restart."""
    approle_mount: str = "approle"
    namespace: str | None = None
    ca_file: Path | None = None


class Vault:
    """Fulfils :class:`~oddstream_server.application.secrets.provider.SecretProvider` for ``vault:<mount>/<path>``
    (key/value) and ``vault-database:<mount>/<role>`` (a login made for us, with a lease).
    """

    def __init__(self, config: VaultConfig, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._monotonic = monotonic
        self._session = StoreSession("Vault", config.ca_file)
        self._token = config.token
        self._token_until = _FOREVER if config.token else 0.0
        self._logging_in = asyncio.Lock()

    def __repr__(self) -> str:
        return f"Vault({self._config.url})"

    async def fetch(self, reference: SecretReference) -> Secret:
        mount, _, path = reference.path.partition("/")
        if not path:
            raise SecretMissing(f"{reference}: write the mount and the path in it, e.g. vault:secret/oddstream")
        if reference.store == DATABASE:
            found = await self._read(reference, f"{mount}/creds/{quote(path)}")
            lease = found.get("lease_duration")
            return Secret(_texts(found.get("data")), float(lease) if isinstance(lease, int) and lease > 0 else None)
        found = await self._read(reference, f"{mount}/data/{quote(path)}")
        body = found.get("data")
        return Secret(_texts(body.get("data") if isinstance(body, dict) else None))

    async def encrypt(self, key: str, plaintext: bytes, belongs_to: str) -> str:
        """By transit; what comes back names the key's version (``vault:v3:...``)."""
        found = await self._transit("encrypt", key, {"plaintext": _base64(plaintext)}, belongs_to)
        return str(found["ciphertext"])

    async def decrypt(self, key: str, ciphertext: str, belongs_to: str) -> bytes:
        found = await self._transit("decrypt", key, {"ciphertext": ciphertext}, belongs_to)
        return base64.b64decode(str(found["plaintext"]))

    async def newest_version(self, key: str) -> int:
        """Of a transit key."""
        found = await self._read(SecretReference("transit", key), f"transit/keys/{quote(key)}")
        data = found.get("data")
        return int(data["latest_version"]) if isinstance(data, dict) else 0

    async def _transit(self, verb: str, key: str, body: Mapping[str, str], belongs_to: str) -> dict[str, Any]:
        # The associated data ties a ciphertext to what it was made for.
        whole = {**body, "associated_data": _base64(belongs_to.encode())}
        reference = SecretReference("transit", key)
        found = await self._ask(reference, "POST", f"transit/{verb}/{quote(key)}", orjson.dumps(whole))
        data = found.get("data")
        if not isinstance(data, dict):
            raise SecretStoreAway(f"{reference}: Vault's answer can't be read")
        return data

    async def _read(self, reference: SecretReference, path: str) -> dict[str, Any]:
        return await self._ask(reference, "GET", path, None)

    async def _ask(self, reference: SecretReference, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        answer = await self._request(method, path, body, await self._current_token())
        if answer.status == 403 and self._config.token is None:
            # The token may have been revoked before its time.
            answer = await self._request(method, path, body, await self._current_token(refused=self._token))
        if answer.status == 403:
            raise SecretStoreAway(f"{reference}: Vault does not let us read it")
        if answer.status == 404:
            raise SecretMissing(f"{reference}: Vault has no such secret")
        if answer.status != 200:
            raise SecretMissing(f"{reference}: Vault answers {answer.status}")
        return answer.json()

    async def _current_token(self, refused: str | None = None) -> str:
        async with self._logging_in:
            if self._token is None or self._token == refused or self._monotonic() > self._token_until:
                await self._login()
            assert self._token is not None
            return self._token

    async def _login(self) -> None:
        config = self._config
        secret_id = config.secret_id
        if config.secret_id_file is not None:
            try:
                secret_id = config.secret_id_file.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise SecretStoreAway(f"{config.secret_id_file} can't be read: {error.strerror}") from None
        body = orjson.dumps({"role_id": config.role_id, "secret_id": secret_id})
        answer = await self._request("POST", f"auth/{config.approle_mount}/login", body, None)
        granted = answer.json().get("auth")
        if answer.status != 200 or not isinstance(granted, dict):
            raise SecretStoreAway(f"Vault refuses the AppRole login ({answer.status})")
        self._token = str(granted["client_token"])
        lease = float(granted.get("lease_duration") or 0)
        self._token_until = self._monotonic() + lease * 2 / 3 if lease else _FOREVER

    async def _request(self, method: str, path: str, body: bytes | None, token: str | None) -> Answer:
        headers = {"X-Vault-Request": "true"}
        if token is not None:
            headers["X-Vault-Token"] = token
        if self._config.namespace is not None:
            headers["X-Vault-Namespace"] = self._config.namespace
        return await self._session.request(
            method, f"{self._config.url.rstrip('/')}/v1/{path}", headers=headers, body=body
        )


def _texts(data: object) -> dict[str, str]:
    return {str(name): str(value) for name, value in data.items()} if isinstance(data, dict) else {}


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
