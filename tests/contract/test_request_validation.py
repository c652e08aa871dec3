"""The validation rules of the contract, as the server evaluates them on serialised requests."""

import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from oddstream.v1 import backtest_service_pb2, market_pb2, market_service_pb2
from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.domain.principal import Role
from oddstream_server.transport.contract import PATTERNS, Contract, load_contract

MARKETS = "/oddstream.v1.MarketService/"
SIGNALS = "/oddstream.v1.SignalService/"
BACKTESTS = "/oddstream.v1.BacktestService/"
ADMIN = "/oddstream.v1.AdminService/"
UUID4 = "0b9f3c52-6d1e-4a57-9c0e-2f6a8f0d1c3b"


@pytest.fixture(scope="session")
def contract() -> Contract:
    return load_contract()


def test_the_access_rule_of_an_rpc_is_read_from_the_contract(contract: Contract) -> None:
    method = contract.methods[f"{SIGNALS}ReportExecutions"]
    assert (method.service, method.name) == ("SignalService", "ReportExecutions")
    assert (method.permission, method.role) == ("executions.report", Role.TRADER)
    assert method.cost >= 1
    assert not method.read_only
    assert not method.server_streaming
    assert contract.methods[f"{SIGNALS}WatchSignals"].server_streaming
    assert contract.methods[f"{MARKETS}GetMarket"].read_only


def test_a_contract_with_an_rpc_that_declares_no_access_rule_is_refused(described_contract: FileDescriptorSet) -> None:
    spoiled = FileDescriptorSet.FromString(_whole_contract())
    service = next(file.service[0] for file in spoiled.file if file.name.endswith("market_service.proto"))
    next(method for method in service.method if method.name == "GetEvent").ClearField("options")
    with pytest.raises(ValueError, match="MarketService/GetEvent declares no access rule"):
        Contract(spoiled.SerializeToString())


def test_a_method_that_is_not_of_the_contract_is_unknown(contract: Contract) -> None:
    with pytest.raises(KeyError):
        contract.violations("/oddstream.v1.MarketService/DropEverything", b"")


def test_a_good_request_breaks_no_rule(contract: Contract) -> None:
    request = market_service_pb2.ListMarketsRequest(page_size=50)
    request.filter.event_ids.append("kalshi:KXBTC-26JUL0302")
    request.filter.states.append(market_pb2.MARKET_STATE_OPEN)
    assert contract.violations(f"{MARKETS}ListMarkets", request.SerializeToString()) == ()


@pytest.mark.parametrize(
    ("method", "fields", "field", "description"),
    [
        (f"{MARKETS}ListMarkets", {"page_size": -1}, "page_size", "must be greater than or equal to 0"),
        (
            f"{MARKETS}ListMarkets",
            {"filter": {"event_ids": ["kalshi:A", "nyse:B"]}},
            "filter.event_ids[1]",
            "must be <venue>:<the venue's own id> with a venue of kalshi, polymarket, polymarket_us, simulated",
        ),
        (
            f"{MARKETS}ListMarkets",
            {"filter": {"event_ids": ["kalshi:A", "kalshi:A"]}},
            "filter.event_ids",
            "must not hold the same value twice",
        ),
        (
            f"{MARKETS}ListMarkets",
            {"filter": {"states": [0]}},
            "filter.states[0]",
            "must be one of MARKET_STATE_UNOPENED, MARKET_STATE_OPEN, ",
        ),
        (
            f"{MARKETS}ListMarkets",
            {"view": 99},
            "view",
            "must be one of MARKET_VIEW_UNSPECIFIED, MARKET_VIEW_BASIC, MARKET_VIEW_FULL",
        ),
        (f"{MARKETS}ListQuotes", {}, "filter", "must be given"),
        (
            f"{MARKETS}ReviewMarketLink",
            {
                "market_link_id": "lnk_" + "a" * 20,
                "decision": 1,
                "rules_digest": "0" * 64,
                "other_rules_digest": "0" * 64,
            },
            "decision",
            "must be one of LINK_STATE_CONFIRMED, LINK_STATE_REJECTED",
        ),
        (f"{SIGNALS}GetSignal", {"signal_id": "sig_UPPER"}, "signal_id", "must be the id of a signal"),
        (f"{SIGNALS}WatchSignals", {"start": {}}, "start.point", "must be given"),
        (
            f"{SIGNALS}WatchSignals",
            {"heartbeat_interval": {"seconds": 61}},
            "heartbeat_interval",
            "must be greater than or equal to 1s and less than or equal to 60s",
        ),
        (
            f"{SIGNALS}WatchSignals",
            {"filter": {"minimum_strength": float("nan")}},
            "filter.minimum_strength",
            "must be greater than or equal to 0 and less than or equal to 1",
        ),
        (
            f"{SIGNALS}WatchSignals",
            {"start": {"start_time": {"seconds": 5, "nanos": -1}}},
            "start.start_time",
            "must have nanos from 0 to 999,999,999",
        ),
        (
            f"{SIGNALS}WatchSignals",
            {"heartbeat_interval": {"seconds": 5, "nanos": -1}},
            "heartbeat_interval",
            "must have nanos below 1,000,000,000 with the sign of its seconds",
        ),
        (
            f"{SIGNALS}ReportExecutions",
            {
                "fills": [
                    {
                        "venue": 1,
                        "venue_fill_id": "f1",
                        "market_id": "kalshi:A",
                        "action": 1,
                        "price_micros": 1,
                        "size_micros": 1,
                        "venue_time": {"nanos": 2_000_000_000},
                    }
                ]
            },
            "fills[0].venue_time",
            "must have nanos from 0 to 999,999,999",
        ),
        (
            f"{SIGNALS}ListSignals",
            {"history": {"create_time_range": {"start_time": {"seconds": 9}, "end_time": {"seconds": 9}}}},
            "history.create_time_range",
            "start_time must be before end_time",
        ),
        (f"{BACKTESTS}CreateBacktest", {}, "config", "must be given"),
        (
            f"{BACKTESTS}CancelBacktest",
            {"backtest_id": "bt_" + "a" * 20, "request_id": "once-more"},
            "request_id",
            "must be a UUID of version 4, e.g.",
        ),
        (
            f"{BACKTESTS}CancelBacktest",
            {"backtest_id": "bt_" + "a" * 20, "request_id": UUID4.replace("-4a57-", "-1a57-")},
            "request_id",
            "must be a UUID of version 4, e.g.",
        ),
        (
            f"{ADMIN}UpdateApiKey",
            {"api_key": {"api_key_id": "key_abcdefghij12"}, "update_mask": {"paths": ["secret"]}},
            "update_mask",
            "must only contain paths in ",
        ),
        (
            f"{ADMIN}CreateApiKey",
            {"display_name": "bot", "role": 3, "scopes": {"networks": ["10.0.0.0/33"]}},
            "scopes.networks[0]",
            "must be a valid IP prefix",
        ),
        (f"{ADMIN}HaltSignals", {"note": "a fault", "scope": {}}, "scope.reach", "must be given"),
        (
            f"{ADMIN}UpdateStrategy",
            {
                "strategy": {"strategy_id": "stat.mean_reversion", "params": {"entry_z": {}}},
                "update_mask": {"paths": ["params"]},
            },
            'strategy.params["entry_z"].value',
            "must be given",
        ),
        (
            f"{ADMIN}UpdateRetentionPolicy",
            {"retention_policy": {"rules": [{"subject": 1}, {"subject": 1}]}, "update_mask": {"paths": ["rules"]}},
            "retention_policy.rules",
            "rules must name each subject at most once",
        ),
    ],
)
def test_a_broken_rule_names_its_field_and_the_way_out(
    contract: Contract, method: str, fields: dict[str, Any], field: str, description: str
) -> None:
    request = contract.request_class(method)(**fields)
    (violation,) = contract.violations(method, request.SerializeToString())
    assert violation.field == field
    assert violation.description.startswith(description)


