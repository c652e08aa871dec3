"""Kalshi's recorded bodies and sessions through the production readers. Skips, saying so, where they are absent."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import orjson
import pytest

from oddstream_server.application.ports import QuarantinedRow
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import FeedState, FeedStatus, OrderBook, Quote, SourceKind, TickSource
from oddstream_server.venues.decimals import micros
from oddstream_server.venues.feed_state import FeedMonitor
from oddstream_server.venues.kalshi import catalog
from oddstream_server.venues.kalshi.feed import KalshiFeed
from oddstream_server.venues.kalshi.ticks import polled_quote, rest_book, trade
from oddstream_server.venues.rows import Quarantine, exact_json
from oddstream_server.venues.socket import SocketConfig
from tests.venues.bodies import kalshi_market, subscribed
from tests.venues.recorded import FOLDER, body, lines, names, needs_recordings

pytestmark = needs_recordings
_POLL = TickSource(Venue.KALSHI, SourceKind.POLL, "GET /markets")

# --- bodies ---------------------------------------------------------------------------------------------------------

_COUNTS: dict[str, dict[str, int]] = {
    "kalshi/rest/candlesticks_pregame_mlb.json": {"market": 1},
    "kalshi/rest/combo_orderbooks.json": {"book": 20},
    "kalshi/rest/combo_priced_markets.json": {"market": 41},
    "kalshi/rest/events_mlb_props_nested.json": {"event": 8, "market": 259},
    "kalshi/rest/events_nfl_preseason.json": {"event": 32, "market": 64},
    "kalshi/rest/events_sports_nested.json": {"event": 32, "market": 245},
    "kalshi/rest/market_single.json": {"market": 2, "book": 1},
    "kalshi/rest/markets_settled.json": {"market": 44},
    "kalshi/rest/series_fee_fields.json": {"series": 4},
    "kalshi/rest_legacy_cents/event_single_response.json": {"event": 1, "market": 1},
    "kalshi/rest_legacy_cents/events_list_response.json": {"event": 5},
    "kalshi/rest_legacy_cents/events_multivariate_list_response.json": {"event": 5},
    "kalshi/rest_legacy_cents/market_single_response.json": {"market": 1},
    "kalshi/rest_legacy_cents/markets_list_response.json": {"market": 5},
    "kalshi/rest_legacy_cents/orderbook_response.json": {"book": 1},
    "kalshi/rest_legacy_cents/series_list_response.json": {"series": 241},
    "kalshi/rest_legacy_cents/series_single_response.json": {"series": 1},
    "kalshi/rest_legacy_cents/trades_list_response.json": {"trade": 5},
    "kalshi/rest_legacy_cents/v2_events_100.json": {"event": 100},
    "kalshi/rest_legacy_cents/v2_markets_200.json": {"market": 200},
}
"""Rows of each body that an adapter reads."""

_NO_ROWS = {
    "kalshi/rest/candlesticks_mlb.json": "candles",
    "kalshi/rest/combo_collections.json": "collections of combinations",
    "kalshi/rest/combo_collections_summary.json": "collections of combinations",
    "kalshi/rest/occurrence_datetime_probe.json": "a study of times, no answer of the venue",
    "kalshi/rest/price_grids.json": "price ranges without their markets",
    "kalshi/rest_legacy_cents/_recording_summary.json": "the recorder's own note",
    "kalshi/rest_legacy_cents/candlesticks_batch_response.json": "candles",
    "kalshi/rest_legacy_cents/event_candlesticks_response.json": "candles",
    "kalshi/rest_legacy_cents/event_metadata_response.json": "pictures and sources",
    "kalshi/rest_legacy_cents/exchange_announcements_response.json": "announcements",
    "kalshi/rest_legacy_cents/exchange_schedule_response.json": "the exchange's hours",
    "kalshi/rest_legacy_cents/exchange_status_response.json": "only that it answers is used",
    "kalshi/rest_legacy_cents/filters_by_sport_response.json": "filters of the venue's site",
    "kalshi/rest_legacy_cents/incentive_programs_response.json": "incentives",
    "kalshi/rest_legacy_cents/live_data_batch_response.json": "live scores",
    "kalshi/rest_legacy_cents/live_data_milestone_response.json": "live scores",
    "kalshi/rest_legacy_cents/milestone_single_response.json": "milestones",
    "kalshi/rest_legacy_cents/milestones_list_response.json": "milestones",
    "kalshi/rest_legacy_cents/multivariate_event_collection_lookup_tickers_response.json": "combinations",
    "kalshi/rest_legacy_cents/multivariate_event_collection_single_response.json": "combinations",
    "kalshi/rest_legacy_cents/multivariate_event_collections_list_response.json": "combinations",
    "kalshi/rest_legacy_cents/series_candlesticks_response.json": "candles",
    "kalshi/rest_legacy_cents/series_fee_changes_response.json": "an empty list",
    "kalshi/rest_legacy_cents/structured_target_single_response.json": "structured targets",
    "kalshi/rest_legacy_cents/structured_targets_list_response.json": "structured targets",
    "kalshi/rest_legacy_cents/tags_by_categories_response.json": "tags",
}
"""Bodies of endpoints that no adapter reads; they have to be JSON whose decimals are exact in micros."""

_QUARANTINED: dict[str, list[str]] = {}
"""Rows that can't be read, by body, each with its reason: none of Kalshi's."""


def rows(content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row of a known kind in a body, wherever its recorder wrapped it."""
    if isinstance(content, dict):
        book = content.get("orderbook_fp", content.get("orderbook"))
        if isinstance(book, dict) and "orderbook_fp" not in book:
            yield "book", content
        if "market_type" in content:
            yield "market", content
        elif "mutually_exclusive" in content:
            yield "event", content
        elif "fee_type" in content:
            yield "series", content
        elif "trade_id" in content:
            yield "trade", content
        for value in content.values():
            yield from rows(value)
    elif isinstance(content, list):
        for value in content:
            yield from rows(value)


