"""API keys: found by id, never by their secret, of which only a keyed hash is stored."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, insert, or_, select, update

from oddstream_server.application.ports import StoredKey
from oddstream_server.domain.errors import Aborted
from oddstream_server.domain.market import Venue
from oddstream_server.domain.principal import Principal, Role, Scopes
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.markets.documents import document_of
from oddstream_server.storage.tables import api_keys
from oddstream_server.storage.wake_ups import CHANNEL

_MINUTE_US = 60_000_000


class ApiKeyStore:
    """Fulfils :class:`~oddstream_server.application.ports.KeyStore`. Every change wakes the other processes up."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key_id: str) -> StoredKey | None:
        async def work(transaction: Transaction) -> StoredKey | None:
            row = (await transaction.core.execute(select(api_keys).where(api_keys.c.key_id == key_id))).first()
            return None if row is None else _key(row)

        return await self._database.read(work)

    async def create(self, key: StoredKey) -> None:
        """:raises Aborted: the id is taken; make another."""
        row = {
            "key_id": key.key_id,
            "owner": key.owner,
            "secret_hmac": key.secret_hmac,
            "pepper_version": key.pepper_version,
            "role": int(key.principal.role),
            "scopes": document_of(key.principal.scopes),
            "create_time": key.create_time_us,
            "expire_time": key.expire_time_us,
            "revoke_time": key.revoke_time_us,
            "environment": "live",
            "revision": 1,
        }
        async with self._database.transaction() as transaction:
            taken = await transaction.core.execute(
                select(api_keys.c.key_id).where(api_keys.c.key_id == key.key_id).with_for_update()
            )
            if taken.first() is not None:
                raise Aborted("the new key's id is taken; try again", reason="CONCURRENT_CHANGE")
            await transaction.core.execute(insert(api_keys).values(row))
            await transaction.driver.execute("SELECT pg_notify($1, 'keys')", CHANNEL)

    async def count(self) -> int:
        async def work(transaction: Transaction) -> int:
            return int((await transaction.core.execute(select(func.count()).select_from(api_keys))).scalar_one())

        return await self._database.read(work)

    async def revoke(self, key_id: str, now_us: int) -> bool:
        """Revoke for ever; False where there is no such key or it was revoked before."""
        async with self._database.transaction() as transaction:
            done = await transaction.core.execute(
                update(api_keys)
                .where(api_keys.c.key_id == key_id, api_keys.c.revoke_time.is_(None))
                .values(revoke_time=now_us)
                .returning(api_keys.c.key_id)
            )
            revoked = done.first() is not None
            if revoked:
                await transaction.driver.execute("SELECT pg_notify($1, 'keys')", CHANNEL)
        return revoked

    async def touch(self, key_ids: Sequence[str], now_us: int) -> None:
        """A time less than a minute after the one that is stored is not worth a write."""
        async with self._database.transaction() as transaction:
            await transaction.core.execute(
                update(api_keys)
                .where(
                    api_keys.c.key_id.in_(sorted(set(key_ids))),
                    or_(api_keys.c.last_used_time.is_(None), api_keys.c.last_used_time <= now_us - _MINUTE_US),
                )
                .values(last_used_time=now_us)
            )


def scopes_of(document: Mapping[str, Any]) -> Scopes:
    return Scopes(
        services=tuple(document["services"]),
        venues=tuple(Venue(v) for v in document["venues"]),
        networks=tuple(document["networks"]),
        calls_per_minute=document["calls_per_minute"],
        # Keys of the first release have no limits of these two.
        stream_limit=document.get("stream_limit"),
        backtest_limit=document.get("backtest_limit"),
    )


def _key(row: Any) -> StoredKey:
    return StoredKey(
        key_id=row.key_id,
        owner=row.owner,
        secret_hmac=bytes(row.secret_hmac),
        pepper_version=row.pepper_version,
        principal=Principal(
            subject=row.key_id,
            role=Role(row.role),
            scopes=scopes_of(row.scopes),
            key_id=row.key_id,
            expire_time_us=row.expire_time,
        ),
        create_time_us=row.create_time,
        revoke_time_us=row.revoke_time,
        expire_time_us=row.expire_time,
        previous_secret_hmac=row.previous_secret_hmac,
        previous_pepper_version=row.previous_pepper_version,
        overlap_end_time_us=row.overlap_end_time,
    )
