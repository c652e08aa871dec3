"""The promises of the signal stream, over a log in memory."""

import asyncio
from dataclasses import replace

import pytest

from oddstream_server.application.ports import SignalFilter
from oddstream_server.domain.errors import (
    InvalidArgument,
    OutOfRange,
    Unavailable,
)
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import FeedState, FeedStatus
from oddstream_server.domain.signal import DataOrigin, SignalEventType
from oddstream_server.feed.signals.batches import BatchLimits
from oddstream_server.feed.signals.feed import FeedLimits
from oddstream_server.feed.signals.ring import View
from oddstream_server.feed.signals.starts import StartAfter, StartAtTime, StartNow, StartWithActive
from oddstream_server.feed.streams import StreamLimits
from tests.feed.memory_log import START_US, MemorySignalLog, make_event, parse_token, read_message, resume
from tests.feed.running_feed import (
    EVERYTHING,
    assert_continuous,
    ending,
    message,
    messages_until,
    running_feed,
    take,
)

SMALL = FeedLimits(
    ring_entries=8,
    preloaded_entries=0,
    read_entries=5,
    page_entries=4,
    poll_s=0.02,
    retry_s=0.01,
    batch=BatchLimits(entries=3),
)
KALSHI = SignalFilter(venues=(Venue.KALSHI,))


def status(state: FeedState, venue: Venue = Venue.KALSHI, epoch: int = 1, change_time_us: int = START_US) -> FeedStatus:
    return FeedStatus(venue, state, START_US, epoch, change_time_us)


async def test_a_stream_starts_with_its_terms_and_says_that_it_caught_up() -> None:
    log = MemorySignalLog()
    log.append(make_event(), make_event())
    async with running_feed(log) as f:
        first = await take(await f.watch(heartbeat_s=7))
        assert first.started is not None
        assert first.started.data_set_id == log.data_set_id
        assert (first.started.start_sequence, first.started.oldest_sequence) == (2, 1)
        assert first.started.watch.heartbeat_s == 7
        assert first.started.end_time_us > f.now_us
        assert first.caught_up_sequence == 2
        assert read_message(first.batch).sequences == []


async def test_an_event_that_is_committed_reaches_a_waiting_subscriber_without_a_wake_up() -> None:
    async with running_feed() as f:
        subscription = await f.watch()
        await take(subscription)
        waiting = asyncio.create_task(message(subscription))
        f.log.append(make_event())
        assert (await waiting).sequences == [1]


async def test_events_that_wait_are_joined_in_one_message() -> None:
    async with running_feed() as f:
        subscription = await f.watch()
        await take(subscription)
        f.log.append(*[make_event() for _ in range(50)])
        await f.settled()
        assert (await message(subscription)).sequences == list(range(1, 51))


async def test_a_message_stays_within_its_entries_and_bytes() -> None:
    limits = FeedLimits(poll_s=0.02, batch=BatchLimits(entries=4, size_bytes=25))
    async with running_feed(limits=limits) as f:
        subscription = await f.watch()
        f.log.append(*[make_event() for _ in range(9)])
        await f.settled()
        found = await messages_until(subscription, 9)
        # "basic 1\n" has 8 bytes, so three fit into 25.
        assert [len(m.sequences) for m in found if m.sequences] == [3, 3, 3]


async def test_an_event_larger_than_the_budget_goes_alone() -> None:
    limits = FeedLimits(poll_s=0.02, batch=BatchLimits(entries=4, size_bytes=1))
    async with running_feed(limits=limits) as f:
        subscription = await f.watch(start=f.after(0))
        f.log.append(make_event(), make_event())
        await f.settled()
        found = await messages_until(subscription, 2)
        assert [m.sequences for m in found if m.sequences] == [[1], [2]]


