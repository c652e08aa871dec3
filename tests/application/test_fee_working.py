"""The working of a fee ends where the fee does."""

from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from oddstream_server.application.fee_working import fee_working
from oddstream_server.domain.fees import FeeFormula, FeeSchedule, Liquidity

SCHEDULES = st.builds(
    FeeSchedule,
    formula=st.sampled_from(FeeFormula),
    taker_rate_ppm=st.integers(0, 300_000),
    maker_rate_ppm=st.integers(0, 300_000),
    multiplier_ppm=st.sampled_from([0, 250_000, 1_000_000, 1_500_000]),
    exponent=st.integers(1, 3),
    rounding_step_micros=st.sampled_from([1, 100, 10_000]),
    minimum_micros=st.sampled_from([0, 10_000]),
)


@example(
    FeeSchedule(FeeFormula.QUADRATIC_POWER, 0, 1, multiplier_ppm=250_000, exponent=3), 1, 1, Liquidity.MAKER, 1_000_000
)
@given(
    SCHEDULES,
    st.integers(0, 1_000_000),
    st.integers(0, 10_000_000_000_000),
    st.sampled_from(Liquidity),
    st.sampled_from([1_000_000, 500_000, 2_000_000]),
)
def test_the_last_step_is_the_fee_and_rounding_never_goes_down(
    schedule: FeeSchedule, price: int, size: int, liquidity: Liquidity, payout: int
) -> None:
    price = min(price, payout)
    steps = fee_working(schedule, price, size, liquidity, payout)
    fee = schedule.fill_fee_micros(price, size, liquidity, payout)
    assert Fraction(steps[-1].result) * 1_000_000 == fee
    if len(steps) > 1:
        exact = Fraction(steps[0].result) * 1_000_000  # a Decimal's difference would have 28 digits only
        assert exact <= fee
        assert fee - exact < schedule.rounding_step_micros or fee == schedule.minimum_micros


def test_the_working_is_written_with_the_numbers_of_the_venue() -> None:
    schedule = FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, rounding_step_micros=10_000)
    steps = fee_working(schedule, 430_000, 100_000_000, Liquidity.TAKER, 1_000_000)
    assert [(s.expression, s.result) for s in steps] == [
        ("0.07 x 100 x 0.43 x 0.57", "1.7157"),
        ("rounded up to a multiple of 0.01", "1.72"),
    ]
