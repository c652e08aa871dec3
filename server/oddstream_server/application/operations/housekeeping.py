"""What has to be done again and again, by the process that leads: proofs, anchors, retention, forgetting."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from oddstream_server.application.calls.mutations import ANSWER_US, SECRET_US
from oddstream_server.application.operations.audit import Audit
from oddstream_server.application.ports import Clock
from oddstream_server.application.privacy.retention import Retention
from oddstream_server.application.privacy.subjects import Subjects
from oddstream_server.domain.errors import Aborted, Unavailable

log = structlog.get_logger()

_MINUTE = 60.0
_HOUR = 60 * _MINUTE


class AnswerForgetter(Protocol):
    async def forget(self, secrets_before_us: int, answers_before_us: int) -> int: ...


class HousekeepingObserver(Protocol):
    def verified(self, intact: bool, rows: int) -> None: ...

    def job_ended(self, name: str, failed: bool) -> None: ...


@dataclass(slots=True)
class Job:
    name: str
    every_seconds: float
    work: Callable[[], Awaitable[None]]
    due_at: float = 0.0


class Housekeeping:
    """:param leads: whether this process does the work now; each job can be done twice without harm."""

    def __init__(
        self,
        audit: Audit,
        retention: Retention,
        subjects: Subjects,
        answers: AnswerForgetter,
        observer: HousekeepingObserver,
        leads: Callable[[], bool],
        now: Clock,
    ) -> None:
        self._audit = audit
        self._retention = retention
        self._subjects = subjects
        self._answers = answers
        self._observer = observer
        self._leads = leads
        self._now = now
        self.jobs: Sequence[Job] = (
            # First, and again each hour: whom a restore brought back goes before anybody could look at it for long.
            Job("erasures", _HOUR, self._erase_again),
            Job("anchor", _MINUTE, self._anchor),
            Job("answers", _MINUTE, self._forget_answers),
            Job("audit", _HOUR, self._verify),
            Job("retention", 24 * _HOUR, self._run_retention),
        )

    async def run(self, beat_seconds: float = 5.0) -> None:
        """Do what is due, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            if self._leads():
                for job in self.jobs:
                    if job.due_at <= loop.time():
                        await self._do(job, loop.time())
            await asyncio.sleep(beat_seconds)

    async def _do(self, job: Job, now_seconds: float) -> None:
        try:
            await job.work()
        except (Unavailable, Aborted):
            self._observer.job_ended(job.name, failed=True)
            return  # it stays due
        except Exception:
            log.exception("housekeeping failed and goes on", job=job.name)
            self._observer.job_ended(job.name, failed=True)
        else:
            self._observer.job_ended(job.name, failed=False)
        job.due_at = now_seconds + job.every_seconds

    async def _verify(self) -> None:
        found = await self._audit.verify()
        self._observer.verified(found.intact, found.verified)
        if not found.intact:
            log.error("the audit log is broken", sequence=found.broken_sequence, detail=found.detail)

    async def _anchor(self) -> None:
        await self._audit.anchor()

    async def _forget_answers(self) -> None:
        now_us = self._now()
        await self._answers.forget(now_us - SECRET_US, now_us - ANSWER_US)

    async def _run_retention(self) -> None:
        for outcome in await self._retention.run_on_schedule():
            if outcome.rows or outcome.partitions:
                log.info("retention", subject=outcome.subject.value, rows=outcome.rows, partitions=outcome.partitions)

    async def _erase_again(self) -> None:
        came_back = await self._subjects.erase_again()
        if came_back:
            log.warning("people who had been erased were in the database again and were erased", people=came_back)
