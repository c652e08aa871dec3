"""What a strategy is to its users: a kind of signal with the parameters that it runs with."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class StrategyOrigin(StrEnum):
    BUILT_IN = "built_in"
    ENTRY_POINT = "entry_point"


@dataclass(frozen=True, slots=True)
class StrategyParameter:
    """One parameter: its value now, and what it may be."""

    name: str
    value: int
    default: int
    minimum: int
    maximum: int
    unit: str
    """micros, us, count, ppm or bool."""
    description: str


@dataclass(frozen=True, slots=True)
class StrategyDescription:
    strategy_id: str
    kind: str
    kind_version: int
    display_name: str
    description: str
    formula_source: str
    strength_map: str
    enabled: bool
    parameters: tuple[StrategyParameter, ...]
    """By name."""
    params_digest: str
    """SHA-256 in lower-case hex."""
    params_revision: int
    input_columns: tuple[str, ...]
    warm_up_us: int
    group: bool
    origin: StrategyOrigin
    update_time_us: int | None = None
    """When parameters or the switch last changed; None while they are as they were delivered."""


@dataclass(frozen=True, slots=True)
class StrategySetting:
    """What an operator made of a strategy; one without a setting runs as it was delivered."""

    strategy_id: str
    revision: int
    """Grows at each change."""
    enabled: bool
    params: Mapping[str, int]
    """By name; those left out have their defaults."""
    params_revision: int
    """1 for the parameters that the strategy was delivered with; grows as they change."""
    update_time_us: int
