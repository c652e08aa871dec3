"""Which open markets are followed: whole events by volume, and before them those whose window ends next."""

from collections.abc import AsyncIterator, Sequence

from oddstream_server.domain.market import Market, Strike
from oddstream_server.pipeline.discovery import choose_markets
from tests.strategies.worlds import START_US, a_market

MINUTE_US = 60_000_000


async def listed(markets: Sequence[Market]) -> AsyncIterator[Market]:
    for market in markets:
        yield market


def busy(number: int) -> Market:
    return a_market(number, event_id=f"kalshi:E{number}", volume_micros=1_000_000_000 - number)


def window(number: int, end_us: int, volume: int = 0) -> Market:
    strike = Strike("greater_or_equal", opening_time_us=end_us - 5 * MINUTE_US)
    return a_market(number, event_id=f"kalshi:E{number}", strike=strike, close_time_us=end_us, volume_micros=volume)


async def chosen(markets: Sequence[Market], limit: int, windows: int) -> list[str]:
    found = await choose_markets(listed(markets), limit, windows, START_US)
    return [market.venue_market_id for market in found]


async def test_windows_that_end_next_come_before_markets_of_more_volume() -> None:
    ends = [window(10 + n, START_US + (n + 1) * 5 * MINUTE_US) for n in range(5)]
    markets = [busy(n) for n in range(6)] + ends[::-1]
    assert await chosen(markets, 8, 3) == ["M10", "M11", "M12", "M0", "M1", "M2", "M3", "M4"]
    assert await chosen(markets, 8, 0) == ["M0", "M1", "M2", "M3", "M4", "M5", "M10", "M11"]


async def test_windows_take_at_most_half_of_the_places_and_none_where_there_are_none() -> None:
    ends = [window(10 + n, START_US + (n + 1) * 5 * MINUTE_US) for n in range(5)]
    assert await chosen([busy(n) for n in range(6)] + ends, 4, 40) == ["M10", "M11", "M0", "M1"]
    assert await chosen([busy(n) for n in range(6)], 4, 40) == ["M0", "M1", "M2", "M3"]


async def test_windows_that_are_over_or_far_away_count_by_volume() -> None:
    over, far = window(10, START_US), window(11, START_US + 61 * MINUTE_US, volume=2_000_000_000)
    ladder = a_market(12, event_id="kalshi:E12", strike=Strike("greater", 1), close_time_us=START_US + MINUTE_US)
    assert await chosen([busy(0), busy(1), over, far, ladder], 3, 3) == ["M11", "M0", "M1"]


async def test_of_one_end_the_busier_window_comes_first_and_no_market_comes_twice() -> None:
    end_us = START_US + 5 * MINUTE_US
    markets = [busy(0), window(10, end_us, 5), window(11, end_us, 9), window(12, end_us, 2_000_000_000)]
    assert await chosen(markets, 10, 2) == ["M12", "M11", "M0", "M10"]
