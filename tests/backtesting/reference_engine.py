"""A second implementation of the engine: slow, plain, and written from the rules, not from the fast one.

It walks one timeline with objects and dictionaries, takes signals from the live code (gate, kernel, verdicts, tracker),
forms fees as fractions, and shares with the engine nothing but the hash over the finished blotter.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from oddstream_server.backtesting.config import BacktestConfig, FillModel
from oddstream_server.backtesting.engine import result_hash
from oddstream_server.backtesting.records.universe import Universe
from oddstream_server.domain.fees import FeeFormula, FeeSchedule, schedule_at
from oddstream_server.domain.market import CollateralRule, Declared, Market, MarketState, Settlement
from oddstream_server.domain.quote import OrderBook, Quote, Trade
from oddstream_server.domain.signal import Action, DataOrigin, SignalEvent, SignalEventType
from oddstream_server.strategies import tracker
from oddstream_server.strategies.gate import Shut
from oddstream_server.strategies.registry import ConfiguredStrategy
from oddstream_server.strategies.verdicts import Trigger, column_values, group_verdict, market_verdict, print_values
from tests.backtesting.worlds import BacktestWorld

MICROS = 1_000_000
TEN_MILLION = 10_000_000 * MICROS
HOUR_US = 3_600_000_000


@dataclass
class Wish:
    """An intent of one leg."""

    number: int
    strategy: int
    subject: str
    market: Market
    outcome: int
    time_us: int
    strength: int = 0
    edge: int = 0
    fair: int | None = None
    expire_us: int = 0
    price: int = 0
    size: int | None = None
    basket: list["Wish"] = field(default_factory=list)


@dataclass
class Waiting:
    """An entry or exit on its way."""

    wish: Wish
    trigger: Quote
    arrival_us: int
    rungs: set[str]
    """Of signal, next, configured: the moments that it has not met yet."""
    resting_price: int | None = None
    queue: int | None = None
    credited: int = 0
    credited_us: int = 0


@dataclass
class Lot:
    number: int
    wish: Wish
    size: int
    price: int
    cost: int
    fee: int
    entry_us: int
    maker: bool
    parts: int = 0
    gone: bool = False
    paid: int | None = None
    exit_us: int = 0
    paid_payout: int | None = None
    paid_void: bool = False


@dataclass
class OrderFees:
    raw: int = 0
    charged: int = 0
    over: int = 0


class ReferenceBank:
    """One bankroll under one assumption."""

    def __init__(self, config: BacktestConfig, universe: Universe, moment: str, at_mid: bool, with_fees: bool) -> None:
        self.config, self.universe = config, universe
        self.moment, self.at_mid, self.with_fees = moment, at_mid, with_fees
        self.cash = config.starting_bankroll_micros
        self.lots: list[Lot] = []
        self.rows: list[tuple[int, int, list[int]]] = []
        self.budgets: dict[int, int] = {}
        self.limits: dict[int, int] = {}
        self.filled: set[int] = set()
        self.orders: dict[int, OrderFees] = defaultdict(OrderFees)
        self.results: dict[str, Settlement] = {}
        self.credits: dict[str, int] = {}
        self.equity: list[list[int]] = []

    # --- money --------------------------------------------------------------------------------------------------

    def open_lots(self, market_id: str | None = None) -> list[Lot]:
        return [
            lot
            for lot in self.lots
            if not lot.gone and lot.paid is None and market_id in (None, lot.wish.market.market_id)
        ]

    @property
    def locked(self) -> int:
        return sum(lot.cost for lot in self.open_lots()) - sum(self.credits.values())

    @property
    def bankroll(self) -> int:
        return self.cash + self.locked

    def fee(
        self, order: OrderFees, s: FeeSchedule, maker: bool, buys: bool, price: int, size: int, payout: int
    ) -> tuple[int, int, int]:
        """Raw fee, fee by the step, and balance rounding."""
        rate = Fraction((s.maker_rate_ppm if maker else s.taker_rate_ppm) * s.multiplier_ppm, MICROS * MICROS)
        p, contracts = Fraction(price, payout), Fraction(size, MICROS)
        if s.formula is FeeFormula.NONE:
            exact = Fraction(0)
        elif s.formula is FeeFormula.FLAT:
            exact = rate * MICROS * contracts
        elif s.formula is FeeFormula.QUADRATIC:
            exact = rate * contracts * p * (1 - p) * payout
        else:
            exact = rate * contracts * p * (p * (1 - p)) ** s.exponent * payout
        raw = math.ceil(exact)
        step = s.rounding_step_micros
        if s.rounds_over_order:
            due = -(-(order.raw + raw) // step) * step
            stepped = max((max(due, s.minimum_micros) if due else 0) - order.charged, 0)
        else:
            stepped = -(-raw // step) * step
            stepped = max(stepped, s.minimum_micros) if stepped else 0
        rounding = 0
        if s.balance_step_micros:
            change = -math.ceil(Fraction(price * size, MICROS)) if buys else price * size // MICROS
            rounding = (change - stepped) % s.balance_step_micros
        return raw, stepped, rounding

    def pay_fee(self, number: int, s: FeeSchedule, maker: bool, buys: bool, price: int, size: int, payout: int) -> int:
        order = self.orders[number]
        raw, stepped, rounding = self.fee(order, s, maker, buys, price, size, payout)
        order.raw += raw
        order.charged += stepped
        order.over += rounding
        total = stepped + rounding
        if order.over > 10_000 and total >= 10_000:
            order.over -= 10_000
            total -= 10_000
        return total

    def recredit(self, market: Market) -> None:
        for event in self.universe.events:
            if market.market_id not in event.market_ids or market.event_id != event.event_id:
                continue
            if event.collateral_rule not in (CollateralRule.MUTUALLY_EXCLUSIVE, CollateralRule.NEG_RISK):
                continue
            held: dict[str, list[int]] = {m: [0, 0] for m in event.market_ids}
            for lot in self.open_lots():
                if lot.wish.market.market_id in held:
                    held[lot.wish.market.market_id][lot.wish.outcome] += lot.size
            no_wins = sum(no for _, no in held.values())
            worst = min([no_wins] + [no_wins - no + yes for yes, no in held.values()])
            credit = worst * market.payout_micros // MICROS
            self.cash += credit - self.credits.get(event.event_id, 0)
            self.credits[event.event_id] = credit

    # --- what happens -------------------------------------------------------------------------------------------

    def decide(self, basket: list[Wish]) -> None:
        sizing = self.config.effective_sizing
        head = basket[0]

        def known_fee(wish: Wish) -> int | None:
            public = tuple(
                s for s in wish.market.fee_schedules if s.known_from_us is None or s.known_from_us <= wish.time_us
            )
            s = schedule_at(public, wish.time_us)
            if s is None:
                return None
            _, stepped, rounding = self.fee(OrderFees(), s, False, True, wish.price, MICROS, wish.market.payout_micros)
            return stepped + rounding

        fees = [known_fee(w) for w in basket]
        cost = sum(w.price for w in basket) + sum(f or 0 for f in fees)
        worth = head.fair if len(basket) == 1 else cost + head.edge
        payout = head.market.payout_micros if len(basket) == 1 else cost + head.edge + 1
        if sizing.stake_micros is not None:
            budget = sizing.stake_micros
        elif self.bankroll <= 0:
            budget = 0
        elif sizing.fraction_ppm is not None:
            budget = self.bankroll * sizing.fraction_ppm // MICROS
        elif worth is None or (len(basket) == 1 and fees[0] is None) or worth <= cost or cost >= payout:
            budget = 0
        else:
            kelly = (worth - cost) * MICROS // (payout - cost)
            share = min(kelly * (sizing.kelly_multiplier_ppm or 0) // MICROS, sizing.kelly_cap_ppm)
            budget = self.bankroll * share // MICROS
        if len(basket) == 1:
            self.budgets[head.number], self.limits[head.number] = budget, TEN_MILLION
            return
        grid = math.lcm(*(max(w.market.size_step_micros, 1) for w in basket))
        size = min([TEN_MILLION, budget * MICROS // cost] + [w.size for w in basket if w.size is not None])
        size = size // grid * grid if all(f is not None for f in fees) else 0
        for wish in basket:
            self.budgets[wish.number], self.limits[wish.number] = 2**80, size

    def buy(self, wish: Wish, now: int, price: int, mid: int, available: int | None, maker: bool) -> int:
        """Take what can be taken; returns the size."""
        market, payout = wish.market, wish.market.payout_micros
        price = mid if self.at_mid else price
        if market.market_id in self.results or wish.number not in self.budgets or not 0 < price < payout:
            return 0
        schedule = schedule_at(market.fee_schedules, now) if self.with_fees else FeeSchedule(FeeFormula.NONE, 0, 0)
        if schedule is None:
            return 0
        for lot in self.open_lots(market.market_id):
            same = (lot.wish.strategy, lot.wish.subject) == (wish.strategy, wish.subject)
            if same and lot.wish.outcome == wish.outcome and lot.wish is not wish:
                return 0
        budget = min(self.budgets[wish.number], self.cash)
        limit = self.config.execution.maximum_event_cost_micros
        if limit is not None:
            group = [
                lot
                for lot in self.open_lots()
                if lot.wish.market is market
                or (
                    _event(self.universe, market) is not None
                    and _event(self.universe, lot.wish.market) == _event(self.universe, market)
                )
            ]
            budget = min(budget, limit - sum(lot.cost for lot in group))
        cap = min(self.limits[wish.number], TEN_MILLION if available is None else available)
        step = max(market.size_step_micros, 1)
        low, high = 0, cap // step
        while low < high:  # the largest number of steps that can be paid
            middle = (low + high + 1) // 2
            _, stepped, rounding = self.fee(
                self.orders[wish.number], schedule, maker, True, price, middle * step, payout
            )
            if math.ceil(Fraction(price * middle * step, MICROS)) + stepped + rounding <= budget:
                low = middle
            else:
                high = middle - 1
        size = low * step
        if size == 0 or (wish.number not in self.filled and size < market.minimum_size_micros):
            return 0
        self.filled.add(wish.number)
        fee = self.pay_fee(wish.number, schedule, maker, True, price, size, payout)
        cost = math.ceil(Fraction(price * size, MICROS))
        self.cash -= cost + fee
        self.budgets[wish.number] -= cost + fee
        self.limits[wish.number] -= size
        bought = Lot(len(self.lots), wish, size, price, cost, fee, now, maker)
        self.lots.append(bought)
        for other in self.open_lots(market.market_id):
            if other.wish.outcome != wish.outcome and not bought.gone:
                pair = min(other.size, bought.size)
                both, first = payout * pair // MICROS, (payout - price) * pair // MICROS
                self.end(other, pair, 4, now, payout - price, 0, first)
                self.end(bought, pair, 4, now, price, 0, both - first)
                self.cash += both
        self.recredit(market)
        return size

    def sell(self, wish: Wish, now: int, price: int, mid: int, available: int | None) -> int:
        market, payout = wish.market, wish.market.payout_micros
        price = mid if self.at_mid else price
        if market.market_id in self.results or not 0 < price < payout:
            return 0
        schedule = schedule_at(market.fee_schedules, now) if self.with_fees else FeeSchedule(FeeFormula.NONE, 0, 0)
        if schedule is None:
            return 0
        mine = [
            lot
            for lot in self.open_lots(market.market_id)
            if (lot.wish.strategy, lot.wish.subject, lot.wish.outcome) == (wish.strategy, wish.subject, wish.outcome)
        ]
        step = max(market.size_step_micros, 1)
        takes = (TEN_MILLION if available is None else available) // step * step
        sold = min(takes, sum(lot.size for lot in mine))
        if sold <= 0:
            return 0
        fee = self.pay_fee(wish.number, schedule, False, False, price, sold, payout)
        self.cash += price * sold // MICROS - fee
        # one fill: each lot's part of it in exact fractions, and what they have lost by rounding goes to the next
        left, owed_fee, owed_money = sold, Fraction(0), Fraction(0)
        for lot in mine:
            size = min(lot.size, left)
            if not size:
                break
            owed_fee += Fraction(fee * size, sold)
            owed_money += Fraction(price * size, MICROS)
            self.end(lot, size, 1, now, price, math.floor(owed_fee), math.floor(owed_money))
            owed_fee -= math.floor(owed_fee)
            owed_money -= math.floor(owed_money)
            left -= size
        self.recredit(market)
        return sold

    def end(self, lot: Lot, size: int, way: int, now: int, price: int, exit_fee: int, proceeds: int) -> None:
        rest = lot.size - size
        cost = lot.cost - math.ceil(Fraction(lot.price * rest, MICROS))
        fee = lot.fee * size // lot.size
        w = lot.wish
        self.rows.append(
            (
                lot.number,
                lot.parts,
                [
                    w.strategy,
                    self.universe.index[w.market.market_id],
                    w.outcome,
                    w.time_us,
                    w.strength,
                    -1 if w.fair is None else w.fair,
                    w.price,
                    lot.entry_us,
                    lot.price,
                    size,
                    cost,
                    fee,
                    int(lot.maker),
                    way,
                    now,
                    price,
                    exit_fee,
                    proceeds,
                ],
            )
        )
        lot.parts += 1
        lot.size, lot.cost, lot.fee = rest, lot.cost - cost, lot.fee - fee
        lot.gone = rest == 0

    def worth(self, lot: Lot, payout: int | None) -> int:
        if payout is None:
            return lot.cost
        each = payout if lot.wish.outcome == 0 else lot.wish.market.payout_micros - payout
        return each * lot.size // MICROS

    def pay(self, market: Market, now: int) -> None:
        result = self.results[market.market_id]
        for lot in self.lots:
            if lot.wish.market.market_id == market.market_id and not lot.gone:
                due = self.worth(lot, result.yes_payout_micros)
                self.cash += due - (lot.paid or 0)
                lot.exit_us = lot.exit_us if lot.paid is not None else now
                lot.paid, lot.paid_payout, lot.paid_void = due, result.yes_payout_micros, result.void
        self.recredit(market)

    def mark(self, lot: Lot, quote: Quote | None) -> tuple[int, int]:
        """Price and worth of a held lot."""
        market = lot.wish.market
        result = self.results.get(market.market_id)
        if result is not None:
            return _paid_price(lot, result.yes_payout_micros), self.worth(lot, result.yes_payout_micros)
        price = 0
        if quote is not None and lot.wish.outcome == 0:
            price = quote.bid_price_micros or 0
        elif quote is not None and quote.ask_price_micros is not None:
            price = market.payout_micros - quote.ask_price_micros
        return price, price * lot.size // MICROS

    def take_equity(self, now: int, last: dict[str, Quote]) -> None:
        value = sum(self.mark(lot, last.get(lot.wish.market.market_id))[1] for lot in self.open_lots())
        self.equity.append([now, self.cash - sum(self.credits.values()) + value, self.cash, self.locked])

    def finish(self, now: int, last: dict[str, Quote]) -> list[list[int]]:
        for lot in self.lots:
            if lot.gone:
                continue
            if lot.paid is not None:
                price = _paid_price(lot, lot.paid_payout)
                self.end(lot, lot.size, 3 if lot.paid_void else 2, lot.exit_us, price, 0, lot.paid)
            else:
                price, worth = self.mark(lot, last.get(lot.wish.market.market_id))
                self.end(lot, lot.size, 5, now, price, 0, worth)
        return [row for _, _, row in sorted(self.rows, key=lambda r: r[:2])]


def _paid_price(lot: Lot, payout: int | None) -> int:
    if payout is None:
        return lot.price
    return payout if lot.wish.outcome == 0 else lot.wish.market.payout_micros - payout


def _event(universe: Universe, market: Market) -> str | None:
    for event in universe.events:
        if event.event_id == market.event_id and market.market_id in event.market_ids:
            return event.event_id
    return None


RUNGS = (
    ("MID_WITHOUT_FEE", "signal", True, False),
    ("TOUCH_WITHOUT_FEE", "signal", False, False),
    ("TOUCH_WITH_FEE", "signal", False, True),
    ("NEXT_QUOTE_WITH_FEE", "next", False, True),
    ("CONFIGURED", "configured", False, True),
)


@dataclass
class Watched:
    """A strategy on one subject."""

    strategy: ConfiguredStrategy
    number: int
    state: Any
    opened: SignalEvent | None = None
    armed: dict[str, int] = field(default_factory=dict)
    """Outcome by market id of the legs that were entered and not left."""
    last_legs: tuple[str, ...] = ()


class ReferenceEngine:
    def __init__(self, config: BacktestConfig, world: BacktestWorld) -> None:
        end_us = config.end_us
        world = replace(
            world,
            quotes=tuple(q for q in world.quotes if q.receive_time_us < end_us),
            trades=tuple(t for t in world.trades if t.receive_time_us < end_us),
            books=tuple(b for b in world.books if b.receive_time_us < end_us),
        )
        self.config, self.world, self.universe = config, world, world.universe
        self.banks = [ReferenceBank(config, self.universe, *rung[1:]) for rung in RUNGS]
        self.markets = {m.market.market_id: m.market for m in self.universe.markets}
        self.status: dict[str, MarketState] = {}
        self.last: dict[str, Quote] = {}
        self.shut: dict[str, Shut] = {}
        self.gates: dict[str, Any] = {}
        self.books: dict[str, OrderBook] = {}
        self.watched: dict[tuple[int, str], Watched] = {}
        self.waiting: dict[tuple[int, str, str], Waiting] = {}
        self.wishes = 0
        self.signals = 0
        self.taken: dict[tuple[int, int, str, int, str], int] = defaultdict(int)

    def run(self) -> "ReferenceEngine":
        world, config = self.world, self.config
        by_time: dict[int, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for recorded in self.universe.markets:
            for at, state in recorded.states:
                by_time[at]["states"].append((state is MarketState.OPEN, recorded.market.market_id, state))
            paid = False
            for s in recorded.settlements:
                assert s.known_time_us is not None
                by_time[s.known_time_us]["known"].append((recorded.market.market_id, s.revision, s))
                due = s.paid_time_us if s.paid_time_us is not None or not paid else s.known_time_us
                if due is not None:
                    by_time[max(due, s.known_time_us)]["paid"].append((recorded.market.market_id, s.revision))
                    paid = True
        for book in world.books:
            by_time[book.receive_time_us]["books"].append(book)
        for quote in world.quotes:
            by_time[quote.receive_time_us]["quotes"].append(quote)
        for trade in world.trades:
            if not trade.block:
                by_time[trade.receive_time_us]["trades"].append(trade)
        grid = {*range((config.start_us // HOUR_US + 1) * HOUR_US, config.end_us, HOUR_US), config.end_us}
        for at in grid:
            by_time[at]["grid"] = [True]
        for now in sorted(by_time):
            found = by_time[now]
            if now <= config.end_us:
                for market_id, _, s in sorted(found["known"], key=lambda k: k[:2]):
                    for bank in self.banks:
                        bank.results[market_id] = s
                for market_id, _ in sorted(found["paid"]):
                    for bank in self.banks:
                        bank.pay(self.markets[market_id], now)
            for _, market_id, state in sorted(found["states"], key=lambda s: s[:2]):
                self.status[market_id] = state
            for book in found["books"]:
                self.books[book.market_id] = book
            quotes = sorted(found["quotes"], key=lambda q: q.ingest_sequence)
            trades = sorted(found["trades"], key=lambda t: t.ingest_sequence)
            gaps: dict[str, set[str]] = defaultdict(set)
            orders: dict[int, list[Callable[[], None]]] = {}
            # strategies see everything by sequence; orders that a print gives rise to come after the instant's books
            for tick in sorted([*quotes, *trades], key=lambda t: (t.ingest_sequence, isinstance(t, Trade))):
                if isinstance(tick, Trade):
                    orders[id(tick)] = self.look_at_print(tick)
                else:
                    self.see(tick, [q for q in quotes if q.ingest_sequence > tick.ingest_sequence], gaps)
            for trade in trades:
                self.see_print(trade)
                for order in orders[id(trade)]:
                    order()
            if found["grid"]:
                for bank in self.banks:
                    bank.take_equity(now, self.last)
        return self

    # --- rows ---------------------------------------------------------------------------------------------------

    def see(self, quote: Quote, later: Sequence[Quote], gaps: dict[str, set[str]]) -> None:
        market = self.markets[quote.market_id]
        if quote.market_id not in self.status:
            return
        self.last[quote.market_id] = quote
        self.fill(quote)
        strategies = list(enumerate(self.config.strategies))
        gate = strategies[0][1].gate
        state = self.gates.setdefault(quote.market_id, gate.new_state())
        values = column_values(market, quote)
        shut, void = gate.step(
            state,
            quote.receive_time_us,
            quote.epoch,
            values["bid_price_micros"],
            values["ask_price_micros"],
            market.payout_micros,
        )
        if self.status[quote.market_id] is not MarketState.OPEN:
            shut = Shut.MARKET_CLOSED
        self.shut[quote.market_id] = shut
        values |= print_values(None)
        event = next((e for e in self.universe.events if e.event_id == _event(self.universe, market)), None)
        if event is not None and void:
            gaps[event.event_id].add(quote.market_id)
        for number, strategy in strategies:
            if not strategy.kind.group:
                self.look(number, strategy, quote, values, shut, void)
            elif event is not None and not any(
                q.market_id in event.market_ids and q.market_id in self.status for q in later
            ):
                self.look_at_event(number, strategy, event, quote, gaps[event.event_id])

    def look(
        self, number: int, strategy: ConfiguredStrategy, quote: Quote, values: dict[str, int], shut: Shut, void: bool
    ) -> None:
        market = self.markets[quote.market_id]
        w = self.watched.setdefault((number, quote.market_id), Watched(strategy, number, strategy.kernel.new_state()))
        if void:
            w.state = strategy.kernel.new_state()
            self.say(w, market.market_id, market.event_id, None, quote)
        verdict = None
        if shut is Shut.OPEN:
            out = strategy.kernel.step(w.state, [values[name] for name in strategy.kind.columns])
            if out["side"] and quote.receive_time_us >= self.config.start_us:
                verdict = market_verdict(strategy.kind, out, market, quote)
        self.say(w, market.market_id, market.event_id, verdict, quote)

    def look_at_print(self, trade: Trade) -> list[Callable[[], None]]:
        orders: list[Callable[[], None]] = []
        quote = self.last.get(trade.market_id)
        open_market = self.status.get(trade.market_id) is MarketState.OPEN
        if quote is None or not open_market or not self.usable(quote):
            return orders
        market = self.markets[trade.market_id]
        now = trade.receive_time_us
        values = column_values(market, quote) | print_values(trade) | {"receive_time_us": now}
        for number, strategy in enumerate(self.config.strategies):
            if not strategy.kind.wants_prints:
                continue
            w = self.watched.setdefault(
                (number, trade.market_id), Watched(strategy, number, strategy.kernel.new_state())
            )
            out = strategy.kernel.step(w.state, [values[name] for name in strategy.kind.columns])
            verdict = None
            if out["side"] and now >= self.config.start_us:
                verdict = market_verdict(strategy.kind, out, market, quote, Trigger(now, trade=trade))
            trigger = replace(quote, receive_time_us=now, ingest_sequence=trade.ingest_sequence)
            self.say(w, market.market_id, market.event_id, verdict, trigger, orders=orders)
        return orders

    def look_at_event(
        self, number: int, strategy: ConfiguredStrategy, event: Any, trigger: Quote, gaps: set[str]
    ) -> None:
        now = trigger.receive_time_us
        w = self.watched.setdefault((number, event.event_id), Watched(strategy, number, strategy.kernel.new_state()))

        def hidden(market_id: str) -> bool:
            if market_id not in self.last:
                return True
            stale_us = strategy.gate.stale_after_us(self.gates[market_id])
            return self.shut[market_id] is not Shut.OPEN or self.last[market_id].receive_time_us + stale_us < now

        if any(m in gaps or hidden(m) for m in w.last_legs):
            self.say(w, event.event_id, event.event_id, None, trigger, gated=True)
        gaps.clear()
        declared = Declared.YES in (event.exclusivity, event.exhaustiveness)
        verdict = None
        if declared and not event.neg_risk_augmented and len(event.market_ids) > 1:
            members = sorted(set(event.market_ids))
            rows = np.full(len(members), -1, dtype=strategy.kind.row_dtype)
            payout = next(self.markets[m].payout_micros for m in members if m in self.markets)
            for i, m in enumerate(members):
                values: dict[str, int] = {"payout_micros": payout}
                if m in self.last:
                    values = column_values(self.markets[m], self.last[m])
                    if hidden(m):
                        values |= {"bid_price_micros": -1, "ask_price_micros": -1}
                values["exclusive"] = int(event.exclusivity is Declared.YES)
                values["exhaustive"] = int(event.exhaustiveness is Declared.YES)
                rows[i] = tuple(values.get(c, -1) for c in strategy.kind.columns)
            out, chosen = strategy.kernel.step_group(w.state, rows)
            if out["side"] and now >= self.config.start_us:
                seen = [(self.markets[m], self.last[m]) if m in self.last else None for m in members]
                verdict = group_verdict(strategy.kind, out, chosen, seen, now)
        self.say(w, event.event_id, event.event_id, verdict, trigger)

    # --- from verdicts to wishes --------------------------------------------------------------------------------

    def say(
        self,
        w: Watched,
        subject_id: str,
        event_id: str | None,
        verdict: tracker.Verdict | None,
        trigger: Quote,
        gated: bool = False,
        orders: list[Callable[[], None]] | None = None,
    ) -> None:
        strategy = w.strategy
        subject = tracker.Subject(
            strategy.strategy_id,
            strategy.kind.kind,
            strategy.kind.version,
            strategy.params_digest,
            subject_id,
            event_id,
            DataOrigin.LIVE,
        )
        w.opened, events = tracker.observe(subject, w.opened, verdict, trigger.receive_time_us)
        wanted = {} if verdict is None else {leg.market_id: leg.outcome_index for leg in verdict.legs}
        created = [e for e in events if e.type is SignalEventType.CREATED]
        self.signals += sum(e.type in (SignalEventType.CREATED, SignalEventType.REVISED) for e in events)
        if verdict is None or any(wanted.get(m) != outcome for m, outcome in w.armed.items()):
            for market_id in sorted(w.armed):
                if not strategy.kind.edge_kind:
                    self.now_or_later(orders, self.leave, w, subject_id, market_id, w.armed[market_id], trigger)
            w.armed = {}
        if verdict is None and not gated:
            w.last_legs = ()
        if verdict is not None:
            w.last_legs = tuple(sorted(wanted)) if w.opened is not None else ()
        for event in created:
            w.armed = dict(wanted)
            self.now_or_later(orders, self.enter, w, subject_id, event, trigger)

    def now_or_later(self, orders: list[Callable[[], None]] | None, order: Callable[..., None], *about: Any) -> None:
        if orders is None:
            order(*about)
        else:
            orders.append(partial(order, *about))

    def enter(self, w: Watched, subject_id: str, event: SignalEvent, trigger: Quote) -> None:
        signal = event.signal
        legs = sorted(signal.legs, key=lambda leg: leg.market_id)
        basket: list[Wish] = []
        for leg in legs:
            assert leg.action is Action.BUY
            market = self.markets[leg.market_id]
            fair = signal.fair_value_micros
            if fair is not None and leg.outcome_index == 1:
                fair = market.payout_micros - fair
            basket.append(
                Wish(
                    self.wishes,
                    w.number,
                    subject_id,
                    market,
                    leg.outcome_index,
                    trigger.receive_time_us,
                    signal.strength_ppm,
                    signal.net_edge_micros or 0,
                    fair,
                    signal.expire_time_us,
                    leg.limit_price_micros,
                    leg.available_size_micros,
                )
            )
            self.wishes += 1
        for bank in self.banks:
            bank.decide(basket)
        for wish in basket:
            self.send(wish, "entry", trigger)

    def leave(self, w: Watched, subject_id: str, market_id: str, outcome: int, trigger: Quote) -> None:
        wish = Wish(self.wishes, w.number, subject_id, self.markets[market_id], outcome, trigger.receive_time_us)
        self.wishes += 1
        self.send(wish, f"exit {outcome}", trigger)

    def send(self, wish: Wish, what: str, trigger: Quote) -> None:
        execution = self.config.execution
        market_id = wish.market.market_id
        self.waiting.pop((wish.strategy, market_id, "entry"), None)
        delay = 0 if execution.fill_on_trigger_quote else max(execution.latency_us, wish.market.taker_delay_us)
        order = Waiting(wish, trigger, trigger.receive_time_us + delay, {"signal", "next", "configured"})
        quote = self.last[market_id]
        now_rungs = {"signal"}
        makes = execution.fill_model is FillModel.MAKER_QUEUE and what == "entry"
        if execution.fill_on_trigger_quote and not makes:
            now_rungs.add("configured")
        if self.usable(quote) and self.touch(what, wish, quote) is not None:
            walks = execution.fill_on_trigger_quote
            self.offer(order, what, quote, now_rungs, trigger.receive_time_us, trigger.ingest_sequence, walks)
            order.rungs -= now_rungs
        if what == "entry":
            order.rungs -= {"signal"}
        self.waiting[wish.strategy, market_id, what] = order

    # --- the book -----------------------------------------------------------------------------------------------

    def usable(self, quote: Quote) -> bool:
        if self.status.get(quote.market_id) is not MarketState.OPEN:
            return False
        bid, ask = quote.bid_price_micros, quote.ask_price_micros
        if bid is None or ask is None:
            return True
        payout = self.markets[quote.market_id].payout_micros
        return bid < ask and not (bid * 100 <= payout and ask * 100 >= 99 * payout)

    def touch(self, what: str, wish: Wish, quote: Quote) -> tuple[int, int | None, int] | None:
        """(outcome-0 price, size, side) that an order takes from; side 1 is the asks."""
        asks = (wish.outcome == 0) == (what == "entry")
        price = quote.ask_price_micros if asks else quote.bid_price_micros
        if price is None:
            return None
        return price, quote.ask_size_micros if asks else quote.bid_size_micros, int(asks)

    def fill(self, quote: Quote) -> None:
        execution, now = self.config.execution, quote.receive_time_us
        if not self.usable(quote):
            return
        for number in range(len(self.config.strategies)):
            for what in ("exit 0", "exit 1", "entry"):
                key = (number, quote.market_id, what)
                order = self.waiting.get(key)
                if order is None:
                    continue
                if what == "entry" and now >= order.wish.expire_us:
                    del self.waiting[key]
                    continue
                if order.resting_price is not None:
                    self.rest_on_quote(order, quote)
                ready = {"next"} | ({"signal"} if what != "entry" else set())
                if now >= order.arrival_us:
                    ready.add("configured")
                ready &= order.rungs
                if execution.fill_model is FillModel.MAKER_QUEUE and what == "entry" and "configured" in ready:
                    ready -= {"configured"}
                    first = order.wish.outcome == 0
                    own = quote.bid_price_micros if first else quote.ask_price_micros
                    if own is not None:
                        order.resting_price = own
                        order.queue = quote.bid_size_micros if first else quote.ask_size_micros
                        order.credited, order.credited_us = 0, now
                        order.rungs -= {"configured"}
                if ready and self.touch(what, order.wish, quote) is not None:
                    self.offer(order, what, quote, ready, now, quote.ingest_sequence, True)
                    order.rungs -= ready

    def offer(
        self, order: Waiting, what: str, quote: Quote, rungs: set[str], now: int, sequence: int, walks: bool
    ) -> None:
        found = self.touch(what, order.wish, quote)
        assert found is not None
        book_price, size, side = found
        payout, outcome = order.wish.market.payout_micros, order.wish.outcome
        mid = book_price
        if quote.bid_price_micros is not None and quote.ask_price_micros is not None:
            mid = (quote.bid_price_micros + quote.ask_price_micros) // 2
        levels: list[tuple[int, int | None, int]] = [(book_price, size, 0)]
        book = self.books.get(quote.market_id)
        walks = walks and self.config.execution.fill_model is FillModel.BOOK_WALK
        if walks and book is not None and size is not None:
            same = book.asks if side else book.bids
            if same and same[0].price_micros == book_price:
                depth = size
                for level in same[1:]:
                    levels.append((level.price_micros, level.size_micros, depth))
                    depth += level.size_micros
        for k, (price, offered, depth) in enumerate(levels):
            mine = price if outcome == 0 else payout - price
            middle = mine if k else (mid if outcome == 0 else payout - mid)
            for rung, bank in zip(RUNGS, self.banks, strict=True):
                if rung[1] not in (rungs if k == 0 else rungs & {"configured"}):
                    continue
                pool = (now, sequence, quote.market_id, side, rung[0])
                available = None if offered is None else max(min(offered, depth + offered - self.taken[pool]), 0)
                if what == "entry":
                    self.taken[pool] += bank.buy(order.wish, now, mine, middle, available, False)
                else:
                    self.taken[pool] += bank.sell(order.wish, now, mine, middle, available)

    def rest_on_quote(self, order: Waiting, quote: Quote) -> None:
        first, price = order.wish.outcome == 0, order.resting_price
        assert price is not None
        own, own_size = (
            (quote.bid_price_micros, quote.bid_size_micros)
            if first
            else (quote.ask_price_micros, quote.ask_size_micros)
        )
        other, other_size = (
            (quote.ask_price_micros, quote.ask_size_micros)
            if first
            else (quote.bid_price_micros, quote.bid_size_micros)
        )
        if other is not None and (other <= price if first else other >= price):
            self.make(order, quote.receive_time_us, other_size)
            return
        if own is None or (own < price if first else own > price):
            order.queue = 0
        elif own == price and own_size is not None:
            if order.queue is None:
                order.queue = own_size
            elif own_size < order.queue:
                if order.credited_us != quote.receive_time_us:
                    order.credited, order.credited_us = 0, quote.receive_time_us
                order.credited += order.queue - own_size
                order.queue = own_size

    def see_print(self, trade: Trade) -> None:
        if self.status.get(trade.market_id) is not MarketState.OPEN:
            return
        for number in range(len(self.config.strategies)):
            order = self.waiting.get((number, trade.market_id, "entry"))
            if order is None or order.resting_price is None or trade.receive_time_us >= order.wish.expire_us:
                continue
            first = order.wish.outcome == 0
            if trade.taker_outcome_index != (1 if first else 0):
                continue
            through = trade.price_micros < order.resting_price if first else trade.price_micros > order.resting_price
            rest = trade.size_micros
            if not through:
                if trade.price_micros != order.resting_price or order.queue is None:
                    continue
                if order.credited_us == trade.receive_time_us:
                    explained = min(rest, order.credited)
                    order.credited -= explained
                    rest -= explained
                ahead = min(rest, order.queue)
                order.queue -= ahead
                rest -= ahead
            if rest > 0:
                self.make(order, trade.receive_time_us, rest)

    def make(self, order: Waiting, now: int, size: int | None) -> None:
        assert order.resting_price is not None
        price = order.resting_price
        if order.wish.outcome == 1:
            price = order.wish.market.payout_micros - price
        self.banks[-1].buy(order.wish, now, price, price, size, True)

    # --- what came of it ----------------------------------------------------------------------------------------

    def result_hash(self) -> str:
        finished = [bank.finish(self.config.end_us, self.last) for bank in self.banks]
        ladder = [
            (rung[0], sum(r[17] - r[10] - r[11] - r[16] for r in rows), len(rows))
            for rung, rows in zip(RUNGS, finished, strict=True)
        ]
        self.rows, self.ladder = finished[-1], ladder
        return result_hash(
            self.config,
            self.universe,
            self.input_digest(),
            np.array(finished[-1], dtype=np.int64).reshape(-1, 18),
            np.array(self.banks[-1].equity, dtype=np.int64),
            ladder,
        )

    def input_digest(self) -> str:
        body = hashlib.sha256()
        for market_id in self.universe.market_ids:
            parts = []
            quotes = [q for q in self.world.quotes if q.market_id == market_id]
            quotes.sort(key=lambda q: (q.receive_time_us, q.ingest_sequence))
            trades = [t for t in self.world.trades if t.market_id == market_id and not t.block]
            trades.sort(key=lambda t: (t.receive_time_us, t.ingest_sequence))
            books = [b for b in self.world.books if b.market_id == market_id]
            books.sort(key=lambda b: b.receive_time_us)
            quote_rows = [
                (
                    q.receive_time_us,
                    q.ingest_sequence,
                    q.bid_price_micros,
                    q.bid_size_micros,
                    q.ask_price_micros,
                    q.ask_size_micros,
                    q.epoch,
                )
                for q in quotes
            ]
            trade_rows = [
                (t.receive_time_us, t.ingest_sequence, t.price_micros, t.size_micros, t.taker_outcome_index)
                for t in trades
            ]
            levels = [
                (b.receive_time_us, side, level.price_micros, level.size_micros)
                for b in books
                for side, some in ((0, b.bids), (1, b.asks))
                for level in some
            ]
            for rows in (quote_rows, trade_rows, levels):
                digest = hashlib.sha256()
                for column in zip(*rows, strict=True):
                    digest.update(b"".join((-1 if v is None else v).to_bytes(8, "little", signed=True) for v in column))
                parts.append(digest.digest())
            body.update(market_id.encode() + b"\0" + hashlib.sha256(b"".join(parts)).digest())
        return body.hexdigest()


def reference_hash(config: BacktestConfig, world: BacktestWorld) -> tuple[str, ReferenceEngine]:
    engine = ReferenceEngine(config, world).run()
    return engine.result_hash(), engine
