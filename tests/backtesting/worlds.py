"""Small random worlds for the engine: markets with fees, life and settlements, and rows with every oddity."""

import random
from dataclasses import dataclass, replace

from oddstream_server.backtesting.records.columns import BookRows, QuoteRows, Shard, TradeRows
from oddstream_server.backtesting.records.universe import RecordedMarket, Universe
from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.market import (
    CollateralRule,
    Declared,
    Event,
    MarketState,
    Settlement,
    SettlementState,
)
from oddstream_server.domain.quote import BookLevel, OrderBook, Quote, Trade
from tests.strategies.worlds import SOURCE, START_US, a_market, a_quote

MINUTE_US = 60_000_000
CENT = 10_000

FEE_ERAS = (
    FeeSchedule(
        FeeFormula.QUADRATIC, 70_000, 17_500, rounding_step_micros=10_000, valid_to_us=START_US + 60 * MINUTE_US
    ),
    FeeSchedule(
        FeeFormula.QUADRATIC,
        70_000,
        17_500,
        rounding_step_micros=100,
        balance_step_micros=10_000,
        valid_from_us=START_US + 60 * MINUTE_US,
        known_from_us=START_US + 60 * MINUTE_US,
    ),
)
POWER_FEES = (FeeSchedule(FeeFormula.QUADRATIC_POWER, 250_000, 0, exponent=2, rounding_step_micros=100),)
ORDER_FEES = (FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, rounding_step_micros=10_000, rounds_over_order=True),)
FLAT_FEES = (FeeSchedule(FeeFormula.FLAT, 12_345, 0, rounding_step_micros=10, minimum_micros=50_000),)
NO_FEES_KNOWN: tuple[FeeSchedule, ...] = ()


@dataclass(frozen=True)
class BacktestWorld:
    universe: Universe
    quotes: tuple[Quote, ...]
    trades: tuple[Trade, ...]
    books: tuple[OrderBook, ...]
    start_us: int
    end_us: int

    def shard(self, markets: tuple[int, ...] | None = None) -> Shard:
        """The rows of some markets, of all without an argument."""
        chosen = markets if markets is not None else tuple(range(len(self.universe)))
        ids = {self.universe.market_ids[i] for i in chosen}
        index = self.universe.index
        return Shard(
            chosen,
            QuoteRows.of([q for q in self.quotes if q.market_id in ids], index),
            TradeRows.of([t for t in self.trades if t.market_id in ids], index),
            BookRows.of([b for b in self.books if b.market_id in ids], index),
        )


def _settlements(rng: random.Random, close_us: int) -> tuple[Settlement, ...]:
    known = close_us + rng.choice((0, 1, MINUTE_US))
    first = Settlement(
        SettlementState.FINAL,
        rng.choice((0, 1_000_000, 1_000_000, 500_000, 333_333, None)),
        1,
        known_time_us=known,
        paid_time_us=rng.choice((known, known + 30 * MINUTE_US, known + 10_000 * MINUTE_US, None)),
        void=rng.random() < 0.2,
    )
    if rng.random() > 0.3:
        return (first,)
    amended = replace(
        first,
        state=SettlementState.AMENDED,
        revision=2,
        yes_payout_micros=rng.choice((0, 1_000_000, 250_000)),
        known_time_us=known + rng.choice((1, 20 * MINUTE_US, 60 * MINUTE_US)),
        paid_time_us=rng.choice((None, known + 90 * MINUTE_US)),
    )
    return (first, amended)


