"""Backtests and sweeps: where they are kept, who computes them, and the rows that they run on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from oddstream_server.application.ports.pages import Key, Page
from oddstream_server.domain.backtest import (
    BacktestResult,
    BacktestSpec,
    BlotterFilter,
    BlotterRow,
    CurvePoint,
    MarketSelection,
    Run,
    RunError,
    RunFilter,
    RunKind,
    RunProgress,
    SweepResult,
    SweepSpec,
)
from oddstream_server.domain.fitted import FittedObject
from oddstream_server.domain.market import Event, LinkState, Market, MarketLink, Settlement

Columns = Mapping[str, npt.NDArray[Any]]
"""Equally long integer arrays by name."""


@dataclass(frozen=True, slots=True)
class NewRun:
    run_id: str
    kind: RunKind
    owner: str
    display_name: str
    spec: BacktestSpec | SweepSpec
    set_count: int
    create_time_us: int


class RunChanges(Protocol):
    """Runs within a change. Every one wakes watchers up when it commits."""

    async def create(self, new: NewRun, quota: int) -> Run:
        """Keep a run and queue its job.

        :param quota: how many unfinished runs the owner may have; calls of one owner count one after the other.
        :raises ResourceExhausted: BACKTEST_QUOTA_EXCEEDED.
        """
        ...

    async def get(self, run_id: str) -> Run | None:
        """Locked until the change is over."""
        ...

    async def result(self, run_id: str) -> BacktestResult | SweepResult | None:
        """None where there is none."""
        ...

    async def cancel(self, run_id: str, now_us: int) -> Run | None:
        """CANCELLED from now on; a finished one comes back unchanged; None where it is gone."""
        ...

    async def delete(self, run_id: str) -> bool:
        """Delete a finished run; False where it isn't finished. One that is gone is deleted."""
        ...


class RunStore(Protocol):
    """What the service reads."""

    async def get(self, run_id: str) -> Run | None: ...

    async def get_many(self, run_ids: Sequence[str]) -> Mapping[str, Run]: ...

    async def result(self, run_id: str) -> BacktestResult | SweepResult | None: ...

    async def list_runs(self, kind: RunKind, where: RunFilter, after: Key | None, limit: int) -> Page[Run]:
        """Newest first."""
        ...

    async def list_trades(self, run_id: str, where: BlotterFilter, after: Key | None, limit: int) -> Page[BlotterRow]:
        """By trade number."""
        ...

    async def curve(self, run_id: str) -> Sequence[CurvePoint]: ...


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """A part of a sweep's markets, whole events."""

    shard_number: int
    market_ids: tuple[str, ...]
    row_count: int


@dataclass(frozen=True, slots=True)
class ClaimedShard:
    """A shard in the hands of a worker."""

    run: Run
    plan: ShardPlan
    attempt: int
    done_sets: frozenset[int]
    """Sets that an earlier attempt kept."""


class RunWork(Protocol):
    """What workers need. Each write carries the attempt that it belongs to and is refused for an older one."""

    async def claim(self, run_id: str, now_us: int, maximum_attempts: int) -> Run | None:
        """RUNNING with the next attempt; None where it is finished or gone, or was lost too often and has failed."""
        ...

    async def holds(self, run_id: str, attempt: int) -> bool:
        """True while the run is RUNNING in this attempt."""
        ...

    async def advance(self, run_id: str, attempt: int, progress: RunProgress) -> bool:
        """False where the attempt is not the run's any more; nothing was written."""
        ...

    async def fail(self, run_id: str, attempt: int, error: RunError, now_us: int) -> bool: ...

    async def finish_backtest(
        self,
        run_id: str,
        attempt: int,
        result: BacktestResult,
        blotter: Sequence[BlotterRow],
        curve: Columns,
        now_us: int,
    ) -> bool: ...

    async def finish_sweep(self, run_id: str, attempt: int, result: SweepResult, now_us: int) -> bool: ...

    async def plan_shards(self, run_id: str, attempt: int, shards: Sequence[ShardPlan], frozen: bytes) -> bool:
        """Keep a sweep's shards and what they share, and queue a job for each; one that was cut before stays so."""
        ...

    async def frozen(self, run_id: str) -> bytes | None:
        """What the shards of a sweep share; None where it has ended."""
        ...

    async def claim_shard(self, run_id: str, shard_number: int) -> ClaimedShard | None:
        """None where there is nothing left to do."""
        ...

    async def holds_shard(self, run_id: str, shard_number: int, attempt: int) -> bool: ...

    async def store_parts(self, run_id: str, shard_number: int, attempt: int, parts: Mapping[int, bytes]) -> bool:
        """Keep what a shard gave for some sets, by set number."""
        ...

    async def finish_shard(self, run_id: str, shard_number: int, attempt: int) -> bool:
        """All sets of a shard are kept; with the last shard the job that judges them is queued."""
        ...

    async def parts(self, run_id: str, set_number: int) -> Sequence[bytes]:
        """Of one set, by shard."""
        ...

    async def trials(self, data_key: str) -> int:
        """How many runs and sets were tried on the same input rows so far."""
        ...


