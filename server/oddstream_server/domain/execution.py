"""Executions: fills that bots report, so that the track record shows what was really earned."""

from dataclasses import dataclass
from enum import StrEnum

from oddstream_server.domain.fees import Liquidity, schedule_at
from oddstream_server.domain.market import Market, Settlement, SettlementState, Venue
from oddstream_server.domain.money import MICROS, Rounding, divide
from oddstream_server.domain.signal import Action, Leg, content_id


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
    strategy_id: str | None = None
    """Of the signal; None without one."""
    estimated_fee_micros: int | None = None
    """By the schedule that held at the fill; None where none is known."""
    realized_profit_micros: int | None = None
    """By the settlement known now; None until there is one, and where no fee is known."""
    slippage_micros: int | None = None
    """How much worse the price was than the leg's limit, for one contract; None without a signal, and for a fill that
    closes what the leg opened."""

    @property
    def fee_micros(self) -> int | None:
        """The fee as reported, else as estimated."""
        return self.estimated_fee_micros if self.fill.fee_micros is None else self.fill.fee_micros


def execution_id(venue: Venue, venue_fill_id: str) -> str:
    """The same for the same fill, for ever."""
    return content_id("exe", venue.value, venue_fill_id)


def estimated_fee_micros(fill: Fill, market: Market) -> int | None:
    """The fee of a fill as of an order of its own, by the schedule that held then; an unknown role counts as a taker's.

    None where no schedule is known for that time.
    """
    schedule = schedule_at(market.fee_schedules, fill.venue_time_us)
    if schedule is None:
        return None
    liquidity = Liquidity.MAKER if fill.liquidity is FillLiquidity.MAKER else Liquidity.TAKER
    return schedule.fill_fee_micros(fill.price_micros, fill.size_micros, liquidity, market.payout_micros)


def slippage_micros(fill: Fill, leg: Leg, market: Market) -> int | None:
    """How much worse than the leg's limit one contract was; None where the fill is on the leg's other side.

    Of a market with two outcomes, buying one is selling the other at what is left of the payout; of one with more,
    another outcome says nothing about the leg's.
    """
    price, action = fill.price_micros, fill.action
    if fill.outcome_index != leg.outcome_index:
        if len(market.outcomes) != 2:
            return None
        price, action = market.payout_micros - price, _OPPOSITE[action]
    if action is not leg.action:
        return None
    return price - leg.limit_price_micros if action is Action.BUY else leg.limit_price_micros - price


def realized_profit_micros(
    fill: Fill, fee_micros: int | None, settlement: Settlement | None, payout_micros: int
) -> int | None:
    """What a fill held to the settlement earned after its fee, rounded down; a sale earns its price less the payout.

    None until the settlement is final, and where no fee is known. Returned stakes leave the fee alone.

    :param payout_micros: the market's.
    """
    if fee_micros is None or settlement is None or settlement.state is SettlementState.PROVISIONAL:
        return None
    paid = settlement.yes_payout_micros
    if paid is None:
        return -fee_micros
    worth = paid if fill.outcome_index == 0 else payout_micros - paid
    gain = worth - fill.price_micros if fill.action is Action.BUY else fill.price_micros - worth
    return divide(gain * fill.size_micros, MICROS, Rounding.DOWN) - fee_micros


_OPPOSITE = {Action.BUY: Action.SELL, Action.SELL: Action.BUY}
