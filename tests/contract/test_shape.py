"""What holds for every rpc, message and field of the contract, read off its descriptors."""

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodOptions,
)

from oddstream.v1 import (
    access_pb2,
    candle_pb2,
    error_reason_pb2,
    event_pb2,
    execution_pb2,
    fee_schedule_pb2,
    feed_status_pb2,
    market_link_pb2,
    market_pb2,
    quote_pb2,
    settlement_pb2,
    signal_pb2,
    venue_pb2,
)
from oddstream_server.domain import errors, fees, market, quote, signal
from oddstream_server.domain.principal import Role

METHODS = {
    "MarketService": """ListEvents GetEvent ListMarkets GetMarket BatchGetMarkets GetOrderBook ListQuotes ListCandles
        ListTrades ListMarketLinks ReviewMarketLink EstimateFees WatchQuotes""",
    "SignalService": """ListSignals GetSignal ListStrategies GetStrategy GetStrategyPerformance ReportExecutions
        ListExecutions WatchSignals""",
    "BacktestService": """CreateBacktest GetBacktest ListBacktests CancelBacktest DeleteBacktest ListBacktestTrades
        GetEquityCurve CreateSweep GetSweep ListSweeps CancelSweep WatchBacktest WatchSweep""",
    "AdminService": """CreateApiKey ListApiKeys UpdateApiKey RotateApiKey RevokeApiKey ListPipelineRuns RunPipeline
        UpdateStrategy WithdrawSignals HaltSignals ResumeSignals ListAuditEntries VerifyAuditLog GetRetentionPolicy
        UpdateRetentionPolicy RunRetention ExportSubjectData EraseSubjectData GetSystemStatus""",
}

MUTATIONS = {
    "ReviewMarketLink", "ReportExecutions", "CreateBacktest", "CancelBacktest", "DeleteBacktest", "CreateSweep",
    "CancelSweep", "CreateApiKey", "UpdateApiKey", "RotateApiKey", "RevokeApiKey", "RunPipeline", "UpdateStrategy",
    "WithdrawSignals", "HaltSignals", "ResumeSignals", "UpdateRetentionPolicy", "RunRetention", "EraseSubjectData",
}  # fmt: skip

OF_EVERY_CALL = {
    "INVALID_FIELD", "MALFORMED_REQUEST", "API_KEY_MISSING", "API_KEY_INVALID", "ACCESS_TOKEN_INVALID",
    "PERMISSION_DENIED", "SCOPE_DENIED", "NETWORK_DENIED", "RATE_LIMITED", "SERVER_OVERLOADED", "DRAINING",
    "DEPENDENCY_UNAVAILABLE", "DEADLINE_EXCEEDED", "METHOD_UNIMPLEMENTED", "INTERNAL",
}  # fmt: skip

STATISTICS = {
    "Signal.strength", "Signal.confidence", "SignalEvent.opening_strength", "SignalFilter.minimum_strength",
    "BacktestTrade.strength", "Coverage.ratio", "MetricConventions.risk_free_return",
    "MetricConventions.log_loss_clip", "MetricConventions.confidence_level", "CalibrationBin.mean_forecast",
    "CalibrationBin.frequency", "PerformanceFigures.hit_rate", "PerformanceFigures.hit_rate_low",
    "PerformanceFigures.hit_rate_high", "PerformanceFigures.brier", "PerformanceFigures.brier_crowd",
    "BacktestMetrics.total_return", "BacktestMetrics.return_on_locked", "BacktestMetrics.annual_return",
    "BacktestMetrics.annual_volatility", "BacktestMetrics.sharpe", "BacktestMetrics.sortino",
    "BacktestMetrics.maximum_drawdown", "BacktestMetrics.probabilistic_sharpe", "BacktestMetrics.win_rate",
    "BacktestMetrics.win_rate_low", "BacktestMetrics.win_rate_high", "BacktestMetrics.brier",
    "BacktestMetrics.brier_crowd", "BacktestMetrics.log_loss", "SweepResult.overfitting_probability",
    "SweepResult.deflated_sharpe",
}  # fmt: skip
"""The fields that may be a double. Nothing that is a price, a size or money is among them."""