def read(kind: str, row: dict[str, Any], quarantine: Quarantine) -> None:
    readers: dict[str, Callable[[], object]] = {
        "book": lambda: rest_book(row),
        "event": lambda: catalog.event(row, [], quarantine),
        "series": lambda: catalog.series(row, quarantine),
        "trade": lambda: trade(row, 1),
        "market": lambda: (catalog.market(row, None, None, quarantine, 1), polled_quote(row, _POLL, 1, 1, 0)),
    }
    readers[kind]()


def test_every_recorded_body_is_in_one_of_the_lists() -> None:
    assert set(names("kalshi/rest")) | set(names("kalshi/rest_legacy_cents")) == (
        _COUNTS.keys() | _NO_ROWS.keys() | {"kalshi/rest/orderbooks_weather_2026-07-23.jsonl.gz"}
    )


@pytest.mark.parametrize("path", sorted(_COUNTS))
def test_every_row_of_a_recorded_body_is_read(path: str) -> None:
    quarantine = Quarantine(Venue.KALSHI, path, 1)
    counts: Counter[str] = Counter()
    for kind, row in rows(exact_json(body(path))):
        counts[kind] += 1
        with quarantine.guard(row):
            read(kind, row, quarantine)
    assert [row.reason for row in quarantine.rows] == _QUARANTINED.get(path, [])
    assert counts == _COUNTS[path]


@pytest.mark.parametrize("path", sorted(_NO_ROWS))
def test_bodies_that_no_adapter_reads_are_json_with_exact_decimals(path: str) -> None:
    def check(content: Any) -> None:
        if isinstance(content, dict):
            for key, value in content.items():
                if key.endswith(("_dollars", "_fp")) and isinstance(value, str):
                    micros(value, key)
                check(value)
        elif isinstance(content, list):
            for value in content:
                check(value)

    check(exact_json(body(path)))
    assert not [kind for kind, _ in rows(exact_json(body(path))) if kind in ("market", "trade", "book")]


def test_533_recorded_order_books_are_the_books_their_recorder_read() -> None:
    read_books = 0
    for line in lines("kalshi/rest/orderbooks_weather_2026-07-23.jsonl.gz"):
        recorded = exact_json(line)
        book = rest_book({"orderbook_fp": recorded["raw_orderbook"]})
        bid, _, ask, _ = book.top()
        for mine, theirs in ((bid, recorded["best_yes_bid"]), (ask, recorded["best_yes_ask"])):
            assert mine == (None if theirs is None else micros(theirs, "best"))
        assert len(book.bids) == len(recorded["yes_bids"])
        assert len(book.asks) == len(recorded["no_bids"])
        read_books += 1
    assert read_books == 533


def test_the_recorded_settled_markets_pay_what_the_venue_says() -> None:
    quarantine = Quarantine(Venue.KALSHI, "", 1)
    paid: Counter[int | None] = Counter()
    for row in exact_json(body("kalshi/rest/markets_settled.json"))["markets"]:
        settlement = catalog.market(row, None, None, quarantine, 1).settlement
        paid[settlement.yes_payout_micros if settlement else None] += 1
    assert paid == {1_000_000: 21, 0: 21, None: 2}


@pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines
def test_72783_recorded_trades_are_read_once_each() -> None:
    ids: set[str] = set()
    for record in csv.DictReader(line.decode() for line in lines("kalshi/history/trades_2025-11.csv.gz")):
        row = {
            "trade_id": record["trade_id"],
            "ticker": record["ticker"],
            "count_fp": record["count"],
            "yes_price_dollars": record["price"],
            "taker_side": record["taker_side"],
            "created_time": record["created_time"],
        }
        ids.add(trade(row, 1).source_key)
    assert len(ids) == 72_783


