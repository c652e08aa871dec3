"""The schema goes up and down, over data too, and is what the code thinks it is."""

import asyncio
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from oddstream_server.app.process import default_migrations_folder
from oddstream_server.application.ports import Decision
from oddstream_server.storage.connector import sqlalchemy_url
from oddstream_server.storage.database import Database
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.migrate import current_revision, downgrade, newest_revision, upgrade, upgrade_async
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.tables import metadata


async def test_up_down_and_up_again_on_a_populated_database(samples: Any, empty_database_url: str) -> None:
    assert await current_revision(empty_database_url) is None
    lines: list[str] = []
    decision = Decision(events=(samples.created("a"),))
    for _ in range(2):
        upgrade(empty_database_url, report=lines.append)
        assert await current_revision(empty_database_url) == newest_revision()
        database = Database(empty_database_url)
        await CatalogStore(database).upsert([samples.event("kalshi:E")], [samples.market("kalshi:A")], samples.t0)
        store = PostgresPipelineStore(database)
        lease = await store.acquire_lease("test", 1)
        assert lease is not None
        result = await store.store_batch(lease, [samples.quote(1), samples.trade("t")], lambda _: decision)
        assert (result.quotes_inserted, result.trades_inserted, len(result.events)) == (1, 1, 1)
        await database.close()
        downgrade(empty_database_url, "base", report=lines.append)
        assert await current_revision(empty_database_url) is None
    assert lines[0].startswith("migrated the database: 0001 first tables (1 of ")
    assert any(line.startswith("took back the database: 0001") for line in lines)


async def test_nothing_is_left_after_the_way_down(database_url: str) -> None:
    downgrade(database_url, "base")
    database = Database(database_url)
    async with database.reading() as transaction:
        left = await transaction.driver.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        )
    await database.close()
    assert [row[0] for row in left if not row[0].startswith("alembic_version")] == []


async def test_servers_that_start_at_once_migrate_once(empty_database_url: str) -> None:
    lines: list[str] = []
    await asyncio.gather(*(upgrade_async(empty_database_url, report=lines.append) for _ in range(4)))
    assert len(lines) == len(list(default_migrations_folder().glob("versions/0*.py")))


async def test_a_migrated_database_is_left_alone(database_url: str) -> None:
    lines: list[str] = []
    await upgrade_async(database_url, report=lines.append)
    assert lines == []


async def test_tables_have_the_columns_that_the_code_names(database_url: str) -> None:
    def differences(connection: Connection) -> list[Any]:
        named = set(metadata.tables)
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                # Keys, indexes and partitions are the migrations' business alone.
                "include_object": lambda _o, name, kind, _reflected, _other: (
                    (kind == "table" and name in named) or kind == "column"
                ),
            },
        )
        found = compare_metadata(context, metadata)
        return [d for d in found if "comment" not in str(d[0])]

    engine = create_async_engine(sqlalchemy_url(database_url), poolclass=NullPool)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()
