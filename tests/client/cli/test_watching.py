"""``signals watch``: on a pseudo-terminal as a person sees it, and in a pipe as a script reads it."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from contextlib import contextmanager

import pytest

from oddstream.v1 import feed_status_pb2, signal_pb2
from tests.client.cli.conftest import BREAK, COMMAND
from tests.client.cli.messages import DATA_SET, a_feed, a_leg, a_signal, a_stretch, an_event

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def fresh(n, **changes):
    return a_signal(n, at_us=time.time_ns() // 1000, **changes)


@pytest.fixture(autouse=True)
def _commands_heed_ctrl_c():
    """A shell lets its background jobs ignore Ctrl-C, the tests may run in one, and a command inherits it.

    Not by a function before the command's exec: then the process is forked, while gRPC's threads hold locks.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, environment, arguments, columns, lines=24):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._raw = ""

    def _more(self, deadline):
        ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise AssertionError(f"not on the screen in time; it showed:\n{self.text[-3000:]}")
        try:
            return os.read(self._master, 65_536)
        except OSError:
            return b""

    @property
    def text(self):
        return ESCAPES.sub("", self._raw).replace("\r", "")

    def forget(self):
        self._raw = ""

    def until(self, pattern, seconds=30):
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            chunk = self._more(deadline)
            assert chunk, f"the command ended; it showed:\n{self.text[-3000:]}"
            self._raw += chunk.decode(errors="replace")
        return self.text

    def end(self, number):
        self.process.send_signal(number)
        deadline = time.monotonic() + 30
        while chunk := self._more(deadline):
            self._raw += chunk.decode(errors="replace")
        return self.process.wait(timeout=30)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(environment):
    @contextmanager
    def opened(*arguments, columns=80, **changes):
        shown = Terminal({**environment, **changes}, arguments, columns)
        try:
            yield shown
        finally:
            shown.close()

    return opened


def watch_of(script):
    deadline = time.monotonic() + 30
    while not script.watch_requests:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return script.watch_requests[0]


@pytest.mark.parametrize("columns", [80, 140])
def test_a_person_sees_what_to_do_gaps_breaks_and_endings(terminal, script, columns):
    script.messages.put(a_stretch(0, 1, [an_event(1, fresh(1, simulated=True))], started=True, head=3))
    with terminal("signals", "watch", columns=columns) as screen:
        screen.until(r'SIM BUY "Lakers" ≤ 0\.43 × 120')
        screen.until("2 behind the head")
        screen.until("Will the Lakers win\\?")
        request = script.watch_requests[0]
        assert request.start.HasField("active_snapshot")
        assert request.include_simulated
        script.messages.put(a_stretch(1, 3, feeds=[a_feed(feed_status_pb2.FEED_STATE_GAP)]))
        screen.until("FEED GAP  kalshi")
        screen.until("up to date")
        script.messages.put(BREAK)
        screen.until("RECONNECTING")
        screen.forget()
        gone = fresh(1, simulated=True, state=signal_pb2.SIGNAL_STATE_WITHDRAWN, withdraw_reason=1)
        end = an_event(4, gone, signal_pb2.SIGNAL_EVENT_TYPE_WITHDRAWN)
        script.messages.put(a_stretch(3, 4, [end], started=True, feeds=[a_feed()]))
        screen.until("withdrawn")
        screen.until("reconnected 1×")
        assert script.watch_requests[1].start.position.sequence == 3
        screen.until("No open opportunity right now")
        assert screen.end(signal.SIGINT) == 130
        assert "Traceback" not in screen.text


def test_no_color_shows_the_same_without_color(terminal, script):
    script.messages.put(a_stretch(0, 1, [an_event(1, fresh(1))], started=True))
    with terminal("signals", "watch", NO_COLOR="1") as screen:
        screen.until('BUY "Lakers"')
        assert not re.search(r"\x1b\[[0-9;]*3[1-7]m", screen._raw)
        assert screen.end(signal.SIGTERM) == 143
        assert screen._raw.rindex("\x1b[?25h") > screen._raw.rindex("\x1b[?25l"), "the cursor is shown again"


def test_a_refusal_on_a_terminal_is_said_after_the_table(terminal):
    with terminal("signals", "watch", ODDSTREAM_API_KEY="wrong") as screen:
        screen.until("API_KEY_MISSING")
        assert screen.process.wait(timeout=30) == 1


