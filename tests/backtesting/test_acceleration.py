"""What compiled code is kept under: a name that changes with everything that it was made of."""

from types import FunctionType

import pytest

from oddstream_server.backtesting import acceleration

pytestmark = pytest.mark.skipif(not acceleration.AVAILABLE, reason="numba is not installed")


def add(a: int, b: int) -> int:
    return a + b


def moved(function: FunctionType, module: str) -> FunctionType:
    copy = FunctionType(function.__code__, function.__globals__, function.__name__)
    copy.__module__ = module
    return copy


def test_code_kept_on_disk_is_not_taken_once_its_function_has_moved() -> None:
    here, there = (acceleration.compiled(moved(add, f"tests.backtesting.{name}")) for name in ("here", "there"))
    assert here.__qualname__ != there.__qualname__


def test_the_same_function_is_compiled_once() -> None:
    assert acceleration.compiled(add) is acceleration.compiled(add)
