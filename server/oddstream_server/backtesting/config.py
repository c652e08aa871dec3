"""What decides a backtest's result besides the data: strategies, range, money, sizing and execution."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from oddstream_server.backtesting.accounts.portfolio import FIXED, FRACTION, KELLY
from oddstream_server.backtesting.passes.fills import FillRules
from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.domain.money import MICROS
from oddstream_server.strategies.registry import ConfiguredStrategy

ENGINE_VERSION: Final = 2
"""Raised by hand whenever the same inputs would give another result. 2: an exit pays one fee a fill, not one a lot."""

MAXIMUM_MONEY_MICROS: Final = 1_000_000_000 * MICROS
DEFAULT_LATENCY_US: Final = 500_000
MAXIMUM_LATENCY_US: Final = 60_000_000


class FillModel(StrEnum):
    TOUCH = "touch"
    BOOK_WALK = "book_walk"
    """Through the levels of the recorded book; the touch where none was recorded."""
    MAKER_QUEUE = "maker_queue"
    """Entries rest in the book and wait their turn; exits take the touch."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """What an entry may cost, with its fee. Exactly one of stake, fraction and Kelly multiplier is set."""

    stake_micros: int | None = None
    fraction_ppm: int | None = None
    kelly_multiplier_ppm: int | None = None
    kelly_cap_ppm: int = MICROS

    def __post_init__(self) -> None:
        given = [n for n in ("stake_micros", "fraction_ppm", "kelly_multiplier_ppm") if getattr(self, n) is not None]
        bad = []
        if len(given) != 1:
            bad.append(FieldViolation("sizing", "must have exactly one of stake, fraction and Kelly multiplier"))
        if self.stake_micros is not None and not 0 < self.stake_micros <= MAXIMUM_MONEY_MICROS:
            bad.append(FieldViolation("sizing.stake_micros", f"must be from 1 to {MAXIMUM_MONEY_MICROS}"))
        for name in ("fraction_ppm", "kelly_multiplier_ppm", "kelly_cap_ppm"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= MICROS:
                bad.append(FieldViolation(f"sizing.{name}", f"must be from 1 to {MICROS}, got {value}"))
        if bad:
            raise InvalidArgument(bad)

    @property
    def rules(self) -> tuple[int, int, int]:
        """As the bankroll wants them: kind, stake or share, cap."""
        if self.stake_micros is not None:
            return FIXED, self.stake_micros, 0
        if self.fraction_ppm is not None:
            return FRACTION, self.fraction_ppm, 0
        return KELLY, self.kelly_multiplier_ppm or 0, self.kelly_cap_ppm


@dataclass(frozen=True, slots=True)
class Execution:
    fill_model: FillModel = FillModel.BOOK_WALK
    latency_us: int = DEFAULT_LATENCY_US
    """From the signal to the venue; a market's taker delay holds where it is longer."""
    fill_on_trigger_quote: bool = False
    maximum_event_cost_micros: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.latency_us <= MAXIMUM_LATENCY_US:
            raise InvalidArgument(
                [FieldViolation("execution.latency", f"must be from 0 to 60 s, got {self.latency_us} us")]
            )
        limit = self.maximum_event_cost_micros
        if limit is not None and not 0 < limit <= MAXIMUM_MONEY_MICROS:
            raise InvalidArgument(
                [FieldViolation("execution.maximum_event_cost_micros", f"must be from 1 to {MAXIMUM_MONEY_MICROS}")]
            )

    def fill_rules(self, moments: int) -> FillRules:
        """:param moments: bits of the moments at which fills are wanted."""
        return FillRules(
            moments=moments,
            latency_us=self.latency_us,
            on_trigger=self.fill_on_trigger_quote,
            walks_books=self.fill_model is FillModel.BOOK_WALK,
            makes=self.fill_model is FillModel.MAKER_QUEUE,
        )


@dataclass(frozen=True, slots=True)
class BacktestConfig:
    """A backtest over [start_us, end_us) of receive time; rows before it only warm strategies up."""

    strategies: tuple[ConfiguredStrategy, ...]
    start_us: int
    end_us: int
    starting_bankroll_micros: int
    sizing: Sizing | None = None
    """None: each entry may cost up to a hundredth of the starting bankroll."""
    execution: Execution = field(default_factory=Execution)
    instants_us: tuple[int, ...] = ()
    """Further instants within the range at which the equity is wanted."""

    def __post_init__(self) -> None:
        bad = []
        if not self.strategies:
            bad.append(FieldViolation("strategies", "must name at least one strategy"))
        if self.start_us >= self.end_us:
            bad.append(FieldViolation("range", "must have a start_time before its end_time"))
        if not 0 < self.starting_bankroll_micros <= MAXIMUM_MONEY_MICROS:
            bad.append(FieldViolation("starting_bankroll_micros", f"must be from 1 to {MAXIMUM_MONEY_MICROS}"))
        names = [s.strategy_id for s in self.strategies]
        if len(set(names)) < len(names):
            bad.append(
                FieldViolation("strategies", "must differ in kind or parameters; drop the one that is there twice")
            )
        if self.sizing is not None and self.sizing.kelly_multiplier_ppm is not None:
            bad += [
                FieldViolation("sizing.capped_kelly", f"{s.kind.kind} emits no fair value; use another sizing")
                for s in self.strategies
                if not s.kind.has_fair_value and not s.kind.group
            ]
        if bad:
            raise InvalidArgument(bad)

    @property
    def effective_sizing(self) -> Sizing:
        return self.sizing or Sizing(stake_micros=max(self.starting_bankroll_micros // 100, 1))

    def plain(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON values."""
        return {
            "strategies": [[s.kind.kind, s.kind.version, s.params_digest] for s in self.strategies],
            "range_us": [self.start_us, self.end_us, list(self.instants_us)],
            "starting_bankroll_micros": self.starting_bankroll_micros,
            "sizing": list(self.effective_sizing.rules),
            "execution": [
                self.execution.fill_model.value,
                self.execution.latency_us,
                self.execution.fill_on_trigger_quote,
                self.execution.maximum_event_cost_micros,
            ],
        }

    def canonical_bytes(self) -> bytes:
        return json.dumps(self.plain(), sort_keys=True, separators=(",", ":")).encode()


def holds_to_settlement(strategy: ConfiguredStrategy) -> bool:
    """True for kinds whose edge is in the payout: their positions wait for it. Others leave when the signal ends."""
    return strategy.kind.edge_kind


def hold_flags(strategies: Sequence[ConfiguredStrategy]) -> tuple[bool, ...]:
    return tuple(holds_to_settlement(s) for s in strategies)
