"""Halts: what stops new opportunities until it is lifted."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from oddstream_server.domain.market import Venue


class Reach(StrEnum):
    EVERYTHING = "everything"
    VENUE = "venue"
    KIND = "kind"


@dataclass(frozen=True, slots=True)
class HaltScope:
    reach: Reach
    target: str = ""
    """The venue's or the kind's name; empty for everything."""

    def covers(self, kind: str, venues: Iterable[Venue]) -> bool:
        """Whether a signal is within it.

        :param venues: of the signal's legs.
        """
        match self.reach:
            case Reach.EVERYTHING:
                return True
            case Reach.VENUE:
                return any(venue.value == self.target for venue in venues)
            case Reach.KIND:
                return kind == self.target

    def __str__(self) -> str:
        return self.reach.value if not self.target else f"{self.reach.value} {self.target}"


@dataclass(frozen=True, slots=True)
class Halt:
    halt_id: str
    """``hlt_...``"""
    scope: HaltScope
    note: str
    ordered_by: str
    """Subject of a key or token."""
    create_time_us: int
    lift_time_us: int | None = None
