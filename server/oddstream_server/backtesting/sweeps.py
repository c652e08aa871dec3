"""One backtest with many sets of parameters: which sets, how they are run, and what may be concluded from them.

The sets of a shard share its columns, its survey and its digests; each has its own bankroll, which needs all shards. So
:func:`run_sweep_shard` gives a shard's part of one set after another, for the caller to keep, and :func:`judge_set`
takes the parts of one set: memory is that of one shard and one set. A part that is kept needn't be
computed again, and parts computed anywhere give the same result hash.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice, product
from math import prod
from typing import Any, Final

import numpy as np

from oddstream_server.backtesting.config import BacktestConfig
from oddstream_server.backtesting.engine import conclude
from oddstream_server.backtesting.figures import returns
from oddstream_server.backtesting.figures.overfitting import overfitting_probability
from oddstream_server.backtesting.records.columns import Shard
from oddstream_server.backtesting.records.coverage import NOTHING, Coverage, equity_instants, survey_quotes
from oddstream_server.backtesting.records.universe import Universe
from oddstream_server.backtesting.result import BacktestMetrics, MetricConventions, figures
from oddstream_server.backtesting.shards import FillAssumption, ShardResult, merge, run_shard
from oddstream_server.domain import disclosures
from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.strategies.kernel import Kernel
from oddstream_server.strategies.registry import ConfiguredStrategy

MAXIMUM_SETS: Final = 2_000
ASSUMPTIONS: Final = (FillAssumption.CONFIGURED,)
"""A set is judged as configured; the fill ladder is for single backtests."""


@dataclass(frozen=True, slots=True)
class SweepParameter:
    name: str
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WalkForward:
    """Choose on a stretch of time, judge on the next one, move on by the latter."""

    training_us: int
    testing_us: int

    def __post_init__(self) -> None:
        bad = [
            FieldViolation(f"walk_forward.{name}", "must be at least 60 s")
            for name, value in (("training_length", self.training_us), ("testing_length", self.testing_us))
            if value < 60_000_000
        ]
        if bad:
            raise InvalidArgument(bad)

    def windows(self, start_us: int, end_us: int) -> list[tuple[int, int, int]]:
        """(begin of training, begin of testing, end of testing) of each step that fits the range."""
        found = []
        begin = start_us
        while begin + self.training_us + self.testing_us <= end_us:
            middle = begin + self.training_us
            found.append((begin, middle, middle + self.testing_us))
            begin += self.testing_us
        return found


@dataclass(frozen=True, slots=True)
class SweepConfig:
    """:param random_count: how many combinations to draw; None for all of them.

    :param seed: of the draw.
    """

    base: BacktestConfig
    parameters: tuple[SweepParameter, ...]
    random_count: int | None = None
    seed: int = 0
    walk_forward: WalkForward | None = None

    def __post_init__(self) -> None:
        bad: list[FieldViolation] = []
        if len(self.base.strategies) != 1:
            raise InvalidArgument([FieldViolation("base.strategies", "must be exactly one for a sweep")])
        rules = self.base.strategies[0].kind.params_type.rules()
        names = [p.name for p in self.parameters]
        if not names or len(set(names)) < len(names):
            bad.append(FieldViolation("parameters", "must name at least one parameter, and each once"))
        for i, parameter in enumerate(self.parameters):
            path = f"parameters[{i}]"
            if parameter.name not in rules:
                known = ", ".join(sorted(rules))
                bad.append(FieldViolation(f"{path}.name", f"{parameter.name!r} is no parameter; use one of {known}"))
                continue
            rule = rules[parameter.name]
            if not parameter.values or len(set(parameter.values)) < len(parameter.values):
                bad.append(FieldViolation(f"{path}.values", "must be at least one value, and each once"))
            bad += [
                FieldViolation(f"{path}.values[{j}]", f"must be from {rule.minimum} to {rule.maximum} {rule.unit}")
                for j, value in enumerate(parameter.values)
                if not rule.minimum <= value <= rule.maximum
            ]
        total = prod(len(p.values) for p in self.parameters)
        count = total if self.random_count is None else self.random_count
        if not 1 <= count <= MAXIMUM_SETS:
            bad.append(
                FieldViolation(
                    "search",
                    f"makes {count} sets, and 1 to {MAXIMUM_SETS} are allowed; give fewer values or draw at random",
                )
            )
        elif count > total:
            bad.append(
                FieldViolation("search.random.set_count", f"must be at most {total}, the combinations there are")
            )
        if self.walk_forward and not self.walk_forward.windows(self.base.start_us, self.base.end_us):
            bad.append(
                FieldViolation("walk_forward", "must fit the range at least once; shorten it or widen the range")
            )
        if bad:
            raise InvalidArgument(bad)
        for values in self.sets():
            self._configured(values)

    def sets(self) -> list[dict[str, int]]:
        """The values of each set, in the order of their numbers from 1."""
        names = [p.name for p in self.parameters]
        if self.random_count is None:
            return [dict(zip(names, values, strict=True)) for values in product(*(p.values for p in self.parameters))]
        return [self._combination(place) for place in islice(self._draws(), self.random_count)]

    def _draws(self) -> Iterator[int]:
        total, seen, k = prod(len(p.values) for p in self.parameters), set[int](), 0
        while len(seen) < total:
            place = int.from_bytes(hashlib.sha256(f"{self.seed}/{k}".encode()).digest()) % total
            k += 1
            if place not in seen:
                seen.add(place)
                yield place

    def _combination(self, place: int) -> dict[str, int]:
        values = {}
        for parameter in reversed(self.parameters):
            place, k = divmod(place, len(parameter.values))
            values[parameter.name] = parameter.values[k]
        return {p.name: values[p.name] for p in self.parameters}

    def _configured(self, values: Mapping[str, int]) -> ConfiguredStrategy:
        base = self.base.strategies[0]
        params = replace(base.params, **values)
        params.validate(path=f"parameters ({', '.join(f'{k}={v}' for k, v in values.items())})")
        return replace(base, kernel=Kernel(base.kind, params))

    def config_of(self, set_number: int) -> BacktestConfig:
        """The backtest of a set, with the equity at the bounds of all walk-forward windows."""
        windows = self.walk_forward.windows(self.base.start_us, self.base.end_us) if self.walk_forward else []
        instants = tuple(sorted({instant for window in windows for instant in window}))
        strategy = self._configured(self.sets()[set_number - 1])
        return replace(self.base, strategies=(strategy,), instants_us=instants)


def run_sweep_shard(
    config: SweepConfig,
    universe: Universe,
    shard: Shard,
    set_numbers: Iterable[int] | None = None,
    *,
    threads: int = 1,
    plain: bool = False,
) -> Iterator[tuple[int, ShardResult]]:
    """A shard's part of each set, by ascending number.

    :param set_numbers: the sets that are still wanted, from 1; None for all.
    """
    numbers = sorted(set_numbers) if set_numbers is not None else list(range(1, len(config.sets()) + 1))
    base = config.config_of(1)
    shard = shard.until(base.end_us)
    instants = equity_instants(base.start_us, base.end_us, base.instants_us)
    survey = survey_quotes(shard.quotes, shard.markets, universe, instants, base.start_us, base.end_us, plain=plain)
    digests = shard.digests(universe.instrument_of)

    def run_set(number: int) -> tuple[int, ShardResult]:
        return number, run_shard(
            config.config_of(number),
            universe,
            shard,
            assumptions=ASSUMPTIONS,
            shared=(survey, digests),
            plain=plain,
        )

    if threads == 1:
        yield from map(run_set, numbers)
        return
    with ThreadPoolExecutor(threads) as pool:
        # one set a thread and one waiting, so that finished parts don't pile up and no thread waits for its caller
        waiting: deque[Future[tuple[int, ShardResult]]] = deque()
        for number in numbers:
            if len(waiting) == 2 * threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(run_set, number))
        while waiting:
            yield waiting.popleft().result()


@dataclass(frozen=True, slots=True)
class SweepSet:
    set_number: int
    params: Mapping[str, int]
    result_hash: str
    metrics: BacktestMetrics
    """Without calibration."""


@dataclass(frozen=True, slots=True)
class WalkForwardWindow:
    training_start_us: int
    testing_start_us: int
    testing_end_us: int
    chosen_set_number: int
    training_profit_micros: int
    testing_profit_micros: int


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Field for field the contract's SweepResult."""

    result_hash: str
    sets: tuple[SweepSet, ...]
    overfitting_probability: float | None
    deflated_sharpe: float | None
    median_profit_micros: int | None
    walk_forward_windows: tuple[WalkForwardWindow, ...]
    walk_forward_profit_micros: int | None
    trial_count: int
    conventions: MetricConventions
    coverage: Coverage
    disclaimer_code: str = disclosures.BACKTEST


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """What is kept of a set: figures and equity, no blotter."""

    entry: SweepSet
    equity: Any
    """EQUITY by time."""
    coverage: Coverage


