"""How a fee comes about, step by step and exact, for people."""

from dataclasses import dataclass, replace
from decimal import Context, Decimal

from oddstream_server.domain.fees import FeeFormula, FeeSchedule, Liquidity

_EXACT = Context(prec=200)
_MICRO = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class FeeStep:
    expression: str
    """What is computed, with its numbers."""
    result: str
    """An exact decimal number of USD."""


def fee_working(
    schedule: FeeSchedule, price_micros: int, size_micros: int, liquidity: Liquidity, payout_micros: int
) -> tuple[FeeStep, ...]:
    """The steps of :meth:`FeeSchedule.fill_fee_micros` with the same arguments; the last result is its answer."""
    fee = schedule.fill_fee_micros(price_micros, size_micros, liquidity, payout_micros)
    rate_ppm = schedule.taker_rate_ppm if liquidity is Liquidity.TAKER else schedule.maker_rate_ppm
    if schedule.formula is FeeFormula.NONE or not rate_ppm or not schedule.multiplier_ppm or not size_micros:
        return (FeeStep("no fee", "0"),)
    size, payout = _decimal(size_micros), _decimal(payout_micros)
    price = _EXACT.divide(_decimal(price_micros), payout)
    rate = _decimal(rate_ppm)
    factors = [(_plain(rate), rate)]
    if schedule.multiplier_ppm != 1_000_000:
        factors.append((_plain(_decimal(schedule.multiplier_ppm)), _decimal(schedule.multiplier_ppm)))
    factors.append((_plain(size), size))
    spread = _EXACT.multiply(price, 1 - price)
    if schedule.formula in (FeeFormula.QUADRATIC, FeeFormula.QUADRATIC_POWER) and payout != 1:
        factors.append((_plain(payout), payout))
    if schedule.formula is FeeFormula.QUADRATIC:
        factors += [(_plain(price), price), (_plain(1 - price), 1 - price)]
    elif schedule.formula is FeeFormula.QUADRATIC_POWER:
        power = _EXACT.power(spread, schedule.exponent)
        factors += [
            (_plain(price), price),
            (f"({_plain(price)} x {_plain(1 - price)})^{schedule.exponent}", power),
        ]
    exact = Decimal(1)
    for _, factor in factors:
        exact = _EXACT.multiply(exact, factor)
    steps = [FeeStep(" x ".join(text for text, _ in factors), _plain(exact))]
    stepped = replace(schedule, balance_step_micros=0).fill_fee_micros(
        price_micros, size_micros, liquidity, payout_micros
    )
    step = _plain(_decimal(schedule.rounding_step_micros))
    steps.append(FeeStep(f"rounded up to a multiple of {step}", _plain(_decimal(stepped))))
    if schedule.minimum_micros and stepped == schedule.minimum_micros:
        steps.append(FeeStep("not less than the minimum", _plain(_decimal(stepped))))
    if schedule.balance_step_micros:
        balance = _plain(_decimal(schedule.balance_step_micros))
        steps.append(
            FeeStep(f"and what makes price x size and fee together a multiple of {balance}", _plain(_decimal(fee)))
        )
    return tuple(steps)


def _decimal(micros: int) -> Decimal:
    return _EXACT.multiply(Decimal(micros), _MICRO)


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
