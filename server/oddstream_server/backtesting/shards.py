"""The first half of a run: shards on any worker, and their merge in one order of time."""

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Self

import numpy as np

from oddstream_server.backtesting.config import BacktestConfig, hold_flags
from oddstream_server.backtesting.passes.fills import find_offers
from oddstream_server.backtesting.passes.groups import GroupPass
from oddstream_server.backtesting.passes.intents import INTENT, Terms, joined
from oddstream_server.backtesting.passes.offers import AT_SIGNAL, CONFIGURED, NEXT_QUOTE, OFFER
from oddstream_server.backtesting.passes.signals import SignalPass
from oddstream_server.backtesting.passes.steps import steps_of
from oddstream_server.backtesting.records.columns import Shard
from oddstream_server.backtesting.records.coverage import NOTHING, Coverage, equity_instants, survey_quotes
from oddstream_server.backtesting.records.universe import Universe
from oddstream_server.domain.errors import OddstreamError
from oddstream_server.strategies.registry import ConfiguredStrategy


class StrategyFailed(OddstreamError):
    """A strategy's step raised; the backtest has no result."""

    default_reason = "STRATEGY_FAILED"


class FillAssumption(Enum):
    """A rung of the fill ladder: (moment, at the mid, with fees)."""

    @property
    def moment(self) -> int:
        return self.value[0]

    MID_WITHOUT_FEE = (AT_SIGNAL, True, False)
    TOUCH_WITHOUT_FEE = (AT_SIGNAL, False, False)
    TOUCH_WITH_FEE = (AT_SIGNAL, False, True)
    NEXT_QUOTE_WITH_FEE = (NEXT_QUOTE, False, True)
    CONFIGURED = (CONFIGURED, False, True)


@dataclass(frozen=True, slots=True)
class SignalCounts:
    created: int = 0
    revised: int = 0
    ended: int = 0
    warm_up_rows: int = 0

    def plus(self, other: "SignalCounts") -> "SignalCounts":
        return SignalCounts(
            self.created + other.created,
            self.revised + other.revised,
            self.ended + other.ended,
            self.warm_up_rows + other.warm_up_rows,
        )


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What the first half found in one shard."""

    intents: Any
    """Array of INTENT by (row, strategy)."""
    offers: Any
    """Array of OFFER by (time, phase, sequence); their intents are places in ``intents``."""
    marked: Any
    """Dense indices of the markets that were entered, ascending."""
    marks: Any
    """int32 [equity instant, place in ``marked``, bid or ask]."""
    coverage: Coverage
    counts: SignalCounts
    digests: Mapping[int, bytes]

    def to_bytes(self) -> bytes:
        """For storing a finished shard."""
        held = io.BytesIO()
        c, s = self.coverage, self.counts
        np.savez(
            held,
            intents=self.intents,
            offers=self.offers,
            marked=self.marked,
            marks=self.marks,
            coverage=np.array([c.open_us, c.uncovered_us, c.market_count, c.row_count, c.gap_count], dtype=np.int64),
            counts=np.array([s.created, s.revised, s.ended, s.warm_up_rows], dtype=np.int64),
            digest_markets=np.array(list(self.digests), dtype=np.int64),
            digests=np.frombuffer(b"".join(self.digests.values()), dtype=np.uint8),
        )
        return held.getvalue()

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        held = np.load(io.BytesIO(stored), allow_pickle=False)
        digests = held["digests"].tobytes()
        return cls(
            intents=held["intents"],
            offers=held["offers"],
            marked=held["marked"],
            marks=held["marks"],
            coverage=Coverage(*held["coverage"].tolist()),
            counts=SignalCounts(*held["counts"].tolist()),
            digests={m: digests[32 * i : 32 * i + 32] for i, m in enumerate(held["digest_markets"].tolist())},
        )


def find_intents(
    config: BacktestConfig, terms: Terms, shard: Shard, *, plain: bool = False
) -> tuple[Any, SignalCounts]:
    """What the strategies want in a shard: INTENT by (row, time, sequence, strategy), and how much they signalled.

    :raises StrategyFailed: a step raised.
    """
    found, counts, in_order = [], SignalCounts(), len(config.strategies) == 1
    for number, (strategy, holds) in enumerate(zip(config.strategies, hold_flags(config.strategies), strict=True)):
        wanted: dict[str, Any] = {"first_us": config.start_us, "holds": holds, "plain": plain}
        try:
            if strategy.kind.group:
                part = GroupPass(strategy, number, terms, **wanted).run(shard.quotes)
                in_order = False
            else:
                steps = steps_of(strategy.kind, terms.universe, shard, plain=plain)
                part = SignalPass(strategy, number, terms, **wanted).run(steps)
                in_order = in_order and not len(steps.made_by)
        except (OddstreamError, MemoryError):
            raise  # what runs out of memory isn't told apart by who asked last
        except Exception as error:
            raise _failed(strategy, error) from error
        found.append(part.intents)
        counts = counts.plus(
            SignalCounts(part.created_count, part.revised_count, part.ended_count, part.warm_row_count)
        )
    if in_order:
        return found[0], counts
    intents = joined(found, INTENT)
    lengths = [len(part) for part in found]
    starts = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    order = np.lexsort([intents[name] for name in ("strategy", "sequence", "phase", "time_us", "row")])
    place = np.empty(len(intents), dtype=np.int64)
    place[order] = np.arange(len(intents))
    intents["basket"] = place[intents["basket"] + starts]
    return intents.take(order), counts


def _failed(strategy: ConfiguredStrategy, error: Exception) -> StrategyFailed:
    return StrategyFailed(
        f"strategy {strategy.strategy_id} raised {type(error).__name__}; run it with plain Python to see where",
        metadata={"kind": strategy.kind.kind},
    )


LADDER: Final = tuple(FillAssumption)


def run_shard(
    config: BacktestConfig,
    universe: Universe,
    shard: Shard,
    *,
    assumptions: Sequence[FillAssumption] = LADDER,
    shared: tuple[tuple[Coverage, Any], Mapping[int, bytes]] | None = None,
    plain: bool = False,
) -> ShardResult:
    """The first half of a run on the rows of some markets.

    :param assumptions: those that :func:`conclude` will be asked for.
    :param shared: survey and digests of the shard where they are at hand: they don't depend on the strategies.
    :raises StrategyFailed: a strategy's step raised.
    :raises InvalidArgument: a strategy needs a column that isn't recorded.
    """
    shard = shard.until(config.end_us)
    moments = 0
    for assumption in assumptions:
        moments |= assumption.moment
    rules = config.execution.fill_rules(moments)
    intents, counts = find_intents(config, Terms(universe), shard, plain=plain)
    offers = find_offers(shard, universe, intents, len(config.strategies), rules, plain=plain)
    if shared is None:
        instants = equity_instants(config.start_us, config.end_us, config.instants_us)
        survey = survey_quotes(
            shard.quotes, shard.markets, universe, instants, config.start_us, config.end_us, plain=plain
        )
        shared = survey, shard.digests(universe.instrument_of)
    (coverage, marks), digests = shared
    markets = np.array(shard.markets, dtype=np.int64)
    marked = np.unique(intents["market"])
    # in one layout, whatever was picked: code is compiled for each
    marks = np.ascontiguousarray(marks[:, np.searchsorted(markets, marked)])
    return ShardResult(intents, offers, marked, marks, coverage, counts, digests)


@dataclass(frozen=True, slots=True)
class Log:
    """All shards' findings in one order of time."""

    intents: Any
    offers: Any
    mark_of: Any
    """A market's place in ``marks``."""
    marks: Any
    coverage: Coverage
    counts: SignalCounts
    input_digest: str


