"""A backtest from columns to result: shards on any worker, merged in a fixed order, then one bankroll.

:func:`run_shard` depends on one shard alone, and its answer goes through bytes; :func:`merge` gives the same whatever
the shards' order and cut; :func:`settle` walks the merged log once for each rung of the fill ladder. So one worker,
many workers and a run that was resumed end with the same result hash.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Self

import numpy as np

from oddstream_server.backtesting.acceleration import compiled
from oddstream_server.backtesting.charges import ORDER, schedule_records
from oddstream_server.backtesting.columns import MISSING, Shard
from oddstream_server.backtesting.config import ENGINE_VERSION, BacktestConfig, hold_flags
from oddstream_server.backtesting.coverage import NOTHING, Coverage, equity_instants, survey_quotes
from oddstream_server.backtesting.fills import AT_SIGNAL, CONFIGURED, NEXT_QUOTE, OFFER, find_offers
from oddstream_server.backtesting.groups import GroupPass
from oddstream_server.backtesting.portfolio import (
    BANK_PLACES,
    CASH,
    ENTRY,
    EQUITY,
    FEES,
    LOT,
    PEAK,
    SIGNALLED,
    TURNOVER,
    UNPRICED,
    close_all,
    run_bank,
)
from oddstream_server.backtesting.signals import INTENT, SignalPass, Terms
from oddstream_server.backtesting.universe import Universe
from oddstream_server.backtesting.wide import LIMBS
from oddstream_server.domain.errors import FailedPrecondition, OddstreamError
from oddstream_server.domain.fees import FREE
from oddstream_server.strategies.registry import ConfiguredStrategy


class StrategyFailed(OddstreamError):
    """A strategy's step raised; the backtest has no result."""

    default_reason = "STRATEGY_FAILED"


class FillAssumption(Enum):
    """A rung of the fill ladder: (moment, at the mid, with fees)."""

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
    """What the strategies want in a shard: INTENT by (row, strategy), and how much they signalled.

    :raises StrategyFailed: a step raised.
    """
    found, counts = [], SignalCounts()
    for number, (strategy, holds) in enumerate(zip(config.strategies, hold_flags(config.strategies), strict=True)):
        passing: type[GroupPass] | type[SignalPass] = GroupPass if strategy.kind.group else SignalPass
        try:
            part = passing(strategy, number, terms, first_us=config.start_us, holds=holds, plain=plain).run(shard.quotes)
        except OddstreamError:
            raise
        except Exception as error:
            raise _failed(strategy, error) from error
        found.append(part.intents)
        counts = counts.plus(
            SignalCounts(part.created_count, part.revised_count, part.ended_count, part.warm_row_count)
        )
    intents = np.concatenate(found) if len(found) > 1 else found[0]
    if len(found) > 1 or any(s.kind.group for s in config.strategies):
        lengths = [len(part) for part in found]
        starts = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
        order = np.lexsort((intents["strategy"], intents["row"]))
        place = np.empty(len(intents), dtype=np.int64)
        place[order] = np.arange(len(intents))
        intents["basket"] = place[intents["basket"] + starts]
        intents = intents[order]
    return intents, counts


def _failed(strategy: ConfiguredStrategy, error: Exception) -> StrategyFailed:
    return StrategyFailed(
        f"strategy {strategy.strategy_id} raised {type(error).__name__}; run it with plain Python to see where",
        metadata={"kind": strategy.kind.kind},
    )


def run_shard(config: BacktestConfig, universe: Universe, shard: Shard, *, plain: bool = False) -> ShardResult:
    """The first half of a run on the rows of some markets.

    :raises StrategyFailed: a strategy's step raised.
    :raises FailedPrecondition: a strategy needs a column that isn't recorded.
    """
    shard = shard.until(config.end_us)
    intents, counts = find_intents(config, Terms(universe), shard, plain=plain)
    offers = find_offers(
        shard, universe, intents, len(config.strategies), config.execution.fill_rules, plain=plain
    )
    instants = equity_instants(config.start_us, config.end_us)
    coverage, marks = survey_quotes(
        shard.quotes, shard.markets, universe, instants, config.start_us, config.end_us, plain=plain
    )
    markets = np.array(shard.markets, dtype=np.int64)
    marked = np.unique(intents["market"])
    return ShardResult(
        intents, offers, marked, marks[:, np.searchsorted(markets, marked)], coverage, counts, shard.digests()
    )


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


