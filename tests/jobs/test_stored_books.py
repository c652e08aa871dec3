"""Backtests that walk recorded books: checked as the service checks them, computed as a worker's child does."""

import time
from collections import defaultdict
from collections.abc import Sequence

from oddstream_server.domain.backtest import (
    BacktestResult,
    BacktestSpec,
    BlotterFilter,
    BlotterRow,
    ExecutionRule,
    SizingRule,
    StrategySelection,
)
from oddstream_server.domain.quote import BookLevel, OrderBook
from oddstream_server.jobs.computing import Computation
from oddstream_server.jobs.planning import Planner
from oddstream_server.storage.backtests.recorded import RecordedRows
from oddstream_server.storage.backtests.shards import SweepWorkRecords
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.strategies.registry import Registry
from tests.jobs.bench import MARKETS, MINUTE, ROWS, SECOND, T0, Bench, quotes

STAKE = 100_000_000
LEVELS = 8


async def record_books(bench: Bench) -> None:
    """Behind each quote's top of 50 contracts, another 50 a cent further, and so on."""
    store = PostgresPipelineStore(bench.database)
    lease = await store.acquire_lease("test", 60 * SECOND)
    assert lease is not None
    for number in range(MARKETS):
        books = [
            OrderBook(
                quote.market_id,
                tuple(BookLevel(quote.bid_price_micros - 10_000 * i, 50_000_000) for i in range(LEVELS)),
                tuple(BookLevel(quote.ask_price_micros + 10_000 * i, 50_000_000) for i in range(LEVELS)),
                epoch=1,
                receive_time_us=quote.receive_time_us,
            )
            for quote in quotes(number)
            if quote.bid_price_micros is not None and quote.ask_price_micros is not None
        ]
        await store.record_books(lease, books, LEVELS)


async def computed(bench: Bench, fill_model: str, number: int) -> tuple[BacktestResult, Sequence[BlotterRow]]:
    planner, work = Planner(Registry()), SweepWorkRecords(bench.database)
    spec = planner.check_backtest(
        BacktestSpec(
            (StrategySelection("stat.mean_reversion"),),
            T0,
            T0 + ROWS * MINUTE,
            100 * STAKE,
            sizing=SizingRule(stake_micros=STAKE),
            execution=ExecutionRule(fill_model=fill_model),
        )
    )
    made = await bench.create(spec, number)
    run = await work.claim(made.run_id, T0, 1)
    assert run is not None
    data = RecordedRows(bench.database, bench.folder)
    await Computation(work, data, planner, lambda: time.time_ns() // 1000, 500_000).backtest(run)
    result = await bench.runs.result(made.run_id)
    assert isinstance(result, BacktestResult)
    return result, (await bench.runs.list_trades(made.run_id, BlotterFilter(), None, 1000)).items


async def test_an_order_larger_than_the_touch_walks_the_stored_book_and_is_cut_off_without_one(bench: Bench) -> None:
    without, cut = await computed(bench, "book_walk", 1)
    await record_books(bench)
    touched, touches = await computed(bench, "touch", 2)
    walked, walks = await computed(bench, "book_walk", 3)
    assert without.input_digest != walked.input_digest == touched.input_digest
    assert [t.size_micros for t in cut] == [t.size_micros for t in touches]
    assert len({without.result_hash, touched.result_hash, walked.result_hash}) == 3

    assert {t.size_micros for t in touches} == {50_000_000}, "no more than the touch shows"
    parts: dict[tuple[str, int, int], list[BlotterRow]] = defaultdict(list)
    for t in walks:
        parts[t.market_id, t.signal_time_us, t.entry_time_us].append(t)
    deep = 0
    for touch in touches:
        walk = parts.get((touch.market_id, touch.signal_time_us, touch.entry_time_us))
        if walk is None:
            continue  # the money of the one was locked where the other's was not
        deep += len(walk) > 2
        # level by level: fifty contracts each, a cent worse than the one before, the stake's rest from the last
        assert [t.entry_price_micros - touch.entry_price_micros for t in walk] == [10_000 * i for i in range(len(walk))]
        assert [t.size_micros for t in walk[:-1]] == [50_000_000] * (len(walk) - 1)
        spent = sum(t.entry_price_micros * t.size_micros // 1_000_000 for t in walk)
        assert STAKE * 9 // 10 < spent <= STAKE
    assert deep > 3
    assert walked.final_equity_micros != touched.final_equity_micros
