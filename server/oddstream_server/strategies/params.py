"""Typed parameters of a strategy: a frozen dataclass of integers, each with its range, unit and meaning.

A kernel gets them as a numpy structured scalar with the same names.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np

from oddstream_server.domain.errors import FieldViolation, InvalidArgument


@dataclass(frozen=True, slots=True)
class ParamRule:
    """What a parameter means and which values it takes (both ends included)."""

    minimum: int
    maximum: int
    unit: str
    """micros, us, count, ppm or bool."""
    description: str
    default: int


def param(default: int, minimum: int, maximum: int, unit: str, description: str) -> Any:  # stands for a field
    """A parameter's field in a :class:`Params` dataclass."""
    return field(default=default, metadata={"rule": ParamRule(minimum, maximum, unit, description, default)})


@dataclass(frozen=True)
class Params:
    """Subclass as a frozen dataclass whose fields are made by :func:`param`; all of them are integers."""

    _above: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Pairs (smaller, greater): the first parameter has to be below the second."""

    @classmethod
    def rules(cls) -> Mapping[str, ParamRule]:
        return {f.name: f.metadata["rule"] for f in fields(cls)}

    @classmethod
    def from_mapping(cls, values: Mapping[str, int], *, path: str = "params") -> Self:
        """The parameters with defaults filled in.

        :raises InvalidArgument: a name is unknown or a value breaks its rule; each violation names its field.
        """
        rules = cls.rules()
        unknown = sorted(set(values) - set(rules))
        if unknown:
            known = ", ".join(sorted(rules))
            raise InvalidArgument(
                [FieldViolation(f"{path}.{n}", f"is not a parameter; use one of {known}") for n in unknown]
            )
        made = cls(**values)
        made.validate(path=path)
        return made

    def validate(self, *, path: str = "params") -> None:
        """:raises InvalidArgument: naming each field that breaks its rule."""
        violations = []
        for name, rule in self.rules().items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                violations.append(FieldViolation(f"{path}.{name}", f"must be a whole number of {rule.unit}"))
            elif not rule.minimum <= value <= rule.maximum:
                violations.append(
                    FieldViolation(
                        f"{path}.{name}",
                        f"must be from {rule.minimum} to {rule.maximum} {rule.unit}, got {value}; "
                        f"the default is {rule.default}",
                    )
                )
        for smaller, greater in self._above if not violations else ():
            if getattr(self, smaller) >= getattr(self, greater):
                violations.append(
                    FieldViolation(f"{path}.{smaller}", f"must be below {greater}; lower it or raise {greater}")
                )
        if violations:
            raise InvalidArgument(violations)

    def record(self) -> Any:
        """The parameters as a numpy structured scalar of int64 fields (one filler field where there are none)."""
        names = [f.name for f in fields(self)] or ["none"]
        dtype = np.dtype([(name, np.int64) for name in names])
        return np.array([tuple(getattr(self, name, 0) for name in names)], dtype=dtype)[0]

    def digest(self) -> str:
        """SHA-256 over the names and values in lower-case hex."""
        body = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(body.encode()).hexdigest()
