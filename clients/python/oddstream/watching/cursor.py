"""What a watch of any stream knows over all its connections: how long silence may last, when to come back."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf import message

from oddstream.errors import ContinuityBroken, OddstreamError, OutOfRange

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
SILENCE_FACTOR = 2.0
"""A stream that is silent for this many times the announced span is given up and opened again."""
DEFAULT_SILENCE_SECONDS = 30.0

_FINAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)

OnBreak = Callable[[OddstreamError | None, float], None]
"""Called at each break with what it was for (None where the server ended with OK) and seconds to the next try."""


Request = TypeVar("Request")
Message = TypeVar("Message", bound=message.Message)
Item = TypeVar("Item")


class Cursor(ABC, Generic[Request, Message, Item]):
    """The state of one watch over all its connections; it does no I/O, the watches drive it.

    :ivar reconnects: how many times the stream was opened again.
    :ivar broken: True from a break until the next message.
    :ivar last_error: what the last break was for, None where the server ended the stream with OK.
    :ivar silence_seconds: how long the stream may say nothing before it is given up.
    :ivar finished: True when there is nothing more to come, ever.
    """

    def __init__(self, *, on_message: Callable[[Message], None] | None, on_break: OnBreak | None) -> None:
        self._on_message = on_message
        self._on_break = on_break
        self.reconnects = 0
        self.broken = False
        self.finished = False
        self.last_error: OddstreamError | None = None
        self.silence_seconds = DEFAULT_SILENCE_SECONDS
        self._failures = 0
        self._retry_delay: float | None = None
        self._opened = False

    def next_request(self) -> Request:
        """The request that opens the stream, or opens it again."""
        request = self._next_request()
        if self._opened:
            self.reconnects += 1
        self._opened = True
        self._retry_delay = None
        return request

    def receive(self, received: Message) -> Iterator[Item]:
        """What a message brings, one at a time.

        :raises ContinuityBroken: it doesn't go on where the stream was.
        """
        said: Any = received  # the messages of all streams have these two fields
        self._failures = 0
        self.broken = False
        if said.HasField("heartbeat"):
            self.silence_seconds = SILENCE_FACTOR * said.heartbeat.next_within.ToTimedelta().total_seconds() + 1.0
        if said.HasField("closing"):
            self._retry_delay = said.closing.retry_delay.ToTimedelta().total_seconds()
        self._take_state(received)
        if self._on_message:
            self._on_message(received)
        yield from self._take_items(received)

    def pause_after(self, error: OddstreamError | None) -> float:
        """Seconds to wait before opening the stream again; jittered, so that a crowd doesn't come back at once.

        :param error: what ended the stream; None where the server ended it with OK or the reader gave up on silence.
        :raises OddstreamError: it can't get better by itself.
        """
        if error is not None and (error.code in _FINAL or isinstance(error, ContinuityBroken | OutOfRange)):
            raise error
        self._failures += 1
        asked = self._retry_delay if self._retry_delay is not None else error.retry_delay if error else None
        ceiling = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 10))
        jittered = random.uniform(ceiling / 2, ceiling)  # noqa: S311 - spreads load, guards nothing
        pause = max(asked, jittered) if asked is not None else jittered
        self.broken, self.last_error = True, error
        self._take_break()
        if self._on_break:
            self._on_break(error, pause)
        return pause

    @abstractmethod
    def _next_request(self) -> Request: ...

    def _take_state(self, received: Message) -> None:
        """What a message says about the stream itself, before anybody sees it."""

    @abstractmethod
    def _take_items(self, received: Message) -> Iterator[Item]: ...

    def _take_break(self) -> None:
        """What holds no more once the stream is broken."""
