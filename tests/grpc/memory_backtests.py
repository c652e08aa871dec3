"""Runs in memory, for tests of BacktestService above storage."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from oddstream_server.application.backtests import Backtests
from oddstream_server.application.calls.mutations import Mutations
from oddstream_server.application.ports import Page
from oddstream_server.application.ports.backtests import NewRun
from oddstream_server.application.secrets.sealing import Sealer
from oddstream_server.domain.backtest import MarketSelection, Run, RunProgress, RunState
from oddstream_server.feed.runs import RunFeed
from oddstream_server.feed.streams import StreamRegistry
from oddstream_server.jobs.planning import Planner
from oddstream_server.strategies.registry import Registry
from oddstream_server.transport.backtest_service import BacktestService


def now_us() -> int:
    return time.time_ns() // 1000


@dataclass
class MemoryRuns:
    """Nobody computes them."""

    runs: dict[str, Run] = field(default_factory=dict)

    async def create(self, new: NewRun, quota: int) -> Run:
        self.runs[new.run_id] = Run(
            new.run_id, new.kind, new.owner, new.display_name, new.spec, RunState.QUEUED, 0, RunProgress(),
            new.create_time_us, set_count=new.set_count, revision=1, create_number=len(self.runs) + 1,
        )  # fmt: skip
        return self.runs[new.run_id]

    async def get(self, run_id: str) -> Run | None:
        return self.runs.get(run_id)

    async def get_many(self, run_ids: Sequence[str]) -> Mapping[str, Run]:
        return {run_id: self.runs[run_id] for run_id in run_ids if run_id in self.runs}

    async def list_runs(self, kind: object, where: object, after: object, limit: int) -> Page[Run]:
        return Page(tuple(self.runs.values()), None)

    async def cancel(self, run_id: str, now_us: int) -> Run | None:
        return self.runs.get(run_id)

    async def delete(self, run_id: str) -> bool:
        return self.runs.pop(run_id, None) is None

    async def result(self, run_id: str) -> None:
        return None


class NoRecords:
    """Of requests and of the audit log: nothing is found and nothing is kept."""

    async def find(self, *_args: object) -> None: ...

    async def claim(self, *_args: object) -> None: ...

    async def answer(self, *_args: object) -> None: ...

    async def append(self, *_args: object) -> None: ...


@dataclass
class MemoryChanges:
    runs: MemoryRuns

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Any]:
        yield SimpleNamespace(requests=NoRecords(), audit=NoRecords(), backtests=self.runs)


class MemoryRecorded:
    """Everything is known and has rows."""

    async def unknown_ids(self, markets: MarketSelection) -> tuple[Sequence[str], Sequence[str]]:
        return (), ()

    async def has_rows(self, *_args: object, **_named: object) -> bool:
        return True


def memory_backtest_service() -> BacktestService:
    store: Any = MemoryRuns()
    recorded: Any = MemoryRecorded()
    backtests = Backtests(store, recorded, Planner(Registry()), quota=20)
    changes: Any = MemoryChanges(store)
    mutations = Mutations(changes, Sealer({1: b"d" * 32}), now_us)
    return BacktestService(backtests, RunFeed(store, StreamRegistry(now_us)), now_us, mutations)
