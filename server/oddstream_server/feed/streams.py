"""The life of open streams, whatever they carry: waiting, heartbeats, maximum age, drain.

A stream waits for its own future and is woken by news, by the timer wheel or by its end. There is no timeout around a
wait: one wheel looks at each stream at least once a second, which costs less than a timer for each and loses no
wake-up.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

from oddstream_server.application.ports import Clock
from oddstream_server.domain.errors import OddstreamError, Unavailable
from oddstream_server.domain.principal import Principal
from oddstream_server.feed.observer import EndReason, FeedObserver, NullFeedObserver, StreamKind

_TICK_S = 0.1
_VISIT_S = 1.0


@dataclass(frozen=True, slots=True)
class StreamLimits:
    maximum_age_s: float = 1_500.0
    """Below the connection's age, so that a stream ends with a closing and a status."""
    jitter: float = 0.1
    """Ages and heartbeat intervals are spread by this share to either side."""
    slow_after_s: float = 30.0
    age_retry_delay_us: int = 500_000
    """Upper end of the random delay that a stream which reached its age is told to wait."""


@dataclass(frozen=True, slots=True)
class Closing:
    """What the last message of a stream announces."""

    reason: str
    """The name of an ErrorReason without its prefix."""
    retry_delay_us: int


class OpenStream:
    """One open stream of a caller; the subscriptions to signals and to quotes are streams.

    After :meth:`end` a subscription gives the closing message, if there is one, and then raises the error. Nothing but
    the client's own cancel stops a handler in the middle of a write, so an ended stream is taken out of the feed at
    once and gets its status when the client has drained what was written.
    """

    def __init__(self, kind: StreamKind, principal: Principal, registry: "StreamRegistry", heartbeat_s: float) -> None:
        loop = asyncio.get_running_loop()
        limits = registry.limits
        now = loop.time()
        self.kind: StreamKind = kind
        self.principal = principal
        self.heartbeat_s = heartbeat_s
        self.end_reason: EndReason = "client"
        self.age_end_s = now + registry.jittered(limits.maximum_age_s)
        self._registry = registry
        self._loop = loop
        self.next_within_us = int(heartbeat_s * (1 + limits.jitter) * 1_000_000)
        """How long a client waits at most for the next message of a quiet stream."""
        self._quiet_s = registry.jittered(heartbeat_s)
        self._last_sent_s = now
        self._heartbeat_due = False
        self._ending: OddstreamError | None = None
        self._closing: Closing | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._left = False

    @property
    def ended(self) -> bool:
        return self._ending is not None

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def woken(self) -> "asyncio.Future[None]":
        """Done at :meth:`wake`. Ask right after a look at what is due, with no await between, and await it at once.

        The bare future and not a coroutine around it: a signal wakes thousands of handlers in one turn of the loop.
        """
        self._waiter = waiter = self._loop.create_future()
        return waiter

    def end(self, error: OddstreamError, reason: EndReason, closing: Closing | None = None) -> None:
        """Take the stream out of the feed and let it end with ``error``, after ``closing`` where there is one."""
        if self._ending is not None:
            return
        self._ending, self._closing, self.end_reason = error, closing, reason
        self._leave_feed()
        self.wake()

    def close(self) -> None:
        """The handler is done with the stream; idempotent."""
        if self._left:
            return
        self._left = True
        self._leave_feed()
        self._registry.forget(self)

    def visit(self, now: float) -> float:
        """The wheel looks at the stream; answers when it wants to be looked at again."""
        if now >= self.age_end_s:
            delay_us = int(self._registry.random.random() * self._registry.limits.age_retry_delay_us)
            error = Unavailable(
                "the stream reached its maximum age; resume from the last token",
                reason="STREAM_AGE_REACHED",
                retry_after_us=delay_us,
            )
            self.end(error, "stream_age", Closing("STREAM_AGE_REACHED", delay_us))
            return now + _VISIT_S
        heartbeat_at = self._last_sent_s + self._quiet_s
        if now + _TICK_S >= heartbeat_at and not self._heartbeat_due:
            self._heartbeat_due = True
            self.wake()
        return min(now + _VISIT_S, max(heartbeat_at - _TICK_S, now), self.age_end_s)

    def _sent(self) -> None:
        self._last_sent_s = self._loop.time()
        self._heartbeat_due = False

    def _take_closing(self, started: bool) -> Closing | None:
        """The announcement of an end, once; afterwards, and where nothing was sent yet, the end's error is raised."""
        closing, self._closing = self._closing, None
        if self._ending is not None and (closing is None or not started):
            raise self._ending
        return closing

    def _leave_feed(self) -> None:
        """Forget the stream wherever news are distributed; called once or more."""
        raise NotImplementedError


