"""Figures of a series of returns.

Conventions: one period is a day of UTC, 365 periods make a year, standard deviations have ddof 1, the risk-free return
is 0, a drawdown is at most 0 and begins at the starting money, Sortino's downside is over all periods. What isn't
defined is None, never 0 or infinite. Formulas: Sharpe 1994; Sortino and van der Meer 1991; the probabilistic Sharpe
ratio of Bailey and López de Prado 2012, the deflated one of 2014.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PERIODS_PER_YEAR: Final = 365
DDOF: Final = 1
RISK_FREE_RETURN: Final = 0.0
EULER_MASCHERONI: Final = 0.5772156649015329
US_A_DAY: Final = 86_400_000_000
_NORMAL: Final = NormalDist()


def daily_returns(equity: Any, starting_micros: int) -> Floats | None:
    """Returns of UTC days from equity by instant; None where the equity falls to 0 or below.

    :param equity: records with ``time_us`` and ``equity_micros``, the end of the range last.
    """
    times = equity["time_us"]
    ends = times % US_A_DAY == 0
    ends[-1] = True
    values = np.concatenate(([starting_micros], equity["equity_micros"][ends])).astype(np.float64)
    if (values <= 0).any():
        return None
    return np.asarray(values[1:] / values[:-1] - 1.0, dtype=np.float64)


def annual_return(returns: Floats) -> float | None:
    """Growth of a year at the same pace."""
    if not len(returns):
        return None
    growth = float(np.prod(1.0 + returns))
    exponent = PERIODS_PER_YEAR / len(returns)
    if growth <= 0 or abs(math.log(growth) * exponent) > 700:
        return None
    return float(growth**exponent - 1.0)


def annual_volatility(returns: Floats) -> float | None:
    if len(returns) < 2:
        return None
    return float(np.std(returns, ddof=DDOF)) * math.sqrt(PERIODS_PER_YEAR)


def period_sharpe(returns: Floats) -> float | None:
    """Mean over standard deviation of one period."""
    if len(returns) < 2:
        return None
    deviation = float(np.std(returns, ddof=DDOF))
    return float(np.mean(returns)) / deviation if deviation > 0 else None


def sharpe(returns: Floats) -> float | None:
    ratio = period_sharpe(returns)
    return None if ratio is None else ratio * math.sqrt(PERIODS_PER_YEAR)


def sortino(returns: Floats) -> float | None:
    if len(returns) < 2:
        return None
    downside = math.sqrt(float(np.mean(np.square(np.minimum(returns, 0.0)))))
    if downside == 0:
        return None
    return float(np.mean(returns)) * PERIODS_PER_YEAR / (downside * math.sqrt(PERIODS_PER_YEAR))


def maximum_drawdown(returns: Floats) -> float | None:
    """The deepest fall from a peak as a share of it, at most 0; the starting money is the first peak."""
    if not len(returns):
        return None
    wealth = np.concatenate(([1.0], np.cumprod(1.0 + returns)))
    return float(np.min(wealth / np.maximum.accumulate(wealth) - 1.0))


def moments(returns: Floats) -> tuple[float, float] | None:
    """Skewness and kurtosis (3 for a normal distribution), both biased."""
    if len(returns) < 2:
        return None
    centred = returns - np.mean(returns)
    variance = float(np.mean(centred**2))
    if variance <= 0:
        return None
    return float(np.mean(centred**3)) / variance**1.5, float(np.mean(centred**4)) / variance**2


def probabilistic_sharpe(returns: Floats, benchmark: float = 0.0) -> float | None:
    """Probability that the true Sharpe ratio of a period is above the benchmark's."""
    ratio, shape = period_sharpe(returns), moments(returns)
    if ratio is None or shape is None:
        return None
    skewness, kurtosis = shape
    spread = 1.0 - skewness * ratio + (kurtosis - 1.0) / 4.0 * ratio**2
    if spread <= 0:
        return None
    return _NORMAL.cdf((ratio - benchmark) * math.sqrt(len(returns) - 1) / math.sqrt(spread))


def expected_best_sharpe(ratios: Sequence[float], trial_count: int) -> float | None:
    """The Sharpe ratio of a period that the best of so many trials without skill is expected to show.

    :param ratios: of the trials at hand; their variance stands for that of all.
    :param trial_count: trials ever made, at least those at hand.
    """
    count = max(trial_count, len(ratios))
    if len(ratios) < 2 or count < 2:
        return None
    deviation = float(np.std(np.asarray(ratios), ddof=DDOF))
    return deviation * (
        (1.0 - EULER_MASCHERONI) * _NORMAL.inv_cdf(1.0 - 1.0 / count)
        + EULER_MASCHERONI * _NORMAL.inv_cdf(1.0 - 1.0 / (count * math.e))
    )


def deflated_sharpe(best: Floats, ratios: Sequence[float], trial_count: int) -> float | None:
    """Probability that the best trial's true Sharpe ratio is above what the best of all without skill would show."""
    benchmark = expected_best_sharpe(ratios, trial_count)
    return None if benchmark is None else probabilistic_sharpe(best, benchmark)