class Rpc:
    """One rpc with its comment and its messages."""

    def __init__(
        self, service: str, name: str, options: MethodOptions, comment: str, request: DescriptorProto,
        response: DescriptorProto, streaming: bool,
    ) -> None:  # fmt: skip
        self.service, self.name, self.options, self.comment = service, name, options, comment
        self.request, self.response, self.streaming = request, response, streaming

    @property
    def reasons(self) -> list[str]:
        listed = re.search(r"Error reasons: ([A-Z_,\s]+)\.", self.comment)
        return re.split(r",\s+", listed[1].strip()) if listed else []

    @property
    def request_fields(self) -> dict[str, FieldDescriptorProto]:
        return {field.name: field for field in self.request.field}


def _rpcs(contract: FileDescriptorSet) -> list[Rpc]:
    messages = {f".{file.package}.{m.name}": m for file in contract.file for m in file.message_type}
    return [
        Rpc(
            service.name,
            method.name,
            method.options,
            _comment(file, (6, service_index, 2, method_index)),
            messages[method.input_type],
            messages[method.output_type],
            method.server_streaming,
        )
        for file in contract.file
        for service_index, service in enumerate(file.service)
        for method_index, method in enumerate(service.method)
    ]


def _comment(file: FileDescriptorProto, path: tuple[int, ...]) -> str:
    found = [place.leading_comments for place in file.source_code_info.location if tuple(place.path) == path]
    return "\n".join(line.strip() for line in found[0].splitlines()) if found else ""


def _fields(contract: FileDescriptorSet) -> Iterator[tuple[str, FieldDescriptorProto]]:
    for file in contract.file:
        for message in file.message_type:
            for field in message.field:
                yield f"{message.name}.{field.name}", field


def _declared_reasons() -> set[str]:
    return {value.name.removeprefix("ERROR_REASON_") for value in error_reason_pb2.ErrorReason.DESCRIPTOR.values}


def _enums(contract: FileDescriptorSet) -> Iterator[EnumDescriptorProto]:
    for file in contract.file:
        yield from file.enum_type


@pytest.fixture(scope="session")
def rpcs(described_contract: FileDescriptorSet) -> list[Rpc]:
    return _rpcs(described_contract)


def test_the_services_have_exactly_the_rpcs_that_were_promised(rpcs: list[Rpc]) -> None:
    assert {(rpc.service, rpc.name) for rpc in rpcs} == {
        (service, name) for service, names in METHODS.items() for name in names.split()
    }


def test_a_file_of_a_service_has_one_service_and_is_named_after_it(described_contract: FileDescriptorSet) -> None:
    with_services = [file for file in described_contract.file if file.service]
    assert len(with_services) == 4
    for file in with_services:
        (service,) = file.service
        assert file.name == f"oddstream/v1/{service.name.removesuffix('Service').lower()}_service.proto"
    assert {file.package for file in described_contract.file} == {"oddstream.v1"}


def test_every_rpc_declares_its_permission_its_role_and_its_cost(rpcs: list[Rpc]) -> None:
    for rpc in rpcs:
        access = rpc.options.Extensions[access_pb2.access]
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", access.permission), rpc.name
        assert access.role != access_pb2.ROLE_UNSPECIFIED, rpc.name
        assert access.cost >= 1, rpc.name


def test_a_permission_has_one_role(rpcs: list[Rpc]) -> None:
    roles: dict[str, set[int]] = {}
    for rpc in rpcs:
        access = rpc.options.Extensions[access_pb2.access]
        roles.setdefault(access.permission, set()).add(access.role)
    assert {permission for permission, held_by in roles.items() if len(held_by) > 1} == set()


