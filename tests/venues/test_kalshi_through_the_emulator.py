"""The Kalshi adapter against a Kalshi that a simulated world plays, over real sockets, with everything going wrong."""

import time
from dataclasses import replace
from typing import Any

import pytest

from oddstream_server.application.ports import SettlementUpdate
from oddstream_server.domain.errors import Unavailable
from oddstream_server.domain.market import Declared, MarketState, SettlementState
from oddstream_server.domain.quote import FeedState, FeedStatus, OrderBook
from oddstream_server.venues.http import HttpConfig
from oddstream_server.venues.kalshi import KalshiAdapter, KalshiConfig
from oddstream_server.venues.simulated import SimulatedConfig
from oddstream_server.venues.socket import SocketConfig
from tests.emulator import faults
from tests.emulator.collecting import CollectingSink, following
from tests.emulator.faults import Fault
from tests.emulator.kalshi import KalshiEmulator
from tests.emulator.signatures import TestKey
from tests.emulator.stage import Stage

KEY = TestKey()
WORLD = SimulatedConfig(seed=11, events=9, gap_interval_us=None, voids_ppm=200_000, amendments_ppm=0, depth_levels=5)
QUICK_HTTP = HttpConfig(timeout_s=5, attempts=4, backoff_initial_s=0.01, backoff_maximum_s=0.05)
QUICK_SOCKET = SocketConfig(
    stale_after_s=30, backoff_initial_s=0.02, backoff_maximum_s=0.1, quiet_flush_s=0.005, resnapshot_wait_s=5
)


def a_stage(config: SimulatedConfig = WORLD, settled_s: int = 120) -> Stage:
    """A world at about the present, of whose five-minute events one ended so many seconds ago."""
    five_minutes_us = 300_000_000
    last_end_us = time.time_ns() // 1_000 // five_minutes_us * five_minutes_us
    return Stage(config, last_end_us + settled_s * 1_000_000)


def config_for(venue: KalshiEmulator, **changes: Any) -> KalshiConfig:
    settings: dict[str, Any] = {
        "rest_url": venue.rest_url,
        "ws_url": venue.ws_url,
        "key_id": KEY.key_id,
        "private_key_pem": KEY.private_key_pem,
        "http": QUICK_HTTP,
        "socket": QUICK_SOCKET,
        "tokens_per_s": 100_000.0,
        "token_burst": 100_000.0,
        "poll_interval_s": 0.05,
        "status_interval_s": 0.2,
    }
    return KalshiConfig(**(settings | changes))


@pytest.fixture
def stage() -> Stage:
    return a_stage()


def _ticker(market_id: str) -> str:
    return market_id.partition(":")[2]


def as_kalshi(book: OrderBook | None) -> tuple[Any, Any] | None:
    return None if book is None else (book.bids, book.asks)


def differing_books(adapter: KalshiAdapter, stage: Stage, tickers: list[str]) -> list[str]:
    """Tickers whose book isn't the world's."""
    return [
        ticker
        for ticker in tickers
        if as_kalshi(adapter.order_book(f"kalshi:{ticker}")) != as_kalshi(stage.world.order_book(f"simulated:{ticker}"))
    ]


async def subscribed(adapter: KalshiAdapter, sink: CollectingSink) -> list[str]:
    """Discover, and follow every market that is open."""
    await adapter.discover(sink)
    markets = [m for m in sink.markets.values() if m.state is MarketState.OPEN]
    await adapter.subscribe(markets)
    return [m.venue_market_id for m in markets]


# --- discovery --------------------------------------------------------------------------------------------------------


