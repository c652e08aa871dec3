"""What a job's child process does: one backtest, or one step of a sweep; everything that it writes is fenced.

Reading and writing are the event loop's, the engine runs in a thread, so that a long shard delays no write.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

import structlog

from oddstream_server.application.ports.backtests import ClaimedShard, RecordedData, RunWork, ShardPlan
from oddstream_server.application.ports.clock import Clock
from oddstream_server.backtesting.engine import conclude
from oddstream_server.backtesting.records.universe import Universe
from oddstream_server.backtesting.shards import ShardResult, merge, run_shard
from oddstream_server.backtesting.sweeps import SweepConfig, conclude_sweep, judge_set, run_sweep_shard
from oddstream_server.domain.backtest import BacktestSpec, Run, RunError, RunProgress, SweepSpec
from oddstream_server.domain.errors import FailedPrecondition, InvalidArgument, OddstreamError, Unavailable
from oddstream_server.jobs.outcomes import backtest_result, blotter_rows, curve_columns, sweep_result
from oddstream_server.jobs.planning import Planner
from oddstream_server.jobs.reading import FrozenMarkets, RunData, find_data, read_shard

log = structlog.get_logger()
_T = TypeVar("_T")

PARTS_AT_ONCE: Final = 16
_PARTS_BYTES: Final = 32 * 1024 * 1024


class LostRun(Exception):
    """The run was cancelled, or another attempt has it: whatever is written now would be refused."""


class Computation:
    """:param shard_rows: about how many rows a shard has: the memory of a run is bounded by it."""

    def __init__(self, work: RunWork, data: RecordedData, planner: Planner, clock: Clock, shard_rows: int) -> None:
        self._work = work
        self._data = data
        self._planner = planner
        self._clock = clock
        self._shard_rows = shard_rows

    async def backtest(self, run: Run) -> None:
        """:raises LostRun: at the next write after it was lost."""
        assert isinstance(run.spec, BacktestSpec)
        config = self._planner.backtest_config(run.spec)
        progress = _Progress(self._work, run, self._clock)
        await progress.tell("counting rows")
        found = await self._found(run.spec)
        progress.cut(found.row_counts)
        results: list[ShardResult] = []
        for number, shard in enumerate(found.shards):
            await progress.tell("computing")
            rows = await read_shard(self._data, found, shard)
            results.append(await asyncio.to_thread(run_shard, config, found.universe, rows))
            progress.done(number)
        await progress.tell("judging")
        outcome = await asyncio.to_thread(lambda: conclude(config, found.universe, merge(found.universe, results)))
        kept = await self._work.finish_backtest(
            run.run_id,
            run.attempt,
            await asyncio.to_thread(backtest_result, outcome),
            list(blotter_rows(outcome)),
            curve_columns(outcome),
            self._clock(),
        )
        _still_ours(kept)

    async def plan_sweep(self, run: Run) -> None:
        """Cut a sweep into shards and freeze what they share."""
        assert isinstance(run.spec, SweepSpec)
        found = await self._found(run.spec.base)
        shards = [
            ShardPlan(number, tuple(found.market_ids(shard)), rows)
            for number, (shard, rows) in enumerate(zip(found.shards, found.row_counts, strict=True), start=1)
        ]
        frozen = FrozenMarkets.of(found.universe).to_bytes()
        _still_ours(await self._work.plan_shards(run.run_id, run.attempt, shards, frozen))

    async def sweep_shard(self, claimed: ClaimedShard) -> None:
        """Compute the sets of one shard that no earlier attempt has kept."""
        run, plan = claimed.run, claimed.plan
        config, universe = await self._sweep(run)
        spec = run.base
        first_us = max(spec.start_us - self._planner.warm_up_us(spec), 0)
        shard = tuple(universe.index_of(market_id) for market_id in plan.market_ids)
        found = RunData(universe, (shard,), (plan.row_count,), first_us, spec.end_us)
        rows = await read_shard(self._data, found, shard)
        wanted = [n for n in range(1, run.set_count + 1) if n not in claimed.done_sets]
        numbered = run_sweep_shard(config, universe, rows, wanted)
        while parts := await asyncio.to_thread(_take, numbered):
            _still_ours(await self._work.store_parts(run.run_id, plan.shard_number, claimed.attempt, parts))
        _still_ours(await self._work.finish_shard(run.run_id, plan.shard_number, claimed.attempt))

    async def judge_sweep(self, run: Run) -> None:
        """Put the parts of each set together, and say what the sets say together."""
        config, universe = await self._sweep(run)
        judged, input_digest = [], ""
        for number in range(1, run.set_count + 1):
            parts = [ShardResult.from_bytes(part) for part in await self._work.parts(run.run_id, number)]
            if not parts:
                raise LostRun
            if number == 1:
                input_digest = (await asyncio.to_thread(merge, universe, parts)).input_digest
            judged.append(await asyncio.to_thread(judge_set, config, universe, number, parts))
        trials = await self._work.trials(input_digest) + run.set_count
        result = sweep_result(config, await asyncio.to_thread(conclude_sweep, config, judged, trials), input_digest)
        _still_ours(await self._work.finish_sweep(run.run_id, run.attempt, result, self._clock()))

    async def _found(self, spec: BacktestSpec) -> RunData:
        return await find_data(self._data, spec, self._planner.warm_up_us(spec), self._shard_rows)

    async def _sweep(self, run: Run) -> tuple[SweepConfig, Universe]:
        assert isinstance(run.spec, SweepSpec)
        frozen = await self._work.frozen(run.run_id)
        if frozen is None:
            raise LostRun
        return self._planner.sweep_config(run.spec), FrozenMarkets.from_bytes(frozen)


async def guarded(work: Callable[[], Awaitable[None]]) -> RunError | None:
    """Run a computation; answers why it failed where its failure is the run's own.

    :raises Unavailable: something that we depend on is away; the run may be tried again.
    """
    try:
        await work()
    except LostRun:
        log.info("the run was cancelled or taken over; nothing was written")
    except Unavailable:
        raise
    except MemoryError:
        return RunError(
            "BACKTEST_LIMIT_EXCEEDED",
            "it ran out of memory; take fewer markets or a shorter range",
            "RESOURCE_EXHAUSTED",
        )
    except OddstreamError as error:
        if error.__cause__ is not None:
            log.warning(
                "a backtest failed", reason=error.reason, exc_info=error.__cause__
            )  # for who wrote the strategy
        return RunError(error.reason, error.message, _STATUSES.get(type(error), "FAILED_PRECONDITION"))
    except Exception:
        log.exception("a backtest failed for a fault of ours")
        return RunError("INTERNAL", "internal error; the worker's log has it under the run's id", "INTERNAL")
    return None


_STATUSES: Final[dict[type, str]] = {
    InvalidArgument: "INVALID_ARGUMENT",
    FailedPrecondition: "FAILED_PRECONDITION",
}


def _take(numbered: Iterator[tuple[int, ShardResult]]) -> dict[int, bytes]:
    """The next few parts, few enough for one transaction."""
    parts: dict[int, bytes] = {}
    size = 0
    for number, result in numbered:
        parts[number] = result.to_bytes()
        size += len(parts[number])
        if len(parts) >= PARTS_AT_ONCE or size >= _PARTS_BYTES:
            break
    return parts


def _still_ours(written: bool) -> None:
    if not written:
        raise LostRun


class _Progress:
    """How far a backtest is, told at most twice a second; the end is expected at the pace so far."""

    def __init__(self, work: RunWork, run: Run, clock: Clock) -> None:
        self._work = work
        self._run = run
        self._clock = clock
        self._row_counts: tuple[int, ...] = ()
        self._done_rows = 0
        self._done_shards = 0
        self._begun_us = clock()
        self._told_at = 0.0
        self._stage = ""

    def cut(self, row_counts: tuple[int, ...]) -> None:
        self._row_counts = row_counts

    def done(self, shard_number: int) -> None:
        self._done_rows += self._row_counts[shard_number]
        self._done_shards += 1

    async def tell(self, stage: str) -> None:
        """:raises LostRun: it isn't ours any more."""
        if stage == self._stage and time.monotonic() - self._told_at < 0.5:
            return
        self._stage, self._told_at = stage, time.monotonic()
        total = sum(self._row_counts)
        expected = None
        if self._done_rows:
            now_us = self._clock()
            expected = now_us + (now_us - self._begun_us) * (total - self._done_rows) // self._done_rows
        progress = RunProgress(
            done_row_count=self._done_rows,
            total_row_count=total if self._row_counts else None,
            done_shard_count=self._done_shards,
            total_shard_count=len(self._row_counts) if self._row_counts else None,
            expected_end_us=expected,
            stage=stage,
        )
        _still_ours(await self._work.advance(self._run.run_id, self._run.attempt, progress))