def a_backtest_world(seed: int, instants: int = 120) -> BacktestWorld:
    """Five markets: three of an exclusive event that is margined once, one of an event of its own, one alone."""
    rng = random.Random(seed)
    fees = (FEE_ERAS, POWER_FEES, ORDER_FEES, FLAT_FEES, rng.choice((NO_FEES_KNOWN, FEE_ERAS)))
    events = ("kalshi:E", "kalshi:E", "kalshi:E", "kalshi:F", None)
    steps = (10_000, 1_000_000, 1_000_000, 1, 10_000)
    end_us = START_US + rng.choice((150, 400)) * MINUTE_US
    markets = []
    for i in range(5):
        market = a_market(
            i,
            events[i],
            fee_schedules=fees[i],
            size_step_micros=steps[i],
            minimum_size_micros=rng.choice((1, 1_000_000, 3_000_000)),
            taker_delay_us=rng.choice((0, 0, 3_000_000)),
        )
        known_us = START_US + rng.choice((-MINUTE_US, 0, 5 * MINUTE_US))
        close_us = START_US + rng.choice((100, 140, 140, 600)) * MINUTE_US
        states = [(known_us, MarketState.OPEN), (close_us, MarketState.CLOSED)]
        if rng.random() < 0.3:
            pause = START_US + rng.randint(20, 90) * MINUTE_US
            states += [(pause, MarketState.PAUSED), (pause + 4 * MINUTE_US, MarketState.OPEN)]
        settlements = _settlements(rng, close_us) if rng.random() < 0.9 else ()
        markets.append(RecordedMarket(market, tuple(sorted(states, key=lambda s: s[0])), settlements))
    rule = rng.choice((CollateralRule.MUTUALLY_EXCLUSIVE, CollateralRule.NONE))
    universe = Universe(
        markets,
        [
            Event(
                "kalshi:E",
                markets[0].market.venue,
                "E",
                "E",
                market_ids=tuple(m.market.market_id for m in markets[:3]),
                exclusivity=Declared.YES,
                exhaustiveness=Declared.YES,
                collateral_rule=rule,
            ),
            Event("kalshi:F", markets[0].market.venue, "F", "F", market_ids=(markets[3].market.market_id,)),
        ],
    )
    quotes: list[Quote] = []
    trades: list[Trade] = []
    books: list[OrderBook] = []
    anchors = [0.30, 0.34, 0.36, 0.5, 0.8]
    mids, epochs = list(anchors), [1] * 5
    now, sequence = START_US - 3 * MINUTE_US, 0
    for _ in range(instants):
        now += rng.choice((1, 250_000, 1_000_000, 60_000_000, 90_000_000))
        for i in rng.choices(range(5), k=rng.choice((1, 2, 3, 6))):
            jump = rng.choice((-0.12, 0.12)) if rng.random() < 0.05 else 0.0
            mids[i] = min(0.95, max(0.05, mids[i] + 0.2 * (anchors[i] - mids[i]) + rng.gauss(0, 0.004) + jump))
            cents = round(mids[i] * 100)
            bid: int | None = (cents - 1) * CENT
            ask: int | None = (cents + rng.choice((0, 1))) * CENT
            if i == 3:
                bid, ask = bid and bid - 1_234, ask and ask + 57
            size = rng.choice((1, 5, 5, 7, 40, 0.005)) * 1_000_000
            fate = rng.random()
            if fate < 0.03:
                bid = None
            elif fate < 0.06:
                ask = None
            elif fate < 0.08:
                bid, ask = ask, bid
            elif fate < 0.09:
                bid, ask = CENT, 99 * CENT
            elif fate < 0.11:
                epochs[i] += 1
            sequence += 1
            market_id = f"kalshi:M{i}"
            quote = replace(
                a_quote(
                    market_id,
                    now,
                    bid,
                    ask,
                    bid_size=int(size) if rng.random() < 0.9 else None,
                    ask_size=int(rng.choice((size, 3_000_000))) if rng.random() < 0.9 else None,
                    epoch=epochs[i],
                    key=sequence,
                ),
                ingest_sequence=sequence,
            )
            quotes.append(quote)
            if rng.random() < 0.5 and bid is not None and ask is not None and bid < ask:
                books.append(_a_book(rng, quote))
            if rng.random() < 0.6 and bid is not None and ask is not None:
                sequence += 1
                trades.append(
                    Trade(
                        market_id,
                        now + rng.choice((0, 0, 100)),
                        rng.choice((bid, ask, (bid + ask) // 2)),
                        rng.choice((1, 3, 10, 0.5)) * 1_000_000 // 1,  # type: ignore[arg-type]  # whole after //
                        rng.choice((0, 1, None)),
                        SOURCE,
                        str(sequence),
                        block=rng.random() < 0.1,
                        ingest_sequence=sequence,
                    )
                )
    trades = [replace(t, size_micros=int(t.size_micros)) for t in trades]
    return BacktestWorld(universe, tuple(quotes), tuple(trades), tuple(books), START_US, end_us)


def _a_book(rng: random.Random, quote: Quote) -> OrderBook:
    bid, ask = quote.bid_price_micros, quote.ask_price_micros
    assert bid is not None
    assert ask is not None
    shift = rng.choice((0, 0, 0, CENT))
    bids = tuple(
        BookLevel(bid - shift - k * CENT, (quote.bid_size_micros or 2_000_000) + k * 500_000)
        for k in range(4)
        if bid - shift - k * CENT > 0
    )
    asks = tuple(
        BookLevel(ask + k * CENT, (quote.ask_size_micros or 2_000_000) + k * 500_000)
        for k in range(4)
        if ask + k * CENT < 1_000_000
    )
    return OrderBook(quote.market_id, bids, asks, quote.epoch, quote.receive_time_us)
