"""Coverage counts once in each process, and rests where nothing of ours runs: while numba compiles and pytest rewrites.

A plugin: ``tests/conftest.py`` registers it.
"""

import importlib.util
import threading
from collections.abc import Callable
from typing import Any

import coverage
import pytest
from _pytest.assertion import rewrite


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        # Coverage began in this worker as in any subprocess, and pytest-cov began one more before it knew that this is
        # a worker. Beside the one that it is about to start they would go on where `no_cover` pauses that one.
        while (begun := coverage.Coverage.current()) is not None:
            begun.stop()
    rewrite.rewrite_asserts = _paused(rewrite.rewrite_asserts)


def pytest_collection_finish() -> None:
    if importlib.util.find_spec("numba") is not None and coverage.Coverage.current() is not None:
        from numba.core import event

        event.register("numba:compile", _pausing(event.Listener)())


def _paused(function: Callable[..., None]) -> Callable[..., None]:
    def untraced(*arguments: Any) -> None:
        running = coverage.Coverage.current()
        if running is None:
            function(*arguments)
            return
        running.stop()
        try:
            function(*arguments)
        finally:
            running.start()

    return untraced


def _pausing(listener: type[Any]) -> type[Any]:
    class Pausing(listener):  # type: ignore[misc]  # numba is untyped
        """Nothing of ours runs in the compiler, and traced it takes three times as long."""

        def __init__(self) -> None:
            self._paused: coverage.Coverage | None = None
            self._depth = 0  # what is called is compiled within what calls it

        def on_start(self, event: object) -> None:
            if threading.current_thread() is not threading.main_thread():
                return  # a thread can't stop the tracing of another
            self._depth += 1
            if self._depth == 1 and (running := coverage.Coverage.current()) is not None:
                running.stop()
                self._paused = running

        def on_end(self, event: object) -> None:
            if threading.current_thread() is not threading.main_thread():
                return
            self._depth -= 1
            if self._depth == 0 and self._paused is not None:
                self._paused.start()
                self._paused = None

    return Pausing
