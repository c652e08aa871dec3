"""What a strategy is to its users: a kind of signal with the parameters that it runs with."""

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
