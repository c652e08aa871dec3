"""Executions: fills that bots report, so that the track record shows what was really earned."""

from dataclasses import dataclass
from enum import StrEnum

from oddstream_server.domain.market import Venue
from oddstream_server.domain.signal import Action


class FillLiquidity(StrEnum):
    UNSPECIFIED = "unspecified"
    TAKER = "taker"
    MAKER = "maker"


@dataclass(frozen=True, slots=True)
class Fill:
    """One fill as the venue reported it to the bot; with the venue its id keys the execution for ever."""

    venue: Venue
    venue_fill_id: str
    market_id: str
    outcome_index: int
    action: Action
    price_micros: int
    """In the price of the outcome."""
    size_micros: int
    fee_micros: int | None
    """Negative for a rebate; None where the bot doesn't know."""
    liquidity: FillLiquidity
    venue_time_us: int
    signal_id: str | None
    leg_number: int | None
    venue_order_id: str
    client_order_id: str


@dataclass(frozen=True, slots=True)
class Execution:
    execution_id: str
    """``exe_...``"""
    fill: Fill
    owner: str
    """Subject of the key or token that reported it."""
    create_time_us: int
    realized_profit_micros: int | None = None
    """By the settlement known now; None until there is one."""
    slippage_micros: int | None = None
    """How much worse the price was than the leg's limit, for one contract; None without a signal."""
