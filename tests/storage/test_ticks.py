"""Ticks are stored once, in order, with everything that follows from them in the same transaction."""

import asyncio
import random
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from oddstream_server.application.ports import Decision, Fenced, Lease, StrategyState, TimeRange
from oddstream_server.domain.errors import Unavailable
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import CandleInterval, Quote, SourceKind, TickSource, Trade
from oddstream_server.storage.backtests.archive import Archive
from oddstream_server.storage.database import Database
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from oddstream_server.storage.tick_store.ticks import TickStore
from tests.storage.conftest import somebody_waits_for_a_lock

EVERYTHING = TimeRange()


def run_apart(work: Coroutine[Any, Any, None]) -> None:
    """Run to its end on another thread's loop while this one's stands still."""
    thread = threading.Thread(target=lambda: asyncio.run(work))
    thread.start()
    thread.join()


async def kill_leaders(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    killed = await connection.fetchval(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_locks WHERE locktype = 'advisory' AND "
        "database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND pid <> pg_backend_pid()"
    )
    await connection.close()
    assert killed == 1


class Watcher:
    """A decide function that remembers what it was shown."""

    def __init__(self, decision: Decision | None = None) -> None:
        self.seen: list[Quote | Trade] = []
        self.calls = 0
        self._decision = decision or Decision()

    def __call__(self, ticks: Sequence[Quote | Trade]) -> Decision:
        self.calls += 1
        self.seen += ticks
        return self._decision


async def test_a_batch_comes_back_as_it_went_in(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore, lease: Lease
) -> None:
    quotes = [
        samples.quote(1, venue_time=samples.t0 - 5),
        samples.quote(2, at=samples.t0 + 1, bid=None),
        samples.quote(3, at=samples.t0 + 1, ask=None, epoch=2),
    ]
    trade = samples.trade("t1", at=samples.t0 + 2)
    watcher = Watcher()
    result = await pipeline.store_batch(lease, [*quotes, trade], watcher)
    assert (result.quotes_inserted, result.trades_inserted, result.duplicates) == (3, 1, 0)
    assert result.ingest_sequence == 4 == await ticks.live_head()
    stored = await ticks.list_quotes("kalshi:A", EVERYTHING, None, 10)
    assert [replace(q, ingest_sequence=0) for q in stored.items] == quotes
    assert stored.next_key is None
    assert (await ticks.list_trades("kalshi:A", EVERYTHING, None, 10)).items == (replace(trade, ingest_sequence=4),)
    assert watcher.seen == [*stored.items, replace(trade, ingest_sequence=4)]
    assert await ticks.quotes_after(1, 10) == list(stored.items[1:])
    assert await ticks.latest_quotes(["kalshi:A", "kalshi:unknown"]) == {"kalshi:A": stored.items[2]}


async def test_the_same_batch_twice_is_stored_once_and_decides_nothing_the_second_time(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore, lease: Lease
) -> None:
    batch = [samples.quote(n, at=samples.t0 + n) for n in range(5)] + [samples.trade("t1")]
    first = await pipeline.store_batch(lease, batch, Watcher(Decision(events=(samples.created("o1"),))))
    assert len(first.events) == 1
    watcher = Watcher(Decision(events=(samples.created("o2"),)))
    second = await pipeline.store_batch(lease, batch, watcher)
    assert (second.quotes_inserted, second.trades_inserted, second.duplicates) == (0, 0, 6)
    assert second.events == ()
    assert second.ingest_sequence == first.ingest_sequence
    assert watcher.calls == 0
    assert len((await ticks.list_quotes("kalshi:A", EVERYTHING, None, 100)).items) == 5


async def test_only_the_new_rows_of_a_batch_are_stored_and_shown(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease
) -> None:
    await pipeline.store_batch(lease, [samples.quote(1), samples.trade("t1")], Watcher())
    watcher = Watcher()
    # The poll that was repeated after a crash comes with another receive time and is still the same tick.
    batch = [samples.quote(1, at=samples.t0 + 9), samples.quote(2), samples.quote(2), samples.trade("t1"),
             samples.trade("t2")]  # fmt: skip
    result = await pipeline.store_batch(lease, batch, watcher)
    assert (result.quotes_inserted, result.trades_inserted, result.duplicates) == (1, 1, 3)
    assert [t.source_key for t in watcher.seen] == [2, "t2"]
    assert [t.ingest_sequence for t in watcher.seen] == [3, 4]


async def test_of_a_large_batch_only_the_new_rows_are_stored_and_shown(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore, lease: Lease
) -> None:
    batch = [samples.quote(n, at=samples.t0 + n) for n in range(300)] + [samples.trade(f"t{n}") for n in range(300)]
    await pipeline.store_batch(lease, batch[250:350], Watcher())
    watcher = Watcher()
    result = await pipeline.store_batch(lease, [*batch, batch[0]], watcher)
    assert (result.quotes_inserted, result.trades_inserted, result.duplicates) == (250, 250, 101)
    assert [t.ingest_sequence for t in watcher.seen] == list(range(101, 601))
    assert [replace(t, ingest_sequence=0) for t in watcher.seen] == [*batch[:250], *batch[350:]]
    assert len((await ticks.list_quotes("kalshi:A", EVERYTHING, None, 1_000)).items) == 300


async def test_what_was_stored_while_the_lane_was_waited_for_is_known(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore, lease: Lease, database: Database
) -> None:
    """As after a commit whose answer was lost: the server may still be at it when the batch comes again."""
    first = [samples.quote(1), samples.trade("t1")]
    numbers = await ticks.prepare(first)
    async with database.transaction() as transaction:
        lane = await transaction.driver.fetchrow("SELECT sequence FROM ingest_lanes WHERE lane = 1 FOR UPDATE")
        await numbers.insert_once(transaction.driver, first, lane["sequence"])
        await transaction.driver.execute("UPDATE ingest_lanes SET sequence = sequence + 2 WHERE lane = 1")
        watcher = Watcher()
        again = asyncio.create_task(pipeline.store_batch(lease, [*first, samples.quote(2)], watcher))
        await somebody_waits_for_a_lock(database)
    result = await again
    assert (result.quotes_inserted, result.trades_inserted, result.duplicates) == (1, 0, 2)
    assert [(t.source_key, t.ingest_sequence) for t in watcher.seen] == [(2, 3)]


async def test_a_trade_fetched_again_months_later_is_the_same_trade(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore, lease: Lease
) -> None:
    first = samples.trade("t1", venue_time=samples.t0)
    await pipeline.store_batch(lease, [first], Watcher())
    again = await pipeline.store_batch(
        lease, [replace(first, receive_time_us=samples.t0 + 70 * samples.day)], Watcher()
    )
    assert again.duplicates == 1
    assert len((await ticks.list_trades("kalshi:A", EVERYTHING, None, 10)).items) == 1


async def test_a_quote_repeated_across_the_end_of_a_month_is_the_same_quote(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease
) -> None:
    august = samples.t0 + 29 * samples.day + 12 * samples.hour  # 2026-08-01 00:00 UTC
    await pipeline.store_batch(lease, [samples.quote(1, at=august - 1)], Watcher())
    result = await pipeline.store_batch(
        lease, [samples.quote(1, at=august + 1), samples.quote(2, at=august)], Watcher()
    )
    assert (result.quotes_inserted, result.duplicates) == (1, 1)


async def test_equal_keys_of_other_sources_and_markets_are_other_ticks(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease
) -> None:
    other = TickSource(Venue.KALSHI, SourceKind.WEBSOCKET, "session-2/1")
    batch = [samples.quote(1), samples.quote(1, source=other), samples.quote(1, market="kalshi:B")]
    assert (await pipeline.store_batch(lease, batch, Watcher())).quotes_inserted == 3


async def test_a_batch_that_fails_in_the_middle_leaves_nothing(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore, lease: Lease, log: SignalLogStore
) -> None:
    def fail(_ticks: Sequence[Quote | Trade]) -> Decision:
        raise RuntimeError("a strategy's fault")

    with pytest.raises(RuntimeError, match="a strategy's fault"):
        await pipeline.store_batch(lease, [samples.quote(1), samples.trade("t1")], fail)
    assert await ticks.live_head() == 0
    assert (await ticks.list_quotes("kalshi:A", EVERYTHING, None, 10)).items == ()
    assert (await pipeline.store_batch(lease, [samples.quote(1), samples.trade("t1")], Watcher())).duplicates == 0


async def test_a_connection_killed_in_mid_transaction_leaves_nothing(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore, lease: Lease, database_dsn: str
) -> None:
    def kill(_ticks: Sequence[Quote | Trade]) -> Decision:
        # The rows are copied and nothing is committed: now the leader's connection dies.
        run_apart(kill_leaders(database_dsn))
        return Decision(events=(samples.created("o1"),))

    batch = [samples.quote(1), samples.trade("t1")]
    with pytest.raises(Unavailable):
        await pipeline.store_batch(lease, batch, kill)
    assert await ticks.live_head() == 0
    watcher = Watcher()
    assert (await pipeline.store_batch(lease, batch, watcher)).duplicates == 0
    assert len(watcher.seen) == 2


async def test_states_and_events_are_kept_with_the_position(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease, log: SignalLogStore, database: Database
) -> None:
    state = StrategyState("s1", "kalshi:A", b"\x00\x01", b"{}")
    decision = Decision(events=(samples.created("o1"),), states=(state,))
    result = await pipeline.store_batch(lease, [samples.quote(1)], Watcher(decision))
    assert [e.sequence for e in result.events] == [1]
    assert await log.read(0, 10) == list(result.events)
    assert await pipeline.load_states(["s1", "other"]) == [state]
    await pipeline.store_batch(lease, [samples.quote(2)], Watcher(Decision(states=(state,))))
    async with database.reading() as transaction:
        saved_at = await transaction.driver.fetchval("SELECT ingest_sequence FROM strategy_states")
    assert saved_at == 1, "a state that did not change is not written"


@pytest.mark.parametrize("size", [1, 5, 16, 53, 100])
async def test_pages_are_the_whole_list_while_rows_are_inserted(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore, lease: Lease, seeded: random.Random, size: int
) -> None:
    # Many rows of one instant, so that a page ends between equal receive times.
    batch = [samples.quote(n, at=samples.t0 + seeded.randrange(20)) for n in range(230)]
    await pipeline.store_batch(lease, batch, Watcher())
    full = (await ticks.list_quotes("kalshi:A", EVERYTHING, None, 1_000)).items
    assert len(full) == 230
    assert list(full) == sorted(full, key=lambda q: (q.receive_time_us, q.ingest_sequence))
    paged: list[Quote] = []
    after, extra = None, 1_000
    while True:
        page = await ticks.list_quotes("kalshi:A", EVERYTHING, after, size)
        assert len(page.items) <= size
        paged += page.items
        if page.next_key is None:
            break
        after = page.next_key
        if extra < 1_010:
            new = samples.quote(extra, at=samples.t0 + seeded.randrange(20))
            await pipeline.store_batch(lease, [new], Watcher())
            extra += 1
    assert [q for q in paged if q.source_key < 1_000] == list(full)
    assert len({q.ingest_sequence for q in paged}) == len(paged)


async def test_a_span_is_from_inclusive_to_exclusive(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore, lease: Lease
) -> None:
    await pipeline.store_batch(lease, [samples.quote(n, at=samples.t0 + n) for n in range(5)], Watcher())
    page = await ticks.list_quotes("kalshi:A", TimeRange(samples.t0 + 1, samples.t0 + 3), None, 10)
    assert [q.source_key for q in page.items] == [1, 2]


async def test_replay_gives_every_lane_in_order_across_days_and_months(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore, lease: Lease, seeded: random.Random
) -> None:
    batch: list[Quote | Trade] = [
        samples.quote(n, market=f"kalshi:{n % 3}", at=samples.t0 + seeded.randrange(60 * samples.day))
        for n in range(300)
    ]
    batch += [samples.trade(f"t{n}", at=samples.t0 + seeded.randrange(60 * samples.day)) for n in range(100)]
    watcher = Watcher()
    await pipeline.store_batch(lease, batch, watcher)
    expected = sorted(watcher.seen, key=lambda t: (t.receive_time_us, t.ingest_sequence))
    assert [t async for some in ticks.replay(EVERYTHING) for t in some] == expected
    span = TimeRange(samples.t0 + samples.day + 7, samples.t0 + 40 * samples.day + 3)
    assert span.from_us is not None
    assert span.to_us is not None
    assert [t async for some in ticks.replay(span, ["kalshi:1", "kalshi:nowhere"]) for t in some] == [
        t for t in expected if t.market_id == "kalshi:1" and span.from_us <= t.receive_time_us < span.to_us
    ]


async def test_partitions_are_made_ahead_for_three_months_and_once(
    samples: Any, pipeline: PostgresPipelineStore
) -> None:
    made = await pipeline.prepare_partitions(samples.t0)
    assert set(made) == {
        f"{table}_2026_{month}"
        for table in ("quotes_live", "trades_live", "books_live", "candles")
        for month in ("07", "08", "09")
    }
    assert await pipeline.prepare_partitions(samples.t0) == []


async def test_without_ticks_strategies_decide_on_facts_alone(
    samples: Any, pipeline: PostgresPipelineStore, lease: Lease, log: SignalLogStore
) -> None:
    await pipeline.store_batch(lease, [samples.quote(1)], Watcher())
    state = StrategyState("s1", "kalshi:A", b"\x01", b"{}")
    watcher = Watcher(Decision(events=(samples.created("o1"),), states=(state,)))
    result = await pipeline.store_batch(lease, [], watcher)
    assert (watcher.calls, watcher.seen, result.ingest_sequence) == (1, [], 1)
    assert await log.read(0, 10) == list(result.events)
    assert await pipeline.load_states(["s1"]) == [state]


async def test_a_failed_append_takes_the_ticks_with_it(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore, lease: Lease, log: SignalLogStore,
    database: Database,
) -> None:  # fmt: skip
    # The head alone is in another epoch: the batch has passed the lane's fence and must still leave nothing.
    async with database.transaction() as transaction:
        await transaction.driver.execute("UPDATE signal_log_head SET epoch = epoch + 1")
    decision = Decision(events=(samples.created("o1"),))
    with pytest.raises(Fenced):
        await pipeline.store_batch(lease, [samples.quote(1)], Watcher(decision))
    assert await ticks.live_head() == 0
    assert (await ticks.list_candles("kalshi:A", CandleInterval.DAY, EVERYTHING, None, 9)).items == ()
    assert (await log.bounds()).head_sequence == 0


async def test_old_months_are_dropped_whole_and_writing_goes_on(
    samples: Any,
    pipeline: PostgresPipelineStore,
    ticks: TickStore,
    lease: Lease,
    database: Database,
    tmp_path: Path,
) -> None:
    july, august, september = (samples.t0 + 31 * n * samples.day for n in range(3))
    batch = [samples.quote(n, at=at) for n, at in enumerate((july, august, september))]
    batch += [samples.trade(f"t{n}", at=at) for n, at in enumerate((july, august))]
    await pipeline.store_batch(lease, batch, Watcher())
    archive = Archive(database, tmp_path)  # as another process drops: this one's knowledge of months is stale then
    await archive.archive_closed(september)
    assert await archive.drop_before(august) == ["quotes_live_2026_07", "trades_live_2026_07"]
    left = [t.source_key async for some in ticks.replay(EVERYTHING) for t in some]
    assert left == [1, "t1", 2]
    assert len((await ticks.list_candles("kalshi:A", CandleInterval.DAY, EVERYTHING, None, 9)).items) == 3
    again = await pipeline.store_batch(lease, batch, Watcher())
    assert (again.quotes_inserted, again.trades_inserted, again.duplicates) == (1, 1, 3)
