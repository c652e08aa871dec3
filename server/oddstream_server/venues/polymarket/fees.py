"""Polymarket's dated fee schedules.

History: no fees at first; from 2026-01-19 on 15-minute crypto markets, from 2026-02-12 on 5-minute ones, from
2026-02-18 on college basketball and Serie A, from 2026-03-06 on all new crypto markets:
C x p x rate x (p(1-p))^exponent, rounded to four decimals. Since 2026-03-30 the fee is C x rate x p x (1-p), rounded to
five decimals, and each market's own ``feeSchedule`` says its rate. Takers pay, makers don't.
"""

import re
from collections.abc import Mapping
from typing import Any

from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.money import MICROS
from oddstream_server.venues.decimals import micros
from oddstream_server.venues.rows import QuarantineReason, RowError, as_object, flag, optional_text
from oddstream_server.venues.times import utc_us

STRUCTURE_V2_FROM_US = utc_us(2026, 3, 30)
FIVE_DECIMALS_MICROS = 10
FOUR_DECIMALS_MICROS = 100

_FIRST_CRYPTO_FROM_US = {"15m": utc_us(2026, 1, 19), "5m": utc_us(2026, 2, 12)}
_ALL_CRYPTO_FROM_US = utc_us(2026, 3, 6)
_FIRST_SPORTS_FROM_US = utc_us(2026, 2, 18)
_UP_OR_DOWN = re.compile(r"[a-z0-9]+-updown-(15m|5m)-\d+", re.ASCII)
_HISTORY = "Polymarket fee history to 2026-03-30"


def fee_schedules(row: Mapping[str, Any], created_us: int | None) -> tuple[FeeSchedule, ...]:
    """The dated schedules of a Gamma market row, oldest first, without overlap.

    :param created_us: when the market was made; rules that came for new markets only depend on it.
    :raises RowError: ``fee_unknown``: fees are on, but by a rule that isn't known; it is never guessed.
    """
    own = row.get("feeSchedule")
    if not flag(row, "feesEnabled"):
        return (FeeSchedule(FeeFormula.NONE, 0, 0, source="Polymarket: market without fees"),)
    if own is None:
        before = _before_structure_v2(row, created_us)
        if not before:
            raise RowError(QuarantineReason.FEE_UNKNOWN, "feesEnabled without a feeSchedule, of no kind that is known")
        return before
    schedule = _own_schedule(as_object(own, "feeSchedule"))
    if created_us is not None and created_us >= STRUCTURE_V2_FROM_US:
        return (schedule,)
    return (*_before_structure_v2(row, created_us), schedule)


def _own_schedule(own: Mapping[str, Any]) -> FeeSchedule:
    rate_ppm = micros(own.get("rate"), "feeSchedule rate")
    exponent = micros(own.get("exponent", 1), "feeSchedule exponent")
    if not 0 <= rate_ppm <= MICROS:
        raise RowError(QuarantineReason.FEE_UNKNOWN, "feeSchedule rate is not between 0 and 1")
    if exponent != MICROS:
        raise RowError(QuarantineReason.FEE_UNKNOWN, "feeSchedule exponent is not 1, the only one of structure V2")
    if not flag(own, "takerOnly", default=True):
        raise RowError(QuarantineReason.FEE_UNKNOWN, "feeSchedule charges makers, by a rule that isn't published")
    return FeeSchedule(
        formula=FeeFormula.QUADRATIC,
        taker_rate_ppm=rate_ppm,
        maker_rate_ppm=0,
        rounding_step_micros=FIVE_DECIMALS_MICROS,
        minimum_micros=FIVE_DECIMALS_MICROS,
        valid_from_us=STRUCTURE_V2_FROM_US,
        source="Polymarket market field feeSchedule, fee structure V2 of 2026-03-30",
    )


def _before_structure_v2(row: Mapping[str, Any], created_us: int | None) -> tuple[FeeSchedule, ...]:
    """What held before 2026-03-30, as far as the market's kind tells; empty where it doesn't."""
    begin_us, rate_ppm, exponent = _old_rule(row, created_us)
    if begin_us is None:
        return ()
    free = FeeSchedule(FeeFormula.NONE, 0, 0, valid_to_us=begin_us, source=_HISTORY)
    charged = FeeSchedule(
        formula=FeeFormula.QUADRATIC_POWER,
        taker_rate_ppm=rate_ppm,
        maker_rate_ppm=0,
        exponent=exponent,
        rounding_step_micros=FOUR_DECIMALS_MICROS,
        valid_from_us=begin_us,
        valid_to_us=STRUCTURE_V2_FROM_US,
        source=_HISTORY,
    )
    return (free, charged)


def _old_rule(row: Mapping[str, Any], created_us: int | None) -> tuple[int | None, int, int]:
    """(first instant with a fee, rate, exponent) of the formula before 2026-03-30."""
    up_or_down = _UP_OR_DOWN.fullmatch(optional_text(row, "slug"))
    if up_or_down:
        return _FIRST_CRYPTO_FROM_US[up_or_down[1]], 250_000, 2
    kind = optional_text(row, "feeType")
    if kind.startswith("crypto") and created_us is not None and created_us >= _ALL_CRYPTO_FROM_US:
        return _ALL_CRYPTO_FROM_US, 250_000, 2
    if kind.startswith("sports") and created_us is not None and created_us >= _FIRST_SPORTS_FROM_US:
        return _FIRST_SPORTS_FROM_US, 17_500, 1
    return None, 0, 1
