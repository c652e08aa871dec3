import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddstream_server.strategies.arithmetic import (
    EXPIT_MICROS,
    LOGIT_E4,
    MAXIMUM_LOGIT,
    clip_ppm,
    expit_micros,
    integer_square_root,
    logit_e4,
)


def test_the_tables_are_the_same_on_every_machine() -> None:
    digest = hashlib.sha256(LOGIT_E4.astype("<i8").tobytes() + EXPIT_MICROS.astype("<i8").tobytes()).hexdigest()
    assert digest == "09c25c4b409cdb07b07a145b132c59ba053caead1f45ce470e61f25b77233c4c"


def test_the_tables_are_the_functions_rounded_to_the_unit() -> None:
    for i in range(1, len(LOGIT_E4) - 1):
        p = i / (len(LOGIT_E4) - 1)
        assert abs(int(LOGIT_E4[i]) - 10_000 * math.log(p / (1 - p))) <= 0.501
    for i, price in enumerate(EXPIT_MICROS):
        assert abs(int(price) - 1_000_000 / (1 + math.exp(-i / 100))) <= 0.501


@given(st.integers(0, 1_000_000), st.integers(0, 1_000_000))
def test_logit_is_monotone_odd_and_bounded(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert logit_e4(np.int64(low)) <= logit_e4(np.int64(high))
    assert abs(int(logit_e4(np.int64(a))) + int(logit_e4(np.int64(1_000_000 - a)))) <= 1
    assert abs(int(logit_e4(np.int64(a)))) <= MAXIMUM_LOGIT


@given(st.integers(5_000, 995_000))
def test_expit_undoes_logit_to_a_tenth_of_the_finest_tick(price: int) -> None:
    assert abs(int(expit_micros(logit_e4(np.int64(price)))) - price) <= 50


@given(st.integers(0, 2**62))
def test_the_integer_square_root_is_exact_in_64_bits(value: int) -> None:
    assert int(integer_square_root(np.int64(value))) == math.isqrt(value)


@pytest.mark.parametrize(
    ("value", "clipped"), [(-1, 0), (0, 0), (5, 5), (1_000_000, 1_000_000), (1_000_001, 1_000_000)]
)
def test_clipping_holds_a_value_within_one(value: int, clipped: int) -> None:
    assert clip_ppm(value) == clipped