def test_every_rpc_of_administration_but_the_status_is_for_admins(rpcs: list[Rpc]) -> None:
    roles = {rpc.name: rpc.options.Extensions[access_pb2.access].role for rpc in rpcs if rpc.service == "AdminService"}
    assert {name for name, role in roles.items() if role != access_pb2.ROLE_ADMIN} == {"GetSystemStatus"}


def test_no_viewer_may_change_anything(rpcs: list[Rpc]) -> None:
    assert {
        rpc.name
        for rpc in rpcs
        if rpc.options.Extensions[access_pb2.access].role == access_pb2.ROLE_VIEWER
        and rpc.options.idempotency_level != MethodOptions.NO_SIDE_EFFECTS
    } == set()


def test_the_domain_knows_the_contracts_roles() -> None:
    declared = {name.removeprefix("ROLE_"): number for name, number in access_pb2.Role.items() if number}
    assert declared == {role.name: role.value for role in Role}


def test_every_rpc_names_its_error_reasons_and_all_of_them_exist(rpcs: list[Rpc]) -> None:
    known = _declared_reasons()
    for rpc in rpcs:
        assert set(rpc.reasons) >= OF_EVERY_CALL, rpc.name
        assert set(rpc.reasons) <= known, rpc.name
        assert len(rpc.reasons) == len(set(rpc.reasons)), rpc.name


def test_every_error_reason_of_a_status_can_be_answered_by_some_rpc(rpcs: list[Rpc]) -> None:
    named = {reason for rpc in rpcs for reason in rpc.reasons}
    declared = _declared_reasons()
    # The first is never sent, the second stands in an answer, the third is of grpc.health.v1.
    others = {"UNSPECIFIED", "SECRET_ALREADY_SHOWN", "SERVICE_NOT_FOUND"}
    of_failed_runs = {"STRATEGY_FAILED", "BACKTEST_LIMIT_EXCEEDED", "BACKTEST_WORKER_LOST"}
    assert declared - named == others | of_failed_runs


