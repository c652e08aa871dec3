"""Integer arithmetic of the kernels: logit and its inverse from tables, the integer square root, clipping.

The tables are computed at import with exact integers (no libm, so that they are the same on every machine) and a test
holds their digest. Grids, linear between the points:

- ``LOGIT_E4``: log-odds of a price in 1/10,000, at every 250 micros from 250 to 999,750; prices outside are clamped.
- ``EXPIT_MICROS``: the price in micros of a log-odds, at every 1/100 from 0 to 8.30; negative ones by symmetry.
- ``LOGARITHM_E4``: ln(1 + i/256) in 1/10,000 for i from 0 to 256; powers of two are taken out first.
- ``NORMAL_PPM``: the normal distribution function in millionths, at every 1/100 from 0 to 5.00;
  negative ones by symmetry.
"""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

LOGIT_GRID_MICROS: Final = 250
LOGIT_POINTS: Final = 1_000_000 // LOGIT_GRID_MICROS
LOGIT_UNIT: Final = 10_000
"""Log-odds are counted in 1/10,000."""
EXPIT_GRID: Final = 100
EXPIT_POINTS: Final = 831
MAXIMUM_LOGIT: Final = 82_938
"""No log-odds of the table is farther from 0."""

_FIXED: Final = 1 << 96


def _divide_half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _fixed_logarithms(count: int) -> list[int]:
    """ln(1) to ln(count) times 2^96, by ln(k+1) = ln(k) + 2 artanh(1/(2k+1))."""
    logarithms = [0, 0]
    for k in range(1, count):
        inverse = _FIXED // (2 * k + 1)
        square = (2 * k + 1) ** 2
        total, power, odd = 0, inverse, 1
        while power:
            total += power // odd
            power //= square
            odd += 2
        logarithms.append(logarithms[-1] + 2 * total)
    return logarithms


def _logit_table() -> Int64Array:
    logarithms = _fixed_logarithms(LOGIT_POINTS)
    table = np.zeros(LOGIT_POINTS + 1, dtype=np.int64)
    for i in range(1, LOGIT_POINTS):
        table[i] = _divide_half_up((logarithms[i] - logarithms[LOGIT_POINTS - i]) * LOGIT_UNIT, _FIXED)
    table[0], table[LOGIT_POINTS] = table[1], table[LOGIT_POINTS - 1]
    return table


def _expit_table() -> Int64Array:
    step, term = 0, _FIXED  # exp(-1/100) by its series
    for n in range(1, 30):
        step += term
        term = -term * EXPIT_GRID // (LOGIT_UNIT * n)
    table = np.zeros(EXPIT_POINTS, dtype=np.int64)
    decay = _FIXED
    for i in range(EXPIT_POINTS):
        table[i] = _divide_half_up(1_000_000 * _FIXED, _FIXED + decay)
        decay = decay * step // _FIXED
    return table


LOGARITHM_POINTS: Final = 256
NORMAL_GRID: Final = 10_000
"""The grid of the normal table, in millionths of a standard deviation."""
NORMAL_POINTS: Final = 501


def _logarithm_table() -> Int64Array:
    logarithms = _fixed_logarithms(2 * LOGARITHM_POINTS)
    table = np.zeros(LOGARITHM_POINTS + 1, dtype=np.int64)
    for i in range(LOGARITHM_POINTS + 1):
        distance = logarithms[LOGARITHM_POINTS + i] - logarithms[LOGARITHM_POINTS]
        table[i] = _divide_half_up(distance * LOGIT_UNIT, _FIXED)
    return table


