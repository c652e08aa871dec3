"""Discovery: one recorded pass over a venue's markets, and the choice of those that are followed."""

import heapq
from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass

from oddstream_server.application.ports import Catalog, Clock, PipelineStore, VenueAdapter
from oddstream_server.domain.market import Market, MarketState
from oddstream_server.pipeline.observer import PipelineObserver
from oddstream_server.pipeline.queue import IngestQueue


@dataclass(slots=True)
class _EventChoice:
    volume_micros: int
    markets: list[Market]


async def choose_markets(markets: AsyncIterable[Market], limit: int) -> list[Market]:
    """The open markets to follow, whole events first: the sum of an event needs all of its markets.

    Events come by the volume of their markets together, then by id; one that no longer fits gives its markets of most
    volume. The same catalog gives the same choice.
    """
    events: dict[str, _EventChoice] = {}
    async for market in markets:
        choice = events.setdefault(market.event_id or market.market_id, _EventChoice(0, []))
        choice.volume_micros += market.volume_micros or 0
        choice.markets.append(market)
    chosen: list[Market] = []
    for _, choice in sorted(events.items(), key=lambda item: (-item[1].volume_micros, item[0])):
        room = limit - len(chosen)
        if room <= 0:
            break
        chosen += heapq.nsmallest(room, choice.markets, key=lambda m: (-(m.volume_micros or 0), m.market_id))
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
        on_followed: Callable[[Sequence[str]], None] = lambda market_ids: None,
    ) -> None:
        self._adapter = adapter
        self._queue = queue
        self._store = store
        self._catalog = catalog
        self._observer = observer
        self._clock = clock
        self._limit = markets_limit
        self._on_followed = on_followed

    async def subscribe_known(self) -> int:
        """Follow the best of what the catalog holds; answers how many markets those are."""
        venue = self._adapter.venue
        chosen = await choose_markets(self._catalog.all_markets((MarketState.OPEN,), (venue,)), self._limit)
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
