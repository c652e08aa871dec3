from dataclasses import replace

import pytest

from oddstream_server.domain.errors import InvalidArgument
from oddstream_server.domain.market import (
    Market,
    MarketState,
    Outcome,
    PriceRange,
    Venue,
    market_id,
    split_market_id,
)
from oddstream_server.domain.quote import BookLevel, CandleInterval, OrderBook, SourceKind, TickSource


def test_a_market_id_is_split_at_its_first_colon():
    assert split_market_id("kalshi:KX:A:B") == (Venue.KALSHI, "KX:A:B")
    assert market_id(Venue.POLYMARKET, "0xab") == "polymarket:0xab"


@pytest.mark.parametrize("wrong", ["", "kalshi", "kalshi:", ":x", "nasdaq:AAPL", "Kalshi:X"])
def test_a_market_id_of_no_known_form_is_refused_with_the_field_the_rule_and_an_example(wrong):
    with pytest.raises(InvalidArgument) as refused:
        split_market_id(wrong, "filter.market_ids[3]")
    (violation,) = refused.value.violations
    assert violation.field == "filter.market_ids[3]"
    assert "kalshi, polymarket, polymarket_us, simulated" in violation.description


def make_market(*ranges):
    return Market(
        market_id="kalshi:X",
        venue=Venue.KALSHI,
        venue_market_id="X",
        event_id=None,
        title="X",
        outcomes=(Outcome(0, "Yes", "X"), Outcome(1, "No", "X")),
        state=MarketState.OPEN,
        price_ranges=ranges,
        minimum_size_micros=10_000,
        size_step_micros=10_000,
        rules_text="rules",
    )


def test_the_tick_is_that_of_the_price_range_and_the_finer_one_on_a_boundary():
    market = make_market(PriceRange(0, 100_000, 1_000), PriceRange(100_000, 1_000_000, 10_000))
    assert market.tick_micros(50_000) == 1_000
    assert market.tick_micros(100_000) == 1_000
    assert market.tick_micros(100_001) == 10_000
    with pytest.raises(ValueError, match="no price range"):
        market.tick_micros(1_000_001)


def test_the_rules_digest_changes_with_the_rules_and_with_nothing_else():
    digest = make_market().rules_digest
    assert len(digest) == 64
    assert replace(make_market(), title="Y").rules_digest == digest
    assert replace(make_market(), rules_text="rules, amended").rules_digest != digest


BOOK = OrderBook(
    market_id="kalshi:X",
    bids=(BookLevel(420_000, 5), BookLevel(410_000, 7)),
    asks=(BookLevel(450_000, 3),),
    epoch=2,
    receive_time_us=10,
    venue_time_us=9,
)


def test_the_other_outcome_sees_the_same_book_mirrored_and_twice_mirrored_is_the_book():
    other = BOOK.mirrored()
    assert other.bids == (BookLevel(550_000, 3),)
    assert other.asks == (BookLevel(580_000, 5), BookLevel(590_000, 7))
    assert other.mirrored() == BOOK


def test_the_top_of_a_book_is_its_quote_and_an_empty_side_is_absent():
    source = TickSource(Venue.KALSHI, SourceKind.WEBSOCKET, "s/1")
    quote = BOOK.top(source, 4)
    assert (quote.bid_price_micros, quote.bid_size_micros) == (420_000, 5)
    assert (quote.ask_price_micros, quote.ask_size_micros) == (450_000, 3)
    assert (quote.epoch, quote.receive_time_us, quote.venue_time_us, quote.source_key) == (2, 10, 9, 4)
    empty = OrderBook("kalshi:X", (), BOOK.asks, 2, 10).top(source, 5)
    assert empty.bid_price_micros is None
    assert empty.bid_size_micros is None


def test_a_book_is_crossed_where_its_best_bid_is_not_below_its_best_ask():
    assert not BOOK.crossed
    assert OrderBook("m", (BookLevel(450_000, 1),), BOOK.asks, 1, 1).crossed
    assert not OrderBook("m", (), BOOK.asks, 1, 1).crossed


def test_candle_intervals_in_microseconds():
    assert [i.duration_us // 1_000_000 for i in CandleInterval] == [60, 3_600, 86_400]
