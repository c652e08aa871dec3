"""Kalshi's dated fee schedules.

Sources: the fee schedule of July 2026 (formula 0.07 x C x P x (1-P), makers a quarter of it where the series says so,
rounded up to 0.0001 USD), the documentation of 2026-09-18 (model fee to the micro, and a rounding fee that makes the
balance move in whole steps), and the schedule before, which rounded up to the cent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.money import MICROS
from oddstream_server.venues.decimals import micros
from oddstream_server.venues.rows import QuarantineReason, RowError, text
from oddstream_server.venues.times import iso_us, utc_us

TAKER_RATE_PPM = 70_000
INDEX_RATE_PPM = 35_000
"""S&P and Nasdaq series until 2026-07-03."""

CENT_MICROS = 10_000
CENTICENT_MICROS = 100
CENTICENT_FROM_US = utc_us(2026, 7, 3)
BALANCE_STEP_FROM_US = utc_us(2026, 9, 18)

_INDEX_SERIES = ("KXINX", "INX", "KXNASDAQ100", "NASDAQ100")

_MAKER_RATE_PPM = {
    "quadratic": 0,
    "quadratic_with_maker_fees": TAKER_RATE_PPM // 4,
    "quadratic_with_combo_maker_fees": TAKER_RATE_PPM // 2,
}


@dataclass(frozen=True, slots=True)
class SeriesFee:
    """What a series charges from an instant on."""

    fee_type: str
    multiplier_ppm: int
    valid_from_us: int | None = None
    """None: as far back as is known."""
    valid_to_us: int | None = None


def series_fee(row: Mapping[str, Any]) -> SeriesFee:
    """The fee fields of ``GET /series``."""
    return SeriesFee(text(row, "fee_type"), _multiplier(row, "fee_multiplier"))


def series_fee_changes(rows: Sequence[Mapping[str, Any]], current: SeriesFee) -> tuple[SeriesFee, ...]:
    """The dated fees of one series from the rows of ``GET /series/fee_changes`` for it.

    Before the first change nothing is known, so no fee holds there; without changes the current one holds throughout.
    """
    if not rows:
        return (current,)
    changes = sorted(
        (iso_us(row.get("scheduled_ts"), "scheduled_ts"), text(row, "fee_type"), _multiplier(row, "fee_multiplier"))
        for row in rows
    )
    ends: list[int | None] = [change[0] for change in changes[1:]]
    return tuple(
        SeriesFee(fee_type, multiplier, valid_from, valid_to)
        for (valid_from, fee_type, multiplier), valid_to in zip(changes, [*ends, None], strict=True)
        if valid_from != valid_to
    )


def event_fee(row: Mapping[str, Any], series: Sequence[SeriesFee]) -> tuple[SeriesFee, ...]:
    """The series' fees with an event's ``fee_type_override`` and ``fee_multiplier_override`` laid over them."""
    fee_type, multiplier = row.get("fee_type_override"), row.get("fee_multiplier_override")
    if fee_type is None and multiplier is None:
        return tuple(series)
    if fee_type is not None and not isinstance(fee_type, str):
        raise RowError(QuarantineReason.FIELD_TYPE, "fee_type_override must be a text")
    changed = None if multiplier is None else _multiplier(row, "fee_multiplier_override")
    return tuple(
        replace(
            fee,
            fee_type=fee.fee_type if fee_type is None else fee_type,
            multiplier_ppm=fee.multiplier_ppm if changed is None else changed,
        )
        for fee in series
    )


def fee_schedules(
    fees: Sequence[SeriesFee],
    series_ticker: str,
    balance_step_micros: int = CENT_MICROS,
    waived_until_us: int | None = None,
) -> tuple[FeeSchedule, ...]:
    """The dated schedules of a market, oldest first, without overlap.

    :param balance_step_micros: what the account's balance moves in since 2026-09-18: a cent, or 0.0001 USD for direct
        members. A fill also pays what rounds its balance change; the model fee itself is rounded up to the micro.
    :param waived_until_us: the market's fee waiver ends then.
    :raises RowError: ``fee_unknown``: a fee type whose formula isn't published; it is never guessed.
    """
    index = series_ticker.startswith(_INDEX_SERIES)
    eras: tuple[tuple[int | None, int | None, int, int, int, str], ...] = (
        (
            None,
            CENTICENT_FROM_US,
            INDEX_RATE_PPM if index else TAKER_RATE_PPM,
            CENT_MICROS,
            0,
            "Kalshi fee schedule before July 2026",
        ),
        (
            CENTICENT_FROM_US,
            BALANCE_STEP_FROM_US,
            TAKER_RATE_PPM,
            CENTICENT_MICROS,
            0,
            "Kalshi fee schedule of July 2026",
        ),
        (
            BALANCE_STEP_FROM_US,
            None,
            TAKER_RATE_PPM,
            1,
            balance_step_micros,
            "Kalshi documentation of 2026-09-18: model fee and rounding fee",
        ),
    )
    schedules: list[FeeSchedule] = []
    if waived_until_us is not None:
        schedules.append(
            FeeSchedule(FeeFormula.NONE, 0, 0, valid_to_us=waived_until_us, source="Kalshi fee waiver of the market")
        )
    for fee in fees:
        if fee.fee_type not in _MAKER_RATE_PPM:
            raise RowError(QuarantineReason.FEE_UNKNOWN, f"fee_type is none of {', '.join(_MAKER_RATE_PPM)}")
        maker_ppm = _MAKER_RATE_PPM[fee.fee_type]
        for era_from, era_to, taker_ppm, step, balance_step, source in eras:
            begin = _later(_later(fee.valid_from_us, era_from), waived_until_us)
            end = _earlier(fee.valid_to_us, era_to)
            if begin is not None and end is not None and begin >= end:
                continue
            schedules.append(
                FeeSchedule(
                    formula=FeeFormula.QUADRATIC,
                    taker_rate_ppm=taker_ppm,
                    maker_rate_ppm=maker_ppm * taker_ppm // TAKER_RATE_PPM,
                    multiplier_ppm=fee.multiplier_ppm,
                    rounding_step_micros=step,
                    balance_step_micros=balance_step,
                    valid_from_us=begin,
                    valid_to_us=end,
                    known_from_us=era_from,
                    source=f"{source}; series fee_type {fee.fee_type}",
                )
            )
    return tuple(schedules)


def _multiplier(row: Mapping[str, Any], field: str) -> int:
    value = row.get(field)
    if value is None:
        raise RowError(QuarantineReason.FEE_UNKNOWN, f"{field} is missing")
    ppm = micros(value, field)
    if not 0 <= ppm <= 100 * MICROS:
        raise RowError(QuarantineReason.FEE_UNKNOWN, f"{field} is not between 0 and 100")
    return ppm


def _later(left: int | None, right: int | None) -> int | None:
    return right if left is None else left if right is None else max(left, right)


def _earlier(left: int | None, right: int | None) -> int | None:
    return right if left is None else left if right is None else min(left, right)
