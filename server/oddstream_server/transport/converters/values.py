"""Instants, spans and enums."""

from collections.abc import Iterable
from enum import Enum
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from oddstream.v1 import time_range_pb2, venue_pb2
from oddstream_server.application.ports import TimeRange
from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.domain.market import Venue
from oddstream_server.domain.signal import DataOrigin

_E = TypeVar("_E", bound=Enum)


def enum_table(members: type[_E], wire: Any, prefix: str) -> dict[_E, Any]:
    """From the domain's enum to the contract's, by name.

    :raises ValueError: the contract lacks a member; found at import, so that no call can meet it.
    """
    return {member: wire.Value(f"{prefix}_{member.name}") for member in members}


VENUES = enum_table(Venue, venue_pb2.Venue, "VENUE")
DATA_ORIGINS = enum_table(DataOrigin, venue_pb2.DataOrigin, "DATA_ORIGIN")


def stamp(instant_us: int) -> Timestamp:
    seconds, micros = divmod(instant_us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=micros * 1000)


def timestamp(instant_us: int | None) -> Timestamp | None:
    return None if instant_us is None else stamp(instant_us)


def duration(span_us: int | None) -> Duration | None:
    if span_us is None:
        return None
    made = Duration()
    made.FromMicroseconds(span_us)
    return made


def instant_us(given: Timestamp, field_name: str) -> int:
    """:raises InvalidArgument: outside of the years 1 to 9999."""
    if not -62_135_596_800 <= given.seconds < 253_402_300_800 or not 0 <= given.nanos < 1_000_000_000:
        raise InvalidArgument(
            [FieldViolation(field_name, "must lie in the years 1 to 9999, with nanos from 0 to 999,999,999")]
        )
    return given.seconds * 1_000_000 + given.nanos // 1000


def span(given: time_range_pb2.TimeRange, field_name: str) -> TimeRange:
    """A bound that is absent is open.

    :raises InvalidArgument: the start isn't before the end.
    """
    start = instant_us(given.start_time, f"{field_name}.start_time") if given.HasField("start_time") else None
    end = instant_us(given.end_time, f"{field_name}.end_time") if given.HasField("end_time") else None
    if start is not None and end is not None and start >= end:
        raise InvalidArgument([FieldViolation(field_name, "start_time must be before end_time")])
    return TimeRange(start, end)


def chosen(table: dict[_E, Any], numbers: Iterable[int], field_name: str) -> tuple[_E, ...]:
    """Enum values of a filter as the domain's.

    :raises InvalidArgument: a number that the contract doesn't have, or UNSPECIFIED.
    """
    numbers = tuple(numbers)
    known = {number: value for value, number in table.items()}
    wrong = [
        FieldViolation(f"{field_name}[{index}]", "must be one of the enum's values and not UNSPECIFIED")
        for index, number in enumerate(numbers)
        if number not in known
    ]
    if wrong:
        raise InvalidArgument(wrong)
    return tuple(known[number] for number in numbers)


def one(table: dict[_E, Any], number: int, field_name: str) -> _E:
    """One enum value as the domain's; see :func:`chosen`."""
    for value, known in table.items():
        if known == number:
            return value
    raise InvalidArgument([FieldViolation(field_name, "must be one of the enum's values and not UNSPECIFIED")])


def words(given: Iterable[str], field_name: str) -> tuple[str, ...]:
    """Free texts of a filter.

    :raises InvalidArgument: one holds U+0000, which no stored text can.
    """
    texts = tuple(given)
    for index, text in enumerate(texts):
        word(text, f"{field_name}[{index}]")
    return texts


def word(given: str, field_name: str) -> str:
    """One free text; see :func:`words`."""
    if "\0" in given:
        raise InvalidArgument([FieldViolation(field_name, "must not contain U+0000; leave it out")])
    return given


def origin_of(venue: Venue) -> Any:
    """Of a market's own data: the simulated venue's never comes from a real one."""
    return DATA_ORIGINS[DataOrigin.SIMULATED if venue is Venue.SIMULATED else DataOrigin.LIVE]
