"""The adapter with the live-data socket beside the market channel: prices, strikes, half-open sockets, reconnects."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from oddstream_server.application.ports import CatalogPage
from oddstream_server.domain.market import Market, MarketState
from oddstream_server.domain.quote import FeedState, Quote
from oddstream_server.domain.signal import Direction, SignalEvent, SignalEventType
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from oddstream_server.strategies.registry import Registry
from oddstream_server.venues.polymarket import PolymarketAdapter
from oddstream_server.venues.socket import SocketConfig
from tests.emulator import faults
from tests.emulator.collecting import CollectingSink, following
from tests.emulator.polymarket import PolymarketEmulator
from tests.emulator.polymarket_prices import PolymarketPrices
from tests.emulator.stage import Stage
from tests.venues.test_polymarket_through_the_emulator import QUICK_SOCKET, a_stage, config_for

SPOT, SIXTY = "crypto_prices_chainlink", "crypto_prices_twap_sixty"
BTC = "polymarket:underlying.btc-usd"
STREAM = "https://data.chain.link/streams/btc-usd-twap-60s-streams"
FIVE_MINUTES_US = 300_000_000
EXACT = 10**18


class Scene:
    """A venue whose first market is an up-or-down one that began at the last full five minutes."""

    def __init__(self, venue: PolymarketEmulator, prices: PolymarketPrices, adapter: PolymarketAdapter) -> None:
        self.venue, self.prices, self.adapter = venue, prices, adapter
        self.sink = CollectingSink()
        self.opening_us = time.time_ns() // 1_000 // FIVE_MINUTES_US * FIVE_MINUTES_US
        self.metadata: dict[str, Any] = {}
        venue.faults.stand("/events/keyset", faults.altered(self._with_up_or_down))

    def _with_up_or_down(self, body: Any) -> Any:
        events = [event for event in body["events"] if event["markets"]]
        if events:
            events[0]["eventMetadata"] = self.metadata
            events[0]["markets"][0].update(
                outcomes='["Up", "Down"]',
                slug=f"btc-updown-5m-{self.opening_us // 1_000_000}",
                resolutionSource=STREAM,
                eventStartTime=_iso(self.opening_us),
                endDate=_iso(self.opening_us + FIVE_MINUTES_US),
                active=True,
                acceptingOrders=True,
            )
        return body

    async def discover(self) -> str:
        """Discover and follow all open markets; the id of the up-or-down one."""
        await self.adapter.discover(self.sink)
        await self.adapter.subscribe([m for m in self.sink.markets.values() if m.state is MarketState.OPEN])
        (market,) = [m for m in self.sink.markets.values() if _opening(m) is not None]
        assert market.state is MarketState.OPEN
        return market.market_id

    def floor(self, market_id: str) -> int | None:
        strike = self.sink.markets[market_id].strike
        assert strike is not None
        return strike.floor_micros

    def heard(self, series_id: str) -> list[int | None]:
        return [q.bid_price_micros for q in self.sink.quotes if q.market_id == series_id]

    async def heard_so_many(self, count: int) -> None:
        await self.sink.until(lambda: len(self.heard(BTC)) == count, "the price came")

    async def subscribed(self, handshakes: int = 1) -> None:
        await self.sink.until(
            lambda: self.prices.handshakes == handshakes and self.prices.topics == {SPOT, SIXTY}, "both topics are ours"
        )

    def told(self) -> list[str]:
        return [q.detail for q in self.sink.items if hasattr(q, "detail") and "polymarket prices" in q.detail]


def _opening(market: Market) -> int | None:
    return None if market.strike is None else market.strike.opening_time_us


def _iso(instant_us: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(instant_us // 1_000_000))


@asynccontextmanager
async def a_scene(stage: Stage | None = None, socket: SocketConfig = QUICK_SOCKET) -> AsyncIterator[Scene]:
    async with PolymarketEmulator(stage or a_stage()) as venue, PolymarketPrices() as prices:
        config = config_for(venue, prices_url=prices.ws, price_socket=replace(socket, ping_interval_s=0.05))
        yield Scene(venue, prices, PolymarketAdapter(config))


async def test_prices_and_the_strike_that_they_make_known_reach_the_sink() -> None:
    async with a_scene() as scene:
        market_id = await scene.discover()
        assert scene.floor(market_id) is None
        async with following(scene.adapter, scene.sink):
            await scene.subscribed()
            scene.prices.tell(SPOT, scene.opening_us - 1_000_000, 76_000 * EXACT)
            scene.prices.tell(SIXTY, scene.opening_us - 1_000_000, 75_000 * EXACT)
            scene.prices.tell(SIXTY, scene.opening_us, 75_001 * EXACT + EXACT // 2)
            scene.prices.tell(SPOT, scene.opening_us, 76_002 * EXACT)
            await scene.sink.until(lambda: scene.floor(market_id) is not None, "the strike is known")
            await scene.sink.until(lambda: len(scene.heard(BTC)) == 2, "both prices came")
            assert scene.floor(market_id) == 75_001_500_000
            assert scene.heard(BTC) == [76_000_000_000, 76_002_000_000]
            assert scene.heard(f"{BTC}-twap-60s") == [75_000_000_000, 75_001_500_000]
            await scene.sink.until(lambda: scene.prices.text_pings > 1, "the venue's PINGs are sent")
            # read again by Gamma, which doesn't tell it, and followed again: nobody has to hear the start a second time
            await scene.discover()
            await scene.sink.until(lambda: scene.floor(market_id) == 75_001_500_000, "the strike was told again")
        assert scene.sink.quarantined == []
        assert FeedState.DOWN not in scene.sink.states


async def test_a_strike_that_gamma_tells_needs_no_price() -> None:
    async with a_scene() as scene:
        scene.metadata["priceToBeat"] = "76227.641250796072337408"
        market_id = await scene.discover()
        await scene.adapter.close()
        assert scene.floor(market_id) == 76_227_641_251


async def test_a_dropped_connection_comes_back_and_the_books_stay_live() -> None:
    async with a_scene() as scene:
        await scene.discover()
        async with following(scene.adapter, scene.sink):
            await scene.subscribed()
            await scene.sink.until(lambda: FeedState.LIVE in scene.sink.states, "the books are live")
            scene.prices.tell(SPOT, scene.opening_us - 2_000_000, 76_000 * EXACT)
            await scene.sink.until(lambda: len(scene.heard(BTC)) == 1, "a price came")
            scene.prices.drop_connections()
            await scene.sink.until(lambda: any("down" in detail for detail in scene.told()), "the loss was told")
            await scene.subscribed(handshakes=2)
            scene.prices.tell(SPOT, scene.opening_us - 1_000_000, 76_001 * EXACT)
            await scene.sink.until(lambda: len(scene.heard(BTC)) == 2, "prices go on")
            await scene.sink.until(lambda: scene.told()[-1] == "polymarket prices live", "it was told")
        assert set(scene.sink.states) == {FeedState.LIVE}
        keys = {(q.source, q.source_key) for q in scene.sink.of(Quote) if q.market_id == BTC}
        assert len(keys) == 2


async def test_a_socket_that_answers_pings_but_brings_no_prices_is_found_out() -> None:
    short = replace(QUICK_SOCKET, stale_after_s=0.4, stale_after_maximum_s=0.4)
    async with a_scene(socket=short) as scene:
        await scene.discover()
        async with following(scene.adapter, scene.sink):
            await scene.subscribed()
            await scene.sink.until(lambda: FeedState.LIVE in scene.sink.states, "the books are live")
            scene.prices.tell(SPOT, scene.opening_us - 2_000_000, 76_000 * EXACT)
            await scene.sink.until(lambda: len(scene.heard(BTC)) == 1, "a price came")
            scene.prices.go_half_open()
            pings = scene.prices.text_pings
            await scene.sink.until(lambda: any("stale" in detail for detail in scene.told()), "the silence was told")
            assert scene.prices.text_pings > pings, "the socket was alive all the while"
            await scene.sink.until(lambda: scene.prices.handshakes >= 2, "it connected anew")


async def test_messages_that_cannot_be_read_are_quarantined_and_prices_go_on() -> None:
    async with a_scene() as scene:
        await scene.discover()
        async with following(scene.adapter, scene.sink):
            await scene.subscribed()
            scene.prices.say("<html>")
            scene.prices.say('{"message":"Invalid request body","connectionId":"c"}')
            scene.prices.tell(SPOT, scene.opening_us - 2_000_000, -5)
            scene.prices.tell(SIXTY, scene.opening_us - 2_000_000, 5 * EXACT, window_s=30)
            scene.prices.tell(SPOT, scene.opening_us - 1_000_000, 76_001 * EXACT)
            await scene.sink.until(lambda: len(scene.heard(BTC)) == 1, "the price came")
        reasons = [row.reason for row in scene.sink.quarantined]
        assert reasons == ["not_json", "refused", "number_invalid", "prices_inconsistent"]
        assert scene.prices.handshakes == 1


async def test_a_topic_whose_subscription_was_forgotten_is_asked_for_again() -> None:
    short = replace(QUICK_SOCKET, stale_after_s=0.3, stale_after_maximum_s=60.0)
    async with a_scene(socket=short) as scene:
        await scene.discover()
        scene.prices.muted.add(SIXTY)
        async with following(scene.adapter, scene.sink):
            await scene.sink.until(lambda: scene.prices.topics == {SPOT}, "one topic was forgotten")
            second = 0

            def asked_again() -> bool:
                nonlocal second
                second += 1
                scene.prices.tell(SPOT, scene.opening_us - 3_600_000_000 + second * 1_000_000, 76_000 * EXACT)
                return scene.prices.topics == {SPOT, SIXTY}

            await scene.sink.until(asked_again, "it was asked for again")
        assert scene.prices.handshakes == 1


async def test_without_a_market_about_a_price_no_connection_is_made() -> None:
    stage = a_stage()
    async with PolymarketEmulator(stage) as venue, PolymarketPrices() as prices:
        adapter = PolymarketAdapter(config_for(venue, prices_url=prices.ws, price_socket=QUICK_SOCKET))
        sink = CollectingSink()
        await adapter.discover(sink)
        await adapter.subscribe([m for m in sink.markets.values() if m.state is MarketState.OPEN])
        async with following(adapter, sink):
            await sink.until(lambda: FeedState.LIVE in sink.states, "the books are live")
        assert prices.handshakes == 0


async def test_a_strategy_speaks_on_an_up_or_down_market_once_its_strike_is_known_and_not_before() -> None:
    """Socket to signal without any key: prices move by far after the start, and the book stays where it was."""
    async with a_scene(socket=replace(QUICK_SOCKET, stale_after_s=3_600)) as scene:
        now_us = scene.opening_us - 200_000_000
        config = config_for(
            scene.venue,
            prices_url=scene.prices.ws,
            price_socket=replace(QUICK_SOCKET, stale_after_s=3_600),
            socket=replace(QUICK_SOCKET, stale_after_s=3_600),
            clock=lambda: now_us,
        )
        await scene.adapter.close()
        scene.adapter = PolymarketAdapter(config)
        market_id = await scene.discover()
        runner, events, taken = StrategyRunner([Registry().configure("decay.expiry", {})]), list[SignalEvent](), 0

        def decide() -> None:
            nonlocal taken
            items, taken = scene.sink.items[taken:], len(scene.sink.items)
            for item in items:
                if isinstance(item, CatalogPage):
                    runner.offer_catalog(item.events, [m for m in item.markets if m.market_id == market_id])
                elif isinstance(item, Quote):
                    events.extend(runner.decide([item]).events)
                    runner.commit()

        async with following(scene.adapter, scene.sink):
            await scene.subscribed()
            await scene.sink.until(lambda: bool(scene.heard(market_id)), "the book came")
            for count in range(1, 60):
                now_us += 5_000_000
                second_us = now_us - 1_000_000 if now_us != scene.opening_us + 1_000_000 else scene.opening_us
                wiggle = (count % 3) * EXACT
                after = now_us > scene.opening_us + 20_000_000
                scene.prices.tell(SPOT, second_us, (76_900 if after else 76_000) * EXACT + wiggle)
                if count == 40:
                    assert now_us == scene.opening_us
                    scene.prices.tell(SIXTY, scene.opening_us, 76_001 * EXACT)
                    await scene.sink.until(lambda: scene.floor(market_id) is not None, "the strike is known")
                await scene.heard_so_many(count)
                if count < 40:
                    decide()
                    assert events == [], "nothing is known to compare with"
            decide()
    created = [e for e in events if e.type is SignalEventType.CREATED]
    assert created, "a price a percent above the strike is worth more than the book says"
    first = created[0].signal
    assert [leg.market_id for leg in first.legs] == [market_id]
    assert first.direction is Direction.UP
    evidence = {e.name: e.value for e in first.evidence}
    assert evidence["strike_floor_micros"] == 76_001_000_000
    assert evidence["averaging_us"] == 60_000_000
    assert {e.name: e.source for e in first.evidence}["underlying_price_micros"] == BTC, "whose price it is, is said"
    assert first.input_time_us > scene.opening_us
