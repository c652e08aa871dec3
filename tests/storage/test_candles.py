"""Candles come out the same in whatever order their rows arrive."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from oddstream_server.application.ports import Decision, Lease, TimeRange
from oddstream_server.domain.quote import Candle, CandleInterval, Ohlc, Quote, Trade
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.tick_store.ticks import TickStore

EVERYTHING = TimeRange()


def plain_aggregation(ticks: Sequence[Quote | Trade], interval: CandleInterval) -> dict[int, Candle]:
    """The definition, told a second time and as plainly as possible: sort, group, look at first and last."""
    buckets: dict[int, list[tuple[int, int, Quote | Trade]]] = {}
    for tick in ticks:
        time = tick.venue_time_us if tick.venue_time_us is not None else tick.receive_time_us
        buckets.setdefault(time // interval.duration_us * interval.duration_us, []).append(
            (time, tick.ingest_sequence, tick)
        )

    def run(prices: list[int]) -> Ohlc | None:
        return Ohlc(prices[0], max(prices), min(prices), prices[-1]) if prices else None

    found = {}
    for start, members in buckets.items():
        rows = [tick for _, _, tick in sorted(members, key=lambda m: m[:2])]
        quotes = [r for r in rows if isinstance(r, Quote)]
        trades = [r for r in rows if isinstance(r, Trade)]
        found[start] = Candle(
            market_id=rows[0].market_id,
            interval=interval,
            start_time_us=start,
            trade=run([t.price_micros for t in trades if not t.block]),
            bid=run([q.bid_price_micros for q in quotes if q.bid_price_micros is not None]),
            ask=run([q.ask_price_micros for q in quotes if q.ask_price_micros is not None]),
            volume_micros=sum(t.size_micros for t in trades),
            trade_count=len(trades),
            revision=0,
        )
    return found


async def candles_of(ticks: TickStore, interval: CandleInterval, market: str = "kalshi:A") -> list[Candle]:
    return list((await ticks.list_candles(market, interval, EVERYTHING, None, 10_000)).items)


@pytest.mark.parametrize("seed", range(6))
async def test_shuffled_and_repeated_rows_give_the_candles_of_a_plain_aggregation(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore, lease: Lease, seed: int
) -> None:
    seeded = random.Random(seed)
    rows: list[Quote | Trade] = []
    for n in range(400):
        at = samples.t0 + seeded.randrange(3 * samples.hour)
        venue_time = None if seeded.random() < 0.3 else at - seeded.randrange(2 * samples.minute)
        bid, ask = (None if seeded.random() < 0.1 else seeded.randrange(1, 100) * 10_000 for _ in range(2))
        if n % 3:
            rows.append(samples.quote(n, at=at, bid=bid, ask=ask, venue_time=venue_time))
        else:
            price, block = seeded.randrange(1, 100) * 10_000, seeded.random() < 0.1
            rows.append(samples.trade(f"t{n}", at=at, price=price, venue_time=venue_time, block=block))
    rows += seeded.sample(rows, 80)
    seeded.shuffle(rows)
    stored: list[Quote | Trade] = []

    def remember(new: Sequence[Quote | Trade]) -> Decision:
        stored.extend(new)
        return Decision()

    while rows:
        size = seeded.randrange(1, 60)
        await pipeline.store_batch(lease, rows[:size], remember)
        del rows[:size]
    assert len(stored) == 400
    for interval in CandleInterval:
        expected = plain_aggregation(stored, interval)
        found = await candles_of(ticks, interval)
        assert [c.start_time_us for c in found] == sorted(expected)
        for candle in found:
            assert _without_revision(candle) == _without_revision(expected[candle.start_time_us])


async def test_an_ended_bucket_that_late_data_changes_gets_the_next_revision(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore, lease: Lease
) -> None:
    t0 = samples.t0
    await _store(pipeline, lease, samples.quote(1, at=t0, bid=400_000))
    await _store(pipeline, lease, samples.quote(2, at=t0 + 30_000_000, bid=410_000))
    await _store(pipeline, lease, samples.quote(3, at=t0 + 61_000_000, bid=420_000))
    minutes = await candles_of(ticks, CandleInterval.MINUTE)
    assert [c.revision for c in minutes] == [1, 1], "a running bucket has one revision however often it grows"
    # Late, and between: neither open nor close nor any extreme moves, so nobody's candle changed.
    await _store(pipeline, lease, samples.quote(4, at=t0 + 62_000_000, venue_time=t0 + 10_000_000, bid=405_000))
    assert (await candles_of(ticks, CandleInterval.MINUTE))[0].revision == 1
    await _store(pipeline, lease, samples.quote(5, at=t0 + 63_000_000, venue_time=t0 + 59_000_000, bid=430_000))
    late, running = await candles_of(ticks, CandleInterval.MINUTE)
    assert late.bid == Ohlc(400_000, 430_000, 400_000, 430_000)
    assert (late.revision, running.revision) == (2, 1)
    (hour,) = await candles_of(ticks, CandleInterval.HOUR)
    assert hour.revision == 1


async def test_a_repeated_trade_adds_no_volume(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore, lease: Lease
) -> None:
    for _ in range(3):
        await _store(pipeline, lease, samples.trade("t1", size=5_000_000))
    (day,) = await candles_of(ticks, CandleInterval.DAY)
    assert (day.volume_micros, day.trade_count) == (5_000_000, 1)


@pytest.mark.parametrize("size", [1, 5, 16, 53])
async def test_pages_of_candles_are_the_whole_list(
    samples: Any, pipeline: PostgresPipelineStore, ticks: TickStore, lease: Lease, size: int
) -> None:
    batch = [samples.quote(n, at=samples.t0 + n * samples.minute) for n in range(60)]
    await pipeline.store_batch(lease, batch, lambda _: Decision())
    full = await candles_of(ticks, CandleInterval.MINUTE)
    assert len(full) == 60
    paged: list[Candle] = []
    after = None
    while True:
        page = await ticks.list_candles("kalshi:A", CandleInterval.MINUTE, EVERYTHING, after, size)
        paged += page.items
        after = page.next_key
        if after is None:
            break
    assert paged == full


async def _store(pipeline: PostgresPipelineStore, lease: Lease, tick: Quote | Trade) -> None:
    await pipeline.store_batch(lease, [tick], lambda _: Decision())


def _without_revision(candle: Candle) -> tuple[object, ...]:
    return (
        candle.market_id,
        candle.start_time_us,
        candle.trade,
        candle.bid,
        candle.ask,
        candle.volume_micros,
        candle.trade_count,
    )
