"""API keys, by id."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from oddstream_server.domain.principal import Principal


@dataclass(frozen=True, slots=True)
class StoredKey:
    key_id: str
    owner: str
    """A label for operators; no personal data."""
    secret_hmac: bytes
    pepper_version: int
    principal: Principal
    create_time_us: int
    revoke_time_us: int | None
    expire_time_us: int | None
    previous_secret_hmac: bytes | None = None
    """Of the secret before the last rotation, which is good until ``overlap_end_time_us``."""
    previous_pepper_version: int | None = None
    overlap_end_time_us: int | None = None


class KeyStore(Protocol):
    async def find(self, key_id: str) -> StoredKey | None: ...

    async def create(self, key: StoredKey) -> None: ...

    async def count(self) -> int: ...

    async def revoke(self, key_id: str, now_us: int) -> bool: ...

    async def touch(self, key_ids: Sequence[str], now_us: int) -> None:
        """Write last-used times; called at most once a minute a key."""
        ...
