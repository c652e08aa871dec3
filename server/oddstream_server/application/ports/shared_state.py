"""What processes share and can lose: limits and live books."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from oddstream_server.domain.quote import OrderBook


@dataclass(frozen=True, slots=True)
class LimitDecision:
    allowed: bool
    retry_after_us: int
    remaining: int


class RateLimiter(Protocol):
    def peek(self, bucket: str) -> LimitDecision:
        """What this process knows without asking anyone: denied only while an earlier denial still holds."""
        ...

    def spend(self, bucket: str, cost: int) -> bool:
        """Spend ``cost`` units that this process holds already; False, and nothing spent, where :meth:`take` has to
        decide."""
        ...

    async def take(self, bucket: str, cost: int, per_minute: int, burst: int) -> LimitDecision:
        """GCRA on shared time; never raises: without the shared store a local bucket answers."""
        ...


class StreamQuota(Protocol):
    """How many streams each key has open, over all processes."""

    async def take(self, subject: str, limit: int) -> bool:
        """One more stream, if the key has less than ``limit`` open; never raises: alone, a process counts its own."""
        ...

    def give_back(self, subject: str) -> None:
        """A stream that was taken has ended."""
        ...


class BookCache(Protocol):
    """The live books, shared between the pipeline's process and the serving ones. Losing it loses depth, not truth."""

    async def publish(self, books: Sequence[OrderBook]) -> None: ...

    async def get(self, market_id: str) -> OrderBook | None: ...
