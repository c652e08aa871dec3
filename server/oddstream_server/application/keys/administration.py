"""Administering API keys: create, list, change, rotate, revoke. Each change is a row of the audit log."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from oddstream_server.application.calls.etags import etag_of, require_etag
from oddstream_server.application.calls.mutations import Mutation
from oddstream_server.application.calls.paging import PageRequest
from oddstream_server.application.keys.granting import require_grantable
from oddstream_server.application.keys.issuing import MAXIMUM_LIFE_US, new_key
from oddstream_server.application.keys.key_format import KeyMode, generate
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.application.ports import ApiKeyFilter, Clock, KeyChange, KeyDirectory, Page
from oddstream_server.application.privacy.people import People
from oddstream_server.domain.api_key import ApiKey, ApiKeyState, Owner
from oddstream_server.domain.errors import FailedPrecondition, FieldViolation, InvalidArgument, NotFound
from oddstream_server.domain.principal import Role, Scopes

_DAY_US = 86_400 * 1_000_000
DEFAULT_LIFE_US = 90 * _DAY_US
DEFAULT_OVERLAP_US = _DAY_US


@dataclass(frozen=True, slots=True)
class NewKey:
    display_name: str
    owner: Owner
    role: Role
    scopes: Scopes
    mode: KeyMode
    time_to_live_us: int | None


@dataclass(frozen=True, slots=True)
class KeyUpdate:
    """The fields to change; None leaves one as it is."""

    display_name: str | None = None
    owner_name: str | None = None
    owner_email: str | None = None
    role: Role | None = None
    scopes: Scopes | None = None
    expire_time_us: int | None = None
    etag: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class ShownKey:
    """A key with the text that is shown once."""

    key: ApiKey
    text: str


class ApiKeys:
    def __init__(self, directory: KeyDirectory, people: People, peppers: Peppers, now: Clock) -> None:
        self._directory = directory
        self._people = people
        self._peppers = peppers
        self._now = now

    async def create(self, mutation: Mutation, order: NewKey) -> ShownKey:
        """:raises PermissionDenied: the key would grant more than the caller's has."""
        change, now_us = mutation.change, mutation.now_us
        scopes = normal_scopes(order.scopes)
        require_grantable(mutation.principal, order.role, scopes)
        issued = new_key(
            self._peppers,
            owner=order.display_name,
            role=order.role,
            now_us=now_us,
            scopes=scopes,
            expire_time_us=now_us + (order.time_to_live_us or DEFAULT_LIFE_US),
            mode=order.mode,
        )
        subject_id = await self._people.keep(change.subjects, order.owner, now_us)
        await change.keys.add(issued.stored, order.mode.value, subject_id)
        made = await self._read(mutation, issued.key.key_id)
        await mutation.audit(_resource(made), None, told(made))
        return ShownKey(made, issued.key.text)

    async def list_keys(self, where: ApiKeyFilter, owner_email: str, page: PageRequest) -> Page[ApiKey]:
        """:param owner_email: whole; empty for any."""
        if owner_email:
            subject = await self._directory.subject_by_email(self._people.indexes(owner_email))
            if subject is None:
                return Page((), None)
            where = replace(where, subject_id=subject.subject_id)
        found = await self._directory.list_keys(where, page.after, page.size, self._now())
        return Page(await self._people.with_owners(found.items), found.next_key)

    async def update(self, mutation: Mutation, key_id: str, update: KeyUpdate) -> ApiKey:
        """:raises FailedPrecondition: API_KEY_NOT_ACTIVE, LAST_ADMIN_KEY.
        :raises PermissionDenied: what is changed of its rights leaves it with more than the caller's key has.
        """
        change, now_us = mutation.change, mutation.now_us
        before = await self._locked(mutation, key_id)
        require_etag(update.etag, key_etag(before))
        _require_active(before, now_us)
        expire_us = before.expire_time_us if update.expire_time_us is None else update.expire_time_us
        latest_us = (before.rotate_time_us or before.create_time_us) + MAXIMUM_LIFE_US
        if expire_us is None or expire_us > latest_us:
            rule = "must be at most 365 days after the key was made or rotated; rotate it to use it longer"
            raise InvalidArgument([FieldViolation("api_key.expire_time", rule)])
        owner = Owner(
            before.owner.name if update.owner_name is None else update.owner_name,
            before.owner.email if update.owner_email is None else update.owner_email,
        )
        subject_id = before.subject_id
        if owner != before.owner:
            subject_id = await self._people.keep(change.subjects, owner, now_us, before.subject_id)
        wanted = KeyChange(
            display_name=before.display_name if update.display_name is None else update.display_name,
            role=update.role or before.role,
            scopes=before.scopes if update.scopes is None else normal_scopes(update.scopes),
            subject_id=subject_id,
            expire_time_us=expire_us,
        )
        if (update.role, update.scopes, update.expire_time_us) != (None, None, None):
            require_grantable(mutation.principal, wanted.role, wanted.scopes)
        after = replace(before, role=wanted.role, scopes=wanted.scopes, expire_time_us=expire_us)
        await self._require_other_admin(mutation, before, after)
        await change.keys.update(key_id, wanted)
        await self._drop_orphan(mutation, before.subject_id)
        made = await self._read(mutation, key_id)
        await mutation.audit(_resource(made), told(before), told(made))
        return made

    async def rotate(
        self, mutation: Mutation, key_id: str, overlap_us: int | None, time_to_live_us: int | None
    ) -> ShownKey:
        """A new secret for the same key; the one before stays good for the overlap.

        :raises FailedPrecondition: API_KEY_NOT_ACTIVE.
        :raises PermissionDenied: the key, whose secret the caller would get, grants more than the caller's.
        """
        now_us = mutation.now_us
        before = await self._locked(mutation, key_id)
        require_grantable(mutation.principal, before.role, before.scopes)
        _require_active(before, now_us)
        key = generate(KeyMode(before.environment), key_id)
        await mutation.change.keys.rotate(
            key_id,
            self._peppers.proof(key, self._peppers.newest),
            self._peppers.newest,
            now_us,
            now_us + (DEFAULT_OVERLAP_US if overlap_us is None else overlap_us),
            before.expire_time_us if time_to_live_us is None else now_us + time_to_live_us,
        )
        made = await self._read(mutation, key_id)
        await mutation.audit(_resource(made), told(before), told(made))
        return ShownKey(made, key.text)

    async def revoke(self, mutation: Mutation, key_id: str, note: str) -> ApiKey:
        """For ever; a revoked key comes back unchanged.

        :raises FailedPrecondition: LAST_ADMIN_KEY.
        """
        before = await self._locked(mutation, key_id)
        if before.revoke_time_us is None:
            await self._require_other_admin(mutation, before, replace(before, revoke_time_us=mutation.now_us))
            await mutation.change.keys.revoke(key_id, mutation.now_us)
        made = await self._read(mutation, key_id)
        await mutation.audit(_resource(made), told(before), {**told(made), "note": note})
        return made

    async def _locked(self, mutation: Mutation, key_id: str) -> ApiKey:
        # Two admins who revoke each other at once: one of them comes second and is refused.
        await mutation.change.audit.lock()
        return await self._read(mutation, key_id)

    async def _read(self, mutation: Mutation, key_id: str) -> ApiKey:
        key = await mutation.change.keys.get(key_id)
        if key is None:
            raise NotFound("ApiKey", key_id)
        mutation.subject_id = key.subject_id
        return await self._people.with_owner_in(mutation.change.subjects, key)

    async def _drop_orphan(self, mutation: Mutation, subject_id: str | None) -> None:
        if subject_id is not None and not await mutation.change.keys.of_subject(subject_id):
            await mutation.change.subjects.remove(subject_id)

    async def _require_other_admin(self, mutation: Mutation, before: ApiKey, after: ApiKey) -> None:
        await require_other_admins(mutation, [before], [] if not after.holds_admin_power(mutation.now_us) else [after])


