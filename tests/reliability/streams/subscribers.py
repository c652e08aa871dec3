"""Bots that keep what they got, and the judge who compares it with the log."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import asyncpg

import oddstream
from oddstream.v1 import signal_service_pb2
from oddstream.watching.signals import SignalCursor


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of the log: its place and what it says."""

    sequence: int
    signal_id: str


async def read_log(dsn: str, after: int = 0) -> list[Entry]:
    """The truth."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT sequence, signal_id FROM signal_events WHERE sequence > $1 ORDER BY sequence", after
        )
    finally:
        await connection.close()
    return [Entry(*row) for row in rows]


@dataclass
class Subscriber:
    """One bot over the client library, on a channel of its own. ``failure`` is what ended it, if anything did."""

    target: str
    key: str
    start: signal_service_pb2.WatchSignalsStart
    pause_s: float = 0.0
    """Between two messages."""
    on_message: Callable[[signal_service_pb2.WatchSignalsResponse], None] | None = None
    breaks: list[tuple[float, oddstream.OddstreamError | None]] = field(default_factory=list)
    """When the stream broke, by the monotonic clock, and what for."""
    received: list[Entry] = field(default_factory=list)
    last_message_s: float = 0.0
    failure: BaseException | None = None
    cursor: SignalCursor | None = None

    def begin(self) -> None:
        self._task = asyncio.create_task(self._follow())

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def reach(self, sequence: int, seconds: float = 60.0) -> None:
        """Until everything up to a sequence is covered, or the bot gave up."""
        deadline = time.monotonic() + seconds
        while self.failure is None and (self.through < sequence):
            assert time.monotonic() < deadline, f"at {self.through} of {sequence} after {seconds} s"
            await asyncio.sleep(0.02)

    @property
    def through(self) -> int:
        cursor = self.cursor
        return cursor.position.sequence if cursor is not None and cursor.position is not None else -1

    @property
    def reconnects(self) -> int:
        return 0 if self.cursor is None else self.cursor.reconnects

    async def _follow(self) -> None:
        try:
            async with oddstream.AsyncClient(self.target, api_key=self.key) as client:
                watch = client.watch_signals(
                    start=self.start, include_simulated=True, on_message=self._hear, on_break=self._note_break
                )
                self.cursor = watch.cursor
                try:
                    async for event in watch:
                        self.received.append(Entry(event.sequence, event.signal.signal_id))
                finally:
                    await watch.aclose()
        except asyncio.CancelledError:
            raise
        except Exception as failure:  # kept for the judge
            self.failure = failure

    def _hear(self, message: signal_service_pb2.WatchSignalsResponse) -> None:
        self.last_message_s = time.monotonic()
        if self.on_message:
            self.on_message(message)

    def _note_break(self, error: oddstream.OddstreamError | None, _pause: float) -> None:
        self.breaks.append((time.monotonic(), error))


def complaints(received: Sequence[Entry], log: Sequence[Entry], failure: BaseException | None = None) -> list[str]:
    """What is wrong with what one bot received, given the log after its start; empty where nothing is."""
    found: list[str] = []
    if failure is not None:
        found.append(f"the stream failed: {type(failure).__name__}: {failure}")
    counts = Counter(e.sequence for e in received)
    known = {e.sequence: e.signal_id for e in log}
    lost = sorted(known.keys() - counts.keys())
    twice = sorted(sequence for sequence, count in counts.items() if count > 1)
    if lost:
        found.append(f"lost {len(lost)} of {len(known)}, first {lost[:3]}")
    if twice:
        found.append(f"duplicated {len(twice)}, first {twice[:3]}")
    if any(a.sequence > b.sequence for a, b in pairwise(received)):
        found.append("out of order")
    if any(known.get(e.sequence) != e.signal_id for e in received):
        found.append("events that are not the log's")
    return found


def complaints_about_writes(written: Mapping[str, Any], log: Sequence[Entry]) -> list[str]:
    """What is wrong with the log, given what the writers were told."""
    found: list[str] = []
    if [e.sequence for e in log] != list(range(1, len(log) + 1)):
        found.append("the log has holes")
    if len(log) != written["made"] or len({e.signal_id for e in log}) != len(log):
        found.append(f"{written['made']} signals were made, the log has {len(log)}")
    at = {e.sequence: e.signal_id for e in log}
    acknowledged = {key: (sequence, epoch) for key, (sequence, epoch) in written["acknowledged"].items()}
    missing = [key for key, (sequence, _) in acknowledged.items() if at.get(sequence) != key.partition("/")[0]]
    if missing:
        found.append(f"{len(missing)} acknowledged events are not where they were said to be")
    epochs = [epoch for _, epoch in sorted(acknowledged.values())]
    if any(a > b for a, b in pairwise(epochs)):
        found.append("a stale epoch wrote after a newer one")
    return found