async def test_a_filtered_reader_can_prove_that_nothing_is_missing() -> None:
    async with running_feed(limits=SMALL) as f:
        subscription = await f.watch(SignalFilter(market_ids=("kalshi:KXB-1",)), f.after(0))
        wanted = []
        for number in range(1, 41):
            market = "kalshi:KXB-1" if number % 7 == 0 else "kalshi:KXA-1"
            made = f.log.append(make_event(markets=(market,), number=number))
            if number % 7 == 0:
                wanted.append(made[0].sequence)
            if number % 10 == 0:
                await f.settled()
        found = await messages_until(subscription, 35)
        assert_continuous(found, start=0)
        assert [s for m in found for s in m.sequences] == wanted


async def test_a_quiet_filter_never_forces_its_reader_to_read_the_log() -> None:
    async with running_feed(limits=SMALL) as f:
        subscription = await f.watch(SignalFilter(kinds=("arb.event_sum",)))
        await take(subscription)
        for _ in range(10):
            f.log.append(*[make_event() for _ in range(5)])
            await f.settled()
        f.log.append(make_event(kind="arb.event_sum"))
        found = await message(subscription)
        assert (found.sequences, found.after, found.through) == ([51], 0, 51)
        assert f.observer.backlog_pages == 0


async def test_a_reader_that_the_ring_ran_over_reads_the_log_and_comes_back_without_hole_or_duplicate() -> None:
    async with running_feed(limits=SMALL) as f:
        subscription = await f.watch()
        found = [await message(subscription)]
        for _ in range(10):
            f.log.append(*[make_event() for _ in range(4)])
            await f.settled()
        found += await messages_until(subscription, 40)
        assert f.observer.backlog_pages > 0
        f.log.append(make_event())
        found += await messages_until(subscription, 41)
        assert_continuous(found, start=0)
        assert [s for m in found for s in m.sequences] == list(range(1, 42))


async def test_a_page_of_the_log_that_is_newer_than_what_the_feed_has_read_moves_the_head_of_its_message() -> None:
    log = MemorySignalLog()
    log.append(*[make_event() for _ in range(2)])
    async with running_feed(log, replace(SMALL, poll_s=60)) as f:
        log.append(make_event())  # nobody wakes the feed
        last = (await messages_until(await f.watch(start=f.after(0)), 3))[-1]
        assert f.feed.ring.head == 2, "else the page wasn't ahead of the feed"
        assert last.sequences[-1] == last.through == last.head == 3


async def test_a_reader_that_comes_back_to_the_head_is_told_each_time() -> None:
    async with running_feed(limits=SMALL) as f:
        subscription = await f.watch()
        assert (await take(subscription)).caught_up_sequence == 0
        f.log.append(make_event())
        assert (await take(subscription)).caught_up_sequence is None
        for _ in range(5):
            f.log.append(*[make_event() for _ in range(4)])
            await f.settled()
        told = []
        while subscription.cursor < 21:
            told.append((await take(subscription)).caught_up_sequence)
        assert told[-1] == 21
        assert told[:-1] == [None] * (len(told) - 1)


async def test_a_slow_reader_doesnt_hold_up_the_others() -> None:
    async with running_feed(limits=SMALL) as f:
        slow, fast = await f.watch(), await f.watch()
        got: list[int] = []
        for number in range(1, 31):
            f.log.append(make_event(number=number))
            await f.settled()
            while not got or got[-1] < number:
                got += (await message(fast)).sequences
        assert got == list(range(1, 31))
        assert slow.cursor == 0


async def test_the_ring_and_the_groups_stay_bounded_under_readers_that_dont_read() -> None:
    async with running_feed(limits=SMALL) as f:
        stalled = [await f.watch(), await f.watch(KALSHI)]
        for _ in range(50):
            f.log.append(*[make_event() for _ in range(5)])
            await f.settled()
        assert f.feed.ring.head - f.feed.ring.base <= SMALL.ring_entries
        for subscription in stalled:
            group = subscription._group
            assert group is not None
            assert len(group.after(0, 1_000)) <= SMALL.ring_entries


