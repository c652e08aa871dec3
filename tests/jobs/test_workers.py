"""Workers as real processes: results, shards, and attempts. Deaths, limits and cancels: tests/reliability/backtests."""

import time

from oddstream_server.domain.backtest import (
    BacktestResult,
    BlotterFilter,
    ParameterForm,
    ParameterValue,
    RunState,
    SweepResult,
    SweepSpec,
    SweptParameter,
)
from oddstream_server.jobs.computing import Computation
from oddstream_server.jobs.planning import Planner
from oddstream_server.storage.backtests.recorded import RecordedRows
from oddstream_server.storage.backtests.shards import SweepWorkRecords
from oddstream_server.strategies.registry import Registry
from tests.jobs.bench import Bench, finished


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
    trades = await bench.runs.list_trades(run.run_id, BlotterFilter(), None, 1000)
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


async def test_a_sweep_over_shards_gives_the_hash_of_one_over_a_single_shard(bench: Bench) -> None:
    """Step by step as children do it, without their processes."""
    values = tuple(ParameterValue(ParameterForm.MICROS, v) for v in (1_500_000, 2_000_000, 2_500_000))
    planner, work = Planner(Registry()), SweepWorkRecords(bench.database)
    spec, sets = planner.check_sweep(SweepSpec(bench.spec(), (SweptParameter("z_enter_ppm", values),)))
    hashes = []
    for number, (shard_rows, shards) in enumerate(((1_000, 2), (1_000_000, 1))):
        data = RecordedRows(bench.database, bench.folder)
        computation = Computation(work, data, planner, lambda: time.time_ns() // 1000, shard_rows)
        made = await bench.create(spec, number, sets)
        run = await work.claim(made.run_id, 1, 10)
        assert run is not None
        await computation.plan_sweep(run)
        for shard_number in range(1, shards + 1):
            claimed = await work.claim_shard(run.run_id, shard_number)
            assert claimed is not None
            await computation.sweep_shard(claimed)
        assert await work.claim_shard(run.run_id, shards + 1) is None
        run = await work.claim(made.run_id, 2, 10)
        assert run is not None
        await computation.judge_sweep(run)
        ended = await bench.runs.get(made.run_id)
        assert ended is not None
        assert (ended.state, ended.progress.total_shard_count) == (RunState.SUCCEEDED, shards)
        hashes.append(await result_hash(bench, made.run_id))
    assert hashes[0] == hashes[1]


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
