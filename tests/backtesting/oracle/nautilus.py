"""The shared world played by nautilus_trader: its books, matching, cash account, positions and expiry.

Each outcome of a market is an instrument of its own whose book mirrors the other's. Orders are limits that are
immediate or cancelled, at the last level shown; sizes are worked out here from the stake in exact fractions. A payout
is a last book that bids it, into which all that is held is sold free of fees: nautilus closes positions by itself when
an instrument expires, but its account is credited nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import Any

from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.backtest.models import FeeModel
from nautilus_trader.config import LoggingConfig, RiskEngineConfig
from nautilus_trader.model.currencies import USDC_POS
from nautilus_trader.model.data import BookOrder, OrderBookDelta, OrderBookDeltas
from nautilus_trader.model.enums import (
    AccountType,
    AssetClass,
    BookAction,
    BookType,
    OmsType,
    OrderSide,
    TimeInForce,
)
from nautilus_trader.model.identifiers import InstrumentId, Symbol, Venue
from nautilus_trader.model.instruments import BinaryOption
from nautilus_trader.model.objects import Money, Price, Quantity
from nautilus_trader.trading.strategy import Strategy

from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from tests.backtesting.oracle.shared_fixture import (
    BANKROLL_MICROS,
    LATENCY_US,
    STAKE_MICROS,
    BookShown,
    Intent,
    Levels,
    SharedMarket,
    SharedWorld,
)

VENUE = Venue("POLYMARKET")
MICROS = 1_000_000
ENDLESS = 10**7 * MICROS


@dataclass(frozen=True)
class Fill:
    time_us: int
    market: int
    outcome: int
    side: str
    """"buy", "sell" or "paid"."""
    price_micros: int
    size_micros: int
    fee_micros: int


@dataclass
class Played:
    """What nautilus came to."""

    fills: list[Fill] = field(default_factory=list)
    cash: list[tuple[int, int]] = field(default_factory=list)
    """(time, balance) of each account event, in micros."""

    def cash_at(self, time_us: int) -> int:
        return [BANKROLL_MICROS, *(balance for at, balance in self.cash if at <= time_us)][-1]


def instrument_id(market: int, outcome: int) -> InstrumentId:
    return InstrumentId(Symbol(f"M{market}-{'YES' if outcome == 0 else 'NO'}"), VENUE)


def place_of(instrument: InstrumentId) -> tuple[int, int]:
    market, outcome = instrument.symbol.value[1:].split("-")
    return int(market), int(outcome == "NO")


def micros(value: Any) -> int:
    """A price, quantity or amount of nautilus in micros, exactly."""
    exact = value.as_decimal() * MICROS
    assert exact == int(exact)
    return int(exact)


def a_price(price_micros: int) -> Price:
    return Price(Decimal(price_micros) / MICROS, 6)


def a_quantity(size_micros: int) -> Quantity:
    return Quantity(Decimal(size_micros) / MICROS, 6)


def fee_of(schedules: Sequence[FeeSchedule], time_us: int, price_micros: int, size_micros: int) -> int:
    """A fill's fee in micros, in fractions and rounded up once, apart from the engine's integers."""
    (rule,) = [s for s in schedules if s.holds_at(time_us)]
    price, size = Fraction(price_micros, MICROS), Fraction(size_micros, MICROS)
    rate = Fraction(rule.taker_rate_ppm, MICROS) * Fraction(rule.multiplier_ppm, MICROS)
    due = {
        FeeFormula.NONE: Fraction(0),
        FeeFormula.QUADRATIC: rate * size * price * (1 - price),
        FeeFormula.FLAT: rate * size,
    }[rule.formula]
    return ceil(due * MICROS / rule.rounding_step_micros) * rule.rounding_step_micros


class DatedFees(FeeModel):  # type: ignore[misc]  # nautilus is untyped
    def __init__(self, markets: Sequence[SharedMarket]) -> None:
        super().__init__()
        self._markets = markets

    def get_commission(self, order: Any, fill_qty: Any, fill_px: Any, instrument: Any) -> Any:
        if order.tags:  # a payout is free
            return Money(0, USDC_POS)
        market, _ = place_of(instrument.id)
        fee = fee_of(self._markets[market].fees, order.ts_init // 1_000, micros(fill_px), micros(fill_qty))
        return Money(Decimal(fee) / MICROS, USDC_POS)


class Executor(Strategy):  # type: ignore[misc]  # nautilus is untyped
    """Does what intents say on the first book of the market that comes a latency or more after them."""

    def __init__(self, world: SharedWorld, intents: Iterable[Intent], played: Played) -> None:
        super().__init__()
        self._world, self._played = world, played
        self._intents: dict[int, list[Intent]] = {m: [] for m in range(len(world.markets))}
        for intent in intents:
            self._intents[intent.market].append(intent)
        self._entry: dict[int, Intent | None] = {}
        self._exit: dict[tuple[int, int], Intent | None] = {}

    def on_start(self) -> None:
        for market in range(len(self._world.markets)):
            for outcome in (0, 1):
                self.subscribe_order_book_deltas(instrument_id(market, outcome), BookType.L2_MBP)

    def on_order_book_deltas(self, deltas: Any) -> None:
        market, outcome = place_of(deltas.instrument_id)
        now = deltas.ts_init // 1_000
        rules = self._world.markets[market]
        if now == rules.paid_us and self._held(deltas.instrument_id):
            (bid,) = self.cache.order_book(deltas.instrument_id).bids()
            size = self._held(deltas.instrument_id)
            self._order(deltas.instrument_id, OrderSide.SELL, size, micros(bid.price), tags=["PAYOUT"])
        if now >= rules.close_us:
            return
        told = self._intents[market]
        while told and told[0].time_us < now:
            intent = told.pop(0)
            self._entry[market] = intent if intent.enters else None  # what is wanted now ends what waits
            if not intent.enters:
                self._exit[market, intent.outcome] = intent
        book = self.cache.order_book(deltas.instrument_id)
        bids, asks = (
            [(micros(x.price), round(x.size() * MICROS)) for x in side] for side in (book.bids(), book.asks())
        )
        leaving = self._exit.get((market, outcome))
        if leaving is not None and now >= leaving.time_us + LATENCY_US and bids:
            self._exit[market, outcome] = None
            self._leave(deltas.instrument_id, bids)
        wanted = self._entry.get(market)
        if wanted is not None and wanted.outcome == outcome and now >= wanted.time_us + LATENCY_US and asks:
            self._entry[market] = None
            self._enter(deltas.instrument_id, now, asks)

    def _held(self, instrument: InstrumentId) -> int:
        return sum(micros(p.quantity) for p in self.cache.positions_open(None, instrument))

    def _leave(self, instrument: InstrumentId, bids: Sequence[tuple[int, int]]) -> None:
        market, _ = place_of(instrument)
        step = self._world.markets[market].size_step_micros
        size = min(self._held(instrument), sum(size for _, size in bids)) // step * step
        if size:
            self._order(instrument, OrderSide.SELL, size, bids[-1][0])

    def _enter(self, instrument: InstrumentId, now: int, asks: Sequence[tuple[int, int]]) -> None:
        if self._held(instrument):
            return
        market, _ = place_of(instrument)
        rules = self._world.markets[market]
        budget = min(STAKE_MICROS, micros(self.portfolio.account(VENUE).balance_free(USDC_POS)))
        total = 0
        for price, shown in asks:
            size = shown // rules.size_step_micros * rules.size_step_micros
            low, high = 0, size // rules.size_step_micros + 1  # the largest count that can be paid, by halving
            while high - low > 1:
                middle = (low + high) // 2
                tried = middle * rules.size_step_micros
                due = ceil(Fraction(price * tried, MICROS)) + fee_of(rules.fees, now, price, tried)
                low, high = (middle, high) if due <= budget else (low, middle)
            taken = low * rules.size_step_micros
            total += taken
            if taken:
                budget -= ceil(Fraction(price * taken, MICROS)) + fee_of(rules.fees, now, price, taken)
            if taken < size:
                break
        if total:
            self._order(instrument, OrderSide.BUY, total, asks[-1][0])

    def _order(self, instrument: InstrumentId, side: OrderSide, size: int, limit: int, **more: Any) -> None:
        quantity, price = a_quantity(size), a_price(limit)
        order = self.order_factory.limit(instrument, side, quantity, price, time_in_force=TimeInForce.IOC, **more)
        self.submit_order(order)

    def on_order_denied(self, event: Any) -> None:
        raise AssertionError(f"nautilus denied an order: {event.reason}")

    def on_order_rejected(self, event: Any) -> None:
        raise AssertionError(f"nautilus rejected an order: {event.reason}")

    def on_order_filled(self, event: Any) -> None:
        market, outcome = place_of(event.instrument_id)
        side = "buy" if event.order_side == OrderSide.BUY else "sell"
        if self.cache.order(event.client_order_id).tags:
            side = "paid"
        self._played.fills.append(
            Fill(
                event.ts_event // 1_000,
                market,
                outcome,
                side,
                micros(event.last_px),
                micros(event.last_qty),
                micros(event.commission),
            )
        )


def _snapshot(market: int, outcome: int, time_us: int, bids: Levels, asks: Levels) -> Any:
    instrument, ns = instrument_id(market, outcome), time_us * 1_000
    made = [OrderBookDelta.clear(instrument, 0, ns, ns)]
    for side, levels in ((OrderSide.BUY, bids), (OrderSide.SELL, asks)):
        for price, size in levels:
            order = BookOrder(side, a_price(price), a_quantity(size), 0)
            made.append(OrderBookDelta(instrument, BookAction.ADD, order, 0, 0, ns, ns))
    return OrderBookDeltas(instrument, made)


def _both_outcomes(book: BookShown) -> list[Any]:
    mirrored = [tuple((MICROS - price, size) for price, size in side) for side in (book.asks, book.bids)]
    return [
        _snapshot(book.market, 0, book.time_us, book.bids, book.asks),
        _snapshot(book.market, 1, book.time_us, mirrored[0], mirrored[1]),
    ]


def _payments(engine: BacktestEngine, market: int, rules: SharedMarket) -> list[Any]:
    """The last book of each outcome; where the stake is given back, it bids what was paid."""
    made = []
    for outcome in (0, 1):
        instrument = instrument_id(market, outcome)
        if rules.payout_micros is None:
            paid = [p.avg_px_open for p in engine.cache.positions_open(None, instrument)]
            price = round(paid[0] * MICROS) if paid else 0
        else:
            price = rules.payout_micros if outcome == 0 else MICROS - rules.payout_micros
        made.append(_snapshot(market, outcome, rules.paid_us, ((price, ENDLESS),), ()))
    return made


def play(world: SharedWorld, intents: Iterable[Intent]) -> Played:
    """One run of nautilus over the whole world."""
    # its risk check asks for free cash behind sales too; an account below zero is an error all the same
    config = BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True), risk_engine=RiskEngineConfig(bypass=True))
    engine = BacktestEngine(config)
    played = Played()
    try:
        engine.add_venue(
            VENUE,
            OmsType.NETTING,
            AccountType.CASH,
            [Money(Decimal(BANKROLL_MICROS) / MICROS, USDC_POS)],
            base_currency=USDC_POS,
            fee_model=DatedFees(world.markets),
            book_type=BookType.L2_MBP,
            use_message_queue=False,  # an order meets the book that it was made from
        )
        for market in range(len(world.markets)):
            for outcome in (0, 1):
                engine.add_instrument(_an_instrument(market, outcome))
        engine.add_strategy(Executor(world, intents, played))
        payments: Mapping[int, int] = {m.paid_us: i for i, m in enumerate(world.markets)}
        begun = 0
        for paid_us in sorted(payments):
            market = payments[paid_us]
            for data in (
                [x for b in world.books if begun <= b.time_us < paid_us for x in _both_outcomes(b)],
                None,
            ):
                batch = _payments(engine, market, world.markets[market]) if data is None else data
                if batch:
                    engine.add_data(batch)
                    engine.run(streaming=True)
                    engine.clear_data()
            begun = paid_us
        engine.end()
        account = engine.portfolio.account(VENUE)
        played.cash = [(e.ts_event // 1_000, micros(e.balances[0].total)) for e in account.events]
        assert not engine.cache.positions_open()
    finally:
        engine.dispose()
    return played


def _an_instrument(market: int, outcome: int) -> BinaryOption:
    instrument = instrument_id(market, outcome)
    return BinaryOption(
        instrument_id=instrument,
        raw_symbol=instrument.symbol,
        asset_class=AssetClass.ALTERNATIVE,
        currency=USDC_POS,
        price_precision=6,
        size_precision=6,
        price_increment=Price(Decimal("0.000001"), 6),
        size_increment=Quantity(Decimal("0.000001"), 6),
        activation_ns=0,
        expiration_ns=2**62,
        ts_event=0,
        ts_init=0,
    )