def _all(parts: Sequence[Any]) -> Any:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _interleaved(parts: Sequence[Any], dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Records by time, phase and sequence, within a row, which is one shard's, as found; and where each part's went."""
    order = np.lexsort([_all([part[name] for part in parts]) for name in ("sequence", "phase", "time_us")])
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    whole = np.dtype((np.void, dtype.itemsize))
    rows = np.empty(len(order), dtype=whole)
    begin = 0
    for part in parts:
        # straight to where it belongs: the parts behind each other would be as much memory again
        rows.put(place[begin : begin + len(part)], part.view(whole))
        begin += len(part)
    return rows.view(dtype), place


def merge(universe: Universe, results: Iterable[ShardResult]) -> Log:
    """One log of all shards, the same for any cut of the markets into shards of whole events.

    :raises ValueError: two shards hold the same market.
    """
    parts = sorted(results, key=lambda r: min(r.digests, default=-1))
    digests: dict[int, bytes] = {}
    coverage, counts = NOTHING, SignalCounts()
    for part in parts:
        if digests.keys() & part.digests.keys():
            raise ValueError("two shards of a backtest hold the same market; cut the markets anew")
        digests.update(part.digests)
        coverage, counts = coverage.plus(part.coverage), counts.plus(part.counts)
    if len(parts) == 1:
        intents, offers = parts[0].intents, parts[0].offers
    else:
        intents, place = _interleaved([p.intents for p in parts], INTENT)
        begins = np.cumsum([0, *(len(p.intents) for p in parts)]).tolist()
        numbers = [p.intents["basket"] + begin for p, begin in zip(parts, begins, strict=False)]
        intents["basket"][place] = place[_all(numbers)]
        offers, written = _interleaved([p.offers for p in parts], OFFER)
        numbers = [p.offers["intent"] + begin for p, begin in zip(parts, begins, strict=False)]
        offers["intent"][written] = place[_all(numbers)]
    marked = np.concatenate([p.marked for p in parts]) if parts else np.empty(0, dtype=np.int64)
    mark_of = np.full(max(len(universe), 1), -1, dtype=np.int64)
    mark_of[marked] = np.arange(len(marked))
    marks = parts[0].marks if len(parts) == 1 else np.concatenate([p.marks for p in parts], axis=1)
    body = hashlib.sha256()
    for market in sorted(digests):
        body.update(universe.market_ids[market].encode() + b"\0" + digests[market])
    return Log(intents, offers, mark_of, marks, coverage, counts, body.hexdigest())
