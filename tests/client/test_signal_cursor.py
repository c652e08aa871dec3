from datetime import UTC, datetime

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddstream.errors import ContinuityBroken, InvalidArgument, OutOfRange, ResourceExhausted, Unavailable
from oddstream.v1 import feed_status_pb2, signal_pb2, venue_pb2
from oddstream.v1.signal_service_pb2 import WatchSignalsRequest, WatchSignalsResponse
from oddstream.watching.signals import FileCheckpoint, Position, SignalCursor, at_position, from_time

DATA_SET = "ds_aaaaaaaaaaaaaaaa"


def message(after, through, sequences=(), *, head=None, started=False, **fields):
    response = WatchSignalsResponse(
        after_sequence=after,
        through_sequence=through,
        head_sequence=through if head is None else head,
        resume_token=f"token-{through}",
        events=[event(s) for s in sequences],
        **fields,
    )
    if started:
        response.started.data_set_id = DATA_SET
        response.started.start_sequence = after
    return response


def event(sequence, signal_id=None):
    return signal_pb2.SignalEvent(
        sequence=sequence, signal=signal_pb2.Signal(signal_id=signal_id or f"sig_{sequence:026d}")
    )


def sequences(events):
    return [e.sequence for e in events]


class Memory:
    def __init__(self, position=None):
        self.position = position
        self.saved = []

    def load(self):
        return self.position

    def save(self, position):
        self.saved.append(position.sequence)
        self.position = position


def test_the_first_request_is_the_callers_and_later_ones_start_strictly_after_what_was_received():
    cursor = SignalCursor(WatchSignalsRequest(include_simulated=True))
    assert cursor.next_request() == WatchSignalsRequest(include_simulated=True)
    assert sequences(cursor.receive(message(4, 9, [6, 9], started=True))) == [6, 9]
    again = cursor.next_request()
    assert again.include_simulated
    assert again.start == at_position(Position(DATA_SET, 9))
    assert cursor.reconnects == 1


def test_a_connection_lost_in_the_middle_of_a_message_goes_on_after_the_last_event_that_was_done_with():
    cursor = SignalCursor(WatchSignalsRequest())
    cursor.next_request()
    events = cursor.receive(message(0, 9, [2, 5, 9], started=True))
    assert next(events).sequence == 2
    assert next(events).sequence == 5  # asking for this one says that 2 is done with
    events.close()
    assert cursor.next_request().start.position.sequence == 2
    assert sequences(cursor.receive(message(2, 9, [5, 9], started=True))) == [5, 9]


@pytest.mark.parametrize("after", [3, 5, 0])
def test_a_message_that_does_not_begin_where_the_last_one_ended_is_a_hard_error(after):
    cursor = SignalCursor(WatchSignalsRequest())
    cursor.next_request()
    list(cursor.receive(message(0, 4, [1], started=True)))
    with pytest.raises(ContinuityBroken) as broken:
        list(cursor.receive(message(after, 9, [6])))
    assert broken.value.metadata == {"expected": "4", "got": str(after)}
    with pytest.raises(ContinuityBroken):
        cursor.pause_after(broken.value)


@pytest.mark.parametrize("wrong", [[4, 3], [3, 3], [2, 3], [3, 10]])
def test_an_event_outside_of_its_messages_stretch_or_out_of_order_is_a_hard_error(wrong):
    cursor = SignalCursor(WatchSignalsRequest())
    cursor.next_request()
    with pytest.raises(ContinuityBroken):
        list(cursor.receive(message(2, 9, wrong, started=True)))


def test_a_server_that_resumes_elsewhere_than_asked_is_a_hard_error():
    cursor = SignalCursor(WatchSignalsRequest())
    cursor.next_request()
    list(cursor.receive(message(0, 4, [1], started=True)))
    cursor.next_request()
    with pytest.raises(ContinuityBroken):
        list(cursor.receive(message(6, 9, [7], started=True)))


def test_filtered_stretches_and_heartbeats_move_the_position_without_events():
    cursor = SignalCursor(WatchSignalsRequest())
    cursor.next_request()
    list(cursor.receive(message(0, 40, started=True, head=50)))
    assert cursor.position == Position(DATA_SET, 40)
    assert cursor.lag == 10
    assert cursor.resume_token == "token-40"


def test_a_checkpoint_is_saved_when_the_reader_asks_for_more_and_wins_over_the_callers_start():
    memory = Memory()
    cursor = SignalCursor(WatchSignalsRequest(), checkpoint=memory)
    cursor.next_request()
    events = cursor.receive(message(0, 9, [2, 5], started=True))
    next(events)
    assert memory.saved == []
    next(events)
    assert memory.saved == [2]
    assert list(events) == []
    assert memory.saved == [2, 5, 9]
    restarted = SignalCursor(WatchSignalsRequest(start=from_time(datetime(2026, 1, 1, tzinfo=UTC))), checkpoint=memory)
    assert restarted.next_request().start == at_position(Position(DATA_SET, 9))


