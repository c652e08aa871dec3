"""Sealed credentials of venues, as rows that open nothing by themselves."""

from collections.abc import Sequence
from typing import Any

from oddstream_server.application.secrets.venue_credentials import SealedCredential
from oddstream_server.domain.market import Venue
from oddstream_server.storage.database import Database, Transaction

_COLUMNS = "venue, sealed, wrapped_data_key, wrapping_key, revision, update_time"


class PostgresVenueCredentials:
    """Fulfils :class:`~oddstream_server.application.secrets.venue_credentials.VenueCredentialStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, venue: Venue) -> SealedCredential | None:
        found = await self._select("WHERE venue = $1", venue.value)
        return found[0] if found else None

    async def all(self) -> Sequence[SealedCredential]:
        return await self._select("ORDER BY venue")

    async def put(self, credential: SealedCredential, *, replaces: int | None) -> bool:
        values = (
            credential.venue.value,
            credential.sealed,
            credential.wrapped_data_key,
            credential.wrapping_key,
            credential.revision,
            credential.update_time_us,
        )
        async with self._database.transaction() as transaction:
            if replaces is None:
                done = await transaction.driver.execute(
                    f"INSERT INTO venue_credentials ({_COLUMNS}, create_time) VALUES ($1, $2, $3, $4, $5, $6, $6) "
                    "ON CONFLICT DO NOTHING",
                    *values,
                )
            else:
                done = await transaction.driver.execute(
                    "UPDATE venue_credentials SET sealed = $2, wrapped_data_key = $3, wrapping_key = $4, "
                    "revision = $5, update_time = $6 WHERE venue = $1 AND revision = $7",
                    *values,
                    replaces,
                )
        return _rows(done) == 1

    async def remove(self, venue: Venue) -> bool:
        async with self._database.transaction() as transaction:
            done = await transaction.driver.execute("DELETE FROM venue_credentials WHERE venue = $1", venue.value)
        return _rows(done) == 1

    async def _select(self, where: str, *arguments: Any) -> list[SealedCredential]:
        async def work(transaction: Transaction) -> list[SealedCredential]:
            rows = await transaction.driver.fetch(f"SELECT {_COLUMNS} FROM venue_credentials {where}", *arguments)
            return [
                SealedCredential(
                    Venue(row["venue"]),
                    row["sealed"],
                    row["wrapped_data_key"],
                    row["wrapping_key"],
                    row["revision"],
                    row["update_time"],
                )
                for row in rows
            ]

        return await self._database.read(work)


def _rows(status: str) -> int:
    """The count at the end of PostgreSQL's ``INSERT 0 1``."""
    return int(status.rpartition(" ")[2])
