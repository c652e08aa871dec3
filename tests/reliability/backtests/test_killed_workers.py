"""kill -9 of workers and of their children, again and again, while backtests and sweeps are computed."""

import asyncio
import os
import random
import secrets
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from oddstream_server.domain.backtest import (
    BacktestResult,
    BacktestSpec,
    ParameterForm,
    ParameterValue,
    RunState,
    SweepResult,
    SweepSpec,
    SweptParameter,
)
from oddstream_server.jobs.planning import Planner
from oddstream_server.strategies.registry import Registry
from tests.jobs.bench import Bench, children_of, finished
from tests.reliability.streams.processes import drill

pytestmark = pytest.mark.timeout(1_500)

SETTINGS = {"backtest_shard_rows": "1000", "backtest_maximum_attempts": "1000"}
SETS = 3


@dataclass(frozen=True)
class Work:
    spec: BacktestSpec | SweepSpec
    sets: int = 1


def specs(bench: Bench) -> list[Work]:
    """Runs whose results differ, so that no result can pass for another's."""
    values = tuple(ParameterValue(ParameterForm.MICROS, v) for v in (1_500_000, 2_000_000, 2_500_000))
    sweep, sets = Planner(Registry()).check_sweep(SweepSpec(bench.spec(), (SweptParameter("z_enter_ppm", values),)))
    assert sets == SETS
    return [Work(bench.spec()), Work(bench.spec(bankroll=700_000_000)), Work(sweep, sets)][: drill(2, 3)]


async def hash_of(bench: Bench, run_id: str) -> str:
    result = await bench.runs.result(run_id)
    assert isinstance(result, BacktestResult | SweepResult)
    return result.result_hash


async def complaints_about_rows(bench: Bench, run_id: str) -> list[str]:
    """What the tables hold of a backtest that isn't exactly one result."""
    result = await bench.runs.result(run_id)
    assert isinstance(result, BacktestResult)
    async with bench.database.reading() as transaction:
        count, profit, curves = await transaction.driver.fetchrow(
            "SELECT count(*), coalesce(sum(profit_micros), 0)::bigint, "
            "(SELECT count(*) FROM backtest_curves WHERE run_id = $1) FROM backtest_trades WHERE run_id = $1",
            run_id,
        )
    wanted = (result.metrics.trade_count, result.metrics.profit_micros, 1)
    return [] if (count, profit, curves) == wanted else [f"{run_id}: {(count, profit, curves)}, not {wanted}"]


async def until_the_queue_is_empty(bench: Bench) -> None:
    """A worker puts its job away a moment after the run has ended."""
    left: list[Any] = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        async with bench.database.reading() as transaction:
            left = await transaction.driver.fetch(
                "SELECT id, status, attempts FROM procrastinate_jobs WHERE status IN ('todo', 'doing', 'failed')"
            )
        if not left:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(left)


async def one_at_work(bench: Bench, run_ids: list[str], rng: random.Random) -> "subprocess.Popen[bytes]":
    """A worker with a child."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        children = [pid for run_id in run_ids for pid in children_of(run_id)]
        parents = {parent_of(pid) for pid in children}
        working = [worker for worker in bench.alive() if worker.pid in parents]
        if working:
            return rng.choice(working)
        assert not all(map(finished, (await bench.runs.get_many(run_ids)).values())), "too late to disturb anything"
        await asyncio.sleep(0.02)
    raise AssertionError("no worker has begun")


def parent_of(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


async def test_each_run_ends_with_the_one_result_of_an_undisturbed_run_while_workers_are_killed(bench: Bench) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    bench.start_worker(**SETTINGS)
    kinds = specs(bench)
    calm = [await bench.create(work.spec, number, work.sets) for number, work in enumerate(kinds)]
    await bench.until([run.run_id for run in calm], finished, 200)
    wanted = [await hash_of(bench, run.run_id) for run in calm]
    assert len(set(wanted)) == len(kinds)

    bench.start_worker(**SETTINGS)
    works = [kinds[-1 if n % 7 == 6 else n % 2] for n in range(drill(8, 50))]
    runs = [(await bench.create(work.spec, 100 + n, work.sets)).run_id for n, work in enumerate(works)]
    kills = drill(3, 20)
    for kill in range(kills):
        victim = await one_at_work(bench, runs, rng)
        await asyncio.sleep(rng.uniform(0.0, 1.5))
        victim.kill()
        await asyncio.to_thread(victim.wait)
        bench.start_worker(**SETTINGS)
        if kill % 4 == 1:  # a child dies by itself too, as it does when the machine runs out of memory
            for pid in [pid for run_id in runs for pid in children_of(run_id)][:1]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    found = await bench.until(runs, finished, 900)
    backtests = [run_id for run_id, work in zip(runs, works, strict=True) if work.sets == 1]
    attempts = [run.attempt for run in found.values()]
    print(f"{kills} kills, attempts {sorted(attempts, reverse=True)[:20]}")
    assert {run.state for run in found.values()} == {RunState.SUCCEEDED}
    assert sum(attempts) > len(runs), "no run was disturbed"
    assert [await hash_of(bench, run_id) for run_id in runs] == [wanted[kinds.index(work)] for work in works]
    assert [c for run_id in backtests for c in await complaints_about_rows(bench, run_id)] == []
    await until_the_queue_is_empty(bench)
    # all read the same rows: each run counted once as a trial of them, each set of a sweep too
    results = [await bench.runs.result(run.run_id) for run in (*calm, *found.values())]
    counted = sorted(r.trial_count for r in results if r is not None)
    assert counted[-1] == sum(work.sets for work in (*kinds, *works))
    assert len(set(counted)) == len(counted)
