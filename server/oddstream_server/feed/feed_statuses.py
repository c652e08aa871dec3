"""The state of each venue's feed, as the pipeline last stored it, and who has not been told of a change."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import FeedStatus

_LOG = logging.getLogger("oddstream.feed.statuses")

_Told = tuple[str, int, int, str, tuple[str, ...]]


class FeedStatuses:
    """Reads the states when woken and by a poll; ``on_change`` is called after one changed.

    Each change raises ``version``; a stream keeps the version that it has told its client.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[Sequence[FeedStatus]]],
        on_change: Callable[[], None],
        *,
        poll_s: float = 1.0,
    ) -> None:
        self.version = 0
        self._read = read
        self._on_change = on_change
        self._poll_s = poll_s
        self._wake = asyncio.Event()
        self._statuses: dict[Venue, tuple[int, _Told, FeedStatus]] = {}

    def wake(self) -> None:
        self._wake.set()

    def since(self, version: int, venues: frozenset[str], include_simulated: bool) -> list[FeedStatus]:
        """The states that changed after a version, of the venues that concern a stream (none named: all).

        The simulated venue's is left out unless it is asked for.
        """
        return [
            status
            for venue, (changed, _, status) in self._statuses.items()
            if changed > version
            and (not venues or venue.value in venues)
            and (include_simulated or venue is not Venue.SIMULATED)
        ]

    async def run(self) -> None:
        """Follow the states until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            try:
                self._note(await self._read())
            except Exception as error:  # the last known states stand until they can be read again
                _LOG.warning("reading the feed states failed: %s", type(error).__name__)
            timer = loop.call_later(self._poll_s, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()

    def _note(self, statuses: Sequence[FeedStatus]) -> None:
        version = self.version
        for status in statuses:
            # The receive time moves with each message and isn't a change.
            told = (status.state.value, status.epoch, status.change_time_us, status.detail, status.market_ids)
            known = self._statuses.get(status.venue)
            if known is None or known[1] != told:
                version = self.version + 1
                self._statuses[status.venue] = (version, told, status)
            else:
                self._statuses[status.venue] = (known[0], told, status)
        if version != self.version:
            self.version = version
            self._on_change()