def merge(universe: Universe, results: Iterable[ShardResult]) -> Log:
    """One log of all shards, the same for any cut of the markets into shards of whole events.

    :raises FailedPrecondition: two shards hold the same market.
    """
    parts = sorted(results, key=lambda r: min(r.digests, default=-1))
    digests: dict[int, bytes] = {}
    coverage, counts = NOTHING, SignalCounts()
    for part in parts:
        if digests.keys() & part.digests.keys():
            raise FailedPrecondition("two shards of a backtest hold the same market; cut the markets anew")
        digests.update(part.digests)
        coverage, counts = coverage.plus(part.coverage), counts.plus(part.counts)
    # by time and sequence; within a row, which is one shard's, the order found
    before = np.cumsum([0, *(len(p.intents) for p in parts)])
    intents = _joined([p.intents for p in parts], INTENT)
    offers = _joined([p.offers for p in parts], OFFER)
    if len(parts) > 1:
        intents["basket"] += np.repeat(before[:-1], [len(p.intents) for p in parts])
        offers["intent"] += np.repeat(before[:-1], [len(p.offers) for p in parts])
        order = np.lexsort((intents["sequence"], intents["time_us"]))
        place = np.empty(len(intents), dtype=np.int64)
        place[order] = np.arange(len(intents))
        intents = intents[order]
        intents["basket"] = place[intents["basket"]]
        offers["intent"] = place[offers["intent"]]
        offers = offers[np.lexsort((offers["sequence"], offers["phase"], offers["time_us"]))]
    marked = np.concatenate([p.marked for p in parts]) if parts else np.empty(0, dtype=np.int64)
    mark_of = np.full(max(len(universe), 1), -1, dtype=np.int64)
    mark_of[marked] = np.arange(len(marked))
    marks = np.concatenate([p.marks for p in parts], axis=1)
    body = hashlib.sha256()
    for market in sorted(digests):
        body.update(universe.market_ids[market].encode() + b"\0" + digests[market])
    return Log(intents, offers, mark_of, marks, coverage, counts, body.hexdigest())


def _joined(parts: Sequence[Any], dtype: np.dtype[Any]) -> Any:
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)


@dataclass(frozen=True, slots=True)
class Account:
    """What a bankroll came to under one assumption of fills."""

    entries: Any
    """The blotter: ENTRY by (lot, part), which is by time of entry."""
    equity: Any
    """EQUITY by time."""
    final_equity_micros: int
    fees_micros: int
    turnover_micros: int
    peak_locked_micros: int
    unpriced_offer_count: int
    """Offers passed over because no fee schedule was known for their instant."""
    basket_count: int

    @property
    def profit_micros(self) -> int:
        e = self.entries
        return int(
            e["proceeds_micros"].sum() - e["cost_micros"].sum() - e["fee_micros"].sum() - e["exit_fee_micros"].sum()
        )


_FREE: Final = schedule_records([FREE], [])


