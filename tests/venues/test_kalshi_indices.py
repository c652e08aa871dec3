"""Prices of what Kalshi's crypto ladders are about: asked for, read, and told apart from the markets' own data."""

import json
from dataclasses import replace
from typing import Any

import pytest

from oddstream_server.domain.market import Strike, is_underlying
from oddstream_server.domain.quote import Quote
from oddstream_server.venues.kalshi.indices import about
from tests.venues.bodies import kalshi_market
from tests.venues.test_kalshi_feed import T0, TS, Following, refusals

BRTI = "kalshi:underlying.BRTI"


def a_ladder(*tickers: str) -> Following:
    following = Following("OTHER")
    strike = Strike("greater", 65_000_000_000, underlying_id=BRTI)
    following.feed.follow([replace(kalshi_market(ticker), strike=strike) for ticker in tickers])
    return following


def a_frame(value: object = "65001.2345675", time: object = TS, **message: Any) -> str:
    data = json.dumps({"type": "value", "id": "BRTI", "time": time, "value": value})
    body = {"index_id": "BRTI", "received_at": TS + 3, "data": data, "avg_60s_data": {"value": "1"}, **message}
    return json.dumps({"type": "cfbenchmarks_value", "sid": 9, "seq": 5, "msg": body})


def asked(following: Following) -> list[list[str]]:
    return [
        c["params"]["index_ids"] for c in following.commands() if c["params"].get("channels") == ["cfbenchmarks_value"]
    ]


def test_indices_are_asked_for_once_and_again_on_the_next_connection() -> None:
    following = a_ladder("KXBTC-1", "KXBTC-2")
    assert asked(following) == [["BRTI"]]
    following.feed.follow([replace(kalshi_market("KXBTC-3"), strike=Strike("greater", 1, underlying_id=BRTI))])
    assert asked(following) == []
    following.feed.closed(following.now)
    following.feed.opened("again", following.now)
    assert asked(following) == [["BRTI"]]
    assert asked(Following("A")) == [], "who follows no ladder asks for no index"


@pytest.mark.parametrize("as_text", [True, False])
def test_a_value_becomes_the_price_of_its_index(as_text: bool) -> None:
    data: dict[str, Any] = {"type": "value", "id": "BRTI", "time": TS, "value": "65001.2345675"}
    following = a_ladder("KXBTC-1")
    (price,) = following.get(a_frame(data=json.dumps(data) if as_text else data))
    assert isinstance(price, Quote)
    assert is_underlying(price.market_id)
    assert (price.market_id, price.bid_price_micros, price.ask_price_micros) == (BRTI, 65_001_234_568, 65_001_234_568)
    assert (price.venue_time_us, price.receive_time_us) == (TS * 1_000, T0 + 3_000)
    (again,) = following.get(a_frame())
    assert isinstance(again, Quote)
    assert (again.source, again.source_key) == (price.source, price.source_key), "the same tick is stored once"


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (a_frame(value="-1"), "price_out_of_range"),
        (a_frame(value="many"), "field_type"),
        (a_frame(value="NaN"), "field_type"),
        (a_frame(value=None), "field_type"),
        (a_frame(data="{"), "not_json"),
        (a_frame(data=None), None),
        (a_frame(time=None), None),
    ],
)
def test_a_value_that_cant_be_read_is_quarantined_and_the_next_one_is_read(frame: str, reason: str | None) -> None:
    following = a_ladder("KXBTC-1")
    found = refusals(following.get(frame))
    assert len(found) == 1
    assert reason is None or found == [reason]
    assert isinstance(following.get(a_frame())[0], Quote)


def test_a_value_is_no_sign_that_the_markets_data_comes() -> None:
    assert not a_ladder("KXBTC-1").feed.is_data(a_frame())


@pytest.mark.parametrize(
    ("series", "index"),
    [("KXBTC", "BRTI"), ("KXBTCD", "BRTI"), ("KXETHD", "ETHUSD_RTI"), ("KXBTCMAXY", ""), ("KXRAIN", "")],
)
def test_ladders_of_known_series_speak_of_an_index_averaged_over_a_minute(series: str, index: str) -> None:
    strike = about(Strike("greater", 65_000_000_000), series)
    assert strike.underlying_id == (f"kalshi:underlying.{index}" if index else "")
    assert strike.averaging_us == (60_000_000 if index else 0)
