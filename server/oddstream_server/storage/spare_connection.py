"""A connection that stays out of the pool between reads that follow each other closely."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

KEPT_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class HeldConnection:
    """Out of the pool, by its two names."""

    pooled: AsyncConnection
    driver: "asyncpg.Connection[Any]"
    used_at: float = 0.0
    timer: asyncio.TimerHandle | None = None


class SpareConnection:
    """Out of the pool's books and back costs two tasks and two greenlets, which is more than a read by key itself.

    :param good: whether a connection may still be used.
    :param give_back: takes one back into the pool that was not used for a while, or is no longer good.
    """

    def __init__(
        self, good: "Callable[[asyncpg.Connection[Any]], bool]", give_back: Callable[[AsyncConnection, bool], None]
    ) -> None:
        self._good = good
        self._give_back = give_back
        self._held: HeldConnection | None = None

    @property
    def at_hand(self) -> bool:
        return self._held is not None

    def take(self) -> HeldConnection | None:
        """None where there is none, or a read has it."""
        held, self._held = self._held, None
        if held is not None and not self._good(held.driver):
            self._give_back(held.pooled, False)
            return None
        return held

    def keep(self, held: HeldConnection) -> None:
        """Until it wasn't used for a second or so. Only where none is at hand."""
        held.used_at = time.monotonic()
        self._held = held
        if held.timer is None:  # it stays when the next read takes the connection: a timer for each would cost more
            held.timer = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._look, held)

    def _look(self, held: HeldConnection) -> None:
        held.timer = None
        if self._held is not held:
            return  # a read has it, and sets the timer again
        if time.monotonic() - held.used_at < KEPT_SECONDS / 2:
            held.timer = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._look, held)
            return
        self._held = None
        self._give_back(held.pooled, True)
