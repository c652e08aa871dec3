"""The log is one order without holes, nothing twice, and refuses whoever is no longer the leader."""

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest

from oddstream_server.application.ports import Fenced, Lease, SignalFilter, SignalListFilter, StoredSignal
from oddstream_server.domain.market import Venue
from oddstream_server.domain.signal import DataOrigin, Grade, SignalEvent, SignalEventType, SignalState
from oddstream_server.storage.database import Database
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals import appending
from oddstream_server.storage.signals.signal_log import SignalLogStore
from tests.storage.conftest import somebody_waits_for_a_lock


async def test_known_events_are_dropped_and_leave_no_hole(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease, log: SignalLogStore
) -> None:
    first = await pipeline.append_events(lease, [samples.created("a"), samples.created("b")])
    again = await pipeline.append_events(lease, [samples.created("b"), samples.created("c"), samples.created("c")])
    assert [e.sequence for e in (*first, *again)] == [1, 2, 3]
    assert [e.signal.opportunity_id for e in await log.read(0, 10)] == ["a", "b", "c"]
    assert await pipeline.append_events(lease, [samples.created("a")]) == ()
    assert (await log.bounds()).head_sequence == 3


async def test_what_was_appended_while_the_head_was_waited_for_is_known(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease, log: SignalLogStore, database: Database
) -> None:
    a, b = samples.created("a"), samples.created("b")
    await pipeline.append_events(lease, [a])
    async with database.transaction() as transaction:
        withdrawn = replace(a, type=SignalEventType.WITHDRAWN, reason="OPERATOR")
        first = await appending.append(transaction.driver, lease.epoch, [withdrawn, b])
        expired = replace(a, type=SignalEventType.EXPIRED)
        waiting = asyncio.create_task(pipeline.append_events(lease, [expired, b, samples.created("c")]))
        await somebody_waits_for_a_lock(database)
    second = await waiting
    assert [e.sequence for e in (*first, *second)] == [2, 3, 4]
    assert [e.signal.opportunity_id for e in second] == ["c"], "a was over and b known by the time of the lock"
    assert await log.read(1, 10) == [*first, *second]


async def test_a_signal_that_is_made_and_ended_by_one_append_is_in_its_last_state(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease, log: SignalLogStore
) -> None:
    a = samples.created("a")
    revised = samples.created("a", revision=2, supersedes=a.signal.signal_id)
    revised = replace(revised, type=SignalEventType.REVISED)
    withdrawn = replace(revised, type=SignalEventType.WITHDRAWN, reason="CONDITION_ENDED")
    events = await pipeline.append_events(lease, [a, revised, withdrawn, samples.created("b")])
    states = {}
    for event in events:
        stored = await log.get_signal(event.signal.signal_id)
        assert stored is not None
        states[event.signal.opportunity_id, event.signal.revision] = (stored.state, stored.end_time_us)
    ended_us = events[0].create_time_us
    assert states == {
        ("a", 1): (SignalState.SUPERSEDED, ended_us),
        ("a", 2): (SignalState.WITHDRAWN, ended_us),
        ("b", 1): (SignalState.ACTIVE, None),
    }
    assert [e.signal.opportunity_id for e in await pipeline.active_signals()] == ["b"]


async def test_an_event_is_read_as_it_was_appended(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease, log: SignalLogStore
) -> None:
    created = samples.created("a", markets=("kalshi:A", "polymarket:0xb"))
    graded = replace(created, type=SignalEventType.GRADED, grade=Grade(1, None, None, True, samples.t0))
    appended = await pipeline.append_events(lease, [created, graded])
    assert await log.read(0, 10) == list(appended)
    assert [replace(e, sequence=0, create_time_us=0) for e in appended] == [created, graded]
    assert await log.read(1, 10) == [appended[1]]
    assert await log.read(2, 10) == []


async def test_stale_epochs_are_refused_on_many_connections_in_random_order(
    samples: Any, pipeline: PostgresPipelineStore, database: Database, log: SignalLogStore, seeded: random.Random
) -> None:
    leases = [await pipeline.acquire_lease("leader", 60_000_000) for _ in range(3)]
    epochs = [lease.epoch for lease in leases if lease is not None]
    assert epochs == sorted(set(epochs))
    refused: list[int] = []
    taken: list[int] = []

    async def writer(number: int) -> None:
        order = random.Random(seeded.random())
        for n in range(20):
            epoch = order.choice([*epochs, epochs[-1] + 1])
            try:
                async with database.transaction() as transaction:
                    await appending.append(transaction.driver, epoch, [samples.created(f"{number}/{n}")])
            except Fenced:
                refused.append(epoch)
            else:
                taken.append(epoch)

    await asyncio.gather(*(writer(n) for n in range(6)))
    assert set(taken) == {epochs[-1]}
    assert set(refused) == {*epochs[:-1], epochs[-1] + 1}
    assert [e.sequence for e in await log.read(0, 1_000)] == list(range(1, len(taken) + 1))


