"""Bad input, method by method: the right code, reason and field, and nothing of ours in the text."""

from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from oddstream.v1 import execution_pb2, market_service_pb2, signal_pb2, signal_service_pb2, time_range_pb2
from oddstream_server.domain.principal import Role
from oddstream_server.interceptors.assembly import ChainSettings
from oddstream_server.transport.administration.service import AdminService
from oddstream_server.transport.backtest_service import BacktestService
from oddstream_server.transport.market_service import MarketService
from oddstream_server.transport.signal_service import SignalService
from tests.grpc.admin_bad_input import EMPTY, PAGED, admin_cases
from tests.grpc.backtest_cases import backtest_cases
from tests.grpc.running_server import CONTRACT, World, bearer, failure_of, running
from tests.grpc.stored_world import MARKET

market, signals = market_service_pb2, signal_service_pb2


@dataclass(frozen=True)
class Case:
    method: str
    request: Any
    field: str
    reason: str = "INVALID_FIELD"


BACKWARDS = time_range_pb2.TimeRange(start_time=Timestamp(seconds=2), end_time=Timestamp(seconds=1))


def pages(name: str, request: Any) -> list[Case]:
    """What every method with pages refuses."""

    def with_fields(**fields: Any) -> Any:
        made = type(request)()
        made.CopyFrom(request)
        made.MergeFrom(type(request)(**fields))
        return made

    return [
        Case(name, with_fields(page_size=-1), "page_size"),
        Case(name, with_fields(page_token="garbage"), "page_token", "PAGE_TOKEN_INVALID"),
        Case(name, with_fields(page_token="p" + "A" * 600 + "é"), "page_token", "PAGE_TOKEN_INVALID"),
        Case(name, with_fields(page_token="x" * 2000), "page_token"),
    ]


def filled(**fields: Any) -> execution_pb2.Fill:
    """A fill that is good but for some fields."""
    good = {
        "venue": 1, "venue_fill_id": "f1", "market_id": MARKET, "action": 1, "price_micros": 1, "size_micros": 1,
        "venue_time": Timestamp(seconds=1_782_993_600),
    }  # fmt: skip
    return execution_pb2.Fill(**{**good, **fields})


QUOTES = market.ListQuotesRequest(filter=market.QuoteFilter(market_id=MARKET))
TRADES = market.ListTradesRequest(filter=market.TradeFilter(market_id=MARKET))
CANDLES = market.ListCandlesRequest(filter=market.CandleFilter(market_id=MARKET, interval=1))
FILL = market.FeeFill(price_micros=1, size_micros=1)
FEES = {"market_id": MARKET, "action": signal_pb2.LEG_ACTION_BUY}

