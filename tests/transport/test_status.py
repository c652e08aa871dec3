"""From an error to a status: codes, details, and what never gets out."""

import inspect
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from oddstream.v1 import error_reason_pb2
from oddstream_server.domain import errors
from oddstream_server.domain.errors import FieldViolation, InvalidArgument, OddstreamError
from oddstream_server.transport.status import BUDGET_BYTES, CODES, CallStatus, code_of, status_of

REASONS = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()}  # noqa: SIM118  # no dict

ERRORS: dict[str, OddstreamError] = {
    "INVALID_ARGUMENT": InvalidArgument([FieldViolation("filter.venues[0]", "must be a venue")]),
    "UNAUTHENTICATED": errors.Unauthenticated("no"),
    "PERMISSION_DENIED": errors.PermissionDenied("no", metadata={"permission": "markets.get"}),
    "NOT_FOUND": errors.NotFound("MarketLink", "lnk_x"),
    "ALREADY_EXISTS": errors.AlreadyExists("Execution", "fill 1", reason="EXECUTION_CONFLICT"),
    "FAILED_PRECONDITION": errors.FailedPrecondition("no book", subject="kalshi:X", reason="ORDER_BOOK_UNAVAILABLE"),
    "ABORTED": errors.Aborted("read it again"),
    "OUT_OF_RANGE": errors.OutOfRange("trimmed", metadata={"oldest_sequence": "5"}),
    "RESOURCE_EXHAUSTED": errors.ResourceExhausted("too fast", subject="key k", retry_after_us=1_500_000),
    "UNAVAILABLE": errors.Unavailable("later", retry_after_us=250_001),
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded("late"),
    "UNIMPLEMENTED": errors.Unimplemented("not yet"),
}


def opened(status: CallStatus) -> status_pb2.Status:
    return status_pb2.Status.FromString(dict(status.trailers)["grpc-status-details-bin"])  # type: ignore[arg-type]  # bytes


def detail(status: CallStatus, kind: Any) -> Any:
    """The one detail of a kind, None where it isn't there."""
    for packed in opened(status).details:
        if packed.Is(kind.DESCRIPTOR):
            return kind.FromString(packed.value)
    return None


def all_errors() -> list[type[OddstreamError]]:
    return [
        error
        for _, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, OddstreamError) and error is not OddstreamError
    ]


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_each_error_has_its_code_its_reason_and_the_reference(code: str) -> None:
    error = ERRORS[code]
    status = status_of(error, "ref-1")
    body = opened(status)
    assert status.code is grpc.StatusCode[code]
    assert body.code == grpc.StatusCode[code].value[0]
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
    assert body.details[0].Unpack(info)
    assert body.details[1].Unpack(request)
    assert (info.reason, info.domain) == (error.reason, "oddstream")
    assert dict(info.metadata) == error.metadata
    assert request.request_id == "ref-1"
    assert body.message == status.message == error.message


def test_every_error_class_has_a_code_and_a_subclass_takes_its_ancestors() -> None:
    class Narrower(errors.NotFound):
        pass

    assert {code_of(ERRORS[code]).name for code in ERRORS} == set(ERRORS)
    assert code_of(Narrower("Market", "x")) is grpc.StatusCode.NOT_FOUND
    assert code_of(errors.PageTokenMismatch()) is grpc.StatusCode.INVALID_ARGUMENT
    for error in all_errors():
        assert any(ancestor in CODES for ancestor in error.__mro__), error


def test_every_reason_of_the_domain_is_in_the_contract() -> None:
    for error in all_errors():
        if error.default_reason != "INTERNAL":
            assert error.default_reason in REASONS, error
    for error in ERRORS.values():
        assert error.reason in REASONS


@pytest.mark.parametrize(
    "resource",
    ["Event", "Market", "MarketLink", "Signal", "Strategy", "Backtest", "Sweep", "ApiKey", "Halt", "Service"],
)
def test_what_is_not_found_has_a_reason_in_the_contract(resource: str) -> None:
    assert errors.NotFound(resource, "x").reason in REASONS