async def test_six_writers_leave_no_hole_and_a_reader_never_skips(
    samples: Any,
    pipeline: PostgresPipelineStore,
    lease: Lease,
    log: SignalLogStore,
    seeded: random.Random,
    database_url: str,
) -> None:
    pools = [Database(database_url, pool_size=1, max_overflow=0) for _ in range(6)]
    seen: list[SignalEvent] = []
    done = asyncio.Event()

    async def write(database: Database, number: int) -> None:
        store = PostgresPipelineStore(database, events_a_partition=100)
        for n in range(25):
            known = samples.created(f"w{(number + 1) % 6}/{max(0, n - 3)}")
            events = [samples.created(f"w{number}/{n}"), known, samples.created(f"w{number}/{n}b")]
            seeded.shuffle(events)
            await store.append_events(lease, events)

    async def read() -> None:
        while True:
            finished = done.is_set()
            new = await log.read(seen[-1].sequence if seen else 0, 64)
            seen.extend(new)
            if finished and not new:
                return

    reader = asyncio.create_task(read())
    await asyncio.gather(*(write(p, n) for n, p in enumerate(pools)))
    done.set()
    await reader
    for pool in pools:
        await pool.close()
    assert [e.sequence for e in seen] == list(range(1, 301))
    assert len({e.event_key for e in seen}) == 300
    times = [e.create_time_us for e in seen]
    assert times == sorted(times)


async def test_states_follow_the_events(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease, log: SignalLogStore
) -> None:
    a1 = samples.created("a")
    a2 = SignalEvent(
        SignalEventType.REVISED, samples.signal("a", revision=2, supersedes=a1.signal.signal_id), 500_000, 12_000
    )
    b, c = samples.created("b"), samples.created("c")
    appended = await pipeline.append_events(lease, [a1, b, c, a2])
    assert await pipeline.active_signals() == [appended[1], appended[2], appended[3]]
    assert await log.active_snapshot() == (4, [appended[1], appended[2], appended[3]])
    ends = [
        replace(b, type=SignalEventType.WITHDRAWN, reason="GATE_STALE"),
        replace(c, type=SignalEventType.EXPIRED),
        replace(a2, type=SignalEventType.SUPERSEDED, superseded_by_opportunity_id="d"),
    ]
    await pipeline.append_events(lease, ends)
    found = {}
    for event in (a1, a2, b, c):
        stored = await log.get_signal(event.signal.signal_id)
        assert stored is not None
        assert stored.end_time_us is not None
        found[event.signal.signal_id] = stored.state
    assert list(found.values()) == [
        SignalState.SUPERSEDED, SignalState.SUPERSEDED, SignalState.WITHDRAWN, SignalState.EXPIRED,
    ]  # fmt: skip
    assert await pipeline.active_signals() == []
    # The first end counts: an expiry that comes after the withdrawal is on the log and changes no state.
    await pipeline.append_events(lease, [replace(b, type=SignalEventType.EXPIRED)])
    after = await log.get_signal(b.signal.signal_id)
    assert after is not None
    assert after.state is SignalState.WITHDRAWN


async def test_an_amended_grade_replaces_and_an_older_one_does_not(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease, log: SignalLogStore
) -> None:
    created = samples.created("a")
    first, second = Grade(1, 20_000, True, False, samples.t0), Grade(2, -430_000, False, False, samples.t0 + 1)
    await pipeline.append_events(lease, [created])
    for grade in (second, first):
        await pipeline.append_events(lease, [replace(created, type=SignalEventType.GRADED, grade=grade)])
    stored = await log.get_signal(created.signal.signal_id)
    assert stored is not None
    assert stored.grade == second
    assert stored.state is SignalState.ACTIVE


@pytest.mark.parametrize("size", [1, 5, 16, 53, 100])
async def test_pages_of_signals_are_the_whole_list_newest_first_while_signals_are_made(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease, log: SignalLogStore, size: int
) -> None:
    await pipeline.append_events(lease, [samples.created(f"o{n}") for n in range(120)])
    everything = SignalListFilter()
    full, head = await log.list_signals(everything, None, 1_000)
    assert head == 120
    assert [s.sequence for s in full.items] == list(range(120, 0, -1))
    paged: list[StoredSignal] = []
    after, extra = None, 0
    while True:
        page, head = await log.list_signals(everything, after, size)
        assert head == 120 + extra
        paged += page.items
        after = page.next_key
        if after is None:
            break
        if extra < 10:
            extra += 1
            await pipeline.append_events(lease, [samples.created(f"new{extra}")])
    assert paged == list(full.items)


