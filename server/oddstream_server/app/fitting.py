"""The command that fits what strategies use: from stored hours to a new version of an object."""

from oddstream_server.app.data import stored_data
from oddstream_server.app.process import now_us, say
from oddstream_server.domain.fitted import FittedName, FittedObject
from oddstream_server.settings import Settings
from oddstream_server.storage.database import Database
from oddstream_server.storage.fitted import FittedStore, StoredHours
from oddstream_server.strategies.fitting import (
    EFFECT_DELAY_US,
    HORIZONS_US,
    HOUR_US,
    CalibrationSample,
    VolumeSample,
    fit_calibration,
    fit_volume_baseline,
)

CALIBRATION_LEFT_US = (HOUR_US // 2, *HORIZONS_US)
"""One instant of each horizon at which a settled market is sampled."""


async def fit_stored(settings: Settings, name: FittedName) -> None:
    """Fit an object to what is known now and keep it; it takes effect a quarter of an hour later."""
    async with stored_data(settings) as database:
        made = await fit(database, name, now_us())
    say(
        f"{made.name.value} version {made.version}: {made.samples:,} samples in {len(made.cells):,} cells; "
        f"used for rows from {EFFECT_DELAY_US // 60_000_000} minutes after now on"
    )


async def fit(database: Database, name: FittedName, fit_time_us: int) -> FittedObject:
    """:param fit_time_us: nothing that became known at this instant or later goes in."""
    hours, store = StoredHours(database), FittedStore(database)
    if name is FittedName.CALIBRATION:
        settled = [
            CalibrationSample(h.category, h.left_us, h.mid_micros, h.payout_micros, h.known_time_us)
            async for some in hours.settled_hours(fit_time_us, CALIBRATION_LEFT_US)
            for h in some
        ]
        return await store.add(name, lambda version: fit_calibration(settled, fit_time_us, version))
    traded = [
        VolumeSample(h.venue, h.category, h.start_us, h.contracts)
        async for some in hours.traded_hours(fit_time_us)
        for h in some
    ]
    return await store.add(name, lambda version: fit_volume_baseline(traded, fit_time_us, version))
