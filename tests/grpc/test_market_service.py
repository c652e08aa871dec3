"""MarketService over a real channel, PostgreSQL and Redis."""

from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from oddstream.v1 import (
    candle_pb2,
    event_pb2,
    execution_pb2,
    feed_status_pb2,
    market_link_pb2,
    market_pb2,
    market_service_pb2,
    quote_pb2,
    settlement_pb2,
    time_range_pb2,
    venue_pb2,
)
from tests.grpc.running_server import World, failure_of, running
from tests.grpc.stored_world import (
    EVENT,
    LINK,
    MARKET,
    MARKETS,
    OTHER,
    QUIET,
    SECOND,
    SIMULATED,
    T0,
    StoredWorld,
    book,
)

pb = market_service_pb2


def at(instant_us: int) -> Timestamp:
    made = Timestamp()
    made.FromMicroseconds(instant_us)
    return made


async def ask(world: StoredWorld, name: str, request: Any) -> Any:
    return await getattr(world.server.markets, name)(request, metadata=world.server.auth)


async def fail(world: StoredWorld, name: str, request: Any) -> Any:
    return await failure_of(getattr(world.server.markets, name)(request, metadata=world.server.auth))


async def test_an_event_comes_with_what_was_declared_of_it(stored: StoredWorld) -> None:
    event = (await ask(stored, "GetEvent", pb.GetEventRequest(event_id=EVENT))).event
    assert event.event_id == EVENT
    assert event.venue == venue_pb2.VENUE_KALSHI
    assert list(event.market_ids) == [MARKET, QUIET]
    assert event.exclusivity.declaration == event_pb2.DECLARATION_YES
    assert event.exclusivity.source == "venue: mutually_exclusive"
    assert event.exhaustiveness.declaration == event_pb2.DECLARATION_UNKNOWN
    assert event.collateral_rule == event_pb2.COLLATERAL_RULE_MUTUALLY_EXCLUSIVE
    assert event.data_origin == venue_pb2.DATA_ORIGIN_LIVE
    listed = await ask(stored, "ListEvents", pb.ListEventsRequest())
    assert list(listed.events) == [event]


async def test_an_unknown_event_is_not_found_with_its_id(stored: StoredWorld) -> None:
    failure = await fail(stored, "GetEvent", pb.GetEventRequest(event_id="kalshi:NOPE"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "EVENT_NOT_FOUND")
    assert failure.details[-1].resource_name == "kalshi:NOPE"


async def test_a_market_has_all_that_an_order_needs(stored: StoredWorld) -> None:
    market = (await ask(stored, "GetMarket", pb.GetMarketRequest(market_id=MARKET))).market
    assert (market.market_id, market.venue_market_id, market.event_id) == (MARKET, MARKET[7:], EVENT)
    assert [(o.index, o.label, o.venue_instrument_id) for o in market.outcomes] == [
        (0, "Yes", MARKET[7:]),
        (1, "No", MARKET[7:]),
    ]
    assert market.state == market_pb2.MARKET_STATE_OPEN
    assert [(r.start_price_micros, r.end_price_micros, r.tick_size_micros) for r in market.price_ranges] == [
        (0, 1_000_000, 10_000)
    ]
    assert market.payout_micros == 1_000_000
    assert market.taker_delay.ToMicroseconds() == 250_000
    assert market.strike.relation == market_pb2.STRIKE_RELATION_BETWEEN
    assert (market.strike.floor_value_micros, market.strike.cap_value_micros) == (5_000_000, 9_000_000)
    assert market.fee_schedule.taker_rate_ppm == 70_000
    assert market.rules_text == "It rains at all."
    assert len(market.fee_schedules) == 1
    assert not market.HasField("settlement")
    assert not market.HasField("volume_micros")
    basic = pb.GetMarketRequest(market_id=MARKET, view=market_pb2.MARKET_VIEW_BASIC)
    assert (await ask(stored, "GetMarket", basic)).market.rules_text == ""


async def test_a_settled_market_tells_what_it_paid(stored: StoredWorld) -> None:
    market = (await ask(stored, "GetMarket", pb.GetMarketRequest(market_id=OTHER))).market
    assert market.state == market_pb2.MARKET_STATE_SETTLED
    assert market.settlement.state == settlement_pb2.SETTLEMENT_STATE_FINAL
    assert market.settlement.HasField("yes_payout_micros")
    assert market.settlement.yes_payout_micros == 0
    assert market.neg_risk
    assert not market.HasField("fee_schedule")


async def test_simulated_markets_are_marked(stored: StoredWorld) -> None:
    market = (await ask(stored, "GetMarket", pb.GetMarketRequest(market_id=SIMULATED))).market
    assert market.data_origin == venue_pb2.DATA_ORIGIN_SIMULATED


async def test_a_batch_comes_in_the_order_asked_for_or_not_at_all(stored: StoredWorld) -> None:
    wanted = [OTHER, MARKET, SIMULATED]
    found = await ask(stored, "BatchGetMarkets", pb.BatchGetMarketsRequest(market_ids=wanted))
    assert [m.market_id for m in found.markets] == wanted
    request = pb.BatchGetMarketsRequest(market_ids=[MARKET, "kalshi:NOPE"])
    failure = await fail(stored, "BatchGetMarkets", request)
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "MARKET_NOT_FOUND")
    assert failure.details[-1].resource_name == "kalshi:NOPE"


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
async def test_pages_of_any_size_make_the_whole_list(stored: StoredWorld, size: int) -> None:
    found: list[str] = []
    request = pb.ListMarketsRequest(page_size=size)
    while True:
        page = await ask(stored, "ListMarkets", request)
        assert len(page.markets) <= size
        found += [m.market_id for m in page.markets]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == sorted(MARKETS)


