"""What graded signals come to: the edge of each leg at a price, and forecasts against what happened."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from oddstream_server.domain.fees import FeeSchedule, schedule_at
from oddstream_server.domain.market import Settlement
from oddstream_server.domain.money import MICROS
from oddstream_server.domain.signal import Action, Leg, Signal


class Terms(Protocol):
    """What a grade needs of a market."""

    @property
    def payout_micros(self) -> int: ...

    @property
    def fee_schedules(self) -> tuple[FeeSchedule, ...]: ...

    @property
    def settlement(self) -> Settlement | None: ...


def leg_edge_micros(leg: Leg, price_micros: int, yes_payout_micros: int, terms: Terms, instant_us: int) -> int:
    """What one contract of a leg earned at a price of its outcome, after the taker's fee of an instant."""
    payout = yes_payout_micros if leg.outcome_index == 0 else terms.payout_micros - yes_payout_micros
    schedule = schedule_at(terms.fee_schedules, instant_us)
    fee = 0 if schedule is None else schedule.fill_fee_micros(price_micros, MICROS, payout_micros=terms.payout_micros)
    gross = payout - price_micros if leg.action is Action.BUY else price_micros - payout
    return gross - fee


@dataclass(frozen=True, slots=True)
class Touch:
    """The best prices of a book with two sides, in outcome-0 prices."""

    bid_price_micros: int
    ask_price_micros: int
    receive_time_us: int

    def price_micros(self, leg: Leg, payout_micros: int) -> int:
        """What a leg pays or gets here, in the price of its outcome."""
        takes_ask = (leg.outcome_index == 0) == (leg.action is Action.BUY)
        price = self.ask_price_micros if takes_ask else self.bid_price_micros
        return price if leg.outcome_index == 0 else payout_micros - price


def touch_edge_micros(signal: Signal, touches: Mapping[int, Touch], terms: Mapping[str, Terms]) -> int | None:
    """The edge of one contract of each leg at later touches; None where a leg has none, or no payout is known.

    :param touches: by leg number.
    :param terms: by market id.
    """
    edge = 0
    for number, leg in enumerate(signal.legs):
        touch, market = touches.get(number), terms.get(leg.market_id)
        settlement = None if market is None else market.settlement
        if touch is None or market is None or settlement is None or settlement.yes_payout_micros is None:
            return None
        price = touch.price_micros(leg, market.payout_micros)
        edge += leg_edge_micros(leg, price, settlement.yes_payout_micros, market, touch.receive_time_us)
    return edge


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a signal said of its leg's outcome, in micros of a payout of one USD."""

    price_micros: int
    """What the crowd said: the price at which it could be had."""
    fair_micros: int | None
    """What the strategy said; None where it values nothing."""
    happened: bool


def forecast_of(signal: Signal, terms: Mapping[str, Terms]) -> Forecast | None:
    """The forecast of a signal of one leg whose market paid one side in full; None for every other.

    A fair value is one of outcome 0, so a leg of outcome 1 forecasts what is left of the payout.
    """
    if len(signal.legs) != 1:
        return None
    leg = signal.legs[0]
    market = terms.get(leg.market_id)
    settlement = None if market is None else market.settlement
    if market is None or settlement is None or settlement.void:
        return None
    payout, paid = market.payout_micros, settlement.yes_payout_micros
    if paid not in (0, payout):
        return None
    fair = signal.fair_value_micros
    if fair is not None and leg.outcome_index != 0:
        fair = payout - fair
    return Forecast(
        price_micros=leg.limit_price_micros * MICROS // payout,
        fair_micros=None if fair is None else fair * MICROS // payout,
        happened=(paid == payout) == (leg.outcome_index == 0),
    )
