"""What the pipeline tells about itself stays on record."""

from dataclasses import replace
from typing import Any

from oddstream_server.application.ports import QuarantinedRow
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import FeedState, FeedStatus
from oddstream_server.storage.database import Database
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals.signal_log import SignalLogStore


async def test_a_run_is_recorded_with_its_counts_and_its_error(
    samples: Any, pipeline: PostgresPipelineStore, database: Database
) -> None:
    good = await pipeline.begin_run(Venue.KALSHI, "discover", samples.t0)
    bad = await pipeline.begin_run(None, "strategies", samples.t0 + 1)
    open_run = await pipeline.begin_run(None, "store", samples.t0 + 2)
    await pipeline.end_run(good, samples.t0 + 5, {"markets": 3})
    await pipeline.end_run(bad, samples.t0 + 6, {}, "STRATEGY_FAILED")
    async with database.reading() as transaction:
        rows = await transaction.driver.fetch(
            "SELECT run_id, venue, state, end_time, counts, error FROM pipeline_runs ORDER BY begin_time"
        )
    assert [tuple(row) for row in rows] == [
        (good, "kalshi", "succeeded", samples.t0 + 5, {"markets": 3}, None),
        (bad, None, "failed", samples.t0 + 6, {}, "STRATEGY_FAILED"),
        (open_run, None, "running", None, {}, None),
    ]


async def test_a_row_that_can_not_be_read_is_kept_once_with_how_often_it_came_and_cut_at_64_kib(
    samples: Any, pipeline: PostgresPipelineStore, database: Database
) -> None:
    row = QuarantinedRow(
        Venue.POLYMARKET, "GET /markets", "price_out_of_range", "price 1.2", b"\x00{" * 60_000, samples.t0
    )
    await pipeline.quarantine([])
    other = replace(row, payload=row.payload[:-1] + b"!")
    await pipeline.quarantine([row, row, other])
    await pipeline.quarantine([replace(row, receive_time_us=samples.t0 + 9)])
    async with database.reading() as transaction:
        kept = await transaction.driver.fetch(
            "SELECT reason, payload, times, receive_time, last_receive_time FROM quarantine ORDER BY times DESC"
        )
    cut = row.payload[:65_536]
    assert [tuple(r) for r in kept] == [
        ("price_out_of_range", cut, 3, samples.t0, samples.t0 + 9),
        ("price_out_of_range", cut, 1, samples.t0, samples.t0),
    ]


async def test_the_feed_shows_its_last_state_and_keeps_every_change(
    samples: Any, pipeline: PostgresPipelineStore, log: SignalLogStore, database: Database
) -> None:
    states = [FeedState.LIVE, FeedState.STALE, FeedState.GAP, FeedState.LIVE]
    changes = [FeedStatus(Venue.KALSHI, s, samples.t0, n, samples.t0 + n) for n, s in enumerate(states)]
    for change in changes:
        await pipeline.save_feed_status(change)
    other = FeedStatus(Venue.POLYMARKET, FeedState.DOWN, None, 0, samples.t0)
    await pipeline.save_feed_status(other)
    assert await log.feed_statuses() == [changes[-1], other]
    async with database.reading() as transaction:
        kept = await transaction.driver.fetch("SELECT state FROM feed_status_changes WHERE venue = 'kalshi' ORDER BY 1")
    assert sorted(r[0] for r in kept) == sorted(states)
