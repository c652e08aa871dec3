"""What the operator is told of a feed, and when silence is called stale."""

from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import FeedState
from oddstream_server.venues.feed_state import FeedMonitor, Watchdog

S = 1_000_000


def test_a_state_is_pushed_when_it_changes_and_only_then() -> None:
    monitor = FeedMonitor(Venue.KALSHI, 7)
    monitor.received(5)
    (first,) = monitor.change("a", FeedState.LIVE, 6)
    assert (first.state, first.epoch, first.last_receive_time_us, first.change_time_us) == (FeedState.LIVE, 7, 5, 6)
    assert monitor.change("a", FeedState.LIVE, 8) == []
    assert [s.state for s in monitor.change("a", FeedState.STALE, 9, "no data")] == [FeedState.STALE]
    assert monitor.change("a", FeedState.STALE, 10) == []


def test_the_venue_is_as_well_as_its_worst_stream() -> None:
    monitor = FeedMonitor(Venue.POLYMARKET, 0)
    monitor.change("a", FeedState.LIVE, 1)
    assert monitor.change("b", FeedState.LIVE, 2) == []
    assert [s.state for s in monitor.change("b", FeedState.DOWN, 3)] == [FeedState.DOWN]
    assert monitor.change("a", FeedState.STALE, 4) == []
    assert [s.state for s in monitor.change("b", FeedState.LIVE, 5)] == [FeedState.STALE]
    assert [s.state for s in monitor.change("a", FeedState.LIVE, 6)] == [FeedState.LIVE]


def test_every_gap_is_pushed_since_each_names_its_own_markets() -> None:
    monitor = FeedMonitor(Venue.KALSHI, 0)
    monitor.change("a", FeedState.LIVE, 1)
    assert [s.market_ids for s in monitor.change("a", FeedState.GAP, 2, "lost", ["m2", "m1"])] == [("m1", "m2")]
    assert [s.market_ids for s in monitor.change("a", FeedState.GAP, 3, "lost", ["m3"])] == [("m3",)]
    assert [s.state for s in monitor.change("a", FeedState.LIVE, 4)] == [FeedState.LIVE]


def test_a_stream_that_is_down_does_not_count_while_its_backup_is_live() -> None:
    monitor = FeedMonitor(Venue.KALSHI, 0, backup="polling")
    monitor.change("socket", FeedState.LIVE, 1)
    assert [s.state for s in monitor.change("socket", FeedState.DOWN, 2)] == [FeedState.DOWN]
    assert [s.state for s in monitor.change("polling", FeedState.LIVE, 3)] == [FeedState.LIVE]
    assert monitor.change("socket", FeedState.DOWN, 4) == []
    assert [s.state for s in monitor.change("polling", FeedState.DOWN, 5)] == [FeedState.DOWN]


def test_a_stream_closed_on_purpose_counts_no_more() -> None:
    monitor = FeedMonitor(Venue.POLYMARKET, 0)
    monitor.change("a", FeedState.LIVE, 1)
    monitor.change("b", FeedState.DOWN, 2)
    assert [s.state for s in monitor.drop("b", 3)] == [FeedState.LIVE]
    assert monitor.drop("b", 4) == []
    assert monitor.drop("a", 5) == [], "nothing is left to tell of"


def test_after_a_gap_of_one_stream_the_worse_state_of_another_is_told_again() -> None:
    monitor = FeedMonitor(Venue.POLYMARKET, 0)
    monitor.change("a", FeedState.STALE, 1)
    assert [s.state for s in monitor.change("b", FeedState.GAP, 2)] == [FeedState.GAP]
    assert [s.state for s in monitor.change("b", FeedState.LIVE, 3)] == [FeedState.STALE]


def test_silence_is_stale_after_the_bound_and_never_before_the_least_one() -> None:
    dog = Watchdog(10 * S, 100 * S)
    dog.begin(0)
    for at in range(0, 5 * S, S // 100):
        dog.received(at)
    assert dog.bound_us == 10 * S
    assert not dog.stale(15 * S - S // 100)
    assert dog.stale(15 * S)


def test_the_bound_grows_with_the_usual_gap_and_ends_at_the_upper_limit() -> None:
    dog = Watchdog(10 * S, 100 * S, factor=20)
    dog.begin(0)
    for n in range(1, 200):
        dog.received(n * 2 * S)
    assert 35 * S < dog.bound_us <= 40 * S
    for n in range(200):
        dog.received(400 * S + n * 50 * S)
    assert dog.bound_us == 100 * S


def test_a_market_that_is_silent_after_every_reconnect_earns_patience() -> None:
    dog = Watchdog(10 * S, 100 * S)
    bounds = []
    for connection in range(6):
        begun = connection * 1_000 * S
        dog.begin(begun)
        dog.received(begun)
        bounds.append(dog.bound_us)
        dog.barked(opening_frames=1)
    assert bounds == sorted(bounds)
    assert bounds[0] == 10 * S
    assert bounds[-1] == 100 * S
    dog.begin(0)
    for n in range(5):
        dog.received(n)
    dog.barked(opening_frames=1)
    assert dog.bound_us <= 20 * S, "data came, so its end is the venue's fault again"


def test_time_in_which_the_pipeline_held_us_up_is_not_the_venues_silence() -> None:
    dog = Watchdog(10 * S, 100 * S)
    dog.begin(0)
    dog.excuse(9 * S)
    assert not dog.stale(19 * S)
    assert dog.stale(19 * S + 1)