async def test_each_event_is_encoded_once_for_any_number_of_subscribers() -> None:
    async with running_feed() as f:
        encoded: list[int] = []
        fragments = f.feed.codec.fragments
        f.feed.codec.fragments = lambda event: encoded.append(event.sequence) or fragments(event)  # type: ignore[method-assign,func-returns-value]  # counts
        subscriptions = [await f.watch() for _ in range(20)]
        f.log.append(make_event(), make_event())
        await f.settled()
        for subscription in subscriptions:
            await messages_until(subscription, 2)
        assert encoded == [1, 2]


async def test_subscribers_at_the_same_place_share_the_bytes_of_a_message() -> None:
    async with running_feed() as f:
        one, two = await f.watch(), await f.watch()
        await take(one), await take(two)
        f.log.append(make_event())
        await f.settled()
        assert (await take(one)).batch is (await take(two)).batch


async def test_the_views_differ_for_one_filter() -> None:
    async with running_feed() as f:
        basic, full = await f.watch(), await f.watch(view=View.FULL)
        f.log.append(make_event())
        await f.settled()
        assert (await messages_until(basic, 1))[-1].view == "basic"
        assert (await messages_until(full, 1))[-1].view == "full"


# --- starts -----------------------------------------------------------------------------------------------------------


async def test_a_token_resumes_strictly_after_its_message() -> None:
    async with running_feed(limits=SMALL) as f:
        f.log.append(*[make_event() for _ in range(20)])
        await f.settled()
        first = await f.watch(start=f.after(4))
        found = [await message(first), await message(first)]
        first.close()
        token = found[-1].token
        assert token is not None
        second = await f.watch(start=resume(token))
        found += await messages_until(second, 20)
        assert_continuous(found, start=4)
        assert [s for m in found for s in m.sequences] == list(range(5, 21))


async def test_a_position_goes_with_any_filter() -> None:
    async with running_feed() as f:
        f.log.append(make_event(), make_event(markets=("polymarket:0x1",)), make_event())
        await f.settled()
        found = await messages_until(await f.watch(KALSHI, f.after(1)), 3)
        assert [s for m in found for s in m.sequences] == [3]


async def test_a_position_that_another_process_has_seen_already_is_waited_for() -> None:
    async with running_feed() as f:
        f.log.append(*[make_event() for _ in range(3)])
        f.feed._wake.clear()
        ahead = await f.watch(start=f.after(3))
        first = await message(ahead)
        assert (first.after, first.through, first.head) == (3, 3, 3)
        await f.settled()
        f.log.append(make_event())
        assert (await messages_until(ahead, 4))[-1].sequences == [4]


async def test_a_trimmed_start_is_out_of_range_and_says_where_to_restart() -> None:
    log = MemorySignalLog()
    log.append(*[make_event() for _ in range(20)])
    log.trim(11)
    async with running_feed(log) as f:
        with pytest.raises(OutOfRange) as raised:
            await f.watch(start=f.after(9))
        assert raised.value.reason == "SIGNAL_HISTORY_TRIMMED"
        metadata = raised.value.metadata
        assert metadata["oldest_sequence"] == "11"
        assert metadata["head_sequence"] == "20"
        assert metadata["data_set_id"] == log.data_set_id
        assert metadata["oldest_create_time"] == "2025-06-15T15:06:51.000000Z"
        restarted = await f.watch(start=resume(metadata["oldest_resume_token"]))
        found = await messages_until(restarted, 20)
        assert [s for m in found for s in m.sequences] == list(range(11, 21))


async def test_the_start_just_before_the_oldest_event_is_not_trimmed() -> None:
    log = MemorySignalLog()
    log.append(*[make_event() for _ in range(20)])
    log.trim(11)
    async with running_feed(log) as f:
        found = await messages_until(await f.watch(start=f.after(10)), 20)
        assert found[-1].through == 20
        assert next(m.sequences for m in found if m.sequences)[0] == 11


async def test_a_start_ahead_of_the_log_is_out_of_range() -> None:
    async with running_feed() as f:
        f.log.append(make_event())
        await f.settled()
        with pytest.raises(OutOfRange) as raised:
            await f.watch(start=f.after(2))
        assert raised.value.reason == "RESUME_POINT_AHEAD"
        assert raised.value.metadata["head_sequence"] == "1"


