"""What the feed tells of itself; the composition root gives an observer that counts it in metrics."""

from typing import Literal, Protocol

StreamKind = Literal["signals", "quotes", "backtests"]
EndReason = Literal["client", "slow_consumer", "draining", "stream_age", "data_set_changed", "history_trimmed"]


class FeedObserver(Protocol):
    """Called on the event loop, some of it for every message: implementations look their labels up beforehand."""

    def stream_opened(self, kind: StreamKind) -> None: ...

    def stream_ended(self, kind: StreamKind, reason: EndReason) -> None: ...

    def delivered(self, kind: StreamKind, entries: int) -> None:
        """A message with so many events or quotes was handed to a stream's handler."""
        ...

    def read(self, events: int, head_sequence: int) -> None:
        """The reader took events from the log; the head that it knows now."""
        ...

    def reader_failed(self) -> None:
        """A read of the log failed and is going to be tried again."""
        ...

    def backlog_page_read(self, events: int) -> None: ...

    def subscribers_behind(self, count: int) -> None:
        """How many signal streams have events waiting that left the memory, at the last look."""
        ...

    def quotes_conflated(self, count: int) -> None: ...


class NullFeedObserver:
    """Counts nothing."""

    def stream_opened(self, kind: StreamKind) -> None:
        pass

    def stream_ended(self, kind: StreamKind, reason: EndReason) -> None:
        pass

    def delivered(self, kind: StreamKind, entries: int) -> None:
        pass

    def read(self, events: int, head_sequence: int) -> None:
        pass

    def reader_failed(self) -> None:
        pass

    def backlog_page_read(self, events: int) -> None:
        pass

    def subscribers_behind(self, count: int) -> None:
        pass

    def quotes_conflated(self, count: int) -> None:
        pass
