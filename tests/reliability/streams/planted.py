"""The server's command with a bug planted, so that a test can show that it would see it.

Run as a program: ``planted.py PLANT serve …``.
"""

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from oddstream_server.application.keys.authentication import Authenticator
from oddstream_server.domain.errors import Unavailable
from oddstream_server.feed.signals.feed import SignalFeed
from oddstream_server.feed.signals.groups import FilterGroup
from oddstream_server.feed.signals.ring import Entry
from oddstream_server.feed.signals.starts import Place, StartAfter, Starts
from oddstream_server.shared_state.limiter import LeasedRateLimiter
from oddstream_server.storage.wake_ups import WakeUps
from oddstream_server.transport.converters.streams import SignalWireCodec
from oddstream_server.transport.server import ServerOptions


def put(owner: type, name: str, bug: Any) -> None:
    """Replace a method."""
    setattr(owner, name, bug)


def drop() -> None:
    """Every 97th event passes no filter."""
    take = FilterGroup.take

    def take_most(self: FilterGroup, entry: Entry) -> bool:
        return entry.sequence % 97 != 0 and take(self, entry)

    put(FilterGroup, "take", take_most)


def repeat() -> None:
    """A message of several events holds its first one twice."""
    batch = SignalWireCodec.batch

    def batch_with_more(self: SignalWireCodec, fragments: Sequence[bytes], *rest: Any) -> bytes:
        return batch(self, [*fragments[:1], *fragments] if len(fragments) > 1 else fragments, *rest)

    put(SignalWireCodec, "batch", batch_with_more)


def swap() -> None:
    """A message's events stand in reverse order."""
    batch = SignalWireCodec.batch
    put(SignalWireCodec, "batch", lambda self, fragments, *rest: batch(self, fragments[::-1], *rest))


def skip_backlog() -> None:
    """A reader behind the ring goes on with the ring's oldest event."""
    reach = FilterGroup.reach

    def reach_or_jump(self: FilterGroup, cursor: int, ring: Any) -> bool:
        return reach(self, cursor, ring) or reach(self, ring.base, ring)

    put(FilterGroup, "reach", reach_or_jump)


def forget_after_crash() -> None:
    """The first event after the listener has lost its connection reaches nobody."""
    publish, listen = SignalFeed._publish, WakeUps._listen
    listened: list[bool] = []
    lose: list[bool] = []

    async def listen_again(self: WakeUps, connection: Any) -> None:
        if listened:
            lose.append(True)
        listened.append(True)
        await listen(self, connection)

    def publish_rest(self: SignalFeed, entries: Sequence[Entry]) -> None:
        if lose and entries:
            lose.clear()
            take = FilterGroup.take
            put(FilterGroup, "take", lambda group, entry: False)
            publish(self, entries[:1])
            put(FilterGroup, "take", take)
            entries = entries[1:]
        publish(self, entries)

    put(WakeUps, "_listen", listen_again)
    put(SignalFeed, "_publish", publish_rest)


def never_recheck() -> None:
    """Keys of open streams are never looked at again."""

    async def run(_self: Authenticator) -> None:
        await asyncio.Event().wait()

    put(Authenticator, "run", run)


def reset_silently() -> None:
    """A point outside of the log is taken as its oldest one."""

    async def after(self: Starts, wanted: StartAfter, _digest: bytes, _known: Any, head: int) -> Place:
        bounds = await self._log.bounds()
        return Place(bounds.data_set_id, min(max(wanted.sequence, bounds.oldest_sequence - 1), head))

    put(Starts, "_after", after)


def resume_late() -> None:
    """A stream that resumes leaves out the event after its place."""
    after = Starts._after

    async def one_later(self: Starts, wanted: StartAfter, *rest: Any) -> Place:
        place = await after(self, wanted, *rest)
        return replace(place, sequence=place.sequence + 1) if place.sequence else place

    put(Starts, "_after", one_later)


def never_ping() -> None:
    """The server doesn't look whether its clients are still there."""
    options = ServerOptions.channel_options

    def without_pings(self: ServerOptions) -> tuple[tuple[str, int], ...]:
        return tuple(option for option in options(self) if option[0] != "grpc.keepalive_time_ms")

    put(ServerOptions, "channel_options", without_pings)


def need_redis() -> None:
    """Without Redis nobody is served."""

    def refuse(*_: Any) -> Any:
        raise Unavailable("no Redis")

    put(LeasedRateLimiter, "_take_locally", refuse)


PLANTS: dict[str, Callable[[], None]] = {
    f.__name__: f
    for f in (
        drop,
        repeat,
        swap,
        skip_backlog,
        forget_after_crash,
        never_recheck,
        reset_silently,
        resume_late,
        never_ping,
        need_redis,
    )
}

if __name__ == "__main__":
    from oddstream_server.__main__ import main

    PLANTS[sys.argv.pop(1)]()
    main()
