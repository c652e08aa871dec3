"""A database with recorded quotes, and its workers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.jobs.bench import Bench, open_bench


@pytest.fixture
async def bench(database_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(database_url, tmp_path) as made:
        yield made
