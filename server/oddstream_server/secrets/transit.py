"""Data keys wrapped by a key that stays inside Vault (transit)."""

from oddstream_server.application.secrets.provider import SecretMissing
from oddstream_server.application.secrets.venue_credentials import CredentialUnreadable
from oddstream_server.secrets.vault import Vault


class TransitWrapper:
    """Fulfils :class:`~oddstream_server.application.secrets.venue_credentials.KeyWrapper`.

    :param key: name of a transit key of a type that takes associated data (aes256-gcm96, the default).
    """

    def __init__(self, vault: Vault, key: str) -> None:
        self._vault = vault
        self._key = key

    async def newest(self) -> str:
        return f"transit/{self._key}/{await self._vault.newest_version(self._key)}"

    async def wrap(self, data_key: bytes, belongs_to: str) -> tuple[bytes, str]:
        wrapped = await self._vault.encrypt(self._key, data_key, belongs_to)
        version = wrapped.split(":")[1].removeprefix("v")
        return wrapped.encode(), f"transit/{self._key}/{version}"

    async def unwrap(self, wrapped: bytes, wrapping_key: str, belongs_to: str) -> bytes:
        if not wrapping_key.startswith(f"transit/{self._key}/"):
            raise CredentialUnreadable(f"{belongs_to}: its wrapping key {wrapping_key} is not the one that is set up")
        try:
            return await self._vault.decrypt(self._key, wrapped.decode(), belongs_to)
        except SecretMissing as error:
            raise CredentialUnreadable(f"{belongs_to}: {error}") from None
