"""Every reason that the server's code names is in the contract."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import oddstream_server
from oddstream.v1 import error_reason_pb2
from oddstream_server.domain import errors

SOURCES = Path(inspect.getfile(oddstream_server)).parent
REASONS = {value.name.removeprefix("ERROR_REASON_") for value in error_reason_pb2.ErrorReason.DESCRIPTOR.values}
ERRORS = {
    name for name, error in inspect.getmembers(errors, inspect.isclass) if issubclass(error, errors.OddstreamError)
}


def named_reasons() -> Iterator[tuple[str, str]]:
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for keyword in node.keywords:
                if name in ERRORS and keyword.arg == "reason" and isinstance(keyword.value, ast.Constant):
                    yield f"{path.relative_to(SOURCES)}:{node.lineno}", str(keyword.value.value)


def test_every_reason_that_an_error_is_raised_with_is_in_the_contract() -> None:
    found = list(named_reasons())
    assert len(found) > 10
    assert [(place, reason) for place, reason in found if reason not in REASONS] == []


def test_every_default_reason_is_in_the_contract() -> None:
    for name in sorted(ERRORS - {"OddstreamError"}):
        reason = getattr(errors, name).default_reason
        assert reason in REASONS, name
