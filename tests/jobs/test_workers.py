"""Workers as real processes: results, cancels, limits, and deaths."""

import asyncio
import os
import random
import signal
from dataclasses import replace
from pathlib import Path

from oddstream_server.domain.backtest import (
    BacktestResult,
    ParameterForm,
    ParameterValue,
    Run,
    RunState,
    SweepResult,
    SweepSpec,
    SweptParameter,
)
from oddstream_server.jobs.planning import Planner
from oddstream_server.strategies.registry import Registry
from tests.jobs.conftest import Bench


def finished(run: Run) -> bool:
    return run.state.finished


def children_of(run_id: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and run_id.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


async def result_hash(bench: Bench, run_id: str) -> str:
    result = await bench.runs.result(run_id)
    assert isinstance(result, BacktestResult | SweepResult)
    return result.result_hash


async def test_a_backtest_ends_with_a_result_its_trades_and_its_curve(bench: Bench) -> None:
    bench.start_worker()
    run = await bench.create(bench.spec())
    found = (await bench.until([run.run_id], finished, 100))[run.run_id]
    assert (found.state, found.attempt, found.error) == (RunState.SUCCEEDED, 1, None)
    result = await bench.runs.result(run.run_id)
    assert isinstance(result, BacktestResult)
    assert result.metrics.trade_count > 0
    trades = await bench.runs.list_trades(run.run_id, where(), None, 1000)
    assert len(trades.items) == result.metrics.trade_count
    assert sum(t.profit_micros for t in trades.items) == result.metrics.profit_micros
    curve = await bench.runs.curve(run.run_id)
    assert curve[-1].equity_micros == result.final_equity_micros
    again = await bench.create(bench.spec(), 1)
    await bench.until([again.run_id], finished, 60)
    assert await result_hash(bench, again.run_id) == result.result_hash
    repeated = await bench.runs.result(again.run_id)
    assert repeated is not None
    assert (result.trial_count, repeated.trial_count) == (1, 2)


def where():  # type: ignore[no-untyped-def]  # an empty filter
    from oddstream_server.domain.backtest import BlotterFilter

    return BlotterFilter()


async def test_a_sweep_over_shards_gives_the_hash_of_one_over_a_single_shard(bench: Bench) -> None:
    values = tuple(ParameterValue(ParameterForm.MICROS, v) for v in (1_500_000, 2_000_000, 2_500_000))
    spec, sets = Planner(Registry()).check_sweep(SweepSpec(bench.spec(), (SweptParameter("z_enter_ppm", values),)))
    hashes = []
    for number, rows in enumerate(("1000", "1000000")):
        worker = bench.start_worker(backtest_shard_rows=rows)
        run = await bench.create(spec, number, sets)
        found = (await bench.until([run.run_id], finished, 100))[run.run_id]
        assert found.state is RunState.SUCCEEDED, found.error
        hashes.append(await result_hash(bench, run.run_id))
        assert found.progress.total_shard_count == (2 if rows == "1000" else 1)
        worker.send_signal(signal.SIGTERM)
        await asyncio.to_thread(worker.wait)
    assert hashes[0] == hashes[1]


async def test_a_cancelled_backtest_has_no_process_two_seconds_later(bench: Bench) -> None:
    bench.start_worker(backtest_shard_rows="1000")
    for number in range(3):
        run = await bench.create(bench.spec(), number)
        await bench.until([run.run_id], lambda r: r.state is not RunState.QUEUED, 60)
        cancelled = await bench.cancel(run.run_id)
        assert cancelled is not None
        again = await bench.cancel(run.run_id)
        assert again == cancelled
        await asyncio.sleep(2)
        assert children_of(run.run_id) == []
        kept = await bench.runs.get(run.run_id)
        assert kept == cancelled


async def test_backtests_survive_workers_that_are_killed(bench: Bench) -> None:
    rng = random.Random(20260702)
    bench.start_worker()
    calm = await bench.create(replace(bench.spec()), 100)
    await bench.until([calm.run_id], finished, 100)
    wanted = await result_hash(bench, calm.run_id)
    bench.start_worker()
    runs = [(await bench.create(bench.spec(), number)).run_id for number in range(10)]
    kills = 0
    while kills < 5:
        found = await bench.runs.get_many(runs)
        if all(map(finished, found.values())):
            break
        await asyncio.sleep(rng.uniform(0.3, 1.2))
        victim = rng.choice([w for w in bench.workers if w.poll() is None])
        os.kill(victim.pid, signal.SIGKILL)
        await asyncio.to_thread(victim.wait)
        kills += 1
        bench.start_worker()
    assert kills >= 3, "the test has to disturb"
    found = await bench.until(runs, finished, 110)
    assert {r.state for r in found.values()} == {RunState.SUCCEEDED}
    assert {await result_hash(bench, run_id) for run_id in runs} == {wanted}


async def test_a_job_over_its_memory_or_processor_time_fails_with_the_reason_and_the_next_one_runs(
    bench: Bench,
) -> None:
    worker = bench.start_worker(backtest_memory_mib="128")
    hungry = await bench.create(bench.spec(), 1)
    found = (await bench.until([hungry.run_id], finished, 60))[hungry.run_id]
    assert found.error is not None
    assert (found.state, found.error.reason) == (RunState.FAILED, "BACKTEST_LIMIT_EXCEEDED")
    assert "128 MiB of memory" in found.error.message
    worker.send_signal(signal.SIGTERM)
    await asyncio.to_thread(worker.wait)
    bench.start_worker(backtest_cpu_seconds="0.3")
    endless = await bench.create(bench.spec(), 2)
    found = (await bench.until([endless.run_id], finished, 60))[endless.run_id]
    assert found.error is not None
    assert (found.state, found.error.reason) == (RunState.FAILED, "BACKTEST_LIMIT_EXCEEDED")
    assert "processor time" in found.error.message


async def test_a_worker_of_an_older_attempt_writes_nothing(bench: Bench) -> None:
    from oddstream_server.domain.backtest import RunError, RunProgress
    from oddstream_server.storage.backtests.work import RunWorkRecords

    work = RunWorkRecords(bench.database)
    run = await bench.create(bench.spec())
    first = await work.claim(run.run_id, 1, 10)
    second = await work.claim(run.run_id, 2, 10)
    assert first is not None
    assert second is not None
    assert (first.attempt, second.attempt) == (1, 2)
    assert not await work.advance(run.run_id, 1, RunProgress(stage="late"))
    assert not await work.fail(run.run_id, 1, RunError("INTERNAL", "late"), 3)
    assert await work.advance(run.run_id, 2, RunProgress(stage="now"))
    kept = await bench.runs.get(run.run_id)
    assert kept is not None
    assert (kept.state, kept.progress.stage) == (RunState.RUNNING, "now")