async def test_market_filters_are_joined_by_and_and_their_values_by_or(stored: StoredWorld) -> None:
    async def ids(**fields: Any) -> list[str]:
        page = await ask(stored, "ListMarkets", pb.ListMarketsRequest(filter=pb.MarketFilter(**fields)))
        return [m.market_id for m in page.markets]

    assert await ids(venues=[venue_pb2.VENUE_KALSHI, venue_pb2.VENUE_SIMULATED]) == [MARKET, QUIET, SIMULATED]
    assert await ids(venues=[venue_pb2.VENUE_KALSHI], text="rain") == [MARKET]
    assert await ids(states=[market_pb2.MARKET_STATE_SETTLED]) == [OTHER]
    assert await ids(event_ids=[EVENT]) == [MARKET, QUIET]
    assert await ids(text="100 % snow_") == [QUIET]
    before = time_range_pb2.TimeRange(end_time=at(T0))
    assert await ids(close_time_range=before) == []


async def test_the_book_comes_from_memory_with_its_age_and_the_feeds_state(stored: StoredWorld) -> None:
    await stored.books.publish([book()])
    answer = await ask(stored, "GetOrderBook", pb.GetOrderBookRequest(market_id=MARKET))
    assert not answer.top_only
    bids = [(level.price_micros, level.size_micros) for level in answer.order_book.bids]
    assert bids[:2] == [(440_000, 1_000_000), (430_000, 2_000_000)]
    assert [a.price_micros for a in answer.order_book.asks] == [450_000, 460_000, 470_000, 480_000]
    assert answer.order_book.epoch == 7
    assert 2 <= answer.age.ToMicroseconds() / SECOND < 60
    assert answer.feed_status.state == feed_status_pb2.FEED_STATE_LIVE
    shallow = await ask(stored, "GetOrderBook", pb.GetOrderBookRequest(market_id=MARKET, depth=2))
    assert (len(shallow.order_book.bids), len(shallow.order_book.asks)) == (2, 2)


async def test_without_a_book_the_latest_quote_stands_in_and_says_so(stored: StoredWorld) -> None:
    answer = await ask(stored, "GetOrderBook", pb.GetOrderBookRequest(market_id=MARKET))
    assert answer.top_only
    assert [(b.price_micros, b.size_micros) for b in answer.order_book.bids] == [(440_000, 12_000_000)]
    assert [(a.price_micros, a.size_micros) for a in answer.order_book.asks] == [(490_000, 5_000_000)]
    assert answer.order_book.epoch == 3


