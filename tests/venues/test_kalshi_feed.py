"""Kalshi's socket protocol, frame by frame."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from oddstream_server.application.ports import QuarantinedRow, SettlementUpdate, VenueItem
from oddstream_server.domain.market import MarketState, SettlementState, Venue
from oddstream_server.domain.quote import FeedState, FeedStatus, Quote, Trade
from oddstream_server.venues.feed_state import FeedMonitor
from oddstream_server.venues.kalshi.feed import KalshiFeed
from oddstream_server.venues.socket import SocketConfig
from tests.venues.bodies import delta, kalshi_market, snapshot, subscribed

T0 = 1_786_000_000_000_000
TS = 1_786_000_000_000


class Following:
    """A feed on an open connection that follows some markets."""

    def __init__(self, *tickers: str, use_yes_price: bool = False, batch: int = 100) -> None:
        self.monitor = FeedMonitor(Venue.KALSHI, 10)
        self.feed = KalshiFeed(self.monitor, SocketConfig(), use_yes_price, batch)
        self.feed.follow([kalshi_market(t) for t in tickers])
        self.now = T0
        self.connect()

    def connect(self) -> Sequence[VenueItem]:
        items = self.feed.opened("session", self.now)
        self.sent = self.commands()
        self.get(subscribed("orderbook_delta", 1, self.command_id("orderbook_delta")))
        self.get(subscribed("trade", 2, self.command_id("trade")))
        return items

    def command_id(self, channel: str) -> int:
        return next(int(c["id"]) for c in self.sent if c["params"].get("channels") == [channel])

    def commands(self) -> list[dict[str, Any]]:
        return [json.loads(c) for c in self.feed.take_commands()]

    def get(self, *frames: str) -> list[VenueItem]:
        items: list[VenueItem] = []
        for frame in frames:
            self.now += 1_000
            items += self.feed.receive(frame, self.now)
        return items

    def quiet(self, microseconds: int) -> list[VenueItem]:
        self.now += microseconds
        return list(self.feed.tick(self.now))


def quotes(items: Sequence[VenueItem]) -> list[Quote]:
    return [i for i in items if isinstance(i, Quote)]


def statuses(items: Sequence[VenueItem]) -> list[tuple[FeedState, tuple[str, ...]]]:
    return [(i.state, i.market_ids) for i in items if isinstance(i, FeedStatus)]


def refusals(items: Sequence[VenueItem]) -> list[str]:
    return [i.reason for i in items if isinstance(i, QuarantinedRow)]


def top(quote: Quote) -> tuple[int | None, int | None]:
    return quote.bid_price_micros, quote.ask_price_micros


def test_books_trades_and_life_are_subscribed_with_the_price_convention_named() -> None:
    following = Following("A", "B")
    by_channel = {c["params"]["channels"][0]: c["params"] for c in following.sent}
    assert by_channel["orderbook_delta"]["use_yes_price"] is False
    assert by_channel["orderbook_delta"]["market_tickers"] == ["A", "B"]
    assert "use_yes_price" not in by_channel["trade"]
    assert "market_tickers" not in by_channel["market_lifecycle_v2"]


def test_many_markets_are_asked_for_in_batches_after_the_subscription_has_its_id() -> None:
    following = Following("A", "B", "C", "D", "E", batch=2)
    adds = [c for c in following.commands() if c["params"].get("sids") == [1]]
    assert [c["params"]["market_tickers"] for c in adds] == [["C", "D"], ["E"]]
    assert {c["params"]["action"] for c in adds} == {"add_markets"}


def test_a_snapshot_is_one_quote_and_makes_the_feed_live() -> None:
    following = Following("A")
    items = following.get(snapshot("A", 1, [["0.4000", "1.00"], ["0.4100", "5.00"]], [["0.5500", "3.00"]]))
    (quote,) = quotes(items)
    assert top(quote) == (410_000, 450_000)
    assert (quote.source.name, quote.source_key) == ("session:1", 1)
    assert statuses(items) == [(FeedState.LIVE, ())]
    book = following.feed.order_book("A")
    assert book is not None
    assert [level.price_micros for level in book.bids] == [410_000, 400_000]


def test_deltas_of_one_venue_timestamp_show_as_one_when_the_next_arrives() -> None:
    following = Following("A")
    following.get(snapshot("A", 1, [["0.4000", "1.00"]], [["0.5500", "1.00"]]))
    within = following.get(
        delta("A", 2, "yes", "0.4600", "2.00", TS + 1),  # crosses the ask at 0.45 until the next change
        delta("A", 3, "no", "0.5500", "-1.00", TS + 1),
        delta("A", 4, "no", "0.5200", "1.00", TS + 1),
    )
    assert within == []
    book = following.feed.order_book("A")
    assert book is not None
    assert book.bids[0].price_micros == 400_000, "what is not whole isn't shown"
    (quote,) = quotes(following.get(delta("A", 5, "no", "0.0100", "1.00", TS + 2)))
    assert top(quote) == (460_000, 480_000)
    assert quote.source_key == 4
    assert quote.venue_time_us == (TS + 1) * 1_000
    assert quote.receive_time_us == following.now, "known as whole when the next timestamp came"


def test_the_last_timestamp_is_shown_after_a_short_silence() -> None:
    following = Following("A")
    following.get(snapshot("A", 1, [["0.4000", "1.00"]], [["0.5500", "1.00"]]))
    following.get(delta("A", 2, "yes", "0.4200", "2.00", TS + 1))
    assert following.quiet(10_000) == []
    assert [top(q) for q in quotes(following.quiet(20_000))] == [(420_000, 450_000)]
    assert following.quiet(1_000_000) == []


def test_a_silence_in_a_crossed_moment_waits_for_the_rest_but_not_for_ever() -> None:
    following = Following("A")
    following.get(snapshot("A", 1, [["0.4000", "1.00"]], [["0.5500", "1.00"]]))
    following.get(delta("A", 2, "yes", "0.4600", "2.00", TS + 1))
    assert following.quiet(100_000) == []
    assert [top(q) for q in quotes(following.quiet(500_000))] == [(460_000, 450_000)]


def test_a_change_below_the_top_moves_the_book_but_is_no_quote() -> None:
    following = Following("A")
    following.get(snapshot("A", 1, [["0.4000", "1.00"]], [["0.5500", "1.00"]]))
    following.get(delta("A", 2, "yes", "0.3000", "2.00", TS + 1))
    assert following.quiet(100_000) == []
    book = following.feed.order_book("A")
    assert book is not None
    assert len(book.bids) == 2


def test_acknowledgements_take_numbers_of_the_sequence() -> None:
    following = Following("A", "B")
    items = following.get(
        snapshot("A", 1, [["0.4000", "1.00"]]),
        json.dumps({"type": "ok", "id": 9, "sid": 1, "seq": 2, "msg": {"market_tickers": ["A", "B"]}}),
        snapshot("B", 3, [["0.2000", "1.00"]]),
        json.dumps({"type": "unsubscribed", "id": 10, "sid": 1, "seq": 4}),
        delta("A", 5, "yes", "0.4100", "1.00"),
    )
    assert FeedState.GAP not in [state for state, _ in statuses(items)]


def test_a_break_of_the_sequence_is_a_gap_of_all_its_markets_until_their_new_books() -> None:
    following = Following("A", "B")
    following.get(snapshot("A", 1, [["0.4000", "1.00"]]), snapshot("B", 2, [["0.2000", "1.00"]]))
    epoch = following.monitor.epoch
    items = following.get(delta("A", 4, "yes", "0.4100", "1.00"))
    assert statuses(items) == [(FeedState.GAP, ("kalshi:A", "kalshi:B"))]
    assert following.feed.order_book("A") is None
    (command,) = [c for c in following.commands() if c["params"].get("action") == "get_snapshot"]
    assert command["params"]["sids"] == [1]
    assert sorted(command["params"]["market_tickers"]) == ["A", "B"]
    assert following.get(delta("B", 5, "yes", "0.2100", "1.00")) == [], "a change without a snapshot means nothing"
    first = following.get(snapshot("B", 6, [["0.2200", "1.00"]]))
    assert quotes(first)[0].epoch == epoch + 1
    assert statuses(first) == []
    second = following.get(snapshot("A", 7, [["0.4200", "1.00"]]))
    assert statuses(second) == [(FeedState.LIVE, ())]


def test_a_size_below_zero_is_lost_data() -> None:
    following = Following("A")
    following.get(snapshot("A", 1, [["0.4000", "1.00"]]))
    following.get(delta("A", 2, "yes", "0.4000", "-2.00", TS + 1))
    items = following.quiet(100_000)
    assert statuses(items) == [(FeedState.GAP, ("kalshi:A",))]
    assert following.feed.order_book("A") is None
    assert following.commands()[-1]["params"]["action"] == "get_snapshot"


def test_a_size_that_only_dips_below_zero_inside_a_timestamp_is_not_lost_data() -> None:
    following = Following("A")
    following.get(snapshot("A", 1, [["0.4000", "1.00"]]))
    following.get(
        delta("A", 2, "yes", "0.4000", "-2.00", TS + 1),
        delta("A", 3, "yes", "0.4000", "3.00", TS + 1),
    )
    (quote,) = quotes(following.quiet(100_000))
    assert quote.bid_size_micros == 2_000_000


def test_a_change_that_can_not_be_read_is_quarantined_and_the_book_taken_anew() -> None:
    following = Following("A")
    following.get(snapshot("A", 1, [["0.4000", "1.00"]]))
    items = following.get(delta("A", 2, "maybe", "0.4100", "1.00"))
    assert refusals(items) == ["enum_unknown"]
    assert statuses(items) == [(FeedState.GAP, ("kalshi:A",))]


def test_frames_of_another_subscription_or_of_unknown_markets_change_nothing() -> None:
    following = Following("A")
    following.get(snapshot("A", 1, [["0.4000", "1.00"]]))
    assert following.get(delta("A", 1, "yes", "0.4100", "1.00", TS + 1, sid=7)) == []
    assert following.get(delta("Z", 2, "yes", "0.4100", "1.00", TS + 1)) == []
    assert following.quiet(100_000) == []


def test_a_crossed_first_snapshot_is_refused_and_asked_for_again_a_few_times() -> None:
    following = Following("A")
    crossed = [["0.4000", "1.00"]], [["0.6000", "1.00"]]
    for seq in range(1, 6):
        items = following.get(snapshot("A", seq, *crossed))
        assert refusals(items) == ["book_crossed"]
    asked = [c for c in following.commands() if c["params"].get("action") == "get_snapshot"]
    assert len(asked) == 3
    assert following.feed.order_book("A") is None


def test_with_yes_prices_the_no_side_is_read_as_it_comes() -> None:
    following = Following("A", use_yes_price=True)
    items = following.get(snapshot("A", 1, [["0.4000", "1.00"]], [["0.4500", "1.00"]]))
    assert [top(q) for q in quotes(items)] == [(400_000, 450_000)]
    following.get(delta("A", 2, "no", "0.4400", "1.00", TS + 1))
    assert [top(q) for q in quotes(following.quiet(100_000))] == [(400_000, 440_000)]


def test_an_absent_side_is_empty_but_a_side_under_another_name_is_another_format() -> None:
    following = Following("A")
    assert [top(q) for q in quotes(following.get(snapshot("A", 1)))] == [(None, None)]
    renamed = {"market_ticker": "A", "yes_levels": [["0.4000", "1.00"]]}
    items = following.get(json.dumps({"type": "orderbook_snapshot", "sid": 1, "seq": 2, "msg": renamed}))
    assert refusals(items) == ["field_missing"]


@pytest.mark.parametrize("code", [10, 17, 25])
@pytest.mark.parametrize("new_sid", [1, 5])
def test_an_error_that_ends_the_subscription_is_a_gap_and_subscribes_again(code: int, new_sid: int) -> None:
    following = Following("A", "B")
    following.get(snapshot("A", 1, [["0.4000", "1.00"]]), snapshot("B", 2, [["0.2000", "1.00"]]))
    following.commands()
    items = following.get(json.dumps({"type": "error", "sid": 1, "msg": {"code": code, "msg": "ended"}}))
    assert statuses(items) == [(FeedState.GAP, ("kalshi:A", "kalshi:B"))]
    (command,) = [c for c in following.commands() if c["cmd"] == "subscribe"]
    assert command["params"]["market_tickers"] == ["A", "B"]
    following.get(subscribed("orderbook_delta", new_sid, command["id"]))
    again = following.get(
        snapshot("A", 1, [["0.4000", "1.00"]], sid=new_sid), snapshot("B", 2, [["0.3", "1"]], sid=new_sid)
    )
    assert [q.source.name for q in quotes(again)] == [f"session:{new_sid}"] * 2
    assert statuses(again) == [(FeedState.LIVE, ())], "its counter begins anew, even under the old number"


def test_a_refused_market_is_left_out_and_the_others_of_its_command_are_asked_for_again() -> None:
    following = Following("A")
    following.feed.follow([kalshi_market(t) for t in ("A", "B", "C")])
    add = next(c for c in following.commands() if c["params"].get("sids") == [1])
    error = {"type": "error", "id": add["id"], "msg": {"code": 16, "msg": "not found", "market_ticker": "B"}}
    assert refusals(following.get(json.dumps(error))) == ["refused"]
    (again,) = [c for c in following.commands() if c["params"].get("sids") == [1]]
    assert again["params"]["market_tickers"] == ["C"]


def test_too_many_commands_are_sent_again_later() -> None:
    following = Following("A")
    following.feed.follow([kalshi_market(t) for t in ("A", "B")])
    add = next(c for c in following.commands() if c["params"].get("sids") == [1])
    assert following.get(json.dumps({"type": "error", "id": add["id"], "msg": {"code": 27, "msg": "slow down"}})) == []
    following.quiet(500_000)
    assert following.commands() == []
    following.quiet(600_000)
    (again,) = following.commands()
    assert again["params"] == add["params"]


def test_replacing_the_markets_adds_and_deletes_only_the_difference() -> None:
    following = Following("A", "B")
    following.get(snapshot("A", 1, [["0.4000", "1.00"]]), snapshot("B", 2, [["0.2000", "1.00"]]))
    following.commands()
    following.feed.follow([kalshi_market(t) for t in ("B", "C")])
    books = [
        (c["params"]["action"], c["params"]["market_tickers"])
        for c in following.commands()
        if c["params"]["sids"] == [1]
    ]
    assert books == [("delete_markets", ["A"]), ("add_markets", ["C"])]
    assert following.feed.order_book("A") is None
    assert following.feed.order_book("B") is not None


def test_a_reconnect_is_a_gap_with_a_new_epoch_and_then_live() -> None:
    following = Following("A", "B")
    following.get(snapshot("A", 1, [["0.4000", "1.00"]]), snapshot("B", 2, [["0.2000", "1.00"]]))
    before = following.monitor.epoch
    following.feed.closed(following.now)
    assert following.feed.order_book("A") is None
    assert following.connect() == []
    first = following.get(snapshot("A", 1, [["0.4000", "1.00"]]))
    assert statuses(first) == [(FeedState.GAP, ())]
    assert quotes(first)[0].epoch > before
    assert statuses(following.get(snapshot("B", 2, [["0.2000", "1.00"]]))) == [(FeedState.LIVE, ())]


def test_one_market_without_a_book_holds_the_others_back_only_for_a_while() -> None:
    following = Following("A", "B")
    assert statuses(following.get(snapshot("A", 1, [["0.4000", "1.00"]]))) == []
    assert statuses(following.quiet(16_000_000)) == [(FeedState.LIVE, ())]


def test_trades_and_lifecycle_of_followed_markets_come_through() -> None:
    following = Following("A")
    printed = {
        "trade_id": "t-1",
        "market_ticker": "A",
        "yes_price_dollars": "0.4100",
        "no_price_dollars": "0.5900",
        "count_fp": "2.00",
        "taker_side": "yes",
        "ts": TS // 1_000,
        "ts_ms": TS,
    }
    items = following.get(
        json.dumps({"type": "trade", "sid": 2, "msg": printed}),
        json.dumps({"type": "trade", "sid": 2, "msg": printed | {"market_ticker": "Z"}}),
    )
    (trade,) = [i for i in items if isinstance(i, Trade)]
    assert (trade.source_key, trade.price_micros, trade.taker_outcome_index) == ("t-1", 410_000, 0)
    life = following.get(
        json.dumps(
            {
                "type": "market_lifecycle_v2",
                "sid": 3,
                "msg": {
                    "event_type": "determined",
                    "market_ticker": "A",
                    "result": "yes",
                    "settlement_value": "1.0000",
                },
            }
        ),
        json.dumps(
            {
                "type": "market_lifecycle_v2",
                "sid": 3,
                "msg": {"event_type": "settled", "market_ticker": "A", "settled_ts": 5},
            }
        ),
        json.dumps(
            {
                "type": "market_lifecycle_v2",
                "sid": 3,
                "msg": {"event_type": "settled", "market_ticker": "Z", "settled_ts": 5},
            }
        ),
    )
    updates = [i for i in life if isinstance(i, SettlementUpdate)]
    assert [(u.state, u.settlement.state if u.settlement else None) for u in updates] == [
        (MarketState.DETERMINED, SettlementState.PROVISIONAL),
        (MarketState.SETTLED, SettlementState.FINAL),
    ]
    assert following.feed.lookups == set()


def test_a_settlement_without_its_value_is_looked_up() -> None:
    following = Following("A")
    frame = {"type": "market_lifecycle_v2", "sid": 3, "msg": {"event_type": "settled", "market_ticker": "A"}}
    (update,) = [i for i in following.get(json.dumps(frame)) if isinstance(i, SettlementUpdate)]
    assert (update.state, update.settlement) == (MarketState.SETTLED, None)
    assert following.feed.lookups == {"A"}


def test_a_number_where_a_text_belongs_is_read_by_its_digits() -> None:
    following = Following("A")
    frame = '{"type":"orderbook_snapshot","sid":1,"seq":1,"msg":{"market_ticker":"A","yes_dollars_fp":[[0.41,5.5]]}}'
    (quote,) = quotes(following.get(frame))
    assert (quote.bid_price_micros, quote.bid_size_micros) == (410_000, 5_500_000)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("<html>", "not_json"),
        ("[]", "not_an_object"),
        ('{"type":"surprise"}', "enum_unknown"),
        ('{"type":"trade","msg":{"market_ticker":"A"}}', "field_missing"),
        ('{"type":"orderbook_snapshot","sid":1}', "field_missing"),
    ],
)
def test_a_poison_frame_is_quarantined_and_the_feed_goes_on(frame: str, reason: str) -> None:
    following = Following("A")
    assert refusals(following.get(frame)) == [reason]
    assert len(quotes(following.get(snapshot("A", 1, [["0.4000", "1.00"]])))) == 1


def test_the_old_cents_dialect_of_the_socket_is_read_by_its_keys() -> None:
    following = Following("A")
    first = {
        "type": "orderbook_snapshot",
        "sid": 1,
        "seq": 1,
        "msg": {"market_ticker": "A", "yes": [[1, 5]], "no": [[98, 2]]},
    }
    assert [top(q) for q in quotes(following.get(json.dumps(first)))] == [(10_000, 20_000)]
    change = {
        "type": "orderbook_delta",
        "sid": 1,
        "seq": 2,
        "msg": {"market_ticker": "A", "price": 1, "delta": -5, "side": "yes"},
    }
    following.get(json.dumps(change))
    assert [top(q) for q in quotes(following.quiet(100_000))] == [(None, 20_000)]
