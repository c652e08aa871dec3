"""Workers that find strategies which misbehave, and what undisturbed runs give."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.jobs.bench import Bench, open_bench
from tests.reliability.backtests.misbehaving import installed


@pytest.fixture
async def bench(database_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(database_url, tmp_path) as made:
        made.traced = False  # limits of processor time and memory are meant for code as it runs
        made.environment["PYTHONPATH"] = installed(tmp_path / "site")
        yield made
