"""Prices of the live-data socket frame by frame: what is asked for, read, refused and remembered."""

import json
from dataclasses import replace
from typing import Any

import pytest

from oddstream_server.application.ports import CatalogPage, QuarantinedRow, VenueItem
from oddstream_server.domain.market import Market, Strike, Venue
from oddstream_server.domain.quote import FeedState, FeedStatus, Quote
from oddstream_server.venues.feed_state import FeedMonitor
from oddstream_server.venues.polymarket.prices import PriceFeed, PriceMonitor
from oddstream_server.venues.socket import SocketConfig
from tests.venues.bodies import polymarket_market

OPENING_US = 1_786_856_400_000_000
SPOT, SIXTY = "crypto_prices_chainlink", "crypto_prices_twap_sixty"
BTC = "polymarket:underlying.btc-usd"


def a_market(
    number: int = 1, opening_us: int = OPENING_US, averaging_us: int = 60_000_000, coin: str = "btc"
) -> Market:
    strike = Strike(
        "greater_or_equal",
        underlying_id=f"polymarket:underlying.{coin}-usd",
        averaging_us=averaging_us,
        opening_time_us=opening_us,
    )
    return replace(polymarket_market(f"0x{number:064x}", (f"{number}1", f"{number}2")), strike=strike)


class Following:
    """A feed on an open connection, of a venue whose own feed is live."""

    def __init__(self, *markets: Market) -> None:
        self.now = OPENING_US - 10_000_000
        venue = FeedMonitor(Venue.POLYMARKET, 7)
        venue.change("polymarket websocket 1", FeedState.LIVE, self.now)
        self.followed = {market.market_id: market for market in markets}
        self.monitor = PriceMonitor(venue)
        self.feed = PriceFeed(self.monitor, SocketConfig(stale_after_s=15.0), self.take)
        self.feed.follow(list(self.followed.values()))
        self.feed.opened("s", self.now)

    def take(self, market_id: str, floor_micros: int) -> Market | None:
        market = self.followed.get(market_id)
        if market is None or market.strike is None:
            return None
        return replace(market, strike=replace(market.strike, floor_micros=floor_micros))

    def get(
        self, topic: str, at_us: int, accurate: int = 76_227_641250_796072_337408, **payload: Any
    ) -> list[VenueItem]:
        body: dict[str, Any] = {"symbol": "btc/usd", "timestamp": at_us // 1_000, "value": 1.5}
        body["full_accuracy_value"] = str(accurate)
        if topic == SIXTY:
            body["window_s"] = 60
        body = {name: v for name, v in (body | payload).items() if v is not ...}
        return self.read({"topic": topic, "type": "update", "timestamp": at_us // 1_000 + 5, "payload": body}, at_us)

    def read(self, message: object, at_us: int | None = None) -> list[VenueItem]:
        self.now = max(self.now, (at_us or 0) + 1_500_000)
        frame = message if isinstance(message, str) else json.dumps(message)
        return list(self.feed.receive(frame, self.now))

    def tick(self, after_us: int = 0) -> list[VenueItem]:
        self.now += after_us
        return list(self.feed.tick(self.now))

    def commands(self) -> list[tuple[str, list[str]]]:
        found = [json.loads(command) for command in self.feed.take_commands()]
        assert all(s.keys() == {"topic", "type"} for c in found for s in c["subscriptions"]), "no filter"
        return [(c["action"], [s["topic"] for s in c["subscriptions"]]) for c in found]


def known(items: list[VenueItem]) -> dict[str, int | None]:
    pages = [item for item in items if isinstance(item, CatalogPage)]
    return {m.market_id: m.strike.floor_micros for page in pages for m in page.markets if m.strike is not None}


def words(items: list[VenueItem]) -> list[str]:
    return [item.detail for item in items if isinstance(item, FeedStatus)]


def test_topics_are_asked_for_as_the_followed_markets_need_them() -> None:
    following = Following(a_market())
    assert following.commands() == [("subscribe", [SPOT, SIXTY])]
    following.feed.follow([a_market(averaging_us=30_000_000)])
    assert following.commands() == [("unsubscribe", [SIXTY]), ("subscribe", ["crypto_prices_twap_thirty"])]
    following.feed.follow([a_market(averaging_us=30_000_000), a_market(2, coin="eth", averaging_us=30_000_000)])
    assert following.commands() == []
    following.feed.closed(following.now)
    following.feed.opened("again", following.now)
    assert following.commands() == [("subscribe", [SPOT, "crypto_prices_twap_thirty"])]
    assert not Following(polymarket_market()).feed.wanted(), "who follows no such market needs no connection"


def test_a_price_is_a_quote_of_its_series_with_the_venues_instant_and_all_its_digits() -> None:
    following = Following(a_market())
    (price,) = following.get(SPOT, OPENING_US - 2_000_000, 76_227_641250_500000_000000)
    assert isinstance(price, Quote)
    assert price.market_id == BTC
    assert price.bid_price_micros == price.ask_price_micros == 76_227_641_251, "half a micro goes up"
    assert price.venue_time_us == OPENING_US - 2_000_000
    assert price.receive_time_us == following.now
    assert price.source.venue is Venue.POLYMARKET
    assert SPOT in price.source.name
    (average,) = following.get(SIXTY, OPENING_US - 2_000_000)
    assert isinstance(average, Quote)
    assert average.market_id == f"{BTC}-twap-60s"
    (older,) = following.get(SPOT, OPENING_US - 1_000_000, full_accuracy_value=..., value="76227.25")
    assert isinstance(older, Quote)
    assert older.bid_price_micros == 76_227_250_000


def test_a_price_that_was_told_before_is_not_told_again() -> None:
    following = Following(a_market())
    assert following.get(SPOT, OPENING_US - 2_000_000)
    assert following.get(SPOT, OPENING_US - 2_000_000, 10**18) == []
    assert following.get(SPOT, OPENING_US - 3_000_000) == []


@pytest.mark.parametrize("averaging_us", [0, 60_000_000])
def test_the_price_at_the_windows_start_is_the_strike_of_who_waits_for_it(averaging_us: int) -> None:
    mine, later = a_market(1, averaging_us=averaging_us), a_market(2, OPENING_US + 300_000_000, averaging_us)
    following = Following(mine, later)
    topic, other = (SIXTY, SPOT) if averaging_us else (SPOT, SIXTY)
    assert known(following.get(topic, OPENING_US - 1_000_000)) == {}
    assert known(following.get(other, OPENING_US, 1_000_000 * 10**18)) == {}
    assert known(following.get(topic, OPENING_US, symbol="eth/usd")) == {}
    assert known(following.get(topic, OPENING_US)) == {mine.market_id: 76_227_641_251}
    assert known(following.get(topic, OPENING_US + 1_000_000, 5 * 10**18)) == {}
    assert known(following.get(topic, OPENING_US + 300_000_000, 6 * 10**18)) == {later.market_id: 6_000_000}


def test_a_market_that_is_followed_after_its_start_gets_the_strike_that_was_heard() -> None:
    following = Following(a_market(1))
    following.get(SIXTY, OPENING_US, symbol="eth/usd")
    late = a_market(3, coin="eth")
    following.followed[late.market_id] = late
    following.feed.follow([late])
    assert known(following.tick()) == {late.market_id: 76_227_641_251}
    assert known(following.tick()) == {}
    following.feed.follow([late])
    assert known(following.tick()) == {late.market_id: 76_227_641_251}, "whoever hands it over again hasn't learnt it"
    assert late.strike is not None
    following.feed.follow([replace(late, strike=replace(late.strike, floor_micros=5))])
    assert known(following.tick()) == {}, "a strike that is known is left alone"


def test_a_start_that_was_missed_gives_no_strike_and_is_said_once() -> None:
    following = Following(a_market(1), a_market(2))
    following.get(SIXTY, OPENING_US - 1_000_000)
    late = following.get(SIXTY, OPENING_US + 1_000_000)
    assert known(late) == {}, "a price of another second is not the strike"
    assert words(following.tick()) == []
    (said,) = words(following.tick(20_000_000))
    assert "btc/usd, averaged over 60 s, wasn't received at the start" in said
    assert words(following.tick(20_000_000)) == []


POISON = {
    "no json": ("<html>", "not_json"),
    "a number": (7, "not_an_object"),
    "an answer that refuses": ({"message": "Invalid request body", "statusCode": 400}, "refused"),
    "another topic": ({"topic": "comments", "type": "comment_created", "payload": {}}, "enum_unknown"),
    "no payload": ({"topic": SPOT, "type": "update"}, "not_an_object"),
}


@pytest.mark.parametrize("name", POISON)
def test_a_frame_that_cannot_be_read_is_quarantined_and_the_next_one_is_read(name: str) -> None:
    frame, reason = POISON[name]
    following = Following(a_market())
    (refused,) = following.read(frame)
    assert isinstance(refused, QuarantinedRow)
    assert refused.reason == reason
    assert isinstance(following.get(SPOT, OPENING_US - 1_000_000)[0], Quote)


BAD_FIELDS = [
    ({"full_accuracy_value": "-5"}, "number_invalid"),
    ({"full_accuracy_value": 7.5}, "number_invalid"),
    ({"full_accuracy_value": "0"}, "price_out_of_range"),
    ({"full_accuracy_value": "9" * 40}, "price_out_of_range"),
    ({"full_accuracy_value": None, "value": "many"}, "number_invalid"),
    ({"symbol": 5}, "field_type"),
    ({"symbol": None}, "field_missing"),
    ({"timestamp": None}, "time_invalid"),
    ({"timestamp": 4_000_000_000_000}, "time_invalid"),
    ({"window_s": 30}, "prices_inconsistent"),
    ({"window_s": None}, "field_missing"),
]


@pytest.mark.parametrize(("payload", "reason"), BAD_FIELDS)
def test_a_price_that_cannot_be_read_is_quarantined_and_moves_nothing(payload: dict[str, Any], reason: str) -> None:
    following = Following(a_market())
    (refused,) = following.get(SIXTY, OPENING_US, **payload)
    assert isinstance(refused, QuarantinedRow)
    assert refused.reason == reason
    assert len(known(following.get(SIXTY, OPENING_US))) == 1


@pytest.mark.parametrize(
    "frame",
    [
        "",
        {"topic": "crypto_prices", "type": "subscribe", "payload": {"symbol": "btc/usd", "data": []}},
        {"topic": SPOT, "type": "subscribe", "payload": {"symbol": "btc/usd", "data": [{"timestamp": 1, "value": 2}]}},
        {"topic": SPOT, "type": "update", "payload": {"symbol": "btc/eur", "timestamp": 1, "value": 2}},
    ],
)
def test_frames_without_a_price_of_ours_say_nothing(frame: object) -> None:
    assert Following(a_market()).read(frame) == []


def test_a_topic_that_goes_silent_while_another_one_comes_is_asked_for_again() -> None:
    following = Following(a_market())
    following.commands()
    following.tick()
    for second in range(1, 15):
        following.get(SPOT, OPENING_US + second * 1_000_000)
        following.tick()
    assert following.commands() == [("unsubscribe", [SIXTY]), ("subscribe", [SIXTY])]
    following.tick()
    assert following.commands() == []
    following.tick(60_000_000)
    assert following.commands() == [], "where nothing comes at all the connection itself is looked at"


def test_the_state_of_the_prices_is_told_in_words_and_leaves_the_venues_alone() -> None:
    following = Following(a_market())
    assert words(following.get(SPOT, OPENING_US - 3_000_000)) == []
    (down,) = following.monitor.change(following.feed.stream, FeedState.DOWN, following.now, "the connection broke")
    assert (down.state, down.epoch) == (FeedState.LIVE, 7), "the books are as live as they were"
    assert down.detail == "polymarket prices down: the connection broke"
    assert following.monitor.change(following.feed.stream, FeedState.DOWN, following.now, "no connection") == []
    assert words(following.get(SPOT, OPENING_US - 2_000_000)) == ["polymarket prices live"]
    assert following.monitor.drop(following.feed.stream, following.now) == []
