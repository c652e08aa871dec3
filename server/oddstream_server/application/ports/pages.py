"""Pages of lists."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

Key = tuple[str | int, ...]
"""A keyset position: the ordering columns of the last row of a page."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: tuple[T, ...]
    next_key: Key | None
    """Where the next page starts (exclusive); None on the last one."""
