"""From the log to the socket: this project's feed, a naive server and ``websockets`` under the same publisher."""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtests.stream.payloads import FILTERS, PAYLOADS, POOL, lets_pass

MODES = ("feed", "naive", "websockets")
LOW_RATE = 10
"""Signals a second."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison: all servers with the same subscribers and payload."""

    subscribers: int
    payload: str
    filtered: bool = False
    low_rate: bool = False
    """Also at ten signals a second, and the memory of the streams."""

    @property
    def words(self) -> str:
        filters = f", {FILTERS} filters" if self.filtered else ""
        return f"{self.subscribers:,} subscribers, {PAYLOADS[self.payload].words}{filters}"

    @property
    def deliveries_a_signal(self) -> float:
        if not self.filtered:
            return self.subscribers
        passing = [sum(lets_pass(n, number) for number in range(POOL)) / POOL for n in range(FILTERS)]
        return sum(passing[n % FILTERS] for n in range(self.subscribers))


@dataclass(slots=True)
class Found:
    """What one server did in one cell."""

    a_core: list[float] = field(default_factory=list)
    """Deliveries a second of CPU time, by round; the next ones are by wall clock."""
    by_wall: list[float] = field(default_factory=list)
    half: list[dict[str, float]] = field(default_factory=list)
    low: list[dict[str, float]] = field(default_factory=list)
    idle_kib: float = 0.0
    loaded_kib: float = 0.0
    client_busy: float = 0.0
    megabytes_per_s: float = 0.0
    lost: int = 0


class Pair:
    """A server with its subscribers, two processes that stay for all rounds."""

    def __init__(self, mode: str, cell: Cell) -> None:
        self.mode, self.cell, self.found = mode, cell, Found()
        self._server = _process("servers", mode, cell.payload)
        port = _line(self._server)
        before = self.ask()["kib"]
        arguments = (mode, port, str(cell.subscribers), cell.payload, str(int(cell.filtered)))
        self._client = _process("client", *arguments)
        if _line(self._client) != "ready":
            raise RuntimeError(f"the client of {mode} failed")
        self._before_kib = before
        self.found.idle_kib = (self.ask()["kib"] - before) / cell.subscribers

    def ask(self, **order: Any) -> dict[str, float]:
        return _ask(self._server, order)

    def measure(self, signals_per_s: float, warm_up_s: float, seconds: float) -> dict[str, float]:
        """Publish at that rate (0 saturates) and measure; rests afterwards, with everything delivered."""
        self.ask(publish=signals_per_s)
        _say(self._client, {"warm_up": warm_up_s, "seconds": seconds})
        if _line(self._client) != "measuring":
            raise RuntimeError(f"the client of {self.mode} failed")
        before = self.ask()["cpu_s"]
        result: dict[str, float] = json.loads(_line(self._client))
        result["cpu_s"] = self.ask()["cpu_s"] - before
        self.found.client_busy = max(self.found.client_busy, result["client_busy"])
        self.ask(publish=None)
        _ask(self._client, {"warm_up": 0, "seconds": 0.2})
        return result

    def saturate(self, seconds: float) -> None:
        result = self.measure(0, 1.0, seconds)
        self.found.by_wall.append(result["deliveries_per_s"])
        self.found.a_core.append(result["deliveries_per_s"] * seconds / result["cpu_s"])
        self.found.megabytes_per_s = max(self.found.megabytes_per_s, result["megabytes_per_s"])

    def half(self, seconds: float) -> None:
        rate = min(self.found.by_wall) / 2 / self.cell.deliveries_a_signal
        self.found.half.append(self.measure(rate, 1.0, seconds))

    def low(self, seconds: float) -> None:
        self.found.low.append(self.measure(LOW_RATE, 1.0, seconds))

    def end(self) -> Found:
        """:raises RuntimeError: a process failed."""
        state = self.ask()
        self.found.loaded_kib = (state["kib"] - self._before_kib) / self.cell.subscribers
        last = _ask(self._client, {"warm_up": 0, "seconds": 0.1})
        self.found.lost = int(last["broken"] + _ask(self._client, {"head": state["head"]})["missing"])
        self.close()
        return self.found

    def close(self) -> None:
        for process in (self._client, self._server):
            assert process.stdin is not None
            process.stdin.close()
            process.kill() if process is self._server else process.wait(10)
            process.wait()


