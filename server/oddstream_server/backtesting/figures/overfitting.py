"""How much of the best of many trials is luck: the probability of backtest overfitting.

Bailey, Borwein, López de Prado and Zhu 2017, "The probability of backtest overfitting": combinatorially symmetric
cross-validation. Time is cut into an even number of blocks; each half of them chooses the best set, and the other half
tells where it ends up. The probability is the share of choices that end at or below the median.
"""

from itertools import combinations
from typing import Any, Final

import numpy as np
import numpy.typing as npt

MAXIMUM_BLOCKS: Final = 16


def overfitting_probability(profits: npt.NDArray[np.float64]) -> float | None:
    """Share of splits in which the best set in sample is at or below the median out of sample; by Sharpe ratio.

    :param profits: [period, set].
    :returns: None for fewer than two sets or four periods.
    """
    periods, sets = profits.shape
    blocks = min(MAXIMUM_BLOCKS, periods // 2 * 2)
    if sets < 2 or blocks < 4:
        return None
    bounds = np.linspace(0, periods, blocks + 1).astype(int)
    counts = np.diff(bounds).astype(np.float64)
    sums = np.add.reduceat(profits, bounds[:-1], axis=0)
    squares = np.add.reduceat(np.square(profits), bounds[:-1], axis=0)
    below = 0
    halves = list(combinations(range(blocks), blocks // 2))
    for half in halves:
        inside = np.zeros(blocks, dtype=np.float64)
        inside[list(half)] = 1.0
        best = int(np.argmax(_sharpe(inside, counts, sums, squares)))
        outside = _sharpe(1.0 - inside, counts, sums, squares)
        # the mean place of equals, from 1 to the number of sets
        rank = float((outside < outside[best]).sum()) + (float((outside == outside[best]).sum()) + 1.0) / 2.0
        below += rank / (sets + 1) <= 0.5
    return below / len(halves)


def _sharpe(chosen: Any, counts: Any, sums: Any, squares: Any) -> Any:
    """Sharpe ratio of each set over the chosen blocks; 0 where nothing varies."""
    number = chosen @ counts
    mean = chosen @ sums / number
    variance = np.maximum(chosen @ squares / number - mean**2, 0.0)
    flat = variance <= 1e-18 * np.maximum(mean**2, 1e-300)
    return np.where(flat, 0.0, mean / np.sqrt(np.where(flat, 1.0, variance)))
