"""Fitted objects: tables made from what had happened by an instant, and used only for rows after it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class FittedName(StrEnum):
    CALIBRATION = "calibration"
    """What outcomes were worth at a price, by category and time to the end."""
    VOLUME_BASELINE = "volume_baseline"
    """How much is traded in an hour, by venue, category and hour of the week."""


@dataclass(frozen=True, slots=True)
class FittedObject:
    """One version of a table.

    It takes effect at ``effective_time_us``, which is later than it was stored by more than a running pipeline needs to
    learn of it: so live and replay use it for the same rows.
    """

    name: FittedName
    version: int
    """1 for the first of the name, one more each time."""
    layout: int
    """Version of the cells' meaning; another one than the server knows is not used."""
    fit_time_us: int
    """Nothing that became known at this instant or later went in."""
    effective_time_us: int
    samples: int
    cells: Mapping[str, tuple[int, ...]]
    """Integers by key; what they mean is the layout's."""
