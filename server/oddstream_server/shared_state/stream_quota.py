"""Open streams of each key, counted over all processes.

Each process tells Redis how many streams of a key it has, and for how long that is to be believed; the sum of what is
believed is what the key has open. A count is told whole and never as a difference, so a lost answer, a restart of Redis
or a place given back twice heals at the next telling. A process that dies is believed for a few seconds more; one that
is started again under the same name takes its old count's place at once. Without Redis each process counts for itself,
and the metric says so.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from oddstream_server.shared_state.connection import SharedState, SharedStateAway

KEY_PREFIX = "oddstream:streams:"
BELIEVED_MS = 4_000
RENEW_SECONDS = 1.0

# A hash of the processes: how many streams, and until when on Redis's own clock. Answers how many may be added.
_TELL = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local own, wanted, limit, believed = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local told, others = redis.call('HGETALL', KEYS[1]), 0
for i = 1, #told, 2 do
  local count, ends = string.match(told[i + 1], '(%d+):(%d+)')
  if tonumber(ends) < now then redis.call('HDEL', KEYS[1], told[i])
  elseif told[i] ~= ARGV[1] then others = others + tonumber(count) end
end
local granted = math.max(0, math.min(wanted, limit - others - own))
if own + granted == 0 then redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%d:%d', own + granted, now + believed))
  redis.call('PEXPIRE', KEYS[1], believed)
end
return granted
"""


@dataclass(slots=True)
class _Subject:
    held: int = 0
    """Open streams in this process."""
    waiting: "deque[tuple[asyncio.Future[bool], int]]" = field(default_factory=deque)
    """Who wants one more, with the limit that holds for the key."""
    teller: "asyncio.Task[None] | None" = None
    stale: bool = False
    """Places were given back since the last telling."""


class SharedStreamQuota:
    """Fulfils :class:`~oddstream_server.application.ports.StreamQuota`; :meth:`run` has to run.

    Those who come in one moment are asked for together, so a crowd that reconnects costs a few round trips.

    :param process: a name that no other process has at the same time, and that this one has after a restart too.
    """

    def __init__(self, state: SharedState, process: str, registry: CollectorRegistry) -> None:
        self._state = state
        self._process = process
        self._subjects: dict[str, _Subject] = {}
        self._alone = Gauge(
            "oddstream_stream_quota_degraded", "1 while each process counts streams for itself.", registry=registry
        )
        self._alone.set(0)

    async def take(self, subject: str, limit: int) -> bool:
        """One more stream of the key, if it has less than ``limit`` open; never raises."""
        known = self._subjects.setdefault(subject, _Subject())
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        known.waiting.append((future, limit))
        self._tell_soon(subject, known)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.result():
                self.give_back(subject)  # granted to a caller who went at the same moment
            raise

    def give_back(self, subject: str) -> None:
        """A stream that was taken has ended."""
        known = self._subjects[subject]
        known.held -= 1
        known.stale = True
        self._tell_soon(subject, known)

    async def run(self) -> None:
        """Keep what was told believed, until cancelled."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            for subject, known in list(self._subjects.items()):
                if known.teller is None:
                    await self._tell(subject, known, 0, 0)

    def _tell_soon(self, subject: str, known: _Subject) -> None:
        if known.teller is None:
            known.teller = asyncio.create_task(self._tell_all(subject, known))

    async def _tell_all(self, subject: str, known: _Subject) -> None:
        try:
            while known.waiting or known.stale:
                wanted = [entry for entry in known.waiting if not entry[0].cancelled()]
                known.waiting.clear()
                known.stale = False
                limit = min((limit for _, limit in wanted), default=0)
                granted = await self._tell(subject, known, len(wanted), limit)
                for future, _ in wanted:
                    if future.cancelled():
                        known.stale = True  # its place, if it had one, is told back
                    elif granted > 0:
                        granted -= 1
                        known.held += 1
                        future.set_result(True)
                    else:
                        future.set_result(False)
        finally:
            known.teller = None
            if not known.held and not known.waiting:
                self._subjects.pop(subject, None)

    async def _tell(self, subject: str, known: _Subject, wanted: int, limit: int) -> int:
        """How many of those wanted may be opened."""
        arguments: list[Any] = [self._process, known.held, wanted, limit, BELIEVED_MS]
        try:
            granted = await self._state.run(lambda redis: redis.eval(_TELL, 1, KEY_PREFIX + subject, *arguments))
        except SharedStateAway:
            self._alone.set(1)
            return max(0, min(wanted, limit - known.held))
        self._alone.set(0)
        return int(granted)
