"""What is held about a person: exported on request, erased on request, and kept erased over a restore."""

from dataclasses import dataclass

from oddstream_server.application.calls.mutations import Mutation, record_of_call
from oddstream_server.application.keys.administration import require_other_admins
from oddstream_server.application.ports import (
    AuditFilter,
    AuditLog,
    Change,
    Changes,
    Clock,
    Erasure,
    ErasureFile,
    ErasureStore,
    Holdings,
    KeyChange,
    SubjectHoldings,
)
from oddstream_server.application.privacy.people import People
from oddstream_server.domain.api_key import ApiKey
from oddstream_server.domain.audit import AuditEntry
from oddstream_server.domain.errors import NotFound

EXPORTED_ROWS = 1000
ERASED = "erased"
"""The label of keys whose owner was erased."""


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """One way to name a person; the others are empty."""

    email: str = ""
    key_id: str = ""
    token_subject: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class SubjectData:
    keys: tuple[ApiKey, ...]
    holdings: Holdings
    audit_entries: tuple[AuditEntry, ...]
    """The latest in which the person acted."""
    audit_entry_count: int
    export_time_us: int


@dataclass(frozen=True, slots=True)
class Erased:
    keys: int
    pseudonym: str
    time_us: int


@dataclass(frozen=True, slots=True)
class _Found:
    """Whom an identity names, and under which names acts and executions stand."""

    subject_id: str | None
    keys: tuple[ApiKey, ...]
    actors: tuple[str, ...]


class Subjects:
    """:param erasures: the list that a restore is followed by."""

    def __init__(
        self,
        changes: Changes,
        people: People,
        audit: AuditLog,
        holdings: SubjectHoldings,
        erasures: ErasureFile,
        erasure_store: ErasureStore,
        now: Clock,
    ) -> None:
        self._changes = changes
        self._people = people
        self._audit = audit
        self._holdings = holdings
        self._erasures = erasures
        self._erasure_store = erasure_store
        self._now = now

    async def export(self, identity: Identity, request_digest: str) -> SubjectData:
        """Everything that is held about a person; itself a row of the audit log.

        :raises NotFound: SUBJECT_NOT_FOUND.
        """
        async with self._changes.begin() as change:
            found = await self._find(change, identity)
            keys = tuple([await self._people.with_owner_in(change.subjects, key) for key in found.keys])
        where = AuditFilter(actors=found.actors)
        holdings = await self._holdings.of_owners(found.actors, EXPORTED_ROWS)
        acts = await self._audit.latest(where, EXPORTED_ROWS)
        count = await self._audit.count(where)
        if found.subject_id is None and not (holdings.execution_count or holdings.run_ids or count):
            raise _unknown()
        resource = f"Subject/{found.subject_id or found.actors[0]}"
        await self._audit.record(record_of_call(resource, request_digest))
        return SubjectData(keys, holdings, tuple(acts), count, self._now())

    async def erase(self, mutation: Mutation, identity: Identity, note: str) -> Erased:
        """Erase what is held about a person and revoke the person's keys.

        Rows of the audit log stay: they never held more than the pseudonym.

        :raises NotFound: SUBJECT_NOT_FOUND.
        :raises FailedPrecondition: LAST_ADMIN_KEY.
        """
        change, now_us = mutation.change, mutation.now_us
        await change.audit.lock()
        found = await self._find(change, identity)
        if found.subject_id is None:
            return await self._erase_outsider(mutation, found.actors, note)
        await require_other_admins(mutation, list(found.keys), [])
        for key in found.keys:
            if key.revoke_time_us is None:
                await change.keys.revoke(key.key_id, now_us)
            label = KeyChange(ERASED, key.role, key.scopes, key.subject_id, key.expire_time_us)
            await change.keys.update(key.key_id, label)
        key_ids = tuple(key.key_id for key in found.keys)
        await change.subjects.remove(found.subject_id)
        await change.requests.forget_subject(found.subject_id)
        await change.executions.forget_orders(found.actors)
        await change.subjects.record_erasure(found.subject_id, key_ids, now_us)
        await mutation.audit(f"Subject/{found.subject_id}", None, {"note": note, "key_ids": list(key_ids)})
        # Before the commit: an erasure that is on the list and not in the database is made up for; the other way round
        # a restore would undo it for good.
        self._erasures.append(Erasure(found.subject_id, key_ids, now_us))
        return Erased(len(key_ids), found.subject_id, now_us)

    async def _erase_outsider(self, mutation: Mutation, names: tuple[str, ...], note: str) -> Erased:
        """Whoever came by an access token or a certificate: kept answers go, and all else has their pseudonym alone."""
        change, now_us = mutation.change, mutation.now_us
        met = [name for name in names if await self._has_acted(name)]
        if not met:
            raise _unknown()
        for name in met:
            await change.requests.forget_subject(name)
            await change.executions.forget_orders([name])
            await change.subjects.record_erasure(name, (), now_us)
            await mutation.audit(f"Subject/{name}", None, {"note": note, "key_ids": []})
            self._erasures.append(Erasure(name, (), now_us))
        return Erased(0, met[0], now_us)

    async def _has_acted(self, name: str) -> bool:
        holdings = await self._holdings.of_owners((name,), 1)
        return bool(
            holdings.execution_count or holdings.run_ids or await self._audit.count(AuditFilter(actors=(name,)))
        )

    async def erase_again(self) -> int:
        """Follow the list after a restore (or a crash in mid erasure); answers how many people came back."""
        erasures = self._erasures.read()
        return await self._erasure_store.apply(erasures, self._now()) if erasures else 0

    async def _find(self, change: Change, identity: Identity) -> _Found:
        """:raises NotFound: SUBJECT_NOT_FOUND, where nothing but a token's subject could still be known."""
        subject_id: str | None = None
        if identity.token_subject:
            return _Found(None, (), self._people.outside_names(identity.token_subject))
        if identity.email:
            subject = await change.subjects.find_by_email(self._people.indexes(identity.email))
            subject_id = None if subject is None else subject.subject_id
        else:
            key = await change.keys.get(identity.key_id)
            subject_id = None if key is None else key.subject_id
            if subject_id is not None and await change.subjects.get(subject_id) is None:
                subject_id = None  # erased before
        if subject_id is None:
            raise _unknown()
        keys = tuple(await change.keys.of_subject(subject_id))
        return _Found(subject_id, keys, tuple(key.key_id for key in keys))


def _unknown() -> NotFound:
    # It never repeats the address that was asked for: texts of errors are logged by many clients.
    return NotFound("Subject", "asked for", reason="SUBJECT_NOT_FOUND")
