"""A row for the kernels: a market's quote with what its strategies need besides, all as of one instant."""

from collections.abc import Sequence

from oddstream_server.domain.market import Market
from oddstream_server.domain.quote import Quote, Trade
from oddstream_server.pipeline.deciding.memory import Memory
from oddstream_server.strategies.fitting import FittedTables
from oddstream_server.strategies.kernel import FITTED_COLUMNS, MISSING, TERMS_COLUMNS
from oddstream_server.strategies.registry import ConfiguredStrategy
from oddstream_server.strategies.verdicts import column_values, print_values, terms_values

_NO_UNDERLYING = {
    "underlying_price_micros": MISSING,
    "underlying_time_us": MISSING,
    "underlying_volatility_ppb": MISSING,
}


class Rows:
    """Composes rows; columns that no strategy asks for are left out."""

    def __init__(self, strategies: Sequence[ConfiguredStrategy], tables: FittedTables) -> None:
        wanted = {column for s in strategies if not s.kind.group for column in s.kind.columns}
        self._terms = not wanted.isdisjoint(TERMS_COLUMNS)
        self._fitted = not wanted.isdisjoint(FITTED_COLUMNS)
        self._prints = any(s.kind.wants_prints for s in strategies)
        self._underlying = any(s.kind.wants_underlying for s in strategies)
        self.tables = tables

    def values(
        self, memory: Memory, market: Market, quote: Quote, at_us: int, trade: Trade | None = None
    ) -> dict[str, int]:
        """The columns of a market at an instant, with the quote as of it."""
        values = column_values(market, quote)
        values["receive_time_us"] = at_us
        if self._terms:
            values |= terms_values(market)
        if self._prints:
            values |= print_values(trade)
        if self._underlying:
            values |= _underlying_values(memory, market)
        if self._fitted:
            values |= self._fitted_values(market, values)
        return values

    def _fitted_values(self, market: Market, values: dict[str, int]) -> dict[str, int]:
        at_us, bid, ask = values["receive_time_us"], values["bid_price_micros"], values["ask_price_micros"]
        left_us = None if market.close_time_us is None else market.close_time_us - at_us
        mid = MISSING if MISSING in (bid, ask) else (bid + ask) // 2
        return {
            **self.tables.calibration_values(market.category, left_us, mid, market.payout_micros, at_us),
            **self.tables.baseline_values(market.venue.value, market.category, at_us),
        }


def _underlying_values(memory: Memory, market: Market) -> dict[str, int]:
    strike = market.strike
    slot = memory.underlyings.get(strike.underlying_id) if strike is not None else None
    if slot is None or slot.price is None:
        return _NO_UNDERLYING
    state = slot.state[0]
    return {
        "underlying_price_micros": int(state["price_micros"]),
        "underlying_time_us": int(state["time_us"]),
        "underlying_volatility_ppb": int(state["volatility_ppb"]),
    }
