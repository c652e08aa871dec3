"""Recorded bitcoin 5-minute markets: the first prices of their windows, heard from the feed, tell the results."""

from typing import Any

from oddstream_server.domain.market import Market, Venue
from oddstream_server.venues.polymarket import catalog
from oddstream_server.venues.rows import Quarantine, exact_json
from tests.venues.recorded import lines, needs_recordings
from tests.venues.test_polymarket_prices import SPOT, Following, known

pytestmark = needs_recordings

_BITCOIN = "polymarket/gamma/BTC-5m-markets-2026-07-24.jsonl.gz"


def recorded() -> list[tuple[Market, dict[str, Any]]]:
    rows = sorted((exact_json(line) for line in lines(_BITCOIN)), key=lambda row: int(row["start_sec"]))
    quarantine = Quarantine(Venue.POLYMARKET, "recorded", 0)
    found = [(catalog.market(row["raw"], None, quarantine, 0), row) for row in rows]
    assert quarantine.rows == []
    return found


def test_each_names_the_price_at_the_start_of_its_window() -> None:
    markets = recorded()
    assert len(markets) == 292
    for market, row in markets:
        assert market.strike is not None
        assert market.strike.opening_time_us == row["start_sec"] * 1_000_000
        assert market.close_time_us == row["end_sec"] * 1_000_000
        assert market.strike.averaging_us == 0, "they are of the time before the averages"
        assert market.strike.underlying_id == "polymarket:underlying.btc-usd"
        assert not market.strike.is_known


def test_strikes_heard_from_the_feed_tell_the_recorded_results() -> None:
    """A window's last price is the next one's first. Up where it is at least its own first."""
    markets = [(market, row) for market, row in recorded() if row["strike_value"]]
    following = Following(*(market for market, _ in markets))
    following.now = 0
    floors: dict[int, int | None] = {}
    for market, row in markets:
        start_us = row["start_sec"] * 1_000_000
        assert known(following.get(SPOT, start_us - 1_000_000, 10**18)) == {}
        heard = known(following.get(SPOT, start_us, int(row["strike_value"])))
        assert list(heard) == [market.market_id]
        floors[row["start_sec"]] = heard[market.market_id]
    compared = 0
    for _, row in markets:
        own, last = floors[row["start_sec"]], floors.get(row["end_sec"])
        if own is not None and last is not None:
            compared += 1
            assert (last >= own) == (row["outcome_prices"][0] == "1"), row["slug"]
    assert compared == 259
