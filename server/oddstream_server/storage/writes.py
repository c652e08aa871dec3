"""Statements that change rows, sent together: one round trip, where each of its own would take longer than its work."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import asyncpg
import orjson

CACHEABLE_BYTES = 65_536
"""What a connection keeps prepared; joined statements are longer than the driver's usual 15 KiB."""


@dataclass(frozen=True, slots=True)
class Write:
    """An INSERT, UPDATE or DELETE; ``{0}``, ``{1}`` … stand for its arguments."""

    statement: str
    arguments: tuple[Any, ...]


async def write_together(driver: "asyncpg.Connection[Any]", writes: Sequence[Write]) -> None:
    """Run writes as one statement.

    Each sees the database as it was before all of them: none finds a row that another one makes, and no two may change
    the same row.
    """
    if writes:
        text = _joined(tuple((write.statement, len(write.arguments)) for write in writes))
        await driver.execute(text, *(argument for write in writes for argument in write.arguments))


@lru_cache(maxsize=128)
def _joined(statements: tuple[tuple[str, int], ...]) -> str:
    parts, first = [], 1
    for number, (statement, count) in enumerate(statements):
        parts.append(f"w{number} AS ({statement.format(*(f'${n}' for n in range(first, first + count)))})")
        first += count
    return f"WITH {', '.join(parts)} SELECT"


def document(value: object) -> str:
    """JSON of plain values and dataclasses of them, as an argument of a statement."""
    return orjson.dumps(value).decode()
