"""The Polymarket adapter against a Polymarket that a simulated world plays, over real sockets, with faults."""

import time
from dataclasses import replace
from typing import Any

import pytest

from oddstream_server.application.ports import SettlementUpdate
from oddstream_server.domain.errors import Unavailable
from oddstream_server.domain.market import Declared, Market, MarketState, Settlement
from oddstream_server.domain.quote import FeedState, FeedStatus, OrderBook
from oddstream_server.venues.http import HttpConfig
from oddstream_server.venues.polymarket import PolymarketAdapter, PolymarketConfig
from oddstream_server.venues.simulated import SimulatedConfig
from oddstream_server.venues.socket import SocketConfig
from tests.emulator import faults
from tests.emulator.collecting import CollectingSink, following
from tests.emulator.faults import Fault
from tests.emulator.polymarket import PolymarketEmulator
from tests.emulator.polymarket_rows import condition_id, gamma_id, neg_risk, token_id
from tests.emulator.stage import Stage

# amendments: Polymarket has none after a resolution
WORLD = SimulatedConfig(seed=12, events=9, gap_interval_us=None, voids_ppm=200_000, amendments_ppm=0, depth_levels=5)
QUICK_HTTP = HttpConfig(timeout_s=5, attempts=4, backoff_initial_s=0.01, backoff_maximum_s=0.05)
QUICK_SOCKET = SocketConfig(
    text_ping="PING",
    text_pong="PONG",
    stale_after_s=30,
    backoff_initial_s=0.02,
    backoff_maximum_s=0.1,
    quiet_flush_s=0.005,
    resnapshot_wait_s=5,
)


def a_stage(config: SimulatedConfig = WORLD) -> Stage:
    """A world at about the present, of whose five-minute events one ended two minutes ago."""
    five_minutes_us = 300_000_000
    last_end_us = time.time_ns() // 1_000 // five_minutes_us * five_minutes_us
    return Stage(config, last_end_us + 120_000_000)


@pytest.fixture
def stage() -> Stage:
    return a_stage()


def config_for(venue: PolymarketEmulator, **changes: Any) -> PolymarketConfig:
    settings: dict[str, Any] = {
        "gamma_url": venue.gamma_url,
        "clob_url": venue.clob_url,
        "data_url": venue.data_url,
        "ws_url": venue.ws_url,
        "http": QUICK_HTTP,
        "socket": QUICK_SOCKET,
        "requests_per_s": 100_000.0,
        "request_burst": 100_000.0,
        "status_interval_s": 0.3,
    }
    return PolymarketConfig(**(settings | changes))


def ours(market_id: str) -> str:
    return f"polymarket:{condition_id(market_id)}"


def open_markets(stage: Stage) -> dict[str, Market]:
    """The stage's markets that aren't settled, by the adapter's id."""
    return {ours(m.market_id): m for m in stage.markets() if m.state is not MarketState.SETTLED}


def payout_of(settlement: Settlement | None) -> int | None:
    if settlement is None:
        return None
    return 500_000 if settlement.void else settlement.yes_payout_micros


def _sides(book: OrderBook | None) -> tuple[Any, Any] | None:
    return None if book is None else (book.bids, book.asks)


def differing_books(adapter: PolymarketAdapter, stage: Stage, market_ids: list[str]) -> list[str]:
    """Markets of the stage whose book the adapter has otherwise."""
    return [
        market_id
        for market_id in market_ids
        if _sides(adapter.order_book(ours(market_id))) != _sides(stage.world.order_book(market_id))
    ]


async def subscribed(adapter: PolymarketAdapter, sink: CollectingSink, stage: Stage) -> list[str]:
    """Discover, and follow every market that is open; the stage's ids of them."""
    await adapter.discover(sink)
    by_id = {ours(m.market_id): m.market_id for m in stage.markets()}
    markets = [m for m in sink.markets.values() if m.state is MarketState.OPEN]
    await adapter.subscribe(markets)
    return [by_id[m.market_id] for m in markets]


# --- discovery --------------------------------------------------------------------------------------------------------


