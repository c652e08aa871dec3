"""What a worker does with a job: claim the run, let a child compute it, and say why where the child can't."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from oddstream_server.application.ports.backtests import RunWork
from oddstream_server.application.ports.clock import Clock
from oddstream_server.domain.backtest import Run, RunError
from oddstream_server.jobs.children import ChildLimits, Ending, run_child

log = structlog.get_logger()

AWAY_PAUSE_SECONDS: Final = 1.0


class JobRunner:
    """:param environment: of the children.
    :param maximum_attempts: how often a run may lose its worker or its child.
    """

    def __init__(
        self,
        work: RunWork,
        clock: Clock,
        environment: Mapping[str, str],
        limits: ChildLimits,
        maximum_attempts: int,
    ) -> None:
        self._work = work
        self._clock = clock
        self._environment = environment
        self._limits = limits
        self._maximum_attempts = maximum_attempts

    async def run(self, step: str, run_id: str) -> None:
        """A step that is a whole run's: ``backtest``, ``sweep_plan`` or ``sweep_judge``."""

        async def claim() -> tuple[Run, int] | None:
            run = await self._work.claim(run_id, self._clock(), self._maximum_attempts)
            return None if run is None else (run, run.attempt)

        await self._until_done(claim, lambda attempt: self._work.holds(run_id, attempt), (step, run_id))

    async def run_shard(self, run_id: str, shard_number: int) -> None:
        async def claim() -> tuple[Run, int] | None:
            claimed = await self._work.claim_shard(run_id, shard_number)
            if claimed is None:
                return None
            if claimed.attempt > self._maximum_attempts:
                error = RunError(
                    "BACKTEST_WORKER_LOST",
                    f"the worker of shard {shard_number} was lost {self._maximum_attempts} times; try fewer markets, "
                    "and look at the worker's log",
                    "ABORTED",
                )
                await self._work.fail(run_id, claimed.run.attempt, error, self._clock())
                return None
            return claimed.run, claimed.attempt

        await self._until_done(
            claim,
            lambda attempt: self._work.holds_shard(run_id, shard_number, attempt),
            ("sweep_shard", run_id, "--shard", str(shard_number)),
        )

    async def _until_done(
        self,
        claim: Callable[[], Awaitable[tuple[Run, int] | None]],
        holds: Callable[[int], Awaitable[bool]],
        arguments: tuple[str, ...],
    ) -> None:
        while (claimed := await claim()) is not None:
            run, attempt = claimed
            told = log.bind(run=run.run_id, step=arguments[0], attempt=attempt)
            told.info("a child computes it")

            async def wanted(attempt: int = attempt) -> bool:
                return await holds(attempt)

            ending = await run_child(
                ("job", *arguments, "--attempt", str(attempt)), self._environment, self._limits, wanted
            )
            told.info("the child ended", ending=ending.value)
            if ending is Ending.AWAY:
                await asyncio.sleep(AWAY_PAUSE_SECONDS)  # whoever is away sends no event when it comes back
            elif ending is not Ending.LOST:
                error = self._overrun(ending)
                if error is not None:
                    await self._work.fail(run.run_id, run.attempt, error, self._clock())
                return

    def _overrun(self, ending: Ending) -> RunError | None:
        limits = self._limits
        text = {
            Ending.MEMORY: f"it took more than {limits.memory_bytes // 1024**2} MiB of memory: take fewer markets or a "
            "shorter range, or look whether the strategy keeps what it sees",
            Ending.CPU: f"it took more than {limits.cpu_seconds:g} s of processor time: take fewer markets or a "
            "shorter range, or look whether the strategy's step ends",
            Ending.WALL: f"it took longer than {limits.wall_seconds:g} s: take fewer markets or a shorter range, or "
            "look whether the strategy's step waits for something",
        }.get(ending)
        return None if text is None else RunError("BACKTEST_LIMIT_EXCEEDED", text, "RESOURCE_EXHAUSTED")
