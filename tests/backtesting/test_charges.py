"""Fees of the engine: exact against the domain's fractions, and the venue's rounding over an order."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddstream_server.backtesting.acceleration import compiled
from oddstream_server.backtesting.accounts.charges import (
    MAXIMUM_SIZE_MICROS,
    ORDER,
    affordable_size,
    charge,
    purchase_cost,
    schedule_records,
)
from oddstream_server.backtesting.accounts.wide import LIMBS
from oddstream_server.domain.errors import InvalidArgument
from oddstream_server.domain.fees import FeeFormula, FeeSchedule, Liquidity

schedules = st.builds(
    FeeSchedule,
    formula=st.sampled_from(FeeFormula),
    taker_rate_ppm=st.sampled_from([0, 70_000, 35_000, 250_000, 12_345, 999_999]),
    maker_rate_ppm=st.sampled_from([0, 17_500, 333]),
    multiplier_ppm=st.sampled_from([1_000_000, 500_000, 0, 1_234_567]),
    exponent=st.integers(1, 2),
    rounding_step_micros=st.sampled_from([1, 10, 100, 10_000]),
    minimum_micros=st.sampled_from([0, 10, 5_000]),
    balance_step_micros=st.sampled_from([0, 0, 100, 10_000]),
)
payouts = st.sampled_from([1_000_000, 1_000_000, 999_999, 10_000_000])
sizes = st.integers(0, MAXIMUM_SIZE_MICROS)


def a_charge(
    schedule: FeeSchedule, price: int, size: int, *, maker: bool = False, payout: int = 1_000_000, buys: bool = True
) -> list[int]:
    """The fee by the plain source and by the compiled one."""
    found = []
    for plain in (True, False):
        order, limbs = np.zeros(1, dtype=ORDER), np.zeros(LIMBS, dtype=np.int64)
        records = schedule_records([schedule], [payout])
        found.append(
            int(compiled(charge, plain=plain)(records[0], order[0], int(maker), int(buys), price, size, payout, limbs))
        )
    return found


@settings(deadline=None)  # the first example compiles
@given(schedules, payouts, sizes, st.booleans(), st.data())
def test_the_fee_of_one_fill_is_the_domains(
    schedule: FeeSchedule, payout: int, size: int, maker: bool, data: st.DataObject
) -> None:
    price = data.draw(st.one_of(st.integers(0, payout), st.integers(0, payout // 10_000).map(lambda c: c * 10_000)))
    liquidity = Liquidity.MAKER if maker else Liquidity.TAKER
    expected = schedule.fill_fee_micros(price, size, liquidity, payout)
    if size == 0:
        expected = 0
    assert a_charge(schedule, price, size, maker=maker, payout=payout) == [expected] * 2


def test_ten_million_contracts_pay_what_the_formula_says() -> None:
    schedule = FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, rounding_step_micros=10_000)
    # 0.07 x 10^7 x 0.5 x 0.5 = 175,000 USD
    assert a_charge(schedule, 500_000, MAXIMUM_SIZE_MICROS) == [175_000_000_000] * 2


@pytest.fixture
def balanced() -> FeeSchedule:
    """Kalshi's documentation of September 2026 for an account that isn't a direct member."""
    return FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, rounding_step_micros=100, balance_step_micros=10_000)


def _fills(schedule: FeeSchedule, fills: list[tuple[int, int]], *, buys: bool = True) -> list[int]:
    order, limbs = np.zeros(1, dtype=ORDER), np.zeros(LIMBS, dtype=np.int64)
    records = schedule_records([schedule], [1_000_000])
    return [int(charge(records[0], order[0], 0, int(buys), p, s, 1_000_000, limbs)) for p, s in fills]


def test_a_fill_pays_what_brings_the_balance_to_whole_cents(balanced: FeeSchedule) -> None:
    # 0.055 + fee 0.0037 = 0.0587, the balance moves by 0.06
    assert _fills(balanced, [(55_000, 1_000_000)]) == [5_000]
    # sold: 0.055 - 0.0037 = 0.0513, the balance moves by 0.05
    assert _fills(balanced, [(55_000, 1_000_000)], buys=False) == [5_000]


def test_an_order_gets_a_cent_back_once_it_overpaid_more_than_one(balanced: FeeSchedule) -> None:
    # 100 contracts at 0.05: fee 0.3325 -> 0.3400 with 0.0075 of rounding; the second fill makes it 0.015, over a cent
    fills = [(50_000, 100_000_000)] * 3
    assert _fills(balanced, fills) == [340_000, 330_000, 330_000]


def test_what_an_order_was_overcharged_the_next_fills_give_back() -> None:
    schedule = FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, rounding_step_micros=10_000, rounds_over_order=True)
    # 0.0175 a contract at 0.50: 0.02, then 0.035 in all is 0.04, then 0.0525 in all is 0.06
    assert _fills(schedule, [(500_000, 1_000_000)] * 4) == [20_000, 20_000, 20_000, 10_000]
    apart = FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, rounding_step_micros=10_000)
    assert _fills(apart, [(500_000, 1_000_000)] * 4) == [20_000] * 4


@settings(deadline=None)  # the first example compiles
@given(
    schedules,
    st.integers(1, 999_999),
    st.integers(0, 10**12),
    st.integers(0, MAXIMUM_SIZE_MICROS),
    st.sampled_from([1, 10_000, 1_000_000]),
    st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
)
def test_the_affordable_size_is_the_largest_that_the_budget_pays(
    schedule: FeeSchedule, price: int, budget: int, cap: int, step: int, before: tuple[int, int]
) -> None:
    records = schedule_records([schedule], [1_000_000])
    limbs = np.zeros(LIMBS, dtype=np.int64)
    order = np.zeros(1, dtype=ORDER)
    order[0] = (before[0], before[1], 0)

    def cost(size: int) -> Any:
        return purchase_cost(records[0], order[0], 0, price, size, 1_000_000, limbs)

    for plain in (True, False):
        size = compiled(affordable_size, plain=plain)(
            records[0], order[0], 0, price, cap, step, budget, 1_000_000, limbs
        )
        assert size % step == 0
        assert size <= cap
        assert size == 0 or cost(size) <= budget
        assert size + step > cap or cost(size + step) > budget


@pytest.mark.parametrize(
    "schedule",
    [
        FeeSchedule(FeeFormula.QUADRATIC, -1, 0),
        FeeSchedule(FeeFormula.QUADRATIC, 2**31, 0),
        FeeSchedule(FeeFormula.QUADRATIC, 1, 0, rounding_step_micros=0),
        FeeSchedule(FeeFormula.QUADRATIC_POWER, 1, 0, exponent=9),
    ],
)
def test_a_schedule_that_the_integers_cannot_hold_is_refused(schedule: FeeSchedule) -> None:
    with pytest.raises(InvalidArgument) as refused:
        schedule_records([schedule], [1_000_000])
    assert refused.value.violations[0].field == "fee_schedule"
