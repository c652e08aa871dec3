"""The latest quote of each market, to any number of subscribers; what is overtaken before it was sent is left out."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from oddstream_server.application.ports import Catalog, Clock, Key, MarketFilter, TickReader
from oddstream_server.domain.market import MarketState, Venue
from oddstream_server.domain.principal import Principal
from oddstream_server.domain.quote import FeedStatus, Quote
from oddstream_server.feed.feed_statuses import FeedStatuses
from oddstream_server.feed.streams import Closing, OpenStream, StreamRegistry

_LOG = logging.getLogger("oddstream.feed.quotes")

_LOOKED_UP_AT_A_TIME = 500
_QUOTED_STATES = (MarketState.OPEN, MarketState.PAUSED)


@dataclass(frozen=True, slots=True)
class QuoteWatch:
    """What a caller asks for: AND between fields, OR inside one, empty means any."""

    venues: tuple[Venue, ...] = ()
    event_ids: tuple[str, ...] = ()
    market_ids: tuple[str, ...] = ()
    include_simulated: bool = False
    heartbeat_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Reset:
    """A market whose book was taken anew: what was known of it before the epoch is void."""

    market_id: str
    epoch: int


class QuoteCodec(Protocol):
    """How quotes become bytes; given by the transport."""

    def fragment(self, quote: Quote) -> bytes:
        """The quote as a one-entry piece of the message's repeated quotes."""
        ...

    def batch(self, fragments: Sequence[bytes], conflated: int, resets: Sequence[Reset]) -> bytes: ...


@dataclass(slots=True)
class QuoteDelivery:
    """The next message of a stream of quotes."""

    batch: bytes
    quotes: int
    started_end_time_us: int | None = None
    """When the stream is going to end for its age; in the first message alone."""
    heartbeat: bool = False
    statuses: Sequence[FeedStatus] = ()
    closing: Closing | None = None


@dataclass(frozen=True, slots=True)
class QuoteLimits:
    poll_s: float = 1.0
    retry_s: float = 0.25
    read_quotes: int = 2_000
    message_quotes: int = 500


class _Latest:
    __slots__ = ("fragment", "quote")

    def __init__(self, quote: Quote) -> None:
        self.quote = quote
        self.fragment: bytes | None = None

    def is_newer_than(self, quote: Quote) -> bool:
        """True where this one was looked up while the reader still came along."""
        known = self.quote
        return (known.receive_time_us, known.ingest_sequence) >= (quote.receive_time_us, quote.ingest_sequence)


class QuoteSubscription(OpenStream):
    """Gives a stream's messages one after the other, through :meth:`next`. Holds at most one mark a market."""

    def __init__(self, feed: "QuoteFeed", registry: StreamRegistry, principal: Principal, watch: QuoteWatch) -> None:
        super().__init__("quotes", principal, registry, watch.heartbeat_s)
        self.watch = watch
        self.market_ids: frozenset[str] | None = None
        """None watches every market of the venues."""
        self._feed = feed
        self._venues = frozenset(v.value for v in watch.venues)
        self._changed: dict[str, None] = {}
        self._resets: dict[str, Reset] = {}
        self._conflated = 0
        self._started = False
        self._status_version = 0

    def wants(self, venue: Venue) -> bool:
        return (not self._venues or venue.value in self._venues) and (
            self.watch.include_simulated or venue is not Venue.SIMULATED
        )

    def note(self, market_id: str, reset: Reset | None) -> None:
        """A market has a newer quote."""
        if market_id in self._changed:
            self._conflated += 1
        else:
            self._changed[market_id] = None
        if reset is not None:
            self._resets[market_id] = reset

    def begin_with(self, market_id: str) -> None:
        """A market's quote as it is at the start."""
        self._changed.setdefault(market_id)

    def take(self) -> QuoteDelivery | None:
        """The next message; None where nothing is due until :meth:`woken`.

        :raises OddstreamError: the stream ended, after the closing message where there is one.
        """
        delivery = self._closing_message() if self.ended else self._due()
        if delivery is not None:
            self._sent()
            self._feed.observer.delivered("quotes", delivery.quotes)
        return delivery

    def _due(self) -> QuoteDelivery | None:
        statuses = self._new_statuses()
        if self._started and not self._changed and not statuses and not self._heartbeat_due:
            return None
        delivery = self._message()
        delivery.statuses = statuses
        delivery.heartbeat = self._heartbeat_due and not delivery.quotes
        if not self._started:
            self._started = True
            ends_in_us = int((self.age_end_s - self._loop.time()) * 1_000_000)
            delivery.started_end_time_us = self._feed.clock() + ends_in_us
        return delivery

    def _message(self) -> QuoteDelivery:
        feed = self._feed
        chosen = list(islice(self._changed, feed.limits.message_quotes))
        fragments = []
        resets = []
        for market_id in chosen:
            del self._changed[market_id]
            fragments.append(feed.fragment(market_id))
            reset = self._resets.pop(market_id, None)
            if reset is not None:
                resets.append(reset)
        conflated, self._conflated = self._conflated, 0
        feed.observer.quotes_conflated(conflated)
        return QuoteDelivery(feed.codec.batch(fragments, conflated, resets), len(fragments))

    def _new_statuses(self) -> Sequence[FeedStatus]:
        statuses = self._feed.statuses
        if self._status_version == statuses.version:
            return ()
        changed = statuses.since(self._status_version, self._venues, self.watch.include_simulated)
        self._status_version = statuses.version
        return changed

    def _closing_message(self) -> QuoteDelivery | None:
        closing = self._take_closing(self._started)
        return None if closing is None else QuoteDelivery(self._feed.codec.batch((), 0, ()), 0, closing=closing)

    def _leave_feed(self) -> None:
        self._feed.leave(self)


