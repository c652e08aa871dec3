"""Joining many encoded events into one message: the shared part of what goes over the wire."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from oddstream_server.domain.signal import SignalEvent
from oddstream_server.feed.signals.deliveries import SignalDelivery, Wire
from oddstream_server.feed.signals.ring import Entry, View


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log for one filter, just after ``sequence``: what a resume token says."""

    data_set_id: str
    sequence: int
    filter_digest: bytes


@dataclass(frozen=True, slots=True)
class Stretch:
    """The part of the log (after, through] that a message covers, and the head when it was made."""

    after: int
    through: int
    head: int


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much one message may hold. A single event larger than the bytes goes alone."""

    entries: int = 256
    size_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """Events, stretch and resume token, ready for the wire; shared by the subscribers at the same place."""

    through: int
    events: int
    body: bytes
    delivery: SignalDelivery = field(init=False)
    """The message for whoever needs nothing beside it, one object for all of them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "delivery", SignalDelivery(self.body, self.events, wire=Wire()))


class SignalCodec(Protocol):
    """How events and messages become bytes; given by the transport, so that the feed knows no wire format."""

    def fragments(self, event: SignalEvent) -> tuple[bytes, bytes]:
        """For each view, the event as a one-entry piece of the message's repeated events."""
        ...

    def batch(self, fragments: Sequence[bytes], stretch: Stretch, resume_at: Position | None) -> bytes:
        """The pieces joined, with the stretch and the token; no token where ``resume_at`` is None."""
        ...

    def resume_token(self, position: Position) -> str: ...


def unexpired(entries: Sequence[Entry], now_us: int) -> list[Entry]:
    """Without the offers that must not be acted on any more; what ends or grades a signal stays."""
    return [e for e in entries if not e.facts.offers or e.facts.expire_time_us > now_us]


def fitting(entries: Sequence[Entry], view: View, limits: BatchLimits) -> list[bytes]:
    """The bytes of the first entries, as many as fit in one message and at least one."""
    fragments: list[bytes] = []
    size = 0
    for entry in entries[: limits.entries]:
        fragment = entry.fragments[view]
        size += len(fragment)
        if size > limits.size_bytes and fragments:
            break
        fragments.append(fragment)
    return fragments


def join(
    entries: Sequence[Entry],
    covered: Stretch,
    view: View,
    limits: BatchLimits,
    codec: SignalCodec,
    data_set_id: str,
    filter_digest: bytes,
) -> Batch:
    """One message of the matching ``entries`` of a stretch; it covers less where they don't all fit."""
    fragments = fitting(entries, view, limits)
    stretch = covered
    if len(fragments) < len(entries):
        stretch = Stretch(covered.after, entries[len(fragments) - 1].sequence, covered.head)
    body = codec.batch(fragments, stretch, Position(data_set_id, stretch.through, filter_digest))
    return Batch(stretch.through, len(fragments), body)
