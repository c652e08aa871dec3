from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddstream_server.domain.fees import FeeFormula, FeeSchedule, Liquidity, schedule_at
from oddstream_server.domain.money import MICROS, Rounding, divide, notional_micros, round_up_to

PRICES = st.integers(0, MICROS)
SIZES = st.integers(0, 10_000_000 * MICROS)
"""Up to ten million contracts: price x size leaves 63 bits a thousand times over."""


@given(numerator=st.integers(-(10**30), 10**30), denominator=st.integers(1, 10**20))
def test_each_rounding_is_that_of_exact_rational_arithmetic(numerator, denominator):
    exact = Fraction(numerator, denominator)
    assert divide(numerator, denominator, Rounding.DOWN) == floor(exact)
    assert divide(numerator, denominator, Rounding.UP) == ceil(exact)
    assert divide(numerator, denominator, Rounding.HALF_UP) == floor(exact + Fraction(1, 2))


def test_a_denominator_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="greater than 0"):
        divide(1, 0, Rounding.UP)


@given(price=PRICES, size=SIZES)
def test_a_notional_is_exact_to_the_micro_up_to_ten_million_contracts(price, size):
    exact = Fraction(price * size, MICROS)
    down, up = notional_micros(price, size, Rounding.DOWN), notional_micros(price, size, Rounding.UP)
    assert down <= exact <= up
    assert up - down == (0 if exact.denominator == 1 else 1)


@given(amount=st.integers(0, 10**15), step=st.sampled_from([1, 100, 10_000]))
def test_rounding_up_to_a_step_is_the_smallest_multiple_that_is_not_below(amount, step):
    rounded = round_up_to(amount, step)
    assert rounded % step == 0
    assert 0 <= rounded - amount < step


SCHEDULES = st.builds(
    FeeSchedule,
    formula=st.just(FeeFormula.QUADRATIC),
    taker_rate_ppm=st.integers(0, 300_000),
    maker_rate_ppm=st.integers(0, 100_000),
    multiplier_ppm=st.sampled_from([0, 500_000, MICROS, 2 * MICROS]),
    rounding_step_micros=st.sampled_from([1, 10, 100, 10_000]),
)


@given(schedule=SCHEDULES, price=PRICES, size=SIZES)
def test_a_quadratic_fee_is_the_exact_product_rounded_up_to_the_step(schedule, price, size):
    p = Fraction(price, MICROS)
    exact = (
        Fraction(schedule.taker_rate_ppm, MICROS)
        * Fraction(schedule.multiplier_ppm, MICROS)
        * Fraction(size, MICROS)
        * p
        * (1 - p)
        * MICROS
    )
    step = schedule.rounding_step_micros
    assert schedule.fill_fee_micros(price, size) == ceil(exact / step) * step


@given(schedule=SCHEDULES, price=PRICES, size=SIZES)
def test_a_fee_is_the_same_for_the_other_outcome_at_the_mirrored_price(schedule, price, size):
    assert schedule.fill_fee_micros(price, size) == schedule.fill_fee_micros(MICROS - price, size)


@given(schedule=SCHEDULES, price=PRICES, first=SIZES, second=SIZES)
def test_splitting_a_fill_never_saves_fees_and_costs_at_most_a_step_each(schedule, price, first, second):
    whole = schedule.fill_fee_micros(price, first + second)
    parts = schedule.fill_fee_micros(price, first) + schedule.fill_fee_micros(price, second)
    assert whole <= parts < whole + 2 * schedule.rounding_step_micros


def test_of_several_schedules_the_one_that_holds_and_began_last_is_taken():
    old = FeeSchedule(FeeFormula.QUADRATIC, 1, 0, valid_to_us=200)
    new = FeeSchedule(FeeFormula.QUADRATIC, 2, 0, valid_from_us=100)
    assert schedule_at((old, new), 99) is old
    assert schedule_at((old, new), 100) is new
    assert schedule_at((old, new), 200) is new
    assert schedule_at((old,), 200) is None
    assert schedule_at((), 0) is None


def test_a_maker_of_a_schedule_without_maker_fees_pays_nothing():
    assert FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0).fill_fee_micros(500_000, MICROS, Liquidity.MAKER) == 0
