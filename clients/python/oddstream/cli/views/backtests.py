"""Backtests and sweeps as tables."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from oddstream.cli import words
from oddstream.cli.views.tables import FOLD, RIGHT, disclosure, facts, heading, rows_table
from oddstream.v1 import backtest_pb2, sweep_pb2

STATE_STYLES = {"SUCCEEDED": "green", "FAILED": "red", "CANCELLED": "yellow", "RUNNING": "cyan"}

FIGURES = (
    ("return", "total_return", "%"),
    ("return of a year", "annual_return", "%"),
    ("volatility of a year", "annual_volatility", "%"),
    ("Sharpe", "sharpe", ""),
    ("Sortino", "sortino", ""),
    ("deepest drawdown, by days", "maximum_drawdown", "%"),
    ("probability that Sharpe > 0", "probabilistic_sharpe", "%"),
    ("return on locked money", "return_on_locked", "%"),
    ("Brier score", "brier", ""),
    ("Brier score of the crowd", "brier_crowd", ""),
    ("log loss", "log_loss", ""),
)


def state_word(state: int) -> str:
    return words.word(backtest_pb2.BacktestState, state)


def usd(micros: int) -> str:
    return f"{micros / 1_000_000:,.2f}"


def figure(metrics: backtest_pb2.BacktestMetrics, name: str, unit: str) -> str | None:
    """A figure as text; None where it isn't defined."""
    if not metrics.HasField(name):  # type: ignore[arg-type]  # names of the table above
        return None
    value = getattr(metrics, name)
    return f"{value * 100:.2f} %" if unit == "%" else f"{value:.4f}"


def win_rate(metrics: backtest_pb2.BacktestMetrics) -> str | None:
    """With its interval; None where nothing has ended."""
    if not metrics.HasField("win_rate"):
        return None
    return f"{metrics.win_rate:.1%} ({metrics.win_rate_low:.1%} to {metrics.win_rate_high:.1%})"


def edge(metrics: backtest_pb2.BacktestMetrics) -> str | None:
    """USD earned for a contract; with its interval where there are events enough."""
    if not metrics.HasField("mean_edge_micros"):
        return None
    if not metrics.HasField("edge_low_micros"):
        return f"{metrics.mean_edge_micros / 1e6:.4f} USD"
    low, high = metrics.edge_low_micros / 1e6, metrics.edge_high_micros / 1e6
    return f"{metrics.mean_edge_micros / 1e6:.4f} ({low:.4f} to {high:.4f}) USD"


def kinds(config: backtest_pb2.BacktestConfig) -> str:
    return ", ".join(s.kind for s in config.strategies)


def backtests_table(backtests: Sequence[backtest_pb2.Backtest], now_us: int) -> RenderableType:
    table = rows_table("id", "state", ("strategies", FOLD), ("name", FOLD), "made")
    for b in backtests:
        state = state_word(b.state)
        table.add_row(
            b.backtest_id,
            Text(state.lower(), STATE_STYLES.get(state.upper(), "")),
            kinds(b.config),
            b.display_name,
            words.moment(b.create_time, now_us),
        )
    return table


def ladder_rows(result: backtest_pb2.BacktestResult) -> list[tuple[str, int, int]]:
    return [
        (
            backtest_pb2.FillAssumption.Name(r.assumption).removeprefix("FILL_ASSUMPTION_").replace("_", " ").lower(),
            r.profit_micros,
            r.trade_count,
        )
        for r in result.fill_ladder
    ]