@pytest.mark.parametrize(
    ("of_domain", "of_contract", "in_contract_alone"),
    [
        (market.Venue, venue_pb2.Venue, set()),
        (market.MarketState, market_pb2.MarketState, set()),
        (market.Declared, event_pb2.Declaration, set()),
        (market.CollateralRule, event_pb2.CollateralRule, set()),
        (market.SettlementState, settlement_pb2.SettlementState, set()),
        (market.LinkRelation, market_link_pb2.LinkRelation, set()),
        (market.LinkState, market_link_pb2.LinkState, set()),
        (fees.FeeFormula, fee_schedule_pb2.FeeFormula, set()),
        (fees.Liquidity, execution_pb2.FillLiquidity, set()),
        (quote.SourceKind, quote_pb2.QuoteSource, set()),
        (quote.FeedState, feed_status_pb2.FeedState, set()),
        (quote.CandleInterval, candle_pb2.CandleInterval, set()),
        (signal.DataOrigin, venue_pb2.DataOrigin, set()),
        (signal.Action, signal_pb2.LegAction, set()),
        (signal.BookSide, signal_pb2.BookSide, set()),
        (signal.Direction, signal_pb2.SignalDirection, {"NONE"}),
        (signal.SignalState, signal_pb2.SignalState, set()),
        (signal.SignalEventType, signal_pb2.SignalEventType, set()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_domain_and_contract_have_the_same_words(
    of_domain: type[Enum], of_contract: Any, in_contract_alone: set[str]
) -> None:
    values = of_contract.DESCRIPTOR.values
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    declared = {value.name.removeprefix(prefix) for value in values[1:]}
    assert declared == {word.name for word in of_domain} | in_contract_alone


def test_every_error_of_the_domain_has_a_reason_of_the_contract() -> None:
    def descendants(of: type[errors.OddstreamError]) -> Iterator[type[errors.OddstreamError]]:
        for child in of.__subclasses__():
            yield child
            yield from descendants(child)

    declared = _declared_reasons()
    found = {error.default_reason for error in descendants(errors.OddstreamError)}
    assert len(found) > 8
    assert found - declared == set()


def test_every_list_is_paged_and_filtered_by_a_message(rpcs: list[Rpc]) -> None:
    lists = [rpc for rpc in rpcs if rpc.name.startswith("List")]
    assert len(lists) == 15
    for rpc in lists:
        fields = rpc.request_fields
        assert fields["page_size"].type == FieldDescriptorProto.TYPE_INT32, rpc.name
        assert fields["page_token"].type == FieldDescriptorProto.TYPE_STRING, rpc.name
        assert fields["filter"].type == FieldDescriptorProto.TYPE_MESSAGE, rpc.name
        answer = {field.name: field for field in rpc.response.field}
        assert answer["next_page_token"].type == FieldDescriptorProto.TYPE_STRING, rpc.name
        assert rpc.response.field[0].label == FieldDescriptorProto.LABEL_REPEATED, rpc.name
        assert {"PAGE_TOKEN_INVALID", "PAGE_TOKEN_MISMATCH"} <= set(rpc.reasons), rpc.name


def test_every_list_states_its_order(rpcs: list[Rpc]) -> None:
    for rpc in rpcs:
        if rpc.name.startswith("List"):
            assert re.search(r"by\s+(ascending|descending)\s", rpc.comment), rpc.name


def test_every_mutation_takes_a_request_id_and_nothing_else_does(rpcs: list[Rpc]) -> None:
    assert {rpc.name for rpc in rpcs if rpc.options.idempotency_level != MethodOptions.NO_SIDE_EFFECTS} == MUTATIONS
    assert {rpc.name for rpc in rpcs if "request_id" in rpc.request_fields} == MUTATIONS
    for rpc in rpcs:
        assert ("REQUEST_ID_REUSED" in rpc.reasons) == (rpc.name in MUTATIONS), rpc.name


def test_every_update_takes_a_mask_and_an_etag(rpcs: list[Rpc]) -> None:
    updates = [rpc for rpc in rpcs if rpc.name.startswith("Update")]
    assert len(updates) == 3
    for rpc in updates:
        assert rpc.request_fields["update_mask"].type_name == ".google.protobuf.FieldMask", rpc.name
        assert rpc.request_fields["etag"].type == FieldDescriptorProto.TYPE_STRING, rpc.name
        assert "ETAG_MISMATCH" in rpc.reasons, rpc.name


def test_every_watch_is_a_stream_that_shows_life_and_says_goodbye(rpcs: list[Rpc]) -> None:
    assert {rpc.name for rpc in rpcs if rpc.streaming} == {rpc.name for rpc in rpcs if rpc.name.startswith("Watch")}
    for rpc in rpcs:
        if rpc.streaming:
            answer = {field.name: field.type_name for field in rpc.response.field}
            assert answer["heartbeat"] == ".oddstream.v1.StreamHeartbeat", rpc.name
            assert answer["closing"] == ".oddstream.v1.StreamClosing", rpc.name
            assert answer["send_time"] == ".google.protobuf.Timestamp", rpc.name
            assert rpc.request_fields["heartbeat_interval"].type_name == ".google.protobuf.Duration", rpc.name


def test_only_statistics_are_doubles_and_nothing_is_a_float(described_contract: FileDescriptorSet) -> None:
    inexact = {
        name
        for name, field in _fields(described_contract)
        if field.type in (FieldDescriptorProto.TYPE_DOUBLE, FieldDescriptorProto.TYPE_FLOAT)
    }
    assert inexact == STATISTICS
    assert FieldDescriptorProto.TYPE_FLOAT not in {field.type for _, field in _fields(described_contract)}


def test_micros_are_signed_64_bit_integers(described_contract: FileDescriptorSet) -> None:
    micros = {name: field for name, field in _fields(described_contract) if field.name.endswith(("_micros", "_ppm"))}
    assert len(micros) > 80
    assert {name for name, field in micros.items() if field.type != FieldDescriptorProto.TYPE_INT64} == set()


def test_prices_sizes_and_money_say_their_unit(described_contract: FileDescriptorSet) -> None:
    quantities = re.compile(r"(^|_)(price|size|fee|profit|edge|cost|stake|bankroll|equity|cash|payout|volume)$")
    integers = (FieldDescriptorProto.TYPE_INT64, FieldDescriptorProto.TYPE_INT32)
    unnamed = {
        name for name, field in _fields(described_contract) if field.type in integers and quantities.search(field.name)
    }
    assert {name for name in unnamed if not name.endswith(".page_size") and name != "MethodAccess.cost"} == set()


def test_what_is_named_a_time_is_a_timestamp_and_every_timestamp_is_named_so(
    described_contract: FileDescriptorSet,
) -> None:
    for name, field in _fields(described_contract):
        assert field.name.endswith("_time") == (field.type_name == ".google.protobuf.Timestamp"), name


def test_enums_begin_with_an_unspecified_zero_and_nothing_is_called_a_status_of_a_resource(
    described_contract: FileDescriptorSet,
) -> None:
    enums = list(_enums(described_contract))
    assert len(enums) > 25
    for enum in enums:
        assert enum.value[0].number == 0, enum.name
        assert enum.value[0].name.endswith("_UNSPECIFIED"), enum.name
        assert not enum.name.endswith("Status"), f"{enum.name}: the word is state"


def test_every_comment_is_made_of_whole_sentences(described_contract: FileDescriptorSet) -> None:
    count = 0
    for file in described_contract.file:
        for place in file.source_code_info.location:
            text = place.leading_comments.strip()
            if not text or place.path[0] not in (4, 5, 6):
                continue
            count += 1
            assert text.endswith("."), f"{file.name}: {text}"
            assert re.match("[A-Z0-9]|[a-z]+_[a-z]+ |events ", text), f"{file.name}: {text}"
            assert len(text.split()) >= 2, f"{file.name}: {text}"
    assert count > 1000


def test_what_may_be_missing_in_a_quote_has_presence(described_contract: FileDescriptorSet) -> None:
    optional = {name for name, field in _fields(described_contract) if field.proto3_optional}
    assert {
        "Quote.bid_price_micros", "Quote.bid_size_micros", "Quote.ask_price_micros", "Quote.ask_size_micros",
        "Settlement.yes_payout_micros", "Signal.net_edge_micros", "Signal.confidence", "Signal.fair_value_micros",
        "SignalLeg.available_size_micros", "SignalLeg.expected_fee_micros", "SignalEvent.opening_net_edge_micros",
        "BacktestMetrics.sharpe",
    } <= optional  # fmt: skip


def test_a_secret_is_nowhere_but_in_the_answers_that_make_one(described_contract: FileDescriptorSet) -> None:
    secret = {name for name, field in _fields(described_contract) if re.search("secret|password|hmac", field.name)}
    assert secret == {
        "CreateApiKeyResponse.secret", "CreateApiKeyResponse.secret_absent_reason", "RotateApiKeyResponse.secret",
        "RotateApiKeyResponse.secret_absent_reason",
    }  # fmt: skip


def test_every_reason_that_the_servers_code_names_is_one_of_the_contract(root: Path) -> None:
    named: dict[str, str] = {}
    for file in (root / "server/oddstream_server").rglob("*.py"):
        for reason in re.findall(r"\breason=\"([A-Z][A-Z_]+)\"", file.read_text()):
            named[reason] = file.name
    withdrawals = {value.name.removeprefix("WITHDRAW_REASON_") for value in signal_pb2.WithdrawReason.DESCRIPTOR.values}
    assert len(named) > 10
    assert {reason: file for reason, file in named.items() if reason not in _declared_reasons() | withdrawals} == {}
