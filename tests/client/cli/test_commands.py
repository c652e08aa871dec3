"""The commands that answer once, over a real channel, as a script sees them."""

import json

import pytest

from oddstream.v1 import market_pb2, signal_pb2, venue_pb2
from tests.client.cli.conftest import KEY
from tests.client.cli.messages import a_feed, a_stretch, sig


def rows(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_markets_are_json_lines_in_a_pipe_and_pages_are_followed_up_to_the_limit(run_apart, script):
    found = rows(run_apart("markets", "list", "--limit", "4"))
    assert [m["market_id"] for m in found] == [f"kalshi:M{i}" for i in range(4)]
    assert found[0]["minimum_size_micros"] == 1_000_000
    assert [r.page_size for r in script.list_requests] == [4]
    assert len(rows(run_apart("markets", "list", "--limit", "0"))) == 5


def test_filters_of_markets_reach_the_server(run, script):
    rows(run("markets", "list", "--venue", "kalshi", "--state", "open", "--event", "kalshi:E", "--text", "lakers"))
    wanted = script.list_requests[0].filter
    assert list(wanted.venues) == [venue_pb2.VENUE_KALSHI]
    assert list(wanted.states) == [market_pb2.MARKET_STATE_OPEN]
    assert list(wanted.event_ids) == ["kalshi:E"]
    assert wanted.text == "lakers"


def test_a_table_can_be_had_in_a_pipe_too_and_says_on_stderr_that_there_is_more(run):
    done = run("markets", "list", "--limit", "2", "-o", "table")
    assert "Will the Lakers win?" in done.stdout
    assert "The first 2 markets" in done.stderr


def test_no_color_leaves_no_escape_sequence_and_columns_set_the_width(run):
    done = run("markets", "show", "kalshi:NBA", "-o", "table", NO_COLOR="1", COLUMNS="100")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 100
    assert "►" in done.stdout


def test_a_market_comes_with_its_book_or_with_the_reason_why_there_is_none(run):
    (found,) = rows(run("markets", "show", "kalshi:NBA"))
    assert found["order_book"]["order_book"]["bids"][0]["price_micros"] == 410_000
    (quiet,) = rows(run("markets", "show", "kalshi:QUIET"))
    assert quiet["order_book"] is None
    assert "no book is held" in quiet["order_book_error"]


def test_a_signal_is_shown_with_the_verdict_of_its_recomputation(run):
    (found,) = rows(run("signals", "show", sig(1)))
    assert found["computed_again"]["equal"] is True
    assert found["legs_now"][0]["fee_equal"] is True
    page = run("signals", "show", sig(1), "-o", "table")
    assert "computed again: equal" in page.stdout
    assert "Will the Lakers win? (kalshi:NBA)" in page.stdout
    assert "What is staked can be lost whole. [RISK_3]" in page.stdout


def test_signals_are_listed_with_their_filters(run, script):
    found = rows(
        run("signals", "list", "--limit", "2", "--kind", "arb.event_sum", "--min-edge", "0.02", "--min-strength", "0.5",
            "--state", "active", "--no-simulated")
    )  # fmt: skip
    assert [s["signal_id"] for s in found] == [sig(0), sig(1)]
    (request,) = script.list_requests
    assert list(request.filter.kinds) == ["arb.event_sum"]
    assert request.filter.minimum_net_edge_micros == 20_000
    assert request.filter.minimum_strength == 0.5
    assert list(request.history.states) == [signal_pb2.SIGNAL_STATE_ACTIVE]
    assert not request.include_simulated


def test_strategies_are_listed_and_shown(run):
    assert rows(run("strategies", "list"))[0]["strategy_id"] == "arb.event_sum"
    assert "sum of the asks" in run("strategies", "show", "arb.event_sum", "-o", "table").stdout


@pytest.mark.parametrize(
    ("arguments", "changes", "said"),
    [
        (("markets", "show", "kalshi:GONE"), {}, ["no market has this id [MARKET_NOT_FOUND]", "Way out: `oddstream m"]),
        (("markets", "show", "nonsense"), {}, ["[INVALID_FIELD]", "market_id: <venue>:<id>"]),
        (("signals", "show", sig(2)), {}, ["[SIGNAL_NOT_FOUND]"]),
        (("signals", "list"), {"ODDSTREAM_API_KEY": None}, ["[API_KEY_MISSING]", "Way out: set ODDSTREAM_API_KEY"]),
        (("signals", "watch"), {"ODDSTREAM_API_KEY": None}, ["[API_KEY_MISSING]", "Way out: set ODDSTREAM_API_KEY"]),
    ],
)  # fmt: skip
def test_a_failed_call_says_what_why_the_way_out_and_the_reference_and_exits_with_1(run, arguments, changes, said):
    done = run(*arguments, **changes)
    assert done.returncode == 1
    assert done.stdout == ""
    for part in (*said, "Reference: c-1"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_not_there_is_said_in_words(run_apart):
    done = run_apart("--target", "127.0.0.1:1", "--timeout", "2", "markets", "list")
    assert done.returncode == 1
    assert "127.0.0.1:1 is not answering [UNAVAILABLE]" in done.stderr
    assert "make run" in done.stderr


def test_what_stands_behind_the_command_wins_over_what_stands_before_it_and_over_the_environment(run, target):
    assert run("--target", "127.0.0.1:1", "markets", "list", "--target", target).returncode == 0
    assert run("--target", target, "markets", "list", ODDSTREAM_TARGET="127.0.0.1:1").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("markets", "list", "--venue", "nowhere"),
        ("markets", "list", "--limit", "-1"),
        ("signals", "watch", "--min-edge", "0.1234567"),
        ("signals", "watch", "--min-edge", "much"),
        ("signals", "watch", "--min-strength", "2"),
        ("signals", "unknown"),
        ("--target", "markets.example:50051", "markets", "list"),
    ],
)
def test_a_wrong_command_line_exits_with_2(run, arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_key_is_not_sent_in_clear_text_to_another_machine_and_the_way_out_is_named(run_apart):
    done = run_apart("--target", "markets.example:50051", "markets", "list")
    assert "no TLS" in done.stderr
    assert "--allow-plaintext" in done.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("signals", "watch", "--help"), ("status", "-h"), ("--version",)])