async def test_a_start_of_another_data_set_is_out_of_range_and_never_a_silent_reset() -> None:
    async with running_feed() as f:
        f.log.append(make_event())
        await f.settled()
        with pytest.raises(OutOfRange) as raised:
            await f.watch(start=StartAfter("ds_bbbbbbbbbbbbbbbb", 1))
        assert raised.value.reason == "DATA_SET_CHANGED"
        assert raised.value.metadata["data_set_id"] == f.log.data_set_id


async def test_a_time_starts_with_the_first_event_at_or_after_it() -> None:
    async with running_feed() as f:
        made = f.log.append(*[make_event() for _ in range(5)])
        f.now_us = made[-1].create_time_us
        await f.settled()
        found = await messages_until(await f.watch(start=StartAtTime(made[2].create_time_us)), 5)
        assert [s for m in found for s in m.sequences] == [3, 4, 5]


async def test_a_time_in_the_future_is_refused() -> None:
    async with running_feed() as f:
        with pytest.raises(InvalidArgument, match=r"start\.start_time"):
            await f.watch(start=StartAtTime(f.now_us + 60_000_000))


async def test_a_time_before_the_retention_window_is_out_of_range() -> None:
    log = MemorySignalLog()
    made = log.append(*[make_event() for _ in range(20)])
    log.trim(11)
    async with running_feed(log) as f:
        f.now_us = made[-1].create_time_us
        with pytest.raises(OutOfRange) as raised:
            await f.watch(start=StartAtTime(made[9].create_time_us))
        assert raised.value.reason == "SIGNAL_HISTORY_TRIMMED"


async def test_a_snapshot_gives_the_active_opportunities_and_goes_on_without_a_gap() -> None:
    log = MemorySignalLog()
    made = log.append(*[make_event(number=n) for n in range(10)])
    log.active = [made[1], made[3], made[4], made[8]]
    async with running_feed(log, limits=SMALL) as f:
        subscription = await f.watch(start=StartWithActive())
        f.log.append(make_event())
        await f.settled()
        first, second, third = await take(subscription), await take(subscription), await take(subscription)
        assert first.snapshot is not None
        assert second.snapshot is not None
        assert (first.snapshot.complete, second.snapshot.complete, third.snapshot) == (False, True, None)
        read = [read_message(d.batch) for d in (first, second, third)]
        assert [m.sequences for m in read] == [[2, 4, 5], [9], [11]]
        assert [(m.after, m.through) for m in read] == [(10, 10), (10, 10), (10, 11)]
        # A client that was cut in the middle of a snapshot has to take it again.
        assert read[0].token is None
        assert read[1].token is not None
        assert first.started is not None
        assert first.started.start_sequence == 10


async def test_starts_that_come_together_share_a_snapshot_and_miss_nothing_after_it() -> None:
    log = MemorySignalLog()
    made = log.append(make_event(), make_event())
    log.active = [made[0]]
    async with running_feed(log) as f:
        first = await f.watch(start=StartWithActive())
        log.append(make_event())
        log.active.append(log.events[-1])
        await f.settled()
        second = await f.watch(start=StartWithActive())
        for subscription in (first, second):
            found = await messages_until(subscription, 3)
            assert [m.sequences for m in found] == [[1], [3]]


async def test_a_stream_that_ends_before_its_first_message_ends_with_its_status_alone() -> None:
    async with running_feed() as f:
        subscription = await f.watch()
        await f.registry.close(1_000, within_s=0)
        deliveries, error = await ending(subscription)
        assert deliveries == []
        assert error.reason == "DRAINING"


async def test_an_empty_snapshot_says_that_it_is_complete() -> None:
    async with running_feed() as f:
        first = await take(await f.watch(start=StartWithActive()))
        assert first.snapshot is not None
        assert first.snapshot.complete