def test_a_snapshot_that_was_cut_is_asked_for_again_and_hands_out_nothing_twice():
    cursor = SignalCursor(WatchSignalsRequest())
    first = cursor.next_request()
    part = message(7, 7, [3], started=True)
    part.snapshot.as_of_sequence = 7
    assert sequences(cursor.receive(part)) == [3]
    assert cursor.next_request() == first
    whole = message(8, 8, [3, 5], started=True)
    whole.snapshot.as_of_sequence = 8
    whole.snapshot.complete = True
    assert sequences(cursor.receive(whole)) == [5]
    assert sequences(cursor.receive(message(8, 9, [9]))) == [9]
    assert cursor.next_request().start == at_position(Position(DATA_SET, 9))


def test_the_latest_feed_status_of_each_venue_is_kept():
    cursor = SignalCursor(WatchSignalsRequest())
    cursor.next_request()
    for state in (feed_status_pb2.FEED_STATE_LIVE, feed_status_pb2.FEED_STATE_GAP):
        status = feed_status_pb2.FeedStatus(venue=venue_pb2.VENUE_KALSHI, state=state)
        list(cursor.receive(message(0, 0, started=True, feed_statuses=[status])))
    assert cursor.feed_statuses[venue_pb2.VENUE_KALSHI].state == feed_status_pb2.FEED_STATE_GAP


def test_pauses_grow_with_jitter_to_a_ceiling_and_start_anew_after_a_message():
    cursor = SignalCursor(WatchSignalsRequest())
    cursor.next_request()
    away = Unavailable("away", code=grpc.StatusCode.UNAVAILABLE)
    pauses = [cursor.pause_after(away) for _ in range(12)]
    for n, pause in enumerate(pauses):
        ceiling = min(5.0, 0.1 * 2**n)
        assert ceiling / 2 <= pause <= ceiling
    list(cursor.receive(message(0, 1, started=True)))
    assert cursor.pause_after(None) <= 0.1


def test_the_servers_own_delay_is_obeyed():
    cursor = SignalCursor(WatchSignalsRequest())
    cursor.next_request()
    slow = ResourceExhausted("slow", code=grpc.StatusCode.RESOURCE_EXHAUSTED, retry_delay=7.5)
    assert cursor.pause_after(slow) >= 7.5
    closing = message(0, 0, started=True)
    closing.closing.retry_delay.FromMilliseconds(2_500)
    list(cursor.receive(closing))
    assert cursor.pause_after(Unavailable("drain", code=grpc.StatusCode.UNAVAILABLE)) >= 2.5


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("bad", code=grpc.StatusCode.INVALID_ARGUMENT),
        OutOfRange("trimmed", code=grpc.StatusCode.OUT_OF_RANGE, reason="SIGNAL_HISTORY_TRIMMED"),
    ],
)
def test_what_can_not_get_better_by_itself_is_raised(error):
    with pytest.raises(type(error)):
        SignalCursor(WatchSignalsRequest()).pause_after(error)


def test_a_file_checkpoint_survives_and_refuses_garbage_with_the_way_out(tmp_path):
    file = FileCheckpoint(tmp_path / "bot.position")
    assert file.load() is None
    file.save(Position(DATA_SET, 12))
    assert FileCheckpoint(tmp_path / "bot.position").load() == Position(DATA_SET, 12)
    assert [p.name for p in tmp_path.iterdir()] == ["bot.position"]
    (tmp_path / "bot.position").write_text("{}")
    with pytest.raises(ValueError, match="holds no position: remove it to start anew"):
        file.load()


def test_a_naive_instant_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        from_time(datetime(2026, 1, 1))  # noqa: DTZ001 - the point of the test


@given(
    matching=st.lists(st.booleans(), min_size=1, max_size=60),
    cuts=st.lists(st.tuples(st.integers(1, 7), st.integers(0, 7)), min_size=1, max_size=60),
)
def test_any_cutting_of_connections_and_messages_hands_out_each_matching_event_once_in_order(matching, cuts):
    """A model server sends stretches of random length; connections break after a random number of events."""
    log = [n + 1 for n, match in enumerate(matching) if match]
    head = len(matching)
    memory = Memory(Position(DATA_SET, 0))
    cursor = SignalCursor(WatchSignalsRequest(), checkpoint=memory)
    seen: list[int] = []
    plan = iter(cuts)
    while cursor.position is None or cursor.position.sequence < head:
        at = cursor.next_request().start.position.sequence
        length, taken = next(plan, (7, 99))
        started = True
        while at < head:
            through = min(head, at + length)
            events = cursor.receive(message(at, through, [s for s in log if at < s <= through], started=started))
            for received in events:
                if taken == 0:
                    break
                taken -= 1
                if received.sequence not in seen[-1:]:
                    seen.append(received.sequence)
            else:
                at, started = through, False
                continue
            events.close()
            break
    assert seen == log
    assert cursor.position == Position(DATA_SET, head)
    assert log[-1:] <= [memory.position.sequence]
