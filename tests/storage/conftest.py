"""Stores on a database of the test's own, and builders of small true-to-life values."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from oddstream_server.application.ports import Decision, Lease
from oddstream_server.domain.fees import FREE
from oddstream_server.domain.market import Event, Market, MarketState, Outcome, PriceRange, Venue, split_market_id
from oddstream_server.domain.quote import Quote, SourceKind, TickSource, Trade
from oddstream_server.domain.signal import (
    Action,
    BookSide,
    DataOrigin,
    Direction,
    Evidence,
    Leg,
    Signal,
    SignalEvent,
    SignalEventType,
)
from oddstream_server.storage.database import Database
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from oddstream_server.storage.tick_store.ticks import TickStore

MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
T0 = 1_782_993_600_000_000  # 2026-07-02 12:00 UTC

SOCKET = TickSource(Venue.KALSHI, SourceKind.WEBSOCKET, "session-1/1")
TRADES = TickSource(Venue.KALSHI, SourceKind.TRADES, "trades")


class Samples:
    """Values of the domain with few words; every instant is in microseconds."""

    minute, hour, day, t0 = MINUTE, HOUR, DAY, T0

    @staticmethod
    def quote(
        key: int,
        *,
        market: str = "kalshi:A",
        at: int = T0,
        bid: int | None = 430_000,
        ask: int | None = 450_000,
        venue_time: int | None = None,
        source: TickSource = SOCKET,
        epoch: int = 1,
    ) -> Quote:
        return Quote(
            market_id=market,
            receive_time_us=at,
            bid_price_micros=bid,
            bid_size_micros=None if bid is None else 12_000_000,
            ask_price_micros=ask,
            ask_size_micros=None,
            source=source,
            source_key=key,
            venue_time_us=venue_time,
            epoch=epoch,
        )

    @staticmethod
    def trade(
        key: str,
        *,
        market: str = "kalshi:A",
        at: int = T0,
        price: int = 440_000,
        size: int = 3_000_000,
        venue_time: int | None = None,
        block: bool = False,
    ) -> Trade:
        return Trade(
            market_id=market,
            receive_time_us=at,
            price_micros=price,
            size_micros=size,
            taker_outcome_index=0,
            source=TRADES,
            source_key=key,
            venue_time_us=venue_time,
            block=block,
        )

    @staticmethod
    def market(
        market_id: str,
        *,
        event_id: str | None = None,
        title: str = "Will it rain in Paris?",
        state: MarketState = MarketState.OPEN,
        **more: object,
    ) -> Market:
        venue, native = split_market_id(market_id)
        market = Market(
            market_id=market_id,
            venue=venue,
            venue_market_id=native,
            event_id=event_id,
            title=title,
            outcomes=(Outcome(0, "Yes", native), Outcome(1, "No", native)),
            state=state,
            price_ranges=(PriceRange(0, 1_000_000, 10_000),),
            minimum_size_micros=1_000_000,
            size_step_micros=1_000_000,
            fee_schedules=(FREE,),
            rules_text="It rains.",
            venue_ids=(("ticker", native),),
            close_time_us=T0 + DAY,
        )
        return replace(market, **more)  # type: ignore[arg-type]  # fields by name

    @staticmethod
    def event(event_id: str, *, title: str = "Rain in Paris", **more: object) -> Event:
        venue, native = split_market_id(event_id)
        return replace(Event(event_id, venue, native, title), **more)  # type: ignore[arg-type]  # fields by name

    @staticmethod
    def signal(
        opportunity: str,
        *,
        revision: int = 1,
        supersedes: str | None = None,
        markets: Sequence[str] = ("kalshi:A",),
        event_id: str | None = "kalshi:E",
        kind: str = "stat.mean_reversion",
        strength_ppm: int = 500_000,
        origin: DataOrigin = DataOrigin.LIVE,
    ) -> Signal:
        legs = tuple(
            Leg(
                market_id=market,
                outcome_index=0,
                venue_instrument_id=market.partition(":")[2],
                action=Action.BUY,
                limit_price_micros=430_000,
                book_side=BookSide.ASK,
                book_price_micros=430_000,
                available_size_micros=120_000_000,
                tick_micros=10_000,
                minimum_size_micros=1_000_000,
                size_step_micros=1_000_000,
                neg_risk=False,
                taker_delay_us=0,
                expected_fee_micros=2_060_000,
                book_epoch=1,
                book_receive_time_us=T0,
            )
            for market in markets
        )
        return Signal(
            opportunity_id=opportunity,
            revision=revision,
            kind=kind,
            version=1,
            strategy_id=f"{kind}/0000",
            params_digest="0000",
            subject_id=markets[0],
            venue=split_market_id(markets[0])[0],
            event_id=event_id,
            direction=Direction.UP,
            legs=legs,
            all_or_none=False,
            strength_ppm=strength_ppm,
            net_edge_micros=12_000,
            fair_value_micros=455_000,
            input_time_us=T0,
            input_digest=f"{opportunity}/{revision}",
            expire_time_us=T0 + HOUR,
            lockup_until_us=None,
            data_origin=origin,
            evidence=(Evidence("mid", 440_000, "micros", markets[0]),),
            supersedes_signal_id=supersedes,
        ).identified()

    @classmethod
    def created(cls, opportunity: str, **more: object) -> SignalEvent:
        signal = cls.signal(opportunity, **more)  # type: ignore[arg-type]  # its arguments by name
        return SignalEvent(SignalEventType.CREATED, signal, signal.strength_ppm, signal.net_edge_micros)


def nothing(_ticks: Sequence[Quote | Trade]) -> Decision:
    """Strategies that see no opportunity."""
    return Decision()


@pytest.fixture
def samples() -> type[Samples]:
    return Samples


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    assert database.connections_in_use() == 0, "a connection did not come back to the pool"
    await database.close()


async def somebody_waits_for_a_lock(database: Database) -> None:
    """Until another session of the test's database waits for one."""
    async with asyncio.timeout(10):
        while True:
            async with database.reading() as transaction:
                if await transaction.driver.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                    "AND datname = current_database()"
                ):
                    return
            await asyncio.sleep(0.01)


@pytest.fixture
def ticks(database: Database) -> TickStore:
    return TickStore(database)


@pytest.fixture
def pipeline(database: Database, ticks: TickStore) -> PostgresPipelineStore:
    return PostgresPipelineStore(database, ticks, events_a_partition=1_000)


@pytest.fixture
def log(database: Database) -> SignalLogStore:
    return SignalLogStore(database)


@pytest.fixture
def catalog(database: Database) -> CatalogStore:
    return CatalogStore(database)


@pytest.fixture
async def lease(pipeline: PostgresPipelineStore) -> Lease:
    lease = await pipeline.acquire_lease("test", 60_000_000)
    assert lease is not None
    return lease


@pytest.fixture
def seeded(request: pytest.FixtureRequest) -> random.Random:
    """Randomness that a failure can repeat: the seed is the test's name."""
    return random.Random(request.node.nodeid)
