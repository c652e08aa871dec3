"""Quotes to subscribers: the latest of each market, conflated, and anew after a gap."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from oddstream_server.application.ports import Catalog, Key, MarketFilter, Page, TickReader
from oddstream_server.domain.errors import Unavailable
from oddstream_server.domain.market import MarketState, Venue
from oddstream_server.domain.principal import Principal, Role
from oddstream_server.domain.quote import FeedState, FeedStatus, Quote, SourceKind, TickSource
from oddstream_server.feed.feed_statuses import FeedStatuses
from oddstream_server.feed.quotes import (
    QuoteDelivery,
    QuoteFeed,
    QuoteLimits,
    QuoteSubscription,
    QuoteWatch,
    Reset,
)
from oddstream_server.feed.streams import StreamRegistry

START_US = 1_750_000_000_000_000
CALLER = Principal("key_000000000001", Role.VIEWER)


def quote(market_id: str, number: int, epoch: int = 1) -> Quote:
    venue = Venue(market_id.partition(":")[0])
    return Quote(
        market_id=market_id,
        receive_time_us=START_US + number,
        bid_price_micros=number,
        bid_size_micros=None,
        ask_price_micros=None,
        ask_size_micros=None,
        source=TickSource(venue, SourceKind.WEBSOCKET, "session/1"),
        source_key=number,
        epoch=epoch,
    )


@dataclass(frozen=True)
class FoundMarket:
    market_id: str


class MemoryQuotes:
    """What the quote feed asks of ticks and of the catalog; markets of an event carry its id before a dash."""

    def __init__(self) -> None:
        self.stored: list[Quote] = []
        self.down = False
        self.reads = 0

    def append(self, *quotes: Quote) -> None:
        for q in quotes:
            self.stored.append(replace(q, ingest_sequence=len(self.stored) + 1))

    def _ask(self) -> None:
        if self.down:
            raise Unavailable("the database is away")

    async def live_head(self) -> int:
        self._ask()
        return len(self.stored)

    async def quotes_after(self, ingest_sequence: int, limit: int) -> Sequence[Quote]:
        self.reads += 1
        self._ask()
        return self.stored[ingest_sequence : ingest_sequence + limit]

    async def latest_quotes(self, market_ids: Sequence[str]) -> Mapping[str, Quote]:
        self._ask()
        return {q.market_id: q for q in self.stored if q.market_id in market_ids}

    def _known(self) -> list[str]:
        return sorted({q.market_id for q in self.stored})

    async def all_markets(self, states: Sequence[MarketState], venues: Sequence[Venue]) -> AsyncIterator[FoundMarket]:
        self._ask()
        for market_id in self._known():
            if Venue(market_id.partition(":")[0]) in venues:
                yield FoundMarket(market_id)

    async def list_markets(self, where: MarketFilter, after: Key | None, limit: int) -> Page[FoundMarket]:
        self._ask()
        return Page(tuple(FoundMarket(m) for m in self._known() if m.partition("-")[0] in where.event_ids), None)


class ReadableQuotes:
    def __init__(self) -> None:
        self.encoded = 0

    def fragment(self, quote: Quote) -> bytes:
        self.encoded += 1
        return f"{quote.market_id}={quote.bid_price_micros} ".encode()

    def batch(self, fragments: Sequence[bytes], conflated: int, resets: Sequence[Reset]) -> bytes:
        anew = ",".join(f"{r.market_id}@{r.epoch}" for r in resets)
        return b"".join(fragments) + f"| {conflated} | {anew}".encode()


@dataclass
class RunningQuotes:
    quotes: MemoryQuotes
    feed: QuoteFeed
    registry: StreamRegistry
    codec: ReadableQuotes
    statuses: list[FeedStatus]

    async def watch(self, **asked: Any) -> QuoteSubscription:
        asked.setdefault("heartbeat_s", 60.0)
        return await self.feed.subscribe(QuoteWatch(**asked), CALLER)

    async def settled(self) -> None:
        self.feed.wake()
        async with asyncio.timeout(5):
            while self.feed._position != len(self.quotes.stored):
                await asyncio.sleep(0)


@asynccontextmanager
async def running_quotes(message_quotes: int = 500) -> AsyncIterator[RunningQuotes]:
    quotes, codec, known = MemoryQuotes(), ReadableQuotes(), list[FeedStatus]()

    async def read_statuses() -> Sequence[FeedStatus]:
        return list(known)

    registry = StreamRegistry(lambda: START_US, seed=1)
    statuses = FeedStatuses(read_statuses, registry.wake_all, poll_s=0.02)
    feed = QuoteFeed(
        cast("TickReader", quotes),
        cast("Catalog", quotes),
        codec,
        registry,
        statuses,
        lambda: START_US,
        QuoteLimits(poll_s=0.02, retry_s=0.01, read_quotes=3, message_quotes=message_quotes),
    )
    tasks = [asyncio.create_task(work) for work in (registry.run(), statuses.run(), feed.run())]
    try:
        yield RunningQuotes(quotes, feed, registry, codec, known)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def take(subscription: QuoteSubscription) -> QuoteDelivery:
    async with asyncio.timeout(5):
        while (delivery := subscription.take()) is None:
            await subscription.woken()
        return delivery


def shown(delivery: QuoteDelivery) -> tuple[dict[str, int], int, list[str]]:
    quotes, conflated, resets = (part.strip() for part in delivery.batch.decode().split("|"))
    pairs = (text.split("=") for text in quotes.split())
    return {market: int(price) for market, price in pairs}, int(conflated), [r for r in resets.split(",") if r]


async def test_a_stream_begins_with_the_quote_of_each_market_as_it_is() -> None:
    async with running_quotes() as f:
        f.quotes.append(quote("kalshi:A-1", 1), quote("kalshi:A-1", 2), quote("kalshi:B-1", 3))
        first = await take(await f.watch(market_ids=("kalshi:A-1", "kalshi:never-quoted")))
        assert first.started_end_time_us is not None
        assert shown(first) == ({"kalshi:A-1": 2}, 0, [])


async def test_a_committed_quote_reaches_a_waiting_subscriber_without_a_wake_up() -> None:
    async with running_quotes() as f:
        subscription = await f.watch(market_ids=("kalshi:A-1",))
        await take(subscription)
        waiting = asyncio.create_task(take(subscription))
        f.quotes.append(quote("kalshi:B-1", 1), quote("kalshi:A-1", 2))
        assert shown(await waiting) == ({"kalshi:A-1": 2}, 0, [])


async def test_a_slow_reader_gets_the_latest_and_is_told_how_many_were_left_out() -> None:
    async with running_quotes() as f:
        subscription = await f.watch(market_ids=("kalshi:A-1", "kalshi:B-1"))
        await take(subscription)
        f.quotes.append(*[quote("kalshi:A-1", n) for n in range(1, 8)], quote("kalshi:B-1", 9))
        await f.settled()
        assert shown(await take(subscription)) == ({"kalshi:A-1": 7, "kalshi:B-1": 9}, 6, [])
        f.quotes.append(quote("kalshi:A-1", 10))
        assert shown(await take(subscription)) == ({"kalshi:A-1": 10}, 0, [])


async def test_a_gap_makes_the_market_start_anew() -> None:
    async with running_quotes() as f:
        f.quotes.append(quote("kalshi:A-1", 1, epoch=4))
        subscription = await f.watch(market_ids=("kalshi:A-1",))
        assert shown(await take(subscription))[2] == []
        f.quotes.append(quote("kalshi:A-1", 2, epoch=5), quote("kalshi:A-1", 3, epoch=5))
        await f.settled()
        assert shown(await take(subscription)) == ({"kalshi:A-1": 3}, 1, ["kalshi:A-1@5"])
        f.quotes.append(quote("kalshi:A-1", 4, epoch=5))
        assert shown(await take(subscription))[2] == []


async def test_a_watch_of_everything_leaves_simulated_markets_out_unless_asked() -> None:
    async with running_quotes() as f:
        f.quotes.append(quote("kalshi:A-1", 1), quote("simulated:S-1", 2), quote("polymarket:0x1", 3))

        async def first_quotes(**asked: Any) -> set[str]:
            subscription = await f.watch(**asked)
            found: set[str] = set()
            while not found:
                found |= set(shown(await take(subscription))[0])
            return found

        assert await first_quotes() == {"kalshi:A-1", "polymarket:0x1"}
        assert await first_quotes(include_simulated=True) == {"kalshi:A-1", "polymarket:0x1", "simulated:S-1"}
        assert await first_quotes(venues=(Venue.POLYMARKET,)) == {"polymarket:0x1"}


async def test_fields_of_the_filter_are_joined_by_and() -> None:
    async with running_quotes() as f:
        f.quotes.append(quote("kalshi:A-1", 1), quote("kalshi:A-2", 2), quote("kalshi:B-1", 3))
        by_event = await f.watch(event_ids=("kalshi:A",))
        assert set(shown(await take(by_event))[0]) == {"kalshi:A-1", "kalshi:A-2"}
        both = await f.watch(event_ids=("kalshi:A",), market_ids=("kalshi:A-2", "kalshi:B-1"))
        assert set(shown(await take(both))[0]) == {"kalshi:A-2"}
        nothing = await f.watch(market_ids=("kalshi:A-1",), venues=(Venue.POLYMARKET,))
        assert shown(await take(nothing))[0] == {}


async def test_each_quote_is_encoded_once_for_any_number_of_subscribers() -> None:
    async with running_quotes() as f:
        subscriptions = [await f.watch(market_ids=("kalshi:A-1",)) for _ in range(10)]
        for subscription in subscriptions:
            await take(subscription)
        f.quotes.append(quote("kalshi:A-1", 1))
        await f.settled()
        for subscription in subscriptions:
            assert shown(await take(subscription))[0] == {"kalshi:A-1": 1}
        assert f.codec.encoded == 1


async def test_a_message_stays_within_its_number_of_quotes() -> None:
    async with running_quotes(message_quotes=2) as f:
        f.quotes.append(*[quote(f"kalshi:A-{n}", n) for n in range(5)])
        subscription = await f.watch(event_ids=("kalshi:A",))
        sizes = [(await take(subscription)).quotes for _ in range(3)]
        assert sizes == [2, 2, 1]


async def test_a_stream_stays_open_while_the_database_is_away_and_goes_on_after() -> None:
    async with running_quotes() as f:
        subscription = await f.watch(market_ids=("kalshi:A-1",), heartbeat_s=0.2)
        await take(subscription)
        f.quotes.down = True
        f.quotes.append(quote("kalshi:A-1", 1))
        assert (await take(subscription)).heartbeat
        f.quotes.down = False
        found: dict[str, int] = {}
        while not found:
            found = shown(await take(subscription))[0]
        assert found == {"kalshi:A-1": 1}


async def test_the_first_quotes_of_everything_survive_a_database_that_is_away() -> None:
    async with running_quotes() as f:
        f.quotes.append(quote("kalshi:A-1", 1))
        subscription = await f.watch()
        f.quotes.down = True
        assert shown(await take(subscription))[0] == {}
        await asyncio.sleep(0)
        f.quotes.down = False
        assert shown(await take(subscription))[0] == {"kalshi:A-1": 1}


async def test_the_quotes_of_another_data_set_are_followed_from_its_head() -> None:
    async with running_quotes() as f:
        f.quotes.append(*[quote("kalshi:A-1", n) for n in range(9)])
        subscription = await f.watch(market_ids=("kalshi:A-1",))
        await take(subscription)
        del f.quotes.stored[3:]
        await f.settled()
        f.quotes.append(quote("kalshi:A-1", 20))
        assert shown(await take(subscription))[0] == {"kalshi:A-1": 20}


async def test_the_state_of_a_venue_is_pushed_on_change() -> None:
    async with running_quotes() as f:
        subscription = await f.watch(venues=(Venue.KALSHI,))
        await take(subscription)
        f.statuses.append(FeedStatus(Venue.POLYMARKET, FeedState.DOWN, None, 1, START_US))
        f.statuses.append(FeedStatus(Venue.KALSHI, FeedState.STALE, START_US, 1, START_US))
        pushed = await take(subscription)
        assert [s.venue for s in pushed.statuses] == [Venue.KALSHI]


async def test_nothing_is_read_while_nobody_listens() -> None:
    async with running_quotes() as f:
        subscription = await f.watch(market_ids=("kalshi:A-1",))
        f.quotes.append(quote("kalshi:A-1", 1))
        await f.settled()
        subscription.close()
        f.feed.wake()
        async with asyncio.timeout(5):
            while f.feed._position is not None:
                await asyncio.sleep(0)
        reads = f.quotes.reads
        f.quotes.append(quote("kalshi:A-1", 2))
        f.feed.wake()
        await asyncio.sleep(0.05)  # two polls
        assert f.quotes.reads == reads
        assert shown(await take(await f.watch(market_ids=("kalshi:A-1",))))[0] == {"kalshi:A-1": 2}


async def test_a_drain_ends_streams_of_quotes_too() -> None:
    async with running_quotes() as f:
        subscription = await f.watch(market_ids=("kalshi:A-1",))
        await take(subscription)
        await f.registry.close(1_000, within_s=0)
        closing = await take(subscription)
        assert closing.closing is not None
        assert closing.closing.reason == "DRAINING"
        with pytest.raises(Unavailable):
            await take(subscription)
        subscription.close()
        assert len(f.registry) == 0