CASES = [
    *pages("ListEvents", market.ListEventsRequest()),
    Case("ListEvents", market.ListEventsRequest(filter=market.EventFilter(venues=[99])), "filter.venues[0]"),
    Case("ListEvents", market.ListEventsRequest(filter=market.EventFilter(venues=[0])), "filter.venues[0]"),
    Case("ListEvents", market.ListEventsRequest(filter=market.EventFilter(text="a\0b")), "filter.text"),
    Case("GetEvent", market.GetEventRequest(), "event_id"),
    Case("GetEvent", market.GetEventRequest(event_id="nowhere:X"), "event_id"),
    *pages("ListMarkets", market.ListMarketsRequest()),
    Case("ListMarkets", market.ListMarketsRequest(filter=market.MarketFilter(venues=[1, 99])), "filter.venues[1]"),
    Case("ListMarkets", market.ListMarketsRequest(filter=market.MarketFilter(states=[77])), "filter.states[0]"),
    Case("ListMarkets", market.ListMarketsRequest(view=9), "view"),
    Case(
        "ListMarkets",
        market.ListMarketsRequest(filter=market.MarketFilter(categories=["a", "\0"])),
        "filter.categories[1]",
    ),
    Case(
        "ListMarkets",
        market.ListMarketsRequest(filter=market.MarketFilter(close_time_range=BACKWARDS)),
        "filter.close_time_range",
    ),
    Case("GetMarket", market.GetMarketRequest(market_id="kalshi:"), "market_id"),
    Case("GetMarket", market.GetMarketRequest(market_id="kalshi:a b"), "market_id"),
    Case("GetMarket", market.GetMarketRequest(market_id=MARKET, view=9), "view"),
    Case("BatchGetMarkets", market.BatchGetMarketsRequest(), "market_ids"),
    Case("BatchGetMarkets", market.BatchGetMarketsRequest(market_ids=[MARKET, MARKET]), "market_ids"),
    Case("BatchGetMarkets", market.BatchGetMarketsRequest(market_ids=[MARKET, "x"]), "market_ids[1]"),
    Case(
        "BatchGetMarkets",
        market.BatchGetMarketsRequest(market_ids=[f"kalshi:{n}" for n in range(1001)]),
        "market_ids",
    ),
    Case("GetOrderBook", market.GetOrderBookRequest(market_id="x"), "market_id"),
    Case("GetOrderBook", market.GetOrderBookRequest(market_id=MARKET, depth=-1), "depth"),
    *pages("ListQuotes", QUOTES),
    Case("ListQuotes", market.ListQuotesRequest(), "filter"),
    Case("ListQuotes", market.ListQuotesRequest(filter=market.QuoteFilter(market_id="x")), "filter.market_id"),
    Case(
        "ListQuotes",
        market.ListQuotesRequest(filter=market.QuoteFilter(market_id=MARKET, receive_time_range=BACKWARDS)),
        "filter.receive_time_range",
    ),
    *pages("ListCandles", CANDLES),
    Case("ListCandles", market.ListCandlesRequest(), "filter"),
    Case("ListCandles", market.ListCandlesRequest(filter=market.CandleFilter(market_id=MARKET)), "filter.interval"),
    Case(
        "ListCandles",
        market.ListCandlesRequest(filter=market.CandleFilter(market_id=MARKET, interval=50)),
        "filter.interval",
    ),
    *pages("ListTrades", TRADES),
    Case("ListTrades", market.ListTradesRequest(), "filter"),
    *pages("ListMarketLinks", market.ListMarketLinksRequest()),
    Case(
        "ListMarketLinks",
        market.ListMarketLinksRequest(filter=market.MarketLinkFilter(states=[50])),
        "filter.states[0]",
    ),
    Case("EstimateFees", market.EstimateFeesRequest(**FEES), "fills"),
    Case("EstimateFees", market.EstimateFeesRequest(market_id=MARKET, fills=[FILL]), "action"),
    Case("EstimateFees", market.EstimateFeesRequest(**FEES, fills=[FILL] * 101), "fills"),
    Case(
        "EstimateFees",
        market.EstimateFeesRequest(**FEES, fills=[FILL, market.FeeFill(price_micros=1, size_micros=0)]),
        "fills[1].size_micros",
    ),
    Case(
        "EstimateFees",
        market.EstimateFeesRequest(**FEES, fills=[market.FeeFill(price_micros=1, size_micros=10**13 + 1)]),
        "fills[0].size_micros",
    ),
    Case(
        "ReviewMarketLink",
        market.ReviewMarketLinkRequest(
            market_link_id="lnk_" + "a" * 26, decision=1, rules_digest="0" * 64, other_rules_digest="0" * 64
        ),
        "decision",
    ),
    Case(
        "ReviewMarketLink",
        market.ReviewMarketLinkRequest(
            market_link_id="lnk_" + "a" * 26, decision=2, rules_digest="0" * 63, other_rules_digest="0" * 64
        ),
        "rules_digest",
    ),
    Case("WatchQuotes", market.WatchQuotesRequest(filter=market.QuoteWatchFilter(venues=[99])), "filter.venues[0]"),
    Case("WatchQuotes", market.WatchQuotesRequest(heartbeat_interval={"seconds": 61}), "heartbeat_interval"),
    *pages("ListSignals", signals.ListSignalsRequest()),
    Case("ListSignals", signals.ListSignalsRequest(view=9), "view"),
    Case(
        "ListSignals",
        signals.ListSignalsRequest(filter=signal_pb2.SignalFilter(minimum_strength=1.5)),
        "filter.minimum_strength",
    ),
    Case(
        "ListSignals",
        signals.ListSignalsRequest(filter=signal_pb2.SignalFilter(minimum_strength=float("nan"))),
        "filter.minimum_strength",
    ),
    Case(
        "ListSignals",
        signals.ListSignalsRequest(history=signals.SignalHistoryFilter(states=[50])),
        "history.states[0]",
    ),
    Case(
        "ListSignals",
        signals.ListSignalsRequest(history=signals.SignalHistoryFilter(create_time_range=BACKWARDS)),
        "history.create_time_range",
    ),
    Case("GetSignal", signals.GetSignalRequest(signal_id="1"), "signal_id"),
    *pages("ListStrategies", signals.ListStrategiesRequest()),
    Case(
        "ListStrategies", signals.ListStrategiesRequest(filter=signals.StrategyFilter(kinds=["A B"])), "filter.kinds[0]"
    ),
    Case("GetStrategy", signals.GetStrategyRequest(strategy_id="Nope!"), "strategy_id"),
    Case("GetStrategyPerformance", signals.GetStrategyPerformanceRequest(), "strategy_id"),
    Case(
        "GetStrategyPerformance",
        signals.GetStrategyPerformanceRequest(strategy_id="arb.event_sum", kind_version=-1),
        "kind_version",
    ),
    Case(
        "GetStrategyPerformance",
        signals.GetStrategyPerformanceRequest(strategy_id="arb.event_sum", period=BACKWARDS),
        "period",
    ),
    Case("ReportExecutions", signals.ReportExecutionsRequest(), "fills"),
    *(
        Case("ReportExecutions", signals.ReportExecutionsRequest(fills=[filled(**wrong)]), f"fills[0].{name}")
        for name, wrong in (
            ("venue", {"venue": 0}),
            ("venue_fill_id", {"venue_fill_id": ""}),
            ("market_id", {"market_id": "kalshi:"}),
            ("market_id", {"market_id": "polymarket:0x0"}),
            ("outcome_index", {"outcome_index": 256}),
            ("action", {"action": 0}),
            ("price_micros", {"price_micros": 0}),
            ("size_micros", {"size_micros": -1}),
            ("fee_micros", {"fee_micros": 10**12 + 1}),
            ("liquidity", {"liquidity": 9}),
            ("venue_time", {"venue_time": None}),
            ("venue_time", {"venue_time": Timestamp(seconds=4_102_444_799)}),
            ("signal_id", {"signal_id": "sig_1"}),
            ("leg_number", {"leg_number": 0}),
            ("venue_order_id", {"venue_order_id": "\0"}),
            ("client_order_id", {"client_order_id": "x" * 201}),
        )
    ),
    Case(
        "ReportExecutions",
        signals.ReportExecutionsRequest(fills=[filled(), filled(), filled(price_micros=2)]),
        "fills[2].venue_fill_id",
    ),
    Case("ReportExecutions", signals.ReportExecutionsRequest(fills=[filled()], request_id="once"), "request_id"),
    *pages("ListExecutions", signals.ListExecutionsRequest()),
    Case(
        "ListExecutions",
        signals.ListExecutionsRequest(filter=signals.ExecutionFilter(signal_ids=["1"])),
        "filter.signal_ids[0]",
    ),
    Case(
        "ListExecutions",
        signals.ListExecutionsRequest(filter=signals.ExecutionFilter(owners=["a", "\0"])),
        "filter.owners[1]",
    ),
    Case(
        "ListExecutions",
        signals.ListExecutionsRequest(filter=signals.ExecutionFilter(venue_time_range=BACKWARDS)),
        "filter.venue_time_range",
    ),
    Case("WatchSignals", signals.WatchSignalsRequest(view=9), "view"),
    Case("WatchSignals", signals.WatchSignalsRequest(start=signals.WatchSignalsStart()), "start.point"),
    Case(
        "WatchSignals",
        signals.WatchSignalsRequest(
            start=signals.WatchSignalsStart(position=signals.LogPosition(data_set_id="x", sequence=-1))
        ),
        "start.position.data_set_id",
    ),
]