async def test_each_filter_takes_what_it_names(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease, log: SignalLogStore
) -> None:
    events = [
        samples.created("plain"),
        samples.created("cross", markets=("polymarket:0xb", "kalshi:A"), event_id="polymarket:9"),
        samples.created("sum", kind="arb.event_sum", markets=("kalshi:C", "kalshi:D"), strength_ppm=900_000),
        samples.created("sim", markets=("simulated:1",), origin=DataOrigin.SIMULATED),
        samples.created("old", origin=DataOrigin.REPLAY),
    ]
    await pipeline.append_events(lease, events)
    await pipeline.append_events(lease, [replace(events[0], type=SignalEventType.EXPIRED)])

    async def found(match: SignalFilter | None = None, **more: Any) -> list[str]:
        page, _ = await log.list_signals(SignalListFilter(match or SignalFilter(), **more), None, 100)
        return [s.signal.opportunity_id for s in page.items]

    assert await found() == ["sum", "cross", "plain"]
    assert await found(SignalFilter(include_simulated=True, include_replay=True)) == [
        "old", "sim", "sum", "cross", "plain",
    ]  # fmt: skip
    assert await found(SignalFilter(venues=(Venue.KALSHI,))) == ["sum", "cross", "plain"]
    assert await found(SignalFilter(venues=(Venue.POLYMARKET, Venue.SIMULATED))) == ["cross"]
    assert await found(SignalFilter(market_ids=("kalshi:A",))) == ["cross", "plain"]
    assert await found(SignalFilter(market_ids=("kalshi:D", "polymarket:0xb"))) == ["sum", "cross"]
    assert await found(SignalFilter(event_ids=("polymarket:9",))) == ["cross"]
    assert await found(SignalFilter(kinds=("arb.event_sum",))) == ["sum"]
    assert await found(SignalFilter(strategy_ids=("stat.mean_reversion/0000",))) == ["cross", "plain"]
    assert await found(SignalFilter(minimum_strength_ppm=900_000)) == ["sum"]
    assert await found(SignalFilter(minimum_net_edge_micros=12_001)) == []
    assert await found(states=(SignalState.EXPIRED,)) == ["plain"]
    assert await found(states=(SignalState.ACTIVE, SignalState.EXPIRED)) == ["sum", "cross", "plain"]
    assert await found(opportunity_ids=("cross", "sum")) == ["sum", "cross"]
    (first,) = await log.read(0, 1)
    assert await found(create_time_from_us=first.create_time_us + 1) == []
    assert await found(create_time_to_us=first.create_time_us + 1) == ["sum", "cross", "plain"]


async def test_an_empty_page_still_tells_the_head(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease, log: SignalLogStore
) -> None:
    await pipeline.append_events(lease, [samples.created("a")])
    page, head = await log.list_signals(SignalListFilter(opportunity_ids=("none",)), None, 10)
    assert (page.items, page.next_key, head) == ((), None, 1)


async def test_a_time_finds_its_place_in_the_log(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease, log: SignalLogStore
) -> None:
    (first,) = await pipeline.append_events(lease, [samples.created("a")])
    second, third = await pipeline.append_events(lease, [samples.created("b"), samples.created("c")])
    assert second.create_time_us == third.create_time_us > first.create_time_us
    assert await log.sequence_at(first.create_time_us) == 0
    assert await log.sequence_at(second.create_time_us) == 1
    assert await log.sequence_at(second.create_time_us + 1) == 3


async def test_trimming_drops_whole_partitions_and_says_where_the_log_begins(
    samples: Any, database: Database, log: SignalLogStore
) -> None:
    pipeline = PostgresPipelineStore(database, events_a_partition=10)
    lease = await pipeline.acquire_lease("test", 60_000_000)
    assert lease is not None
    empty = await log.bounds()
    assert (empty.head_sequence, empty.oldest_sequence, empty.oldest_create_time_us) == (0, 1, None)
    old = await pipeline.append_events(lease, [samples.created(f"o{n}") for n in range(25)])
    new = await pipeline.append_events(lease, [samples.created(f"n{n}") for n in range(10)])
    trimmed = await log.trim(new[0].create_time_us)
    assert trimmed.oldest_sequence == 20
    assert len(trimmed.dropped_partitions) == 2
    bounds = await log.bounds()
    assert (bounds.head_sequence, bounds.oldest_sequence) == (35, 20)
    assert bounds.oldest_create_time_us == old[-1].create_time_us
    assert [e.sequence for e in await log.read(19, 100)] == list(range(20, 36))
    assert await pipeline.append_events(lease, [old[0]]) == (), "a trimmed event is still known"
    assert await log.sequence_at(0) == 19
    everything = await log.trim(new[0].create_time_us + 10**12, forget_ids=True)
    assert everything.oldest_sequence == 30
    assert everything.forgotten_ids == 29
    assert [e.sequence for e in await pipeline.append_events(lease, [old[0]])] == [36]


async def test_the_data_set_gets_a_new_id_where_its_rows_wake_up_elsewhere(
    pipeline: PostgresPipelineStore, lease: Lease, log: SignalLogStore, database: Database
) -> None:
    first = (await log.bounds()).data_set_id
    assert first.startswith("ds_")
    assert (await log.bounds()).data_set_id == first
    found = {first}
    for change in ("system_identifier = system_identifier + 1", "timeline = timeline + 1", "database_oid = 1"):
        async with database.transaction() as transaction:
            await transaction.driver.execute(f"UPDATE signal_log_head SET {change}")
        bounds = await log.bounds()
        found.add(bounds.data_set_id)
        assert (await log.bounds()).data_set_id == bounds.data_set_id
    assert len(found) == 4
