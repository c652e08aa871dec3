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

    async def take(self, bucket: str, cost: int, per_minute: int, burst: int) -> LimitDecision:
        """GCRA on shared time; never raises: without the shared store a local bucket answers."""
        ...


class BookCache(Protocol):
    """The live books, shared between the pipeline's process and the serving ones. Losing it loses depth, not truth."""

    async def publish(self, books: Sequence[OrderBook]) -> None: ...

    async def get(self, market_id: str) -> OrderBook | None: ...