def judge_set(
    config: SweepConfig, universe: Universe, set_number: int, parts: Iterable[ShardResult], *, plain: bool = False
) -> JudgedSet:
    """A set from its parts of all shards, in any order."""
    base = config.config_of(set_number)
    outcome = conclude(base, universe, merge(universe, parts), assumptions=ASSUMPTIONS, plain=plain)
    metrics = replace(figures(outcome), calibration=())
    entry = SweepSet(set_number, config.sets()[set_number - 1], outcome.result_hash, metrics)
    return JudgedSet(entry, outcome.account.equity, outcome.log.coverage)


def conclude_sweep(config: SweepConfig, judged: Sequence[JudgedSet], trial_count: int) -> SweepResult:
    """What the sets say together.

    :param judged: all sets of the sweep, in any order.
    :param trial_count: backtests and parameter sets ever run on this data, these included.
    :raises ValueError: a set is missing or there twice.
    """
    judged = sorted(judged, key=lambda j: j.entry.set_number)
    if [j.entry.set_number for j in judged] != list(range(1, len(config.sets()) + 1)):
        raise ValueError("every set of a sweep must be judged once")
    start = config.base.starting_bankroll_micros
    equity = np.stack([j.equity["equity_micros"] for j in judged], axis=1)
    steps = np.diff(equity, axis=0, prepend=start).astype(np.float64)
    series = [returns.daily_returns(j.equity, start) for j in judged]
    ratios = [r for s in series if s is not None and (r := returns.period_sharpe(s)) is not None]
    ranked = [
        (r, -j.entry.set_number, s)
        for j, s in zip(judged, series, strict=True)
        if s is not None and (r := returns.period_sharpe(s)) is not None
    ]
    best = max(ranked, key=lambda item: item[:2])[2] if ranked else None
    windows = tuple(_walk(config, judged))
    profits = sorted(j.entry.metrics.profit_micros for j in judged)
    middle = len(profits) // 2
    return SweepResult(
        result_hash=hashlib.sha256("\n".join(j.entry.result_hash for j in judged).encode()).hexdigest(),
        sets=tuple(j.entry for j in judged),
        overfitting_probability=overfitting_probability(steps),
        deflated_sharpe=None if best is None else returns.deflated_sharpe(best, ratios, trial_count),
        median_profit_micros=profits[middle] if len(profits) % 2 else (profits[middle - 1] + profits[middle]) // 2,
        walk_forward_windows=windows,
        walk_forward_profit_micros=sum(w.testing_profit_micros for w in windows) if config.walk_forward else None,
        trial_count=max(trial_count, len(judged)),
        conventions=MetricConventions(),
        coverage=judged[0].coverage if judged else NOTHING,
    )