@dataclass(frozen=True, slots=True)
class MarketHistory:
    """A market with what is needed to know it as of an instant."""

    market: Market
    first_seen_us: int
    settlements: tuple[Settlement, ...]
    versions: tuple[tuple[int, Market], ...] = ()
    """What strategies depend on, by the receive time from which a live run had it; empty where none saw the market."""


@dataclass(frozen=True, slots=True)
class LinkHistory:
    """A link with the changes of its review."""

    link: MarketLink
    changes: tuple[tuple[int, LinkState], ...]
    """(from this instant, state), ascending."""


@dataclass(frozen=True, slots=True)
class MarketRows:
    """How many rows a market has within a range, and when its first one came."""

    market_id: str
    quote_count: int
    trade_count: int
    first_time_us: int
    level_count: int = 0
    """Of recorded books, each level by itself."""


class RecordedData(Protocol):
    """Recorded rows as columns, be they in PostgreSQL or in the archive, and the markets that they belong to."""

    async def has_rows(self, markets: MarketSelection, start_us: int, end_us: int, *, simulated: bool) -> bool:
        """False where there is surely nothing to run on; cheap."""
        ...

    async def count_rows(
        self, markets: MarketSelection, start_us: int, end_us: int, *, simulated: bool
    ) -> Sequence[MarketRows]:
        """The markets of a selection that the catalog knows and that have rows, by id."""
        ...

    async def quotes(self, market_ids: Sequence[str], start_us: int, end_us: int) -> Columns:
        """Quotes by (receive_time, ingest_sequence). ``market`` is a place in ``market_ids``; -1 stands for absent."""
        ...

    async def trades(self, market_ids: Sequence[str], start_us: int, end_us: int) -> Columns:
        """Prints that are no block trades, as :meth:`quotes`."""
        ...

    async def books(self, market_ids: Sequence[str], start_us: int, end_us: int) -> Columns:
        """Levels of recorded books by (receive time, place in ``market_ids``, side, place), best first; ``side`` 0 is
        a bid."""
        ...

    async def links(self, market_ids: Sequence[str]) -> Sequence[LinkHistory]:
        """The links between any two of the markets that were confirmed at some time, by id."""
        ...

    async def fitted(self) -> Sequence[FittedObject]:
        """All objects that were fitted, each with the instant from which it is used."""
        ...

    async def histories(self, market_ids: Sequence[str]) -> Sequence[MarketHistory]: ...

    async def events(self, market_ids: Sequence[str]) -> Sequence[Event]:
        """The events that any of the markets belongs to."""
        ...

    async def unknown_ids(self, markets: MarketSelection) -> tuple[Sequence[str], Sequence[str]]:
        """The market ids and the event ids of a selection that the catalog doesn't know."""
        ...


class RunPlanner(Protocol):
    """Knows strategies and the engine's rules."""

    def check_backtest(self, spec: BacktestSpec) -> BacktestSpec:
        """The same with defaults filled in.

        :raises NotFound: STRATEGY_NOT_FOUND.
        :raises InvalidArgument: naming each field that breaks a rule.
        """
        ...

    def check_sweep(self, spec: SweepSpec) -> tuple[SweepSpec, int]:
        """The same with defaults filled in, and how many sets it has.

        :raises InvalidArgument: SWEEP_TOO_LARGE besides the others.
        """
        ...

    def warm_up_us(self, spec: BacktestSpec) -> int:
        """How much data before its range a backtest reads."""
        ...
