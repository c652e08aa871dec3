"""Tables that are fitted to the past, and what they say of a row: integers, no clock, no I/O.

Calibration: settled markets are sampled once a horizon, at their mid that long before the scheduled close. A cell is
(category, horizon, band of five cents) and holds (samples, sum of mids, sum of payouts). At a row,

    calibrated = mid + (mean payout - mean mid of the cell) x n / (n + 50)

so that a cell of few samples says little. Horizons: under an hour, six hours, a day, a week, and more.

Volume baseline: every hour of a market's life between its first and last print is a sample. A cell is (venue, category,
hour of the week in UTC) and holds (hours, median of ln(1 + contracts), median distance from it), both in 1/10,000.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from oddstream_server.domain.fitted import FittedName, FittedObject
from oddstream_server.strategies.arithmetic import logarithm_e4
from oddstream_server.strategies.kernel import MISSING

LAYOUTS: Final = {FittedName.CALIBRATION: 1, FittedName.VOLUME_BASELINE: 1}
EFFECT_DELAY_US: Final = 900_000_000
"""From the fit to its effect; a running pipeline looks for new objects three times as often."""

HOUR_US: Final = 3_600_000_000
HORIZONS_US: Final = (HOUR_US, 6 * HOUR_US, 24 * HOUR_US, 168 * HOUR_US)
BAND_MICROS: Final = 50_000
PRIOR_SAMPLES: Final = 50


def horizon_of(left_us: int) -> int:
    """0 for under an hour up to 4 for more than a week."""
    return sum(left_us >= bound for bound in HORIZONS_US)


@dataclass(frozen=True, slots=True)
class CalibrationSample:
    """A settled market as it stood some time before its scheduled close."""

    category: str
    left_us: int
    mid_micros: int
    """Of a contract that pays 1,000,000; others are scaled."""
    payout_micros: int
    """What outcome 0 paid, on the same scale."""
    known_time_us: int
    """When the settlement became known."""


def fit_calibration(samples: Iterable[CalibrationSample], fit_time_us: int, version: int) -> FittedObject:
    """Samples that became known at the fit time or later are left out."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    count = 0
    for sample in samples:
        if sample.known_time_us >= fit_time_us or not 0 < sample.mid_micros < 1_000_000:
            continue
        count += 1
        cell = sums[calibration_key(sample.category, horizon_of(sample.left_us), sample.mid_micros)]
        cell[0] += 1
        cell[1] += sample.mid_micros
        cell[2] += sample.payout_micros
    cells = {key: tuple(cell) for key, cell in sorted(sums.items())}
    return _object(FittedName.CALIBRATION, version, fit_time_us, count, cells)


def calibration_key(category: str, horizon: int, mid_micros: int) -> str:
    return f"{horizon}/{min(mid_micros, 999_999) // BAND_MICROS}/{category}"


@dataclass(frozen=True, slots=True)
class VolumeSample:
    """One hour of one market."""

    venue: str
    category: str
    start_us: int
    contracts: int


def fit_volume_baseline(samples: Iterable[VolumeSample], fit_time_us: int, version: int) -> FittedObject:
    """Hours that weren't over at the fit time are left out."""
    logs: dict[str, list[int]] = defaultdict(list)
    count = 0
    for sample in samples:
        if sample.start_us + HOUR_US > fit_time_us:
            continue
        count += 1
        logs[baseline_key(sample.venue, sample.category, sample.start_us)].append(
            int(logarithm_e4(np.int64(1 + sample.contracts)))
        )
    cells = {}
    for key, values in sorted(logs.items()):
        median = _median(values)
        cells[key] = (len(values), median, _median([abs(value - median) for value in values]))
    return _object(FittedName.VOLUME_BASELINE, version, fit_time_us, count, cells)


def baseline_key(venue: str, category: str, time_us: int) -> str:
    """1970-01-01 was a Thursday: hour 0 of the week is its midnight in UTC."""
    return f"{time_us // HOUR_US % 168}/{venue}/{category}"


def _median(values: list[int]) -> int:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def _object(
    name: FittedName, version: int, fit_time_us: int, samples: int, cells: Mapping[str, tuple[int, ...]]
) -> FittedObject:
    return FittedObject(name, version, LAYOUTS[name], fit_time_us, fit_time_us + EFFECT_DELAY_US, samples, cells)


class FittedTables:
    """The objects that may be used, each for the rows from its effect on until the next one's."""

    def __init__(self, objects: Iterable[FittedObject] = ()) -> None:
        self._by_name: dict[FittedName, list[FittedObject]] = {name: [] for name in FittedName}
        for found in sorted(objects, key=lambda o: (o.effective_time_us, o.version)):
            if found.layout == LAYOUTS[found.name]:
                self._by_name[found.name].append(found)

    def at(self, name: FittedName, time_us: int) -> FittedObject | None:
        """The last one that had taken effect before an instant."""
        for found in reversed(self._by_name[name]):
            if found.effective_time_us < time_us:
                return found
        return None

    def calibration_values(
        self, category: str, left_us: int | None, mid_micros: int, payout_micros: int, time_us: int
    ) -> dict[str, int]:
        """The columns of the calibration for a row.

        :param left_us: to the scheduled close; None where no close is known.
        :param mid_micros: of outcome 0; :data:`MISSING` where a side is.
        """
        table = self.at(FittedName.CALIBRATION, time_us)
        if table is None or left_us is None or left_us <= 0 or mid_micros <= 0:
            return _NO_CALIBRATION
        mid = mid_micros * 1_000_000 // payout_micros
        count, mids, payouts = table.cells.get(calibration_key(category, horizon_of(left_us), mid), (0, 0, 0))
        shift = (payouts - mids) // (count + PRIOR_SAMPLES)
        fair = min(max(mid + shift, 0), 1_000_000) * payout_micros // 1_000_000
        return {
            "calibrated_price_micros": fair,
            "calibration_count": count,
            "calibration_fit_time_us": table.fit_time_us,
        }

    def baseline_values(self, venue: str, category: str, time_us: int) -> dict[str, int]:
        """The columns of the volume's baseline for a row."""
        table = self.at(FittedName.VOLUME_BASELINE, time_us)
        cell = None if table is None else table.cells.get(baseline_key(venue, category, time_us))
        if table is None or cell is None:
            return _NO_BASELINE
        return {
            "baseline_count": cell[0],
            "baseline_median_e4": cell[1],
            "baseline_deviation_e4": cell[2],
            "baseline_fit_time_us": table.fit_time_us,
        }


_NO_CALIBRATION: Final = {
    "calibrated_price_micros": MISSING,
    "calibration_count": 0,
    "calibration_fit_time_us": MISSING,
}
_NO_BASELINE: Final = {
    "baseline_median_e4": MISSING,
    "baseline_deviation_e4": MISSING,
    "baseline_count": 0,
    "baseline_fit_time_us": MISSING,
}
