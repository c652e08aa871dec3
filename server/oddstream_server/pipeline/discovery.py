"""Discovery: one recorded pass over a venue's markets, and the choice of those that are followed."""

import heapq
from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from oddstream_server.application.ports import Catalog, Clock, PipelineStore, VenueAdapter
from oddstream_server.domain.market import Market, MarketState
from oddstream_server.pipeline.observer import PipelineObserver
from oddstream_server.pipeline.queue import IngestQueue

_SOON_US: Final = 3_600_000_000


@dataclass(slots=True)
class _EventChoice:
    volume_micros: int
    markets: list[Market]
    ends_us: int | None = None
    """The first end within the hour of a market whose strike is the price at its window's start."""


async def choose_markets(markets: AsyncIterable[Market], limit: int, windows: int = 0, now_us: int = 0) -> list[Market]:
    """The open markets to follow, whole events first: the sum of an event needs all of its markets.

    Events come by the volume of their markets together, then by id; one that no longer fits gives its markets of most
    volume. The same catalog gives the same choice.

    :param windows: places, of at most half of the limit, that go first to events whose strike is the price at a
        window's start, by their end within the hour: they live for minutes, so their volume comes when it is too late.
    """
    events: dict[str, _EventChoice] = {}
    async for market in markets:
        choice = events.setdefault(market.event_id or market.market_id, _EventChoice(0, []))
        choice.volume_micros += market.volume_micros or 0
        choice.markets.append(market)
        close_us = market.close_time_us
        opens = market.strike is not None and market.strike.opening_time_us is not None
        if opens and close_us is not None and now_us < close_us <= now_us + _SOON_US:
            choice.ends_us = close_us if choice.ends_us is None else min(choice.ends_us, close_us)
    by_volume = sorted(events.items(), key=lambda item: (-item[1].volume_micros, item[0]))
    # a stable sort: those of one end by volume
    soon = sorted((i for i in by_volume if i[1].ends_us is not None), key=lambda item: item[1].ends_us or 0)
    chosen: list[Market] = []
    for room, items in ((min(windows, limit // 2), soon), (limit, by_volume)):
        taken = {market.market_id for market in chosen}
        for _, choice in items:
            left = room - len(chosen)
            if left <= 0:
                break
            new = [market for market in choice.markets if market.market_id not in taken]
            chosen += heapq.nsmallest(left, new, key=lambda m: (-(m.volume_micros or 0), m.market_id))
    return chosen


class Discovery:
    """One venue's passes.

    :param on_followed: told the ids of all markets that are followed from now on.
    """

    def __init__(
        self,
        adapter: VenueAdapter,
        *,
        queue: IngestQueue,
        store: PipelineStore,
        catalog: Catalog,
        observer: PipelineObserver,
        clock: Clock,
        markets_limit: int,
        window_markets: int = 0,
        on_followed: Callable[[Sequence[str]], None] = lambda market_ids: None,
    ) -> None:
        self._adapter = adapter
        self._queue = queue
        self._store = store
        self._catalog = catalog
        self._observer = observer
        self._clock = clock
        self._limit = markets_limit
        self._windows = window_markets
        self._on_followed = on_followed

    async def subscribe_known(self) -> int:
        """Follow the best of what the catalog holds; answers how many markets those are."""
        venue = self._adapter.venue
        open_markets = self._catalog.all_markets((MarketState.OPEN,), (venue,))
        chosen = await choose_markets(open_markets, self._limit, self._windows, self._clock())
        await self._adapter.subscribe(chosen)
        self._on_followed([market.market_id for market in chosen])
        return len(chosen)

    async def run(self, run_id: str | None = None) -> bool:
        """One pass, recorded as a run; answers whether it went through. A failure waits for the next pass.

        :param run_id: of a run that was asked for and has begun; None begins one.
        """
        venue, begin_us = self._adapter.venue, self._clock()
        run_id = run_id or await self._store.begin_run(venue, "discover", begin_us)
        counts: dict[str, int] = {}
        error_text = None
        try:
            report = await self._adapter.discover(self._queue)
            await self._queue.stored()
            counts = {
                "events": report.events,
                "markets": report.markets,
                "quarantined": report.quarantined,
                "requests": report.requests,
                "subscribed": await self.subscribe_known(),
            }
        except Exception as error:
            self._observer.failed(f"discover {venue.value}", error)
            error_text = f"the pass stopped with {type(error).__name__}; the log has the details"
        now_us = self._clock()
        await self._store.end_run(run_id, now_us, counts, error_text)
        self._observer.run_ended(venue, "discover", error_text is not None, now_us - begin_us)
        return error_text is None
