"""Strategies of packages that loop for ever, eat memory, raise or crash: each alone pays for it."""

import asyncio
import signal

import pytest

from oddstream_server.domain.backtest import BacktestResult, RunState
from tests.jobs.bench import Bench, children_of, finished, gone
from tests.reliability.streams.processes import drill

pytestmark = pytest.mark.timeout(900)

LIMITS = {"backtest_memory_mib": "700", "backtest_cpu_seconds": "10", "backtest_maximum_attempts": "2"}
WRONG = {
    "test.endless": ("BACKTEST_LIMIT_EXCEEDED", "10 s of processor time"),
    "test.hungry": ("BACKTEST_LIMIT_EXCEEDED", "700 MiB of memory"),
    "test.raising": ("STRATEGY_FAILED", "strategy test.raising raised ValueError"),
    "test.dividing": ("STRATEGY_FAILED", "strategy test.dividing raised ZeroDivisionError"),
    "test.crashing": ("BACKTEST_WORKER_LOST", "lost 2 times"),
}
"""Why each fails, and what its message says."""


async def hash_of(bench: Bench, run_id: str) -> str:
    result = await bench.runs.result(run_id)
    assert isinstance(result, BacktestResult)
    return result.result_hash


async def an_undisturbed_run(bench: Bench) -> str:
    """Its result hash; the engine's loops are compiled then, which alone may take longer than the limits below."""
    worker = bench.start_worker()
    run = await bench.create(bench.spec(), 2_000)
    await bench.until([run.run_id], finished, 200)
    worker.send_signal(signal.SIGTERM)
    await asyncio.to_thread(worker.wait)
    return await hash_of(bench, run.run_id)


async def test_a_strategy_that_misbehaves_fails_with_its_reason_and_others_get_their_results(bench: Bench) -> None:
    calm = await an_undisturbed_run(bench)
    for _ in range(2):
        bench.start_worker(**LIMITS)
    kinds = list(WRONG) * drill(1, 4)
    bad, good = [], []
    for number, kind in enumerate(kinds):
        bad.append(await bench.create(bench.spec(kind), number))
        if number % drill(5, 2) == 1:
            good.append(await bench.create(bench.spec(), 1_000 + number))
    found = await bench.until([run.run_id for run in (*bad, *good)], finished, 800)
    for run in bad:
        ended, kind = found[run.run_id], run.base.strategies[0].kind
        reason, words = WRONG[kind]
        assert ended.error is not None, kind
        assert (ended.state, ended.error.reason) == (RunState.FAILED, reason), (kind, ended.error)
        assert words in ended.error.message
        assert "no caller may read" not in ended.error.message
        assert await bench.runs.result(run.run_id) is None
        await gone(run.run_id, within=30)  # one that fails by itself ends at its own pace
    assert {found[run.run_id].state for run in good} == {RunState.SUCCEEDED}
    assert {await hash_of(bench, run.run_id) for run in good} == {calm}
    assert len(bench.alive()) == 2


async def test_a_cancelled_backtest_has_no_process_two_seconds_later(bench: Bench) -> None:
    bench.start_worker()
    for number in range(drill(2, 10)):
        run = await bench.create(bench.spec("test.endless"), number)
        async with asyncio.timeout(60):
            while not children_of(run.run_id):
                await asyncio.sleep(0.01)
        if number % 2:  # else while the child is about to begin
            await bench.until([run.run_id], lambda r: r.progress.stage == "computing", 60)
        cancelled = await bench.cancel(run.run_id)
        print(f"gone after {await gone(run.run_id):.2f} s")
        assert cancelled is not None
        assert cancelled.state is RunState.CANCELLED
        assert await bench.cancel(run.run_id) == cancelled
        assert await bench.runs.get(run.run_id) == cancelled
