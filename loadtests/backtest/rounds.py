"""Contenders that are measured one after another, round by round, so that all of them meet the same machine.

Ratios are of processor time: it is the time that passes on a quiet machine, and on a busy one it leaves out the waiting
for a processor, which is the neighbours' doing. Time that passed is printed beside; two threads show in it alone.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any


class Rounds:
    """Contenders by name, each measured once a round."""

    def __init__(self, contenders: dict[str, Callable[[], Any]]) -> None:
        self._contenders = contenders
        self.answers = {name: run() for name, run in contenders.items()}  # warm
        self._seconds: dict[str, list[float]] = {name: [] for name in contenders}
        self._passed: dict[str, list[float]] = {name: [] for name in contenders}

    def play(self, rounds: int) -> None:
        for _ in range(rounds):
            for name, run in self._contenders.items():
                begun, passed = time.process_time(), time.perf_counter()
                run()
                self._seconds[name].append(time.process_time() - begun)
                self._passed[name].append(time.perf_counter() - passed)

    def median(self, name: str) -> float:
        """Seconds of processor time, of all threads together."""
        return statistics.median(self._seconds[name])

    def print(self, bound: str) -> None:
        for name in self._contenders:
            ms, ratio = self.median(name) * 1e3, self.median(name) / self.median(bound)
            passed = statistics.median(self._passed[name]) * 1e3
            print(f"  {name:<62} {ms:9.2f} ms ({passed:9.2f} passed) {ratio:8.1f} x the sum")
