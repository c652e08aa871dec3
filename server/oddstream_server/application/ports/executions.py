"""Executions: stored once for each fill of a venue, read by their owners."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from oddstream_server.application.ports.pages import Key, Page
from oddstream_server.domain.execution import Execution
from oddstream_server.domain.market import Market, Venue
from oddstream_server.domain.signal import Signal


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """AND between fields, OR inside one; empty means any."""

    venues: tuple[Venue, ...] = ()
    market_ids: tuple[str, ...] = ()
    signal_ids: tuple[str, ...] = ()
    strategy_ids: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    venue_time_from_us: int | None = None
    venue_time_to_us: int | None = None


class ExecutionRecords(Protocol):
    """Executions within a change, and what they are checked against."""

    async def markets(self, market_ids: Sequence[str]) -> Mapping[str, Market]:
        """Those that are known."""
        ...

    async def signals(self, signal_ids: Sequence[str]) -> Mapping[str, Signal]:
        """Those that are known."""
        ...

    async def add(self, executions: Sequence[Execution]) -> Mapping[str, Execution]:
        """Store what isn't there yet; answers, by execution id, what was there before.

        Waits for another change that stores one of them.
        """
        ...

    async def forget_orders(self, owners: Sequence[str]) -> None:
        """Blank the order ids of some owners' executions; the fills stay as records of transactions."""
        ...


class ExecutionStore(Protocol):
    async def list_executions(self, where: ExecutionFilter, after: Key | None, limit: int) -> Page[Execution]:
        """By descending create time."""
        ...
