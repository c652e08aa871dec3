"""Time and health."""

from collections.abc import Awaitable, Callable

Clock = Callable[[], int]
"""Now, in microseconds since the epoch."""

HealthProbe = Callable[[], Awaitable[bool]]