async def test_a_market_that_was_never_quoted_has_no_book_to_show(stored: StoredWorld) -> None:
    failure = await fail(stored, "GetOrderBook", pb.GetOrderBookRequest(market_id=QUIET))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ORDER_BOOK_UNAVAILABLE")
    assert failure.details[-1].violations[0].subject == QUIET
    failure = await fail(stored, "GetOrderBook", pb.GetOrderBookRequest(market_id="kalshi:NOPE"))
    assert failure.reason == "MARKET_NOT_FOUND"


async def test_quotes_keep_what_is_absent_absent(stored: StoredWorld) -> None:
    request = pb.ListQuotesRequest(filter=pb.QuoteFilter(market_id=MARKET), page_size=2)
    page = await ask(stored, "ListQuotes", request)
    first, second = page.quotes
    assert first.HasField("bid_price_micros")
    assert not first.HasField("ask_price_micros")
    assert not first.HasField("ask_size_micros")
    assert second.ask_price_micros == 460_000
    assert first.receive_time.ToMicroseconds() == T0
    assert first.venue_time.ToMicroseconds() == T0 - 1500
    assert first.source == quote_pb2.QUOTE_SOURCE_WEBSOCKET
    assert first.data_origin == venue_pb2.DATA_ORIGIN_LIVE
    assert 0 < first.ingest_sequence < second.ingest_sequence
    request.page_token = page.next_page_token
    assert len((await ask(stored, "ListQuotes", request)).quotes) == 2


async def test_quotes_of_a_range_include_its_start_and_exclude_its_end(stored: StoredWorld) -> None:
    span = time_range_pb2.TimeRange(start_time=at(T0 + SECOND), end_time=at(T0 + 3 * SECOND))
    where = pb.QuoteFilter(market_id=MARKET, receive_time_range=span)
    page = await ask(stored, "ListQuotes", pb.ListQuotesRequest(filter=where))
    assert [q.receive_time.ToMicroseconds() for q in page.quotes] == [T0 + SECOND, T0 + 2 * SECOND]


async def test_trades_can_be_had_without_blocks(stored: StoredWorld) -> None:
    page = await ask(stored, "ListTrades", pb.ListTradesRequest(filter=pb.TradeFilter(market_id=MARKET)))
    assert [t.trade_id for t in page.trades] == [f"trade-{n}" for n in range(4)]
    assert page.trades[0].taker_outcome_index == 1
    where = pb.TradeFilter(market_id=MARKET, exclude_block=True)
    page = await ask(stored, "ListTrades", pb.ListTradesRequest(filter=where))
    assert [t.trade_id for t in page.trades] == ["trade-0", "trade-2"]


async def test_candles_carry_trades_bids_and_asks_apart(stored: StoredWorld) -> None:
    where = pb.CandleFilter(market_id=MARKET, interval=candle_pb2.CANDLE_INTERVAL_HOUR)
    page = await ask(stored, "ListCandles", pb.ListCandlesRequest(filter=where))
    candles = list(page.candles)
    assert sum(c.trade_count for c in candles) == 4
    assert sum(c.volume_micros for c in candles) == 12_000_000
    last = candles[-1]
    assert last.end_time.ToMicroseconds() - last.start_time.ToMicroseconds() == 3600 * SECOND
    assert (last.trade.open_price_micros, last.trade.high_price_micros) == (420_000, 420_000)
    assert last.bid.close_price_micros == 440_000
    assert last.ask.low_price_micros == 460_000


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("ListQuotes", pb.ListQuotesRequest(filter=pb.QuoteFilter(market_id="kalshi:NOPE"))),
        ("ListTrades", pb.ListTradesRequest(filter=pb.TradeFilter(market_id="kalshi:NOPE"))),
        ("ListCandles", pb.ListCandlesRequest(filter=pb.CandleFilter(market_id="kalshi:NOPE", interval=1))),
        ("EstimateFees", pb.EstimateFeesRequest(market_id="kalshi:NOPE", action=1, fills=[pb.FeeFill(size_micros=1)])),
        ("GetMarket", pb.GetMarketRequest(market_id="kalshi:NOPE")),
    ],
)
async def test_what_is_asked_of_an_unknown_market_is_not_found(stored: StoredWorld, name: str, request_: Any) -> None:
    failure = await fail(stored, name, request_)
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "MARKET_NOT_FOUND")


