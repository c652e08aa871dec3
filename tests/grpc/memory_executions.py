"""Executions in memory, for tests above storage: every change is kept, and nothing is ever undone."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from oddstream_server.application.ports import ExecutionFilter, Key, Page, TrackRecordQuery
from oddstream_server.domain.execution import Execution
from oddstream_server.domain.market import Market
from oddstream_server.domain.signal import Signal
from oddstream_server.domain.track_record import Figures, TrackRecord
from tests.grpc.memory_backtests import NoRecords
from tests.grpc.memory_ports import MemorySignals, keyed_page


@dataclass
class MemoryExecutions:
    stored: dict[str, Execution] = field(default_factory=dict)

    async def list_executions(self, where: ExecutionFilter, after: Key | None, limit: int) -> Page[Execution]:
        rows = [e for e in self.stored.values() if not where.owners or e.owner in where.owners]
        return keyed_page(rows, lambda e: (-e.create_time_us, e.execution_id), after, limit)


class NoOutcomes:
    """No signal was ever made."""

    async def track_record(self, query: TrackRecordQuery, now_us: int) -> TrackRecord:
        return TrackRecord(query.strategy_id, query.kind_version, Figures(), (), None, None, now_us)


@dataclass
class MemoryChanges:
    """Changes of executions on the markets and signals of a test."""

    executions: MemoryExecutions
    markets: Callable[[Sequence[str]], Awaitable[Mapping[str, Market]]]
    known_signals: MemorySignals

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Any]:
        yield SimpleNamespace(requests=NoRecords(), audit=NoRecords(), executions=self)

    async def signals(self, signal_ids: Sequence[str]) -> Mapping[str, Signal]:
        known = self.known_signals.signals
        return {signal_id: known[signal_id].signal for signal_id in signal_ids if signal_id in known}

    async def add(self, executions: Sequence[Execution]) -> Mapping[str, Execution]:
        stored = self.executions.stored
        before = {e.execution_id: stored[e.execution_id] for e in executions if e.execution_id in stored}
        stored.update({e.execution_id: e for e in executions if e.execution_id not in before})
        return before
