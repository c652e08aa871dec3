"""Random draws that are the same on every machine: a fixed bit generator and integer arithmetic only.

numpy promises the raw stream of a bit generator for ever, but not the distributions made from it; so the
distributions here are integer tables. A stream is named by a key, and no stream reads from another.
"""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

PPM = 1_000_000
_BLOCK = 512

# -ln(1 - u) at 1,024 midpoints, in ppm of the mean: the exponential distribution's quantiles.
_EXPONENTIAL = tuple(round(-math.log(1 - (i + 0.5) / 1024) * PPM) for i in range(1024))


def digest(*parts: object) -> bytes:
    """32 bytes that name a tuple of strings and integers."""
    return hashlib.sha256("\x1f".join(str(p) for p in parts).encode()).digest()


def philox(*key: object) -> np.random.Philox:
    """The bit generator of a key."""
    words = np.frombuffer(digest(*key)[:16], dtype="<u8")
    return np.random.Philox(key=words)


class Draws:
    """An endless stream of draws named by a key."""

    __slots__ = ("_bits", "_block", "_next")

    def __init__(self, *key: object) -> None:
        self._bits = philox(*key)
        self._block: list[int] = []
        self._next = 0

    def word(self) -> int:
        """64 uniform bits."""
        if self._next == len(self._block):
            self._block = self._bits.random_raw(_BLOCK).tolist()
            self._next = 0
        self._next += 1
        return self._block[self._next - 1]

    def below(self, bound: int) -> int:
        """A whole number in [0, bound); the bias of the remainder is below bound / 2^64."""
        return self.word() % bound

    def between(self, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        return low + self.word() % (high - low + 1)

    def chance(self, ppm: int) -> bool:
        return self.word() % PPM < ppm

    def exponential(self, mean: int) -> int:
        """Exponentially distributed with the mean, at least 1."""
        return max(1, mean * _EXPONENTIAL[self.word() & 1023] // PPM)

    def pick(self, values: tuple[int, ...]) -> int:
        return values[self.word() % len(values)]


def normals(count: int, *key: object) -> NDArray[np.int64]:
    """``count`` draws of mean 0 and standard deviation 1,000, near normal: the sum of four uniform 16-bit parts."""
    raw = philox(*key).random_raw(count)
    total = np.zeros(count, dtype=np.int64)
    for shift in (0, 16, 32, 48):
        total += ((raw >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64)
    return (total - 131_070) * 1_000 // 37_837
