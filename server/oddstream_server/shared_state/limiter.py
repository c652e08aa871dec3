"""Rate limits over all processes: GCRA on Redis's clock, leased in blocks and spent locally.

A process takes a small block of units from the shared bucket and spends it without asking again, so that a call costs
next to nothing. The blocks are at most a fifth of a second's worth while there is plenty and a hundredth near the
limit, which bounds both what is over-taken (nothing) and what a stopped process wastes. Without Redis each process
holds the whole limit by itself: the limit is then looser by the number of processes, and the metric says so.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from oddstream_server.application.ports import LimitDecision
from oddstream_server.shared_state.connection import SharedState, SharedStateAway

KEY_PREFIX = "oddstream:limit:"
_LEASE_SECONDS = 1.0
_MAXIMUM_BUCKETS = 20_000

# The state is the theoretical arrival time in microseconds: how far the bucket is paid ahead. Lua's tostring() keeps
# 14 digits and an epoch in microseconds has 16, hence the explicit format.
_TAKE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local period, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local wanted, least = tonumber(ARGV[3]), tonumber(ARGV[4])
local paid = tonumber(redis.call('GET', KEYS[1]) or now)
if paid < now then paid = now end
local room = math.floor((now + burst * period - paid) / period + 0.000001)
if room < least then
  return {0, math.ceil(paid + (least - burst) * period - now), math.max(room, 0)}
end
local granted = math.min(wanted, room)
paid = paid + granted * period
redis.call('SET', KEYS[1], string.format('%.2f', paid), 'PX', math.ceil((paid - now) / 1000) + 1000)
return {granted, 0, room - granted}
"""


@dataclass(slots=True)
class _Bucket:
    units: int = 0
    """Leased and not yet spent."""
    lease_ends: float = 0.0
    denied_until: float = 0.0
    denied_cost: int = 0
    """The smallest cost that the shared bucket has no room for until then."""
    remaining: int = 0
    """In the shared bucket at the last lease."""
    refill: "asyncio.Task[bool] | None" = None
    local_paid: float = 0.0
    """GCRA's state of the local fallback, on the monotonic clock."""


@dataclass(frozen=True, slots=True)
class _Rule:
    per_minute: int
    burst: int

    @property
    def period_seconds(self) -> float:
        return 60.0 / self.per_minute

    def block(self, cost: int, remaining: int) -> int:
        per_second = self.per_minute / 60
        return min(self.burst, max(cost, int(per_second / 100), int(min(per_second / 5, remaining / 8))))


@dataclass(slots=True)
class LeasedRateLimiter:
    """Fulfils :class:`~oddstream_server.application.ports.RateLimiter`; one instance a process."""

    state: SharedState
    registry: CollectorRegistry
    clock: Callable[[], float] = time.monotonic
    _buckets: "OrderedDict[str, _Bucket]" = field(default_factory=OrderedDict)
    _local: Counter = field(init=False)
    _degraded: Gauge = field(init=False)
    _leases: Counter = field(init=False)

    def __post_init__(self) -> None:
        self._local = Counter(
            "oddstream_limiter_local_decisions",
            "Limit decisions made by this process alone because Redis is away.",
            registry=self.registry,
        )
        self._degraded = Gauge(
            "oddstream_limiter_degraded", "1 while limits are held by each process alone.", registry=self.registry
        )
        self._leases = Counter(
            "oddstream_limiter_leases", "Blocks of units taken from the shared buckets.", registry=self.registry
        )
        self._degraded.set(0)

    def peek(self, bucket: str) -> LimitDecision:
        """What this process knows without asking: denied only while an earlier denial still holds."""
        state = self._buckets.get(bucket)
        now = self.clock()
        if state is None or state.units > 0 or state.denied_until <= now:
            return LimitDecision(True, 0, state.remaining if state else 0)
        return LimitDecision(False, _microseconds(state.denied_until - now), 0)

    def spend(self, bucket: str, cost: int) -> bool:
        """See the port: most calls of a busy key end here."""
        state = self._buckets.get(bucket)
        if state is None or state.units < cost or state.lease_ends <= self.clock():
            return False
        state.units -= cost
        return True

    async def take(self, bucket: str, cost: int, per_minute: int, burst: int) -> LimitDecision:
        """Take ``cost`` units (at most the burst) of a bucket that refills by ``per_minute``; never raises."""
        rule = _Rule(per_minute, max(1, burst))
        cost = min(cost, rule.burst)
        state = self._bucket(bucket)
        while True:
            now = self.clock()
            if state.lease_ends <= now:
                state.units = 0
            if state.units >= cost:
                state.units -= cost
                return LimitDecision(True, 0, state.units + state.remaining)
            if state.denied_until > now and cost >= state.denied_cost:
                return LimitDecision(False, _microseconds(state.denied_until - now), 0)
            if self.state.away:
                return self._take_locally(state, cost, rule)
            if state.refill is None:
                state.refill = asyncio.create_task(self._refill(bucket, state, cost, rule))
            # Shielded: the caller may be cancelled, and others wait for the same refill.
            if not await asyncio.shield(state.refill):
                return self._take_locally(state, cost, rule)

    def _bucket(self, bucket: str) -> _Bucket:
        state = self._buckets.get(bucket)
        if state is None:
            state = self._buckets[bucket] = _Bucket()
            if len(self._buckets) > _MAXIMUM_BUCKETS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(bucket)
        return state

    async def _refill(self, bucket: str, state: _Bucket, cost: int, rule: _Rule) -> bool:
        """Lease a block. False when Redis is away."""
        arguments: list[Any] = [
            rule.period_seconds * 1_000_000,
            rule.burst,
            rule.block(cost, state.remaining),
            cost,
        ]
        try:
            granted, wait_us, remaining = await self.state.run(
                lambda redis: redis.eval(_TAKE, 1, KEY_PREFIX + bucket, *arguments)
            )
        except SharedStateAway:
            return False
        finally:
            state.refill = None
        self._degraded.set(0)
        now = self.clock()
        state.remaining = int(remaining)
        if granted:
            self._leases.inc()
            if state.lease_ends <= now:
                state.units = 0
            state.units += int(granted)
            state.lease_ends = now + _LEASE_SECONDS
        else:
            # Asking again for each unit as it drips would be a round trip a call: wait for a few.
            settle = min(0.02, rule.burst * rule.period_seconds / 2)
            state.denied_until = now + max(int(wait_us) / 1_000_000, settle)
            state.denied_cost = cost
        return True

    def _take_locally(self, state: _Bucket, cost: int, rule: _Rule) -> LimitDecision:
        self._local.inc()
        self._degraded.set(1)
        now = self.clock()
        paid = max(state.local_paid, now)
        excess = paid + (cost - rule.burst) * rule.period_seconds - now
        if excess > 1e-9:
            return LimitDecision(False, _microseconds(excess), 0)
        state.local_paid = paid + cost * rule.period_seconds
        return LimitDecision(True, 0, int(-excess / rule.period_seconds))


def _microseconds(seconds: float) -> int:
    return max(1, int(seconds * 1_000_000))