# --- sessions -------------------------------------------------------------------------------------------------------

_FRAMES = {
    "KXBTC15M-26MAY110830-30": 44_190,
    "KXBTC15M-26MAY112115-15": 70_113,
    "KXBTC15M-26MAY130915-15": 35_198,
    "KXBTC15M-26MAY130945-45": 49_784,
    "KXBTC15M-26MAY131430-30": 38_107,
    "KXBTC15M-26MAY131730-30": 55_383,
    "KXBTC15M-26MAY131915-15": 94_355,
    "KXBTC15M-26MAY132000-00": 60_700,
}


def close_time_us(ticker: str) -> int:
    """The close that the ticker names, in New York's summer time."""
    stamp = datetime.strptime(ticker.split("-")[1].title(), "%y%b%d%H%M").replace(tzinfo=timezone(-timedelta(hours=4)))
    return int(stamp.timestamp()) * 1_000_000


def results() -> dict[str, str]:
    with (FOLDER / "kalshi/history/btc15m_outcomes.csv").open() as file:
        return {row["market_ticker"]: row["result"] for row in csv.DictReader(file)}


def assert_sound(book: OrderBook) -> None:
    assert not book.crossed
    assert all(level.size_micros > 0 for level in (*book.bids, *book.asks))


@pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines
@pytest.mark.parametrize("ticker", sorted(_FRAMES))
def test_a_whole_recorded_life_rebuilds_a_sound_book_whose_end_agrees_with_the_result(ticker: str) -> None:
    feed = KalshiFeed(FeedMonitor(Venue.KALSHI, 1), SocketConfig())
    feed.follow([kalshi_market(ticker)])
    feed.opened("recorded", 0)
    feed.receive(subscribed("orderbook_delta", 1, 2), 0)
    close_us, last_mid, frames, keys = close_time_us(ticker), None, 0, set[int]()
    gaps: list[FeedStatus] = []
    gap_epochs: list[int] = []
    for line in lines(f"kalshi/ws/{ticker}.jsonl.gz"):
        frames += 1
        received_us = orjson.loads(line)["recv_ns"] // 1_000
        quote: Quote | None = None
        for item in feed.receive(line, received_us):
            assert not isinstance(item, QuarantinedRow), item
            if isinstance(item, FeedStatus) and item.state is FeedState.GAP:
                gaps.append(item)
            if not isinstance(item, Quote):
                continue
            assert item.source_key not in keys
            keys.add(item.source_key)
            quote = item
            gap_epochs.append(item.epoch)
            assert (
                item.bid_price_micros is None
                or item.ask_price_micros is None
                or (item.bid_price_micros < item.ask_price_micros)
            )
            bid, ask = item.bid_price_micros, item.ask_price_micros
            if bid is not None and ask is not None and received_us < close_us:
                last_mid = (bid + ask) / 2
        if quote is not None and len(keys) % 16 == 0:  # the whole book; a size below zero would be a gap
            book = feed.order_book(ticker)
            assert book is not None
            assert_sound(book)
            assert book.top(quote.source, quote.source_key) == quote
    assert frames == _FRAMES[ticker]
    assert last_mid is not None
    assert results()[ticker] == ("yes" if last_mid > 500_000 else "no")
    if ticker == "KXBTC15M-26MAY132000-00":
        (gap,) = gaps
        assert "from 59983 to 60427" in gap.detail
        assert gap.market_ids == (f"kalshi:{ticker}",)
        assert gap_epochs[-1] == gap_epochs[0] + 1, "the book after the break is another epoch's"
    else:
        assert not gaps
        assert len(set(gap_epochs)) == 1


def test_the_recorded_session_of_twelve_markets_has_no_gap_when_acknowledgements_are_counted() -> None:
    recorded = json.loads(body("kalshi/ws/recorded_orderbook_session.json"))
    feed = KalshiFeed(FeedMonitor(Venue.KALSHI, 1), SocketConfig())
    feed.follow([kalshi_market(t) for t in recorded["tickers"]])
    feed.opened("recorded", 0)
    states: list[FeedState] = []
    for entry in recorded["frames"]:
        for item in feed.receive(json.dumps(entry["frame"]), entry["received_ms"] * 1_000):
            assert not isinstance(item, QuarantinedRow), item
            if isinstance(item, FeedStatus):
                states.append(item.state)
    assert len(recorded["frames"]) == 269
    assert states == [FeedState.LIVE]
    assert feed.streamed() == set(recorded["tickers"])
    for ticker in recorded["tickers"]:
        book = feed.order_book(ticker)
        assert book is not None
        assert_sound(book)