class QuoteFeed:
    """Follows the live quotes in commit order and marks what changed for each subscriber."""

    def __init__(
        self,
        ticks: TickReader,
        catalog: Catalog,
        codec: QuoteCodec,
        registry: StreamRegistry,
        statuses: FeedStatuses,
        clock: Clock,
        limits: QuoteLimits | None = None,
    ) -> None:
        self.codec = codec
        self.clock = clock
        self.statuses = statuses
        self.limits = limits or QuoteLimits()
        self.observer = registry.observer
        self._ticks = ticks
        self._catalog = catalog
        self._registry = registry
        self._latest: dict[str, _Latest] = {}
        self._by_market: dict[str, dict[QuoteSubscription, None]] = {}
        self._wide: dict[QuoteSubscription, None] = {}
        self._lookups: dict[QuoteSubscription, asyncio.Task[None]] = {}
        self._open: dict[QuoteSubscription, None] = {}
        self._wake = asyncio.Event()
        self._position: int | None = None

    async def subscribe(self, watch: QuoteWatch, principal: Principal) -> QuoteSubscription:
        """A subscription that begins with the quote of each market as it is; close it when the stream ends.

        :raises Unavailable: draining, or the quotes can't be read.
        """
        subscription = QuoteSubscription(self, self._registry, principal, watch)
        self._registry.admit(subscription)
        try:
            self._open[subscription] = None
            subscription.market_ids = await self._markets_of(watch)
            if self._position is None:
                head = await self._ticks.live_head()
                self._position = head if self._position is None else self._position
            if not subscription.ended:
                await self._join(subscription)
        except BaseException:
            subscription.close()
            raise
        return subscription

    def leave(self, subscription: QuoteSubscription) -> None:
        lookup = self._lookups.pop(subscription, None)
        if lookup is not None:
            lookup.cancel()
        self._open.pop(subscription, None)
        self._wide.pop(subscription, None)
        for market_id in subscription.market_ids or ():
            watchers = self._by_market.get(market_id, {})
            watchers.pop(subscription, None)
            if not watchers:
                self._by_market.pop(market_id, None)

    def fragment(self, market_id: str) -> bytes:
        """The encoded latest quote of a market, made at most once a quote."""
        latest = self._latest[market_id]
        if latest.fragment is None:
            latest.fragment = self.codec.fragment(latest.quote)
        return latest.fragment

    def wake(self) -> None:
        """Quotes were committed; losing a call costs at most ``poll_s``."""
        self._wake.set()

    async def run(self) -> None:
        """Follow the quotes until cancelled; what goes wrong is counted, logged and tried again."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            try:
                await self._read_on()
            except Exception as error:  # the streams stay open, and reading goes on where it stopped
                self.observer.reader_failed()
                _LOG.warning("reading the quotes failed: %s", type(error).__name__)
                await asyncio.sleep(self.limits.retry_s)
                continue
            timer = loop.call_later(self.limits.poll_s, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()

    async def _read_on(self) -> None:
        if not self._open:
            # Nobody listens: what is known would grow old, so the next subscriber begins from the head.
            self._position = None
            self._latest.clear()
        while self._position is not None:
            quotes = await self._ticks.quotes_after(self._position, self.limits.read_quotes)
            if quotes:
                self._position = quotes[-1].ingest_sequence
                self._spread(quotes)
                await asyncio.sleep(0)
            elif (head := await self._ticks.live_head()) < self._position:
                # Another data set, as after a restore: its quotes come under sequences that were seen before.
                self._position = head
            if len(quotes) < self.limits.read_quotes:
                return

    def _spread(self, quotes: Sequence[Quote]) -> None:
        touched: dict[QuoteSubscription, None] = {}
        for quote in quotes:
            market_id, venue = quote.market_id, quote.source.venue
            known = self._latest.get(market_id)
            if known is not None and known.is_newer_than(quote):
                continue
            grew = known is not None and quote.epoch > known.quote.epoch
            self._latest[market_id] = _Latest(quote)
            reset = Reset(market_id, quote.epoch) if grew else None
            for subscription in self._by_market.get(market_id, ()):
                subscription.note(market_id, reset)
                touched[subscription] = None
            for subscription in self._wide:
                if subscription.wants(venue):
                    subscription.note(market_id, reset)
                    touched[subscription] = None
        for subscription in touched:
            subscription.wake()

    async def _join(self, subscription: QuoteSubscription) -> None:
        """Hear of changes first and look the present up then, so that nothing falls between."""
        if subscription.market_ids is None:
            self._wide[subscription] = None
            lookup = self._look_everything_up(subscription)
            self._lookups[subscription] = asyncio.get_running_loop().create_task(lookup, name="first quotes")
            return
        for market_id in subscription.market_ids:
            self._by_market.setdefault(market_id, {})[subscription] = None
        await self._look_up(subscription, sorted(subscription.market_ids))

    async def _look_everything_up(self, subscription: QuoteSubscription) -> None:
        venues = [v for v in Venue if subscription.wants(v)]
        chunk: list[str] = []
        while True:
            try:
                async for market in self._catalog.all_markets(_QUOTED_STATES, venues):
                    chunk.append(market.market_id)
                    if len(chunk) == _LOOKED_UP_AT_A_TIME:
                        await self._look_up(subscription, chunk)
                        chunk = []
                await self._look_up(subscription, chunk)
                return
            except Exception as error:  # the stream stays open, and what it lacks is looked up later
                _LOG.warning("looking the first quotes up failed: %s", type(error).__name__)
                await asyncio.sleep(self.limits.retry_s)
                chunk = []

    async def _look_up(self, subscription: QuoteSubscription, market_ids: Sequence[str]) -> None:
        unknown = [m for m in market_ids if m not in self._latest]
        for first in range(0, len(unknown), _LOOKED_UP_AT_A_TIME):
            stored = await self._ticks.latest_quotes(unknown[first : first + _LOOKED_UP_AT_A_TIME])
            for market_id, quote in stored.items():
                self._latest.setdefault(market_id, _Latest(quote))
        if not subscription.ended:
            for market_id in market_ids:
                if market_id in self._latest:
                    subscription.begin_with(market_id)
            subscription.wake()

    async def _markets_of(self, watch: QuoteWatch) -> frozenset[str] | None:
        if not watch.event_ids and not watch.market_ids:
            return None
        found: Iterable[str] = watch.market_ids
        if watch.event_ids:
            of_events = await self._markets_of_events(watch)
            found = of_events & set(watch.market_ids) if watch.market_ids else of_events
        wanted = {v.value for v in watch.venues}
        return frozenset(
            m
            for m in found
            if (not wanted or m.partition(":")[0] in wanted)
            and (watch.include_simulated or not m.startswith(f"{Venue.SIMULATED.value}:"))
        )

    async def _markets_of_events(self, watch: QuoteWatch) -> set[str]:
        found: set[str] = set()
        after: Key | None = None
        while True:
            page = await self._catalog.list_markets(
                MarketFilter(event_ids=watch.event_ids), after, _LOOKED_UP_AT_A_TIME
            )
            found.update(m.market_id for m in page.items)
            if page.next_key is None:
                return found
            after = page.next_key
