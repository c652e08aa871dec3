"""Reviewed declarations: what a person read in a series' rules and the venue's interface doesn't say.

Exhaustiveness (one of the markets must win) and exclusivity (at most one can) come from the venue or from here, never
from results. A declaration names where it was read and who reviewed it, and both travel with the event.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.domain.market import Declared, Event, Venue


@dataclass(frozen=True, slots=True)
class Declaration:
    """What holds of every event of a series."""

    venue: Venue
    series_id: str
    source: str
    """The document and passage that was read."""
    reviewer: str
    exclusive: bool | None = None
    exhaustive: bool | None = None

    def apply(self, event: Event) -> Event:
        """The event with this declaration where the venue itself says nothing; the venue's word stands."""
        note = f"declared: {self.source} (reviewed by {self.reviewer})"
        if self.exclusive is not None and event.exclusivity is Declared.UNKNOWN:
            event = replace(event, exclusivity=_declared(self.exclusive), exclusivity_source=note)
        if self.exhaustive is not None and event.exhaustiveness is Declared.UNKNOWN:
            event = replace(event, exhaustiveness=_declared(self.exhaustive), exhaustiveness_source=note)
        return event


class Declarations:
    """The table of declarations, by venue and series."""

    def __init__(self, declarations: Iterable[Declaration] = ()) -> None:
        self._by_series: dict[tuple[Venue, str], Declaration] = {}
        for declaration in declarations:
            key = (declaration.venue, declaration.series_id)
            if key in self._by_series:
                raise InvalidArgument(
                    [FieldViolation("declarations", f"{key[0]}:{key[1]} is declared twice; keep one of them")]
                )
            self._by_series[key] = declaration

    @classmethod
    def read(cls, path: Path) -> "Declarations":
        """A JSON file: a list of ``{venue, series_id, source, reviewer, exclusive?, exhaustive?}``.

        :raises InvalidArgument: an entry lacks a field or has a wrong value; the violation names it.
        """
        try:
            body = json.loads(path.read_text())
        except ValueError:
            body = None
        if not isinstance(body, list):
            raise InvalidArgument([FieldViolation("declarations", f"{path} must hold a JSON list of declarations")])
        return cls(_declaration(entry, f"declarations[{i}]") for i, entry in enumerate(body))

    def __len__(self) -> int:
        return len(self._by_series)

    def apply(self, event: Event) -> Event:
        declaration = self._by_series.get((event.venue, event.series_id))
        return event if declaration is None else declaration.apply(event)


def _declaration(entry: Any, path: str) -> Declaration:
    violations = []
    if not isinstance(entry, Mapping):
        raise InvalidArgument([FieldViolation(path, "must be an object")])
    venues = [v.value for v in Venue]
    if entry.get("venue") not in venues:
        violations.append(FieldViolation(f"{path}.venue", f"must be one of {', '.join(venues)}"))
    violations += [
        FieldViolation(f"{path}.{name}", "must be a text that is not empty")
        for name in ("series_id", "source", "reviewer")
        if not (isinstance(entry.get(name), str) and entry[name].strip())
    ]
    flags = [entry.get("exclusive"), entry.get("exhaustive")]
    if all(flag is None for flag in flags) or any(not isinstance(f, bool | None) for f in flags):
        violations.append(FieldViolation(path, "must say true or false for exclusive, exhaustive, or both"))
    if violations:
        raise InvalidArgument(violations)
    return Declaration(
        Venue(entry["venue"]), entry["series_id"], entry["source"], entry["reviewer"], flags[0], flags[1]
    )


def _declared(value: bool) -> Declared:
    return Declared.YES if value else Declared.NO
