"""Fees of a backtest's fills: the dated schedules as records of integers, and what one fill of an order costs.

A fee is exact: rate x size x p x (1 - p) is formed in more than 64 bits (:mod:`wide`) and rounded up once, to a micro;
that is then rounded up to the schedule's step, over the fill or over the order as the schedule says. Where the venue
rounds balances (Kalshi since September 2026), a fill pays besides what makes its balance change a multiple of the
step, and once an order has paid more than a cent in this way it gets a cent back, if the fill's fee is at least that.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from oddstream_server.backtesting.accounts.wide import (
    LIMIT,
    divide_wide_up,
    get_wide,
    multiply_wide,
    notional_down,
    notional_up,
    product_fits,
    set_wide,
)
from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.money import MICROS

MAXIMUM_SIZE_MICROS: Final = 10_000_000 * MICROS
"""Ten million contracts: no order of a backtest is larger."""
REBATE_MICROS: Final = 10_000
"""What an order gets back at a time of the rounding that it paid: one cent."""
NO_SCHEDULE: Final = -1

_FORMULAS: Final = {FeeFormula.NONE: 0, FeeFormula.QUADRATIC: 1, FeeFormula.QUADRATIC_POWER: 2, FeeFormula.FLAT: 3}

SCHEDULE: Final = np.dtype(
    [
        ("formula", np.int64),
        ("taker_rate_ppm", np.int64),
        ("maker_rate_ppm", np.int64),
        ("multiplier_ppm", np.int64),
        ("exponent", np.int64),
        ("step_micros", np.int64),
        ("minimum_micros", np.int64),
        ("over_order", np.int64),
        ("balance_step_micros", np.int64),
        ("taker_numerator", np.int64),
        ("taker_denominator", np.int64),
        ("maker_numerator", np.int64),
        ("maker_denominator", np.int64),
    ]
)
"""``*_numerator / *_denominator`` is rate x multiplier as a reduced fraction; 0 where the short way doesn't fit."""

ORDER: Final = np.dtype([("raw_micros", np.int64), ("charged_micros", np.int64), ("over_micros", np.int64)])
"""What an order's fills add up to: unrounded fees, charged fees, and balance rounding not yet given back."""

HUNDREDTH_OF_CENT: Final = 100


def schedule_records(schedules: Sequence[FeeSchedule], payouts_micros: Sequence[int]) -> Any:
    """The schedules as an array of :data:`SCHEDULE`.

    :param payouts_micros: the payouts of the markets that they are used with.
    :raises InvalidArgument: a rate or step is negative, or so fine that its products leave the engine's integers.
    """
    records = np.zeros(len(schedules), dtype=SCHEDULE)
    largest = max(payouts_micros, default=MICROS)
    for i, s in enumerate(schedules):
        numbers = (s.taker_rate_ppm, s.maker_rate_ppm, s.multiplier_ppm, s.rounding_step_micros, s.balance_step_micros)
        factors = [MAXIMUM_SIZE_MICROS, max(s.taker_rate_ppm, s.maker_rate_ppm, 1), s.multiplier_ppm]
        factors += [largest] * (2 * s.exponent + 1)
        if any(not 0 <= n < LIMIT for n in (*numbers, largest)) or s.rounding_step_micros < 1 or s.exponent < 1:
            raise _refused(
                s, "rates, multiplier, steps and payout must be from 0 to 2^31 - 1, step and exponent from 1"
            )
        if not product_fits(factors):
            raise _refused(s, "has more digits than the engine's integers; state rate and multiplier more coarsely")
        records[i] = (
            _FORMULAS[s.formula],
            s.taker_rate_ppm,
            s.maker_rate_ppm,
            s.multiplier_ppm,
            s.exponent,
            s.rounding_step_micros,
            s.minimum_micros,
            int(s.rounds_over_order),
            s.balance_step_micros,
            *_short_way(s.taker_rate_ppm * s.multiplier_ppm),
            *_short_way(s.maker_rate_ppm * s.multiplier_ppm),
        )
    return records


def _refused(schedule: FeeSchedule, rule: str) -> InvalidArgument:
    return InvalidArgument([FieldViolation("fee_schedule", f"{schedule.source or schedule.formula.value}: {rule}")])


def _short_way(rate_numerator: int) -> tuple[int, int]:
    divisor = math.gcd(rate_numerator, MICROS * MICROS)
    numerator, denominator = rate_numerator // divisor, MICROS * MICROS // divisor
    fits = numerator * 25_000_000 * denominator * 100_000_000 < 2**62
    return (numerator, denominator) if fits else (0, 0)


