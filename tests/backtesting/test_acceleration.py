"""What compiled code is kept under: a name that changes with everything that it was made of."""

import os
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
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


def scaled(number: int) -> int:
    return bound_scale(number) + 1


def bound_scale(number: int) -> int:
    raise NotImplementedError


def double(number: int) -> int:
    return 2 * number


def sum_scaled(narrow: Any) -> int:
    return scaled(narrow[0]) + scaled(3) + add(5, 1) + add(narrow[0], 1)


@pytest.mark.parametrize("plain", [False, True], ids=["compiled", "plain"])
def test_what_is_bound_reaches_the_functions_that_are_called(plain: bool) -> None:
    run = acceleration.compiled(sum_scaled, plain=plain, bound_scale=double)
    assert run(np.array([4], dtype=np.int32)) == 9 + 7 + 6 + 5


def test_constants_and_narrow_integers_compile_no_function_again() -> None:
    acceleration.compiled(sum_scaled, bound_scale=double)(np.array([4], dtype=np.int32))
    functions: list[Any] = [acceleration.compiled(add), acceleration.compiled(scaled, bound_scale=double)]
    # none where the caller came from the disk, as it does but for the first run of a checkout
    assert all(len(function.signatures) <= 1 for function in functions)


PROBE = """
import numba
from numba.core import event
from oddstream_server.backtesting import acceleration

def slow(n: int) -> int:
    total = 0
    for i in range(n):
        total += i * i % 7
    return total

compiled = acceleration.compiled(slow)
with event.install_recorder("numba:compile") as recorder:
    print("ready", flush=True)
    input()
    compiled(10)
print(len(recorder.buffer) // 2)
"""


def test_of_processes_that_want_a_function_at_the_same_moment_one_compiles_it(tmp_path: Path) -> None:
    program = tmp_path / "probe.py"
    program.write_text(PROBE)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    processes = [
        subprocess.Popen(
            [sys.executable, program],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n"] * 3
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    compiled = [process.communicate(timeout=60)[0] for process in processes]
    assert sorted(compiled) == ["0\n", "0\n", "1\n"]
