"""Metrics of the housekeeping; every series exists from the start."""

import math
import time

from prometheus_client import CollectorRegistry, Counter, Gauge

JOBS = ("erasures", "anchor", "answers", "audit", "retention")


class HousekeepingMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("job", "outcome")
        self._jobs = Counter(
            "oddstream_housekeeping_jobs", "Housekeeping jobs, by how they ended.", labels, registry=registry
        )
        for job in JOBS:
            for outcome in ("succeeded", "failed"):
                self._jobs.labels(job, outcome)
        self._intact = Gauge(
            "oddstream_audit_log_intact",
            "1 while the last verification found every row to fit, 0 while it did not, NaN before the first.",
            registry=registry,
        )
        self._intact.set(math.nan)
        self._verified = Gauge(
            "oddstream_audit_log_verified_rows", "Rows that the last verification found to fit.", registry=registry
        )
        self._verified_at = Gauge(
            "oddstream_audit_log_verified_time_seconds",
            "When the audit log was last verified, in seconds since the epoch; 0 where it never was.",
            registry=registry,
        )

    def verified(self, intact: bool, rows: int) -> None:
        self._intact.set(intact)
        self._verified.set(rows)
        self._verified_at.set(time.time())

    def job_ended(self, name: str, failed: bool) -> None:
        self._jobs.labels(name, "failed" if failed else "succeeded").inc()
