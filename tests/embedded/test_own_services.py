"""The database and the Redis that a test is given are its own, and empty of other tests' rows."""

from __future__ import annotations

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine


@pytest.mark.parametrize("turn", [1, 2])
async def test_a_test_never_sees_the_tables_of_another(empty_database_url: str, turn: int) -> None:
    engine = create_async_engine(empty_database_url)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE once (turn int)"))
            await connection.execute(text("INSERT INTO once VALUES (:turn)"), {"turn": turn})
            assert (await connection.execute(text("SELECT turn FROM once"))).scalars().all() == [turn]
    finally:
        await engine.dispose()


async def test_the_same_database_is_reached_by_asyncpg_alone(database_url: str, database_dsn: str) -> None:
    connection = await asyncpg.connect(database_dsn)
    try:
        name = await connection.fetchval("SELECT current_database()")
        assert f"/{name}?" in database_url
    finally:
        await connection.close()


@pytest.mark.parametrize("turn", [1, 2])
async def test_a_test_never_sees_the_keys_of_another(redis_url: str, turn: int) -> None:
    client = Redis.from_url(redis_url)
    try:
        assert await client.set("once", turn, nx=True)
    finally:
        await client.aclose()
