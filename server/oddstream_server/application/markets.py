"""Reading markets: what trades, how it traded, what its book shows, and what trading it costs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from oddstream_server.application.access.venue_scope import narrowed, scoped_venues
from oddstream_server.application.calls.coalescing import SharedReads
from oddstream_server.application.calls.paging import PageRequest
from oddstream_server.application.fee_working import FeeStep, fee_working
from oddstream_server.application.ports import (
    BookCache,
    Catalog,
    Clock,
    EventFilter,
    MarketFilter,
    MarketLinkFilter,
    Page,
    SignalLog,
    TickReader,
    TimeRange,
)
from oddstream_server.domain.errors import FailedPrecondition, FieldViolation, InvalidArgument, NotFound
from oddstream_server.domain.fees import FeeSchedule, Liquidity, schedule_at
from oddstream_server.domain.market import Event, Market, MarketLink, Venue, split_market_id
from oddstream_server.domain.quote import BookLevel, Candle, CandleInterval, FeedStatus, OrderBook, Quote, Trade

Row = TypeVar("Row")

_FEED_STATUS_AGE_US = 1_000_000
"""Feed states are shown beside books; reading them for each book would double the work of a call."""


@dataclass(frozen=True, slots=True)
class BookView:
    """An order book as it is held now."""

    book: OrderBook
    age_us: int
    """Since the last change was received; at least 0."""
    feed: FeedStatus | None
    top_only: bool
    """True where no book is held and this is the latest stored quote."""


@dataclass(frozen=True, slots=True)
class FeeFill:
    price_micros: int
    """In the price of the outcome that is traded."""
    size_micros: int
    liquidity: Liquidity


@dataclass(frozen=True, slots=True)
class FeeEstimate:
    fees_micros: tuple[int, ...]
    """One a fill."""
    workings: tuple[tuple[FeeStep, ...], ...]
    """One a fill: how its fee comes about."""
    schedule: FeeSchedule
    disagreeing: tuple[FeeSchedule, ...]
    """Other schedules that hold at the same instant."""


class Markets:
    """The use cases of MarketService."""

    def __init__(
        self, catalog: Catalog, ticks: TickReader, books: BookCache, signal_log: SignalLog, now: Clock
    ) -> None:
        self._catalog = catalog
        self._by_id: SharedReads[str, Market] = SharedReads(catalog.markets_by_id)
        self._ticks = ticks
        self._books = books
        self._signal_log = signal_log
        self._now = now
        self._feeds: dict[Venue, FeedStatus] = {}
        self._feeds_read_us: int | None = None

    async def list_events(self, where: EventFilter, page: PageRequest) -> Page[Event]:
        where = replace(where, venues=narrowed(where.venues))
        return await self._catalog.list_events(where, page.after, page.size)

    async def get_event(self, event_id: str) -> Event:
        """:raises NotFound: EVENT_NOT_FOUND."""
        split_market_id(event_id, "event_id")
        found = await self._catalog.events_by_id([event_id])
        if event_id not in found:
            raise NotFound("Event", event_id)
        return found[event_id]

    async def list_markets(self, where: MarketFilter, page: PageRequest) -> Page[Market]:
        where = replace(where, venues=narrowed(where.venues))
        return await self._catalog.list_markets(where, page.after, page.size)

    async def get_market(self, market_id: str) -> Market:
        """:raises NotFound: MARKET_NOT_FOUND."""
        split_market_id(market_id, "market_id")
        found = await self._by_id.get(market_id)
        if found is None:
            raise NotFound("Market", market_id)
        return found

    async def batch_get(self, market_ids: Sequence[str]) -> Sequence[Market]:
        """The markets in the order asked for, or none of them.

        :raises NotFound: MARKET_NOT_FOUND, with the first id that is unknown.
        """
        for index, market_id in enumerate(market_ids):
            split_market_id(market_id, f"market_ids[{index}]")
        found = await self._catalog.markets_by_id(market_ids)
        missing = [market_id for market_id in market_ids if market_id not in found]
        if missing:
            raise NotFound("Market", missing[0])
        return [found[market_id] for market_id in market_ids]

    async def get_order_book(self, market_id: str, depth: int) -> BookView:
        """The book that is held, or the top of it from the latest stored quote.

        :param depth: levels of each side; 0 means all.
        :raises NotFound: MARKET_NOT_FOUND.
        :raises FailedPrecondition: ORDER_BOOK_UNAVAILABLE.
        """
        venue, _ = split_market_id(market_id)
        book = await self._books.get(market_id)
        top_only = book is None
        if book is None:
            await self.get_market(market_id)
            book = _top(await self._latest_quote(market_id))
        if book is None:
            raise FailedPrecondition(
                "no order book is held for this market, nor a quote with sizes: it isn't followed, isn't open, or its "
                "book is being taken anew; ListQuotes has what was stored",
                subject=market_id,
                reason="ORDER_BOOK_UNAVAILABLE",
            )
        if depth:
            book = replace(book, bids=book.bids[:depth], asks=book.asks[:depth])
        feed = await self._feed_of(venue)
        return BookView(book, max(0, self._now() - book.receive_time_us), feed, top_only)

    async def list_quotes(self, market_id: str, span: TimeRange, page: PageRequest) -> Page[Quote]:
        """:raises NotFound: MARKET_NOT_FOUND."""
        rows = await self._ticks.list_quotes(market_id, span, page.after, page.size)
        return await self._of_known_market(market_id, rows, page)

    async def list_trades(
        self, market_id: str, span: TimeRange, page: PageRequest, *, exclude_block: bool = False
    ) -> Page[Trade]:
        """With ``exclude_block`` a page may hold fewer trades than asked for and still have a next one.

        :raises NotFound: MARKET_NOT_FOUND.
        """
        rows = await self._ticks.list_trades(market_id, span, page.after, page.size)
        if exclude_block:
            rows = Page(tuple(trade for trade in rows.items if not trade.block), rows.next_key)
        return await self._of_known_market(market_id, rows, page)

    async def list_candles(
        self, market_id: str, interval: CandleInterval, span: TimeRange, page: PageRequest
    ) -> Page[Candle]:
        """:raises NotFound: MARKET_NOT_FOUND."""
        rows = await self._ticks.list_candles(market_id, interval, span, page.after, page.size)
        return await self._of_known_market(market_id, rows, page)

    async def list_links(self, where: MarketLinkFilter, page: PageRequest) -> Page[MarketLink]:
        return await self._catalog.list_links(replace(where, within_venues=scoped_venues()), page.after, page.size)

    async def estimate_fees(
        self, market_id: str, outcome_index: int, fills: Sequence[FeeFill], as_of_us: int | None
    ) -> FeeEstimate:
        """What the fills of one order would cost by the schedule that holds at an instant (now, where None).

        :raises NotFound: MARKET_NOT_FOUND.
        :raises FailedPrecondition: FEE_SCHEDULE_UNKNOWN.
        :raises InvalidArgument: no such outcome, or a price beyond the payout.
        """
        market = await self.get_market(market_id)
        if outcome_index not in {outcome.index for outcome in market.outcomes}:
            raise InvalidArgument(
                [FieldViolation("outcome_index", f"must be the index of an outcome, 0 to {len(market.outcomes) - 1}")]
            )
        beyond = [
            FieldViolation(f"fills[{index}].price_micros", f"must be from 0 to the payout, {market.payout_micros}")
            for index, fill in enumerate(fills)
            if not 0 <= fill.price_micros <= market.payout_micros
        ]
        if beyond:
            raise InvalidArgument(beyond)
        instant = self._now() if as_of_us is None else as_of_us
        schedule = schedule_at(market.fee_schedules, instant)
        if schedule is None:
            raise FailedPrecondition(
                "no fee schedule of this market is known for that instant, and none is guessed",
                subject=market_id,
                reason="FEE_SCHEDULE_UNKNOWN",
            )
        fees = tuple(
            schedule.fill_fee_micros(fill.price_micros, fill.size_micros, fill.liquidity, market.payout_micros)
            for fill in fills
        )
        others = tuple(s for s in market.fee_schedules if s.holds_at(instant) and s != schedule)
        workings = tuple(
            fee_working(schedule, fill.price_micros, fill.size_micros, fill.liquidity, market.payout_micros)
            for fill in fills
        )
        return FeeEstimate(fees, workings, schedule, others)

    async def _feed_of(self, venue: Venue) -> FeedStatus | None:
        now_us = self._now()
        if self._feeds_read_us is None or now_us - self._feeds_read_us >= _FEED_STATUS_AGE_US:
            self._feeds = {status.venue: status for status in await self._signal_log.feed_statuses()}
            self._feeds_read_us = now_us
        return self._feeds.get(venue)

    async def _latest_quote(self, market_id: str) -> Quote | None:
        return (await self._ticks.latest_quotes([market_id])).get(market_id)

    async def _of_known_market(self, market_id: str, rows: Page[Row], page: PageRequest) -> Page[Row]:
        """Only an empty first page needs to know whether the market exists at all."""
        if not rows.items and page.after is None:
            await self.get_market(market_id)
        return rows


def _top(quote: Quote | None) -> OrderBook | None:
    """The quote as a book of one level a side; None where a price comes without a size, which a level can't say."""
    if quote is None:
        return None
    sides = [
        (quote.bid_price_micros, quote.bid_size_micros),
        (quote.ask_price_micros, quote.ask_size_micros),
    ]
    if any(price is not None and size is None for price, size in sides):
        return None
    bids, asks = (() if price is None or size is None else (BookLevel(price, size),) for price, size in sides)
    return OrderBook(quote.market_id, bids, asks, quote.epoch, quote.receive_time_us, quote.venue_time_us)
