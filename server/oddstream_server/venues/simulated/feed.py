"""What a subscriber of the simulated venue receives: the world's items as venue items, with the feed's faults."""

from collections.abc import Iterable
from dataclasses import replace

from oddstream_server.application.ports import CatalogPage, VenueItem
from oddstream_server.domain.market import Event, Market, Venue
from oddstream_server.domain.quote import (
    BookLevel,
    FeedState,
    FeedStatus,
    OrderBook,
    Quote,
    SourceKind,
    TickSource,
    Trade,
)
from oddstream_server.venues.simulated.config import SimulatedConfig
from oddstream_server.venues.simulated.draws import Draws, digest
from oddstream_server.venues.simulated.world import BookChanged, Listed, Printed, Resolved, World, WorldItem

PAGE_EVENTS = 100


class Feed:
    """A session on a world: subscriptions, epochs, source keys, gaps, duplicate rows. No I/O, no clock.

    Everything is followed until the first call of :meth:`subscribe`.

    :param first_epoch: epoch of the first books.
    """

    def __init__(self, world: World, first_epoch: int = 1) -> None:
        self.world = world
        self.epoch = first_epoch
        config, session = world.config, digest(world.config.seed, world.start_time_us).hex()[:16]
        self._config: SimulatedConfig = config
        self._quotes = TickSource(Venue.SIMULATED, SourceKind.WEBSOCKET, session)
        self._trades = TickSource(Venue.SIMULATED, SourceKind.TRADES, "trades")
        self._session = session
        self._followed: frozenset[str] | None = None
        self._draws = Draws(config.seed, "feed", world.start_time_us)
        self._key = 0
        self._tops: dict[str, tuple[BookLevel | None, BookLevel | None]] = {}
        self._at_once: list[VenueItem] = []
        self._last_receive_us: int | None = None
        self._lost_until_us: int | None = None
        self._gap_from_us = self._next_gap(world.start_time_us)
        self._at_once.append(self._status(FeedState.LIVE, world.start_time_us, "session begun"))

    @property
    def recovering(self) -> bool:
        """True while the feed loses what happens; books are unknown then."""
        return self._lost_until_us is not None

    def next_time_us(self) -> int:
        """When :meth:`advance` has something to do next."""
        times = [self.world.next_time_us()]
        if self._lost_until_us is not None:
            times.append(self._lost_until_us)
        elif self._gap_from_us is not None:
            times.append(self._gap_from_us)
        if self._at_once:
            times.append(self.world.now_us)
        return min(times)

    def subscribe(self, markets: Iterable[Market]) -> None:
        """Replace the followed markets. New ones show their quote at the next advance.

        A market that the catalogue no longer has answers with the settlement it came to.
        """
        wanted = frozenset(m.market_id for m in markets)
        now_us = self.world.now_us
        added = wanted - self._followed if self._followed is not None else wanted
        self._followed = wanted
        for market_id in sorted(added):
            if self.world.market(market_id) is None:
                update = self.world.settlement_of(market_id)
                if update is not None and update.settlement is not None:
                    self._at_once.append(update)
            elif not self.recovering:
                self._at_once.extend(self._snapshot(market_id, now_us))

    def prices(self) -> list[Quote]:
        """What coin series are about, as it stands now: quotes whose bid and ask are the price."""
        now_us, found = self.world.now_us, list[Quote]()
        for instrument_id, price in self.world.prices():
            top = BookLevel(price, 0)
            found.append(
                replace(self._quote(instrument_id, now_us, top, top), bid_size_micros=None, ask_size_micros=None)
            )
        return found

    def pages(self) -> list[CatalogPage]:
        """The catalogue as discovery pages."""
        entries = list(self.world.catalog())
        return [self._page(entries[start : start + PAGE_EVENTS]) for start in range(0, len(entries), PAGE_EVENTS)]

    def order_book(self, market_id: str) -> OrderBook | None:
        if self.recovering:
            return None
        return self.world.order_book(market_id, self.epoch)

    def advance(self, to_us: int) -> list[VenueItem]:
        """What the subscriber receives up to an instant of the world's clock."""
        out, self._at_once = self._at_once, []
        while True:
            edge = self._lost_until_us if self._lost_until_us is not None else self._gap_from_us
            if edge is None or edge > to_us:
                break
            self._take(self.world.advance(edge), out)
            if self._lost_until_us is None:
                self._lost_until_us = edge + self._config.gap_length_us
            else:
                self._recover(edge, out)
        self._take(self.world.advance(to_us), out)
        return out

    # --- one item -------------------------------------------------------------------------------------------------

    def _take(self, items: list[WorldItem], out: list[VenueItem]) -> None:
        """Append what is received of the items; what opened among them comes first, in pages."""
        begin = len(out)
        listed: list[tuple[Event, tuple[Market, ...]]] = []
        for item in items:
            if isinstance(item, BookChanged):
                if not self.recovering and self._follows(item.market_id):
                    self._top(item, out)
            elif isinstance(item, Printed):
                if not self.recovering and self._follows(item.market_id):
                    self._tick(self._trade(item), out)
            elif isinstance(item, Resolved):
                out.append(item.update)
            elif isinstance(item, Listed):
                listed.append((item.event, item.markets))
        pages = [self._page(listed[start : start + PAGE_EVENTS]) for start in range(0, len(listed), PAGE_EVENTS)]
        out[begin:begin] = pages

    def _follows(self, market_id: str) -> bool:
        return self._followed is None or market_id in self._followed

    def _page(self, entries: list[tuple[Event, tuple[Market, ...]]]) -> CatalogPage:
        return CatalogPage(
            Venue.SIMULATED, tuple(event for event, _ in entries), tuple(m for _, markets in entries for m in markets)
        )

    def _top(self, item: BookChanged, out: list[VenueItem]) -> None:
        top = (item.bid, item.ask)
        if self._tops.get(item.market_id) == top:
            return
        self._tops[item.market_id] = top
        if item.bid and item.ask and self._config.crossed_ppm and self._draws.chance(self._config.crossed_ppm):
            self._tick(self._quote(item.market_id, item.time_us, item.ask, item.bid), out)
        self._tick(self._quote(item.market_id, item.time_us, item.bid, item.ask), out)

    def _tick(self, tick: Quote | Trade, out: list[VenueItem]) -> None:
        self._last_receive_us = tick.receive_time_us
        out.append(tick)
        if self._draws.chance(self._config.duplicates_ppm):
            out.append(tick)

    def _quote(self, market_id: str, time_us: int, bid: BookLevel | None, ask: BookLevel | None) -> Quote:
        self._key += 1
        return Quote(
            market_id=market_id,
            receive_time_us=time_us + self._config.feed_latency_us,
            bid_price_micros=bid.price_micros if bid else None,
            bid_size_micros=bid.size_micros if bid else None,
            ask_price_micros=ask.price_micros if ask else None,
            ask_size_micros=ask.size_micros if ask else None,
            source=self._quotes,
            source_key=self._key,
            venue_time_us=time_us,
            epoch=self.epoch,
        )

    def _trade(self, item: Printed) -> Trade:
        return Trade(
            market_id=item.market_id,
            receive_time_us=item.time_us + self._config.feed_latency_us,
            price_micros=item.fill.price_micros,
            size_micros=item.fill.size_micros,
            taker_outcome_index=0 if item.fill.taker_bought else 1,
            source=self._trades,
            source_key=f"{self._session}-{item.trade_number}",
            venue_time_us=item.time_us,
        )

    def _snapshot(self, market_id: str, now_us: int) -> list[VenueItem]:
        book = self.world.order_book(market_id)
        if book is None or not (book.bids or book.asks):
            return []
        bid, ask = book.bids[0] if book.bids else None, book.asks[0] if book.asks else None
        self._tops[market_id] = (bid, ask)
        return [replace(self._quote(market_id, now_us, bid, ask), venue_time_us=book.venue_time_us)]

    # --- losses ---------------------------------------------------------------------------------------------------

    def _next_gap(self, now_us: int) -> int | None:
        mean = self._config.gap_interval_us
        return None if mean is None else now_us + self._draws.between(mean // 2, mean * 3 // 2)

    def _status(self, state: FeedState, now_us: int, detail: str) -> FeedStatus:
        return FeedStatus(Venue.SIMULATED, state, self._last_receive_us, self.epoch, now_us, detail)

    def _recover(self, now_us: int, out: list[VenueItem]) -> None:
        self._lost_until_us = None
        self._gap_from_us = self._next_gap(now_us)
        self.epoch += 1
        out.append(self._status(FeedState.GAP, now_us, "simulated loss of the feed; books taken anew"))
        for market_id in self.world.market_ids():
            if self._follows(market_id):
                out.extend(self._snapshot(market_id, now_us))
        out.append(self._status(FeedState.LIVE, now_us, "books taken anew"))
