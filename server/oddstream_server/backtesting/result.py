"""A finished backtest as people read it: figures with their conventions, the fill ladder, trades and equity."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from oddstream_server.backtesting.accounts.lots import OPEN, VOIDED
from oddstream_server.backtesting.config import ENGINE_VERSION
from oddstream_server.backtesting.engine import Account, Outcome
from oddstream_server.backtesting.figures import forecasts, returns
from oddstream_server.backtesting.figures.forecasts import CalibrationBin
from oddstream_server.backtesting.records.coverage import Coverage
from oddstream_server.backtesting.shards import FillAssumption
from oddstream_server.domain import disclosures
from oddstream_server.domain.money import MICROS


class PositionExit(IntEnum):
    """How a position ended."""

    SOLD = 1
    SETTLED = 2
    VOIDED = 3
    MERGED = 4
    OPEN = 5


@dataclass(frozen=True, slots=True)
class FillLadderRung:
    assumption: FillAssumption
    profit_micros: int
    trade_count: int


@dataclass(frozen=True, slots=True)
class MetricConventions:
    periods_per_year: int = returns.PERIODS_PER_YEAR
    ddof: int = returns.DDOF
    risk_free_return: float = returns.RISK_FREE_RETURN
    log_loss_clip: float = forecasts.LOG_LOSS_CLIP
    confidence_level: float = forecasts.CONFIDENCE_LEVEL
    notes: tuple[str, ...] = (
        "Periods are days of UTC; the last one ends with the range.",
        "Open positions are marked at the bid of their outcome (0 without one), at the payout once it is known.",
        "The starting bankroll is the first peak of the drawdown, and returns are on it unless they say otherwise.",
        "Sortino's downside is over all periods.",
        "A position pays entry's and exit's fees; win rate and edge are after both and leave open ones and voids out.",
        "Brier score, log loss and calibration take one forecast an entry, of markets that paid one side in full.",
        "Intervals: Wilson for the win rate; 2,000 draws of whole events, seed 0, for the edge.",
        "Orders fill at the first usable quote that arrives after signal and latency, up to the size shown there; an "
        "unknown size is no limit. Sizes taken are not missing from later quotes.",
        "Kinds with an edge in the payout hold to the settlement; others sell when their signal ends.",
    )


@dataclass(frozen=True, slots=True)
class BacktestMetrics:
    """What isn't defined is None, never 0 or infinite. Field for field the contract's BacktestMetrics."""

    profit_micros: int
    fees_micros: int
    turnover_micros: int
    peak_locked_micros: int
    trade_count: int
    void_count: int
    total_return: float | None
    return_on_locked: float | None
    annual_return: float | None
    annual_volatility: float | None
    sharpe: float | None
    sortino: float | None
    maximum_drawdown: float | None
    probabilistic_sharpe: float | None
    win_rate: float | None
    win_rate_low: float | None
    win_rate_high: float | None
    brier: float | None
    brier_crowd: float | None
    log_loss: float | None
    mean_edge_micros: int | None
    edge_low_micros: int | None
    edge_high_micros: int | None
    calibration: tuple[CalibrationBin, ...]


@dataclass(frozen=True, slots=True)
class StrategyVersion:
    kind: str
    kind_version: int
    params_digest: str


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """Field for field the contract's BacktestResult."""

    result_hash: str
    engine_version: int
    strategy_versions: tuple[StrategyVersion, ...]
    input_digest: str
    fee_table_digest: str
    fill_ladder: tuple[FillLadderRung, ...]
    metrics: BacktestMetrics
    conventions: MetricConventions
    coverage: Coverage
    warm_up_row_count: int
    signal_count: int
    final_equity_micros: int
    trial_count: int
    disclaimer_code: str = disclosures.BACKTEST
    disclaimer_text: str = disclosures.TEXTS[disclosures.BACKTEST]


