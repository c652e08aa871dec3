"""What the database knows of the service, in one snapshot."""

import orjson

from oddstream_server.domain.market import Venue
from oddstream_server.domain.system_status import SystemFacts
from oddstream_server.storage.database import Database, Transaction


class SystemRecords:
    """Fulfils :class:`~oddstream_server.application.ports.SystemRecords`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def facts(self) -> SystemFacts:
        async def work(transaction: Transaction) -> SystemFacts:
            driver = transaction.driver
            row = await driver.fetchrow(
                "SELECT l.*, clock_timestamp() AS now, h.last_create_time, "
                "(SELECT version_num FROM alembic_version) AS revision, "
                "(SELECT count(*) FROM backtest_runs WHERE state IN ('queued', 'running')) AS queued "
                "FROM leases AS l, signal_log_head AS h WHERE l.name = 'pipeline'"
            )
            quarantined = await driver.fetch(
                "SELECT venue, count(*) FROM quarantine WHERE receive_time > clock_timestamp() - interval '1 day' "
                "GROUP BY venue"
            )
            report = row["report"]
            return SystemFacts(
                schema_revision=row["revision"],
                lease_holder=row["holder"],
                lease_epoch=row["epoch"],
                lease_expire_time_us=row["expire_time"],
                now_us=row["now"],
                report=orjson.loads(report) if isinstance(report, str) else report or {},
                head_create_time_us=row["last_create_time"],
                queue_depth=row["queued"],
                quarantined={Venue(venue): count for venue, count in quarantined},
            )

        return await self._database.read(work, snapshot=True)