def _process(module: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", f"loadtests.stream.{module}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _say(process: "subprocess.Popen[str]", order: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} ended")
    return line.strip()


def _ask(process: "subprocess.Popen[str]", order: Mapping[str, Any]) -> dict[str, float]:
    _say(process, order)
    line = _line(process)
    if line == "measuring":
        line = _line(process)
    answer: dict[str, float] = json.loads(line)
    return answer


def compare(cell: Cell, rounds: int, seconds: float) -> dict[str, Found]:
    pairs = [Pair(mode, cell) for mode in MODES]
    for _ in range(rounds):
        for pair in pairs:
            pair.saturate(seconds)
    for _ in range(rounds):
        for pair in pairs:
            pair.half(seconds)
        for pair in pairs if cell.low_rate else ():
            pair.low(seconds)
    return {pair.mode: pair.end() for pair in pairs}


def ratio(found: Mapping[str, Found], rival: str) -> float:
    """Of one round, so that what disturbs the machine for a while disturbs both sides."""
    return statistics.median(
        mine / theirs for mine, theirs in zip(found["feed"].a_core, found[rival].a_core, strict=True)
    )


def median(results: Sequence[Mapping[str, float]], name: str) -> float:
    return statistics.median(result[name] for result in results)


def run(*, quick: bool) -> list[str]:
    """Prints the tables; answers the aims that were missed."""
    rounds, seconds = (2, 1.5) if quick else (3, 4.0)
    counts = (1_000,) if quick else (100, 1_000, 3_000)
    cells = [Cell(n, payload, low_rate=payload == "small") for n in counts for payload in PAYLOADS]
    cells.append(Cell(1_000, "basic", filtered=True))
    missed: list[str] = []
    print(f"{'deliveries a second':48} {'':10} {'a core':>10} {'feed is':>7} {'wall':>10} "
          f"{'MB/s':>6} {'client':>7}  {'at half p50/p99 ms':>19} {'lost':>5}")  # fmt: skip
    for cell in cells:
        found = compare(cell, rounds, seconds)
        for mode, of in found.items():
            told = "" if mode == "feed" else f"{ratio(found, mode):.1f}x"
            p50, p99 = median(of.half, "p50_ms"), median(of.half, "p99_ms")
            words = cell.words if mode == "feed" else ""
            print(f"{words:48} {mode:10} {statistics.median(of.a_core):>10,.0f} {told:>7}"
                  f" {statistics.median(of.by_wall):>10,.0f} {of.megabytes_per_s:>6.0f} {of.client_busy:>6.0%}  "
                  f"{p50:>9.1f} / {p99:>7.1f} {of.lost:>5}", flush=True)  # fmt: skip
        if cell.low_rate:
            missed += _low_rate(cell, found)
        missed += _aims(cell, found)
    return missed


def _low_rate(cell: Cell, found: Mapping[str, Found]) -> list[str]:
    ratios = {
        rival: statistics.median(
            mine["p50_ms"] / theirs["p50_ms"] for mine, theirs in zip(found["feed"].low, found[rival].low, strict=True)
        )
        for rival in ("naive", "websockets")
    }
    told = ", ".join(
        f"{mode} {median(of.low, 'p50_ms'):.1f}/{median(of.low, 'p99_ms'):.1f}" for mode, of in found.items()
    )
    print(f"    at {LOW_RATE} signals/s p50/p99 ms: {told}; p50 {ratios['naive']:.2f} of naive, "
          f"{ratios['websockets']:.2f} of websockets")  # fmt: skip
    memory = ", ".join(f"{mode} {of.idle_kib:.0f}/{of.loaded_kib:.0f}" for mode, of in found.items())
    print(f"    KiB a subscriber, idle/after load: {memory}", flush=True)
    missed = []
    if cell.subscribers == 1_000 and ratios["websockets"] > 1.5:
        missed.append(f"p50 at {LOW_RATE} signals/s {ratios['websockets']:.2f} of websockets, aim at most 1.5")
    if cell.subscribers >= 1_000 and found["feed"].loaded_kib > 64:
        missed.append(f"{found['feed'].loaded_kib:.0f} KiB a subscriber of {cell.subscribers:,}, aim at most 64")
    return missed


def _aims(cell: Cell, found: Mapping[str, Found]) -> list[str]:
    missed = [f"{of.lost} lost by {mode}: {cell.words}" for mode, of in found.items() if of.lost]
    if cell.subscribers == 1_000 and cell.payload == "small":
        for rival, aim in (("naive", 35), ("websockets", 10)):
            if (of_it := ratio(found, rival)) < aim:
                missed.append(f"{of_it:.1f} times the deliveries of {rival}, aim {aim}: {cell.words}")
    return missed
