"""The state of a venue's feed over all its connections: each change of it is one FeedStatus."""

from collections.abc import Collection

from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import FeedState, FeedStatus

_SEVERITY = {FeedState.LIVE: 0, FeedState.GAP: 1, FeedState.STALE: 2, FeedState.DOWN: 3}


class FeedMonitor:
    """Keeps the state of each stream and the venue's epoch. The venue is as well as its worst stream.

    :param backup: the stream that takes over the markets of one that is DOWN: while it is LIVE, DOWN doesn't count.
    """

    def __init__(self, venue: Venue, first_epoch: int, backup: str = "") -> None:
        self._venue = venue
        self._backup = backup
        self.epoch = first_epoch
        """Grows at each resnapshot of any book of the venue."""
        self._streams: dict[str, FeedState] = {}
        self._shown: FeedState | None = None
        self._last_receive_time_us: int | None = None

    def received(self, now_us: int) -> None:
        """Data came; pings and acknowledgements are none."""
        self._last_receive_time_us = now_us

    @property
    def shown(self) -> FeedState | None:
        """The venue's state as it was pushed last; None before the first."""
        return self._shown

    def raise_epoch(self) -> int:
        self.epoch += 1
        return self.epoch

    def state(self, stream: str) -> FeedState | None:
        return self._streams.get(stream)

    def change(
        self, stream: str, state: FeedState, now_us: int, detail: str = "", market_ids: Collection[str] = ()
    ) -> list[FeedStatus]:
        """Note a stream's state; the status to push, or nothing where nobody would learn from it.

        Each GAP is pushed, since each names other markets or another epoch; other states only when the venue changes.
        """
        self._streams[stream] = state
        worst = self._worst()
        if worst is self._shown and state is not FeedState.GAP:
            return []
        shown = FeedState.GAP if state is FeedState.GAP else worst
        return [self._show(shown, now_us, f"{stream}: {detail}" if detail else stream, market_ids)]

    def drop(self, stream: str, now_us: int) -> list[FeedStatus]:
        """The stream ended on purpose and counts no more; the status to push if the venue is better without it."""
        if self._streams.pop(stream, None) is None or not self._streams or self._worst() is self._shown:
            return []
        return [self._show(self._worst(), now_us, f"{stream}: not needed any more", ())]

    def remark(self, detail: str, now_us: int) -> list[FeedStatus]:
        """Something to say that changes no state: the one shown last again, with these words.

        Nothing before the first state, and nothing over a GAP, whose own words tell more.
        """
        if self._shown is None or self._shown is FeedState.GAP:
            return []
        return [self._show(self._shown, now_us, detail, ())]

    def _worst(self) -> FeedState:
        covered = self._streams.get(self._backup) is FeedState.LIVE
        counted = [s for s in self._streams.values() if not (covered and s is FeedState.DOWN)]
        return max(counted, key=_SEVERITY.__getitem__)

    def _show(self, state: FeedState, now_us: int, detail: str, market_ids: Collection[str]) -> FeedStatus:
        self._shown = state
        return FeedStatus(
            venue=self._venue,
            state=state,
            last_receive_time_us=self._last_receive_time_us,
            epoch=self.epoch,
            change_time_us=now_us,
            detail=detail,
            market_ids=tuple(sorted(market_ids)),
        )


class Watchdog:
    """Tells when a connection has been silent for longer than its usual gap explains.

    The bound is a multiple of the usual gap between data, within fixed limits. A silence that turned out to be the
    market's own (a fresh connection was silent too) doubles it, up to the upper limit.

    :param minimum_us: never stale before.
    :param maximum_us: always stale after.
    """

    def __init__(self, minimum_us: int, maximum_us: int, factor: int = 20) -> None:
        self._minimum_us = minimum_us
        self._maximum_us = max(maximum_us, minimum_us)
        self._factor = factor
        self._usual_gap_us = 0
        self._patience = 1
        self._last_us = 0
        self._frames = 0

    @property
    def bound_us(self) -> int:
        return min(max(self._minimum_us * self._patience, self._usual_gap_us * self._factor), self._maximum_us)

    def begin(self, now_us: int) -> None:
        """A connection opened."""
        self._last_us = now_us
        self._frames = 0

    def received(self, now_us: int) -> None:
        """Data came."""
        gap_us = max(0, now_us - self._last_us)
        self._usual_gap_us += (gap_us - self._usual_gap_us) // 16
        self._last_us = now_us
        self._frames += 1

    def excuse(self, duration_us: int) -> None:
        """So much of the time was ours (the pipeline held us up, or nothing was followed), not the venue's."""
        self._last_us += max(duration_us, 0)

    def stale(self, now_us: int) -> bool:
        return now_us - self._last_us > self.bound_us

    def barked(self, opening_frames: int) -> None:
        """The connection is given up. With nothing but its opening frames received, silence may be usual here."""
        if self._frames <= opening_frames:
            self._patience *= 2
        else:
            self._patience = 1