def test_a_request_id_may_be_left_empty_and_written_in_either_case(contract: Contract) -> None:
    for request_id in ("", UUID4, UUID4.upper()):
        request = backtest_service_pb2.CancelBacktestRequest(backtest_id="bt_" + "a" * 20, request_id=request_id)
        assert contract.violations(f"{BACKTESTS}CancelBacktest", request.SerializeToString()) == ()


def test_the_caller_s_own_text_is_never_repeated(contract: Contract) -> None:
    request = market_service_pb2.GetMarketRequest(market_id="my secret text")
    (violation,) = contract.violations(f"{MARKETS}GetMarket", request.SerializeToString())
    assert "secret" not in violation.description


def test_at_most_twenty_violations_are_named(contract: Contract) -> None:
    request = market_service_pb2.BatchGetMarketsRequest(market_ids=[f"nowhere:{n}" for n in range(50)])
    assert len(contract.violations(f"{MARKETS}BatchGetMarkets", request.SerializeToString())) == 20


@pytest.mark.parametrize(
    "body",
    [b"\xff\xff\xff", b"\x12\x02\xc3\x28", b"\x0a\x7fab", b"\x1a" * 4000],
    ids=["no tag", "no UTF-8", "cut short", "deep"],
)
def test_bytes_that_are_no_such_message_are_told_apart_from_a_broken_rule(contract: Contract, body: bytes) -> None:
    with pytest.raises(InvalidArgument) as raised:
        contract.check(f"{MARKETS}ListMarkets", body)
    assert raised.value.reason == "MALFORMED_REQUEST"


def test_a_check_raises_with_all_violations(contract: Contract) -> None:
    request = market_service_pb2.ListMarketsRequest(page_size=-1, page_token="x" * 1025)
    with pytest.raises(InvalidArgument) as raised:
        contract.check(f"{MARKETS}ListMarkets", request.SerializeToString())
    assert raised.value.reason == "INVALID_FIELD"
    assert raised.value.violations == (
        FieldViolation("page_size", "must be greater than or equal to 0"),
        FieldViolation("page_token", "must be at most 1024 characters"),
    )


def test_every_rule_of_every_request_compiles(contract: Contract) -> None:
    assert len(contract.methods) == 53
    for method in contract.methods:
        contract.violations(method, b"")


def test_every_pattern_of_the_contract_has_its_words() -> None:
    patterns = set(_patterns(_whole_contract()))
    assert len(patterns) > 10
    assert patterns == set(PATTERNS)


def _whole_contract() -> bytes:
    return resources.files("oddstream_server.transport").joinpath("contract.binpb").read_bytes()


def _patterns(descriptor_set: bytes) -> Iterator[str]:
    """All texts in the options of our files that look like an anchored pattern."""
    for file in FileDescriptorSet.FromString(descriptor_set).file:
        if file.package == "oddstream.v1":
            for found in re.finditer(rb"\^[\x20-\x7e]+?\$", file.SerializeToString()):
                yield found[0].decode()
