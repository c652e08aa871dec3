"""Runs of the pipeline: listed, and asked for by operators."""

from collections.abc import Sequence

from oddstream_server.application.calls.mutations import Mutation
from oddstream_server.application.calls.paging import PageRequest
from oddstream_server.application.ports import Page, PipelineRunFilter, PipelineRunStore, SignalLog
from oddstream_server.domain.errors import FailedPrecondition, FieldViolation, InvalidArgument
from oddstream_server.domain.market import Venue
from oddstream_server.domain.pipeline_run import PipelineRun, PipelineStage


class PipelineRuns:
    def __init__(self, store: PipelineRunStore, signal_log: SignalLog) -> None:
        self._store = store
        self._signal_log = signal_log

    async def list_runs(self, where: PipelineRunFilter, page: PageRequest) -> Page[PipelineRun]:
        return await self._store.list_runs(where, page.after, page.size)

    async def run(self, mutation: Mutation, stage: PipelineStage, venue: Venue | None) -> Sequence[PipelineRun]:
        """Ask the leader to run a stage now.

        :param venue: None for every venue that is set up.
        :raises FailedPrecondition: PIPELINE_RUNNING.
        """
        known = [status.venue for status in await self._signal_log.feed_statuses()]
        if venue is not None and venue not in known:
            set_up = ", ".join(v.value for v in known) or "none yet"
            raise InvalidArgument([FieldViolation("venue", f"must be a venue that is set up: {set_up}")])
        queued = []
        wanted: Sequence[Venue | None] = [venue] if venue is not None else known or [None]
        for of_venue in wanted:
            run = await mutation.change.runs.queue(of_venue, stage, mutation.principal.subject, mutation.now_us)
            if run is None:
                where = of_venue.value if of_venue else "every venue"
                raise FailedPrecondition(
                    f"{stage.value} is queued or running on {where}; wait for it to end",
                    subject=f"PipelineRun/{stage.value}/{where}",
                    reason="PIPELINE_RUNNING",
                )
            queued.append(run)
        after = {"stage": stage.value, "run_ids": [run.run_id for run in queued]}
        await mutation.audit(f"PipelineRun/{queued[0].run_id}", None, after)
        return queued
