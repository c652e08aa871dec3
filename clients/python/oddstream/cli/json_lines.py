"""Messages as JSON, one a line, in a form that scripts may rely on.

- Field names are those of the contract, in its order; every field is there in every line, and what is absent is null.
- Whole numbers are JSON integers, 64-bit ones too. ``…_micros`` are millionths: nothing is rounded.
- Enum values are their words without the enum's prefix: ``"ACTIVE"``, ``"BUY"``, ``"KALSHI"``.
- Times are RFC 3339 in UTC with six decimals: ``"2026-05-13T20:00:04.120000Z"``.
- Spans are microseconds, and the field's name ends in ``_us``.
"""

import json
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from oddstream.cli.words import enum_word

Value = dict[str, Any] | list[Any] | str | int | float | bool | None


def line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON values; see the module's text."""
    return dict(_member(message, field) for field in message.DESCRIPTOR.fields)


def rfc3339(time: Timestamp) -> str:
    whole = datetime.fromtimestamp(time.seconds, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{time.nanos // 1_000:06d}Z"


# The stubs know two classes of descriptors, the C one and the Python one, without a common base: hence Any.
def _member(message: Message, field: Any) -> tuple[str, Value]:
    span = field.message_type is not None and field.message_type.full_name == "google.protobuf.Duration"
    name = f"{field.name}_us" if span else field.name
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return name, {str(key): _value(inner, value[key]) for key in sorted(value)}
    if field.is_repeated:
        return name, [_value(field, item) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return name, None
    return name, _value(field, value)


def _value(field: Any, value: Any) -> Value:
    if isinstance(value, Timestamp):
        return rfc3339(value)
    if isinstance(value, Duration):
        return value.ToMicroseconds()
    if isinstance(value, Message):
        return plain(value)
    if field.enum_type is not None:
        return enum_word(field.enum_type, value)
    if isinstance(value, bytes):
        return value.hex()
    scalar: str | int | float | bool = value
    return scalar
