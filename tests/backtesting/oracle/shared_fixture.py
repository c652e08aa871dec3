"""A seeded world that our engine and a public one can both play: books, intents, fees, payouts."""

import random
from dataclasses import dataclass
from typing import Any

from oddstream_server.backtesting.config import BacktestConfig, Execution, FillModel, Sizing
from oddstream_server.backtesting.engine import Outcome, run
from oddstream_server.backtesting.records.columns import BookRows, QuoteRows, Shard, TradeRows
from oddstream_server.backtesting.records.universe import RecordedMarket, Universe
from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.market import MarketState, Settlement, SettlementState
from oddstream_server.domain.quote import BookLevel, OrderBook
from oddstream_server.strategies.registry import ConfiguredStrategy
from tests.backtesting.scenes import cue
from tests.strategies.worlds import START_US, a_market, a_quote

SECOND_US = 1_000_000
CENT = 10_000
CONTRACT = 1_000_000
LATENCY_US = 500_000
STAKE_MICROS, BANKROLL_MICROS = 20 * CONTRACT, 60 * CONTRACT
END_US = START_US + 4 * 3_600 * SECOND_US
CHANGE_US = START_US + 1_500 * SECOND_US
"""From here on market 0 charges by another schedule."""

Levels = tuple[tuple[int, int], ...]
"""(price, size) in micros, best first."""


@dataclass(frozen=True)
class BookShown:
    """The whole book of a market's outcome 0 as it was received."""

    time_us: int
    market: int
    bids: Levels
    asks: Levels


@dataclass(frozen=True)
class SharedMarket:
    fees: tuple[FeeSchedule, ...]
    size_step_micros: int
    payout_micros: int | None
    """Of outcome 0; None: what a position cost is given back."""
    paid_us: int

    @property
    def close_us(self) -> int:
        """Two minutes before the payment; in between the result becomes known."""
        return self.paid_us - 120 * SECOND_US


@dataclass(frozen=True)
class Intent:
    """What both engines are told to do. :ivar enters: False to leave the position."""

    time_us: int
    market: int
    outcome: int
    enters: bool


@dataclass(frozen=True)
class SharedWorld:
    markets: tuple[SharedMarket, ...]
    books: tuple[BookShown, ...]
    walks: bool
    """True where orders go through all levels, False where they take the touch alone."""


def step(state: Any, params: Any, row: Any, out: Any) -> None:
    """The last digit of the time is the cue, so that prices stay whole cents: 1 buys outcome 0, 2 buys outcome 1."""
    state["rows"] += 1
    told = row["receive_time_us"] % 10
    if told == 1 or told == 2:
        out["side"] = told
        out["entry"] = 1
        out["strength_ppm"] = 500_000
        out["net_edge_micros"] = 1
        out["fair_value_micros"] = 500_000
        out["time_to_live_us"] = params["time_to_live_us"]


def told_by_the_clock() -> ConfiguredStrategy:
    return cue("test.clock", columns=("receive_time_us",), step=step)


