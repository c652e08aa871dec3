"""Integer money: micros, and the products of micros with a stated rounding.

Python's integers have no width, so a product here can't overflow; code that runs on 64-bit integers (columns, compiled
kernels) has to widen it by itself: price x size in micros leaves int64 above 9.2 million contracts at 1 USD, and
p(1-p) x size does at 37 contracts.
"""

from enum import Enum

MICROS = 1_000_000
"""One USD, and one contract, in micros."""


class Rounding(Enum):
    """Where a product that is not a whole number of units goes."""

    DOWN = "down"
    UP = "up"
    HALF_UP = "half_up"


def divide(numerator: int, denominator: int, rounding: Rounding) -> int:
    """``numerator / denominator`` rounded as stated; DOWN is towards minus infinity, UP towards plus infinity.

    :param denominator: greater than 0.
    """
    if denominator <= 0:
        raise ValueError(f"denominator must be greater than 0, got {denominator}")
    if rounding is Rounding.DOWN:
        return numerator // denominator
    if rounding is Rounding.UP:
        return -(-numerator // denominator)
    return (2 * numerator + denominator) // (2 * denominator)


def notional_micros(price_micros: int, size_micros: int, rounding: Rounding) -> int:
    """Price times size in money micros."""
    return divide(price_micros * size_micros, MICROS, rounding)


def round_up_to(amount_micros: int, step_micros: int) -> int:
    """The smallest multiple of ``step_micros`` that is not below the amount."""
    return divide(amount_micros, step_micros, Rounding.UP) * step_micros
