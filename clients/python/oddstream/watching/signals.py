"""The signal stream from the reader's side: where it starts, what proves that nothing is missing, how it goes on.

:class:`SignalCursor` knows all of that without any I/O; the clients drive it.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from oddstream.errors import ContinuityBroken
from oddstream.v1 import feed_status_pb2, signal_pb2, signal_service_pb2
from oddstream.watching.cursor import Cursor, OnBreak


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log: everything up to and with ``sequence`` of the data set is behind it, for any filter."""

    data_set_id: str
    sequence: int


class Checkpoint(Protocol):
    """Where a bot keeps its position over restarts.

    A bot that stores the sequence in the same transaction in which it acts processes each event effectively once; one
    that uses :class:`FileCheckpoint` sees the event that it was working on when it crashed a second time.
    """

    def load(self) -> Position | None: ...

    def save(self, position: Position) -> None: ...


class FileCheckpoint:
    """A position in a file, replaced atomically and synced to disk."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def load(self) -> Position | None:
        """:raises ValueError: the file holds something else."""
        try:
            body = json.loads(self._path.read_text())
            return Position(str(body["data_set_id"]), int(body["sequence"]))
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{self._path} holds no position: remove it to start anew, or restore it from a copy"
            ) from None

    def save(self, position: Position) -> None:
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        with temporary.open("w") as file:
            json.dump({"data_set_id": position.data_set_id, "sequence": position.sequence}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def from_now() -> signal_service_pb2.WatchSignalsStart:
    """Only what is committed from now on."""
    return signal_service_pb2.WatchSignalsStart(now=signal_service_pb2.StartNow())


def active_signals() -> signal_service_pb2.WatchSignalsStart:
    """The opportunities that are active now, then everything that comes."""
    return signal_service_pb2.WatchSignalsStart(active_snapshot=signal_service_pb2.StartWithActive())


def from_time(instant: datetime) -> signal_service_pb2.WatchSignalsStart:
    """What was committed at or after an instant.

    :param instant: aware of its zone.
    """
    if instant.tzinfo is None:
        raise ValueError("instant: needs a time zone, e.g. datetime.now(UTC)")
    start = signal_service_pb2.WatchSignalsStart()
    start.start_time.FromDatetime(instant)
    return start


def from_token(resume_token: str) -> signal_service_pb2.WatchSignalsStart:
    """Strictly after the message that carried the token, with the same filter."""
    return signal_service_pb2.WatchSignalsStart(resume_token=resume_token)


def at_position(position: Position) -> signal_service_pb2.WatchSignalsStart:
    """Strictly after a position, with any filter."""
    return signal_service_pb2.WatchSignalsStart(
        position=signal_service_pb2.LogPosition(data_set_id=position.data_set_id, sequence=position.sequence)
    )


class SignalCursor(
    Cursor[signal_service_pb2.WatchSignalsRequest, signal_service_pb2.WatchSignalsResponse, signal_pb2.SignalEvent]
):
    """A watch of the signal log. The position moves past an event when the reader asks for the next one.

    :ivar position: everything up to here was handed out *and* asked beyond: what a checkpoint may keep.
    :ivar resume_token: of the last complete message.
    :ivar head_sequence: the log's head as the server last told it.
    :ivar feed_statuses: the latest state of each venue's feed.
    """

    def __init__(
        self,
        request: signal_service_pb2.WatchSignalsRequest,
        *,
        checkpoint: Checkpoint | None = None,
        on_message: Callable[[signal_service_pb2.WatchSignalsResponse], None] | None = None,
        on_break: OnBreak | None = None,
    ) -> None:
        super().__init__(on_message=on_message, on_break=on_break)
        self._request = signal_service_pb2.WatchSignalsRequest()
        self._request.CopyFrom(request)
        self._checkpoint = checkpoint
        stored = checkpoint.load() if checkpoint else None
        if stored is not None:
            self._request.start.CopyFrom(at_position(stored))
        self.position: Position | None = stored
        self.resume_token = ""
        self.head_sequence = 0
        self.feed_statuses: dict[int, feed_status_pb2.FeedStatus] = {}
        self._through: int | None = stored.sequence if stored else None
        self._data_set_id = stored.data_set_id if stored else ""
        self._snapshot_seen: set[str] = set()
        self._snapshot_open = False

    @property
    def lag(self) -> int:
        """Entries of the log that are committed and not yet covered."""
        return 0 if self._through is None else max(0, self.head_sequence - self._through)

    def _next_request(self) -> signal_service_pb2.WatchSignalsRequest:
        """The caller's, or from the second time on the same strictly after what was received."""
        request = signal_service_pb2.WatchSignalsRequest()
        request.CopyFrom(self._request)
        if self._through is not None and self._data_set_id and not self._snapshot_open:
            request.start.CopyFrom(at_position(Position(self._data_set_id, self._through)))
        return request

    def _take_state(self, message: signal_service_pb2.WatchSignalsResponse) -> None:
        """:raises ContinuityBroken: the message doesn't begin where the last one ended."""
        if message.HasField("started"):
            self._data_set_id = message.started.data_set_id
            if self._through is None or self._snapshot_open:
                self._through = message.after_sequence
        if self._through is not None and message.after_sequence != self._through:
            raise ContinuityBroken(
                f"the stream went from sequence {self._through} to {message.after_sequence}: events are missing",
                reason="CONTINUITY_BROKEN",
                metadata={"expected": str(self._through), "got": str(message.after_sequence)},
            )
        self.head_sequence = max(self.head_sequence, message.head_sequence)
        for status in message.feed_statuses:
            self.feed_statuses[status.venue] = status

    def _take_items(self, message: signal_service_pb2.WatchSignalsResponse) -> Iterator[signal_pb2.SignalEvent]:
        if message.HasField("snapshot"):
            yield from self._receive_snapshot(message)
            return
        last = 0
        for event in message.events:
            if event.sequence <= last or not message.after_sequence < event.sequence <= message.through_sequence:
                raise ContinuityBroken(
                    f"event {event.sequence} stands outside of its message "
                    f"({message.after_sequence}, {message.through_sequence}] or out of order",
                    reason="CONTINUITY_BROKEN",
                )
            last = event.sequence
            yield event
            # The reader asked for more, so it is done with this one.
            self._move(event.sequence)
        self._through = message.through_sequence
        self.resume_token = message.resume_token or self.resume_token
        if message.through_sequence > (self.position.sequence if self.position else -1):
            self._move(message.through_sequence, save=bool(message.events) or message.HasField("heartbeat"))

    def _receive_snapshot(self, message: signal_service_pb2.WatchSignalsResponse) -> Iterator[signal_pb2.SignalEvent]:
        self._snapshot_open = not message.snapshot.complete
        for event in message.events:
            if event.signal.signal_id not in self._snapshot_seen:
                self._snapshot_seen.add(event.signal.signal_id)
                yield event
        if not self._snapshot_open:
            self._snapshot_seen.clear()
            self.resume_token = message.resume_token or self.resume_token
            self._through = message.through_sequence
            self._move(message.through_sequence)

    def _move(self, sequence: int, *, save: bool = True) -> None:
        self._through = max(self._through or 0, sequence)
        self.position = Position(self._data_set_id, sequence)
        if self._checkpoint and save:
            self._checkpoint.save(self.position)
