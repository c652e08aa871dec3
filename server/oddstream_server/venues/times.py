"""Instants of the wire as microseconds since the epoch in UTC."""

import re
from datetime import UTC, datetime
from functools import lru_cache

from oddstream_server.venues.rows import QuarantineReason, RowError

_ISO = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d)(?::?(\d\d))?)", re.ASCII)
_DAY = re.compile(r"([A-Z][a-z]+) (\d{1,2}), (\d{4})", re.ASCII)
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July",
    "August", "September", "October", "November", "December",
)  # fmt: skip
_FARTHEST_US = 253_402_300_800_000_000  # the year 10000


def iso_us(value: object, field: str) -> int:
    """``2026-08-08T22:57:45.764968Z`` or ``2026-01-12 05:03:11+00``, with up to nine decimals (cut after the sixth).

    :raises RowError: ``time_invalid``; a time without a zone is refused, since it can't be known.
    """
    if not isinstance(value, str):
        raise RowError(QuarantineReason.TIME_INVALID, f"{field} must be a time as text, got {type(value).__name__}")
    return _iso_us(value, field)


@lru_cache(maxsize=4096)
def _iso_us(value: str, field: str) -> int:
    match = _ISO.fullmatch(value.strip())
    if match is None:
        raise RowError(QuarantineReason.TIME_INVALID, f"{field} is no time with a zone")
    try:
        second = _second(match[1])
    except ValueError:
        raise RowError(QuarantineReason.TIME_INVALID, f"{field} is no date of the calendar") from None
    if match[3]:
        offset_s = int(match[4]) * 3_600 + int(match[5] or 0) * 60
        second += offset_s if match[3] == "-" else -offset_s
    return second * 1_000_000 + int((match[2] or "").ljust(6, "0")[:6])


@lru_cache(maxsize=4096)
def _second(text: str) -> int:
    """Of a time to the second, the epoch's; most instants of a feed fall into the second of the one before."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def optional_iso_us(value: object, field: str) -> int | None:
    """As :func:`iso_us`, and None where the venue sends nothing."""
    return None if value is None or value == "" else iso_us(value, field)


def day_us(value: str, field: str) -> int:
    """``April 21, 2021`` as its midnight in UTC; Polymarket's form of a resolution's day before 2022."""
    match = _DAY.fullmatch(value.strip())
    if match is None or match[1] not in _MONTHS:
        return iso_us(value, field)
    try:
        instant = datetime(int(match[3]), _MONTHS.index(match[1]) + 1, int(match[2]), tzinfo=UTC)
    except ValueError:
        raise RowError(QuarantineReason.TIME_INVALID, f"{field} is no date of the calendar") from None
    return int(instant.timestamp()) * 1_000_000


def seconds_us(value: object, field: str) -> int:
    """Unix seconds, an integer or its text."""
    return _counted(value, field, 1_000_000)


def milliseconds_us(value: object, field: str) -> int:
    """Unix milliseconds, an integer or its text."""
    return _counted(value, field, 1_000)


def _counted(value: object, field: str, unit_us: int) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value * unit_us < _FARTHEST_US:
        raise RowError(QuarantineReason.TIME_INVALID, f"{field} is no count of time since 1970")
    return value * unit_us


def utc_us(year: int, month: int, day: int) -> int:
    """Midnight of a day in UTC."""
    return int(datetime(year, month, day, tzinfo=UTC).timestamp()) * 1_000_000


def seconds_text(instant_us: int) -> str:
    """An instant as the Unix seconds that venues take in requests, rounded down."""
    return str(instant_us // 1_000_000)
