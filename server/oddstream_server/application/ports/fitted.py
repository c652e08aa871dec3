"""Fitted objects, kept by version."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from oddstream_server.domain.fitted import FittedName, FittedObject


@dataclass(frozen=True, slots=True)
class SettledHour:
    """A settled market's mid at the end of one hour before its scheduled close."""

    category: str
    left_us: int
    mid_micros: int
    """Of a contract that pays 1,000,000, as is the payout."""
    payout_micros: int
    known_time_us: int


@dataclass(frozen=True, slots=True)
class TradedHour:
    """What one market traded in one hour."""

    venue: str
    category: str
    start_us: int
    contracts: int


class FittedObjects(Protocol):
    async def all(self) -> Sequence[FittedObject]:
        """Every version of every name, by name and version."""
        ...

    async def add(self, name: FittedName, make: Callable[[int], FittedObject]) -> FittedObject:
        """Keep a new version.

        :param make: from the version's number to the object.
        """
        ...


class FittingData(Protocol):
    """What objects are fitted to."""

    def settled_hours(self, before_us: int, left_us: Sequence[int]) -> AsyncIterator[Sequence[SettledHour]]:
        """Markets whose final settlement was known before an instant, each once for each time before its close."""
        ...

    def traded_hours(self, before_us: int) -> AsyncIterator[Sequence[TradedHour]]:
        """Hours with prints that were over before an instant."""
        ...
