"""Fills and track records on the command line, over a real channel."""

import json

import pytest
from google.protobuf import json_format

from oddstream.cli.commands.executions import fill_of
from oddstream.cli.json_lines import plain
from oddstream.cli.views.executions import executions_table
from oddstream.cli.views.performance import performance_page
from oddstream.v1 import execution_pb2, signal_pb2, strategy_pb2, venue_pb2
from tests.client.cli.messages import NOW_US, a_fill, a_record, an_execution, sig, some_figures
from tests.client.cli.screens import lines_of

ONE = ("--market", "kalshi:NBA", "--fill-id", "f1", "--price", "0.43", "--size", "120", "--at", "2026-05-13T20:00Z")


def flat(renderable, columns):
    return " ".join(" ".join(lines_of(renderable, columns)).split())


def test_one_fill_is_reported_by_options(run, script):
    done = run("executions", "report", *ONE, "--outcome", "1", "--sell", "--fee", "2.06", "--signal", sig(1), "--maker")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["already_reported"] is False
    (request,) = script.reports
    (fill,) = request.fills
    assert (fill.venue, fill.action) == (venue_pb2.VENUE_KALSHI, signal_pb2.LEG_ACTION_SELL)
    assert (fill.outcome_index, fill.price_micros, fill.size_micros, fill.fee_micros) == (
        1,
        430_000,
        120_000_000,
        2_060_000,
    )
    assert (fill.signal_id, fill.liquidity) == (sig(1), execution_pb2.FILL_LIQUIDITY_MAKER)
    assert fill.venue_time.ToJsonString() == "2026-05-13T20:00:00Z"
    assert request.request_id


def test_what_list_prints_is_what_report_reads(run, script, tmp_path):
    listed = run("executions", "list", "--limit", "0")
    assert len(listed.stdout.splitlines()) == 6
    file = tmp_path / "fills.jsonl"
    file.write_text(listed.stdout + "\n")
    assert run("executions", "report", str(file)).returncode == 0
    again = run("executions", "report", str(file), "-o", "table", COLUMNS="100")
    assert "0 stored, 6 reported before." in again.stderr
    assert "BUY outcome 1 at 0.43 × 120" in again.stdout
    first, second = script.reports
    assert list(first.fills) == list(second.fills) == [a_fill(f"f{n}") for n in range(6)]
    assert first.request_id != second.request_id


def test_many_fills_are_reported_five_hundred_a_call(run, script, tmp_path):
    file = tmp_path / "fills.jsonl"
    file.write_text("".join(json.dumps(plain(a_fill(f"f{n}"))) + "\n" for n in range(1_001)))
    done = run("executions", "report", str(file))
    assert len(done.stdout.splitlines()) == 1_001, done.stderr
    assert [len(request.fills) for request in script.reports] == [500, 500, 1]


def test_filters_of_executions_reach_the_server_and_the_limit_ends_the_pages(run, script):
    done = run(
        "executions", "list", "--limit", "3", "--venue", "kalshi", "--market", "kalshi:NBA", "--signal", sig(1),
        "--strategy", "arb.event_sum", "--owner", "key_a", "--from", "2026-05-13T20:00Z",
    )  # fmt: skip
    assert [json.loads(line)["fill"]["venue_fill_id"] for line in done.stdout.splitlines()] == ["f0", "f1", "f2"]
    where = script.list_requests[0].filter
    assert (list(where.venues), list(where.market_ids)) == ([venue_pb2.VENUE_KALSHI], ["kalshi:NBA"])
    assert (list(where.signal_ids), list(where.strategy_ids)) == ([sig(1)], ["arb.event_sum"])
    assert list(where.owners) == ["key_a"]
    assert where.venue_time_range.start_time.ToJsonString() == "2026-05-13T20:00:00Z"
    assert not where.venue_time_range.HasField("end_time")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 2, "a fill needs --market, --fill-id, --price, --size, --at"),
        (("-", "--price", "0.1"), 2, "from a file or from options"),
        (("missing.jsonl",), 2, "missing.jsonl can't be read"),
        ((*ONE, "--fee", "1.0000001"), 2, "prices are exact"),
    ],
)
def test_a_wrong_command_line_says_so_and_reports_nothing(run, script, arguments, status, said):
    done = run("executions", "report", *arguments)
    assert done.returncode == status
    assert said in " ".join(done.stderr.split())
    assert script.reports == []


