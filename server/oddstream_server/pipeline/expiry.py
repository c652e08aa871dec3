"""The expiry sweep: EXPIRED for opportunities whose time has come, outside of what a replay has to reproduce."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from oddstream_server.domain.market import Venue
from oddstream_server.domain.signal import SignalEvent, SignalEventType


class OpenSignals:
    """The open opportunities by what the log says: the last CREATED or REVISED event of each."""

    def __init__(self, active: Iterable[SignalEvent] = ()) -> None:
        self._open: dict[str, SignalEvent] = {event.signal.opportunity_id: event for event in active}

    def __len__(self) -> int:
        return len(self._open)

    def see(self, events: Iterable[SignalEvent]) -> None:
        """Follow what was appended."""
        for event in events:
            if event.type in (SignalEventType.CREATED, SignalEventType.REVISED):
                self._open[event.signal.opportunity_id] = event
            elif event.type is not SignalEventType.GRADED:
                self._open.pop(event.signal.opportunity_id, None)

    def expired(self, watermark_us: Callable[[Venue], int]) -> list[SignalEvent]:
        """EXPIRED events of what is over, oldest first.

        :param watermark_us: of a venue, an instant that no tick still to be decided on comes before.
        """
        due = [e for e in self._open.values() if e.signal.expire_time_us <= watermark_us(e.signal.venue)]
        due.sort(key=lambda e: (e.signal.expire_time_us, e.signal.signal_id))
        return [replace(e, type=SignalEventType.EXPIRED, reason="", sequence=0, create_time_us=0) for e in due]
