"""Products of more than 64 bits in 64-bit integers.

A number is held as limbs of 31 bits in an array of int64, least significant first, so that a limb times a factor below
2^31, plus a carry, stays below 2^63. The same source runs compiled and as plain Python, and neither can wrap.
Factors and divisors are below :data:`LIMIT`; :func:`product_fits` says beforehand whether a chain of factors fits.
"""

from collections.abc import Sequence
from typing import Any, Final

LIMB_BITS: Final = 31
LIMIT: Final = 1 << LIMB_BITS
LIMBS: Final = 10
"""310 bits: the fee of 10 million contracts by any formula in use takes 230."""
_MASK: Final = LIMIT - 1
MICROS: Final = 1_000_000


def product_fits(factors: Sequence[int]) -> bool:
    """True where the product of these stays within the limbs."""
    return sum(factor.bit_length() for factor in factors) <= LIMBS * LIMB_BITS


def set_wide(limbs: Any, value: Any) -> None:
    """Load a number from 0 to 2^62."""
    limbs[0] = value & _MASK
    limbs[1] = (value >> LIMB_BITS) & _MASK
    for i in range(2, LIMBS):
        limbs[i] = 0


def multiply_wide(limbs: Any, factor: Any) -> None:
    """Multiply in place by a factor from 0 to 2^31 - 1."""
    carry = 0
    for i in range(LIMBS):
        partial = limbs[i] * factor + carry
        limbs[i] = partial & _MASK
        carry = partial >> LIMB_BITS


def divide_wide_up(limbs: Any, divisor: Any) -> None:
    """Divide in place by a divisor from 1 to 2^31 - 1 and round up.

    Rounding up at each of several divisions gives the same as rounding up once at the product of the divisors.
    """
    rest = 0
    for j in range(LIMBS):
        i = LIMBS - 1 - j
        partial = (rest << LIMB_BITS) | limbs[i]
        if partial > 0:
            limbs[i] = partial // divisor
            rest = partial - limbs[i] * divisor
    i = 0
    while rest > 0:
        limbs[i] += 1
        rest = 0
        if limbs[i] == LIMIT:
            limbs[i] = 0
            rest = 1
            i += 1


def get_wide(limbs: Any) -> Any:
    """The number, which has to be below 2^62."""
    return limbs[0] | (limbs[1] << LIMB_BITS)


def notional_down(price_micros: Any, size_micros: Any) -> Any:
    """Price times size in money micros, rounded down: exact for prices to 10 USD and sizes to 10^13 micros."""
    whole = size_micros // MICROS
    return price_micros * whole + price_micros * (size_micros - whole * MICROS) // MICROS


def notional_up(price_micros: Any, size_micros: Any) -> Any:
    """Price times size in money micros, rounded up."""
    whole = size_micros // MICROS
    return price_micros * whole + (price_micros * (size_micros - whole * MICROS) + MICROS - 1) // MICROS
