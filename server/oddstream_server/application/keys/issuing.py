"""New API keys. The secret leaves this module once, as the answer; what is stored can't give it back."""

from dataclasses import dataclass

from oddstream_server.application.keys.key_format import KeyMode, KeyText, generate
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.application.ports import KeyStore, StoredKey
from oddstream_server.domain.principal import Principal, Role, Scopes

MAXIMUM_LIFE_US = 365 * 86_400 * 1_000_000


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """``key.text`` is to be shown once and kept nowhere."""

    key: KeyText
    stored: StoredKey


def new_key(
    peppers: Peppers,
    *,
    owner: str,
    role: Role,
    now_us: int,
    scopes: Scopes = Scopes(),  # noqa: B008  # immutable
    expire_time_us: int | None = None,
    mode: KeyMode = KeyMode.LIVE,
) -> IssuedKey:
    """A key that nobody holds yet; it is good once its stored half is stored. It expires within a year.

    :param expire_time_us: at most a year from now; None is a year from now.
    """
    latest = now_us + MAXIMUM_LIFE_US
    expire = latest if expire_time_us is None else min(expire_time_us, latest)
    key = generate(mode)
    principal = Principal(key.key_id, role, scopes, key.key_id, expire)
    stored = StoredKey(
        key_id=key.key_id,
        owner=owner,
        secret_hmac=peppers.proof(key, peppers.newest),
        pepper_version=peppers.newest,
        principal=principal,
        create_time_us=now_us,
        revoke_time_us=None,
        expire_time_us=expire,
    )
    return IssuedKey(key, stored)


async def first_admin_key(store: KeyStore, peppers: Peppers, now_us: int) -> IssuedKey | None:
    """The key that a new installation prints once; None where keys exist already."""
    if await store.count():
        return None
    issued = new_key(peppers, owner="first admin", role=Role.ADMIN, now_us=now_us)
    await store.create(issued.stored)
    return issued