@pytest.fixture
def piped(environment):
    running = []

    def start(*arguments):
        process = subprocess.Popen(
            [*COMMAND, "signals", "watch", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_pipe_gets_one_json_object_an_event_at_once_and_goes_on_over_a_break(piped, script):
    process = piped()
    script.messages.put(a_stretch(0, 2, [an_event(1), an_event(2)], started=True))
    read = [json.loads(process.stdout.readline()) for _ in range(2)]
    script.messages.put(BREAK)
    script.messages.put(a_stretch(2, 3, [an_event(3)], started=True))
    read.append(json.loads(process.stdout.readline()))
    assert [event["sequence"] for event in read] == [1, 2, 3]
    assert read[0]["signal"]["legs"][0]["limit_price_micros"] == 430_000
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "trying again" in err
    assert "connected again; nothing was missed" in err
    assert "Traceback" not in err


def test_feeds_that_are_not_live_are_told_on_stderr(piped, script):
    process = piped()
    script.messages.put(
        a_stretch(0, 1, [an_event(1)], started=True, feeds=[a_feed(feed_status_pb2.FEED_STATE_STALE, detail="silent")])
    )
    process.stdout.readline()
    script.messages.put(a_stretch(1, 2, [an_event(2)], feeds=[a_feed()]))
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "FEED STALE  kalshi" in err
    assert "feed of kalshi is live again" in err


def test_a_reader_that_goes_away_ends_the_command_though_no_event_comes(piped, script):
    process = piped()
    script.messages.put(a_stretch(0, 1, [an_event(1)], started=True))
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("point", "check"),
    [
        ("now", lambda s: s.HasField("now")),
        ("active", lambda s: s.HasField("active_snapshot")),
        ("15m", lambda s: abs(s.start_time.ToSeconds() - (time.time() - 900)) < 60),
        ("2026-05-13T20:00:00+02:00", lambda s: s.start_time.ToJsonString() == "2026-05-13T18:00:00Z"),
        ("41", lambda s: (s.position.data_set_id, s.position.sequence) == (DATA_SET, 41)),
        ("ds_bbbbbbbbbbbbbbbb:42", lambda s: (s.position.data_set_id[3:], s.position.sequence) == ("b" * 16, 42)),
        ("CAESBHRlc3Q", lambda s: s.resume_token == "CAESBHRlc3Q"),
    ],
)  # fmt: skip
def test_a_watch_starts_where_it_is_told_to(piped, script, point, check):
    piped("--from", point)
    assert check(watch_of(script).start)


def test_filters_of_a_watch_reach_the_server(piped, script):
    piped(
        "--kind",
        "arb.event_sum",
        "--venue",
        "simulated",
        "--market",
        "simulated:M",
        "--min-edge",
        "0",
        "--no-simulated",
    )
    request = watch_of(script)
    assert list(request.filter.kinds) == ["arb.event_sum"]
    assert list(request.filter.market_ids) == ["simulated:M"]
    assert request.filter.HasField("minimum_net_edge_micros")
    assert not request.filter.HasField("minimum_strength")
    assert not request.include_simulated


def test_a_checkpoint_goes_on_where_the_last_run_stopped(piped, script, tmp_path):
    file = tmp_path / "position"
    first = piped("--checkpoint", str(file), "--from", "now")
    script.messages.put(a_stretch(4, 6, [an_event(5), an_event(6)], started=True))
    assert [json.loads(first.stdout.readline())["sequence"] for _ in range(2)] == [5, 6]
    script.messages.put(a_stretch(6, 7, [an_event(7)]))
    assert json.loads(first.stdout.readline())["sequence"] == 7
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    script.watch_requests.clear()
    piped("--checkpoint", str(file))
    # the last event was handed out, and whether it was dealt with nobody knows: it comes again
    assert watch_of(script).start.position.sequence == 6


def test_a_file_that_holds_no_position_is_a_wrong_command_line(run, tmp_path):
    file = tmp_path / "position"
    file.write_text("something else")
    done = run("signals", "watch", "--checkpoint", str(file))
    assert done.returncode == 2
    assert "holds no position" in done.stderr
    assert file.read_text() == "something else"


def test_a_basket_shows_on_one_line(terminal, script):
    legs = [a_leg(i, "Yes", 300_000) for i in range(3)]
    basket = fresh(1, legs=legs, direction=signal_pb2.SIGNAL_DIRECTION_BASKET, subject_id="kalshi:E")
    script.messages.put(a_stretch(0, 1, [an_event(1, basket)], started=True))
    with terminal("signals", "watch") as screen:
        screen.until(r'BUY 3 "Yes", sum ≤ 0\.9 × 120')
        screen.until("The final")


def test_a_live_table_is_refused_where_there_is_no_terminal(run):
    done = run("signals", "watch", "-o", "table")
    assert done.returncode == 2
    assert "a live table needs a terminal" in done.stderr


def test_a_terminal_that_can_not_move_its_cursor_gets_json_lines(terminal, script):
    script.messages.put(a_stretch(0, 1, [an_event(1, fresh(1))], started=True))
    with terminal("signals", "watch", TERM="dumb") as screen:
        screen.until('"sequence":1,"type":"CREATED"')
