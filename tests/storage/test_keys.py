"""Keys are found by id, revoked for ever, and their last use is written once a minute."""

from dataclasses import replace
from typing import Any

import pytest

from oddstream_server.application.ports import StoredKey
from oddstream_server.domain.errors import Aborted
from oddstream_server.domain.market import Venue
from oddstream_server.domain.principal import Principal, Role, Scopes
from oddstream_server.storage.database import Database
from oddstream_server.storage.keys import ApiKeyStore


@pytest.fixture
def key(samples: Any) -> StoredKey:
    scopes = Scopes(("SignalService",), (Venue.KALSHI,), ("10.0.0.0/8",), 60)
    principal = Principal("k1", Role.ANALYST, scopes, "k1", samples.t0 + 9)
    return StoredKey("k1", "ops", bytes(range(32)), 3, principal, samples.t0, None, samples.t0 + 9)


async def test_a_key_comes_back_as_it_was_made(database: Database, key: StoredKey) -> None:
    keys = ApiKeyStore(database)
    assert (await keys.count(), await keys.find("k1")) == (0, None)
    await keys.create(key)
    assert (await keys.count(), await keys.find("k1")) == (1, key)
    with pytest.raises(Aborted):
        await keys.create(replace(key, owner="other"))
    assert await keys.find("k1") == key


async def test_a_key_is_revoked_once(database: Database, key: StoredKey, samples: Any) -> None:
    keys = ApiKeyStore(database)
    await keys.create(key)
    assert await keys.revoke("k1", samples.t0 + 1)
    assert not await keys.revoke("k1", samples.t0 + 2)
    assert not await keys.revoke("none", samples.t0)
    assert await keys.find("k1") == replace(key, revoke_time_us=samples.t0 + 1)


async def test_last_use_is_written_once_a_minute(database: Database, key: StoredKey, samples: Any) -> None:
    keys = ApiKeyStore(database)
    await keys.create(key)
    written = []
    for seconds in (0, 30, 59, 60, 61):
        await keys.touch(["k1", "none"], samples.t0 + seconds * 1_000_000)
        async with database.reading() as transaction:
            written.append(await transaction.driver.fetchval("SELECT last_used_time FROM api_keys") - samples.t0)
    assert written == [0, 0, 0, 60_000_000, 60_000_000]
