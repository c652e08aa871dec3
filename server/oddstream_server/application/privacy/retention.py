"""Retention: how long each kind of data is kept, changed by operators and carried out by a scheduler."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from oddstream_server.application.calls.etags import etag_of, require_etag
from oddstream_server.application.calls.mutations import Mutation
from oddstream_server.application.ports import AuditLog, Clock, RetentionStore, StoredRules
from oddstream_server.domain.audit import SYSTEM, AuditOutcome, AuditRecord
from oddstream_server.domain.retention import RetentionPolicy, RetentionRule, RetentionSubject

_SECOND_US = 1_000_000
RESOURCE = "RetentionPolicy/default"


@dataclass(frozen=True, slots=True)
class RetentionOutcome:
    subject: RetentionSubject
    cutoff_time_us: int | None
    """What is older goes; None where the data is kept for ever."""
    rows: int
    partitions: int


class Retention:
    """:param defaults: of every kind of data, for those that operators set no rule for."""

    def __init__(
        self, store: RetentionStore, audit: AuditLog, defaults: Mapping[RetentionSubject, RetentionRule], now: Clock
    ) -> None:
        self._store = store
        self._audit = audit
        self._defaults = defaults
        self._now = now

    async def policy(self) -> RetentionPolicy:
        return self._policy(await self._store.stored())

    async def update(
        self,
        mutation: Mutation,
        rules: Mapping[RetentionSubject, RetentionRule],
        etag: str,
    ) -> RetentionPolicy:
        """:param rules: of the kinds to change; takes effect at the next run."""
        records = mutation.change.retention
        await mutation.change.audit.lock()  # changes of the policy follow each other
        before = self._policy(await records.stored())
        require_etag(etag, policy_etag(before))
        for subject, rule in rules.items():
            await records.put(subject, rule, mutation.now_us)
        after = self._policy(await records.stored())
        await mutation.audit(RESOURCE, told(before, rules), told(after, rules))
        return after

    async def run(self, subjects: Sequence[RetentionSubject], *, dry_run: bool) -> list[RetentionOutcome]:
        """Delete what is kept for longer than the policy says, or tell what would be deleted.

        :param subjects: empty for all.
        """
        policy = await self.policy()
        outcomes = []
        for subject in sorted(subjects or policy.rules, key=list(RetentionSubject).index):
            keep_seconds = policy.rules[subject].keep_seconds
            if keep_seconds is None:
                outcomes.append(RetentionOutcome(subject, None, 0, 0))
                continue
            cutoff_us = self._now() - keep_seconds * _SECOND_US
            purge = await self._store.purge(subject, cutoff_us, dry_run=dry_run)
            outcomes.append(RetentionOutcome(subject, cutoff_us, purge.rows, purge.partitions))
        return outcomes

    async def run_on_request(
        self, mutation: Mutation, subjects: Sequence[RetentionSubject], *, dry_run: bool
    ) -> list[RetentionOutcome]:
        # The deletions commit by themselves, in pieces: all that they do again when this change fails is nothing.
        outcomes = await self.run(subjects, dry_run=dry_run)
        await mutation.audit(RESOURCE, None, {"dry_run": dry_run, **_counts(outcomes)})
        return outcomes

    async def run_on_schedule(self) -> list[RetentionOutcome]:
        """As the scheduler does; a run that deletes something is a row of the audit log."""
        outcomes = await self.run((), dry_run=False)
        if any(outcome.rows or outcome.partitions for outcome in outcomes):
            await self._audit.record(
                AuditRecord(SYSTEM, "retention.run", AuditOutcome.DONE, RESOURCE, after=_counts(outcomes))
            )
        return outcomes

    def _policy(self, stored: StoredRules) -> RetentionPolicy:
        return RetentionPolicy({**self._defaults, **stored.rules}, stored.update_time_us)


def policy_etag(policy: RetentionPolicy) -> str:
    rules = (f"{subject}={rule.keep_seconds}={rule.basis}" for subject, rule in sorted(policy.rules.items()))
    return etag_of(policy.update_time_us, *rules)


def told(policy: RetentionPolicy, subjects: Mapping[RetentionSubject, object]) -> Mapping[str, object]:
    """What the audit log is told of some of the rules."""
    return {s.value: {"keep_seconds": policy.rules[s].keep_seconds, "basis": policy.rules[s].basis} for s in subjects}


def _counts(outcomes: Sequence[RetentionOutcome]) -> dict[str, object]:
    return {
        outcome.subject.value: {
            "cutoff_time_us": outcome.cutoff_time_us,
            "rows": outcome.rows,
            "partitions": outcome.partitions,
        }
        for outcome in outcomes
        if outcome.rows or outcome.partitions
    }
