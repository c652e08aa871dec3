"""The prices that the simulated coin series are about."""

from dataclasses import replace

import pytest

from oddstream_server.domain.market import is_underlying
from oddstream_server.domain.quote import Quote
from oddstream_server.domain.signal import SignalEventType
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from oddstream_server.strategies.registry import Registry
from oddstream_server.venues.simulated import Feed, SimulatedConfig, SimulatedVenue, World
from tests.emulator.collecting import CollectingSink, following

pytestmark = pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines

SECOND = 1_000_000
QUARTER = 900 * SECOND
START_US = 1_795_000_500_000_000
OPEN_US = START_US // QUARTER * QUARTER
CONFIG = SimulatedConfig(
    seed=4, kinds=("SIMCOIN15M",), events=1, start_time_us=OPEN_US, speed=None, gap_interval_us=None
)


def test_the_price_ends_on_the_side_of_the_strike_that_the_market_pays() -> None:
    for number in range(3):
        start_us = OPEN_US + number * QUARTER
        world = World(replace(CONFIG, start_time_us=start_us, voids_ppm=0, amendments_ppm=0), start_us)
        (_, (market,)), *_ = [entry for entry in world.catalog() if entry[1][0].open_time_us == start_us]
        world.advance(start_us + QUARTER - 1)
        ((instrument_id, price),) = world.prices()
        assert market.strike is not None
        assert market.strike.floor_micros is not None
        assert instrument_id == market.strike.underlying_id
        assert is_underlying(instrument_id)
        world.advance(start_us + 2 * QUARTER)
        update = world.settlement_of(market.market_id)
        assert update is not None
        assert update.settlement is not None
        assert (update.settlement.yes_payout_micros == 1_000_000) == (price > market.strike.floor_micros)


async def test_they_are_told_at_the_interval_and_not_at_all_by_default() -> None:
    told = []
    for interval_us in (None, SECOND):
        config = replace(CONFIG, run_for_us=20 * SECOND, underlying_interval_us=interval_us)
        venue, sink = SimulatedVenue(config, lambda: START_US), CollectingSink()
        reference = Feed(World(config, OPEN_US)).advance(OPEN_US + 20 * SECOND)
        async with following(venue, sink):
            await sink.until(
                lambda s=sink, r=reference: (
                    s.trades + [q for q in s.quotes if not is_underlying(q.market_id)]  # type: ignore[misc]  # bound now
                    and len(s.items) >= len(r)
                ),
                "the whole span came",
            )
        told.append([q for q in sink.quotes if is_underlying(q.market_id)])
    assert told[0] == []
    assert len(told[1]) >= 18
    assert all(q.bid_price_micros == q.ask_price_micros for q in told[1])


def test_the_decay_of_a_quarter_of_an_hour_is_signalled_live() -> None:
    feed = Feed(World(CONFIG, OPEN_US))
    runner = StrategyRunner([Registry().configure("decay.expiry", {"minimum_edge_micros": 10_000})])
    for page in feed.pages():
        runner.offer_catalog(page.events, page.markets)
    kinds = set()
    for second in range(1, 700):
        items = [i for i in feed.advance(OPEN_US + second * SECOND) if isinstance(i, Quote)]
        for event in runner.decide([*items, *feed.prices()]).events:
            kinds.add(event.type)
            assert event.signal.fair_value_micros is not None
        runner.commit()
    assert SignalEventType.CREATED in kinds
