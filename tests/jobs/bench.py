"""Stored quotes of a few markets, and workers as real processes on a database of the test's own."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from oddstream_server.application.ports import Decision
from oddstream_server.application.ports.backtests import NewRun
from oddstream_server.domain.backtest import BacktestSpec, Run, RunKind, StrategySelection, SweepSpec
from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.market import (
    Event,
    Market,
    MarketState,
    Outcome,
    PriceRange,
    Settlement,
    SettlementState,
    Venue,
)
from oddstream_server.domain.quote import Quote, SourceKind, TickSource
from oddstream_server.jobs.planning import Planner
from oddstream_server.storage.backtests.changes import RunChanges
from oddstream_server.storage.backtests.runs import RunRecords
from oddstream_server.storage.database import Database
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.strategies.registry import Registry

SECOND = 1_000_000
MINUTE = 60 * SECOND
T0 = 1_782_993_600_000_000  # 2026-07-02 12:00 UTC
SOURCE = TickSource(Venue.KALSHI, SourceKind.WEBSOCKET, "session/1")
MARKETS = 4
ROWS = 400


def market(number: int) -> Market:
    native = f"M{number}"
    return Market(
        f"kalshi:{native}",
        Venue.KALSHI,
        native,
        None,
        f"Market {number}",
        (Outcome(0, "Yes", native), Outcome(1, "No", native)),
        MarketState.OPEN,
        (PriceRange(0, 1_000_000, 10_000),),
        1_000_000,
        1_000_000,
        fee_schedules=(FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, rounding_step_micros=10_000),),
        settlement=Settlement(SettlementState.FINAL, 1_000_000 * (number % 2), 1, known_time_us=T0 + ROWS * MINUTE),
    )


def quotes(number: int, rows: int = ROWS) -> Iterator[Quote]:
    rng = random.Random(number)
    price = 50
    for row in range(rows):
        price = min(90, max(10, price + rng.choice((-1, 0, 0, 1)) + (50 - price) // 12 + 9 * (rng.random() < 0.03)))
        yield Quote(
            f"kalshi:M{number}",
            T0 + row * MINUTE + number,
            (price - 1) * 10_000,
            50_000_000,
            price * 10_000,
            50_000_000,
            SOURCE,
            row,
        )


@dataclass
class Bench:
    """A database with quotes, and its workers."""

    database: Database
    database_url: str
    folder: Path
    runs: RunRecords
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    made: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    """Of the workers, besides the settings."""
    traced: bool = True
    """Whether its processes count for coverage, which makes them twice as slow."""

    def settings(self, **more: str) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if self.traced or not name.startswith("COVERAGE_")},
            **self.environment,
            "ODDSTREAM_DATABASE_URL": self.database_url,
            "ODDSTREAM_REDIS_URL": "redis://127.0.0.1:1",
            "ODDSTREAM_DATA_DIR": str(self.folder / "data"),
            "ODDSTREAM_LOG_FILE": str(self.folder / "workers.jsonl"),
            **{f"ODDSTREAM_{name.upper()}": value for name, value in more.items()},
        }

    def start_worker(self, **settings: str) -> "subprocess.Popen[bytes]":
        self.made += 1
        worker = subprocess.Popen(
            [sys.executable, "-m", "oddstream_server", "worker", "--index", str(self.made)],
            env=self.settings(**settings),
            start_new_session=True,
        )
        self.workers.append(worker)
        return worker

    def alive(self) -> list["subprocess.Popen[bytes]"]:
        return [worker for worker in self.workers if worker.poll() is None]

    def spec(self, kind: str = "stat.mean_reversion", bankroll: int = 1_000_000_000) -> BacktestSpec:
        spec = BacktestSpec((StrategySelection(kind),), T0, T0 + ROWS * MINUTE, bankroll)
        return spec if kind.startswith("test.") else Planner(Registry()).check_backtest(spec)

    async def create(self, spec: BacktestSpec | SweepSpec, number: int = 0, sets: int = 1) -> Run:
        kind = RunKind.SWEEP if isinstance(spec, SweepSpec) else RunKind.BACKTEST
        run_id = f"{kind.id_prefix}_{'a' * 20}{number:04d}".translate(str.maketrans("0189", "bcde"))
        async with self.database.transaction() as transaction:
            return await RunChanges(transaction).create(
                NewRun(run_id, kind, "key_test", "", spec, sets, time.time_ns() // 1000), 1000
            )

    async def cancel(self, run_id: str) -> Run | None:
        async with self.database.transaction() as transaction:
            return await RunChanges(transaction).cancel(run_id, time.time_ns() // 1000)

    async def until(self, run_ids: list[str], done: Callable[[Run], bool], seconds: float) -> dict[str, Run]:
        deadline = time.monotonic() + seconds
        while True:
            found = dict(await self.runs.get_many(run_ids))
            if all(map(done, found.values())):
                return found
            left = [r.run_id for r in found.values() if not done(r)]
            assert time.monotonic() < deadline, f"still waiting for {len(left)} of {len(found)}:\n{self.log()}"
            await asyncio.sleep(0.1)

    def log(self) -> str:
        path = self.folder / "workers.jsonl"
        return path.read_text()[-3000:] if path.exists() else ""

    def stop(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


async def record(database: Database, numbers: Sequence[int] = range(MARKETS), events: Sequence[Event] = ()) -> None:
    """Store the markets with their quotes, as the pipeline does.

    :param events: of the markets that they name.
    """
    event_of = {market_id: event.event_id for event in events for market_id in event.market_ids}
    markets = [replace(m, event_id=event_of.get(m.market_id)) for m in map(market, numbers)]
    await CatalogStore(database).upsert(list(events), markets, T0)
    store = PostgresPipelineStore(database)
    lease = await store.acquire_lease("test", 60 * SECOND)
    assert lease is not None
    for number in numbers:
        await store.store_batch(lease, list(quotes(number)), lambda _: Decision())


def children_of(run_id: str) -> list[int]:
    """Processes that compute a run."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and run_id.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


async def gone(run_id: str, within: float = 2.0) -> float:
    """Waits until no process computes the run; answers the seconds that took.

    :param within: 2 s are promised after a cancel.
    """
    begun = time.monotonic()
    while children_of(run_id):
        assert time.monotonic() - begun < within, f"its process outlives {within:g} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


def finished(run: Run) -> bool:
    return run.state.finished


@asynccontextmanager
async def open_bench(database_url: str, folder: Path) -> AsyncIterator[Bench]:
    """Recorded quotes, and no worker yet."""
    database = Database(database_url)
    await record(database)
    made = Bench(database, database_url, folder, RunRecords(database))
    try:
        yield made
    finally:
        await asyncio.to_thread(made.stop)
        await database.close()
