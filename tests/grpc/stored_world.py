"""A small world in PostgreSQL and Redis, behind the server above it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry

from oddstream_server.application.calls.mutations import Mutations
from oddstream_server.application.ports import Decision
from oddstream_server.application.secrets.sealing import Sealer
from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.market import (
    CollateralRule,
    Declared,
    Event,
    LinkRelation,
    LinkState,
    Market,
    MarketLink,
    MarketState,
    Outcome,
    PriceRange,
    Settlement,
    SettlementState,
    Strike,
    Venue,
    split_market_id,
)
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
    content_id,
)
from oddstream_server.domain.strategy import StrategyDescription, StrategyOrigin, StrategyParameter
from oddstream_server.interceptors.assembly import ChainSettings
from oddstream_server.shared_state.books import RedisBookCache
from oddstream_server.shared_state.connection import SharedState
from oddstream_server.storage.administration.changes import PostgresChanges
from oddstream_server.storage.database import Database
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from oddstream_server.storage.tick_store.ticks import TickStore
from oddstream_server.storage.track_record.executions import ExecutionStore
from oddstream_server.storage.track_record.performance import TrackRecordStore
from tests.grpc.memory_ports import MemoryStrategies
from tests.grpc.running_server import Running, World, now_us, running

SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND
T0 = 1_782_993_600_000_000  # 2026-07-02 12:00 UTC

EVENT = "kalshi:KXRAIN-26JUL02"
MARKET = "kalshi:KXRAIN-26JUL02-T1"
QUIET = "kalshi:KXRAIN-26JUL02-T2"
OTHER = "polymarket:0x" + "a" * 64
SIMULATED = "simulated:SIM-1"
MARKETS = (MARKET, QUIET, OTHER, SIMULATED)
LINK = "lnk_" + "a" * 32

SOCKET = TickSource(Venue.KALSHI, SourceKind.WEBSOCKET, "session/1")
TRADES = TickSource(Venue.KALSHI, SourceKind.TRADES, "trades")

FEE = FeeSchedule(FeeFormula.QUADRATIC, 70_000, 17_500, rounding_step_micros=10_000, source="a document of July 2026")


def market(market_id: str, **more: object) -> Market:
    venue, native = split_market_id(market_id)
    made = Market(
        market_id=market_id,
        venue=venue,
        venue_market_id=native,
        event_id=EVENT if venue is Venue.KALSHI else None,
        title=f"Rain in Paris: {native[-2:]}",
        outcomes=(Outcome(0, "Yes", native), Outcome(1, "No", native)),
        state=MarketState.OPEN,
        price_ranges=(PriceRange(0, 1_000_000, 10_000),),
        minimum_size_micros=1_000_000,
        size_step_micros=1_000_000,
        fee_schedules=(FEE,) if venue is Venue.KALSHI else (),
        rules_text="It rains at all.",
        category="Weather",
        series_id="KXRAIN",
        venue_ids=(("ticker", native),),
        close_time_us=T0 + DAY,
    )
    return replace(made, **more)  # type: ignore[arg-type]  # fields by name


def quotes(count: int) -> list[Quote]:
    return [
        Quote(
            market_id=MARKET,
            receive_time_us=T0 + number * SECOND,
            bid_price_micros=400_000 + number * 10_000,
            bid_size_micros=12_000_000,
            ask_price_micros=None if number == 0 else 450_000 + number * 10_000,
            ask_size_micros=None if number == 0 else 5_000_000,
            source=SOCKET,
            source_key=number,
            venue_time_us=T0 + number * SECOND - 1500,
            epoch=3,
        )
        for number in range(count)
    ]


def trades(count: int) -> list[Trade]:
    return [
        Trade(MARKET, T0 + number * SECOND, 420_000, 3_000_000, 1, TRADES, f"trade-{number}", block=number % 2 == 1)
        for number in range(count)
    ]


def signal(number: int, origin: DataOrigin = DataOrigin.LIVE) -> Signal:
    leg = Leg(
        market_id=MARKET,
        outcome_index=1,
        venue_instrument_id="KXRAIN-26JUL02-T1",
        action=Action.BUY,
        limit_price_micros=590_000,
        book_side=BookSide.BID,
        book_price_micros=410_000,
        available_size_micros=12_000_000,
        tick_micros=10_000,
        minimum_size_micros=1_000_000,
        size_step_micros=1_000_000,
        neg_risk=False,
        taker_delay_us=0,
        expected_fee_micros=210_000,
        book_epoch=3,
        book_receive_time_us=T0,
        outcome_label="No",
    )
    return Signal(
        opportunity_id=content_id("opp", number),
        revision=1,
        kind="stat.mean_reversion",
        version=2,
        strategy_id="stat.mean_reversion",
        params_digest="1" * 64,
        subject_id=MARKET,
        venue=Venue.KALSHI,
        event_id=EVENT,
        direction=Direction.DOWN,
        legs=(leg,),
        all_or_none=False,
        strength_ppm=625_000,
        net_edge_micros=20_000,
        fair_value_micros=380_000,
        input_time_us=T0,
        input_digest="2" * 64,
        expire_time_us=T0 + MINUTE,
        lockup_until_us=T0 + DAY,
        data_origin=origin,
        evidence=(Evidence("mean_micros", 380_000, "micros", "derived"), Evidence("count", 30, "count", "derived")),
    ).identified()


STRATEGY = StrategyDescription(
    strategy_id="stat.mean_reversion",
    kind="stat.mean_reversion",
    kind_version=2,
    display_name="Mean reversion",
    description="z = (p - mean) / deviation",
    formula_source="our own",
    strength_map="|z| / 4",
    enabled=True,
    parameters=(
        StrategyParameter("entry_z_ppm", 2_000_000, 2_500_000, 1_000_000, 9_000_000, "ppm", "Where it enters."),
        StrategyParameter("window_us", 60 * MINUTE, 30 * MINUTE, MINUTE, DAY, "us", "How far it looks back."),
        StrategyParameter("minimum_count", 30, 30, 2, 1000, "count", "How many rows it needs."),
        StrategyParameter("both_sides", 1, 1, 0, 1, "bool", "Whether it also sells."),
    ),
    params_digest="1" * 64,
    params_revision=1,
    input_columns=("receive_time_us", "bid_price_micros"),
    warm_up_us=30 * MINUTE,
    group=False,
    origin=StrategyOrigin.BUILT_IN,
)

SUM_STRATEGY = replace(STRATEGY, strategy_id="arb.event_sum", kind="arb.event_sum", enabled=False)


@dataclass
class StoredWorld:
    server: Running
    catalog: CatalogStore
    books: RedisBookCache
    signal_ids: list[str]
    database: Database


@asynccontextmanager
async def stored_world(database_url: str, redis_url: str) -> AsyncIterator[StoredWorld]:
    database = Database(database_url)
    shared = SharedState(redis_url, CollectorRegistry(), timeout_seconds=2)
    catalog, ticks, signal_log = CatalogStore(database), TickStore(database), SignalLogStore(database)
    books = RedisBookCache(shared, CollectorRegistry())
    try:
        await _fill(catalog, PostgresPipelineStore(database, ticks))
        world = World(
            settings=ChainSettings(units_per_minute=10_000_000),
            catalog=catalog,
            ticks=ticks,
            books=books,
            signals=signal_log,
            strategies=MemoryStrategies([SUM_STRATEGY, STRATEGY]),
            executions=ExecutionStore(database),
            outcomes=TrackRecordStore(database),
            mutations=Mutations(PostgresChanges(database), Sealer({1: b"d" * 32}), now_us),
        )
        async with running(world) as server:
            yield StoredWorld(server, catalog, books, [signal(n).signal_id for n in range(3)], database)
    finally:
        await asyncio.gather(shared.close(), database.close())


async def _fill(catalog: CatalogStore, store: PostgresPipelineStore) -> None:
    event = Event(
        EVENT,
        Venue.KALSHI,
        "KXRAIN-26JUL02",
        "Rain in Paris",
        category="Weather",
        series_id="KXRAIN",
        market_ids=(MARKET, QUIET),
        exclusivity=Declared.YES,
        exclusivity_source="venue: mutually_exclusive",
        collateral_rule=CollateralRule.MUTUALLY_EXCLUSIVE,
    )
    settled = Settlement(SettlementState.FINAL, 0, 1, determined_time_us=T0, known_time_us=T0 + SECOND)
    markets = [
        market(MARKET, strike=Strike("between", 5_000_000, 9_000_000), taker_delay_us=250_000),
        market(QUIET, title="100 % Snow_in Lyon"),
        market(OTHER, neg_risk=True, state=MarketState.SETTLED, settlement=settled),
        market(SIMULATED),
    ]
    await catalog.upsert([event], markets, T0)
    await catalog.save_link(
        MarketLink(LINK, MARKET, OTHER, LinkRelation.INVERSE, ((0, 1), (1, 0)), "3" * 64, "4" * 64, LinkState.PROPOSED)
    )
    lease = await store.acquire_lease("test", 60 * SECOND)
    assert lease is not None
    await store.prepare_partitions(T0)
    events = tuple(SignalEvent(SignalEventType.CREATED, signal(number), 625_000, 20_000) for number in range(3))
    played = SignalEvent(SignalEventType.CREATED, signal(9, DataOrigin.SIMULATED), 625_000, 20_000)
    await store.store_batch(lease, [*quotes(5), *trades(4)], lambda _: Decision((*events, played)))
    withdrawn = replace(events[0], type=SignalEventType.WITHDRAWN, reason="CONDITION_ENDED")
    await store.append_events(lease, [withdrawn])
    await store.save_feed_status(FeedStatus(Venue.KALSHI, FeedState.LIVE, T0, 3, T0))


def book(market_id: str = MARKET) -> OrderBook:
    bids = tuple(BookLevel(440_000 - n * 10_000, 1_000_000 * (n + 1)) for n in range(5))
    asks = tuple(BookLevel(450_000 + n * 10_000, 2_000_000 * (n + 1)) for n in range(4))
    return OrderBook(market_id, bids, asks, 7, now_us() - 2 * SECOND, now_us() - 3 * SECOND)
