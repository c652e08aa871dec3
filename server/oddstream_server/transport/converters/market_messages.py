"""Markets as messages, made once for as long as the market stays the same: most of a read's time was making them."""

from collections import OrderedDict
from dataclasses import dataclass

from oddstream.v1 import market_pb2, market_service_pb2
from oddstream_server.application.ports import Clock
from oddstream_server.domain.market import Market
from oddstream_server.transport.converters.markets import market_message

_KEPT = 4_096


@dataclass(slots=True)
class _Made:
    market: Market
    until_us: int | None
    """When another fee schedule comes into force; None where none does."""
    answer: market_service_pb2.GetMarketResponse


class MarketMessages:
    """Nobody may change what it answers. A market that was read again is the same object while its row is the same; one
    that is another object is converted anew."""

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._made: OrderedDict[tuple[str, bool], _Made] = OrderedDict()

    def answer(self, market: Market, *, full: bool) -> market_service_pb2.GetMarketResponse:
        """The market as GetMarket answers it.

        :param full: see :func:`~oddstream_server.transport.converters.markets.market_message`.
        """
        key, now_us = (market.market_id, full), self._now()
        made = self._made.get(key)
        if made is None or made.market is not market or (made.until_us is not None and made.until_us <= now_us):
            begins = [s.valid_from_us for s in market.fee_schedules if s.valid_from_us is not None]
            ends = [s.valid_to_us for s in market.fee_schedules if s.valid_to_us is not None]
            until_us = min((instant for instant in (*begins, *ends) if instant > now_us), default=None)
            message = market_message(market, full=full, now_us=now_us)
            made = _Made(market, until_us, market_service_pb2.GetMarketResponse(market=message))
            self._made[key] = made
            if len(self._made) > _KEPT:
                self._made.popitem(last=False)
        else:
            self._made.move_to_end(key)
        return made.answer

    def message(self, market: Market, *, full: bool) -> market_pb2.Market:
        return self.answer(market, full=full).market