def test_each_case_carries_the_details_that_the_contract_promises() -> None:
    bad = detail(status_of(ERRORS["INVALID_ARGUMENT"], "r"), error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [("filter.venues[0]", "must be a venue")]
    missing = detail(status_of(ERRORS["NOT_FOUND"], "r"), error_details_pb2.ResourceInfo)
    assert (missing.resource_type, missing.resource_name) == ("oddstream.v1.MarketLink", "lnk_x")
    exists = detail(status_of(ERRORS["ALREADY_EXISTS"], "r"), error_details_pb2.ResourceInfo)
    assert exists.resource_name == "fill 1"
    state = detail(status_of(ERRORS["FAILED_PRECONDITION"], "r"), error_details_pb2.PreconditionFailure)
    assert [(v.type, v.subject) for v in state.violations] == [("ORDER_BOOK_UNAVAILABLE", "kalshi:X")]
    quota = detail(status_of(ERRORS["RESOURCE_EXHAUSTED"], "r"), error_details_pb2.QuotaFailure)
    assert quota.violations[0].subject == "key k"


@pytest.mark.parametrize(
    ("code", "pushback", "micros"), [("RESOURCE_EXHAUSTED", "1500", 1_500_000), ("UNAVAILABLE", "251", 250_001)]
)
def test_when_to_come_again_is_said_in_both_ways(code: str, pushback: str, micros: int) -> None:
    status = status_of(ERRORS[code], "r")
    assert dict(status.trailers)["grpc-retry-pushback-ms"] == pushback
    assert detail(status, error_details_pb2.RetryInfo).retry_delay.ToMicroseconds() == micros


def test_a_limit_that_waiting_does_not_lift_stops_the_builtin_retry() -> None:
    error = errors.ResourceExhausted("slow", subject="stream", retry_after_us=None, reason="SLOW_CONSUMER")
    status = status_of(error, "r")
    assert dict(status.trailers)["grpc-retry-pushback-ms"] == "-1"
    assert detail(status, error_details_pb2.RetryInfo) is None


@pytest.mark.parametrize("error", [RuntimeError("password=hunter2"), KeyError("hunter2"), OddstreamError("hunter2")])
def test_what_was_not_foreseen_says_only_where_to_ask(error: BaseException) -> None:
    status = status_of(error, "ref-9")
    assert status.is_fault
    assert status.message == "internal error (ref ref-9)"
    assert b"hunter2" not in repr(status).encode() + opened(status).SerializeToString()
    assert [d.TypeName() for d in opened(status).details] == ["google.rpc.ErrorInfo", "google.rpc.RequestInfo"]


def test_at_most_twenty_violations_are_told() -> None:
    error = InvalidArgument([FieldViolation(f"fills[{i}]", "must be more") for i in range(100)])
    assert len(detail(status_of(error, "r"), error_details_pb2.BadRequest).field_violations) == 20


@pytest.mark.parametrize("letter", ["x", "é", "猫", "\x00"])
def test_no_error_is_larger_than_the_budget(letter: str) -> None:
    long = letter * 5000
    worst = [
        InvalidArgument([FieldViolation(long, long)] * 100),
        errors.NotFound("Market", long),
        errors.FailedPrecondition(long, subject=long, reason="ORDER_BOOK_UNAVAILABLE"),
        errors.ResourceExhausted(long, subject=long, retry_after_us=1, metadata={"a": long}),
        errors.PermissionDenied(long, metadata={"permission": long, "role": long}),
    ]
    for error in worst:
        status = status_of(error, "r" * 128)
        size = len(opened(status).SerializeToString()) + len(quote(status.message))
        assert size <= BUDGET_BYTES, (type(error), size)
        assert detail(status, error_details_pb2.ErrorInfo).reason == error.reason
        assert status.message


def test_a_resume_token_arrives_whole() -> None:
    token = "t" * 300
    status = status_of(errors.OutOfRange("trimmed", metadata={"oldest_resume_token": token}), "r")
    assert detail(status, error_details_pb2.ErrorInfo).metadata["oldest_resume_token"] == token
