"""The hidden underlying of an event, and what the chance of an outcome is along its way.

An event's underlying starts at 0 and takes 4,096 steps to its end; with everything still ahead its standard deviation
is ``UNIT``. A market pays where the end lies in (floor, cap]; its fair value on the way is the normal probability of
that given the present level and the variance that is left, a martingale up to the tails of the jumps.
"""

import math
from array import array
from functools import cache

import numpy as np
from numpy.typing import NDArray

from oddstream_server.venues.simulated.draws import normals, philox

UNIT = 1_000_000
STEPS = 4_096
_STEP = UNIT // 64  # 64 = sqrt(STEPS)
_GRID = 2_048  # table entries a standard deviation
_REACH = 5  # standard deviations


@cache
def _normal_table() -> tuple[int, ...]:
    """The normal distribution function in ppm at 1/2048 of a standard deviation from -5 to 5."""
    return tuple(
        round((1 + math.erf(i / _GRID / math.sqrt(2))) / 2 * UNIT) for i in range(-_REACH * _GRID, _REACH * _GRID + 1)
    )


def probability_above(level: int, threshold: int, deviation: int) -> int:
    """Chance in ppm that the end lies above ``threshold``, from ``level`` with ``deviation`` ahead."""
    table = _normal_table()
    if deviation <= 0:
        return UNIT if level > threshold else 0
    index = (level - threshold) * _GRID // deviation + _REACH * _GRID
    return table[min(max(index, 0), len(table) - 1)] if 0 < index < len(table) - 1 else (UNIT if index > 0 else 0)


class Path:
    """One underlying from open to close; any instant can be read, in any order.

    :param jump_variance_ppm: share of the variance that comes in jumps, of which ``jumps`` are expected.
    :param quiet_time_ppm: the first share of the life, which has only ``quiet_variance_ppm`` of the variance, as before
        a game begins; the rest has the rest.
    """

    __slots__ = ("_close_us", "_levels", "_open_us", "_quiet_time_ppm", "_quiet_variance_ppm")

    def __init__(
        self,
        open_us: int,
        close_us: int,
        jump_variance_ppm: int,
        jumps: int,
        key: tuple[object, ...],
        quiet_time_ppm: int = 0,
        quiet_variance_ppm: int = 0,
    ) -> None:
        self._open_us, self._close_us = open_us, close_us
        self._quiet_time_ppm, self._quiet_variance_ppm = quiet_time_ppm, quiet_variance_ppm
        # An array holds 32 KiB where a list of integers takes 160.
        self._levels = array("q", _levels(jump_variance_ppm, jumps, key).tobytes())

    @property
    def end(self) -> int:
        return self._levels[-1]

    def at(self, instant_us: int) -> tuple[int, int]:
        """(level, standard deviation still ahead) at an instant, held at the ends outside of the life."""
        span = self._close_us - self._open_us
        gone = self._spent(min(max(instant_us - self._open_us, 0), span), span)
        step, part = divmod(gone * STEPS, span)
        if step == STEPS:
            return self._levels[STEPS], 0
        low, high = self._levels[step], self._levels[step + 1]
        return low + (high - low) * part // span, math.isqrt((span - gone) * UNIT * UNIT // span)

    def _spent(self, elapsed: int, span: int) -> int:
        """How much of the variance is behind after a part of the life, in the life's own unit."""
        quiet_time, quiet_variance = self._quiet_time_ppm, self._quiet_variance_ppm
        kink = span * quiet_time // UNIT
        if elapsed < kink:
            return elapsed * quiet_variance // quiet_time
        before = span * quiet_variance // UNIT
        return before + (elapsed - kink) * (span - before) // (span - kink)


def _levels(jump_variance_ppm: int, jumps: int, key: tuple[object, ...]) -> NDArray[np.int64]:
    steady = math.isqrt((UNIT - jump_variance_ppm) * UNIT)  # standard deviation share of the steady part, ppm
    moves = normals(STEPS, *key, "steady") * (_STEP * steady // UNIT) // 1_000
    if jumps and jump_variance_ppm:
        raw = philox(*key, "jumps").random_raw(STEPS)
        hit = (raw & np.uint64(0xFFFFFF)).astype(np.int64) * STEPS < jumps << 24
        size = math.isqrt(jump_variance_ppm * UNIT // jumps)
        # Uniform over 0.5 to 1.5 of the size and of either sign: second moment 13/12 of its square.
        spread = ((raw >> np.uint64(24)) & np.uint64(0xFFFF)).astype(np.int64)
        signed = np.where((raw >> np.uint64(63)).astype(np.int64) == 1, 1, -1)
        moves = moves + np.where(hit, signed * (size * (32_768 + spread) // 65_536), 0)
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(moves)])
