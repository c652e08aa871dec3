"""The listener: a connection of its own that hears of every commit, and that finds out when it went deaf."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import asyncpg

from oddstream_server.storage.connector import Connector

CHANNEL = "oddstream"
"""The one channel of NOTIFY; the payload names what was committed."""

KINDS = ("signals", "quotes", "feed", "keys", "backtests")


class WakeUps:
    """Calls ``on_wake(kind)`` for each commit, and for every kind after each (re)connect, since some may be missed.

    It can't listen through a transaction pooler: give it the server's own address.

    :param ping_seconds: a connection that answers no ping for as long again is given up.
    """

    def __init__(self, connector: Connector, on_wake: Callable[[str], None], *, ping_seconds: float = 5.0) -> None:
        self._connector = connector
        self._on_wake = on_wake
        self._ping_seconds = ping_seconds

    async def run(self) -> None:
        """Listen until cancelled."""
        failures = 0
        while True:
            try:
                connection = await self._connector.connect(
                    timeout=5, server_settings={"application_name": "oddstream listener"}
                )
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                failures += 1
                await asyncio.sleep(random.uniform(0.5, 1) * min(2.0, 0.05 * 2**failures))  # noqa: S311  # jitter
                continue
            failures = 0
            try:
                await self._listen(connection)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                continue
            finally:
                connection.terminate()

    async def _listen(self, connection: "asyncpg.Connection[Any]") -> None:
        gone = asyncio.Event()
        connection.add_termination_listener(lambda _connection: gone.set())
        await connection.add_listener(CHANNEL, self._heard)
        for kind in KINDS:
            self._on_wake(kind)
        while True:
            try:
                async with asyncio.timeout(self._ping_seconds):
                    await gone.wait()
                return
            except TimeoutError:
                if self._connector.expired(connection):
                    return
                await connection.execute("SELECT 1", timeout=self._ping_seconds)

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._on_wake(str(payload))
