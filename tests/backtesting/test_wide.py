"""Products of more than 64 bits in 64-bit integers, as plain Python and compiled."""

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddstream_server.backtesting.acceleration import compiled
from oddstream_server.backtesting.accounts.lots import share
from oddstream_server.backtesting.accounts.wide import (
    LIMBS,
    LIMIT,
    divide_wide_up,
    get_wide,
    multiply_wide,
    notional_down,
    notional_up,
    product_fits,
    set_wide,
)

TEN_MILLION_CONTRACTS = 10_000_000 * 1_000_000
factors = st.lists(st.integers(0, LIMIT - 1), max_size=4)
divisors = st.lists(st.integers(1, LIMIT - 1), max_size=8)


@pytest.fixture(params=["plain", "compiled"])
def plain(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "plain")


@settings(deadline=None)  # the first example compiles
@given(st.integers(0, 2**62 - 1), factors, divisors)
def test_a_chain_of_products_and_divisions_is_rounded_up_once(start: int, times: list[int], by: list[int]) -> None:
    numerator, denominator = start, 1
    for factor in times:
        numerator *= factor
    for divisor in by:
        denominator *= divisor
    expected = -(-numerator // denominator)
    if expected >= 2**62:
        return
    for plain in (True, False):
        limbs = np.zeros(LIMBS, dtype=np.int64)
        compiled(set_wide, plain=plain)(limbs, start)
        for factor in times:
            compiled(multiply_wide, plain=plain)(limbs, factor)
        for divisor in by:
            compiled(divide_wide_up, plain=plain)(limbs, divisor)
        assert compiled(get_wide, plain=plain)(limbs) == expected


def test_a_product_that_needs_more_than_the_limbs_is_known_beforehand() -> None:
    assert product_fits([LIMIT - 1] * LIMBS)
    assert not product_fits([LIMIT - 1] * (LIMBS + 1))


@settings(deadline=None)  # the first example compiles
@given(st.integers(0, 10_000_000), st.integers(0, TEN_MILLION_CONTRACTS))
def test_price_times_size_is_exact_to_ten_million_contracts(price: int, size: int) -> None:
    exact = Fraction(price * size, 1_000_000)
    for plain in (True, False):
        down, up = compiled(notional_down, plain=plain), compiled(notional_up, plain=plain)
        assert down(np.int64(price), np.int64(size)) == exact.__floor__()
        assert up(np.int64(price), np.int64(size)) == ceil(exact)


@settings(deadline=None)  # the first example compiles
@given(st.integers(0, 2**62 - 1), st.data())
def test_a_share_of_an_amount_is_exact(amount: int, data: st.DataObject) -> None:
    whole = data.draw(st.integers(1, 2**61 - 1))
    part = data.draw(st.integers(0, whole))
    expected = amount * part // whole
    for plain in (True, False):
        assert compiled(share, plain=plain)(np.int64(amount), np.int64(part), np.int64(whole)) == expected
