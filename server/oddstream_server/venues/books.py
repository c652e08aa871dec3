"""A market's price levels as a venue's changes make them."""

from collections.abc import Iterable

from oddstream_server.domain.quote import BookLevel, OrderBook

Top = tuple[int | None, int | None, int | None, int | None]
"""Bid price, bid size, ask price, ask size in micros; None where the side is empty."""


class PriceLevels:
    """Resting sizes by price in outcome-0 prices, in micros. Best prices are kept, so that the top costs nothing."""

    __slots__ = ("_best_ask", "_best_bid", "asks", "bids")

    def __init__(self, bids: Iterable[tuple[int, int]] = (), asks: Iterable[tuple[int, int]] = ()) -> None:
        self.bids = {price: size for price, size in bids if size > 0}
        self.asks = {price: size for price, size in asks if size > 0}
        self._best_bid = max(self.bids, default=None)
        self._best_ask = min(self.asks, default=None)

    def set_bid(self, price_micros: int, size_micros: int) -> None:
        """The size that rests at a bid price now; 0 or less removes the level."""
        if size_micros > 0:
            self.bids[price_micros] = size_micros
            if self._best_bid is None or price_micros > self._best_bid:
                self._best_bid = price_micros
        elif self.bids.pop(price_micros, None) is not None and price_micros == self._best_bid:
            self._best_bid = max(self.bids, default=None)

    def set_ask(self, price_micros: int, size_micros: int) -> None:
        """The size that rests at an ask price now; 0 or less removes the level."""
        if size_micros > 0:
            self.asks[price_micros] = size_micros
            if self._best_ask is None or price_micros < self._best_ask:
                self._best_ask = price_micros
        elif self.asks.pop(price_micros, None) is not None and price_micros == self._best_ask:
            self._best_ask = min(self.asks, default=None)

    def top(self) -> Top:
        bid, ask = self._best_bid, self._best_ask
        return (
            bid,
            None if bid is None else self.bids[bid],
            ask,
            None if ask is None else self.asks[ask],
        )

    @property
    def crossed(self) -> bool:
        return self._best_bid is not None and self._best_ask is not None and self._best_bid >= self._best_ask

    def order_book(
        self, market_id: str, epoch: int, receive_time_us: int, venue_time_us: int | None = None
    ) -> OrderBook:
        """The whole book, best first."""
        return OrderBook(
            market_id=market_id,
            bids=tuple(BookLevel(price, self.bids[price]) for price in sorted(self.bids, reverse=True)),
            asks=tuple(BookLevel(price, self.asks[price]) for price in sorted(self.asks)),
            epoch=epoch,
            receive_time_us=receive_time_us,
            venue_time_us=venue_time_us,
        )
