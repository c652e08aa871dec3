"""The CLOB's market channel, frame by frame."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from oddstream_server.application.ports import CatalogPage, QuarantinedRow, SettlementUpdate, VenueItem
from oddstream_server.domain.market import MarketState, PriceRange, Venue
from oddstream_server.domain.quote import FeedState, FeedStatus, Quote, Trade
from oddstream_server.venues.feed_state import FeedMonitor
from oddstream_server.venues.polymarket.feed import PolymarketFeed
from oddstream_server.venues.polymarket.ticks import FillKeys
from oddstream_server.venues.socket import SocketConfig
from tests.venues.bodies import CONDITION, NO_TOKEN, YES_TOKEN, clob_book, polymarket_market, price_change

T0 = 1_786_000_000_000_000
TS = 1_786_000_000_000
MARKET = f"polymarket:{CONDITION}"
OTHER = polymarket_market("0x" + "ef" * 32, ("1" * 70, "2" * 70))


class Following:
    def __init__(self) -> None:
        self.monitor = FeedMonitor(Venue.POLYMARKET, 10)
        self.feed = PolymarketFeed(self.monitor, SocketConfig(), FillKeys())
        self.feed.follow([polymarket_market()])
        self.now = T0
        self.feed.opened("session", self.now)

    def commands(self) -> list[dict[str, Any]]:
        return [json.loads(c) for c in self.feed.take_commands()]

    def get(self, *messages: Any) -> list[VenueItem]:
        items: list[VenueItem] = []
        for message in messages:
            self.now += 1_000
            items += self.feed.receive(message if isinstance(message, str) else json.dumps(message), self.now)
        return items

    def quiet(self, microseconds: int = 100_000) -> list[VenueItem]:
        self.now += microseconds
        return list(self.feed.tick(self.now))


def tops(items: Sequence[VenueItem]) -> list[tuple[int | None, int | None]]:
    return [(i.bid_price_micros, i.ask_price_micros) for i in items if isinstance(i, Quote)]


def statuses(items: Sequence[VenueItem]) -> list[FeedState]:
    return [i.state for i in items if isinstance(i, FeedStatus)]


def refusals(items: Sequence[VenueItem]) -> list[str]:
    return [i.reason for i in items if isinstance(i, QuarantinedRow)]


def printed(**fields: str) -> dict[str, str]:
    return {
        "event_type": "last_trade_price",
        "market": CONDITION,
        "asset_id": YES_TOKEN,
        "price": "0.42",
        "size": "3",
        "side": "BUY",
        "timestamp": str(TS),
        "transaction_hash": "0xfeed",
    } | fields


_BOOK = clob_book([("0.40", "10"), ("0.41", "5")], [("0.45", "7"), ("0.43", "2")])


def test_both_tokens_of_each_market_are_subscribed_in_the_venues_words() -> None:
    (command,) = Following().commands()
    assert command == {"assets_ids": [YES_TOKEN, NO_TOKEN], "type": "market", "custom_feature_enabled": True}


def test_the_first_dump_is_an_array_and_the_second_tokens_book_is_the_same_book() -> None:
    following = Following()
    mirror = clob_book([("0.55", "7"), ("0.57", "2")], [("0.60", "10"), ("0.59", "5")], NO_TOKEN)
    items = following.get([_BOOK, mirror])
    assert tops(items) == [(410_000, 430_000)]
    assert statuses(items) == [FeedState.LIVE]
    book = following.feed.order_book(MARKET)
    assert book is not None
    assert sum(level.size_micros for level in book.bids) == 15_000_000, "the mirror's depth is not counted again"


def test_changes_are_absolute_sizes_and_one_timestamp_shows_as_one() -> None:
    following = Following()
    following.get(_BOOK)
    both_tokens = price_change(
        [
            {"price": "0.42", "size": "4", "side": "BUY"},
            {"asset_id": NO_TOKEN, "price": "0.58", "size": "4", "side": "SELL"},
            {"price": "0.41", "size": "0", "side": "BUY"},
        ],
        TS + 1,
    )
    assert following.get(both_tokens, price_change([{"price": "0.43", "size": "0", "side": "SELL"}], TS + 1)) == []
    items = following.get(price_change([{"price": "0.01", "size": "1", "side": "BUY"}], TS + 2))
    assert tops(items) == [(420_000, 450_000)]
    (quote,) = [i for i in items if isinstance(i, Quote)]
    assert quote.venue_time_us == (TS + 1) * 1_000
    assert quote.receive_time_us == following.now


def test_the_old_form_of_a_change_is_read() -> None:
    following = Following()
    following.get(clob_book([(".40", "10")], [(".45", "1")], names=("buys", "sells")))
    old = {
        "event_type": "price_change",
        "market": CONDITION,
        "asset_id": YES_TOKEN,
        "timestamp": str(TS + 1),
        "changes": [{"price": ".41", "size": "3", "side": "BUY"}],
    }
    following.get(old, old | {"asset_id": NO_TOKEN, "changes": [{"price": ".59", "size": "3", "side": "SELL"}]})
    assert tops(following.quiet()) == [(410_000, 450_000)]


def test_a_book_after_a_trade_replaces_what_is_held_back_of_its_timestamp() -> None:
    following = Following()
    following.get(_BOOK)
    epoch = following.monitor.epoch
    following.get(price_change([{"price": "0.44", "size": "9", "side": "BUY"}], TS + 5))
    items = following.get(clob_book([("0.40", "10")], [("0.45", "7")], timestamp=TS + 5))
    assert tops(items) == [(400_000, 450_000)]
    assert following.monitor.epoch == epoch, "nothing was missed"
    assert following.quiet() == []


def test_a_match_is_one_trade_whichever_tokens_print_it() -> None:
    following = Following()
    items = following.get(
        printed(),
        printed(asset_id=NO_TOKEN, price="0.58", side="BUY"),
        printed(),
        printed(asset_id=NO_TOKEN, price="0.57", transaction_hash="0xbeef", side="SELL"),
        printed(asset_id="5" * 70),
    )
    trades = [i for i in items if isinstance(i, Trade)]
    assert [(t.price_micros, t.taker_outcome_index) for t in trades] == [(420_000, 0), (420_000, 0), (430_000, 0)]
    assert len({t.source_key for t in trades}) == 3


def test_prints_without_a_transaction_are_matched_by_time_size_and_price() -> None:
    following = Following()
    first = {k: v for k, v in printed().items() if k != "transaction_hash"}
    items = following.get(first, first | {"asset_id": NO_TOKEN, "price": "0.58"}, first | {"size": "4"})
    assert [t.size_micros for t in items if isinstance(t, Trade)] == [3_000_000, 4_000_000]


def test_a_finer_tick_is_pushed_as_the_markets_new_range_once() -> None:
    following = Following()
    change = {
        "event_type": "tick_size_change",
        "asset_id": YES_TOKEN,
        "old_tick_size": "0.01",
        "new_tick_size": "0.001",
    }
    items = following.get(change, change | {"asset_id": NO_TOKEN})
    (page,) = [i for i in items if isinstance(i, CatalogPage)]
    assert page.markets[0].price_ranges == (PriceRange(0, 1_000_000, 1_000),)


def test_a_resolution_pays_the_winning_token() -> None:
    following = Following()
    message = {"event_type": "market_resolved", "market": CONDITION, "winning_asset_id": NO_TOKEN, "timestamp": str(TS)}
    items = following.get(message, message | {"market": "0x" + "00" * 32}, message | {"winning_asset_id": "3"})
    (update,) = [i for i in items if isinstance(i, SettlementUpdate)]
    assert update.state is MarketState.SETTLED
    assert update.settlement is not None
    assert update.settlement.yes_payout_micros == 0
    assert update.settlement.determined_time_us == TS * 1_000
    assert refusals(items) == ["outcomes_inconsistent"]
    following.get({"event_type": "market_resolved", "market": CONDITION})
    assert following.feed.lookups == {MARKET}


def test_best_prices_that_stay_different_from_ours_mean_lost_data() -> None:
    following = Following()
    following.get(_BOOK)
    following.commands()
    for n in range(1, 4):
        change = [{"price": "0.02", "size": str(n), "side": "BUY"}]
        following.get(price_change(change, TS + n, best=("0.42", "0.43")))
        items = following.quiet()
        assert statuses(items) == ([FeedState.GAP] if n == 3 else [])
    assert following.feed.order_book(MARKET) is None
    assert [c["operation"] for c in following.commands()] == ["unsubscribe", "subscribe"]
    epoch = following.monitor.epoch
    again = following.get(_BOOK)
    assert statuses(again) == [FeedState.LIVE]
    assert [i.epoch for i in again if isinstance(i, Quote)] == [epoch]


def test_best_prices_that_agree_again_clear_the_doubt() -> None:
    following = Following()
    following.get(_BOOK)
    for n in range(1, 8):
        best = ("0.42", "0.43") if n % 2 else ("0.41", "0.43")
        following.get(price_change([{"price": "0.02", "size": str(n), "side": "BUY"}], TS + n, best=best))
        assert statuses(following.quiet()) == []


def test_empty_sides_are_zero_and_one_in_the_venues_best_prices() -> None:
    following = Following()
    following.get(clob_book([], []))
    for n in range(1, 6):
        change = [{"price": "0.02", "size": "0", "side": "BUY"}]
        following.get(price_change(change, TS + n, best=("0", "1")))
        assert statuses(following.quiet()) == []


def test_a_reconnect_brings_fresh_books_in_a_new_epoch_and_names_the_span_missed() -> None:
    following = Following()
    first = following.get(_BOOK)
    assert following.feed.take_missed() is None
    ended = following.now
    following.feed.closed(ended)
    assert following.feed.order_book(MARKET) is None
    following.now += 5_000_000
    following.feed.opened("second", following.now)
    assert following.feed.take_missed() == (ended, ended + 5_000_000)
    assert following.feed.take_missed() is None
    second = following.get(_BOOK)
    assert statuses(second) == [FeedState.GAP, FeedState.LIVE]
    epochs = [i.epoch for i in [*first, *second] if isinstance(i, Quote)]
    assert epochs[1] > epochs[0]


def test_replacing_the_markets_subscribes_only_the_difference() -> None:
    following = Following()
    following.get(_BOOK)
    following.commands()
    following.feed.follow([polymarket_market(), OTHER])
    following.feed.follow([OTHER])
    assert following.commands() == [
        {"operation": "subscribe", "assets_ids": ["1" * 70, "2" * 70]},
        {"operation": "unsubscribe", "assets_ids": [YES_TOKEN, NO_TOKEN]},
    ]
    assert following.get(_BOOK) == []


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("INVALID OPERATION", "not_json"),
        ({"event_type": "surprise"}, "enum_unknown"),
        ([{"event_type": "book", "asset_id": YES_TOKEN, "timestamp": "1"}], "field_missing"),
        ([5], "not_an_object"),
        (clob_book([("1.2", "1")], []), "price_out_of_range"),
        (clob_book([("0.2", "-1")], []), "size_out_of_range"),
        (printed(side="HOLD"), "enum_unknown"),
    ],
)
def test_a_poison_message_is_quarantined_and_the_rest_of_its_array_is_read(message: Any, reason: str) -> None:
    following = Following()
    assert refusals(following.get(message)) == [reason]
    if isinstance(message, list):
        items = following.get([*message, _BOOK])
        assert refusals(items) == [reason]
        assert tops(items) == [(410_000, 430_000)]


def test_a_change_that_can_not_be_read_takes_the_book_anew() -> None:
    following = Following()
    following.get(_BOOK)
    items = following.get(price_change([{"price": "0.5", "size": "many", "side": "BUY"}], TS + 1))
    assert refusals(items) == ["number_invalid"]
    assert statuses(items) == [FeedState.GAP]


def test_numbers_where_texts_belong_are_read_by_their_digits() -> None:
    following = Following()
    text = json.dumps(_BOOK).replace('"0.43"', "0.43").replace('"2"', "2.25")
    (quote,) = [i for i in following.get(text) if isinstance(i, Quote)]
    assert (quote.ask_price_micros, quote.ask_size_micros) == (430_000, 2_250_000)


def test_news_without_a_book_or_of_other_kinds_changes_nothing() -> None:
    following = Following()
    assert following.get(price_change([{"price": "0.5", "size": "1", "side": "BUY"}])) == []
    assert following.get({"event_type": "best_bid_ask"}, {"event_type": "new_market"}, []) == []
