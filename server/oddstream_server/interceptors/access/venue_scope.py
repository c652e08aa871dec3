"""The venues that a call names, against those that the caller's key may see.

Every field of a request that holds a venue or the id of a market or an event is looked at, by its type and name, so a
new method is checked without being told to. What a call leaves open (a list without a filter) is narrowed by its use
case.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from oddstream_server.application.access.venue_scope import require_venues
from oddstream_server.interceptors.call import Call, Gate, Proceed

_VENUE = "oddstream.v1.Venue"
_IDS = frozenset({"market_id", "market_ids", "event_id", "event_ids"})


class VenueScopeInterceptor(Gate):
    name: ClassVar[str] = "venue_scope"

    def passes(self, call: Call) -> bool:
        principal = call.request_context.principal
        return principal is None or not principal.scopes.venues

    async def intercept(self, call: Call, proceed: Proceed) -> Any:
        principal = call.request_context.principal
        if principal is None or not principal.scopes.venues or not isinstance(call.request, Message):
            return await proceed(call)
        require_venues(named_venues(call.request))
        return await proceed(call)


def named_venues(message: Message) -> Iterator[str]:
    """Each venue that a request names, by itself or in an id."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else (value,)
        if field.enum_type is not None:
            if field.enum_type.full_name == _VENUE:
                yield from (_named(field.enum_type, number) for number in values)
        elif field.name in _IDS and field.type == FieldDescriptor.TYPE_STRING:
            yield from (text.partition(":")[0] for text in values)
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for inner in values:
                yield from named_venues(inner)


def _named(venues: EnumDescriptor, number: int) -> str:
    known = venues.values_by_number.get(number)
    return known.name.removeprefix("VENUE_").lower() if known else str(number)
