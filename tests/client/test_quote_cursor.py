from oddstream.v1 import feed_status_pb2, quote_pb2, venue_pb2
from oddstream.v1.market_service_pb2 import QuoteReset, WatchQuotesRequest, WatchQuotesResponse
from oddstream.watching.quotes import QuoteCursor


def message(*market_ids, **fields):
    return WatchQuotesResponse(quotes=[quote_pb2.Quote(market_id=m) for m in market_ids], **fields)


def test_the_latest_quote_of_each_market_is_known_and_what_was_left_out_is_counted():
    cursor = QuoteCursor(WatchQuotesRequest())
    statuses = [feed_status_pb2.FeedStatus(venue=venue_pb2.VENUE_KALSHI, detail="x")]
    assert [q.market_id for q in cursor.receive(message("kalshi:A", "kalshi:B", feed_statuses=statuses))] == [
        "kalshi:A",
        "kalshi:B",
    ]
    newer = quote_pb2.Quote(market_id="kalshi:A", epoch=9)
    list(cursor.receive(WatchQuotesResponse(quotes=[newer], conflated_count=3)))
    list(cursor.receive(message(conflated_count=2)))
    assert cursor.latest["kalshi:A"] == newer
    assert set(cursor.latest) == {"kalshi:A", "kalshi:B"}
    assert cursor.conflated_count == 5
    assert cursor.feed_statuses[venue_pb2.VENUE_KALSHI].detail == "x"


def test_a_gap_voids_the_markets_that_it_names_or_all_of_the_venue_before_the_quotes_of_its_message_count():
    told = []
    cursor = QuoteCursor(WatchQuotesRequest(), on_reset=told.append)
    list(cursor.receive(message("kalshi:A", "kalshi:B", "polymarket:1", "polymarket_us:2")))
    named = QuoteReset(venue=venue_pb2.VENUE_KALSHI, market_ids=["kalshi:A"])
    list(cursor.receive(message(resets=[named])))
    assert set(cursor.latest) == {"kalshi:B", "polymarket:1", "polymarket_us:2"}
    whole = QuoteReset(venue=venue_pb2.VENUE_POLYMARKET)
    list(cursor.receive(message("polymarket:7", resets=[whole])))
    assert set(cursor.latest) == {"kalshi:B", "polymarket:7", "polymarket_us:2"}
    assert told == [named, whole]


def test_nothing_is_known_while_the_stream_is_broken():
    cursor = QuoteCursor(WatchQuotesRequest())
    cursor.next_request()
    list(cursor.receive(message("kalshi:A")))
    cursor.pause_after(None)
    assert cursor.broken
    assert cursor.latest == {}
    assert cursor.next_request() == WatchQuotesRequest()
    assert cursor.reconnects == 1