def _arctangent(inverse: int) -> int:
    """arctan(1 / inverse) times 2^96."""
    total, power, odd, sign = 0, _FIXED // inverse, 1, 1
    while power:
        total += sign * (power // odd)
        power //= inverse * inverse
        odd, sign = odd + 2, -sign
    return total


def _normal_table() -> Int64Array:
    pi = 4 * (4 * _arctangent(5) - _arctangent(239))  # Machin
    root = math.isqrt(2 * pi * _FIXED)  # of 2 pi, times 2^96
    table = np.zeros(NORMAL_POINTS, dtype=np.int64)
    for i in range(NORMAL_POINTS):
        z = i * _FIXED // 100
        # the integral of exp(-t^2 / 2) from 0 to z is z times the sum of (-z^2 / 2)^n / (n! (2n + 1))
        half_square, term, total, n = z * z // (2 * _FIXED), _FIXED, 0, 0
        while abs(term) > 1:
            total += term // (2 * n + 1)
            n += 1
            term = -term * half_square // (_FIXED * n)
        table[i] = 500_000 + _divide_half_up(1_000_000 * (z * total // _FIXED), root)
    return table


LOGIT_E4: Final = _logit_table()
EXPIT_MICROS: Final = _expit_table()
LOGARITHM_E4: Final = _logarithm_table()
NORMAL_PPM: Final = _normal_table()
for _table in (LOGIT_E4, EXPIT_MICROS, LOGARITHM_E4, NORMAL_PPM):
    _table.flags.writeable = False


def logit_e4(price_micros: Any) -> Any:
    """Log-odds in 1/10,000 of a price of a contract that pays 1,000,000 micros; beyond the grid's ends, the end's."""
    price = min(max(price_micros, LOGIT_GRID_MICROS), 1_000_000 - LOGIT_GRID_MICROS)
    index = price // LOGIT_GRID_MICROS
    low = LOGIT_E4[index]
    high = LOGIT_E4[index + 1] if index < LOGIT_POINTS else low
    return low + (high - low) * (price - index * LOGIT_GRID_MICROS) // LOGIT_GRID_MICROS


def expit_micros(logit: Any) -> Any:
    """The price in micros whose log-odds in 1/10,000 is given; the inverse of :func:`logit_e4` up to the grid."""
    size = min(abs(logit), (EXPIT_POINTS - 1) * EXPIT_GRID)
    index = size // EXPIT_GRID
    low = EXPIT_MICROS[index]
    high = EXPIT_MICROS[index + 1] if index + 1 < EXPIT_POINTS else low
    price = low + (high - low) * (size - index * EXPIT_GRID) // EXPIT_GRID
    return price if logit >= 0 else 1_000_000 - price


def integer_square_root(value: Any) -> Any:
    """The largest integer whose square is not above ``value``, by Newton's method from above.

    :param value: 0 to 2^62, so that no intermediate leaves 64 bits.
    """
    if value < 2:
        return value
    guess = 1
    rest = value
    while rest > 0:
        rest = rest // 4
        guess = guess * 2
    while True:
        better = (guess + value // guess) // 2
        if better >= guess:
            return guess
        guess = better


def clip_ppm(value: Any) -> Any:
    """``value`` held within 0 and 1,000,000."""
    return min(max(value, 0), 1_000_000)


def logarithm_e4(value: Any) -> Any:
    """ln of an integer from 1 to 2^62 in 1/10,000, from the table; up to three units off."""
    power = 0
    scaled = value
    while scaled >= 2 * LOGARITHM_POINTS:
        scaled = scaled >> 1
        power += 1
    # the mantissa with 16 more bits, so that what the shift dropped counts in the line between the points
    fine = value >> (power - 16) if power > 16 else value << (16 - power)
    while fine < LOGARITHM_POINTS << 16:
        fine = fine << 1
        power -= 1
    index = (fine >> 16) - LOGARITHM_POINTS
    rest = fine & 65_535
    low = LOGARITHM_E4[index]
    high = LOGARITHM_E4[index + 1]
    # 8 is the power of the table's own denominator
    return low + (high - low) * rest // 65_536 + (power + 8) * 6_931_472 // 1_000


def normal_ppm(z_ppm: Any) -> Any:
    """The normal distribution function in millionths of a distance in millionths of a standard deviation."""
    size = min(abs(z_ppm), (NORMAL_POINTS - 1) * NORMAL_GRID)
    index = size // NORMAL_GRID
    low = NORMAL_PPM[index]
    high = NORMAL_PPM[index + 1] if index + 1 < NORMAL_POINTS else low
    share = low + (high - low) * (size - index * NORMAL_GRID) // NORMAL_GRID
    return share if z_ppm >= 0 else 1_000_000 - share


def log_ratio_ppb(above: Any, below: Any) -> Any:
    """ln(above / below) in billionths, of two positive integers up to 2^62 whose ratio is from 1/10 to 10.

    2 artanh((a - b) / (a + b)) by its series, after both were scaled below 2^31; up to 100 billionths off.
    """
    a = above
    b = below
    while a >= 1 << 31 or b >= 1 << 31:
        a = a >> 1
        b = b >> 1
    if a < 1 or b < 1:
        return 0
    x = (a - b) * 1_000_000_000 // (a + b)
    square = x * x // 1_000_000_000
    power = x
    total = 0
    odd = 1
    while odd < 80 and power != 0 and power != -1:
        total += power // odd
        power = power * square // 1_000_000_000
        odd += 2
    return 2 * total
