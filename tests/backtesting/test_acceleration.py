"""What compiled code is kept under: a name that changes with everything that it was made of."""

import os
import subprocess
import sys
from pathlib import Path
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
