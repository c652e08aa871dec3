"""API keys and the people who own them, within changes and for reading."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, delete, not_, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from oddstream_server.application.ports import ApiKeyFilter, Key, KeyChange, Page, SealedSubject, StoredKey
from oddstream_server.domain.api_key import ApiKey, ApiKeyState
from oddstream_server.domain.errors import Aborted
from oddstream_server.domain.principal import Role
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.keys import scopes_of
from oddstream_server.storage.markets.documents import document_of
from oddstream_server.storage.tables import Instant, api_keys, subjects
from oddstream_server.storage.wake_ups import CHANNEL


class KeyRecords:
    """Fulfils :class:`~oddstream_server.application.ports.KeyRecords` in a transaction. Every process hears of a
    change when it commits."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def get(self, key_id: str) -> ApiKey | None:
        row = (await self._transaction.core.execute(select(api_keys).where(api_keys.c.key_id == key_id))).first()
        return None if row is None else api_key_of(row)

    async def all_admins(self) -> Sequence[ApiKey]:
        return await self._select(api_keys.c.role == int(Role.ADMIN), api_keys.c.revoke_time.is_(None))

    async def of_subject(self, subject_id: str) -> Sequence[ApiKey]:
        return await self._select(api_keys.c.subject_id == subject_id)

    async def _select(self, *conditions: ColumnElement[bool]) -> Sequence[ApiKey]:
        rows = await self._transaction.core.execute(select(api_keys).where(*conditions).order_by(api_keys.c.key_id))
        return [api_key_of(row) for row in rows]

    async def add(self, key: StoredKey, environment: str, subject_id: str | None) -> None:
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
            "environment": environment,
            "subject_id": subject_id,
            "revision": 1,
        }
        added = await self._transaction.core.execute(
            upsert(api_keys).values(row).on_conflict_do_nothing().returning(api_keys.c.key_id)
        )
        if added.first() is None:
            raise Aborted("the new key's id is taken; try again", reason="CONCURRENT_CHANGE")
        await self._notify()

    async def update(self, key_id: str, change: KeyChange) -> None:
        await self._set(
            key_id,
            owner=change.display_name,
            role=int(change.role),
            scopes=document_of(change.scopes),
            subject_id=change.subject_id,
            expire_time=change.expire_time_us,
        )

    async def rotate(
        self,
        key_id: str,
        secret_hmac: bytes,
        pepper_version: int,
        now_us: int,
        overlap_end_us: int,
        expire_time_us: int | None,
    ) -> None:
        await self._set(
            key_id,
            previous_secret_hmac=api_keys.c.secret_hmac,
            previous_pepper_version=api_keys.c.pepper_version,
            secret_hmac=secret_hmac,
            pepper_version=pepper_version,
            rotate_time=now_us,
            overlap_end_time=overlap_end_us,
            expire_time=expire_time_us,
        )

    async def revoke(self, key_id: str, now_us: int) -> None:
        await self._set(key_id, revoke_time=now_us)

    async def _set(self, key_id: str, **values: Any) -> None:
        await self._transaction.core.execute(
            update(api_keys).where(api_keys.c.key_id == key_id).values(revision=api_keys.c.revision + 1, **values)
        )
        await self._notify()

    async def _notify(self) -> None:
        await self._transaction.driver.execute("SELECT pg_notify($1, 'keys')", CHANNEL)


