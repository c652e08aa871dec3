"""The leader's writes: its lease, the one transaction of a batch, and what the pipeline tells about itself."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import asyncpg
from sqlalchemy import insert, update
from sqlalchemy.dialects.postgresql import insert as upsert

from oddstream_server.application.ports import (
    BatchResult,
    ControlsChanged,
    Decision,
    Fenced,
    HitRate,
    Lease,
    QuarantinedRow,
    StrategyState,
    WaitingQuote,
)
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import FeedStatus, OrderBook, Quote, Trade
from oddstream_server.domain.signal import SignalEvent
from oddstream_server.storage import quarantine
from oddstream_server.storage.administration.runs import new_run_id
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.partitions import EVENTS_A_PARTITION, Partitions, month_of
from oddstream_server.storage.signals import appending
from oddstream_server.storage.signals.signal_log import SignalLogStore, active_events
from oddstream_server.storage.tables import feed_status, feed_status_changes, pipeline_runs
from oddstream_server.storage.tick_store import candles
from oddstream_server.storage.tick_store.ticks import LIVE, TickStore, stored_among
from oddstream_server.storage.track_record import outcomes
from oddstream_server.storage.wake_ups import CHANNEL
from oddstream_server.storage.writes import Write, document, write_together

_LEADER_LOCK = 0x0DD5_0003
"""Class of the advisory locks that mark a connection as a leader's: (class, epoch)."""

_FEW_TICKS = 256
"""Up to so many are looked up first and inserted with everything else; more are copied, which is faster a row."""


