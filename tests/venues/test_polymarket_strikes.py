"""Which Gamma markets compare two prices, of which stream, and when the first of them is known."""

import json
from typing import Any

import pytest

from oddstream_server.domain.market import Strike, Venue, is_underlying
from oddstream_server.venues.polymarket import catalog
from oddstream_server.venues.polymarket.strikes import PriceSeries, price_series
from oddstream_server.venues.rows import Quarantine, exact_json
from tests.venues.bodies import gamma_event_row, gamma_market_row

STREAMS = "https://data.chain.link/streams/"
OPENING_US = 1_786_856_400_000_000


def up_or_down_row(**fields: Any) -> dict[str, Any]:
    row = gamma_market_row(
        **{
            "slug": "btc-updown-5m-1786856400",
            "question": "Bitcoin Up or Down - August 16, 1:00AM-1:05AM ET",
            "outcomes": '["Up", "Down"]',
            "resolutionSource": f"{STREAMS}btc-usd-twap-60s-streams",
            "eventStartTime": "2026-08-16T05:00:00Z",
            "endDate": "2026-08-16T05:05:00Z",
        }
        | fields
    )
    return as_sent(row)


def as_sent(row: dict[str, Any]) -> dict[str, Any]:
    """The row as it comes over the wire: numbers keep their digits."""
    sent: dict[str, Any] = exact_json(json.dumps(row))
    return sent


def strike_of(event: dict[str, Any] | None = None, **fields: Any) -> Strike | None:
    quarantine = Quarantine(Venue.POLYMARKET, "test", 0)
    market = catalog.market(up_or_down_row(**fields), as_sent(gamma_event_row(**(event or {}))), quarantine, 0)
    assert quarantine.rows == []
    return market.strike


@pytest.mark.parametrize(
    ("stream", "coin", "averaging_us"),
    [
        ("btc-usd", "btc", 0),
        ("eth-usd-twap-30s-streams", "eth", 30_000_000),
        ("hype-usd-twap-60s-streams", "hype", 60_000_000),
    ],
)
def test_an_up_or_down_market_names_the_stream_that_it_resolves_on(stream: str, coin: str, averaging_us: int) -> None:
    strike = strike_of(resolutionSource=STREAMS + stream)
    assert strike == Strike(
        "greater_or_equal",
        underlying_id=f"polymarket:underlying.{coin}-usd",
        averaging_us=averaging_us,
        opening_time_us=OPENING_US,
    )
    assert not strike.is_known
    assert is_underlying(strike.underlying_id)
    assert price_series(strike) == (PriceSeries(coin), PriceSeries(coin, averaging_us))
    averaged = PriceSeries(coin, averaging_us).series_id
    assert (averaged == strike.underlying_id) is (averaging_us == 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"resolutionSource": "https://www.binance.com/en/trade/BTC_USDT"},
        {"resolutionSource": ""},
        {"resolutionSource": f"{STREAMS}btc-usd-twap-300s-streams"},
        {"resolutionSource": f"{STREAMS}btc-eth"},
        {"outcomes": '["Yes", "No"]'},
        {"outcomes": '["Down", "Up"]'},
        {"eventStartTime": None, "slug": "will-bitcoin-rise"},
        {"eventStartTime": "2026-08-16T05:05:00Z"},
        {"endDate": None},
    ],
    ids=str,
)
def test_a_market_that_resolves_otherwise_has_no_such_strike(fields: dict[str, Any]) -> None:
    assert strike_of(**fields) is None


def test_the_windows_start_is_in_the_slug_too() -> None:
    strike = strike_of(eventStartTime=None)
    assert strike is not None
    assert strike.opening_time_us == OPENING_US


@pytest.mark.parametrize("told", [76227.641250796, "76227.641250796"])
def test_the_price_that_the_event_tells_is_the_floor(told: object) -> None:
    strike = strike_of({"eventMetadata": {"priceToBeat": told}})
    assert strike is not None
    assert strike.floor_micros == 76_227_641_251
    assert strike.is_known
    untold: list[Any] = [None, {}, {"priceToBeat": None}]
    for metadata in untold:
        strike = strike_of({"eventMetadata": metadata})
        assert strike is not None
        assert strike.floor_micros is None


@pytest.mark.parametrize("bad", ["many", "-3", "0", {"a": 1}])
def test_a_price_that_cannot_be_read_leaves_the_market_without_a_strike_and_is_told(bad: object) -> None:
    quarantine = Quarantine(Venue.POLYMARKET, "test", 0)
    event = as_sent(gamma_event_row(eventMetadata={"priceToBeat": bad}))
    assert catalog.market(up_or_down_row(), event, quarantine, 0).strike is None
    assert len(quarantine.rows) == 1


def test_strikes_of_other_venues_are_no_series_of_polymarkets() -> None:
    assert price_series(Strike("greater", 1, underlying_id="kalshi:underlying.BRTI")) is None
    assert price_series(Strike("greater", 1, underlying_id="kalshi:underlying.btc-usd", opening_time_us=1)) is None