class SubjectRecords:
    """Fulfils :class:`~oddstream_server.application.ports.SubjectRecords` in a transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def find_by_email(self, indexes: Sequence[bytes]) -> SealedSubject | None:
        return await _by_email(self._transaction, indexes)

    async def get(self, subject_id: str) -> SealedSubject | None:
        statement = select(subjects).where(subjects.c.subject_id == subject_id)
        row = (await self._transaction.core.execute(statement)).first()
        return None if row is None else _subject_of(row)

    async def put(self, subject: SealedSubject) -> None:
        row = {
            "subject_id": subject.subject_id,
            "email_index": subject.email_index,
            "name_sealed": subject.name_sealed,
            "email_sealed": subject.email_sealed,
            "create_time": subject.create_time_us,
        }
        await self._transaction.core.execute(
            upsert(subjects).values(row).on_conflict_do_update(index_elements=["subject_id"], set_=row)
        )

    async def remove(self, subject_id: str) -> None:
        await self._transaction.core.execute(delete(subjects).where(subjects.c.subject_id == subject_id))

    async def record_erasure(self, subject_id: str, key_ids: Sequence[str], now_us: int) -> None:
        await self._transaction.driver.execute(
            "INSERT INTO erasures (subject_id, key_ids, erase_time) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            subject_id,
            list(key_ids),
            now_us,
        )


class KeyDirectory:
    """Fulfils :class:`~oddstream_server.application.ports.KeyDirectory`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_keys(self, where: ApiKeyFilter, after: Key | None, limit: int, now_us: int) -> Page[ApiKey]:
        statement = select(api_keys).where(*_conditions(where, now_us)).order_by(api_keys.c.key_id)
        if after is not None:
            statement = statement.where(api_keys.c.key_id > str(after[0]))

        async def work(transaction: Transaction) -> Page[ApiKey]:
            rows = (await transaction.core.execute(statement.limit(limit + 1))).all()
            shown = tuple(api_key_of(row) for row in rows[:limit])
            return Page(shown, (shown[-1].key_id,) if len(rows) > limit else None)

        return await self._database.read(work)

    async def subjects(self, subject_ids: Sequence[str]) -> Mapping[str, SealedSubject]:
        async def work(transaction: Transaction) -> Mapping[str, SealedSubject]:
            rows = await transaction.core.execute(select(subjects).where(subjects.c.subject_id.in_(subject_ids)))
            return {row.subject_id: _subject_of(row) for row in rows}

        return await self._database.read(work) if subject_ids else {}

    async def subject_by_email(self, indexes: Sequence[bytes]) -> SealedSubject | None:
        return await self._database.read(lambda transaction: _by_email(transaction, indexes))


async def _by_email(transaction: Transaction, indexes: Sequence[bytes]) -> SealedSubject | None:
    statement = select(subjects).where(subjects.c.email_index.in_(indexes)).order_by(subjects.c.create_time)
    row = (await transaction.core.execute(statement)).first()
    return None if row is None else _subject_of(row)


def _subject_of(row: Any) -> SealedSubject:
    return SealedSubject(row.subject_id, row.email_index, row.name_sealed, row.email_sealed, row.create_time)


def _conditions(where: ApiKeyFilter, now_us: int) -> list[ColumnElement[bool]]:
    c = api_keys.c
    now = bindparam(None, now_us, type_=Instant)
    revoked = and_(c.revoke_time.is_not(None), c.revoke_time <= now)
    expired = and_(not_(revoked), c.expire_time.is_not(None), c.expire_time <= now)
    rotating = and_(
        not_(revoked), or_(c.expire_time.is_(None), c.expire_time > now), c.overlap_end_time.is_not(None),
        c.overlap_end_time > now,
    )  # fmt: skip
    by_state = {
        ApiKeyState.REVOKED: revoked,
        ApiKeyState.EXPIRED: expired,
        ApiKeyState.ROTATING: rotating,
        ApiKeyState.ACTIVE: not_(or_(revoked, expired, rotating)),
    }
    found: list[ColumnElement[bool]] = []
    if where.states:
        found.append(or_(*(by_state[state] for state in where.states)))
    if where.roles:
        found.append(c.role.in_([int(role) for role in where.roles]))
    if where.subject_id is not None:
        found.append(c.subject_id == where.subject_id)
    return found


def api_key_of(row: Any) -> ApiKey:
    return ApiKey(
        key_id=row.key_id,
        display_name=row.owner,
        role=Role(row.role),
        scopes=scopes_of(row.scopes),
        environment=row.environment,
        subject_id=row.subject_id,
        create_time_us=row.create_time,
        expire_time_us=row.expire_time,
        rotate_time_us=row.rotate_time,
        overlap_end_time_us=row.overlap_end_time,
        revoke_time_us=row.revoke_time,
        last_used_time_us=row.last_used_time,
        revision=row.revision,
    )