class StreamRegistry:
    """Every open stream of the process. :meth:`run` has to run for heartbeats, ages and cuts.

    Keys and quotas are not its business: the interceptors end and refuse streams for those.
    """

    def __init__(
        self,
        clock: Clock,
        observer: FeedObserver | None = None,
        limits: StreamLimits | None = None,
        seed: int | None = None,
    ) -> None:
        self.limits = limits or StreamLimits()
        self.observer = observer or NullFeedObserver()
        self.clock = clock
        self.random = random.Random(seed)  # noqa: S311  # spreads timers, guards nothing
        self.wheel_time_s = 0.0
        """Seconds that the wheel turned: unlike a clock it stands still while the process is stopped."""
        self._streams: dict[OpenStream, None] = {}
        self._slots: dict[int, list[OpenStream]] = {}
        self._tick = 0
        self._origin_s = time.monotonic()
        self._empty = asyncio.Event()
        self._empty.set()
        self._drain_retry_us: int | None = None

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[OpenStream]:
        return iter(tuple(self._streams))

    def jittered(self, value: float) -> float:
        return value * (1 + self.limits.jitter * (2 * self.random.random() - 1))

    def admit(self, stream: OpenStream) -> None:
        """Count a stream in.

        :raises Unavailable: the process drains.
        """
        if self._drain_retry_us is not None:
            raise self._draining(self._drain_retry_us)
        self._streams[stream] = None
        self._empty.clear()
        self._put(stream, 0.0)
        self.observer.stream_opened(stream.kind)

    def forget(self, stream: OpenStream) -> None:
        if stream not in self._streams:
            return
        del self._streams[stream]
        if not self._streams:
            self._empty.set()
        self.observer.stream_ended(stream.kind, stream.end_reason)

    def wake_all(self) -> None:
        for stream in self._streams:
            stream.wake()

    async def run(self) -> None:
        """Turn the wheel until cancelled."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(_TICK_S)
            now = loop.time()
            self.wheel_time_s += min(now - last, _VISIT_S)
            last = now
            due = self._tick_at(now)
            while self._tick < due:
                self._tick += 1
                for stream in self._slots.pop(self._tick, ()):
                    if stream in self._streams:
                        self._put(stream, stream.visit(now))

    async def close(self, retry_after_us: int, within_s: float) -> bool:
        """End every stream with a closing and refuse new ones. True when the last handler was done in time.

        A client that doesn't read keeps its handler in a write, so not all may be.
        """
        self._drain_retry_us = retry_after_us
        for stream in list(self._streams):
            error = self._draining(retry_after_us)
            stream.end(error, "draining", Closing("DRAINING", error.retry_after_us))
        try:
            async with asyncio.timeout(within_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _draining(self, retry_after_us: int) -> Unavailable:
        delay_us = int(retry_after_us * (0.5 + self.random.random()))
        return Unavailable(
            "the server is draining; reconnect and resume from the last token",
            reason="DRAINING",
            retry_after_us=delay_us,
        )

    def _put(self, stream: OpenStream, at_s: float) -> None:
        self._slots.setdefault(max(self._tick_at(at_s), self._tick + 1), []).append(stream)

    def _tick_at(self, at_s: float) -> int:
        return int((at_s - self._origin_s) / _TICK_S)
