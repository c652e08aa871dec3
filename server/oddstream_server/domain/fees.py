"""Dated fee schedules and the fee of one fill, exact to the venue's rounding.

Formulas and history: Kalshi's fee schedule of July 2026 and documentation of September 2026; Polymarket's fee structure
V2 of 2026-03-30. Rates are parts per million, so that 0.07 is 70_000 and every product stays an integer.
"""

from dataclasses import dataclass
from enum import StrEnum

from oddstream_server.domain.money import MICROS, Rounding, divide


class FeeFormula(StrEnum):
    NONE = "none"
    QUADRATIC = "quadratic"
    """rate x size x p x (1 - p)"""
    QUADRATIC_POWER = "quadratic_power"
    """size x p x rate x (p(1-p))^exponent: Polymarket before 2026-03-30"""
    FLAT = "flat"
    """rate x size, rate in micros of money a contract"""


class Liquidity(StrEnum):
    TAKER = "taker"
    MAKER = "maker"


@dataclass(frozen=True, slots=True)
class FeeSchedule:
    """The fee rule of a market between two instants, with where it was read."""

    formula: FeeFormula
    taker_rate_ppm: int
    maker_rate_ppm: int
    multiplier_ppm: int = MICROS
    exponent: int = 1
    rounding_step_micros: int = 1
    minimum_micros: int = 0
    valid_from_us: int | None = None
    """First instant of validity; absent means always before ``valid_to_us``."""
    valid_to_us: int | None = None
    """First instant of no more validity; absent means until further notice."""
    known_from_us: int | None = None
    """When the venue published it; a backtest before that instant couldn't know it."""
    source: str = ""
    rounds_over_order: bool = False
    """True where the step holds for the fees of an order's fills together: what one is overcharged the next give back.
    False where each fill is rounded for itself."""
    balance_step_micros: int = 0
    """Where above 0 a fill also pays what rounds the balance change to a multiple of it, against the account,
    and an order gets whole cents of that back once they add up (Kalshi's fee rounding; the engine keeps the sum)."""

    def holds_at(self, instant_us: int) -> bool:
        return (self.valid_from_us is None or self.valid_from_us <= instant_us) and (
            self.valid_to_us is None or instant_us < self.valid_to_us
        )

    def fill_fee_micros(
        self,
        price_micros: int,
        size_micros: int,
        liquidity: Liquidity = Liquidity.TAKER,
        payout_micros: int = MICROS,
    ) -> int:
        """Fee of one fill in money micros, rounded up to the schedule's step; a purchase where the balance is rounded.

        :param price_micros: price of the outcome bought or sold, 0 to ``payout_micros``.
        :param size_micros: contracts in micros, at least 0.
        """
        fee = self._stepped_fee_micros(price_micros, size_micros, liquidity, payout_micros)
        if self.balance_step_micros > 0:
            cost = divide(price_micros * size_micros, MICROS, Rounding.UP)
            fee += -(cost + fee) % self.balance_step_micros
        return fee

    def _stepped_fee_micros(self, price_micros: int, size_micros: int, liquidity: Liquidity, payout_micros: int) -> int:
        rate_ppm = self.taker_rate_ppm if liquidity is Liquidity.TAKER else self.maker_rate_ppm
        rate_numerator = rate_ppm * self.multiplier_ppm  # over MICROS * MICROS
        if self.formula is FeeFormula.NONE or rate_numerator == 0 or size_micros == 0:
            return 0
        if self.formula is FeeFormula.FLAT:
            numerator, denominator = rate_numerator * size_micros, MICROS * MICROS
        else:
            spread = price_micros * (payout_micros - price_micros)  # p(1-p) over payout^2
            if self.formula is FeeFormula.QUADRATIC:
                numerator = rate_numerator * size_micros * spread
                denominator = MICROS * MICROS * MICROS * payout_micros
            else:
                numerator = rate_numerator * size_micros * price_micros * spread**self.exponent
                denominator = MICROS * MICROS * MICROS * payout_micros ** (2 * self.exponent)
        step = self.rounding_step_micros
        fee = divide(numerator, denominator * step, Rounding.UP) * step
        return max(fee, self.minimum_micros) if fee > 0 else 0


FREE = FeeSchedule(FeeFormula.NONE, 0, 0, source="no fee")


def schedule_at(schedules: tuple[FeeSchedule, ...], instant_us: int) -> FeeSchedule | None:
    """The schedule that holds at an instant: of several, the one that began last. None where none holds."""
    holding = [s for s in schedules if s.holds_at(instant_us)]
    return max(holding, key=lambda s: -(2**63) if s.valid_from_us is None else s.valid_from_us, default=None)