async def test_discovery_finds_every_open_market_over_many_pages(stage: Stage) -> None:
    async with PolymarketEmulator(stage) as venue:
        adapter, sink = PolymarketAdapter(config_for(venue, page_limit_events=2)), CollectingSink()
        assert await adapter.reachable()
        report = await adapter.discover(sink)
        await adapter.close()
        pages = [r for r in venue.faults.seen("/events/keyset") if ("limit", "2") in r.query]
        assert len(pages) > 3, "the pass didn't need several pages"

    wanted = {
        ours(m.market_id): m
        for _, markets in stage.entries()
        if not all(m.state is MarketState.SETTLED for m in markets)
        for m in markets
    }
    assert sink.markets.keys() == wanted.keys()
    assert report.markets == len(wanted)
    assert sink.quarantined == []
    for market_id, market in sink.markets.items():
        truth = wanted[market_id]
        assert market.state is (MarketState.OPEN if truth.state is MarketState.OPEN else MarketState.PAUSED)
        assert [o.label for o in market.outcomes] == [o.label for o in truth.outcomes]
        assert [o.venue_instrument_id for o in market.outcomes] == [token_id(truth.market_id, i) for i in (0, 1)]
        assert min(r.tick_micros for r in market.price_ranges) == min(r.tick_micros for r in truth.price_ranges)
        assert (market.open_time_us, market.close_time_us) == (truth.open_time_us, truth.close_time_us)
        assert market.rules_text == truth.rules_text
        assert market.taker_delay_us == truth.taker_delay_us
        fee, own = truth.fee_schedules[0], market.fee_schedules[-1]
        assert own.taker_rate_ppm == fee.taker_rate_ppm * fee.multiplier_ppm // 1_000_000
        assert own.maker_rate_ppm == 0
    for event, _ in stage.entries():
        found = sink.events.get(f"polymarket:{gamma_id(event.event_id)}")
        if found is not None:
            declared = Declared.YES if neg_risk(event) else Declared.UNKNOWN
            assert (found.exclusivity, found.exhaustiveness) == (declared, declared)


HTTP_FAULTS: dict[str, tuple[Fault, ...]] = {
    "429 with Retry-After": (faults.status(429, retry_after="0"),),
    "429 with seconds in its body": (faults.status(429, body={"error": "slow down", "retry_after_seconds": 0}),),
    "429 without": (faults.status(429),),
    "425 while the engine restarts": (faults.status(425),),
    "503": (faults.status(503),),
    "an HTML page as 502": (faults.html_page(502),),
    "an HTML page as 200": (faults.html_page(200),),
    "a dropped connection": (faults.dropped(),),
}


@pytest.mark.parametrize("fault", HTTP_FAULTS)
async def test_discovery_survives_a_fault_of_the_venue(stage: Stage, fault: str) -> None:
    async with PolymarketEmulator(stage) as venue:
        adapter, sink = PolymarketAdapter(config_for(venue)), CollectingSink()
        venue.faults.plan("/events/keyset", *HTTP_FAULTS[fault])
        await adapter.discover(sink)
        await adapter.close()
        assert venue.faults.pending == 0, "the fault was never met"
    assert open_markets(stage).keys() <= sink.markets.keys()


async def test_a_venue_that_stays_away_is_told_as_unavailable(stage: Stage) -> None:
    async with PolymarketEmulator(stage) as venue:
        adapter, sink = PolymarketAdapter(config_for(venue)), CollectingSink()
        venue.faults.stand("/events/keyset", faults.html_page(503))
        assert not await adapter.reachable()
        with pytest.raises(Unavailable):
            await adapter.discover(sink)
        await adapter.close()


async def test_a_cursor_that_repeats_ends_the_pass_and_is_told(stage: Stage) -> None:
    async with PolymarketEmulator(stage) as venue:
        adapter, sink = PolymarketAdapter(config_for(venue, page_limit_events=2)), CollectingSink()
        venue.faults.stand("/events/keyset", faults.altered(lambda body: {**body, "next_cursor": "MjA="}))
        await adapter.discover(sink)
        await adapter.close()
        assert len(venue.faults.seen("/events/keyset")) <= 3
    assert [row.reason for row in sink.quarantined] == ["page_repeated"]


async def test_a_page_that_repeats_under_new_cursors_ends_the_pass_and_is_told(stage: Stage) -> None:
    first: list[Any] = []

    def same(body: Any) -> Any:
        first.append(body)  # the second one says that the cursor is unknown; the first comes again instead
        return {**first[0], "next_cursor": f"cursor {len(first)}"}

    async with PolymarketEmulator(stage) as venue:
        adapter, sink = PolymarketAdapter(config_for(venue, page_limit_events=2)), CollectingSink()
        venue.faults.stand("/events/keyset", faults.altered(same))
        await adapter.discover(sink)
        await adapter.close()
        assert len(venue.faults.seen("/events/keyset")) == 2
    assert [row.reason for row in sink.quarantined] == ["page_repeated"]


