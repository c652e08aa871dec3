"""Where a stream starts: from what a caller asks for to a sequence of the log, or to the way to start again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from oddstream_server.application.ports import Clock, LogBounds, SignalLog
from oddstream_server.domain.errors import FieldViolation, InvalidArgument, OutOfRange
from oddstream_server.domain.signal import SignalEvent
from oddstream_server.feed.signals.batches import Position, SignalCodec
from oddstream_server.feed.signals.ring import Entry

_CLOCK_TOLERANCE_US = 1_000_000
_SNAPSHOT_SHARED_S = 1.0


@dataclass(frozen=True, slots=True)
class StartAfter:
    """Strictly after an event, with any filter."""

    data_set_id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class StartAtTime:
    """With the first event committed at or after an instant."""

    create_time_us: int


@dataclass(frozen=True, slots=True)
class StartNow:
    pass


@dataclass(frozen=True, slots=True)
class StartWithActive:
    """With the active opportunities, then with what comes next."""


Start = StartAfter | StartAtTime | StartNow | StartWithActive


@dataclass(frozen=True, slots=True)
class Place:
    """Just after a sequence of a data set, with the snapshot as of it where one was asked for."""

    data_set_id: str
    sequence: int
    snapshot: Sequence[Entry] | None = None


class Starts:
    """Finds the places, and says what is wrong with those that can't be found.

    :param encode: events of a snapshot as entries, with turns of the event loop between.
    """

    def __init__(
        self,
        log: SignalLog,
        codec: SignalCodec,
        clock: Clock,
        encode: Callable[[Sequence[SignalEvent]], Awaitable[Sequence[Entry]]],
    ) -> None:
        self._log = log
        self._codec = codec
        self._clock = clock
        self._encode = encode
        self._snapshot: tuple[float, Place] | None = None
        self._snapshot_lock = asyncio.Lock()

    async def resolve(self, start: Start, digest: bytes, known: LogBounds, head: int) -> Place:
        """:param known: the bounds as the feed last saw them.
        :param head: the last sequence that the feed has read.
        :raises InvalidArgument: the time lies in the future.
        :raises OutOfRange: the start is trimmed, ahead of the log, or of another data set.
        """
        match start:
            case StartNow():
                return Place(known.data_set_id, head)
            case StartWithActive():
                return await self._recent_snapshot(known.data_set_id)
            case StartAtTime():
                return await self._at_time(start.create_time_us, digest)
            case StartAfter():
                return await self._after(start, digest, known, head)

    async def _recent_snapshot(self, data_set_id: str) -> Place:
        """As of a head of at most a second ago: who starts there goes on from that head, so starts may share it."""
        loop = asyncio.get_running_loop()
        async with self._snapshot_lock:
            if self._snapshot is not None:
                read_time_s, place = self._snapshot
                if place.data_set_id == data_set_id and loop.time() - read_time_s < _SNAPSHOT_SHARED_S:
                    return place
            read_time_s = loop.time()
            head, events = await self._log.active_snapshot()
            place = Place(data_set_id, head, await self._encode(events))
            self._snapshot = read_time_s, place
            loop.call_later(_SNAPSHOT_SHARED_S, self._forget, place)
            return place

    def _forget(self, place: Place) -> None:
        if self._snapshot is not None and self._snapshot[1] is place:
            self._snapshot = None

    async def _at_time(self, create_time_us: int, digest: bytes) -> Place:
        if create_time_us > self._clock() + _CLOCK_TOLERANCE_US:
            rule = "must not lie in the future; to have what comes next, start now"
            raise InvalidArgument([FieldViolation("start.start_time", rule)])
        sequence = await self._log.sequence_at(create_time_us)
        bounds = await self._log.bounds()
        oldest_us = bounds.oldest_create_time_us
        # Where nothing is left of a trimmed log, only an instant after its last event misses nothing.
        missed = sequence < bounds.head_sequence if oldest_us is None else create_time_us < oldest_us
        if bounds.oldest_sequence > 1 and missed:
            raise self.trimmed(bounds, digest)
        return Place(bounds.data_set_id, max(sequence, bounds.oldest_sequence - 1))

    async def _after(self, wanted: StartAfter, digest: bytes, known: LogBounds, head: int) -> Place:
        place = Place(wanted.data_set_id, wanted.sequence)
        if wanted.data_set_id == known.data_set_id and known.oldest_sequence - 1 <= wanted.sequence <= head:
            return place
        bounds = await self._log.bounds()
        if bounds.data_set_id != wanted.data_set_id:
            raise self.data_set_changed(bounds, digest)
        if wanted.sequence > bounds.head_sequence:
            raise OutOfRange(
                "the resume point is ahead of the log; it can't come from this data set's stream",
                reason="RESUME_POINT_AHEAD",
                metadata=self._restart(bounds, digest),
            )
        if wanted.sequence < bounds.oldest_sequence - 1:
            raise self.trimmed(bounds, digest)
        return place

    def trimmed(self, bounds: LogBounds, digest: bytes) -> OutOfRange:
        """What a reader is told whose next event has left the log."""
        return OutOfRange(
            "events after the resume point have left the retention window; "
            "start from the oldest token, or from the active snapshot",
            reason="SIGNAL_HISTORY_TRIMMED",
            metadata=self._restart(bounds, digest),
        )

    def data_set_changed(self, bounds: LogBounds, digest: bytes) -> OutOfRange:
        """What a reader is told whose place belongs to another data set than the log has now."""
        return OutOfRange(
            "the resume point belongs to another data set; start from the oldest token, or from the active snapshot",
            reason="DATA_SET_CHANGED",
            metadata=self._restart(bounds, digest),
        )

    def _restart(self, bounds: LogBounds, digest: bytes) -> dict[str, str]:
        """Where the log can be read from now."""
        oldest = Position(bounds.data_set_id, bounds.oldest_sequence - 1, digest)
        metadata = {
            "data_set_id": bounds.data_set_id,
            "head_sequence": str(bounds.head_sequence),
            "oldest_sequence": str(bounds.oldest_sequence),
            "oldest_resume_token": self._codec.resume_token(oldest),
        }
        if bounds.oldest_create_time_us is not None:
            moment = datetime.fromtimestamp(bounds.oldest_create_time_us / 1_000_000, UTC)
            metadata["oldest_create_time"] = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
        return metadata