def _walk(config: SweepConfig, judged: Sequence[JudgedSet]) -> Iterator[WalkForwardWindow]:
    """Each window's choice by profit in training, marked at its bounds; the lowest number wins a draw."""
    if config.walk_forward is None:
        return
    base = config.base
    for begin, middle, end in config.walk_forward.windows(base.start_us, base.end_us):
        training = [_equity_at(config, j, middle) - _equity_at(config, j, begin) for j in judged]
        chosen = max(range(len(judged)), key=lambda k: (training[k], -k))
        testing = _equity_at(config, judged[chosen], end) - _equity_at(config, judged[chosen], middle)
        yield WalkForwardWindow(begin, middle, end, judged[chosen].entry.set_number, training[chosen], testing)


def _equity_at(config: SweepConfig, judged: JudgedSet, at_us: int) -> int:
    if at_us <= config.base.start_us:
        return config.base.starting_bankroll_micros
    place = int(np.searchsorted(judged.equity["time_us"], at_us))
    return int(judged.equity["equity_micros"][place])


def run_sweep(
    config: SweepConfig,
    universe: Universe,
    shards: Sequence[Shard],
    trial_count: int = 0,
    *,
    threads: int = 1,
    plain: bool = False,
) -> SweepResult:
    """A whole sweep in this process over shards that are in memory, set by set."""
    found = (run_sweep_shard(config, universe, shard, threads=threads, plain=plain) for shard in shards)
    judged = [
        judge_set(config, universe, parts[0][0], [part for _, part in parts], plain=plain)
        for parts in zip(*found, strict=True)
    ]
    return conclude_sweep(config, judged, trial_count)