async def test_a_poison_row_is_quarantined_alone(stage: Stage) -> None:
    poisoned: list[str] = []

    def poison(body: Any) -> Any:
        market = body["events"][0]["markets"][0]
        market["clobTokenIds"] = '["1"'
        poisoned.append(f"polymarket:{market['conditionId']}")
        body["events"].append(None)
        return body

    async with PolymarketEmulator(stage) as venue:
        adapter, sink = PolymarketAdapter(config_for(venue)), CollectingSink()
        venue.faults.plan("/events/keyset", faults.altered(poison))
        report = await adapter.discover(sink)
        await adapter.close()
    assert sorted(row.reason for row in sink.quarantined) == ["not_an_object", "not_json"]
    assert report.quarantined == 2
    assert open_markets(stage).keys() - sink.markets.keys() == set(poisoned)


async def test_markets_that_closed_since_the_last_pass_are_found_with_their_results() -> None:
    stage = a_stage(replace(WORLD, kinds=("SIMPAIR", "SIMTHREE"), events=4))
    async with PolymarketEmulator(stage) as venue:
        adapter, sink = PolymarketAdapter(config_for(venue)), CollectingSink()
        await adapter.discover(sink)
        before = {ours(m.market_id): m for m in stage.markets() if m.state is MarketState.OPEN}
        stage.play(400_000_000)
        over = {ours(m.market_id): m for m in stage.markets() if m.state is MarketState.SETTLED}
        over = {k: m for k, m in over.items() if k in before}
        assert over
        sink.items.clear()
        await adapter.discover(sink)
        await adapter.close()
    for market_id, truth in over.items():
        found = sink.markets[market_id]
        assert found.state is MarketState.SETTLED
        assert payout_of(found.settlement) == payout_of(truth.settlement)


# --- the socket -------------------------------------------------------------------------------------------------------


