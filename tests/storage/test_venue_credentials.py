from dataclasses import replace

from oddstream_server.application.secrets.venue_credentials import (
    KeyringWrapper,
    VenueCredential,
    VenueCredentials,
)
from oddstream_server.domain.market import Venue
from oddstream_server.storage.database import Database
from oddstream_server.storage.venue_credentials import PostgresVenueCredentials


async def test_a_dump_of_the_database_holds_nothing_of_a_venues_key(database: Database) -> None:
    kept = VenueCredentials(PostgresVenueCredentials(database), KeyringWrapper({1: bytes(32)}), lambda: 5_000_000)
    key = VenueCredential("planted-id", "-----BEGIN PRIVATE KEY-----\nplanted\n-----END PRIVATE KEY-----\n")
    await kept.set(Venue.KALSHI, key)
    async with database.reading() as transaction:
        dumped = await transaction.driver.fetchval(
            "SELECT string_agg(sealed || wrapped_data_key || convert_to(wrapping_key, 'UTF8'), ''::bytea) "
            "FROM venue_credentials"
        )
    assert b"keyring/1" in dumped
    assert b"planted" not in dumped
    assert b"PRIVATE KEY" not in dumped
    assert await kept.get(Venue.KALSHI) == key


async def test_a_row_is_replaced_only_by_one_who_knows_its_revision(database: Database) -> None:
    store = PostgresVenueCredentials(database)
    kept = VenueCredentials(store, KeyringWrapper({1: bytes(32)}), lambda: 5_000_000)
    assert await store.find(Venue.KALSHI) is None
    await kept.set(Venue.KALSHI, VenueCredential("a", "b"))
    row = await store.find(Venue.KALSHI)
    assert row is not None
    assert not await store.put(replace(row, revision=9), replaces=None)
    assert not await store.put(replace(row, revision=9), replaces=7)
    assert await store.put(replace(row, revision=2), replaces=1)
    assert [r.revision for r in await store.all()] == [2]
    assert await store.remove(Venue.KALSHI)
    assert not await store.remove(Venue.KALSHI)
