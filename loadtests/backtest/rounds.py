"""Contenders that are measured one after another, round by round, so that all of them meet the same machine."""

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

    def play(self, rounds: int) -> None:
        for _ in range(rounds):
            for name, run in self._contenders.items():
                begun = time.perf_counter()
                run()
                self._seconds[name].append(time.perf_counter() - begun)

    def median(self, name: str) -> float:
        return statistics.median(self._seconds[name])

    def print(self, bound: str) -> None:
        for name in self._contenders:
            ms, ratio = self.median(name) * 1e3, self.median(name) / self.median(bound)
            print(f"  {name:<62} {ms:10.2f} ms  {ratio:10.1f} x the sum")
