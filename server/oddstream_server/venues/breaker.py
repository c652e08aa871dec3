"""A circuit breaker: after enough failures in a row the venue is left alone for a while, then asked by one request.

Kept here because the published ones let every waiting request through at once while half open and read the wall
clock, which a test can't turn.
"""

import time
from collections.abc import Callable
from enum import StrEnum


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Counts failures of one venue. Ask :meth:`admit` before a request and tell how it ended after it.

    :param threshold: failures in a row that open it.
    :param rest_s: seconds for which it stays open.
    """

    def __init__(self, threshold: int, rest_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        if threshold < 1:
            raise ValueError(f"threshold must be at least 1, got {threshold}")
        self._threshold = threshold
        self._rest_s = rest_s
        self._monotonic = monotonic
        self._failures = 0
        self._opened_at: float | None = None
        self._probing_since: float | None = None

    @property
    def state(self) -> BreakerState:
        if self._opened_at is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self.retry_after_s() <= 0 else BreakerState.OPEN

    def retry_after_s(self) -> float:
        """Seconds until the next request may be tried; 0 or less where one may be now."""
        return 0.0 if self._opened_at is None else self._opened_at + self._rest_s - self._monotonic()

    def admit(self) -> bool:
        """True when a request may go out. While half open that is one; a probe that never ends is given up."""
        state = self.state
        if state is BreakerState.CLOSED:
            return True
        if state is BreakerState.OPEN:
            return False
        now = self._monotonic()
        if self._probing_since is not None and now - self._probing_since < self._rest_s:
            return False
        self._probing_since = now
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._opened_at = None
        self._probing_since = None

    def failed(self) -> None:
        self._failures += 1
        if self._opened_at is not None or self._failures >= self._threshold:
            self._opened_at = self._monotonic()
            self._probing_since = None

    def abandoned(self) -> None:
        """The request ended without an answer about the venue (it was cancelled): the next one may probe."""
        self._probing_since = None
