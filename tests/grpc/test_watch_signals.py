"""WatchSignals and WatchQuotes over a real channel, through the whole chain."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest

from oddstream.client import AsyncClient
from oddstream.v1 import (
    error_reason_pb2,
    feed_status_pb2,
    market_service_pb2,
    signal_pb2,
    signal_service_pb2,
    venue_pb2,
)
from oddstream_server.application.ports import Decision, Lease
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import FeedState, FeedStatus
from oddstream_server.domain.signal import DataOrigin, Evidence, SignalEvent, SignalEventType
from oddstream_server.feed.live_feeds import LiveFeeds
from oddstream_server.feed.signals.batches import BatchLimits
from oddstream_server.feed.signals.feed import FeedLimits
from oddstream_server.feed.streams import StreamLimits
from oddstream_server.storage.database import Database
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from oddstream_server.storage.tick_store.ticks import TickStore
from oddstream_server.transport.converters.streams import QuoteWireCodec, SignalWireCodec
from oddstream_server.transport.streams import QuoteStreams, SignalStreams
from tests.feed.memory_log import START_US, MemorySignalLog, make_event
from tests.feed.running_feed import RunningFeed, running_feed
from tests.grpc.running_server import Failure, Running, World, failure_of, now_us, read_failure, running
from tests.grpc.stored_world import MARKET, T0, market, quotes, signal

Request = signal_service_pb2.WatchSignalsRequest
Start = signal_service_pb2.WatchSignalsStart
Message = signal_service_pb2.WatchSignalsResponse


@dataclass
class Wire:
    f: RunningFeed
    server: Running

    def watch(self, request: signal_service_pb2.WatchSignalsRequest | None = None) -> Any:
        return self.server.signals.WatchSignals(request or Request(), metadata=self.server.auth)


@asynccontextmanager
async def wire(
    log: MemorySignalLog | None = None, limits: FeedLimits | None = None, stream_limits: StreamLimits | None = None
) -> AsyncIterator[Wire]:
    """The real server over a log in memory."""
    async with running_feed(log, limits, stream_limits, SignalWireCodec()) as f:

        async def close_streams() -> None:
            await f.registry.close(1_000_000, within_s=2)

        world = World(watch_signals=SignalStreams(f.feed, now_us).watch, close_streams=close_streams)
        async with running(world) as server:
            yield Wire(f, server)


async def read(call: Any) -> signal_service_pb2.WatchSignalsResponse:
    async with asyncio.timeout(10):
        answer = await call.read()
    assert answer is not grpc.aio.EOF
    assert isinstance(answer, Message)
    return answer


async def read_until(call: Any, through: int) -> list[signal_service_pb2.WatchSignalsResponse]:
    found = [await read(call)]
    while found[-1].through_sequence < through:
        found.append(await read(call))
    return found


async def rest_of(call: Any) -> tuple[list[signal_service_pb2.WatchSignalsResponse], Failure]:
    """What a stream that is being read still brings, and how it ends."""
    found = []
    try:
        while True:
            found.append(await read(call))
    except grpc.aio.AioRpcError as error:
        return found, read_failure(error)


def sequences(messages: list[signal_service_pb2.WatchSignalsResponse]) -> list[int]:
    return [e.sequence for m in messages for e in m.events]


def after(sequence: int, data_set_id: str = "ds_aaaaaaaaaaaaaaaa") -> signal_service_pb2.WatchSignalsStart:
    return Start(position=signal_service_pb2.LogPosition(data_set_id=data_set_id, sequence=sequence))


async def test_the_first_message_tells_the_terms() -> None:
    log = MemorySignalLog()
    log.append(make_event())
    log.statuses = [FeedStatus(Venue.KALSHI, FeedState.LIVE, START_US, 1, START_US)]
    async with wire(log) as w:
        while not w.f.statuses.version:
            await asyncio.sleep(0.001)
        request = Request(view=signal_pb2.SIGNAL_VIEW_FULL)
        request.heartbeat_interval.FromSeconds(20)
        before = now_us()
        first = await read(w.watch(request))
        assert first.started.data_set_id == log.data_set_id
        assert (first.started.start_sequence, first.started.oldest_sequence) == (1, 1)
        assert first.started.view == signal_pb2.SIGNAL_VIEW_FULL
        assert first.started.heartbeat_interval.ToSeconds() == 20
        assert first.started.end_time.ToMicroseconds() > START_US
        assert first.caught_up.sequence == 1
        assert (first.after_sequence, first.through_sequence, first.head_sequence) == (1, 1, 1)
        assert before <= first.send_time.ToMicroseconds() <= now_us()
        assert [s.state for s in first.feed_statuses] == [feed_status_pb2.FEED_STATE_LIVE]
        assert first.resume_token
        assert not first.HasField("heartbeat")
        assert not first.HasField("closing")
        assert not first.HasField("snapshot")


async def test_joined_entries_are_the_message_that_one_serialisation_would_make() -> None:
    async with wire() as w:
        evidence = (Evidence("mean_micros", 380_000, "micros", "derived"),)
        made = [make_event(number=n) for n in range(5)]
        made = [replace(e, signal=replace(e.signal, evidence=evidence)) for e in made]
        w.f.log.append(*made)
        await w.f.settled()
        full = await read_until(w.watch(Request(start=after(0), view=signal_pb2.SIGNAL_VIEW_FULL)), 5)
        basic = await read_until(w.watch(Request(start=after(0))), 5)
        for messages, evidences in ((full, 1), (basic, 0)):
            assert sequences(messages) == [1, 2, 3, 4, 5]
            for m in messages:
                assert Message.FromString(m.SerializeToString()) == m
                assert all(len(e.signal.evidence) == evidences for e in m.events)
                assert all(e.signal.legs[0].market_id == "kalshi:KXA-1" for e in m.events)


async def test_a_stream_resumes_by_its_token_over_many_connections_without_loss() -> None:
    limits = FeedLimits(ring_entries=16, preloaded_entries=4, poll_s=0.02, batch=BatchLimits(entries=3))
    async with wire(limits=limits) as w:
        request = Request(start=after(0))
        got: list[int] = []
        through = 0
        for round_number in range(30):
            w.f.log.append(*[make_event(number=n) for n in range(7)])
            await w.f.settled()
            call = w.watch(request)
            for _ in range(1 + round_number % 4):
                message = await read(call)
                assert message.after_sequence == through
                through = message.through_sequence
                got += [e.sequence for e in message.events]
                request = Request(start=Start(resume_token=message.resume_token))
            call.cancel()
        call = w.watch(request)
        got += sequences(await read_until(call, 210))
        assert got == list(range(1, 211))


async def test_a_token_of_another_filter_is_refused_and_the_text_names_the_other_way() -> None:
    async with wire() as w:
        token = (await read(w.watch())).resume_token
        other = Request(filter=signal_pb2.SignalFilter(kinds=["arb.event_sum"]), start=Start(resume_token=token))
        failure = await failure_of(w.watch(other))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert failure.reason == "RESUME_TOKEN_FILTER_MISMATCH"
        assert "(data_set_id, sequence)" in failure.fields["start.resume_token"]
        same = Request(start=Start(resume_token=token), view=signal_pb2.SIGNAL_VIEW_FULL, skip_expired=True)
        assert (await read(w.watch(same))).started.start_sequence == 0


@pytest.mark.parametrize("token", ["garbage!", "AAAA", "x" * 512])
async def test_a_garbage_token_is_refused(token: str) -> None:
    async with wire() as w:
        failure = await failure_of(w.watch(Request(start=Start(resume_token=token))))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID")
        assert "start.resume_token" in failure.fields


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (after(3), "SIGNAL_HISTORY_TRIMMED"),
        (after(99), "RESUME_POINT_AHEAD"),
        (after(7, "ds_bbbbbbbbbbbbbbbb"), "DATA_SET_CHANGED"),
    ],
)
async def test_a_point_outside_of_the_log_says_where_to_restart(
    start: signal_service_pb2.WatchSignalsStart, reason: str
) -> None:
    log = MemorySignalLog()
    log.append(*[make_event(number=n) for n in range(9)])
    log.trim(5)
    async with wire(log) as w:
        failure = await failure_of(w.watch(Request(start=start)))
        assert (failure.code, failure.reason) == (grpc.StatusCode.OUT_OF_RANGE, reason)
        assert failure.metadata["data_set_id"] == log.data_set_id
        assert failure.metadata["oldest_sequence"] == "5"
        assert failure.metadata["head_sequence"] == "9"
        assert failure.metadata["oldest_create_time"].endswith("Z")
        token = failure.metadata["oldest_resume_token"]
        assert sequences(await read_until(w.watch(Request(start=Start(resume_token=token))), 9)) == [5, 6, 7, 8, 9]


async def test_a_start_in_the_future_is_refused() -> None:
    async with wire() as w:
        start = Start()
        start.start_time.FromSeconds(int(time.time()) + 3600)
        failure = await failure_of(w.watch(Request(start=start)))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert list(failure.fields) == ["start.start_time"]


async def test_a_snapshot_is_marked_and_goes_on_as_a_stream() -> None:
    log = MemorySignalLog()
    made = log.append(*[make_event(number=n) for n in range(4)])
    log.active = [made[1], made[2]]
    async with wire(log) as w:
        call = w.watch(Request(start=Start(active_snapshot=signal_service_pb2.StartWithActive())))
        first = await read(call)
        assert (first.snapshot.as_of_sequence, first.snapshot.complete) == (4, True)
        assert [e.sequence for e in first.events] == [2, 3]
        assert (first.after_sequence, first.through_sequence) == (4, 4)
        w.f.log.append(make_event())
        assert sequences(await read_until(call, 5)) == [5]


async def test_a_heartbeat_says_how_long_the_next_message_may_take() -> None:
    async with wire() as w:
        request = Request()
        request.heartbeat_interval.FromSeconds(1)
        call = w.watch(request)
        await read(call)
        began = time.monotonic()
        beat = await read(call)
        assert beat.HasField("heartbeat")
        assert beat.heartbeat.next_within.ToMilliseconds() == 1100
        assert 0.7 <= time.monotonic() - began <= 1.4
        assert beat.resume_token


@pytest.mark.parametrize("seconds", [0, 61])
async def test_a_heartbeat_interval_outside_of_its_range_is_refused(seconds: int) -> None:
    async with wire() as w:
        request = Request()
        request.heartbeat_interval.FromSeconds(seconds)
        failure = await failure_of(w.watch(request))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert list(failure.fields) == ["heartbeat_interval"]


async def test_a_drain_says_closing_and_ends_with_unavailable() -> None:
    async with wire() as w:
        call = w.watch()
        await read(call)
        draining = asyncio.create_task(w.server.server.drain(0, 2))
        closing = await read(call)
        assert closing.closing.reason == error_reason_pb2.ERROR_REASON_DRAINING
        assert 500 <= closing.closing.retry_delay.ToMilliseconds() <= 1500
        assert closing.resume_token
        nothing, failure = await rest_of(call)
        assert nothing == []
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert "grpc-retry-pushback-ms" in failure.trailers
        await draining


async def test_a_stream_of_the_maximum_age_says_closing_and_ends_with_unavailable() -> None:
    async with wire(stream_limits=StreamLimits(maximum_age_s=0.3)) as w:
        call = w.watch()
        await read(call)
        closing = await read(call)
        assert closing.closing.reason == error_reason_pb2.ERROR_REASON_STREAM_AGE_REACHED
        nothing, failure = await rest_of(call)
        assert nothing == []
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STREAM_AGE_REACHED")


async def test_a_client_that_leaves_leaves_nothing_behind() -> None:
    async with wire() as w:
        calls = [w.watch() for _ in range(5)]
        for call in calls:
            await read(call)
        for call in calls:
            call.cancel()
        async with asyncio.timeout(5):
            while len(w.f.registry):
                await asyncio.sleep(0.005)
        assert len(w.f.feed._groups) == 0
        assert w.f.observer.ended == ["client"] * 5


async def test_a_client_that_stops_reading_is_cut_with_its_token_and_resumes_exactly() -> None:
    # Large events fill the transport's buffers, so that the handler gets stuck in a write.
    limits = FeedLimits(ring_entries=8, ring_bytes=1 << 30, preloaded_entries=0, poll_s=0.02)
    evidence = tuple(Evidence("x" * 200, n, "count", "derived") for n in range(1_000))
    event = make_event()
    large = replace(event, signal=replace(event.signal, evidence=evidence))
    async with wire(limits=limits, stream_limits=StreamLimits(slow_after_s=1.0)) as w:
        request = Request(start=after(0), view=signal_pb2.SIGNAL_VIEW_FULL)
        stuck, fast = w.watch(request), w.watch()
        got = sequences([await read(stuck)])
        seen_by_fast: list[int] = []
        while not any(s.ended for s in w.f.registry):
            w.f.log.append(large)
            await w.f.settled()
            seen_by_fast += sequences(await read_until(fast, len(w.f.log.events)))
            await asyncio.sleep(0.02)  # events at fifty a second
        assert seen_by_fast == list(range(1, len(w.f.log.events) + 1))
        messages, failure = await rest_of(stuck)
        got += sequences(messages)
        last = messages[-1]
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOW_CONSUMER")
        assert failure.metadata["resume_token"] == last.resume_token
        assert last.closing.reason == error_reason_pb2.ERROR_REASON_SLOW_CONSUMER
        head = len(w.f.log.events)
        assert got == list(range(1, len(got) + 1))
        assert len(got) < head
        rest = w.watch(Request(start=Start(resume_token=last.resume_token), view=signal_pb2.SIGNAL_VIEW_FULL))
        assert got + sequences(await read_until(rest, head)) == list(range(1, head + 1))


async def test_a_revoked_key_ends_its_open_streams_within_five_seconds() -> None:
    async with wire() as w:
        request = Request()
        request.heartbeat_interval.FromSeconds(1)
        call = w.watch(request)
        await read(call)
        key_id = w.server.key.key.key_id
        keys = w.server.world.keys.keys
        keys[key_id] = replace(keys[key_id], revoke_time_us=now_us())
        began = time.monotonic()
        _, failure = await rest_of(call)
        assert time.monotonic() - began <= 5
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REVOKED")
        assert len(w.f.registry) == 0


async def test_the_client_library_follows_over_streams_that_end_again_and_again() -> None:
    limits = FeedLimits(ring_entries=16, preloaded_entries=0, poll_s=0.02, batch=BatchLimits(entries=3))
    async with wire(limits=limits, stream_limits=StreamLimits(maximum_age_s=0.15, age_retry_delay_us=10_000)) as w:
        client = AsyncClient(f"127.0.0.1:{w.server.port}", api_key=w.server.key.key.text)
        watch = client.watch_signals(start=after(0))

        async def publish() -> None:
            for number in range(150):
                w.f.log.append(*[make_event(number=number) for _ in range(2)])
                w.f.feed.wake()
                await asyncio.sleep(0.01)  # for ten ages of a stream

        publishing = asyncio.create_task(publish())
        got: list[int] = []
        async with asyncio.timeout(30):
            while len(got) < 300:
                got.append((await anext(watch)).sequence)
        await publishing
        assert got == list(range(1, 301))
        assert watch.cursor.reconnects >= 3
        await watch.aclose()
        await client.close()


# --- over PostgreSQL --------------------------------------------------------------------------------------------------


@dataclass
class Stored:
    server: Running
    feeds: LiveFeeds
    pipeline: PostgresPipelineStore
    lease: Lease
    log: SignalLogStore

    async def append(self, *numbers: int, origin: DataOrigin = DataOrigin.LIVE) -> None:
        events = [SignalEvent(SignalEventType.CREATED, signal(n, origin), 625_000, 20_000) for n in numbers]
        await self.pipeline.append_events(self.lease, events)

    def watch(self, request: signal_service_pb2.WatchSignalsRequest) -> Any:
        return self.server.signals.WatchSignals(request, metadata=self.server.auth)


@pytest.fixture
async def stored(database_url: str) -> AsyncIterator[Stored]:
    database = Database(database_url)
    catalog, ticks, log = CatalogStore(database), TickStore(database), SignalLogStore(database)
    await log.mint_data_set_id()
    pipeline = PostgresPipelineStore(database, ticks)
    lease = await pipeline.acquire_lease("test", 60_000_000)
    assert lease is not None
    await pipeline.prepare_partitions(T0)
    await catalog.upsert([], [market(MARKET)], T0)
    # A poll this slow shows that it is the wake-up that brings the news.
    limits = FeedLimits(poll_s=30.0, ring_entries=64, preloaded_entries=8)
    feeds = LiveFeeds(log, ticks, catalog, SignalWireCodec(), QuoteWireCodec(), now_us, signal_limits=limits)
    running_feeds = asyncio.create_task(feeds.run())
    await feeds.ready()
    world = World(
        watch_signals=SignalStreams(feeds.signals, now_us).watch, watch_quotes=QuoteStreams(feeds.quotes, now_us).watch
    )
    try:
        async with running(world) as server:
            yield Stored(server, feeds, pipeline, lease, log)
    finally:
        running_feeds.cancel()
        await asyncio.gather(running_feeds, return_exceptions=True)
        await database.close()


async def test_a_commit_reaches_the_stream_by_its_wake_up(stored: Stored) -> None:
    call = stored.watch(Request())
    first = await read(call)
    for number in range(5):
        await stored.append(number)
        message = await read(call)
        assert [e.signal.signal_id for e in message.events] == [signal(number).signal_id]
        assert message.events[0].create_time.ToMicroseconds() <= message.send_time.ToMicroseconds()
    assert message.through_sequence == first.after_sequence + 5


async def test_history_is_read_from_the_log_and_joined_with_what_comes(stored: Stored) -> None:
    for first in range(0, 400, 50):
        await stored.append(*range(first, first + 50))
    bounds = await stored.log.bounds()
    call = stored.watch(Request(start=after(0, bounds.data_set_id)))
    got = sequences([await read(call)])
    writing = asyncio.create_task(stored.append(*range(400, 450)))
    while len(got) < 450:
        got += sequences([await read(call)])
    await writing
    assert got == list(range(1, 451))


async def test_a_time_starts_the_stream_with_the_first_event_at_or_after_it(stored: Stored) -> None:
    await stored.append(1)
    await stored.append(2)
    await stored.append(3)
    second = (await stored.log.read(1, 1))[0]
    start = Start()
    start.start_time.FromMicroseconds(second.create_time_us)
    assert sequences(await read_until(stored.watch(Request(start=start)), 3)) == [2, 3]


async def test_the_active_signals_come_as_a_snapshot(stored: Stored) -> None:
    await stored.append(1, 2, 3)
    ended = SignalEvent(SignalEventType.WITHDRAWN, signal(2), 625_000, 20_000, reason="CONDITION_ENDED")
    await stored.pipeline.append_events(stored.lease, [ended])
    call = stored.watch(Request(start=Start(active_snapshot=signal_service_pb2.StartWithActive())))
    first = await read(call)
    assert first.snapshot.complete
    assert [e.signal.signal_id for e in first.events] == [signal(1).signal_id, signal(3).signal_id]
    await stored.append(4)
    assert sequences(await read_until(call, 5)) == [5]


async def test_simulated_signals_stay_out_unless_asked_for(stored: Stored) -> None:
    await stored.append(1, origin=DataOrigin.SIMULATED)
    await stored.append(2)
    start = after(0, (await stored.log.bounds()).data_set_id)
    assert sequences(await read_until(stored.watch(Request(start=start)), 2)) == [2]
    asked = Request(start=start, include_simulated=True)
    assert sequences(await read_until(stored.watch(asked), 2)) == [1, 2]


async def test_a_change_of_a_venues_feed_reaches_the_stream_by_its_wake_up(stored: Stored) -> None:
    call = stored.watch(Request())
    await read(call)
    await stored.pipeline.save_feed_status(FeedStatus(Venue.KALSHI, FeedState.GAP, T0, 2, T0, "seq 4 is missing"))
    pushed = await read(call)
    assert [(s.venue, s.state) for s in pushed.feed_statuses] == [
        (venue_pb2.VENUE_KALSHI, feed_status_pb2.FEED_STATE_GAP)
    ]


async def test_quotes_stream_from_the_present_on(stored: Stored) -> None:
    made = quotes(6)
    await stored.pipeline.store_batch(stored.lease, made[:3], lambda _: Decision())
    request = market_service_pb2.WatchQuotesRequest(filter=market_service_pb2.QuoteWatchFilter(market_ids=[MARKET]))
    call = stored.server.markets.WatchQuotes(request, metadata=stored.server.auth)
    async with asyncio.timeout(10):
        first = await call.read()
        assert first.started.heartbeat_interval.ToSeconds() == 10
        assert [q.bid_price_micros for q in first.quotes] == [made[2].bid_price_micros]
        gap = replace(made[4], epoch=made[4].epoch + 1)
        await stored.pipeline.store_batch(stored.lease, [made[3], gap], lambda _: Decision())
        after_gap = await call.read()
    assert [q.bid_price_micros for q in after_gap.quotes] == [gap.bid_price_micros]
    assert after_gap.conflated_count == 1
    assert [(list(r.market_ids), r.epoch) for r in after_gap.resets] == [([MARKET], gap.epoch)]
