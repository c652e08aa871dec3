"""Fees of single fills against the venues' published examples."""

import pytest

from oddstream_server.domain.fees import FeeFormula, FeeSchedule, Liquidity

KALSHI = FeeSchedule(FeeFormula.QUADRATIC, taker_rate_ppm=70_000, maker_rate_ppm=17_500)


@pytest.mark.parametrize(
    ("price_micros", "contracts", "fee_micros"),
    [
        (55_000, 1, 3_639),  # Kalshi's documentation: 0.07 x 0.055 x 0.945 = 0.00363825, rounded up
        (500_000, 1, 17_500),
        (500_000, 100, 1_750_000),
        (10_000, 1_000, 693_000),
        (0, 100, 0),
        (1_000_000, 100, 0),
    ],
)
def test_the_quadratic_taker_fee_is_rate_times_size_times_p_times_one_minus_p(
    price_micros: int, contracts: int, fee_micros: int
) -> None:
    assert KALSHI.fill_fee_micros(price_micros, contracts * 1_000_000) == fee_micros


def test_the_fee_is_rounded_up_to_the_schedules_step() -> None:
    cents = FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, rounding_step_micros=10_000)
    assert cents.fill_fee_micros(55_000, 1_000_000) == 10_000


def test_a_maker_pays_the_makers_rate() -> None:
    assert KALSHI.fill_fee_micros(500_000, 100_000_000, Liquidity.MAKER) == 437_500


def test_a_dearer_payout_scales_the_quadratic_fee_with_it() -> None:
    assert KALSHI.fill_fee_micros(5_000_000, 1_000_000, payout_micros=10_000_000) == 175_000


def test_polymarkets_old_formula_takes_the_fee_to_a_power() -> None:
    old = FeeSchedule(FeeFormula.QUADRATIC_POWER, 250_000, 0, exponent=2)
    assert old.fill_fee_micros(500_000, 100_000_000) == 781_250  # 100 x 0.5 x 0.25 x (0.25)^2


def test_a_flat_fee_is_so_many_micros_a_contract() -> None:
    assert FeeSchedule(FeeFormula.FLAT, 20_000, 0).fill_fee_micros(500_000, 3_000_000) == 60_000