async def require_other_admins(mutation: Mutation, losing: list[ApiKey], keeping: list[ApiKey]) -> None:
    """Refuse a change after which nobody could administer.

    :param losing: keys that are about to change.
    :param keeping: those of them that hold the power afterwards.
    :raises FailedPrecondition: LAST_ADMIN_KEY.
    """
    if keeping or not any(key.holds_admin_power(mutation.now_us) for key in losing):
        return
    touched = {key.key_id for key in losing}
    others = [
        key
        for key in await mutation.change.keys.all_admins()
        if key.key_id not in touched and key.holds_admin_power(mutation.now_us)
    ]
    if not others:
        raise FailedPrecondition(
            "this is the last key that can administer; make another admin key first",
            subject=f"ApiKey/{losing[0].key_id}",
            reason="LAST_ADMIN_KEY",
        )


def key_etag(key: ApiKey) -> str:
    return etag_of(key.key_id, key.revision)


def normal_scopes(scopes: Scopes) -> Scopes:
    """Networks without host bits, so that 10.1.2.3/8 is what its writer meant."""
    networks = tuple(str(ipaddress.ip_network(network, strict=False)) for network in scopes.networks)
    return replace(scopes, networks=networks)


def _require_active(key: ApiKey, now_us: int) -> None:
    state = key.state(now_us)
    if state not in (ApiKeyState.ACTIVE, ApiKeyState.ROTATING):
        raise FailedPrecondition(
            f"the key is {state.value}; create another one",
            subject=f"ApiKey/{key.key_id}",
            reason="API_KEY_NOT_ACTIVE",
            metadata={"state": state.value},
        )


def _resource(key: ApiKey) -> str:
    return f"ApiKey/{key.key_id}"


def told(key: ApiKey) -> Mapping[str, Any]:
    """What the audit log is told of a key: the owner stands in it by pseudonym."""
    scopes = key.scopes
    return {
        "display_name": key.display_name,
        "role": key.role.name.lower(),
        "scopes": {
            "services": list(scopes.services),
            "venues": [venue.value for venue in scopes.venues],
            "networks": list(scopes.networks),
            "calls_per_minute": scopes.calls_per_minute,
            "stream_limit": scopes.stream_limit,
            "backtest_limit": scopes.backtest_limit,
        },
        "environment": key.environment,
        "subject_id": key.subject_id,
        "expire_time_us": key.expire_time_us,
        "rotate_time_us": key.rotate_time_us,
        "overlap_end_time_us": key.overlap_end_time_us,
        "revoke_time_us": key.revoke_time_us,
        "revision": key.revision,
    }