def settle(
    config: BacktestConfig, universe: Universe, log: Log, assumption: FillAssumption, *, plain: bool = False
) -> Account:
    """Walk the log with the starting bankroll under one assumption."""
    moment, at_mid, with_fees = assumption.value
    walk: Callable[..., Any] = compiled(run_bank, plain=plain)
    finish: Callable[..., Any] = compiled(close_all, plain=plain)
    markets, events = max(len(universe), 1), len(universe.events)
    count = len(log.intents)
    instants = equity_instants(config.start_us, config.end_us)
    limit = config.execution.maximum_event_cost_micros
    options = np.array([moment, at_mid, with_fees, -1 if limit is None else limit], dtype=np.int64)
    bank = np.zeros(BANK_PLACES, dtype=np.int64)
    bank[CASH] = config.starting_bankroll_micros
    buys = int(np.count_nonzero((log.offers["kind"] == 2) & (log.offers["moments"] & moment != 0)))
    lots = np.zeros(buys + 1, dtype=LOT)
    # each exit offer ends a part of every lot it meets, each purchase of the other outcome two parts of each
    entries = np.zeros(4 * buys + 4 * len(log.offers) + 16, dtype=ENTRY)
    known = np.zeros((markets, 6), dtype=np.int64)
    equity = np.zeros(len(instants), dtype=EQUITY)
    lot_count, written = walk(
        log.offers,
        log.intents,
        universe.payments,
        instants,
        log.marks,
        log.mark_of,
        universe.terms,
        universe.segments,
        np.concatenate([universe.schedules, _FREE]),
        universe.members,
        universe.member_bounds,
        universe.margined,
        np.array(config.effective_sizing.rules, dtype=np.int64),
        options,
        bank,
        np.zeros(count + 1, dtype=np.int64),
        np.zeros(count + 1, dtype=np.int64),
        np.zeros(count + 1, dtype=np.int64),
        np.zeros(count + 1, dtype=ORDER),
        lots,
        entries,
        np.full(markets, -1, dtype=np.int64),
        np.full(markets, -1, dtype=np.int64),
        known,
        np.zeros((markets, 2), dtype=np.int64),
        np.zeros(events + markets, dtype=np.int64),
        np.zeros(max(events, 1), dtype=np.int64),
        np.full((markets, 4), MISSING, dtype=np.int64),
        np.zeros(buys + 1, dtype=np.int64),
        equity,
        np.zeros(LIMBS, dtype=np.int64),
    )
    written = finish(lots, lot_count, entries, written, known, log.marks, log.mark_of, universe.terms, config.end_us)
    entries = entries[:written]
    entries = entries[np.lexsort((entries["part"], entries["lot"]))]
    return Account(
        entries=entries,
        equity=equity,
        final_equity_micros=int(equity["equity_micros"][-1]),
        fees_micros=int(bank[FEES]),
        turnover_micros=int(bank[TURNOVER]),
        peak_locked_micros=int(bank[PEAK]),
        unpriced_offer_count=int(bank[UNPRICED]),
        basket_count=int(bank[SIGNALLED]),
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished backtest before its figures: accounts by assumption, and what identifies the result."""

    config: BacktestConfig
    universe: Universe
    log: Log
    accounts: Mapping[FillAssumption, Account]
    result_hash: str

    @property
    def account(self) -> Account:
        return self.accounts[FillAssumption.CONFIGURED]

    @property
    def input_digest(self) -> str:
        return self.log.input_digest

    @property
    def signal_count(self) -> int:
        """Signals published: created and revised."""
        return self.log.counts.created + self.log.counts.revised


BLOTTER_COLUMNS: Final = (
    "strategy",
    "market",
    "outcome",
    "signal_us",
    "strength_ppm",
    "fair_micros",
    "signal_price_micros",
    "entry_us",
    "price_micros",
    "size_micros",
    "cost_micros",
    "fee_micros",
    "maker",
    "exit",
    "exit_us",
    "exit_price_micros",
    "exit_fee_micros",
    "proceeds_micros",
)
"""What goes into the result hash of each row of the blotter, in this order."""


def blotter(account: Account, intents: Any) -> Any:
    """The blotter as int64 [row, BLOTTER_COLUMNS]."""
    wanted = intents[account.entries["intent"]]
    e = account.entries
    columns = {
        "strategy": wanted["strategy"],
        "market": wanted["market"],
        "outcome": wanted["outcome"],
        "signal_us": wanted["time_us"],
        "strength_ppm": wanted["strength_ppm"],
        "fair_micros": wanted["fair_micros"],
        "signal_price_micros": wanted["price_micros"],
    } | {name: e[name] for name in BLOTTER_COLUMNS[7:]}
    return np.stack([columns[name] for name in BLOTTER_COLUMNS], axis=1) if len(e) else np.empty((0, 18), np.int64)


def result_hash(
    config: BacktestConfig,
    universe: Universe,
    input_digest: str,
    rows: Any,
    equity: Any,
    ladder: Sequence[tuple[str, int, int]],
) -> str:
    """SHA-256 over everything that makes a result what it is.

    :param rows: the blotter, int64 [row, BLOTTER_COLUMNS].
    :param equity: int64 [instant, (time, equity, cash, locked)].
    :param ladder: (assumption, profit, trades) of each rung.
    """
    digest = hashlib.sha256()
    head = (str(ENGINE_VERSION), universe.terms_digest, universe.fee_table_digest, input_digest)
    digest.update("\n".join(head).encode() + b"\n" + config.canonical_bytes())
    digest.update(np.ascontiguousarray(rows, dtype="<i8").tobytes())
    digest.update(np.ascontiguousarray(equity, dtype="<i8").tobytes())
    digest.update(repr([(name, int(profit), int(trades)) for name, profit, trades in ladder]).encode())
    return digest.hexdigest()


def conclude(config: BacktestConfig, universe: Universe, log: Log, *, plain: bool = False) -> Outcome:
    """The second half: every rung of the fill ladder, and the result hash."""
    accounts = {assumption: settle(config, universe, log, assumption, plain=plain) for assumption in FillAssumption}
    account = accounts[FillAssumption.CONFIGURED]
    ladder = [(a.name, accounts[a].profit_micros, len(accounts[a].entries)) for a in FillAssumption]
    equity = account.equity.view(np.int64).reshape(len(account.equity), -1)
    code = result_hash(config, universe, log.input_digest, blotter(account, log.intents), equity, ladder)
    return Outcome(config, universe, log, accounts, code)


def run(config: BacktestConfig, universe: Universe, shards: Iterable[Shard], *, plain: bool = False) -> Outcome:
    """A whole backtest in this process, one shard in memory at a time."""
    log = merge(universe, (run_shard(config, universe, shard, plain=plain) for shard in shards))
    return conclude(config, universe, log, plain=plain)
