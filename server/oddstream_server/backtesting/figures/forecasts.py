"""Figures of forecasts and trades: Brier score, log loss, calibration, win rate, realised edge with its interval.

Undefined is None. Brier scores are two-class (Brier 1950), log losses clip at 1e-6, intervals are at 95 %: Wilson 1927
for the win rate, a bootstrap over whole events for the edge, with a fixed seed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from oddstream_server.domain.money import MICROS, Rounding, divide

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LOG_LOSS_CLIP: Final = 1e-6
CONFIDENCE_LEVEL: Final = 0.95
BIN_MICROS: Final = 50_000
"""Width of a calibration bin: 5 cents of a contract that pays one USD."""
BOOTSTRAP_DRAWS: Final = 2_000
_KEPT_COUNT: Final = 2_000
_DRAWN_CELLS: Final = 131_072
"""Of draws at a time: they stay in the cache of the processor."""
_Z: Final = NormalDist().inv_cdf(0.5 + CONFIDENCE_LEVEL / 2.0)


def brier(probabilities: Floats, happened: Floats) -> float | None:
    """Mean squared distance of forecasts from what happened (0 or 1)."""
    return float(np.mean(np.square(probabilities - happened))) if len(probabilities) else None


def log_loss(probabilities: Floats, happened: Floats) -> float | None:
    if not len(probabilities):
        return None
    p = np.clip(probabilities, LOG_LOSS_CLIP, 1.0 - LOG_LOSS_CLIP)
    return float(-np.mean(happened * np.log(p) + (1.0 - happened) * np.log(1.0 - p)))


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Forecasts from ``start`` (included) to ``end`` (excluded, but for the last bin), in micros of the payout."""

    start_price_micros: int
    end_price_micros: int
    count: int
    mean_forecast: float | None
    frequency: float | None
    """Share of them that happened."""


def calibration(forecasts_micros: Integers, happened: Floats) -> tuple[CalibrationBin, ...]:
    """Twenty fixed bins of 5 cents on whole micros, ascending."""
    last = MICROS // BIN_MICROS - 1
    place = np.clip(forecasts_micros // BIN_MICROS, 0, last)
    bins = []
    for k in range(last + 1):
        inside = place == k
        count = int(inside.sum())
        bins.append(
            CalibrationBin(
                k * BIN_MICROS,
                (k + 1) * BIN_MICROS,
                count,
                int(forecasts_micros[inside].sum()) / count / MICROS if count else None,
                float(happened[inside].mean()) if count else None,
            )
        )
    return tuple(bins)


def wilson(successes: int, trials: int) -> tuple[float, float] | None:
    """Wilson's interval of a share at 95 %."""
    if trials == 0:
        return None
    share, square = successes / trials, _Z * _Z
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = _Z / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    return (centre - half if successes else 0.0), (centre + half if successes < trials else 1.0)


@dataclass(frozen=True, slots=True)
class Edge:
    """Earned after fees for one contract, in micros, with the bootstrap interval where there are two events or more."""

    mean_micros: int
    low_micros: int | None
    high_micros: int | None


def realized_edge(profits_micros: Integers, sizes_micros: Integers, clusters: Sequence[str] | Integers) -> Edge | None:
    """Profit over contracts of all trades; the interval draws whole clusters: trades of one event stay together.

    :param clusters: the event of each trade (its market where it has none), by id or by a number in the ids' order.
    """
    contracts = int(sizes_micros.sum())
    if contracts == 0:
        return None
    mean = divide(int(profits_micros.sum()) * MICROS, contracts, Rounding.HALF_UP)
    names, member = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        return Edge(mean, None, None)
    totals = np.stack(
        [np.bincount(member, weights=values.astype(np.float64)) for values in (profits_micros, sizes_micros)], axis=1
    )
    drawn = np.concatenate(list(_drawn_sums(totals.astype(np.float64))))
    tail = (1.0 - CONFIDENCE_LEVEL) / 2.0
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1] * MICROS, [tail, 1.0 - tail])
    return Edge(mean, round(float(low)), round(float(high)))


def _drawn_sums(totals: Floats) -> Iterator[Floats]:
    """Sums of each draw's clusters, [draw, column], some draws at a time.

    :param totals: whole numbers by [cluster, column].
    """
    count = len(totals)
    exact = count * float(np.abs(totals).max()) < 2.0**53
    if count <= _KEPT_COUNT and exact:
        # whole numbers add up to the same in any order, so each cluster is taken once, as often as it was drawn
        for times in _kept_counts(count):
            yield times.astype(np.float64) @ totals
        return
    for draws in _draws(count):
        yield np.stack([totals[:, k][draws].sum(axis=1) for k in range(totals.shape[1])], axis=1)


@lru_cache(maxsize=4)  # a sweep asks for the same few counts over and over, and drawing would be most of its time
def _kept_counts(count: int) -> tuple[npt.NDArray[np.uint16], ...]:
    """How often each draw takes each of ``count`` clusters, [draw, cluster], some draws at a time."""
    found = []
    for draws in _draws(count):
        cells = draws + count * np.arange(len(draws), dtype=np.int32)[:, None]
        times = np.bincount(cells.reshape(-1), minlength=count * len(draws))
        found.append(times.reshape(len(draws), count).astype(np.uint16))
    return tuple(found)


def _draws(count: int) -> Iterator[npt.NDArray[np.int32]]:
    """Which of ``count`` clusters each draw takes, [draw, place], some at a time; the same for a count always."""
    rng = np.random.Generator(np.random.PCG64(0))
    at_once = max(1, _DRAWN_CELLS // count)
    for begin in range(0, BOOTSTRAP_DRAWS, at_once):
        draws = min(at_once, BOOTSTRAP_DRAWS - begin)
        yield rng.integers(0, count, (draws, count)).astype(np.int32)