async def test_following_rebuilds_the_worlds_books_and_trades(stage: Stage) -> None:
    async with PolymarketEmulator(stage) as venue:
        adapter = PolymarketAdapter(config_for(venue, markets_per_connection=10))
        sink = CollectingSink()
        market_ids = await subscribed(adapter, sink, stage)
        async with following(adapter, sink):
            await sink.until(lambda: not differing_books(adapter, stage, market_ids), "all books came")
            assert venue.handshakes == -(-len(market_ids) // 10)
            earlier = len(stage.trades)
            await venue.play(100_000_000)
            await sink.until(lambda: not differing_books(adapter, stage, market_ids), "the books are the world's")
            printed = [t for t in list(stage.trades)[earlier:] if t.market_id in market_ids]
            assert len(printed) > 50
            await sink.until(lambda: len(sink.trades) >= len(printed), "all trades came")
    assert {(t.market_id, t.price_micros, t.size_micros, t.taker_outcome_index) for t in sink.trades} == {
        (ours(t.market_id), t.fill.price_micros, t.fill.size_micros, 0 if t.fill.taker_bought else 1) for t in printed
    }
    assert len({t.source_key for t in sink.trades}) == len(printed)
    assert FeedState.GAP not in sink.states
    assert sink.quarantined == []
    assert all(
        q.bid_price_micros < q.ask_price_micros
        for q in sink.quotes
        if q.bid_price_micros is not None and q.ask_price_micros is not None
    )


async def test_a_market_that_resolves_while_it_is_followed_is_told_with_its_payout() -> None:
    stage = a_stage(replace(WORLD, kinds=("SIMPAIR",), events=3))
    async with PolymarketEmulator(stage) as venue:
        adapter, sink = PolymarketAdapter(config_for(venue)), CollectingSink()
        market_ids = await subscribed(adapter, sink, stage)
        async with following(adapter, sink):
            await sink.until(lambda: not differing_books(adapter, stage, market_ids), "all books came")
            await venue.play(700_000_000)

            def settled() -> dict[str, SettlementUpdate]:
                return {u.market_id: u for u in sink.settlements.values() if u.state is MarketState.SETTLED}

            await sink.until(lambda: {ours(m) for m in market_ids} <= settled().keys(), "all results came")
            for market_id in market_ids:
                truth = stage.world.market(market_id)
                assert truth is not None
                assert payout_of(settled()[ours(market_id)].settlement) == payout_of(truth.settlement)


async def test_lost_changes_are_noticed_by_the_best_prices_and_the_books_taken_anew(stage: Stage) -> None:
    async with PolymarketEmulator(stage) as venue:
        adapter, sink = PolymarketAdapter(config_for(venue)), CollectingSink()
        market_ids = await subscribed(adapter, sink, stage)
        busy = [m for m in market_ids if "COIN15M" in m]
        async with following(adapter, sink):
            await sink.until(lambda: not differing_books(adapter, stage, market_ids), "all books came")
            venue.lose_book_frames(200)
            await venue.play(60_000_000)
            await sink.until(lambda: FeedState.GAP in sink.states, "the loss was noticed")
            await venue.play(10_000_000)
            await sink.until(lambda: not differing_books(adapter, stage, busy), "the busy books are the world's again")
            await sink.until(lambda: sink.states[-1] is FeedState.LIVE, "the feed is live again")
        assert venue.handshakes == 1


async def test_a_dropped_connection_comes_back_with_new_books_and_the_missed_trades(stage: Stage) -> None:
    async with PolymarketEmulator(stage) as venue:
        adapter, sink = PolymarketAdapter(config_for(venue)), CollectingSink()
        market_ids = await subscribed(adapter, sink, stage)
        async with following(adapter, sink):
            await sink.until(lambda: not differing_books(adapter, stage, market_ids), "all books came")
            first = max(q.epoch for q in sink.quotes)
            venue.drop_connections()
            await sink.until(lambda: FeedState.DOWN in sink.states, "the loss was told")
            stage.play(3_000_000)
            await sink.until(lambda: sink.states[-1] is FeedState.LIVE and venue.handshakes == 2, "it came back")
            await sink.until(lambda: not differing_books(adapter, stage, market_ids), "the books are the world's again")
        assert FeedState.GAP in sink.states
        assert sink.quotes[-1].epoch > first


async def test_a_socket_that_answers_pings_but_brings_no_data_is_found_out(stage: Stage) -> None:
    short = replace(QUICK_SOCKET, stale_after_s=0.5, stale_after_maximum_s=0.5, ping_interval_s=0.1)
    async with PolymarketEmulator(stage) as venue:
        adapter, sink = PolymarketAdapter(config_for(venue, socket=short)), CollectingSink()
        market_ids = await subscribed(adapter, sink, stage)
        async with following(adapter, sink):
            await sink.until(lambda: not differing_books(adapter, stage, market_ids), "all books came")
            venue.go_half_open()
            pings = venue.text_pings
            stage.play(1_000_000)
            await sink.until(lambda: FeedState.STALE in sink.states, "the silence was noticed")
            assert venue.text_pings > pings, "the socket was alive all the while"
            await sink.until(lambda: FeedState.GAP in sink.states, "the books were taken anew")
            await sink.until(lambda: not differing_books(adapter, stage, market_ids), "the books are the world's again")
        told = [s for s in sink.states if s is not FeedState.LIVE]
        assert told[:2] == [FeedState.STALE, FeedState.GAP]


async def test_a_new_set_of_markets_takes_effect_on_the_open_connection(stage: Stage) -> None:
    async with PolymarketEmulator(stage) as venue:
        adapter, sink = PolymarketAdapter(config_for(venue)), CollectingSink()
        market_ids = await subscribed(adapter, sink, stage)
        async with following(adapter, sink):
            await sink.until(lambda: not differing_books(adapter, stage, market_ids), "all books came")
            half = market_ids[::2]
            await adapter.subscribe([sink.markets[ours(m)] for m in half])
            await venue.play(2_000_000)
            await sink.until(lambda: not differing_books(adapter, stage, half), "the rest goes on")
            assert all(adapter.order_book(ours(m)) is None for m in set(market_ids) - set(half))
            await adapter.subscribe([sink.markets[ours(m)] for m in market_ids])
            await sink.until(lambda: not differing_books(adapter, stage, market_ids), "all books came back")
        assert venue.handshakes == 1


async def test_frames_that_cannot_be_read_are_quarantined_and_the_feed_goes_on(stage: Stage) -> None:
    async with PolymarketEmulator(stage) as venue:
        adapter, sink = PolymarketAdapter(config_for(venue)), CollectingSink()
        market_ids = await subscribed(adapter, sink, stage)
        async with following(adapter, sink):
            await sink.until(lambda: not differing_books(adapter, stage, market_ids), "all books came")
            for poison in ("<html>", '{"event_type":"surprise"}', '[{"event_type":"book","asset_id":7}]'):
                venue.connections[0].put(poison)
            await venue.play(2_000_000)
            await sink.until(lambda: len(sink.quarantined) == 3, "all three were told")
            await sink.until(lambda: not differing_books(adapter, stage, market_ids), "the books are the world's")
        assert {row.reason for row in sink.quarantined} == {"not_json", "enum_unknown", "field_type"}
        assert [s for s in sink.of(FeedStatus) if s.state is FeedState.DOWN] == []
