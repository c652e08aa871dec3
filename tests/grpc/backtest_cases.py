"""Bad input to BacktestService: what is sent, and the field that is named."""

from collections.abc import Callable, Iterator
from typing import Any

from oddstream.v1 import backtest_pb2, sweep_pb2, venue_pb2
from oddstream.v1 import backtest_service_pb2 as pb

T0_S = 1_782_993_600
RUN = "bt_" + "a" * 24
SWEEP = "swp_" + "a" * 24
INVALID_PARAMETER = "STRATEGY_PARAMETER_INVALID"


def good_config() -> backtest_pb2.BacktestConfig:
    config = backtest_pb2.BacktestConfig(starting_bankroll_micros=1_000_000_000)
    config.strategies.add(kind="stat.mean_reversion")
    config.range.start_time.FromSeconds(T0_S)
    config.range.end_time.FromSeconds(T0_S + 3600)
    return config


def good_sweep() -> sweep_pb2.SweepConfig:
    config = sweep_pb2.SweepConfig(base=good_config())
    parameter = config.parameters.add(name="z_enter_ppm")
    for value in (2_000_000, 2_500_000):
        parameter.values.add(micros_value=value)
    config.grid.SetInParent()
    return config


def _backtest(change: Callable[[Any], object]) -> pb.CreateBacktestRequest:
    config = good_config()
    change(config)
    return pb.CreateBacktestRequest(config=config)


def _sweep(change: Callable[[Any], object]) -> pb.CreateSweepRequest:
    config = good_sweep()
    change(config)
    return pb.CreateSweepRequest(config=config)


def _end_at_start(config: Any) -> None:
    config.range.end_time.FromSeconds(T0_S)


def _many_values(config: Any) -> None:
    for name in ("z_exit_ppm", "z_enter_ppm"):
        parameter = config.parameters.add(name=name) if name != "z_enter_ppm" else config.parameters[0]
        for value in range(60):
            parameter.values.add(micros_value=1_200_000 + value * 1_000)


def backtest_cases() -> Iterator[tuple[Any, ...]]:
    """(method, request, field, reason where it isn't INVALID_FIELD)"""
    make = "CreateBacktest"
    yield make, pb.CreateBacktestRequest(), "config"
    yield make, _backtest(lambda c: c.ClearField("strategies")), "config.strategies"
    yield make, _backtest(lambda c: c.ClearField("range")), "config.range"
    yield make, _backtest(_end_at_start), "config.range"
    yield make, _backtest(lambda c: setattr(c, "starting_bankroll_micros", 0)), "config.starting_bankroll_micros"
    yield make, _backtest(lambda c: setattr(c.strategies[0], "kind_version", 99)), "config.strategies[0].kind_version"
    yield (
        make,
        _backtest(lambda c: setattr(c.strategies[0].params["z_enter_ppm"], "micros_value", 1)),
        "config.strategies[0].params.z_enter_ppm",
        INVALID_PARAMETER,
    )
    yield (
        make,
        _backtest(lambda c: setattr(c.strategies[0].params["z_enter_ppm"], "integer_value", 2_000_000)),
        "config.strategies[0].params.z_enter_ppm",
        INVALID_PARAMETER,
    )
    yield (
        make,
        _backtest(lambda c: setattr(c.strategies[0].params["colour"], "integer_value", 1)),
        "config.strategies[0].params.colour",
        INVALID_PARAMETER,
    )
    yield make, _backtest(lambda c: c.strategies.add(kind="stat.mean_reversion")), "config.strategies[1]"
    yield make, _backtest(lambda c: c.sizing.SetInParent()), "config.sizing.rule"
    yield make, _backtest(lambda c: setattr(c.execution, "account_class", "vip")), "config.execution.account_class"
    yield make, _backtest(lambda c: c.markets.venues.append(venue_pb2.VENUE_SIMULATED)), "config.markets.venues[0]"
    yield make, _backtest(lambda c: c.markets.market_ids.append("nowhere:A")), "config.markets.market_ids[0]"
    yield make, pb.CreateBacktestRequest(config=good_config(), request_id="1"), "request_id"
    for method, request in (
        ("GetBacktest", pb.GetBacktestRequest),
        ("CancelBacktest", pb.CancelBacktestRequest),
        ("DeleteBacktest", pb.DeleteBacktestRequest),
        ("WatchBacktest", pb.WatchBacktestRequest),
        ("ListBacktestTrades", pb.ListBacktestTradesRequest),
        ("GetEquityCurve", pb.GetEquityCurveRequest),
    ):
        yield method, request(backtest_id="bt_1"), "backtest_id"
    for method, request in (
        ("GetSweep", pb.GetSweepRequest),
        ("CancelSweep", pb.CancelSweepRequest),
        ("WatchSweep", pb.WatchSweepRequest),
    ):
        yield method, request(sweep_id="swp_1"), "sweep_id"
    yield "ListBacktests", pb.ListBacktestsRequest(page_size=-1), "page_size"
    yield "ListBacktests", pb.ListBacktestsRequest(page_token="made up"), "page_token", "PAGE_TOKEN_INVALID"
    yield "ListBacktests", pb.ListBacktestsRequest(filter=pb.BacktestFilter(owners=["a\0b"])), "filter.owners[0]"
    yield "ListSweeps", pb.ListSweepsRequest(page_size=-1), "page_size"
    yield "GetEquityCurve", pb.GetEquityCurveRequest(backtest_id=RUN, maximum_point_count=-1), "maximum_point_count"
    sweep = "CreateSweep"
    yield sweep, _sweep(lambda c: c.base.strategies.add(kind="arb.event_sum")), "config.base.strategies"
    yield sweep, _sweep(lambda c: c.ClearField("grid")), "config.search"
    yield (
        sweep,
        _sweep(lambda c: setattr(c.parameters[0], "name", "colour")),
        "config.parameters[0].name",
        INVALID_PARAMETER,
    )
    yield (
        sweep,
        _sweep(lambda c: c.parameters[0].values.add(micros_value=1)),
        "config.parameters[0].values[2]",
        INVALID_PARAMETER,
    )
    yield sweep, _sweep(_many_values), "config.search", "SWEEP_TOO_LARGE"
