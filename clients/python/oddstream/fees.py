"""The fee of one fill, exact to the venue's rounding, and how it comes about.

The formulas are those of ``oddstream.v1.FeeFormula``; rates are parts per million, so every product is an integer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Context, Decimal

from oddstream.v1 import fee_schedule_pb2

MICROS = 1_000_000
_EXACT = Context(prec=200)


@dataclass(frozen=True, slots=True)
class FeeStep:
    """One line of the working."""

    expression: str
    """What is computed, with its numbers."""
    result: str
    """An exact decimal number of USD."""


def schedule_at(
    schedules: Iterable[fee_schedule_pb2.FeeSchedule], instant_us: int
) -> fee_schedule_pb2.FeeSchedule | None:
    """The row that holds at an instant: of several the narrowest, and of those the one that began last.

    :param schedules: a market's dated rows.
    :param instant_us: microseconds since 1970.
    """
    holding = [s for s in schedules if holds_at(s, instant_us)]
    return max(holding, key=lambda s: (s.scope, _start_us(s)), default=None)


def holds_at(schedule: fee_schedule_pb2.FeeSchedule, instant_us: int) -> bool:
    if schedule.HasField("valid_to_time") and instant_us >= schedule.valid_to_time.ToMicroseconds():
        return False
    return _start_us(schedule) <= instant_us


def _start_us(schedule: fee_schedule_pb2.FeeSchedule) -> int:
    return schedule.valid_from_time.ToMicroseconds() if schedule.HasField("valid_from_time") else -(2**63)


def taker_fee_micros(
    schedule: fee_schedule_pb2.FeeSchedule, price_micros: int, size_micros: int, payout_micros: int = MICROS
) -> int:
    """Fee of one taking fill in micros of USD, rounded up to the schedule's step.

    Where the schedule rounds the balance it is the fee of a purchase.

    :param price_micros: price of the outcome bought or sold, 0 to ``payout_micros``.
    :param size_micros: contracts in micros, at least 0.
    :raises ValueError: the formula is not known to this version.
    """
    fee = _stepped_fee_micros(schedule, price_micros, size_micros, payout_micros)
    if schedule.balance_step_micros > 0:
        cost = -(-price_micros * size_micros // MICROS)
        fee += -(cost + fee) % schedule.balance_step_micros
    return fee


def _stepped_fee_micros(
    schedule: fee_schedule_pb2.FeeSchedule, price_micros: int, size_micros: int, payout_micros: int
) -> int:
    rate = schedule.taker_rate_ppm * schedule.multiplier_ppm  # over MICROS squared
    spread = price_micros * (payout_micros - price_micros)  # p(1 - p) over the payout squared
    formula = schedule.formula
    if formula == fee_schedule_pb2.FEE_FORMULA_NONE or rate == 0 or size_micros == 0:
        return 0
    if formula == fee_schedule_pb2.FEE_FORMULA_FLAT:
        numerator, denominator = rate * size_micros, MICROS**2
    elif formula == fee_schedule_pb2.FEE_FORMULA_QUADRATIC:
        numerator, denominator = rate * size_micros * spread, MICROS**3 * payout_micros
    elif formula == fee_schedule_pb2.FEE_FORMULA_QUADRATIC_POWER:
        numerator = rate * size_micros * price_micros * spread**schedule.exponent
        denominator = MICROS**3 * payout_micros ** (2 * schedule.exponent)
    else:
        raise ValueError(f"fee formula {formula} is not known to this version of oddstream: upgrade it")
    step = max(1, schedule.rounding_step_micros)
    fee = -(-numerator // (denominator * step)) * step
    return max(fee, schedule.minimum_fee_micros) if fee > 0 else 0


def taker_fee_working(
    schedule: fee_schedule_pb2.FeeSchedule, price_micros: int, size_micros: int, payout_micros: int = MICROS
) -> list[FeeStep]:
    """The steps of :func:`taker_fee_micros` with the same arguments; the last result is its answer."""
    fee = taker_fee_micros(schedule, price_micros, size_micros, payout_micros)
    formula = schedule.formula
    if formula == fee_schedule_pb2.FEE_FORMULA_NONE or not schedule.taker_rate_ppm * schedule.multiplier_ppm:
        return [FeeStep("nothing is charged", "0")]
    if not size_micros:
        return [FeeStep("nothing is traded", "0")]
    price = _EXACT.divide(Decimal(price_micros), Decimal(payout_micros))
    factors = [_factor(_decimal(schedule.taker_rate_ppm))]
    if schedule.multiplier_ppm != MICROS:
        factors.append(_factor(_decimal(schedule.multiplier_ppm)))
    factors.append(_factor(_decimal(size_micros)))
    if formula != fee_schedule_pb2.FEE_FORMULA_FLAT:
        if payout_micros != MICROS:
            factors.append(_factor(_decimal(payout_micros)))
        factors.append(_factor(price))
        if formula == fee_schedule_pb2.FEE_FORMULA_QUADRATIC:
            factors.append(_factor(1 - price))
        else:
            power = _EXACT.power(_EXACT.multiply(price, 1 - price), schedule.exponent)
            factors.append((f"({plain(price)} x {plain(1 - price)})^{schedule.exponent}", power))
    exact = Decimal(1)
    for _, factor in factors:
        exact = _EXACT.multiply(exact, factor)
    steps = [FeeStep(" x ".join(text for text, _ in factors), plain(exact))]
    step = max(1, schedule.rounding_step_micros)
    rounded = int(_EXACT.multiply(exact, Decimal(MICROS)).to_integral_value("ROUND_CEILING"))
    rounded = -(-rounded // step) * step
    steps.append(FeeStep(f"rounded up to a multiple of {plain(_decimal(step))}", plain(_decimal(rounded))))
    stepped = _stepped_fee_micros(schedule, price_micros, size_micros, payout_micros)
    if stepped != rounded:
        steps.append(FeeStep("not less than the minimum", plain(_decimal(stepped))))
    if schedule.balance_step_micros > 0:
        balance = plain(_decimal(schedule.balance_step_micros))
        steps.append(
            FeeStep(f"and what makes price x size and fee together a multiple of {balance}", plain(_decimal(fee)))
        )
    return steps


def _factor(number: Decimal) -> tuple[str, Decimal]:
    return plain(number), number


def _decimal(micros: int) -> Decimal:
    return _EXACT.multiply(Decimal(micros), Decimal("0.000001"))


def plain(number: Decimal) -> str:
    """The shortest decimal text of a number, without an exponent."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