def summarize(outcome: Outcome, trial_count: int = 1) -> BacktestResult:
    """:param trial_count: backtests and parameter sets ever run on this data, this one included."""
    return BacktestResult(
        result_hash=outcome.result_hash,
        engine_version=ENGINE_VERSION,
        strategy_versions=tuple(
            StrategyVersion(s.kind.kind, s.kind.version, s.params_digest) for s in outcome.config.strategies
        ),
        input_digest=outcome.input_digest,
        fee_table_digest=outcome.universe.fee_table_digest,
        fill_ladder=tuple(
            FillLadderRung(a, outcome.accounts[a].profit_micros, len(outcome.accounts[a].entries))
            for a in outcome.accounts
        ),
        metrics=figures(outcome),
        conventions=MetricConventions(),
        coverage=outcome.log.coverage,
        warm_up_row_count=outcome.log.counts.warm_up_rows,
        signal_count=outcome.signal_count,
        final_equity_micros=outcome.account.final_equity_micros,
        trial_count=trial_count,
    )


def profits(entries: Any) -> Any:
    """What each row of a blotter earned after fees, int64 micros."""
    return entries["proceeds_micros"] - entries["cost_micros"] - entries["fee_micros"] - entries["exit_fee_micros"]


def figures(outcome: Outcome, account: Account | None = None) -> BacktestMetrics:
    """The figures of the configured account, or of another one of the outcome's."""
    account = account or outcome.account
    entries, config = account.entries, outcome.config
    earned = profits(entries)
    start = config.starting_bankroll_micros
    daily = returns.daily_returns(account.equity, start)
    closed = (entries["exit"] != OPEN) & (entries["exit"] != VOIDED)
    wins, trials = int((earned[closed] > 0).sum()), int(closed.sum())
    interval = forecasts.wilson(wins, trials)
    edge = forecasts.realized_edge(
        earned[closed], entries["size_micros"][closed], _clusters(outcome, entries.take(np.flatnonzero(closed)))
    )
    forecast = _forecasts(outcome, entries)
    fair_known = forecast.fair_micros >= 0
    fair = forecast.fair_micros[fair_known] / MICROS
    best = forecast.fair_micros[fair_known] if fair_known.any() else forecast.price_micros
    return BacktestMetrics(
        profit_micros=account.profit_micros,
        fees_micros=account.fees_micros,
        turnover_micros=account.turnover_micros,
        peak_locked_micros=account.peak_locked_micros,
        trade_count=len(entries),
        void_count=int((entries["exit"] == VOIDED).sum()),
        total_return=(account.final_equity_micros - start) / start,
        return_on_locked=(
            (account.final_equity_micros - start) / account.peak_locked_micros
            if account.peak_locked_micros > 0
            else None
        ),
        annual_return=None if daily is None else returns.annual_return(daily),
        annual_volatility=None if daily is None else returns.annual_volatility(daily),
        sharpe=None if daily is None else returns.sharpe(daily),
        sortino=None if daily is None else returns.sortino(daily),
        maximum_drawdown=None if daily is None else returns.maximum_drawdown(daily),
        probabilistic_sharpe=None if daily is None else returns.probabilistic_sharpe(daily),
        win_rate=wins / trials if trials else None,
        win_rate_low=interval[0] if interval else None,
        win_rate_high=interval[1] if interval else None,
        brier=forecasts.brier(fair, forecast.happened[fair_known]),
        brier_crowd=forecasts.brier(forecast.price_micros / MICROS, forecast.happened),
        log_loss=forecasts.log_loss(fair, forecast.happened[fair_known]),
        mean_edge_micros=edge.mean_micros if edge else None,
        edge_low_micros=edge.low_micros if edge else None,
        edge_high_micros=edge.high_micros if edge else None,
        calibration=forecasts.calibration(
            best, forecast.happened[fair_known] if fair_known.any() else forecast.happened
        ),
    )


def _clusters(outcome: Outcome, entries: Any) -> Any:
    """The event of each trade (its market where it has none), as its place among their ids in order."""
    traded, place = np.unique(outcome.log.intents["market"].take(entries["intent"]), return_inverse=True)
    picked = [outcome.universe.markets[i].market for i in traded.tolist()]
    return np.unique([m.event_id or m.market_id for m in picked], return_inverse=True)[1][place]


@dataclass(frozen=True, slots=True)
class _Forecasts:
    """One forecast an entry whose market paid one side in full; micros of a payout of one USD."""

    price_micros: Any
    fair_micros: Any
    """-1 where the strategy gives none."""
    happened: Any


