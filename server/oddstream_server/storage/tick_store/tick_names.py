"""The short numbers that stand for market ids and tick sources in the tick tables. Never reused, never changed."""

from collections.abc import Collection, Iterable
from typing import Any

import asyncpg

from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import SourceKind, TickSource
from oddstream_server.storage.database import Database


class TickNames:
    """Both directions of both tables, remembered: a number once minted stays true for ever."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: dict[str, int] = {}
        self._market_ids: dict[int, str] = {}
        self._source_ids: dict[TickSource, int] = {}
        self._sources: dict[int, TickSource] = {}

    async def mint_market_keys(self, market_ids: Iterable[str]) -> dict[str, int]:
        """The keys of markets, made where they are missing."""
        wanted = set(market_ids)
        missing = sorted(wanted - self._keys.keys())
        if missing:
            async with self._database.transaction() as transaction:
                await self._load_keys(transaction.driver, missing)
                new = [m for m in missing if m not in self._keys]
                if new:
                    # Sorted, so that two writers wait for each other instead of dying of a deadlock.
                    await transaction.driver.execute(
                        "INSERT INTO market_keys (market_id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING", new
                    )
                    await self._load_keys(transaction.driver, new)
        return {market_id: self._keys[market_id] for market_id in wanted}

    async def market_keys(self, driver: "asyncpg.Connection[Any]", market_ids: Collection[str]) -> dict[str, int]:
        """The keys of the markets that have any; for readers."""
        missing = [m for m in market_ids if m not in self._keys]
        if missing:
            await self._load_keys(driver, missing)
        return {m: self._keys[m] for m in market_ids if m in self._keys}

    async def mint_source_ids(self, sources: Iterable[TickSource]) -> dict[TickSource, int]:
        """The ids of sources, made where they are missing."""
        wanted = set(sources)
        for source in sorted(wanted - self._source_ids.keys(), key=lambda s: (s.venue, s.kind, s.name)):
            async with self._database.transaction() as transaction:
                found = await transaction.driver.fetchval(
                    "WITH made AS (INSERT INTO tick_sources (venue, kind, name) VALUES ($1, $2, $3) "
                    "ON CONFLICT DO NOTHING RETURNING source_id) "
                    "SELECT source_id FROM made UNION ALL "
                    "SELECT source_id FROM tick_sources WHERE venue = $1 AND kind = $2 AND name = $3 LIMIT 1",
                    source.venue.value,
                    source.kind.value,
                    source.name,
                )
                if found is None:  # another writer made it between the two halves of the statement
                    found = await transaction.driver.fetchval(
                        "SELECT source_id FROM tick_sources WHERE venue = $1 AND kind = $2 AND name = $3",
                        source.venue.value,
                        source.kind.value,
                        source.name,
                    )
            self._source_ids[source] = found
            self._sources[found] = source
        return {source: self._source_ids[source] for source in wanted}

    async def resolve(
        self, driver: "asyncpg.Connection[Any]", market_keys: Iterable[int], source_ids: Iterable[int]
    ) -> None:
        """Make sure that :meth:`market_id` and :meth:`source` know these numbers."""
        keys = set(market_keys) - self._market_ids.keys()
        if keys:
            for row in await driver.fetch(
                "SELECT market_key, market_id FROM market_keys WHERE market_key = ANY($1::int[])", list(keys)
            ):
                self._remember(row[1], row[0])
        ids = set(source_ids) - self._sources.keys()
        if ids:
            for row in await driver.fetch(
                "SELECT source_id, venue, kind, name FROM tick_sources WHERE source_id = ANY($1::int[])", list(ids)
            ):
                source = TickSource(Venue(row[1]), SourceKind(row[2]), row[3])
                self._source_ids[source] = row[0]
                self._sources[row[0]] = source

    def market_id(self, market_key: int) -> str:
        return self._market_ids[market_key]

    def source(self, source_id: int) -> TickSource:
        return self._sources[source_id]

    async def _load_keys(self, driver: "asyncpg.Connection[Any]", market_ids: list[str]) -> None:
        for row in await driver.fetch(
            "SELECT market_id, market_key FROM market_keys WHERE market_id = ANY($1::text[])", market_ids
        ):
            self._remember(row[0], row[1])

    def _remember(self, market_id: str, market_key: int) -> None:
        self._keys[market_id] = market_key
        self._market_ids[market_key] = market_id
