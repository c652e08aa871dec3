"""A token bucket on our side of a venue's rate limit, so that its 429s stay an exception."""

import asyncio
import time
from collections.abc import Awaitable, Callable


class TokenBucket:
    """Tokens refill steadily up to a burst; :meth:`take` waits for its turn, first come first served.

    :param rate_per_s: tokens a second.
    :param burst: tokens that may be spent at once.
    """

    def __init__(
        self,
        rate_per_s: float,
        burst: float,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if rate_per_s <= 0 or burst <= 0:
            raise ValueError("rate_per_s and burst must be greater than 0")
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._monotonic = monotonic
        self._sleep = sleep
        self._tokens = burst
        self._counted_at = monotonic()
        self._turn = asyncio.Lock()

    async def take(self, tokens: float) -> None:
        """Wait until ``tokens`` can be spent (at most the burst is asked for), then spend them."""
        tokens = min(tokens, self._burst)
        async with self._turn:
            self._refill()
            while self._tokens < tokens:
                await self._sleep((tokens - self._tokens) / self._rate_per_s)
                self._refill()
            self._tokens -= tokens

    def drain(self) -> None:
        """The venue said that the budget is spent: start again from nothing."""
        self._refill()
        self._tokens = min(self._tokens, 0.0)

    def _refill(self) -> None:
        now = self._monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._counted_at) * self._rate_per_s)
        self._counted_at = now