def test_help_and_version_never_show_the_key(run, arguments):
    done = run(*arguments)
    assert done.returncode == 0
    assert KEY not in done.stdout + done.stderr


def test_the_version_is_that_of_the_distribution(run_apart):
    assert run_apart("--version").stdout == "oddstream 0.1.0\n"


def test_the_status_puts_the_operations_port_and_the_stream_together(run, script, operations):
    address = operations({"ready": True, "version": "0.1.0", "workers": {"serve-0": {"ready": True, "streams": 3}}})
    script.messages.put(a_stretch(0, 0, head=7, started=True, feeds=[a_feed()]))
    (found,) = rows(run("status", "--operations", address))
    assert found["stream"]["head_sequence"] == 7
    assert found["stream"]["feed_statuses"][0]["state"] == "LIVE"
    assert found["operations"]["workers"]["serve-0"]["streams"] == 3
    assert script.watch_requests[0].start.HasField("now")


@pytest.mark.parametrize(
    ("state", "status", "said"),
    [(b"<html>", 200, "doesn't answer in JSON"), (b"[]", 200, "doesn't answer as"), (b"", 404, "answers HTTP 404")],
)
def test_a_port_that_is_another_program_s_does_not_stop_the_status(run, script, operations, state, status, said):
    script.messages.put(a_stretch(0, 0, head=7, started=True, feeds=[a_feed()]))
    done = run("status", "--operations", operations(state, status), "-o", "table")
    assert done.returncode == 0
    assert said in " ".join(done.stdout.split())
    assert "kalshi" in done.stdout


def test_a_status_without_any_answer_exits_with_1(run):
    done = run("--target", "127.0.0.1:1", "status", "--operations", "http://127.0.0.1:1", "--timeout", "2")
    assert done.returncode == 1
    assert json.loads(done.stdout)["operations_error"] == "is not answering"
