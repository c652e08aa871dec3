from collections.abc import Sequence
from dataclasses import replace

import pytest

from oddstream_server.application.secrets.venue_credentials import (
    CredentialUnreadable,
    KeyringWrapper,
    SealedCredential,
    VenueCredential,
    VenueCredentials,
)
from oddstream_server.domain.market import Venue

KEY = VenueCredential("key-id", "planted private key")
OLD, NEW = bytes(range(32)), bytes(range(1, 33))


class Rows:
    """The rows, in memory, with the rule of revisions."""

    def __init__(self) -> None:
        self.rows: dict[Venue, SealedCredential] = {}
        self.race: SealedCredential | None = None
        """Written by somebody else just before the next put."""

    async def find(self, venue: Venue) -> SealedCredential | None:
        return self.rows.get(venue)

    async def all(self) -> Sequence[SealedCredential]:
        return list(self.rows.values())

    async def put(self, credential: SealedCredential, *, replaces: int | None) -> bool:
        if self.race is not None:
            self.rows[self.race.venue], self.race = self.race, None
        known = self.rows.get(credential.venue)
        if (known.revision if known else None) != replaces:
            return False
        self.rows[credential.venue] = credential
        return True

    async def remove(self, venue: Venue) -> bool:
        return self.rows.pop(venue, None) is not None


def credentials(rows: Rows, keys: dict[int, bytes]) -> VenueCredentials:
    return VenueCredentials(rows, KeyringWrapper(keys), lambda: 1)


async def test_a_credential_comes_back_as_it_was_and_lies_there_unreadable() -> None:
    rows = Rows()
    kept = credentials(rows, {1: OLD})
    assert await kept.get(Venue.KALSHI) is None
    await kept.set(Venue.KALSHI, KEY)
    assert await kept.get(Venue.KALSHI) == KEY
    row = rows.rows[Venue.KALSHI]
    assert b"planted" not in row.sealed + row.wrapped_data_key
    assert b"key-id" not in row.sealed
    assert row.wrapping_key == "keyring/1"
    assert "planted" not in repr(KEY) + repr(row) + repr(KeyringWrapper({1: OLD}))


async def test_the_same_credential_is_never_sealed_the_same_way_twice() -> None:
    rows = Rows()
    kept = credentials(rows, {1: OLD})
    await kept.set(Venue.KALSHI, KEY)
    first = rows.rows[Venue.KALSHI]
    await kept.set(Venue.KALSHI, KEY)
    second = rows.rows[Venue.KALSHI]
    assert first.sealed != second.sealed
    assert first.wrapped_data_key != second.wrapped_data_key
    assert second.revision == first.revision + 1


async def test_after_a_new_wrapping_key_reseal_leaves_nothing_that_needs_the_old_one() -> None:
    rows = Rows()
    await credentials(rows, {1: OLD}).set(Venue.KALSHI, KEY)
    both = credentials(rows, {1: OLD, 2: NEW})
    assert await both.get(Venue.KALSHI) == KEY
    assert await both.reseal() == 1
    assert await both.reseal() == 0
    assert await credentials(rows, {2: NEW}).get(Venue.KALSHI) == KEY
    with pytest.raises(CredentialUnreadable, match="keyring/2 is not held"):
        await credentials(rows, {1: OLD}).get(Venue.KALSHI)


async def test_what_was_changed_meanwhile_is_not_overwritten_by_a_reseal() -> None:
    rows, other = Rows(), Rows()
    await credentials(rows, {1: OLD}).set(Venue.KALSHI, KEY)
    newer = VenueCredential("newer", "newer")
    other.rows = dict(rows.rows)
    await credentials(other, {1: OLD}).set(Venue.KALSHI, newer)
    rows.race = other.rows[Venue.KALSHI]
    both = credentials(rows, {1: OLD, 2: NEW})
    assert await both.reseal() == 0
    assert await both.get(Venue.KALSHI) == newer


@pytest.mark.parametrize("part", ["sealed", "wrapped_data_key"])
async def test_a_changed_byte_or_a_row_moved_to_another_venue_is_found(part: str) -> None:
    rows = Rows()
    kept = credentials(rows, {1: OLD})
    await kept.set(Venue.KALSHI, KEY)
    row = rows.rows[Venue.KALSHI]
    body = bytearray(getattr(row, part))
    body[20] ^= 1
    rows.rows[Venue.KALSHI] = replace(row, **{part: bytes(body)})
    with pytest.raises(CredentialUnreadable) as caught:
        await kept.get(Venue.KALSHI)
    assert "planted" not in str(caught.value)
    rows.rows[Venue.POLYMARKET] = replace(row, venue=Venue.POLYMARKET)
    with pytest.raises(CredentialUnreadable, match="belongs elsewhere"):
        await kept.get(Venue.POLYMARKET)


async def test_the_same_keys_under_the_same_version_are_needed() -> None:
    rows = Rows()
    await credentials(rows, {1: OLD}).set(Venue.KALSHI, KEY)
    with pytest.raises(CredentialUnreadable):
        await credentials(rows, {1: NEW}).get(Venue.KALSHI)