class PostgresPipelineStore:
    """Fulfils :class:`~oddstream_server.application.ports.PipelineStore`."""

    def __init__(
        self, database: Database, ticks: TickStore | None = None, events_a_partition: int = EVENTS_A_PARTITION
    ) -> None:
        self._database = database
        self._ticks = ticks or TickStore(database)
        self._partitions: Partitions = self._ticks.partitions
        self._events_a_partition = events_a_partition

    # --- leadership ---

    async def acquire_lease(self, holder: str, ttl_us: int) -> Lease | None:
        """Take the leadership if it is free, run out, or the holder's own; each time with a new epoch.

        The epoch goes to the lane and to the log's head in the same transaction, so from its commit on every write of
        an earlier leader is refused. A leader that was stopped in mid transaction still holds those rows' locks: its
        connections are found by their advisory lock and ended first.
        """
        async with self._database.reading() as transaction:
            if not await _may_take(transaction.driver, holder, lock=False):
                return None
            await transaction.driver.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
                "AND pid <> pg_backend_pid()",
                _LEADER_LOCK,
            )
        async with self._database.transaction() as transaction:
            driver = transaction.driver
            await driver.execute("SET LOCAL lock_timeout = '3s'")
            if not await _may_take(driver, holder, lock=True):
                return None
            row = await driver.fetchrow(
                "UPDATE leases SET epoch = epoch + 1, holder = $1, "
                "expire_time = clock_timestamp() + $2 * interval '1 microsecond' "
                "WHERE name = 'pipeline' RETURNING epoch, holder, expire_time",
                holder,
                ttl_us,
            )
            assert row is not None
            await driver.execute(f"UPDATE ingest_lanes SET epoch = $1 WHERE lane = {LIVE}", row["epoch"])
            await driver.execute("UPDATE signal_log_head SET epoch = $1", row["epoch"])
        await SignalLogStore(self._database).mint_data_set_id()
        return Lease(row["epoch"], row["holder"], row["expire_time"])

    async def renew_lease(self, lease: Lease, ttl_us: int, report: Mapping[str, Any] | None = None) -> Lease:
        async with self._database.transaction(first=_leader_mark(lease)) as transaction:
            expire_time_us = await transaction.driver.fetchval(
                "UPDATE leases SET expire_time = clock_timestamp() + $2 * interval '1 microsecond', "
                "report = coalesce($3::jsonb, report) WHERE name = 'pipeline' AND epoch = $1 RETURNING expire_time",
                lease.epoch,
                ttl_us,
                None if report is None else document(report),
            )
        if expire_time_us is None:
            raise Fenced
        return Lease(lease.epoch, lease.holder, expire_time_us)

    async def release_lease(self, lease: Lease) -> None:
        """Let another one take over at once; a lease that is no longer held is left alone."""
        async with self._database.transaction(first=_leader_mark(lease)) as transaction:
            await transaction.driver.execute(
                "UPDATE leases SET expire_time = timestamptz 'epoch', holder = '' "
                "WHERE name = 'pipeline' AND epoch = $1",
                lease.epoch,
            )

    # --- the one transaction ---

    async def store_batch(
        self,
        lease: Lease,
        ticks: Sequence[Quote | Trade],
        decide: Callable[[Sequence[Quote | Trade]], Decision],
        controls_revision: int | None = None,
    ) -> BatchResult:
        """See the port. Without ticks ``decide`` has facts to decide on; where all of them were known, nothing.

        A batch is five round trips, begin and commit included, since a tick's way to a subscriber goes through here:
        the lane with what is known of the ticks, the decision, the log's heads, and then every row at once.
        """
        numbers = await self._ticks.prepare(ticks)
        async with self._database.transaction(first=_leader_mark(lease)) as transaction:
            driver = transaction.driver
            few = len(ticks) <= _FEW_TICKS
            lane = await driver.fetchrow(_LANE, lease.epoch, *numbers.identities(ticks if few else ()))
            if lane is None:
                raise Fenced
            if controls_revision is not None and controls_revision != lane["controls_revision"]:
                raise ControlsChanged
            writes: list[Write] = []
            if few:
                # Whoever moved the lane while it was waited for stored ticks that this statement could not see.
                moved = lane["sequence"] != lane["seen_sequence"]
                known = await numbers.stored(driver, ticks) if moved else numbers.stored_in(lane, ticks)
                stored = numbers.unstored(ticks, known, lane["sequence"])
                writes += numbers.inserting(stored)
            else:
                stored = await numbers.insert_once(driver, ticks, lane["sequence"])
            quotes = sum(isinstance(tick, Quote) for tick in stored)
            duplicates = len(ticks) - len(stored)
            if ticks and not stored:
                return BatchResult(0, 0, duplicates, lane["sequence"], ())
            watermarks: dict[str, int] = lane["watermarks"]
            for venue in sorted({tick.source.venue for tick in stored}):
                of_venue = [tick for tick in stored if tick.source.venue is venue]
                before = watermarks.get(venue.value, 0)
                writes += candles.merging(candles.fold(of_venue, numbers.market_keys), before)
                watermarks[venue.value] = max(before, *(tick.receive_time_us for tick in of_venue))
            sequence = stored[-1].ingest_sequence if stored else lane["sequence"]
            decision = decide(stored)
            writes += _moving_lane(decision.states, sequence, document(watermarks))
            # The rows that wait for the quotes of this batch's own signals aren't there yet.
            made = {event.signal.signal_id for event in decision.events}
            writes += outcomes.keeping([q for q in decision.next_quotes if q.signal_id not in made])
            # Last, so that the log's head is locked for the shortest time.
            events: tuple[SignalEvent, ...] = ()
            if decision.events:
                events = await self._append(driver, lease, decision.events, writes)
                await write_together(driver, outcomes.keeping([q for q in decision.next_quotes if q.signal_id in made]))
            else:
                await write_together(driver, writes)
        return BatchResult(quotes, len(stored) - quotes, duplicates, sequence, events)

    async def record_books(self, lease: Lease, books: Sequence[OrderBook], levels: int) -> int:
        """See the port."""
        names = await self._ticks.names.mint_market_keys(book.market_id for book in books)
        await self._partitions.ensure("books_live", {month_of(book.receive_time_us) for book in books})
        async with self._database.transaction(first=_leader_mark(lease)) as transaction:
            driver = transaction.driver
            held = await driver.fetchval(
                f"SELECT 1 FROM ingest_lanes WHERE lane = {LIVE} AND epoch = $1 FOR KEY SHARE", lease.epoch
            )
            if held is None:
                raise Fenced
            await driver.executemany(
                "INSERT INTO books_live (receive_time, epoch, market_key, bid_prices_micros, bid_sizes_micros, "
                "ask_prices_micros, ask_sizes_micros) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
                [
                    (
                        book.receive_time_us,
                        book.epoch,
                        names[book.market_id],
                        *([getattr(level, name) for level in side[:levels]]
                          for side in (book.bids, book.asks) for name in ("price_micros", "size_micros")),
                    )
                    for book in books
                ],
            )  # fmt: skip
        return len(books)

    async def append_events(self, lease: Lease, events: Sequence[SignalEvent]) -> tuple[SignalEvent, ...]:
        async with self._database.transaction(first=_leader_mark(lease)) as transaction:
            return await self._append(transaction.driver, lease, events)

    async def _append(
        self,
        driver: "asyncpg.Connection[Any]",
        lease: Lease,
        events: Sequence[SignalEvent],
        beside: Sequence[Write] = (),
    ) -> tuple[SignalEvent, ...]:
        return await appending.append(driver, lease.epoch, events, self._events_a_partition, beside)

    # --- what is loaded at the start ---

    async def load_states(self, strategy_ids: Sequence[str]) -> Sequence[StrategyState]:
        async def work(transaction: Transaction) -> Sequence[StrategyState]:
            rows = await transaction.driver.fetch(
                "SELECT strategy_id, subject_id, kernel, opportunities FROM strategy_states "
                "WHERE strategy_id = ANY($1::text[]) ORDER BY strategy_id, subject_id",
                list(strategy_ids),
            )
            return [StrategyState(*row) for row in rows]

        return await self._database.read(work)

    async def delete_states(self, lease: Lease, subject_ids: Sequence[str]) -> None:
        async with self._database.transaction(first=_leader_mark(lease)) as transaction:
            held = await transaction.driver.fetchval(
                f"SELECT 1 FROM ingest_lanes WHERE lane = {LIVE} AND epoch = $1 FOR UPDATE", lease.epoch
            )
            if held is None:
                raise Fenced
            await transaction.driver.execute(
                "DELETE FROM strategy_states WHERE subject_id = ANY($1::text[])", list(subject_ids)
            )

    async def active_signals(self) -> Sequence[SignalEvent]:
        return await self._database.read(active_events)

    async def waiting_quotes(self) -> Sequence[WaitingQuote]:
        return await self._database.read(lambda transaction: outcomes.waiting_quotes(transaction.driver))

    async def hit_rates(self, minimum_graded: int) -> Sequence[HitRate]:
        return await self._database.read(lambda transaction: outcomes.hit_rates(transaction.driver, minimum_graded))

    # --- what the pipeline tells about itself ---

    async def save_feed_status(self, status: FeedStatus) -> None:
        row = {
            "venue": status.venue.value,
            "state": status.state.value,
            "last_receive_time": status.last_receive_time_us,
            "epoch": status.epoch,
            "change_time": status.change_time_us,
            "detail": status.detail,
            "market_ids": list(status.market_ids),
        }
        async with self._database.transaction() as transaction:
            await transaction.core.execute(
                upsert(feed_status).values(row).on_conflict_do_update(index_elements=["venue"], set_=row)
            )
            await transaction.core.execute(insert(feed_status_changes).values(row))
            await transaction.driver.execute("SELECT pg_notify($1, 'feed')", CHANNEL)

    async def quarantine(self, rows: Sequence[QuarantinedRow]) -> None:
        async with self._database.transaction() as transaction:
            await quarantine.keep(transaction, rows)

    async def begin_run(self, venue: Venue | None, stage: str, now_us: int) -> str:
        async with self._database.transaction() as transaction:
            run_id = await new_run_id(transaction.driver)
            await transaction.core.execute(
                insert(pipeline_runs).values(
                    run_id=run_id,
                    venue=None if venue is None else venue.value,
                    stage=stage,
                    state="running",
                    create_time=now_us,
                    begin_time=now_us,
                    counts={},
                )
            )
        return run_id

    async def end_run(self, run_id: str, now_us: int, counts: Mapping[str, int], error: str | None = None) -> None:
        async with self._database.transaction() as transaction:
            await transaction.core.execute(
                update(pipeline_runs)
                .where(pipeline_runs.c.run_id == run_id)
                .values(state="failed" if error else "succeeded", end_time=now_us, counts=dict(counts), error=error)
            )

    async def prepare_partitions(self, now_us: int) -> Sequence[str]:
        return await self._partitions.ahead(now_us)