async def test_discovery_finds_the_worlds_whole_catalogue_over_many_pages(stage: Stage) -> None:
    async with KalshiEmulator(stage, KEY) as venue:
        adapter, sink = KalshiAdapter(config_for(venue, page_limit_events=2, page_limit_markets=3)), CollectingSink()
        assert await adapter.reachable()
        report = await adapter.discover(sink)
        await adapter.close()
        assert len(venue.faults.seen("/events")) > 4, "the pass didn't need several pages"

    wanted = {m.venue_market_id: m for m in stage.markets() if m.state in (MarketState.OPEN, MarketState.SETTLED)}
    found = {m.venue_market_id: m for m in sink.markets.values()}
    assert {t for t in wanted if wanted[t].state is MarketState.SETTLED}, "no market had settled"
    assert found.keys() == wanted.keys()
    assert report.markets == len(found)
    assert sink.quarantined == []
    for ticker, market in found.items():
        truth = wanted[ticker]
        assert market.state is truth.state
        assert market.price_ranges == truth.price_ranges
        # The wire names a strike's bounds and not what they are of.
        assert market.strike == (truth.strike and replace(truth.strike, underlying_id=""))
        assert (market.open_time_us, market.close_time_us) == (truth.open_time_us, truth.close_time_us)
        assert market.series_id == truth.series_id
        assert market.rules_text == truth.rules_text
        assert [o.label for o in market.outcomes] == [truth.outcomes[0].label, truth.outcomes[1].label]
        fees = {(f.taker_rate_ppm * f.multiplier_ppm // 1_000_000, f.maker_rate_ppm) for f in market.fee_schedules[-1:]}
        taker = truth.fee_schedules[0].taker_rate_ppm * truth.fee_schedules[0].multiplier_ppm // 1_000_000
        assert fees == {(taker, truth.fee_schedules[0].maker_rate_ppm)}
        assert (market.settlement is None) == (truth.settlement is None)
        if market.settlement and truth.settlement:
            paid = 500_000 if truth.settlement.void else truth.settlement.yes_payout_micros
            assert market.settlement.yes_payout_micros == paid
            assert market.settlement.state is SettlementState.FINAL
    events = {e.venue_event_id: e for e in sink.events.values()}
    for event, markets in stage.entries():
        if any(m.state is MarketState.OPEN for m in markets):
            assert events[event.venue_event_id].exclusivity is event.exclusivity
            assert events[event.venue_event_id].exhaustiveness is Declared.UNKNOWN


HTTP_FAULTS: dict[str, tuple[Fault, ...]] = {
    "429 with Retry-After": (faults.status(429, retry_after="0"),),
    "429 without": (faults.status(429), faults.status(429)),
    "503": (faults.status(503),),
    "an HTML page as 502": (faults.html_page(502),),
    "an HTML page as 200": (faults.html_page(200),),
    "a slow answer": (faults.slow(0.3),),
    "a dropped connection": (faults.dropped(),),
    "one after the other": (faults.status(500), faults.html_page(503), faults.dropped()),
}


@pytest.mark.parametrize("path", ["/series", "/events", "/markets"])
@pytest.mark.parametrize("fault", HTTP_FAULTS)
async def test_discovery_survives_a_fault_of_the_venue(stage: Stage, path: str, fault: str) -> None:
    async with KalshiEmulator(stage, KEY) as venue:
        adapter, sink = KalshiAdapter(config_for(venue)), CollectingSink()
        venue.faults.plan(path, *HTTP_FAULTS[fault])
        await adapter.discover(sink)
        await adapter.close()
        assert venue.faults.pending == 0, "the fault was never met"
    assert {m.venue_market_id for m in sink.markets.values()} == {
        m.venue_market_id for m in stage.markets() if m.state in (MarketState.OPEN, MarketState.SETTLED)
    }


async def test_a_retry_after_is_waited_for(stage: Stage) -> None:
    async with KalshiEmulator(stage, KEY) as venue:
        adapter, sink = KalshiAdapter(config_for(venue)), CollectingSink()
        venue.faults.plan("/series", faults.status(429, retry_after="1"))
        began = time.monotonic()
        await adapter.discover(sink)
        await adapter.close()
    assert time.monotonic() - began >= 1.0


async def test_an_answer_that_takes_too_long_is_given_up_and_asked_for_again(stage: Stage) -> None:
    async with KalshiEmulator(stage, KEY) as venue:
        adapter = KalshiAdapter(config_for(venue, http=replace(QUICK_HTTP, timeout_s=0.3)))
        sink = CollectingSink()
        venue.faults.plan("/events", faults.slow(30))
        await adapter.discover(sink)
        await adapter.close()
        passes = [r for r in venue.faults.seen("/events") if ("status", "open") in r.query]
        assert len(passes) == 2


async def test_a_venue_that_stays_away_opens_the_breaker_and_comes_back_by_itself(stage: Stage) -> None:
    async with KalshiEmulator(stage, KEY) as venue:
        adapter = KalshiAdapter(config_for(venue, breaker_threshold=3, breaker_rest_s=0.2))
        sink = CollectingSink()
        venue.faults.stand("/series", faults.status(503))
        with pytest.raises(Unavailable):
            await adapter.discover(sink)
        assert adapter.breaker_state() == "open"
        venue.faults.clear()
        await sink.until(lambda: adapter.breaker_state() != "open", "the breaker lets a probe through")
        await adapter.discover(sink)
        assert adapter.breaker_state() == "closed"
        await adapter.close()
    assert sink.markets


async def test_a_cursor_that_repeats_ends_the_pass_and_is_told(stage: Stage) -> None:
    first: list[str] = []

    def repeat(body: Any) -> Any:
        if not any("markets" in event for event in body["events"]):
            return body  # the pass's own pages alone
        first.append(body["cursor"])
        return {**body, "cursor": first[0]}

    async with KalshiEmulator(stage, KEY) as venue:
        adapter, sink = KalshiAdapter(config_for(venue, page_limit_events=2)), CollectingSink()
        venue.faults.stand("/events", faults.altered(repeat))
        await adapter.discover(sink)
        await adapter.close()
        assert len([r for r in venue.faults.seen("/events") if ("status", "open") in r.query]) <= 3
    assert [row.reason for row in sink.quarantined] == ["page_repeated"]


async def test_a_poison_row_is_quarantined_alone(stage: Stage) -> None:
    poisoned: list[str] = []

    def poison(body: Any) -> Any:
        market = next(m for event in body["events"] for m in event["markets"])
        market["price_ranges"] = [{"start": "0.0000", "end": "1.0000", "step": "a cent"}]
        poisoned.append(market["ticker"])
        body["events"].append("not an event")
        return body

    async with KalshiEmulator(stage, KEY) as venue:
        adapter, sink = KalshiAdapter(config_for(venue)), CollectingSink()
        venue.faults.plan("/events", faults.altered(poison))
        report = await adapter.discover(sink)
        await adapter.close()
    wanted = {m.venue_market_id for m in stage.markets() if m.state in (MarketState.OPEN, MarketState.SETTLED)}
    assert {m.venue_market_id for m in sink.markets.values()} == wanted - set(poisoned)
    assert sorted(row.reason for row in sink.quarantined) == ["not_an_object", "number_invalid"]
    assert report.quarantined == 2


async def test_markets_that_settled_before_the_cutoff_are_looked_up_in_the_archive(stage: Stage) -> None:
    async with KalshiEmulator(stage, KEY) as venue:
        adapter, sink = KalshiAdapter(config_for(venue)), CollectingSink()
        await subscribed(adapter, sink)
        over = [m for m in stage.markets() if m.state is MarketState.SETTLED]
        await adapter.subscribe([replace(sink.markets[f"kalshi:{m.venue_market_id}"], settlement=None) for m in over])
        venue.cutoff_us = stage.now_us
        sink.items.clear()
        async with following(adapter, sink):
            await sink.until(lambda: len(sink.settlements) == len(over), "the archive told the results")


# --- the socket -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_yes_price", [False, True])
async def test_following_rebuilds_the_worlds_books_trades_and_results(stage: Stage, use_yes_price: bool) -> None:
    async with KalshiEmulator(stage, KEY) as venue:
        adapter = KalshiAdapter(config_for(venue, use_yes_price=use_yes_price, tickers_per_command=7))
        sink = CollectingSink()
        tickers = await subscribed(adapter, sink)
        async with following(adapter, sink):
            await sink.until(lambda: not differing_books(adapter, stage, tickers), "all books came")
            earlier = len(stage.trades)
            await venue.play(200_000_000)  # past the close and the settlement of the five-minute event
            await sink.until(lambda: not differing_books(adapter, stage, tickers), "the books are the world's")
            expected = {
                (
                    _ticker(t.market_id),
                    t.fill.price_micros,
                    t.fill.size_micros,
                    0 if t.fill.taker_bought else 1,
                )
                for t in list(stage.trades)[earlier:]
                if _ticker(t.market_id) in tickers
            }
            assert len(expected) > 100
            await sink.until(lambda: len({t.source_key for t in sink.trades}) >= len(expected), "all trades came")
    assert {
        (_ticker(t.market_id), t.price_micros, t.size_micros, t.taker_outcome_index) for t in sink.trades
    } == expected
    assert FeedState.GAP not in sink.states
    assert sink.quarantined == []
    crossed = [
        q for q in sink.quotes if q.bid_price_micros and q.ask_price_micros and q.bid_price_micros >= q.ask_price_micros
    ]
    assert crossed == []


async def test_a_market_that_settles_while_it_is_followed_is_told_with_its_payout() -> None:
    stage = a_stage(replace(WORLD, kinds=("SIMPAIR",), events=2, amendments_ppm=0))
    async with KalshiEmulator(stage, KEY) as venue:
        adapter, sink = KalshiAdapter(config_for(venue)), CollectingSink()
        tickers = await subscribed(adapter, sink)
        sink.items.clear()
        async with following(adapter, sink):
            await sink.until(lambda: not differing_books(adapter, stage, tickers), "all books came")
            await venue.play(400_000_000)

            def final() -> list[SettlementUpdate]:
                return [
                    u for u in sink.settlements.values() if u.settlement and u.settlement.state is SettlementState.FINAL
                ]

            await sink.until(lambda: len(final()) == len(tickers), "every followed market settled")
            for update in final():
                truth = stage.world.market(update.market_id.replace("kalshi:", "simulated:"))
                assert truth is not None
                assert truth.settlement is not None
                assert update.settlement is not None
                paid = 500_000 if truth.settlement.void else truth.settlement.yes_payout_micros
                assert update.settlement.yes_payout_micros == paid


async def test_a_gap_in_the_sequence_is_found_told_and_mended(stage: Stage) -> None:
    async with KalshiEmulator(stage, KEY) as venue:
        adapter, sink = KalshiAdapter(config_for(venue)), CollectingSink()
        tickers = await subscribed(adapter, sink)
        async with following(adapter, sink):
            await sink.until(lambda: not differing_books(adapter, stage, tickers), "all books came")
            epochs = {q.epoch for q in sink.quotes}
            venue.lose_book_frames(3)
            await venue.play(5_000_000)
            await sink.until(lambda: sink.states[-2:] == [FeedState.GAP, FeedState.LIVE], "the gap was mended")
            await sink.until(lambda: not differing_books(adapter, stage, tickers), "the books are the world's again")
        gap = next(s for s in sink.of(FeedStatus) if s.state is FeedState.GAP)
        assert {m.partition(":")[2] for m in gap.market_ids} == set(tickers)
        assert gap.epoch > max(epochs)
        assert venue.handshakes == 1, "a gap is mended on the open connection"


async def test_a_dropped_connection_comes_back_with_new_books_and_another_epoch(stage: Stage) -> None:
    async with KalshiEmulator(stage, KEY) as venue:
        adapter, sink = KalshiAdapter(config_for(venue)), CollectingSink()
        tickers = await subscribed(adapter, sink)
        async with following(adapter, sink):
            await sink.until(lambda: not differing_books(adapter, stage, tickers), "all books came")
            first = max(q.epoch for q in sink.quotes)
            venue.drop_connections()
            await sink.until(lambda: FeedState.DOWN in sink.states, "the loss was told")
            stage.play(3_000_000)
            await sink.until(lambda: sink.states[-1] is FeedState.LIVE and venue.handshakes == 2, "it came back")
            await sink.until(lambda: not differing_books(adapter, stage, tickers), "the books are the world's again")
        assert FeedState.GAP in sink.states
        assert sink.quotes[-1].epoch > first


async def test_a_socket_that_answers_pings_but_brings_no_data_is_found_out(stage: Stage) -> None:
    short = replace(QUICK_SOCKET, stale_after_s=0.5, stale_after_maximum_s=0.5)
    async with KalshiEmulator(stage, KEY, ping_interval_s=0.1) as venue:
        adapter, sink = KalshiAdapter(config_for(venue, socket=short)), CollectingSink()
        tickers = await subscribed(adapter, sink)
        async with following(adapter, sink):
            await sink.until(lambda: not differing_books(adapter, stage, tickers), "all books came")
            venue.go_half_open()
            stage.play(1_000_000)
            await sink.until(lambda: FeedState.STALE in sink.states, "the silence was noticed")
            await sink.until(lambda: FeedState.GAP in sink.states, "the books were taken anew")
            await sink.until(lambda: not differing_books(adapter, stage, tickers), "the books are the world's again")
        told = [s for s in sink.states if s is not FeedState.LIVE]
        assert told[:2] == [FeedState.STALE, FeedState.GAP]


async def test_the_venues_ping_frames_are_answered(stage: Stage) -> None:
    async with KalshiEmulator(stage, KEY, ping_interval_s=0.02) as venue:
        adapter, sink = KalshiAdapter(config_for(venue)), CollectingSink()
        tickers = await subscribed(adapter, sink)
        async with following(adapter, sink):
            await sink.until(lambda: not differing_books(adapter, stage, tickers), "all books came")
            await sink.until(lambda: venue.connections[0].pings > 5, "several pings went out")
            assert venue.handshakes == 1


async def test_a_wrong_key_is_told_as_down_and_polling_carries_on(stage: Stage) -> None:
    async with KalshiEmulator(stage, KEY) as venue:
        adapter = KalshiAdapter(config_for(venue, private_key_pem=TestKey().private_key_pem))
        sink = CollectingSink()
        tickers = await subscribed(adapter, sink)
        async with following(adapter, sink):
            await sink.until(lambda: FeedState.DOWN in sink.states, "the refusal was told")
            await sink.until(lambda: not differing_books(adapter, stage, tickers), "polling brought the books")
        assert set(venue.refused_handshakes) == {"signature is wrong"}
        assert all(KEY.key_id not in s.detail for s in sink.of(FeedStatus))


async def test_a_new_set_of_markets_takes_effect_on_the_open_connection(stage: Stage) -> None:
    async with KalshiEmulator(stage, KEY) as venue:
        adapter, sink = KalshiAdapter(config_for(venue)), CollectingSink()
        tickers = await subscribed(adapter, sink)
        async with following(adapter, sink):
            await sink.until(lambda: not differing_books(adapter, stage, tickers), "all books came")
            half = tickers[::2]
            await adapter.subscribe([sink.markets[f"kalshi:{t}"] for t in half])
            await venue.play(2_000_000)
            await sink.until(lambda: not differing_books(adapter, stage, half), "the rest goes on")
            dropped = set(tickers) - set(half)
            assert all(adapter.order_book(f"kalshi:{t}") is None for t in dropped)
            await adapter.subscribe([sink.markets[f"kalshi:{t}"] for t in tickers])
            await venue.play(2_000_000)
            await sink.until(lambda: not differing_books(adapter, stage, tickers), "all books came back")
        assert venue.handshakes == 1


# --- polling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("books_need_auth", [False, True])
async def test_without_a_key_polling_brings_the_tops_of_the_books(stage: Stage, books_need_auth: bool) -> None:
    async with KalshiEmulator(stage, KEY, books_need_auth=books_need_auth) as venue:
        adapter = KalshiAdapter(config_for(venue, key_id=None, private_key_pem=None))
        sink = CollectingSink()
        tickers = await subscribed(adapter, sink)

        def tops_hold() -> bool:
            latest = {q.market_id: q for q in sink.quotes}
            for ticker in tickers:
                book, quote = stage.world.order_book(f"simulated:{ticker}"), latest.get(f"kalshi:{ticker}")
                assert book is not None
                if quote is None:
                    return False
                bid, ask = (book.bids or [None])[0], (book.asks or [None])[0]
                if (quote.bid_price_micros, quote.bid_size_micros) != (
                    (bid.price_micros, bid.size_micros) if bid else (None, None)
                ) or quote.ask_price_micros != (ask.price_micros if ask else None):
                    return False
            return True

        async with following(adapter, sink):
            await sink.until(tops_hold, "the first tops came")
            stage.play(20_000_000)
            await sink.until(tops_hold, "the tops are the world's again")
        assert venue.handshakes == 0
        assert sink.quarantined == []


async def test_a_trade_on_two_pages_is_pushed_once_and_none_is_missed(stage: Stage) -> None:
    last_page: list[Any] = []

    def overlap(body: Any) -> Any:
        rows = last_page[-2:] + body["trades"]
        last_page[:] = body["trades"]
        return {**body, "trades": rows}

    async with KalshiEmulator(stage, KEY) as venue:
        adapter = KalshiAdapter(config_for(venue, key_id=None, private_key_pem=None, page_limit_trades=5))
        sink = CollectingSink()
        tickers = await subscribed(adapter, sink)
        venue.faults.stand("/markets/trades", faults.altered(overlap))
        async with following(adapter, sink):
            await sink.until(lambda: bool(venue.faults.seen("/markets/trades")), "trades were asked for")
            earlier = len(stage.trades)
            # the poller asks from the present on, so the world has to be there
            stage.play(max(0, time.time_ns() // 1_000 - stage.now_us) + 60_000_000)
            wanted = {_ticker(t.market_id) for t in list(stage.trades)[earlier:]}
            assert wanted
            count = sum(
                1
                for t in stage.trades
                if _ticker(t.market_id) in tickers and t.time_us // 1_000_000 >= _first_min_ts(venue)
            )
            await sink.until(lambda: len(sink.trades) >= count, "all trades came")
            await sink.until(lambda: len(venue.faults.seen("/markets/trades")) > 30, "the pages were read again")
    keys = [t.source_key for t in sink.trades]
    assert len(keys) == len(set(keys))


def _first_min_ts(venue: KalshiEmulator) -> int:
    first = venue.faults.seen("/markets/trades")[0]
    return int(dict(first.query)["min_ts"])


async def test_polling_survives_an_outage_and_tells_it(stage: Stage) -> None:
    async with KalshiEmulator(stage, KEY) as venue:
        adapter = KalshiAdapter(config_for(venue, key_id=None, private_key_pem=None, breaker_rest_s=0.1))
        sink = CollectingSink()
        tickers = await subscribed(adapter, sink)
        async with following(adapter, sink):
            await sink.until(lambda: {_ticker(q.market_id) for q in sink.quotes} >= set(tickers), "quotes came")
            venue.faults.stand("/markets/orderbooks", faults.html_page(503))
            await sink.until(lambda: FeedState.DOWN in sink.states, "the outage was told")
            stage.play(1_000_000)
            venue.faults.clear()
            await sink.until(lambda: sink.states[-1] is FeedState.LIVE, "it came back")
        assert FeedState.GAP in sink.states
        assert sink.quotes[-1].epoch > sink.quotes[0].epoch
