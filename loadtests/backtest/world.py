"""The benchmark's data set: 1,000 binary markets of 1,000 one-minute quotes in whole cents."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtests.backtest.strategy import a_strategy
from oddstream_server.backtesting.config import BacktestConfig, Execution, FillModel, Sizing
from oddstream_server.backtesting.records.columns import BookRows, QuoteRows, Shard, TradeRows
from oddstream_server.backtesting.records.universe import RecordedMarket, Universe
from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.market import (
    Market,
    MarketState,
    Outcome,
    PriceRange,
    Settlement,
    SettlementState,
    Venue,
)

MARKETS, ROWS = 1_000, 1_000
START_US = 1_780_000_000_000_000
MINUTE_US = 60_000_000
CENT = 10_000


@dataclass(frozen=True)
class World:
    universe: Universe
    shard: Shard
    bid_cents: Any
    """float64 [row, market], for the others."""
    ask_cents: Any
    won: Any
    end_us: int

    def config(self) -> BacktestConfig:
        # the others fill at the signal's quote, so the engine is asked to do what nobody could
        rules = Execution(FillModel.TOUCH, fill_on_trigger_quote=True)
        return BacktestConfig((a_strategy(),), START_US, self.end_us, 10**15, Sizing(stake_micros=50_000_000), rules)


def a_market(number: int) -> Market:
    native = f"M{number:07}"
    return Market(
        market_id=f"simulated:{native}",
        venue=Venue.SIMULATED,
        venue_market_id=native,
        event_id=None,
        title=native,
        outcomes=(Outcome(0, "Yes", native), Outcome(1, "No", native)),
        state=MarketState.OPEN,
        price_ranges=(PriceRange(0, 1_000_000, CENT),),
        minimum_size_micros=1_000_000,
        size_step_micros=1_000_000,
        fee_schedules=(FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, rounding_step_micros=CENT),),
    )


def recorded_markets(count: int, won: Any, end_us: int) -> list[RecordedMarket]:
    return [
        RecordedMarket(
            a_market(i),
            ((0, MarketState.OPEN), (end_us, MarketState.CLOSED)),
            (
                Settlement(
                    SettlementState.FINAL,
                    1_000_000 if won[i % MARKETS] else 0,
                    1,
                    known_time_us=end_us,
                    paid_time_us=end_us,
                ),
            ),
        )
        for i in range(count)
    ]


def a_world() -> World:
    rng = np.random.Generator(np.random.PCG64(1))
    mid = np.clip(50 + np.cumsum(rng.normal(0, 0.6, (ROWS, MARKETS)), axis=0), 3, 97) + rng.normal(
        0, 1, (ROWS, MARKETS)
    )
    bid = np.clip(np.floor(mid - 0.5), 1, 97)
    ask = np.minimum(bid + rng.integers(1, 3, (ROWS, MARKETS)), 99)
    times = START_US + MINUTE_US * np.arange(ROWS, dtype=np.int64)[:, None] + np.arange(MARKETS, dtype=np.int64)
    end_us = START_US + MINUTE_US * ROWS
    won = mid[-1] > 50
    points = ROWS * MARKETS
    quotes = QuoteRows(
        market=np.tile(np.arange(MARKETS, dtype=np.int32), ROWS),
        receive_time_us=times.reshape(-1).copy(),
        ingest_sequence=np.arange(points, dtype=np.int64),
        bid_price_micros=(bid * CENT).reshape(-1).astype(np.int32),
        bid_size_micros=np.full(points, -1, dtype=np.int64),
        ask_price_micros=(ask * CENT).reshape(-1).astype(np.int32),
        ask_size_micros=np.full(points, -1, dtype=np.int64),
        epoch=np.zeros(points, dtype=np.int32),
    )
    universe = Universe(recorded_markets(MARKETS, won, end_us))
    shard = Shard(tuple(range(MARKETS)), quotes, TradeRows.none(), BookRows.none())
    return World(universe, shard, bid, ask, won, end_us)