async def test_expired_offers_are_left_out_where_asked_and_ends_are_not() -> None:
    async with running_feed() as f:
        f.log.append(
            make_event(expire_time_us=START_US - 1),
            make_event(SignalEventType.REVISED, expire_time_us=START_US - 1),
            make_event(SignalEventType.EXPIRED, expire_time_us=START_US - 1),
            make_event(SignalEventType.GRADED, expire_time_us=START_US - 1),
            make_event(expire_time_us=START_US + 1),
        )
        await f.settled()
        found = await messages_until(await f.watch(start=f.after(0), skip_expired=True), 5)
        assert [s for m in found for s in m.sequences] == [3, 4, 5]
        assert_continuous(found, start=0)
        everything = await messages_until(await f.watch(start=f.after(0)), 5)
        assert [s for m in everything for s in m.sequences] == [1, 2, 3, 4, 5]


async def test_expired_offers_are_left_out_of_the_backlog_too() -> None:
    log = MemorySignalLog()
    log.append(*[make_event(expire_time_us=START_US + (-1 if n % 2 else 1)) for n in range(30)])
    async with running_feed(log, limits=SMALL) as f:
        subscription = await f.watch(start=f.after(0), skip_expired=True)
        found = await messages_until(subscription, 30)
        assert [s for m in found for s in m.sequences] == list(range(1, 31, 2))
        assert_continuous(found, start=0)


async def test_simulated_and_replayed_signals_come_only_when_asked_for() -> None:
    async with running_feed() as f:
        f.log.append(
            make_event(), make_event(origin=DataOrigin.SIMULATED), make_event(origin=DataOrigin.REPLAY), make_event()
        )
        await f.settled()

        async def seen(where: SignalFilter) -> list[int]:
            found = await messages_until(await f.watch(where, f.after(0)), 4)
            return [s for m in found for s in m.sequences]

        assert await seen(EVERYTHING) == [1, 4]
        assert await seen(SignalFilter(include_simulated=True)) == [1, 2, 4]
        assert await seen(SignalFilter(include_replay=True)) == [1, 3, 4]


# --- signs of life and feed states ------------------------------------------------------------------------------------


async def test_a_quiet_stream_gets_heartbeats_that_carry_the_place() -> None:
    async with running_feed() as f:
        f.log.append(make_event(), make_event())
        await f.settled()
        subscription = await f.watch(KALSHI, heartbeat_s=0.2)
        await take(subscription)
        beat = await take(subscription)
        assert beat.heartbeat
        read = read_message(beat.batch)
        assert (read.sequences, read.after, read.through, read.head) == ([], 2, 2, 2)
        assert read.token is not None


async def test_a_heartbeat_moves_a_filtered_reader_to_the_head() -> None:
    async with running_feed() as f:
        subscription = await f.watch(SignalFilter(kinds=("arb.event_sum",)), heartbeat_s=0.3)
        await take(subscription)
        f.log.append(make_event(), make_event())
        await f.settled()
        beat = await take(subscription)
        read = read_message(beat.batch)
        assert beat.heartbeat
        assert (read.after, read.through) == (0, 2)


async def test_a_heartbeat_is_skipped_after_data() -> None:
    async with running_feed() as f:
        subscription = await f.watch(heartbeat_s=1.0)
        await take(subscription)
        for _ in range(15):
            f.log.append(make_event())
            assert not (await take(subscription)).heartbeat
            await asyncio.sleep(0.1)  # data at ten a second, for longer than the interval
        assert (await take(subscription)).heartbeat


async def test_heartbeats_go_on_while_the_database_is_away_and_reading_resumes() -> None:
    async with running_feed() as f:
        subscription = await f.watch(heartbeat_s=0.2)
        await take(subscription)
        f.log.down = True
        f.log.append(make_event())
        beats = [await take(subscription) for _ in range(3)]
        assert all(b.heartbeat and read_message(b.batch).head == 0 for b in beats)
        assert f.observer.failures > 0
        f.log.down = False
        found = await messages_until(subscription, 1)
        assert [s for m in found for s in m.sequences] == [1]


