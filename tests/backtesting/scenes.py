"""Hand-written scenes for the engine: a strategy that does as the bid tells it, and markets with few rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oddstream_server.backtesting.config import BacktestConfig, Execution, FillModel, Sizing
from oddstream_server.backtesting.engine import Outcome, run
from oddstream_server.backtesting.records.columns import BookRows, QuoteRows, Shard, TradeRows
from oddstream_server.backtesting.records.universe import RecordedMarket, Universe
from oddstream_server.backtesting.result import BacktestTrade, trades
from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.market import Event, Market, MarketState, Settlement
from oddstream_server.domain.quote import OrderBook, Quote, Trade
from oddstream_server.domain.signal import Signal
from oddstream_server.domain.strategy import StrategyOrigin
from oddstream_server.strategies.gate import Gate, GateParams
from oddstream_server.strategies.kernel import Kernel, Recomputed, StrategyKind
from oddstream_server.strategies.params import Params, param
from oddstream_server.strategies.registry import ConfiguredStrategy
from tests.strategies.worlds import START_US, a_market, a_quote

SECOND = 1_000_000
CENT = 10_000
END_US = START_US + 7_200 * SECOND
FREE = (FeeSchedule(FeeFormula.NONE, 0, 0),)
STATE = np.dtype([("rows", np.int64)])


@dataclass(frozen=True)
class CueParams(Params):
    time_to_live_us: int = param(3_600 * SECOND, 1, 86_400 * SECOND, "us", "how long a signal holds")


def step(state: Any, params: Any, row: Any, out: Any) -> None:
    """The last digit of the ask in micros is the cue: 1 buys outcome 0, 2 buys outcome 1, else nothing."""
    state["rows"] += 1
    cue = row["ask_price_micros"] % 10
    if cue == 1 or cue == 2:
        out["side"] = cue
        out["entry"] = 1
        out["strength_ppm"] = 500_000
        out["net_edge_micros"] = 1
        out["fair_value_micros"] = 600_000 if cue == 1 else 400_000
        out["time_to_live_us"] = params["time_to_live_us"]


def _recompute(signal: Signal) -> Recomputed:
    return Recomputed(signal.net_edge_micros, signal.strength_ppm)


def a_kind(name: str = "test.cue", **changes: Any) -> StrategyKind:
    kind = StrategyKind(
        kind=name,
        version=1,
        display_name=name,
        description="buys on cue",
        formula_source="none",
        strength_map="constant",
        columns=("receive_time_us", "ask_price_micros"),
        params_type=CueParams,
        state_dtype=STATE,
        warm_up_us=0,
        recompute=_recompute,
        step=step,
        has_fair_value=True,
    )
    return replace(kind, **changes)


def cue(name: str = "test.cue", params: CueParams | None = None, **changes: Any) -> ConfiguredStrategy:
    kind = a_kind(name, **changes)
    return ConfiguredStrategy(name, Kernel(kind, params or CueParams()), Gate(GateParams()), StrategyOrigin.BUILT_IN)


def holding(name: str = "test.hold") -> ConfiguredStrategy:
    """The same, but its positions wait for the settlement."""
    return cue(name, edge_kind=True)


def a_recorded(
    market: Market | None = None, settlements: Sequence[Settlement] = (), close_s: int | None = None
) -> RecordedMarket:
    states = [(0, MarketState.OPEN)]
    if close_s is not None:
        states.append((START_US + close_s * SECOND, MarketState.CLOSED))
    return RecordedMarket(market or cheap_market(), tuple(states), tuple(settlements))


def cheap_market(number: int = 0, event_id: str | None = None, **changes: object) -> Market:
    """A market without fees, whole contracts, one at least."""
    fields = {"fee_schedules": FREE, "size_step_micros": 1_000_000, **changes}
    return a_market(number, event_id, **fields)


@dataclass
class Scene:
    """Rows at seconds after the start, sequence by the order of writing."""

    markets: list[RecordedMarket]
    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        self.quotes: list[Quote] = []
        self.prints: list[Trade] = []
        self.books: list[OrderBook] = []
        self._sequence = 0

    def quote(
        self,
        second: float,
        bid: int | None,
        ask: int | None,
        cue: int = 0,
        *,
        number: int = 0,
        bid_size: int | None = 100,
        ask_size: int | None = 100,
        epoch: int = 1,
    ) -> "Scene":
        """Prices in cents, sizes in contracts."""
        self._sequence += 1
        made = a_quote(
            f"kalshi:M{number}",
            START_US + int(second * SECOND),
            None if bid is None else bid * CENT,
            None if ask is None else ask * CENT + cue,
            None if bid_size is None else bid_size * 1_000_000,
            None if ask_size is None else ask_size * 1_000_000,
            epoch=epoch,
            key=self._sequence,
        )
        self.quotes.append(replace(made, ingest_sequence=self._sequence))
        return self

    def print(self, second: float, price: int, size: int, taker: int | None, number: int = 0) -> "Scene":
        self._sequence += 1
        self.prints.append(
            Trade(
                f"kalshi:M{number}",
                START_US + int(second * SECOND),
                price * CENT,
                size * 1_000_000,
                taker,
                self.quotes[0].source,
                str(self._sequence),
                ingest_sequence=self._sequence,
            )
        )
        return self

    def run(
        self,
        *strategies: ConfiguredStrategy,
        stake: int = 10_000_000,
        sizing: Sizing | None = None,
        bankroll: int = 100_000_000,
        **execution: Any,
    ) -> Outcome:
        """A run with a stake of 10 USD of 100, touch fills, half a second of latency."""
        universe = Universe(self.markets, self.events)
        rules = Execution(**{"fill_model": FillModel.TOUCH, **execution})
        config = BacktestConfig(
            strategies or (cue(),),
            START_US,
            END_US,
            bankroll,
            sizing or Sizing(stake_micros=stake),
            rules,
        )
        shard = Shard(
            tuple(range(len(universe))),
            QuoteRows.of(self.quotes, universe.index),
            TradeRows.of(self.prints, universe.index),
            BookRows.of(self.books, universe.index),
        )
        return run(config, universe, [shard])


def blotter_of(outcome: Outcome) -> list[BacktestTrade]:
    return list(trades(outcome))
