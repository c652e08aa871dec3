"""What the leading process keeps records of and puts an end to by itself."""

import asyncio
import hashlib
import json
import math
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from oddstream_server.app.administration import Records, records_of
from oddstream_server.application.keys.issuing import new_key
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.application.operations.housekeeping import Housekeeping
from oddstream_server.domain.principal import Role
from oddstream_server.domain.retention import DEFAULTS
from oddstream_server.embedded.keys import Keyring
from oddstream_server.observability.housekeeping_metrics import JOBS, HousekeepingMetrics
from oddstream_server.storage.administration.requests import RequestHousekeeping
from oddstream_server.storage.keys import ApiKeyStore
from tests.pipeline.conftest import Stores, Watcher
from tests.pipeline.test_leadership import a_pipeline, a_venue, discovered, now_us, recent, running
from tests.strategies.worlds import a_world

INTACT = "oddstream_audit_log_intact"


async def rows(stores: Stores, query: str, *values: Any) -> list[Any]:
    async with stores.database.transaction() as transaction:
        return list(await transaction.driver.fetch(query, *values))


async def test_each_batch_of_signals_has_one_row_of_the_audit_log_with_a_digest_of_its_events(
    stores: Stores, watcher: Watcher
) -> None:
    world = recent(a_world(21))
    venue = a_venue(world)
    async with running(a_pipeline(stores, venue, watcher)):
        await discovered(venue, watcher)
        half = len(world.quotes) // 2
        for first, last in ((0, half), (half, len(world.quotes))):
            venue.say(*world.quotes[first:last])
            await watcher.until(lambda last=last: watcher.quotes == last)  # type: ignore[misc]  # bound at once
    events = {event.sequence: event for event in await stores.logged()}
    entries = await rows(
        stores, "SELECT resource, after, actor FROM audit_entries WHERE method = 'pipeline.signals' ORDER BY sequence"
    )
    told = 0
    for entry in entries:
        found = re.fullmatch(r"SignalLog/(\d+)-(\d+)", entry["resource"])
        assert found is not None
        first, last = int(found[1]), int(found[2])
        assert first == told + 1, "every event is in one row and in no other"
        digest = hashlib.sha256()
        for sequence in range(first, last + 1):
            event = events[sequence]
            digest.update(f"{sequence} {event.event_key} ".encode() + event.canonical_bytes() + b"\n")
        after = entry["after"] if isinstance(entry["after"], dict) else json.loads(entry["after"])
        assert after["digest"] == digest.hexdigest()
        assert sum(after["events"].values()) == last - first + 1
        assert entry["actor"] == "system"
        told = last
    assert told == len(events) > 10
    assert len(entries) > 2, "more than one batch, or this shows nothing"


@dataclass
class Seen(HousekeepingMetrics):
    """Counts which jobs have run."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    runs: list[tuple[str, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.registry)

    def job_ended(self, name: str, failed: bool) -> None:
        super().job_ended(name, failed)
        self.runs.append((name, failed))

    def intact(self) -> float | None:
        return self.registry.get_sample_value(INTACT)


@dataclass
class House:
    stores: Stores
    records: Records
    seen: Seen
    leads: bool = True
    """Whether this process does the work."""

    def keeping(self) -> Housekeeping:
        return Housekeeping(
            self.records.audit,
            self.records.retention,
            self.records.subjects,
            RequestHousekeeping(self.stores.database),
            self.seen,
            lambda: self.leads,
            now_us,
        )


@pytest.fixture
def house(stores: Stores, tmp_path: Path) -> House:
    keyring = Keyring(peppers={1: b"a pepper of a test, long enough"}, data_keys={1: b"d" * 32})
    return House(stores, records_of(stores.database, tmp_path, DEFAULTS, keyring), Seen())


async def until_all_jobs_ran(house: House) -> None:
    keeping = asyncio.create_task(house.keeping().run(beat_seconds=0.01))
    try:
        async with asyncio.timeout(20):
            while {name for name, _ in house.seen.runs} != set(JOBS):
                await asyncio.sleep(0.01)
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
    assert not any(failed for _, failed in house.seen.runs)


async def test_what_is_kept_for_too_long_goes_by_itself_and_the_audit_log_tells_of_it(
    house: House, stores: Stores
) -> None:
    await rows(
        stores,
        "INSERT INTO pipeline_runs (run_id, stage, state, create_time) "
        "SELECT 'run_' || n, 'discover', 'succeeded', now() - n * interval '60 days' FROM generate_series(0, 4) AS n",
    )
    issued = new_key(Peppers({1: b"p" * 32}), owner="gone", role=Role.VIEWER, now_us=time.time_ns() // 1000)
    await ApiKeyStore(stores.database).create(issued.stored)
    await rows(stores, "UPDATE api_keys SET revoke_time = now() - interval '2 years'")
    await until_all_jobs_ran(house)
    kept = await rows(stores, "SELECT run_id FROM pipeline_runs ORDER BY run_id")
    assert [row["run_id"] for row in kept] == ["run_0", "run_1"], "what is younger than 90 days stays"
    assert await rows(stores, "SELECT FROM api_keys") == []
    (told,) = await rows(stores, "SELECT actor, after FROM audit_entries WHERE method = 'retention.run'")
    after = told["after"] if isinstance(told["after"], dict) else json.loads(told["after"])
    assert told["actor"] == "system"
    assert {subject: counts["rows"] for subject, counts in after.items()} == {"pipeline_runs": 3, "api_keys": 1}


async def test_a_process_that_does_not_lead_deletes_nothing(house: House, stores: Stores) -> None:
    await rows(
        stores,
        "INSERT INTO pipeline_runs (run_id, stage, state, create_time) "
        "VALUES ('run_1', 'discover', 'succeeded', now() - interval '1 year')",
    )
    house.leads = False
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await house.keeping().run(beat_seconds=0.01)
    assert house.seen.runs == []
    assert len(await rows(stores, "SELECT FROM pipeline_runs")) == 1


async def test_the_log_counts_as_intact_only_once_it_was_verified_and_never_once_a_row_was_changed(
    house: House, stores: Stores
) -> None:
    unknown = house.seen.intact()
    assert unknown is not None
    assert math.isnan(unknown)
    await until_all_jobs_ran(house)
    assert house.seen.intact() == 1
    house.seen.verified(intact=False, rows=3)
    assert house.seen.intact() == 0
