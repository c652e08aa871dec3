"""Pages: how large they are, and where they go on."""

from dataclasses import dataclass
from typing import TypeVar

from oddstream_server.application.ports import Key, Page
from oddstream_server.domain.errors import FieldViolation, InvalidArgument

T = TypeVar("T")

DEFAULT_SIZE = 50
MAXIMUM_SIZE = 1000


@dataclass(frozen=True, slots=True)
class PageRequest:
    """How many rows at most, after which key."""

    size: int
    after: Key | None = None


def page_size(asked: int) -> int:
    """0 means 50, and more than 1,000 is 1,000.

    :raises InvalidArgument: negative.
    """
    if asked < 0:
        raise InvalidArgument(
            [FieldViolation("page_size", f"must be from 0 (which means {DEFAULT_SIZE}) to {MAXIMUM_SIZE}")]
        )
    return min(asked or DEFAULT_SIZE, MAXIMUM_SIZE)


def page_of(rows: list[tuple[Key, T]], request: PageRequest) -> Page[T]:
    """One page of rows that are all in memory, in ascending order of their keys."""
    rest = [row for row in rows if request.after is None or row[0] > request.after]
    shown = rest[: request.size]
    next_key = shown[-1][0] if len(rest) > len(shown) else None
    return Page(tuple(item for _, item in shown), next_key)
