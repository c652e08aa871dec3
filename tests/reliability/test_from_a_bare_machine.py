"""The README's promise, with real processes: one command, and signals that a follower never loses."""

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import oddstream
from oddstream.v1 import market_service_pb2, signal_pb2, signal_service_pb2, venue_pb2
from tests.installation import Installation, installation

pytestmark = pytest.mark.timeout(240)
FEW_EVENTS = {"simulated_events": "8"}  # each has signals at once, and the processors are other tests' too


@pytest.fixture
def fresh() -> Iterator[Installation]:
    with installation(FEW_EVENTS) as made:
        yield made


@pytest.fixture(scope="module")
def running() -> Iterator[Installation]:
    """Started once for the tests that leave it running."""
    with installation(FEW_EVENTS) as made:
        made.start()
        yield made


class Follower:
    """A bot: follows everything, simulated too, and keeps the sequences that it got."""

    def __init__(self, server: Installation) -> None:
        self.client = oddstream.Client(server.target, api_key=server.key)
        self.watch = self.client.watch_signals(start=_from_the_beginning(server), include_simulated=True)
        self.sequences: list[int] = []
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        try:
            for event in self.watch:
                self.sequences.append(event.sequence)
        except Exception as error:  # kept for the test, which runs in another thread
            self.failure = error

    def wait_for(self, count: int, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while len(self.sequences) < count:
            assert self.failure is None, self.failure
            assert time.monotonic() < deadline, f"{len(self.sequences)} of {count} events after {seconds} s"
            time.sleep(0.05)

    def close(self) -> None:
        self.watch.close()
        self._thread.join()
        self.client.close()


def _from_the_beginning(server: Installation) -> signal_service_pb2.WatchSignalsStart:
    with oddstream.Client(server.target, api_key=server.key) as client:
        listed = client.signals.ListSignals(signal_service_pb2.ListSignalsRequest(page_size=1))
    return oddstream.at_position(oddstream.Position(listed.data_set_id, 0))


def test_one_command_brings_signals_and_a_follower_goes_on_over_kill_9_without_a_gap_or_a_duplicate(fresh):
    begun = time.monotonic()
    said = fresh.start()
    assert "simulated" in said
    assert re.search(r"export ODDSTREAM_API_KEY=ods_live_\w+", said)
    follower = Follower(fresh)
    try:
        follower.wait_for(1)
        assert time.monotonic() - begun < 60
        follower.wait_for(20)
        for _ in range(2):
            fresh.kill()
            again = fresh.start()
            assert "admin key" not in again, "the key is shown once"
            follower.wait_for(len(follower.sequences) + 10)
        assert follower.watch.cursor.reconnects >= 2
    finally:
        follower.close()
    assert follower.sequences == list(range(1, len(follower.sequences) + 1))


def test_ctrl_c_drains_and_leaves_nothing_behind(fresh):
    fresh.start()
    assert fresh.leftovers()
    last = fresh.stop(signal.SIGINT)
    assert "stopped: nothing is left running" in last
    assert fresh.leftovers() == []
    assert list((fresh.data_dir / "run").iterdir()) == []
    events = [line["event"] for line in fresh.log_lines()]
    assert "draining" in events
    assert events.count("stopped") == 3, "serving, pipeline and worker"
    assert not [line for line in fresh.log_lines() if line["level"] in ("error", "critical")]


def test_a_second_server_on_the_same_folder_is_refused_in_words(running):
    second = subprocess.run(
        [sys.executable, "-m", "oddstream_server", "run"],
        env=running.environment(),
        cwd=running.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 2
    assert "can't start: " in second.stderr
    assert str(running.pid) in second.stderr
    assert "Traceback" not in second.stderr
    assert running.get("/health/ready") == "ready\n"


def test_simulated_data_is_marked_everywhere_and_left_out_unless_asked_for(running):
    with oddstream.Client(running.target, api_key=running.key) as client:
        watch = client.watch_signals(start=oddstream.active_signals(), include_simulated=True)
        for event in itertools.islice(watch, 5):
            assert event.signal.data_origin == venue_pb2.DATA_ORIGIN_SIMULATED
            assert all(leg.venue == venue_pb2.VENUE_SIMULATED for leg in event.signal.legs)
        watch.close()
        assert not client.signals.ListSignals(signal_service_pb2.ListSignalsRequest()).signals
        listed = client.signals.ListSignals(signal_service_pb2.ListSignalsRequest(include_simulated=True))
        assert listed.signals
        quiet = client.watch_signals(start=_from_the_beginning(running))
        timer = threading.Timer(3, quiet.close)
        timer.start()
        assert list(quiet) == []
        timer.join()


def test_a_worker_that_is_killed_comes_back_and_the_stream_goes_on(running):
    follower = Follower(running)
    try:
        follower.wait_for(5)
        for name in ("serve", "pipeline"):
            os.kill(_worker_pid(running, name), signal.SIGKILL)
            follower.wait_for(len(follower.sequences) + 5)
    finally:
        follower.close()
    assert follower.sequences == list(range(1, len(follower.sequences) + 1))
    restarted = 'oddstream_worker_restarts_total{name="pipeline",worker="supervisor"} 1.0'
    deadline = time.monotonic() + 30
    while restarted not in running.get("/metrics"):  # events of before the kill may have been enough for the follower
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _worker_pid(server: Installation, name: str) -> int:
    for pid in server.leftovers():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[2:4] == [b"oddstream_server", name.encode()]:
            return pid
    raise AssertionError(f"no process of {name}")


def test_what_the_market_service_tells_of_a_signal_s_market_fits_the_signal(running):
    with oddstream.Client(running.target, api_key=running.key) as client:
        watch = client.watch_signals(
            start=oddstream.active_signals(), include_simulated=True, view=signal_pb2.SIGNAL_VIEW_FULL
        )
        event = next(watch)
        watch.close()
        leg = event.signal.legs[0]
        market = client.markets.GetMarket(market_service_pb2.GetMarketRequest(market_id=leg.market_id)).market
        assert market.outcomes[leg.outcome_index].venue_instrument_id == leg.venue_instrument_id
        assert event.signal.evidence
        book = client.markets.GetOrderBook(market_service_pb2.GetOrderBookRequest(market_id=leg.market_id))
        assert book.order_book.market_id == leg.market_id
        signal = client.signals.GetSignal(signal_service_pb2.GetSignalRequest(signal_id=event.signal.signal_id)).signal
        assert signal.input_digest == event.signal.input_digest
