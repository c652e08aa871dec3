"""Runs of the pipeline's stages: asked for by operators, taken up by the leader, listed."""

from collections.abc import Sequence
from typing import Any

import asyncpg
from sqlalchemy import ColumnElement, and_, or_, select

from oddstream_server.application.ports import Key, Page, PipelineRunFilter
from oddstream_server.domain.market import Venue
from oddstream_server.domain.pipeline_run import PipelineRun, PipelineRunState, PipelineStage
from oddstream_server.domain.signal import content_id
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.tables import pipeline_runs
from oddstream_server.storage.wake_ups import CHANNEL


async def new_run_id(driver: "asyncpg.Connection[Any]") -> str:
    return content_id("run", await driver.fetchval("SELECT gen_random_uuid()::text"))


class PipelineRunRecords:
    """Fulfils :class:`~oddstream_server.application.ports.PipelineRunRecords` in a transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._driver = transaction.driver

    async def queue(
        self, venue: Venue | None, stage: PipelineStage, requested_by: str, now_us: int
    ) -> PipelineRun | None:
        run_id = await new_run_id(self._driver)
        # A run that a killed leader left RUNNING is no reason to refuse another for ever.
        queued = await self._driver.fetchval(
            "INSERT INTO pipeline_runs (run_id, venue, stage, state, create_time, requested_by) "
            "SELECT $1, $2::text, $3, 'queued', $4, $5 WHERE NOT EXISTS (SELECT FROM pipeline_runs WHERE stage = $3 "
            "AND venue IS NOT DISTINCT FROM $2::text AND (state = 'queued' OR state = 'running' AND begin_time > $6)) "
            "ON CONFLICT DO NOTHING RETURNING true",
            run_id,
            None if venue is None else venue.value,
            stage.value,
            now_us,
            requested_by,
            now_us - _FORGOTTEN_US,
        )
        if not queued:
            return None
        await self._driver.execute("SELECT pg_notify($1, 'runs')", CHANNEL)
        return PipelineRun(run_id, venue, stage, PipelineRunState.QUEUED, now_us, None, None, {}, "", requested_by)


_FORGOTTEN_US = 3_600_000_000


class PipelineRunStore:
    """Fulfils :class:`~oddstream_server.application.ports.PipelineRunStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take_queued(self, venues: Sequence[Venue], now_us: int) -> Sequence[PipelineRun]:
        """Move the queued runs of some venues (and of no venue) to RUNNING; answers them, oldest first."""
        async with self._database.transaction() as transaction:
            rows = await transaction.driver.fetch(
                "UPDATE pipeline_runs SET state = 'running', begin_time = $2 WHERE run_id IN (SELECT run_id "
                "FROM pipeline_runs WHERE state = 'queued' AND (venue IS NULL OR venue = ANY($1::text[])) "
                "FOR UPDATE SKIP LOCKED) RETURNING *",
                [venue.value for venue in venues],
                now_us,
            )
        return sorted((_run(row) for row in rows), key=lambda run: (run.create_time_us, run.run_id))

    async def list_runs(self, where: PipelineRunFilter, after: Key | None, limit: int) -> Page[PipelineRun]:
        c = pipeline_runs.c
        statement = select(pipeline_runs).where(*_conditions(where))
        if after is not None:
            time_us, run_id = int(after[0]), str(after[1])
            statement = statement.where(or_(c.create_time < time_us, and_(c.create_time == time_us, c.run_id < run_id)))
        statement = statement.order_by(c.create_time.desc(), c.run_id.desc()).limit(limit + 1)

        async def work(transaction: Transaction) -> Page[PipelineRun]:
            rows = (await transaction.core.execute(statement)).mappings().all()
            shown = tuple(_run(row) for row in rows[:limit])
            last = shown[-1] if len(rows) > limit else None
            return Page(shown, None if last is None else (last.create_time_us, last.run_id))

        return await self._database.read(work)

    async def last_runs(self) -> Sequence[PipelineRun]:
        """The latest run of each stage and venue."""

        async def work(transaction: Transaction) -> Sequence[PipelineRun]:
            rows = await transaction.driver.fetch(
                "SELECT DISTINCT ON (stage, venue) * FROM pipeline_runs ORDER BY stage, venue, create_time DESC"
            )
            return [_run(row) for row in rows]

        return await self._database.read(work)


def _conditions(where: PipelineRunFilter) -> list[ColumnElement[bool]]:
    c = pipeline_runs.c
    found: list[ColumnElement[bool]] = []
    if where.venues:
        found.append(c.venue.in_([venue.value for venue in where.venues]))
    if where.stages:
        found.append(c.stage.in_([stage.value for stage in where.stages]))
    if where.states:
        found.append(c.state.in_([state.value for state in where.states]))
    if where.create_time_from_us is not None:
        found.append(c.create_time >= where.create_time_from_us)
    if where.create_time_to_us is not None:
        found.append(c.create_time < where.create_time_to_us)
    return found


def _run(row: Any) -> PipelineRun:
    return PipelineRun(
        run_id=row["run_id"],
        venue=None if row["venue"] is None else Venue(row["venue"]),
        stage=PipelineStage(row["stage"]),
        state=PipelineRunState(row["state"]),
        create_time_us=row["create_time"],
        begin_time_us=row["begin_time"],
        end_time_us=row["end_time"],
        counts=row["counts"],
        error=row["error"] or "",
        requested_by=row["requested_by"] or "",
    )
