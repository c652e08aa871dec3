"""Watching backtests and sweeps: one read for all that are watched, whenever something changed, and once a second.

A watcher holds no queue: it gets the run as it stands when it is ready for more, so a slow one misses steps in between
and never the end.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from oddstream_server.domain.backtest import Run
from oddstream_server.domain.errors import NotFound, OddstreamError
from oddstream_server.domain.principal import Principal
from oddstream_server.feed.streams import Closing, OpenStream, StreamRegistry

log = structlog.get_logger()

_POLL_SECONDS: Final = 1.0


class RunReader(Protocol):
    async def get_many(self, run_ids: Sequence[str]) -> Mapping[str, Run]: ...


@dataclass(frozen=True, slots=True)
class RunDelivery:
    """What one message of a watcher carries."""

    run: Run | None = None
    """None in a message that only shows life, or announces the end."""
    first: bool = False
    heartbeat: bool = False
    closing: Closing | None = None

    @property
    def last(self) -> bool:
        """True where the run has ended, and with it the stream."""
        return self.run is not None and self.run.state.finished


class RunWatch(OpenStream):
    """One watcher of one run."""

    def __init__(self, feed: "RunFeed", run: Run, principal: Principal, heartbeat_s: float) -> None:
        super().__init__("backtests", principal, feed.registry, heartbeat_s)
        self.run_id = run.run_id
        self._feed = feed
        self._kind = run.kind
        self._news: Run | None = run
        self._revision = -1
        self._started = False

    def offer(self, run: Run | None) -> None:
        """The run as it stands now; None where it was deleted."""
        if run is None:
            self.end(NotFound(self._kind.resource_type, self.run_id), "client")
        elif run.revision > self._revision:
            self._news = run
            self.wake()

    async def next(self) -> RunDelivery:
        """The next message's content.

        :raises OddstreamError: what ended the stream.
        """
        while True:
            closing = self._take_closing(self._started)
            if closing is not None:
                return RunDelivery(closing=closing)
            news, self._news = self._news, None
            if news is not None and news.revision > self._revision:
                first, self._started, self._revision = not self._started, True, news.revision
                self._sent()
                return RunDelivery(run=news, first=first)
            if self._heartbeat_due:
                self._sent()
                return RunDelivery(heartbeat=True)
            await self.woken()

    def _leave_feed(self) -> None:
        self._feed.leave(self)


class RunFeed:
    """:meth:`run` has to run for watchers to see anything."""

    def __init__(self, reader: RunReader, registry: StreamRegistry) -> None:
        self.registry = registry
        self._reader = reader
        self._watches: dict[str, set[RunWatch]] = {}
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Some run changed."""
        self._changed.set()

    def watch(self, run: Run, principal: Principal, heartbeat_s: float) -> RunWatch:
        """A watcher that begins with the run as it was just read.

        :raises Unavailable: the process drains.
        """
        watch = RunWatch(self, run, principal, heartbeat_s)
        self.registry.admit(watch)
        self._watches.setdefault(run.run_id, set()).add(watch)
        self._changed.set()
        return watch

    def leave(self, watch: RunWatch) -> None:
        held = self._watches.get(watch.run_id)
        if held is not None:
            held.discard(watch)
            if not held:
                del self._watches[watch.run_id]

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            poll = loop.call_later(_POLL_SECONDS, self._changed.set)
            await self._changed.wait()
            poll.cancel()
            self._changed.clear()
            if self._watches:
                try:
                    await self._look()
                except OddstreamError as error:
                    log.warning("watched backtests can't be read now", reason=error.reason)

    async def _look(self) -> None:
        wanted = list(self._watches)
        found = await self._reader.get_many(wanted)
        for run_id in wanted:
            for watch in list(self._watches.get(run_id, ())):
                watch.offer(found.get(run_id))
