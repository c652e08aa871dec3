"""A backtest from columns to result: shards on any worker, merged in a fixed order, then one bankroll.

:func:`run_shard` depends on one shard alone, and its answer goes through bytes; :func:`merge` gives the same whatever
the shards' order and cut; :func:`settle` walks the merged log once for each rung of the fill ladder. So one worker,
many workers and a run that was resumed end with the same result hash.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from oddstream_server.backtesting.acceleration import compiled
from oddstream_server.backtesting.accounts.charges import ORDER, schedule_records
from oddstream_server.backtesting.accounts.lots import ENTRY, EQUITY, LOT, close_all
from oddstream_server.backtesting.accounts.portfolio import (
    BANK_PLACES,
    CASH,
    FEES,
    PEAK,
    SIGNALLED,
    TURNOVER,
    UNPRICED,
    run_bank,
)
from oddstream_server.backtesting.accounts.wide import LIMBS
from oddstream_server.backtesting.config import ENGINE_VERSION, BacktestConfig
from oddstream_server.backtesting.passes.intents import INTENT
from oddstream_server.backtesting.records.columns import MISSING, Shard
from oddstream_server.backtesting.records.coverage import equity_instants
from oddstream_server.backtesting.records.universe import Universe
from oddstream_server.backtesting.shards import LADDER, FillAssumption, Log, merge, run_shard
from oddstream_server.domain.fees import FREE


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
    instants = equity_instants(config.start_us, config.end_us, config.instants_us)
    limit = config.execution.maximum_event_cost_micros
    options = np.array([moment, at_mid, with_fees, -1 if limit is None else limit], dtype=np.int64)
    bank = np.zeros(BANK_PLACES, dtype=np.int64)
    bank[CASH] = config.starting_bankroll_micros
    buys = int(np.count_nonzero((log.offers["kind"] == 2) & (log.offers["moments"] & moment != 0)))
    lots = np.zeros(buys + 1, dtype=LOT)
    # a lot ends once, a merge ends a part of another one with it, and an exit leaves at most one lot in parts
    entries = np.empty(4 * buys + len(log.offers) + 16, dtype=ENTRY)
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
    entries = entries.take(np.lexsort((entries["part"], entries["lot"])))
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
    e = account.entries
    if not len(e):
        return np.empty((0, len(BLOTTER_COLUMNS)), dtype=np.int64)
    rows = np.empty((len(e), len(BLOTTER_COLUMNS)), dtype=np.int64)
    every = intents.view(np.int64).reshape(len(intents), -1)
    for begin in range(0, len(e), _ROWS_AT_ONCE):
        # whole records, few enough to stay in the cache while their columns are picked
        part, made = e[begin : begin + _ROWS_AT_ONCE], rows[begin : begin + _ROWS_AT_ONCE]
        wanted, own = every.take(part["intent"], axis=0), part.view(np.int64).reshape(len(part), -1)
        for place, column in enumerate(_INTENT_PLACES):
            made[:, place] = wanted[:, column]
        for place, column in enumerate(_ENTRY_PLACES, start=len(_INTENT_PLACES)):
            made[:, place] = own[:, column]
    return rows


_INTENT_PLACES: Final = [
    (INTENT.names or ()).index(name)
    for name in ("strategy", "market", "outcome", "time_us", "strength_ppm", "fair_micros", "price_micros")
]
_ROWS_AT_ONCE: Final = 2_048
_ENTRY_PLACES: Final = [(ENTRY.names or ()).index(name) for name in BLOTTER_COLUMNS[len(_INTENT_PLACES) :]]


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


def conclude(
    config: BacktestConfig,
    universe: Universe,
    log: Log,
    *,
    assumptions: Sequence[FillAssumption] = LADDER,
    plain: bool = False,
) -> Outcome:
    """The second half: an account for each assumption, CONFIGURED among them, and the result hash."""
    accounts = {a: settle(config, universe, log, a, plain=plain) for a in assumptions}
    account = accounts[FillAssumption.CONFIGURED]
    ladder = [(a.name, accounts[a].profit_micros, len(accounts[a].entries)) for a in assumptions]
    equity = account.equity.view(np.int64).reshape(len(account.equity), -1)
    code = result_hash(config, universe, log.input_digest, blotter(account, log.intents), equity, ladder)
    return Outcome(config, universe, log, accounts, code)


def run(
    config: BacktestConfig, universe: Universe, shards: Iterable[Shard], *, threads: int = 1, plain: bool = False
) -> Outcome:
    """A whole backtest in this process, as many shards in memory at a time as there are threads."""
    if threads == 1:
        return conclude(
            config,
            universe,
            merge(universe, (run_shard(config, universe, s, plain=plain) for s in shards)),
            plain=plain,
        )
    with ThreadPoolExecutor(threads) as pool:
        # compiled loops hold no lock of the interpreter
        results = list(pool.map(lambda shard: run_shard(config, universe, shard, plain=plain), shards))
    return conclude(config, universe, merge(universe, results), plain=plain)