async def _may_take(driver: "asyncpg.Connection[Any]", holder: str, *, lock: bool) -> bool:
    return bool(
        await driver.fetchval(
            "SELECT expire_time <= clock_timestamp() OR holder = $1 FROM leases WHERE name = 'pipeline'"
            + (" FOR UPDATE" if lock else ""),
            holder,
        )
    )


def _leader_mark(lease: Lease) -> str:
    """Begins every transaction of a leader, renewals included: any of them may be open when its process is stopped."""
    # The planner takes partitions that are pruned while it plans for a saving, and would plan each batch anew.
    return (
        "SET LOCAL plan_cache_mode = force_generic_plan; "
        f"SELECT pg_advisory_xact_lock_shared({_LEADER_LOCK}, {lease.epoch & 0x7FFF_FFFF})"
    )


def _moving_lane(states: Sequence[StrategyState], sequence: int, watermarks: str) -> list[Write]:
    """Checkpoints, the lane's place and the news of its quotes."""
    lane = Write(
        f"UPDATE ingest_lanes SET sequence = {{0}}, watermarks = {{1}} WHERE lane = {LIVE} "
        "RETURNING pg_notify({2}, 'quotes')",
        (sequence, watermarks, CHANNEL),
    )
    if not states:
        return [lane]
    return [
        lane,
        Write(
            "INSERT INTO strategy_states (strategy_id, subject_id, ingest_sequence, kernel, opportunities) "
            "SELECT n.strategy_id, n.subject_id, {4}, n.kernel, n.opportunities "
            "FROM unnest({0}::text[], {1}::text[], {2}::bytea[], {3}::bytea[]) "
            "AS n(strategy_id, subject_id, kernel, opportunities) "
            "ON CONFLICT (strategy_id, subject_id) DO UPDATE SET ingest_sequence = excluded.ingest_sequence, "
            "kernel = excluded.kernel, opportunities = excluded.opportunities "
            "WHERE (strategy_states.kernel, strategy_states.opportunities) "
            "IS DISTINCT FROM (excluded.kernel, excluded.opportunities)",
            (
                [s.strategy_id for s in states],
                [s.subject_id for s in states],
                [s.kernel for s in states],
                [s.opportunities for s in states],
                sequence,
            ),
        ),
    ]


_LANE = (
    f"SELECT sequence, watermarks, controls_revision, (SELECT sequence FROM ingest_lanes WHERE lane = {LIVE}) "
    f"AS seen_sequence, {stored_among(2)} FROM ingest_lanes WHERE lane = {LIVE} AND epoch = $1 FOR UPDATE"
)
"""The locked row is the newest one; what is stored is as the statement saw it when it began."""