def test_a_line_that_is_no_fill_is_named_and_nothing_is_reported(run, script, tmp_path):
    file = tmp_path / "fills.jsonl"
    file.write_text(json.dumps(plain(a_fill())) + '\n{"price": 1}\n')
    done = run("executions", "report", str(file))
    assert done.returncode == 2
    assert "line 2 of" in done.stderr
    assert "Traceback" not in done.stderr
    assert script.reports == []


@pytest.mark.parametrize(
    "document", [{"price": 1}, [], {"action": "HOLD"}, {"price_micros": "x"}, 7, {"fill": {"a": 1}}]
)
def test_what_is_no_fill_is_refused(document):
    with pytest.raises((ValueError, json_format.ParseError)):
        fill_of(document)


def test_a_conflict_says_the_way_out(run):
    done = run("executions", "report", *ONE[:3], "CONFLICT", *ONE[4:])
    assert done.returncode == 1
    assert "[EXECUTION_CONFLICT]" in done.stderr
    assert "`oddstream executions list`" in done.stderr


def test_a_fill_goes_through_json_and_back():
    fill = a_fill(signal_id=sig(1), leg_number=0, fee_micros=-5, liquidity=execution_pb2.FILL_LIQUIDITY_TAKER)
    assert fill_of(plain(fill)) == fill
    assert fill_of({"market_id": "polymarket_us:x"}).venue == venue_pb2.VENUE_POLYMARKET_US
    assert fill_of({"market_id": "x"}).venue == venue_pb2.VENUE_UNSPECIFIED


@pytest.mark.parametrize("columns", [80, 140])
def test_executions_show_fees_slippage_and_what_was_earned(columns):
    settled = an_execution(a_fill("f2", fee_micros=1_990_000), realized_profit_micros=-53_590_000)
    text = flat(executions_table([an_execution(a_fill()), settled], NOW_US), columns)
    assert "2h kalshi:NBA BUY outcome 1 at 0.43 × 120 ~2.06 +0.01 -" in text
    assert "1.99 +0.01 -53.59" in text
    assert "owner" not in text
    other = an_execution(a_fill("f3"), owner="key_b")
    assert "key_b" in flat(executions_table([settled, other], NOW_US), columns)


def test_a_record_is_json_in_a_pipe_and_its_period_and_origin_reach_the_server(run, script):
    done = run(
        "strategies", "performance", "calib.longshot", "--simulated", "--version", "2", "--to", "2026-05-13T20:00Z"
    )
    (found,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (found["overall"]["hit_rate"], found["slices"][0]["venue"]) == (0.55, "POLYMARKET_US")
    (request,) = script.list_requests
    assert (request.strategy_id, request.kind_version, request.simulated) == ("calib.longshot", 2, True)
    assert request.period.end_time.ToJsonString() == "2026-05-13T20:00:00Z"


@pytest.mark.parametrize("columns", [80, 140])
def test_a_record_shows_its_figures_slices_calibration_and_the_disclosure(columns):
    text = flat(performance_page(a_record(), simulated=False, now_us=NOW_US), columns)
    for part in (
        "calib.longshot version 2 live signals",
        "1,234, of which 1,000 graded, 34 void",
        "55.0% (51.9% to 58.1%)",
        "0.2134, where the price scores 0.2201",
        "+1.23 ¢ (+0.32 ¢ to +2.15 ¢)",
        "edge one quote later -0.23 ¢",
        "12 executions, earned -3.40 USD",
        "poly-us any 400/1,234 55% 0.213 +1.23 -0.23 -3.40",
        "all 1w or more 0/0 - - - - -",
        "0.50 to 0.55 10 0.525 0.500 ██████████│",
        "Past results need not come again. [RISK_2]",
    ):
        assert part in text
    assert "0.00 to 0.05" not in text, "an empty bin says nothing"


def test_a_record_without_signals_shows_no_figure_that_is_not_defined():
    empty = strategy_pb2.StrategyPerformance(strategy_id="arb.event_sum", kind_version=1)
    text = flat(performance_page(empty, simulated=True, now_us=NOW_US), 80)
    assert "simulated signals" in text
    assert "0, of which 0 graded, 0 void" in text
    assert "hit rate" not in text
    assert "Calibration" not in text
    one = strategy_pb2.StrategyPerformance(overall=some_figures(execution_count=1))
    assert "1 execution, earned -3.40 USD" in flat(performance_page(one, simulated=False, now_us=0), 80)
    unvalued = some_figures()
    unvalued.ClearField("brier")
    text = flat(performance_page(strategy_pb2.StrategyPerformance(overall=unvalued), simulated=False, now_us=0), 80)
    assert "Brier of the price 0.2201" in text