CASES += [Case(method, request, *rest) for method, request, *rest in (*backtest_cases(), *admin_cases())]
CASES += [case for method, request in PAGED for case in pages(method, request)]

NOT_OURS = ("Traceback", "oddstream_server", "site-packages", "asyncpg", "Error(", "Exception", ".py", "protovalidate")

SERVICERS = {
    "MarketService": MarketService,
    "SignalService": SignalService,
    "BacktestService": BacktestService,
    "AdminService": AdminService,
}


def full_name(method: str) -> str:
    return next(name for name in CONTRACT.methods if name.endswith(f"/{method}"))


@pytest.mark.parametrize("method", sorted({case.method for case in CASES}))
async def test_bad_input_is_answered_with_code_reason_and_field(method: str) -> None:
    world = World()
    async with running(world) as server:
        caller = bearer(world.issue(Role.ADMIN).key.text)
        for case in (case for case in CASES if case.method == method):
            call = server.channel.unary_stream(full_name(method))
            failure = await failure_of(call(case.request.SerializeToString(), metadata=caller))
            assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, case.reason), (case, failure)
            assert case.field in failure.fields, (case, failure.fields)
            assert failure.fields[case.field], "the rule and the way out"
            assert not any(word in failure.everything.decode("latin-1") for word in NOT_OURS), failure.everything


async def test_a_malformed_body_has_its_code_on_every_method() -> None:
    world = World(settings=ChainSettings(units_per_minute=60_000))
    async with running(world) as server:
        admin = bearer(world.issue(Role.ADMIN).key.text)
        for method in CONTRACT.methods:
            failure = await failure_of(server.channel.unary_stream(method)(b"\xff\xff\xff", metadata=admin))
            assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST"), method


@pytest.mark.parametrize("method", ["ListMarkets", "WatchSignals", "CreateBacktest", "CreateApiKey"])
async def test_an_oversized_body_is_refused_before_it_is_read(method: str) -> None:
    async with running() as server:
        call = server.channel.unary_stream(full_name(method))
        failure = await failure_of(call(b"\x00" * (1024 * 1024 + 1), metadata=server.auth))
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        # gRPC itself refuses it, so there are no details, and none of ours either.
        assert failure.details == []


def test_every_rpc_is_served_and_has_bad_input_in_the_table() -> None:
    with_cases = {case.method for case in CASES}
    for method in CONTRACT.methods.values():
        assert method.name in vars(SERVICERS[method.service]), f"{method.full_name} is left to the generated base"
        assert method.name in EMPTY or method.name in with_cases, method.full_name