def _forecasts(outcome: Outcome, entries: Any) -> _Forecasts:
    payouts = known_payouts(outcome)
    intents = outcome.log.intents
    _, first = np.unique(entries["intent"], return_index=True)
    entered = entries.take(first)
    wanted = intents.take(entered["intent"])
    whole = outcome.universe.terms["payout_micros"][wanted["market"]]
    paid = payouts[wanted["market"]]
    two_class = (paid == 0) | (paid == whole)
    places = np.flatnonzero(two_class)
    entered, wanted, whole, paid = (values.take(places) for values in (entered, wanted, whole, paid))
    happened = np.where(wanted["outcome"] == 0, paid == whole, paid == 0).astype(np.float64)
    fair = np.where(wanted["fair_micros"] >= 0, wanted["fair_micros"] * MICROS // np.maximum(whole, 1), -1)
    return _Forecasts(entered["price_micros"] * MICROS // np.maximum(whole, 1), fair, happened)


def known_payouts(outcome: Outcome) -> Any:
    """What each market's outcome 0 pays by the last settlement known within the range; -1 where none or a void."""
    payouts = np.full(max(len(outcome.universe), 1), -1, dtype=np.int64)
    for payment in outcome.universe.payments.tolist():
        time_us, market, pays, void, payout = payment
        if time_us <= outcome.config.end_us and not pays:
            payouts[market] = -1 if void else payout
    return payouts


@dataclass(frozen=True, slots=True)
class BacktestTrade:
    """Field for field the contract's BacktestTrade; ``strength_ppm`` stands for ``strength``."""

    trade_number: int
    kind: str
    market_id: str
    event_id: str | None
    outcome_index: int
    entry_price_micros: int
    size_micros: int
    fee_micros: int
    slippage_micros: int
    maker: bool
    exit: PositionExit
    exit_price_micros: int
    profit_micros: int
    strength_ppm: int
    fair_value_micros: int | None
    signal_time_us: int
    entry_time_us: int
    exit_time_us: int


def trades(outcome: Outcome, begin: int = 0, end: int | None = None) -> Iterator[BacktestTrade]:
    """Rows ``begin`` to ``end`` of the blotter, by time of entry. Every entry buys the outcome that it names."""
    entries = outcome.account.entries[begin:end]
    wanted = outcome.log.intents[entries["intent"]]
    earned = profits(entries).tolist()
    for i, (entry, intent) in enumerate(zip(entries, wanted, strict=True)):
        market = outcome.universe.markets[intent["market"]].market
        fair = int(intent["fair_micros"])
        yield BacktestTrade(
            trade_number=begin + i + 1,
            kind=outcome.config.strategies[intent["strategy"]].kind.kind,
            market_id=market.market_id,
            event_id=market.event_id,
            outcome_index=int(intent["outcome"]),
            entry_price_micros=int(entry["price_micros"]),
            size_micros=int(entry["size_micros"]),
            fee_micros=int(entry["fee_micros"] + entry["exit_fee_micros"]),
            slippage_micros=int(entry["price_micros"] - intent["price_micros"]),
            maker=bool(entry["maker"]),
            exit=PositionExit(int(entry["exit"])),
            exit_price_micros=int(entry["exit_price_micros"]),
            profit_micros=earned[i],
            strength_ppm=int(intent["strength_ppm"]),
            fair_value_micros=fair if fair >= 0 else None,
            signal_time_us=int(intent["time_us"]),
            entry_time_us=int(entry["entry_us"]),
            exit_time_us=int(entry["exit_us"]),
        )


@dataclass(frozen=True, slots=True)
class EquityPoint:
    time_us: int
    equity_micros: int
    cash_micros: int
    locked_micros: int
    drawdown_micros: int
    """How far the equity is below its highest so far, at most 0; the starting bankroll is the first."""


def equity_curve(outcome: Outcome) -> Sequence[EquityPoint]:
    """The starting bankroll, then the equity at each instant."""
    start = outcome.config.starting_bankroll_micros
    points, peak = [EquityPoint(outcome.config.start_us, start, start, 0, 0)], start
    for time_us, equity, cash, locked in outcome.account.equity.tolist():
        peak = max(peak, equity)
        points.append(EquityPoint(time_us, equity, cash, locked, equity - peak))
    return points