def raw_fee(schedule: Any, maker: Any, price_micros: Any, size_micros: Any, payout_micros: Any, limbs: Any) -> Any:
    """The fee rounded up to a micro, before step and minimum.

    :param maker: 1 for the maker's rate, 0 for the taker's.
    :param limbs: scratch of :data:`wide.LIMBS` int64.
    """
    formula = schedule["formula"]
    rate = schedule["maker_rate_ppm"] if maker else schedule["taker_rate_ppm"]
    if formula == 0 or rate == 0 or schedule["multiplier_ppm"] == 0 or size_micros == 0:
        return 0
    if formula != 3 and (price_micros <= 0 or price_micros >= payout_micros):
        return 0
    numerator = schedule["maker_numerator"] if maker else schedule["taker_numerator"]
    if formula == 1 and numerator > 0 and payout_micros == MICROS and price_micros % HUNDREDTH_OF_CENT == 0:
        # rate x p(1-p) for one micro of a contract is a / b with a x b below 2^62, so the size is split at b
        cents = price_micros // HUNDREDTH_OF_CENT
        a = numerator * cents * (10_000 - cents)
        b = (schedule["maker_denominator"] if maker else schedule["taker_denominator"]) * 100_000_000
        whole = size_micros // b
        return whole * a + ((size_micros - whole * b) * a + b - 1) // b
    set_wide(limbs, size_micros)
    multiply_wide(limbs, rate)
    multiply_wide(limbs, schedule["multiplier_ppm"])
    if formula != 3:
        multiply_wide(limbs, price_micros)
        multiply_wide(limbs, payout_micros - price_micros)
        divide_wide_up(limbs, payout_micros)
    if formula == 2:
        for _ in range(schedule["exponent"] - 1):
            multiply_wide(limbs, price_micros)
            multiply_wide(limbs, payout_micros - price_micros)
            divide_wide_up(limbs, payout_micros)
            divide_wide_up(limbs, payout_micros)
        multiply_wide(limbs, price_micros)
        divide_wide_up(limbs, payout_micros)
    divide_wide_up(limbs, MICROS)
    divide_wide_up(limbs, MICROS)
    if formula != 3:
        divide_wide_up(limbs, MICROS)
    return get_wide(limbs)


def stepped_fee(schedule: Any, order: Any, raw_micros: Any) -> Any:
    """The fee of the order's next fill rounded up to the schedule's step, over the fill or over the order."""
    step = schedule["step_micros"]
    if schedule["over_order"] == 0:
        fee = (raw_micros + step - 1) // step * step
        return max(fee, schedule["minimum_micros"]) if fee > 0 else 0
    due = (order["raw_micros"] + raw_micros + step - 1) // step * step
    if due > 0:
        due = max(due, schedule["minimum_micros"])
    return max(due - order["charged_micros"], 0)


def balance_rounding(schedule: Any, buys: Any, price_micros: Any, size_micros: Any, fee_micros: Any) -> Any:
    """What rounds the balance change of a fill down to a multiple of the schedule's balance step."""
    step = schedule["balance_step_micros"]
    if step <= 0:
        return 0
    if buys:
        rest = (notional_up(price_micros, size_micros) + fee_micros) % step
        return step - rest if rest > 0 else 0
    change = notional_down(price_micros, size_micros) - fee_micros
    return change - change // step * step


def charge(
    schedule: Any,
    order: Any,
    maker: Any,
    buys: Any,
    price_micros: Any,
    size_micros: Any,
    payout_micros: Any,
    limbs: Any,
) -> Any:
    """The fee of an order's next fill; the order's :data:`ORDER` record is brought up to date."""
    raw = raw_fee(schedule, maker, price_micros, size_micros, payout_micros, limbs)
    fee = stepped_fee(schedule, order, raw)
    order["raw_micros"] += raw
    order["charged_micros"] += fee
    rounding = balance_rounding(schedule, buys, price_micros, size_micros, fee)
    order["over_micros"] += rounding
    fee += rounding
    if order["over_micros"] > REBATE_MICROS and fee >= REBATE_MICROS:
        order["over_micros"] -= REBATE_MICROS
        fee -= REBATE_MICROS
    return fee


def purchase_cost(
    schedule: Any, order: Any, maker: Any, price_micros: Any, size_micros: Any, payout_micros: Any, limbs: Any
) -> Any:
    """Cost with fee of the order's next fill, before anything is given back; it never falls when the size grows."""
    fee = stepped_fee(schedule, order, raw_fee(schedule, maker, price_micros, size_micros, payout_micros, limbs))
    fee += balance_rounding(schedule, 1, price_micros, size_micros, fee)
    return notional_up(price_micros, size_micros) + fee


def affordable_size(
    schedule: Any,
    order: Any,
    maker: Any,
    price_micros: Any,
    cap_micros: Any,
    size_step_micros: Any,
    budget_micros: Any,
    payout_micros: Any,
    limbs: Any,
) -> Any:
    """The largest multiple of the step, up to the cap, whose :func:`purchase_cost` is within the budget."""
    largest = min(cap_micros, MAXIMUM_SIZE_MICROS) // size_step_micros
    if largest <= 0 or budget_micros <= 0:
        return 0
    # a first guess by the unrounded cost of one contract in hundredths of a micro, then gallop and halve
    hundred_fee = raw_fee(schedule, maker, price_micros, 100 * MICROS, payout_micros, limbs)
    unit = price_micros * 100 + hundred_fee
    good = largest
    if unit > 0:
        whole = budget_micros // unit
        if whole < 100_000:
            guess = whole * 100_000_000 + (budget_micros - whole * unit) * 100_000_000 // unit
            good = min(largest, guess // size_step_micros)
    bad = largest + 1
    stride = 1
    while (
        good > 0
        and purchase_cost(schedule, order, maker, price_micros, good * size_step_micros, payout_micros, limbs)
        > budget_micros
    ):
        bad = good
        good = max(good - stride, 0)
        stride *= 2
    if bad > largest:
        stride = 1
        while (
            good + stride <= largest
            and purchase_cost(
                schedule, order, maker, price_micros, (good + stride) * size_step_micros, payout_micros, limbs
            )
            <= budget_micros
        ):
            good += stride
            stride *= 2
        bad = min(good + stride, largest + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        if (
            purchase_cost(schedule, order, maker, price_micros, middle * size_step_micros, payout_micros, limbs)
            <= budget_micros
        ):
            good = middle
        else:
            bad = middle
    return good * size_step_micros
