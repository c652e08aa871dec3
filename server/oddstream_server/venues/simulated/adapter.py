"""The simulated venue behind the venue port: a feed, paced by the clock."""

import asyncio
from collections.abc import Sequence

from oddstream_server.application.ports import Clock, DiscoveryReport, VenueSink
from oddstream_server.domain.market import Market, Venue
from oddstream_server.domain.quote import OrderBook
from oddstream_server.venues.simulated.config import SimulatedConfig
from oddstream_server.venues.simulated.feed import Feed
from oddstream_server.venues.simulated.world import World

STRIDE_US = 100_000
"""Most world time that is computed ahead of the sink; bounds what a slow sink makes us hold."""
SHORTEST_SLEEP_S = 0.005


class SimulatedVenue:
    """A :class:`~oddstream_server.application.ports.VenueAdapter` on a world of its own.

    The world begins at the config's start time, or a warm-up before the clock's time when it is first used. What is
    past is pushed as fast as the sink takes it; then the world keeps pace with the clock, at the config's speed. A sink
    that is slower than that makes the world late, never larger.

    Epochs begin with the start's second, so that they grow across restarts.

    :param clock: now in microseconds since the epoch.
    :param not_before_us: receive time of the newest tick that an earlier session left; a warm-up begins after it.
    """

    venue = Venue.SIMULATED

    def __init__(self, config: SimulatedConfig, clock: Clock, not_before_us: int | None = None) -> None:
        self._config = config
        self._clock = clock
        self._not_before_us = not_before_us
        self._feed: Feed | None = None
        self._origin_us = 0
        self._present_us = 0
        self._next_prices_us = 0
        self._changed = asyncio.Event()
        self._closed = False

    async def reachable(self) -> bool:
        return True

    async def discover(self, sink: VenueSink) -> DiscoveryReport:
        events = markets = 0
        pages = self._session().pages()
        for page in pages:
            events += len(page.events)
            markets += len(page.markets)
            await sink.put(page)
        return DiscoveryReport(events=events, markets=markets, quarantined=0, requests=len(pages))

    async def subscribe(self, markets: Sequence[Market]) -> None:
        self._session().subscribe(markets)
        self._changed.set()

    async def follow(self, sink: VenueSink) -> None:
        """Push the feed until cancelled; past the end of ``run_for_us`` it pushes nothing and waits."""
        feed = self._session()
        config = self._config
        start_us = feed.world.start_time_us
        end_us = None if config.run_for_us is None else start_us + config.run_for_us
        while not self._closed:
            now_us = feed.world.now_us
            due_us = now_us + STRIDE_US if config.speed is None else min(self._world_now_us(), now_us + STRIDE_US)
            if end_us is not None:
                due_us = min(due_us, end_us)
            for item in feed.advance(max(due_us, now_us)):
                await sink.put(item)
            if config.underlying_interval_us is not None and feed.world.now_us >= self._next_prices_us:
                self._next_prices_us = feed.world.now_us + config.underlying_interval_us
                for price in () if feed.recovering else feed.prices():
                    await sink.put(price)
            await self._rest(feed, end_us)

    def order_book(self, market_id: str) -> OrderBook | None:
        return self._feed.order_book(market_id) if self._feed else None

    def breaker_state(self) -> str:
        return "closed"

    async def close(self) -> None:
        """End ``follow``."""
        self._closed = True
        self._changed.set()

    async def _rest(self, feed: Feed, end_us: int | None) -> None:
        """Wait until the feed has something due, or the subscription changed."""
        next_us = feed.next_time_us()
        if end_us is not None and next_us > end_us:
            await self._changed.wait()
        elif self._config.speed is None:
            await asyncio.sleep(0)
        else:
            wait_s = (next_us - self._world_now_us()) / self._config.speed / 1_000_000
            if wait_s <= 0:
                await asyncio.sleep(0)
            else:
                timer = asyncio.get_running_loop().call_later(max(wait_s, SHORTEST_SLEEP_S), self._changed.set)
                try:
                    await self._changed.wait()
                finally:
                    timer.cancel()
        self._changed.clear()

    def _world_now_us(self) -> int:
        """Where the world should be by the clock."""
        elapsed_us = self._clock() - self._origin_us
        return self._present_us + int(elapsed_us * (self._config.speed or 1.0))

    def _session(self) -> Feed:
        if self._feed is None:
            config = self._config
            self._origin_us = now_us = self._clock()
            if config.start_time_us is not None:
                start_us = self._present_us = config.start_time_us
            else:
                start_us = max(now_us - config.warm_up_us, min(now_us, (self._not_before_us or 0) + 1))
                self._present_us = now_us
            self._feed = Feed(World(config, start_us), first_epoch=now_us // 1_000_000)
        return self._feed
