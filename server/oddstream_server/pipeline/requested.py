"""Runs that operators ask for: the leader takes them up and tells how they went."""

from collections.abc import Mapping, Sequence

from oddstream_server.application.ports import Catalog, Clock, Fenced, PipelineRunStore, PipelineStore
from oddstream_server.domain.market import MarketState, Venue
from oddstream_server.domain.pipeline_run import PipelineRun, PipelineStage
from oddstream_server.pipeline.discovery import Discovery
from oddstream_server.pipeline.ingest import Ingest
from oddstream_server.pipeline.observer import PipelineObserver

_MARKETS_AT_A_TIME = 200


class RequestedRuns:
    """:param discoveries: of each venue that is being followed now."""

    def __init__(
        self,
        runs: PipelineRunStore,
        store: PipelineStore,
        catalog: Catalog,
        ingest: Ingest,
        discoveries: Mapping[Venue, Discovery],
        observer: PipelineObserver,
        clock: Clock,
    ) -> None:
        self._runs = runs
        self._store = store
        self._catalog = catalog
        self._ingest = ingest
        self._discoveries = discoveries
        self._observer = observer
        self._clock = clock

    async def run(self, venues: Sequence[Venue]) -> None:
        """Take up what is queued for some venues, one after the other."""
        for run in await self._runs.take_queued(venues, self._clock()):
            if run.stage is PipelineStage.GRADE:
                await self._grade(run, venues if run.venue is None else (run.venue,))
            else:
                # A pass of discovery brings what settled since the last one: it is the SETTLE stage too.
                await self._discover(run, venues if run.venue is None else (run.venue,))

    async def _discover(self, run: PipelineRun, venues: Sequence[Venue]) -> None:
        for venue in venues:
            discovery = self._discoveries.get(venue)
            if discovery is None:
                await self._store.end_run(run.run_id, self._clock(), {}, f"{venue.value} is not being followed now")
                return
            await discovery.run(run.run_id)

    async def _grade(self, run: PipelineRun, venues: Sequence[Venue]) -> None:
        begin_us, graded, markets, error_text = self._clock(), 0, 0, None
        waiting: list[str] = []
        try:
            async for market in self._catalog.all_markets((MarketState.SETTLED, MarketState.DETERMINED), venues):
                waiting.append(market.market_id)
                markets += 1
                if len(waiting) >= _MARKETS_AT_A_TIME:
                    graded += await self._ingest.grade(waiting)
                    waiting = []
            graded += await self._ingest.grade(waiting)
        except Fenced:
            raise
        except Exception as error:
            self._observer.failed("grade", error)
            error_text = f"the run stopped with {type(error).__name__}; the log has the details"
        now_us = self._clock()
        await self._store.end_run(run.run_id, now_us, {"markets": markets, "graded": graded}, error_text)
        self._observer.run_ended(run.venue, "grade", error_text is not None, now_us - begin_us)
