"""What a subscriber is handed: its next message, most of it shared with others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oddstream_server.domain.quote import FeedStatus
from oddstream_server.feed.streams import Closing

if TYPE_CHECKING:
    from oddstream_server.feed.signals.feed import SignalWatch


@dataclass(frozen=True, slots=True)
class Started:
    """The terms of the stream."""

    data_set_id: str
    start_sequence: int
    oldest_sequence: int
    watch: SignalWatch
    end_time_us: int


@dataclass(frozen=True, slots=True)
class SnapshotPart:
    as_of_sequence: int
    complete: bool


class Wire:
    """A message as it goes out, kept for the others who are sent the same one within a moment."""

    __slots__ = ("body", "until_us")

    def __init__(self) -> None:
        self.body = b""
        self.until_us = 0


@dataclass(slots=True)
class SignalDelivery:
    """The next message: ``batch`` is shared and encoded, the rest is this subscriber's alone and mostly absent."""

    batch: bytes
    events: int
    started: Started | None = None
    caught_up_sequence: int | None = None
    heartbeat: bool = False
    statuses: Sequence[FeedStatus] = ()
    closing: Closing | None = None
    snapshot: SnapshotPart | None = None
    wire: Wire | None = None
    """Where the transport keeps the whole message; with it there is nothing but the batch, and others share it."""
