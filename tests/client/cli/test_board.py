import pytest

from oddstream.cli.views.board import FADE_US, Board
from oddstream.v1 import feed_status_pb2, signal_pb2, venue_pb2
from tests.client.cli.messages import NOW_US, a_feed, a_leg, a_signal, a_stretch, an_event
from tests.client.cli.screens import lines_of, text_of

WITHDRAWN = signal_pb2.SIGNAL_EVENT_TYPE_WITHDRAWN
WIDTHS = pytest.mark.parametrize("columns", [80, 140])


def a_board(*events, **message):
    board = Board("localhost:50051")
    board.take_message(a_stretch(0, 10, started=True, **message), NOW_US)
    for event in events:
        board.take_event(event, NOW_US)
    return board


def shown(board, columns, at_us=NOW_US, lines=30):
    return lines_of(board.render(at_us, columns, lines), columns)


def row_with(lines, text):
    (line,) = [line for line in lines if text in line]
    return line


@WIDTHS
def test_an_opportunity_says_what_to_do_its_edge_strength_time_left_revision_and_state(columns):
    board = a_board(an_event(1, a_signal(1, revision=4)))
    board.titles["kalshi:NBA"] = "Will the Lakers win?"
    lines = shown(board, columns)
    row = row_with(lines, 'BUY "Lakers" ≤ 0.43 × 120')
    for part in ("3s", "kalshi", "+0.0125", "0.62", "9m", "active"):
        assert part in row
    assert "Will the Lakers win?" in "\n".join(lines)
    assert ("rev 4" in "\n".join(lines)) if columns == 80 else ("    4  active" in row)


@WIDTHS
def test_simulated_data_carries_its_mark_and_live_data_does_not(columns):
    simulated = a_signal(2, simulated=True, legs=[a_leg(label="Up", venue=venue_pb2.VENUE_SIMULATED)])
    lines = shown(a_board(an_event(1, a_signal(1)), an_event(2, simulated)), columns)
    assert "SIM BUY" in row_with(lines, '"Up"')
    assert "SIM" not in row_with(lines, '"Lakers"')


@WIDTHS
def test_the_head_line_tells_the_lag(columns):
    assert "4 behind the head" in shown(a_board(head=14), columns)[0]
    assert "up to date" in shown(a_board(head=10), columns)[0]


@WIDTHS
def test_a_feed_that_is_not_live_is_a_banner_until_it_is(columns):
    stale = a_feed(feed_status_pb2.FEED_STATE_STALE, detail="no frame for 12 s")
    board = a_board(feeds=[stale, a_feed(venue=venue_pb2.VENUE_SIMULATED)])
    text = " ".join(shown(board, columns))
    assert "FEED STALE  kalshi" in text
    assert "last data 12s ago" in text
    assert "simulated" not in text
    board.take_message(a_stretch(10, 10, feeds=[a_feed()]), NOW_US)
    assert "FEED" not in " ".join(shown(board, columns))


@WIDTHS
def test_a_break_is_a_notice_that_goes_when_the_stream_is_back(columns):
    board = a_board(an_event(1))
    board.take_break("localhost:50051 is not answering", 3.0, NOW_US)
    text = " ".join(shown(board, columns))
    assert "RECONNECTING  localhost:50051 is not answering, next try in 3s; it resumes where it stopped" in text
    assert '"Lakers"' in text, "what is known stays on the screen"
    board.take_message(a_stretch(10, 10), NOW_US)
    after = shown(board, columns)
    assert "RECONNECTING" not in " ".join(after)
    assert "reconnected 1×" in after[0]


def test_before_the_first_answer_the_board_says_so_and_then_asks_whether_a_server_runs():
    board = Board("localhost:50051")
    assert "Connecting to localhost:50051" in text_of(board.render(NOW_US, 80, 24), 80)
    board.take_break("localhost:50051 is not answering", 1.0, NOW_US)
    text = " ".join(text_of(board.render(NOW_US, 80, 24), 80).split())
    assert "NOT CONNECTED localhost:50051 is not answering, next try in 1s; is the server running?" in text


@pytest.mark.parametrize(
    ("type_", "changes", "word"),
    [
        (WITHDRAWN, {"state": signal_pb2.SIGNAL_STATE_WITHDRAWN, "withdraw_reason": 2}, "withdrawn"),
        (signal_pb2.SIGNAL_EVENT_TYPE_EXPIRED, {"state": signal_pb2.SIGNAL_STATE_EXPIRED}, "expired"),
        (signal_pb2.SIGNAL_EVENT_TYPE_SUPERSEDED, {"state": signal_pb2.SIGNAL_STATE_SUPERSEDED}, "superseded"),
    ],
)
@WIDTHS
def test_what_ended_says_how_and_fades_out_after_some_seconds(columns, type_, changes, word):
    board = a_board(an_event(1, a_signal(1)))
    board.take_event(an_event(2, a_signal(1, **changes), type_), NOW_US)
    lines = shown(board, columns, NOW_US + FADE_US - 1)
    assert word in row_with(lines, '"Lakers"')
    assert ("stale" in " ".join(lines)) == (word == "withdrawn")
    assert "0 open" in lines[0]
    assert '"Lakers"' not in " ".join(shown(board, columns, NOW_US + FADE_US))


def test_a_withdrawal_of_what_was_never_shown_shows_nothing():
    board = a_board(an_event(2, a_signal(1), WITHDRAWN))
    assert "No open opportunity right now" in " ".join(shown(board, 80))


def test_a_revision_takes_the_place_of_the_one_before():
    board = a_board(
        an_event(1, a_signal(1)),
        an_event(2, a_signal(1, revision=2, legs=[a_leg(price=440_000)]), signal_pb2.SIGNAL_EVENT_TYPE_REVISED),
    )
    text = " ".join(shown(board, 140))
    assert "1 open" in text
    assert "≤ 0.44" in text
    assert "≤ 0.43" not in text


def test_a_row_keeps_its_place_when_it_is_revised():
    board = a_board(*(an_event(n, a_signal(n, legs=[a_leg(label=f"L{n}")])) for n in (1, 2)))
    board.take_event(an_event(3, a_signal(1, revision=2), signal_pb2.SIGNAL_EVENT_TYPE_REVISED), NOW_US)
    first, second = [line for line in shown(board, 80) if "BUY" in line]
    assert '"L2"' in first
    assert '"Lakers"' in second


def test_time_left_and_expiry_go_by_the_server_s_clock():
    board = Board("localhost:50051")
    message = a_stretch(0, 1, started=True)
    message.send_time.FromMicroseconds(NOW_US)
    local_us = NOW_US - 3_600_000_000  # this machine's clock is an hour behind
    board.take_message(message, local_us)
    board.take_event(an_event(1, a_signal(1, lives_us=63_000_000)), local_us)
    assert "1m 00s" in row_with(shown(board, 140, local_us), '"Lakers"')
    assert "expired" in row_with(shown(board, 140, local_us + 60_000_000), '"Lakers"')
    assert '"Lakers"' not in " ".join(shown(board, 140, local_us + 60_000_000 + FADE_US))


@WIDTHS
def test_the_newest_come_first_and_what_does_not_fit_is_counted(columns):
    board = a_board(*(an_event(n, a_signal(n, legs=[a_leg(label=f"L{n}")])) for n in range(1, 21)))
    lines = shown(board, columns, lines=12)
    assert len(lines) <= 12
    rows = [line for line in lines if "BUY" in line]
    assert '"L20"' in rows[0]
    assert '"L19"' in rows[1]
    assert f"and {20 - len(rows)} more" in lines[-1]