async def test_heartbeats_go_on_while_a_backlog_is_read() -> None:
    log = MemorySignalLog()
    log.append(*[make_event() for _ in range(40)])
    async with running_feed(log, limits=SMALL) as f:
        f.log.open_for_reads.clear()
        subscription = await f.watch(start=f.after(0), heartbeat_s=0.2)
        assert (await take(subscription)).started is not None
        assert (await take(subscription)).heartbeat
        f.log.open_for_reads.set()
        found = await messages_until(subscription, 40)
        assert [s for m in found for s in m.sequences] == list(range(1, 41))


async def test_the_state_of_each_venue_comes_at_the_start_and_on_each_change() -> None:
    log = MemorySignalLog()
    log.statuses = [status(FeedState.LIVE), status(FeedState.DOWN, Venue.POLYMARKET)]
    async with running_feed(log) as f:
        while not f.statuses.version:
            await asyncio.sleep(0)
        subscription = await f.watch()
        assert len((await take(subscription)).statuses) == 2
        log.statuses[0] = status(FeedState.GAP, epoch=2, change_time_us=START_US + 1)
        pushed = await take(subscription)
        assert [(s.venue, s.state, s.epoch) for s in pushed.statuses] == [(Venue.KALSHI, FeedState.GAP, 2)]


async def test_a_receive_time_that_moves_is_not_a_change() -> None:
    log = MemorySignalLog()
    log.statuses = [status(FeedState.LIVE)]
    async with running_feed(log) as f:
        while not f.statuses.version:
            await asyncio.sleep(0)
        version = f.statuses.version
        log.statuses = [FeedStatus(Venue.KALSHI, FeedState.LIVE, START_US + 5, 1, START_US)]
        while f.statuses.since(0, frozenset(), False)[0].last_receive_time_us != START_US + 5:
            await asyncio.sleep(0.01)
        assert f.statuses.version == version


async def test_a_stream_hears_of_its_venues_alone_and_of_the_simulated_one_when_asked() -> None:
    log = MemorySignalLog()
    log.statuses = [status(FeedState.LIVE, v) for v in (Venue.KALSHI, Venue.POLYMARKET, Venue.SIMULATED)]
    async with running_feed(log) as f:
        while not f.statuses.version:
            await asyncio.sleep(0)

        async def venues(where: SignalFilter) -> list[Venue]:
            return [s.venue for s in (await take(await f.watch(where))).statuses]

        assert await venues(KALSHI) == [Venue.KALSHI]
        assert await venues(EVERYTHING) == [Venue.KALSHI, Venue.POLYMARKET]
        assert await venues(SignalFilter(include_simulated=True)) == [Venue.KALSHI, Venue.POLYMARKET, Venue.SIMULATED]


async def test_another_venues_change_doesnt_break_the_proof_of_a_filtered_stream() -> None:
    log = MemorySignalLog()
    async with running_feed(log) as f:
        subscription = await f.watch(KALSHI)
        found = [await message(subscription)]
        waiting = asyncio.create_task(message(subscription))
        f.log.append(make_event(markets=("polymarket:0x1",)))
        await f.settled()
        log.statuses = [status(FeedState.DOWN, Venue.POLYMARKET)]
        while not f.statuses.version:
            await asyncio.sleep(0.005)
        f.log.append(make_event())
        found.append(await waiting)
        assert_continuous(found, start=0)
        assert found[-1].sequences == [2]


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_a_drain_announces_itself_and_ends_each_stream_with_unavailable() -> None:
    async with running_feed() as f:
        subscriptions = [await f.watch() for _ in range(3)]
        for subscription in subscriptions:
            await take(subscription)
        draining = asyncio.create_task(f.registry.close(1_000_000, within_s=5))
        for subscription in subscriptions:
            deliveries, error = await ending(subscription)
            subscription.close()
            assert [d.closing.reason for d in deliveries if d.closing] == ["DRAINING"]
            assert isinstance(error, Unavailable)
            assert error.reason == "DRAINING"
            assert 500_000 <= error.retry_after_us <= 1_500_000
        assert await draining
        with pytest.raises(Unavailable) as raised:
            await f.watch()
        assert raised.value.reason == "DRAINING"


