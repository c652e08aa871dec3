"""Recorded Kalshi WebSocket sessions through real sockets into the real adapter."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

import orjson
import pytest

from oddstream_server.domain.market import Market, MarketState, Outcome, PriceRange, Venue
from oddstream_server.domain.quote import FeedState, FeedStatus, Quote
from oddstream_server.venues.kalshi import KalshiAdapter, KalshiConfig
from oddstream_server.venues.socket import SocketConfig
from tests.emulator.collecting import CollectingSink, following
from tests.emulator.recorded import RecordedKalshiSocket
from tests.emulator.signatures import TestKey
from tests.venues.recorded import FOLDER, lines, needs_recordings, plain_json

# Tracing would take most of the time; shorter tests run the same lines.
pytestmark = [needs_recordings, pytest.mark.no_cover]

KEY = TestKey()
MARKETS = (
    "KXBTC15M-26MAY110830-30",
    "KXBTC15M-26MAY112115-15",
    "KXBTC15M-26MAY130915-15",
    "KXBTC15M-26MAY130945-45",
    "KXBTC15M-26MAY131430-30",
    "KXBTC15M-26MAY131730-30",
    "KXBTC15M-26MAY131915-15",
    "KXBTC15M-26MAY132000-00",
)
WITH_A_BREAK = "KXBTC15M-26MAY132000-00"


def a_market(ticker: str) -> Market:
    return Market(
        market_id=f"kalshi:{ticker}",
        venue=Venue.KALSHI,
        venue_market_id=ticker,
        event_id=None,
        title=ticker,
        outcomes=(Outcome(0, "Yes", ticker), Outcome(1, "No", ticker)),
        state=MarketState.OPEN,
        price_ranges=(PriceRange(0, 1_000_000, 1_000),),
        minimum_size_micros=10_000,
        size_step_micros=10_000,
    )


def recorded_market(ticker: str) -> list[dict[str, Any]]:
    frames = [orjson.loads(line) for line in lines(f"kalshi/ws/{ticker}.jsonl.gz")]
    return [{k: v for k, v in frame.items() if k != "recv_ns"} for frame in frames]


@dataclass
class Truth:
    """What the frames make of a book, by plain decimals."""

    yes: dict[Decimal, Decimal]
    no: dict[Decimal, Decimal]

    @property
    def bids(self) -> list[tuple[int, int]]:
        return [(_micros(p), _micros(self.yes[p])) for p in sorted(self.yes, reverse=True)]

    @property
    def asks(self) -> list[tuple[int, int]]:
        return [(1_000_000 - _micros(p), _micros(self.no[p])) for p in sorted(self.no, reverse=True)]


def _micros(value: Decimal) -> int:
    return int(value * 1_000_000)


def rebuilt(frames: Iterable[dict[str, Any]]) -> dict[str, Truth]:
    books: dict[str, Truth] = {}
    for frame in frames:
        message = frame.get("msg", {})
        if frame["type"] == "orderbook_snapshot":
            sides = [
                {Decimal(p): Decimal(size) for p, size in message.get(f"{side}_dollars_fp", [])}
                for side in ("yes", "no")
            ]
            books[message["market_ticker"]] = Truth(*sides)
        elif frame["type"] == "orderbook_delta":
            book = books[message["market_ticker"]]
            side = book.yes if message["side"] == "yes" else book.no
            price = Decimal(message["price_dollars"])
            side[price] = side.get(price, Decimal(0)) + Decimal(message["delta_fp"])
            if side[price] <= 0:
                del side[price]
    return books


@cache
def results() -> dict[str, str]:
    with (FOLDER / "kalshi/history/btc15m_outcomes.csv").open() as file:
        return {row["market_ticker"]: row["result"] for row in csv.DictReader(file)}


def crossed(quotes: Iterable[Quote]) -> list[Quote]:
    return [
        q
        for q in quotes
        if q.bid_price_micros is not None
        and q.ask_price_micros is not None
        and q.bid_price_micros >= q.ask_price_micros
    ]


async def played(frames: list[dict[str, Any]], tickers: Iterable[str]) -> tuple[CollectingSink, KalshiAdapter, int]:
    """The session through sockets; the sink, the adapter with its last books, and how often a snapshot was asked."""
    tickers = list(tickers)
    socket = SocketConfig(stale_after_s=120, quiet_flush_s=0.02)
    async with RecordedKalshiSocket(frames, tickers) as venue:
        adapter = KalshiAdapter(
            KalshiConfig(
                rest_url=f"{venue.http}/trade-api/v2",
                ws_url=venue.ws_url,
                key_id=KEY.key_id,
                private_key_pem=KEY.private_key_pem,
                socket=socket,
            )
        )
        sink = CollectingSink()
        await adapter.subscribe([a_market(ticker) for ticker in tickers])
        truth = rebuilt(frames)
        books = {}

        def all_there() -> bool:
            if not venue.finished.is_set():
                return False
            for ticker in tickers:
                books[ticker] = book = adapter.order_book(f"kalshi:{ticker}")
                if book is None:
                    return False
                if [(b.price_micros, b.size_micros) for b in book.bids] != truth[ticker].bids:
                    return False
                if [(a.price_micros, a.size_micros) for a in book.asks] != truth[ticker].asks:
                    return False
            return True

        async with following(adapter, sink):
            await sink.until(all_there, "the last books are those of the recording")
        return sink, adapter, len(venue.snapshots_asked)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("ticker", MARKETS)
async def test_a_whole_recorded_market_is_rebuilt_and_its_last_mid_agrees_with_the_result(ticker: str) -> None:
    frames = recorded_market(ticker)
    sink, _, snapshots = await played(frames, [ticker])
    assert sink.quarantined == []
    assert crossed(sink.quotes) == []
    assert all((q.bid_size_micros or 1) > 0 and (q.ask_size_micros or 1) > 0 for q in sink.quotes)
    two_sided = [q for q in sink.quotes if q.bid_price_micros is not None and q.ask_price_micros is not None]
    last = two_sided[-1]
    assert last.bid_price_micros is not None
    assert last.ask_price_micros is not None
    mid_is_above = last.bid_price_micros + last.ask_price_micros > 1_000_000
    assert results()[ticker] == ("yes" if mid_is_above else "no")
    gaps = [s for s in sink.of(FeedStatus) if s.state is FeedState.GAP]
    if ticker == WITH_A_BREAK:
        assert len(gaps) == 1
        assert gaps[0].market_ids == (f"kalshi:{ticker}",)
        assert gaps[0].epoch > min(q.epoch for q in sink.quotes)
    else:
        assert gaps == []
        assert snapshots == 0


async def test_the_recorded_session_of_twelve_markets_counts_its_ok_frames_and_has_no_gap() -> None:
    session = plain_json("kalshi/ws/recorded_orderbook_session.json")
    frames = [entry["frame"] for entry in session["frames"]]
    sink, _, snapshots = await played(frames, session["tickers"])
    assert sink.quarantined == []
    assert FeedState.GAP not in sink.states
    assert snapshots == 0
    assert {q.market_id for q in sink.quotes} == {f"kalshi:{t}" for t in session["tickers"]}
    assert crossed(sink.quotes) == []


async def test_the_same_session_without_its_ok_frames_is_a_gap() -> None:
    session = plain_json("kalshi/ws/recorded_orderbook_session.json")
    frames = [entry["frame"] for entry in session["frames"] if entry["frame"]["type"] != "ok"]
    sink, _, snapshots = await played(frames, session["tickers"])
    assert FeedState.GAP in sink.states
    assert snapshots > 0