def a_shared_world(seed: int, *, walks: bool) -> SharedWorld:
    """Four markets with fees of each formula, two minutes a row; paid 1, 0, a quarter and back what was paid.

    Each market is bought on one side only: the public engine knows no merge of both.
    """
    rng = random.Random(seed)
    fees = (
        (
            FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, rounding_step_micros=CENT, valid_to_us=CHANGE_US),
            FeeSchedule(FeeFormula.QUADRATIC, 35_000, 0, rounding_step_micros=1, valid_from_us=CHANGE_US),
        ),
        (FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, multiplier_ppm=500_000, rounding_step_micros=CENT),),
        (FeeSchedule(FeeFormula.FLAT, 12_345, 0, rounding_step_micros=100),),
        (FeeSchedule(FeeFormula.NONE, 0, 0),),
    )
    payouts = [1_000_000, 0, 250_000, None]
    rng.shuffle(payouts)
    paid = [START_US + minute * 60 * SECOND_US + 7 for minute in (130, 140, 150, 160)]
    rng.shuffle(paid)
    markets = tuple(
        SharedMarket(fee, size_step, payout, at)
        for fee, size_step, payout, at in zip(fees, (CONTRACT, CENT, CONTRACT, CONTRACT), payouts, paid, strict=True)
    )
    books = []
    sides = [rng.choice((1, 2)) for _ in markets]
    wants, mids = [0] * 4, [30, 45, 55, 70]
    for k in range(200):
        market = rng.randrange(4)
        mids[market] = min(90, max(10, mids[market] + rng.choice((-2, -1, 0, 1, 2))))
        if rng.random() < 0.35:
            wants[market] = sides[market] - wants[market]  # in when out, out when in
        bid, ask = mids[market] * CENT, (mids[market] + rng.choice((1, 2))) * CENT
        # rows come 30 seconds apart at most, some sooner than an order gets to the venue
        time_us = START_US + k * 30 * SECOND_US - rng.choice((0, 0, 29_700_000)) * (k > 0)
        bids = tuple((bid - j * CENT, rng.choice((4, 15, 60)) * CONTRACT) for j in range(3 if walks else 1))
        asks = tuple((ask + j * CENT, rng.choice((4, 15, 60)) * CONTRACT) for j in range(3 if walks else 1))
        missing = rng.random()
        books.append(
            BookShown(
                time_us // 10 * 10 + wants[market],
                market,
                () if missing < 0.05 else bids,
                () if missing > 0.95 else asks,
            )
        )
    return SharedWorld(markets, tuple(books), walks)


def our_run(world: SharedWorld) -> Outcome:
    """Our engine on the world, equity taken every ten minutes."""
    recorded = []
    for i, m in enumerate(world.markets):
        market = a_market(
            i,
            None,
            fee_schedules=m.fees,
            size_step_micros=m.size_step_micros,
            minimum_size_micros=m.size_step_micros,
        )
        settlement = Settlement(
            SettlementState.FINAL,
            m.payout_micros,
            1,
            known_time_us=m.paid_us - 60 * SECOND_US,
            paid_time_us=m.paid_us,
            void=m.payout_micros is None,
        )
        states = ((0, MarketState.OPEN), (m.close_us, MarketState.CLOSED))
        recorded.append(RecordedMarket(market, states, (settlement,)))
    universe = Universe(recorded)
    quotes, books = [], []
    for b in world.books:
        (bid, bid_size), (ask, ask_size) = (side[0] if side else (None, None) for side in (b.bids, b.asks))
        quotes.append(a_quote(f"kalshi:M{b.market}", b.time_us, bid, ask, bid_size, ask_size, epoch=1))
        bids, asks = (tuple(BookLevel(*level) for level in side) for side in (b.bids, b.asks))
        books.append(OrderBook(f"kalshi:M{b.market}", bids, asks, 1, b.time_us))
    config = BacktestConfig(
        (told_by_the_clock(),),
        START_US,
        END_US,
        BANKROLL_MICROS,
        Sizing(stake_micros=STAKE_MICROS),
        Execution(FillModel.BOOK_WALK if world.walks else FillModel.TOUCH, latency_us=LATENCY_US),
        tuple(range(START_US + 600 * SECOND_US, END_US, 600 * SECOND_US)),
    )
    shard = Shard(
        tuple(range(len(universe))),
        QuoteRows.of(quotes, universe.index),
        TradeRows.none(),
        BookRows.of(books, universe.index) if world.walks else BookRows.none(),
    )
    return run(config, universe, [shard])


def intents_of(outcome: Outcome) -> list[Intent]:
    """What our strategy wanted, for the other engine to do."""
    names = ("time_us", "market", "outcome", "kind")
    rows = zip(*(outcome.log.intents[name].tolist() for name in names), strict=True)
    return [Intent(time_us, market, side, kind == 1) for time_us, market, side, kind in rows]
