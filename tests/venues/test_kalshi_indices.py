"""Prices of what Kalshi's ladders are about: asked for, read, and told apart from the markets' own data."""

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


# --- Pyth's prices of metals ------------------------------------------------------------------------------------------

GOLD = "kalshi:underlying.pyth.Metal.XAU/USD"


def a_gold_ladder() -> Following:
    following = Following("OTHER")
    strike = about(Strike("greater", 4_496_000_000), "KXGOLDD")
    assert strike == Strike("greater", 4_496_000_000, underlying_id=GOLD), "one price, no average"
    crypto = replace(kalshi_market("KXBTC-1"), strike=Strike("greater", 65_000_000_000, underlying_id=BRTI))
    following.feed.follow([replace(kalshi_market("KXGOLDD-1"), strike=strike), crypto])
    return following


def a_pyth_frame(seq: int = 1, **message: Any) -> str:
    body = {
        "underlying_ticker": "Metal.XAU/USD",
        "value_usd": "4496.12345678",
        "source_ts_ms": TS,
        "received_at": TS + 9,
    }
    return json.dumps({"type": "pyth_value", "sid": 12, "seq": seq, "msg": body | message})


def pyth_asked(following: Following) -> list[Any]:
    subscriptions = [c["params"] for c in following.commands() if c["cmd"] == "subscribe"]
    return [p["underlying_tickers"] for p in subscriptions if p["channels"] == ["pyth_value"]]


def test_metals_are_asked_for_beside_indices_and_again_on_the_next_connection() -> None:
    following = a_gold_ladder()
    parameters = [c["params"] for c in following.commands()]
    assert {"channels": ["pyth_value"], "underlying_tickers": ["Metal.XAU/USD"]} in parameters
    assert {"channels": ["cfbenchmarks_value"], "index_ids": ["BRTI"]} in parameters
    following.feed.closed(following.now)
    following.feed.opened("again", following.now)
    assert pyth_asked(following) == [["Metal.XAU/USD"]]
    assert pyth_asked(a_ladder("KXBTC-1")) == []


def test_a_pyth_value_becomes_the_price_of_its_ticker_and_shows_nothing_of_the_markets() -> None:
    following = a_gold_ladder()
    (price,) = following.get(a_pyth_frame())
    assert isinstance(price, Quote)
    assert (price.market_id, price.bid_price_micros, price.ask_price_micros) == (GOLD, 4_496_123_457, 4_496_123_457)
    assert price.venue_time_us == TS * 1_000
    assert not following.feed.is_data(a_pyth_frame())


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"value_usd": "0"}, "price_out_of_range"),
        ({"value_usd": None}, "field_type"),
        ({"source_ts_ms": None}, "time_invalid"),
        ({"underlying_ticker": ""}, "field_missing"),
    ],
)
def test_a_pyth_value_that_cant_be_read_is_quarantined_and_the_next_one_is_read(
    message: dict[str, Any], reason: str
) -> None:
    following = a_gold_ladder()
    assert refusals(following.get(a_pyth_frame(**message))) == [reason]
    assert isinstance(following.get(a_pyth_frame(2))[0], Quote)


def test_prices_that_were_skipped_are_no_gap_of_the_markets() -> None:
    following = a_gold_ladder()
    following.get(a_pyth_frame(1))
    (price,) = following.get(a_pyth_frame(7))
    assert isinstance(price, Quote)


@pytest.mark.parametrize("series", ["KXGOLDW", "KXSILVERD", "KXSILVERW"])
def test_ladders_of_metals_name_their_price(series: str) -> None:
    metal = "Metal.XAU/USD" if "GOLD" in series else "Metal.XAG/USD"
    assert about(Strike("greater", 1), series).underlying_id == f"kalshi:underlying.pyth.{metal}"


@pytest.mark.parametrize("series", ["KXBRENTD", "KXWTI", "KXGOLDMON", "KXGOLD15M"])
def test_ladders_whose_contract_the_rules_name_have_no_price(series: str) -> None:
    assert about(Strike("greater", 1), series).underlying_id == ""