async def test_a_quiet_markets_lists_are_empty_and_no_error(stored: StoredWorld) -> None:
    page = await ask(stored, "ListQuotes", pb.ListQuotesRequest(filter=pb.QuoteFilter(market_id=QUIET)))
    assert list(page.quotes) == []
    assert page.next_page_token == ""


async def test_links_are_found_from_either_side(stored: StoredWorld) -> None:
    for side in (MARKET, OTHER):
        where = pb.MarketLinkFilter(market_ids=[side])
        page = await ask(stored, "ListMarketLinks", pb.ListMarketLinksRequest(filter=where))
        (link,) = page.market_links
        assert link.market_link_id == LINK
        assert link.relation == market_link_pb2.LINK_RELATION_INVERSE
        assert [(p.outcome_index, p.other_outcome_index) for p in link.outcome_map] == [(0, 1), (1, 0)]
        assert link.state == market_link_pb2.LINK_STATE_PROPOSED
    where = pb.MarketLinkFilter(states=[market_link_pb2.LINK_STATE_CONFIRMED])
    page = await ask(stored, "ListMarketLinks", pb.ListMarketLinksRequest(filter=where))
    assert list(page.market_links) == []


async def test_fees_come_with_their_working(stored: StoredWorld) -> None:
    fills = [
        pb.FeeFill(price_micros=430_000, size_micros=100_000_000),
        pb.FeeFill(price_micros=430_000, size_micros=100_000_000, liquidity=execution_pb2.FILL_LIQUIDITY_MAKER),
    ]
    answer = await ask(stored, "EstimateFees", pb.EstimateFeesRequest(market_id=MARKET, action=1, fills=fills))
    # 0.07 x 100 x 0.43 x 0.57 = 1.7157, rounded up to a cent; a maker pays a quarter: 0.428925.
    assert [e.fee_micros for e in answer.estimates] == [1_720_000, 430_000]
    assert answer.total_fee_micros == 2_150_000
    assert [(s.expression, s.result) for s in answer.estimates[0].steps] == [
        ("0.07 x 100 x 0.43 x 0.57", "1.7157"),
        ("rounded up to a multiple of 0.01", "1.72"),
    ]
    assert answer.fee_schedule.source == "a document of July 2026"


async def test_no_fee_is_guessed_where_no_schedule_is_known(stored: StoredWorld) -> None:
    request = pb.EstimateFeesRequest(market_id=OTHER, action=1, fills=[pb.FeeFill(size_micros=1, price_micros=1)])
    failure = await fail(stored, "EstimateFees", request)
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FEE_SCHEDULE_UNKNOWN")


async def test_fees_beyond_the_payout_or_of_no_outcome_name_the_field(stored: StoredWorld) -> None:
    fills = [pb.FeeFill(size_micros=1, price_micros=1), pb.FeeFill(size_micros=1, price_micros=1_000_001)]
    failure = await fail(stored, "EstimateFees", pb.EstimateFeesRequest(market_id=MARKET, action=1, fills=fills))
    assert list(failure.fields) == ["fills[1].price_micros"]
    request = pb.EstimateFeesRequest(market_id=MARKET, action=1, fills=fills[:1], outcome_index=2)
    assert list((await fail(stored, "EstimateFees", request)).fields) == ["outcome_index"]


async def test_quotes_are_watched_by_what_serves_streams() -> None:
    async def watch(request: Any, context: Any) -> None:
        assert list(request.filter.market_ids) == [MARKET]
        # Joined bytes and messages go out alike.
        await context.write(pb.WatchQuotesResponse(conflated_count=1))
        await context.write(pb.WatchQuotesResponse(conflated_count=2).SerializeToString())

    async with running(World(watch_quotes=watch)) as server:
        request = pb.WatchQuotesRequest(filter=pb.QuoteWatchFilter(market_ids=[MARKET]))
        call = server.markets.WatchQuotes(request, metadata=server.auth)
        assert [m.conflated_count async for m in call] == [1, 2]