def backtest_page(backtest: backtest_pb2.Backtest, now_us: int) -> RenderableType:
    state = state_word(backtest.state)
    head = facts(
        [
            ("id", backtest.backtest_id),
            ("state", Text(state.lower(), STATE_STYLES.get(state.upper(), ""))),
            ("strategies", kinds(backtest.config)),
            ("attempts", str(backtest.attempt)),
            ("made", words.moment(backtest.create_time, now_us)),
            ("error", backtest.error.message if backtest.HasField("error") else None),
        ]
    )
    title = Text(backtest.display_name or backtest.backtest_id, style="bold")
    if not backtest.HasField("result"):
        return Group(title, head)
    result, metrics = backtest.result, backtest.result.metrics
    ladder = rows_table("how orders fill", ("profit, USD", RIGHT), ("trades", RIGHT))
    for name, profit, trades in ladder_rows(result):
        ladder.add_row(name, usd(profit), f"{trades:,}")
    figures = facts(
        [
            ("profit", f"{usd(metrics.profit_micros)} USD after {usd(metrics.fees_micros)} of fees"),
            ("final equity", f"{usd(result.final_equity_micros)} USD"),
            ("most locked", f"{usd(metrics.peak_locked_micros)} USD"),
            ("trades", f"{metrics.trade_count:,} of {result.signal_count:,} signals; {metrics.void_count:,} void"),
            *((label, figure(metrics, name, unit)) for label, name, unit in FIGURES),
            ("win rate (95 %)", win_rate(metrics)),
            ("edge a contract (95 %)", edge(metrics)),
            (
                "coverage",
                f"{result.coverage.ratio:.1%} of open time, {result.coverage.market_count:,} markets, "
                f"{result.coverage.row_count:,} rows, {result.coverage.gap_count:,} gaps",
            ),
            ("trials on this data", f"{result.trial_count:,}"),
            ("result hash", result.result_hash),
        ]
    )
    return Group(
        title, head, heading("What the same signals earn"), ladder, heading("Figures"), figures,
        disclosure(result.disclaimer),
    )  # fmt: skip


def comparison_table(backtests: Sequence[backtest_pb2.Backtest]) -> RenderableType:
    table = rows_table("", *((b.display_name or b.backtest_id, RIGHT) for b in backtests))
    table.add_row("strategies", *(kinds(b.config) for b in backtests))
    table.add_row("profit, USD", *(usd(b.result.metrics.profit_micros) for b in backtests))
    table.add_row("fees, USD", *(usd(b.result.metrics.fees_micros) for b in backtests))
    table.add_row("trades", *(f"{b.result.metrics.trade_count:,}" for b in backtests))
    for label, name, unit in FIGURES:
        table.add_row(label, *(figure(b.result.metrics, name, unit) or "-" for b in backtests))
    for place, (name, _, _) in enumerate(ladder_rows(backtests[0].result)):
        table.add_row(name, *(usd(ladder_rows(b.result)[place][1]) for b in backtests))
    table.add_row("coverage", *(f"{b.result.coverage.ratio:.1%}" for b in backtests))
    table.add_row("same data", *("yes" if b.result.input_digest == backtests[0].result.input_digest else "NO"
                                 for b in backtests))  # fmt: skip
    table.add_row("trials on its data", *(f"{b.result.trial_count:,}" for b in backtests))
    return Group(table, disclosure(backtests[0].result.disclaimer))


def sweep_page(sweep: sweep_pb2.Sweep, limit: int) -> RenderableType:
    result = sweep.result
    table = rows_table(
        ("set", RIGHT), ("parameters", FOLD), ("profit, USD", RIGHT), ("Sharpe", RIGHT), ("trades", RIGHT)
    )
    best = sorted(result.sets, key=lambda s: -s.metrics.profit_micros)
    for s in best[:limit]:
        named = ", ".join(f"{name}={_value(s.params[name])}" for name in sorted(s.params))
        table.add_row(
            str(s.set_number),
            named,
            usd(s.metrics.profit_micros),
            figure(s.metrics, "sharpe", "") or "-",
            f"{s.metrics.trade_count:,}",
        )
    overfit = f"{result.overfitting_probability:.1%}" if result.HasField("overfitting_probability") else None
    deflated = f"{result.deflated_sharpe:.1%}" if result.HasField("deflated_sharpe") else None
    walked = usd(result.walk_forward_profit_micros) if result.HasField("walk_forward_profit_micros") else None
    return Group(
        Text(sweep.display_name or sweep.sweep_id, style="bold"),
        facts(
            [
                ("probability of overfitting", overfit),
                ("probability that the best Sharpe is no luck", deflated),
                ("median profit", f"{usd(result.median_profit_micros)} USD"),
                ("walk-forward profit", walked and f"{walked} USD out of sample"),
                ("trials on this data", f"{result.trial_count:,}"),
                ("coverage", f"{result.coverage.ratio:.1%}"),
                ("result hash", result.result_hash),
            ]
        ),
        heading(f"The best of {len(result.sets):,} sets, which alone say little"),
        table,
        disclosure(result.disclaimer),
    )


def _value(value: object) -> str:
    from oddstream.cli.views.strategies import parameter_value

    return parameter_value(value)  # type: ignore[arg-type]  # a ParameterValue of the map