async def test_a_closing_message_carries_the_token_to_resume_from() -> None:
    async with running_feed() as f:
        f.log.append(make_event())
        await f.settled()
        subscription = await f.watch(start=f.after(0))
        await messages_until(subscription, 1)
        await f.registry.close(1, within_s=0)
        closing = await take(subscription)
        read = read_message(closing.batch)
        assert (read.after, read.through) == (1, 1)
        assert parse_token(read.token or "").sequence == 1


async def test_a_drain_doesnt_wait_for_ever_for_a_client_that_doesnt_read() -> None:
    async with running_feed() as f:
        await f.watch()
        assert not await f.registry.close(1, within_s=0.05)


async def test_a_stream_ends_at_its_maximum_age() -> None:
    async with running_feed(stream_limits=StreamLimits(maximum_age_s=0.3)) as f:
        subscription = await f.watch()
        deliveries, error = await ending(subscription)
        assert deliveries[-1].closing is not None
        assert deliveries[-1].closing.reason == "STREAM_AGE_REACHED"
        assert isinstance(error, Unavailable)
        subscription.close()
        assert f.observer.ended == ["stream_age"]


async def test_ages_are_jittered() -> None:
    async with running_feed() as f:
        ages = {(await f.watch()).age_end_s for _ in range(20)}
        assert max(ages) - min(ages) > 60


async def test_a_change_of_the_data_set_ends_the_streams_and_says_where_to_restart() -> None:
    async with running_feed() as f:
        f.log.append(*[make_event() for _ in range(9)])
        await f.settled()
        subscription = await f.watch()
        await take(subscription)
        f.log.data_set_id = "ds_cccccccccccccccc"
        del f.log.events[4:]
        _, error = await ending(subscription)
        assert isinstance(error, OutOfRange)
        assert error.reason == "DATA_SET_CHANGED"
        assert error.metadata["data_set_id"] == "ds_cccccccccccccccc"
        assert error.metadata["head_sequence"] == "4"
        again = await f.watch(start=resume(error.metadata["oldest_resume_token"]))
        found = await messages_until(again, 4)
        assert [s for m in found for s in m.sequences] == [1, 2, 3, 4]


async def test_history_trimmed_under_a_reader_ends_its_stream_instead_of_skipping() -> None:
    log = MemorySignalLog()
    log.append(*[make_event() for _ in range(60)])
    async with running_feed(log, limits=SMALL) as f:
        subscription = await f.watch(start=f.after(0))
        found = [await message(subscription) for _ in range(3)]
        log.trim(40)
        deliveries, error = await ending(subscription)
        found += [read_message(d.batch) for d in deliveries]
        assert error.reason == "SIGNAL_HISTORY_TRIMMED"
        assert error.metadata["oldest_sequence"] == "40"
        seen = [s for m in found for s in m.sequences]
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) < 40


async def test_a_hole_in_the_log_is_waited_for_and_never_skipped() -> None:
    async with running_feed() as f:
        subscription = await f.watch()
        await take(subscription)
        made = f.log.append(*[make_event() for _ in range(4)])
        del f.log.events[1]
        f.feed.wake()
        while not f.observer.failures:
            await asyncio.sleep(0.005)
        assert subscription.cursor == 0 or subscription.cursor == 1
        f.log.events.insert(1, made[1])
        found = await messages_until(subscription, 4)
        assert [s for m in found for s in m.sequences] == [1, 2, 3, 4]


async def test_a_start_before_the_log_was_read_is_unavailable() -> None:
    log = MemorySignalLog()
    async with running_feed(log) as f:
        f.feed.ready.clear()
        with pytest.raises(Unavailable):
            await f.watch(start=StartNow())


# --- slow subscribers -------------------------------------------------------------------------------------------------


