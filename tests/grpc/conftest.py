from collections.abc import AsyncIterator

import pytest

from tests.grpc.stored_world import StoredWorld, stored_world


@pytest.fixture
async def stored(database_url: str, redis_url: str) -> AsyncIterator[StoredWorld]:
    """A server over PostgreSQL and Redis with a small world in them."""
    async with stored_world(database_url, redis_url) as world:
        yield world
