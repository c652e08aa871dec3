"""What Kalshi's price ladders are about: CF Benchmarks' indices of coins, Pyth's prices of metals.

The socket's ``cfbenchmarks_value`` channel has the indices once a second; the coins' ladders settle on the simple
average of the sixty seconds of the index before the close. Its ``pyth_value`` channel has Pyth's prices; the metals'
ladders settle on the last one of the minute that ends at the close. Ladders on a futures contract (oil, gas) name
another contract each month in their rules, and none of them is known by its series.
"""

from collections.abc import Mapping
from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any, Final

import orjson

from oddstream_server.domain.market import Strike, Venue, underlying_id
from oddstream_server.domain.money import MICROS
from oddstream_server.domain.quote import Quote
from oddstream_server.venues.rows import QuarantineReason, RowError, as_object, text
from oddstream_server.venues.times import milliseconds_us
from oddstream_server.venues.underlying_prices import as_quote

AVERAGING_US: Final = 60_000_000
PYTH: Final = "pyth."
"""Before the tickers of Pyth's prices; indices have no such beginning."""
_COINS: Final[Mapping[str, str]] = {
    "BTC": "BRTI",
    "ETH": "ETHUSD_RTI",
    "SOL": "SOLUSD_RTI",
    "XRP": "XRPUSD_RTI",
    "DOGE": "DOGEUSD_RTI",
}
INDEX_OF_SERIES: Final[Mapping[str, str]] = {
    f"KX{coin}{form}": index for coin, index in _COINS.items() for form in ("", "D")
}
"""By series: ranges and thresholds of a price at one instant. Series on a maximum or a minimum aren't of this kind."""
_METALS: Final[Mapping[str, str]] = {"GOLD": "Metal.XAU/USD", "SILVER": "Metal.XAG/USD"}
PYTH_OF_SERIES: Final[Mapping[str, str]] = {
    f"KX{metal}{form}": ticker for metal, ticker in _METALS.items() for form in ("D", "W")
}
"""By series: the ladders of a day's or a week's end."""


def about(strike: Strike, series_ticker: str) -> Strike:
    """The strike with the price that it speaks of, where its series is known to settle on one."""
    index, ticker = INDEX_OF_SERIES.get(series_ticker), PYTH_OF_SERIES.get(series_ticker)
    if index is not None:
        return replace(strike, underlying_id=underlying_id(Venue.KALSHI, index), averaging_us=AVERAGING_US)
    if ticker is not None:
        return replace(strike, underlying_id=underlying_id(Venue.KALSHI, PYTH + ticker))
    return strike


def index_price(message: object, session: str, receive_time_us: int) -> Quote:
    """The message of a ``cfbenchmarks_value`` frame as the price of its index.

    :raises RowError: a field is missing, or the value is no price.
    """
    row = as_object(message, "msg")
    index = text(row, "index_id")
    data: Any = row.get("data")
    if isinstance(data, str):
        try:
            data = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise RowError(QuarantineReason.NOT_JSON, "data is no JSON") from None
    data = as_object(data, "data")
    return _price(
        index, data.get("value"), milliseconds_us(data.get("time"), "time"), receive_time_us, session, "cfbenchmarks"
    )


def pyth_price(message: object, session: str, receive_time_us: int) -> Quote:
    """The message of a ``pyth_value`` frame as the price of its ticker.

    :raises RowError: a field is missing, or the value is no price.
    """
    row = as_object(message, "msg")
    ticker = text(row, "underlying_ticker")
    venue_time_us = milliseconds_us(row.get("source_ts_ms"), "source_ts_ms")
    return _price(PYTH + ticker, row.get("value_usd"), venue_time_us, receive_time_us, session, "pyth")


def _price(symbol: str, value: object, venue_time_us: int, receive_time_us: int, session: str, channel: str) -> Quote:
    return as_quote(
        Venue.KALSHI,
        underlying_id(Venue.KALSHI, symbol),
        _micros(value),
        f"{session}:{channel}",
        venue_time_us=venue_time_us,
        receive_time_us=receive_time_us,
    )


def _micros(value: object) -> int:
    """The index has more digits than a micro; half of one goes to the even neighbour."""
    try:
        scaled = Decimal(str(value)) * MICROS
        rounded = int(scaled.to_integral_value(ROUND_HALF_EVEN))
    except (InvalidOperation, ValueError, OverflowError):
        raise RowError(QuarantineReason.FIELD_TYPE, "value is no number") from None
    if not 0 < rounded < 2**62:
        raise RowError(QuarantineReason.PRICE_OUT_OF_RANGE, "value is no price")
    return rounded