async def test_a_subscriber_stuck_for_thirty_seconds_is_cut_with_its_token_and_resumes_exactly() -> None:
    async with running_feed(limits=SMALL) as f:
        slow = await f.watch()
        seen = (await message(slow)).sequences
        f.log.append(*[make_event() for _ in range(20)])
        await f.settled()
        seen += (await message(slow)).sequences  # in this write it gets stuck
        now = asyncio.get_running_loop().time()
        f.registry.wheel_time_s = 1_000.0
        slow.visit(now)
        f.registry.wheel_time_s = 1_029.0
        slow.visit(now)
        assert not slow.ended
        f.registry.wheel_time_s = 1_030.0
        slow.visit(now)
        assert slow.ended
        assert f.feed._groups.__len__() == 0  # out of the feed while it is still stuck
        deliveries, error = await ending(slow)
        assert deliveries[-1].closing is not None
        assert deliveries[-1].closing.reason == "SLOW_CONSUMER"
        assert error.reason == "SLOW_CONSUMER"
        resumed = await f.watch(start=resume(error.metadata["resume_token"]))
        found = await messages_until(resumed, 20)
        assert seen + [s for m in found for s in m.sequences] == list(range(1, 21))
        slow.close()
        assert f.observer.ended == ["slow_consumer"]


async def test_a_subscriber_that_comes_nearer_to_the_head_is_left_alone() -> None:
    async with running_feed(limits=SMALL) as f:
        slow = await f.watch()
        await message(slow)
        f.log.append(*[make_event() for _ in range(20)])
        await f.settled()
        now = asyncio.get_running_loop().time()
        for second in range(0, 240, 20):
            f.registry.wheel_time_s = float(second)
            slow.visit(now)
            if second % 40 == 0:
                await message(slow) if slow.cursor < 20 else f.log.append(make_event())
        assert not slow.ended


async def test_a_reader_that_waits_for_the_feed_is_never_called_slow() -> None:
    log = MemorySignalLog()
    log.append(*[make_event() for _ in range(40)])
    async with running_feed(log, limits=SMALL) as f:
        log.open_for_reads.clear()
        subscription = await f.watch(start=f.after(0))
        await take(subscription)
        waiting = asyncio.create_task(take(subscription))
        await asyncio.sleep(0)
        now = asyncio.get_running_loop().time()
        for second in range(100):
            f.registry.wheel_time_s = float(second)
            subscription.visit(now)
        assert not subscription.ended
        log.open_for_reads.set()
        await waiting


async def test_a_quiet_subscriber_is_never_slow_however_far_the_head_moved() -> None:
    async with running_feed(limits=SMALL) as f:
        quiet = await f.watch(SignalFilter(kinds=("arb.event_sum",)))
        await take(quiet)
        now = asyncio.get_running_loop().time()
        for second in range(0, 120, 10):
            f.log.append(*[make_event() for _ in range(5)])
            await f.settled()
            f.registry.wheel_time_s = float(second)
            quiet.visit(now)
        assert not quiet.ended


async def test_readers_of_the_same_history_share_the_reads() -> None:
    log = MemorySignalLog()
    log.append(*[make_event() for _ in range(40)])
    async with running_feed(log, limits=SMALL) as f:
        readers = [await f.watch(start=f.after(0)) for _ in range(10)]
        await asyncio.gather(*(messages_until(r, 40) for r in readers))
        assert f.observer.backlog_pages <= 12
        assert f.observer.behind == 0


async def test_a_closed_subscription_leaves_nothing_behind() -> None:
    log = MemorySignalLog()
    log.append(*[make_event() for _ in range(40)])
    async with running_feed(log, limits=SMALL) as f:
        for start in (f.after(0), StartNow(), StartWithActive()):
            subscription = await f.watch(KALSHI, start)
            await take(subscription)
            subscription.close()
            subscription.close()
        assert len(f.registry) == 0
        assert len(f.feed._groups) == 0
        assert f.observer.behind == 0
        assert f.observer.ended == ["client"] * 3


async def test_a_refused_start_leaves_nothing_behind() -> None:
    async with running_feed() as f:
        with pytest.raises(OutOfRange):
            await f.watch(start=f.after(100))
        assert len(f.registry) == 0
