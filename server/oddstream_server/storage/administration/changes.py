"""A change: one transaction, with the records that it works on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from oddstream_server.application.ports import Change
from oddstream_server.storage.administration.audit_log import AuditAppender
from oddstream_server.storage.administration.controls import SignalControls
from oddstream_server.storage.administration.key_records import KeyRecords, SubjectRecords
from oddstream_server.storage.administration.requests import AnsweredRequests
from oddstream_server.storage.administration.retention import RetentionRules
from oddstream_server.storage.administration.runs import PipelineRunRecords
from oddstream_server.storage.backtests.changes import RunChanges
from oddstream_server.storage.database import Database, Transaction
from oddstream_server.storage.markets.link_records import LinkRecords
from oddstream_server.storage.track_record.executions import ExecutionRecords


class PostgresChange:
    """Fulfils :class:`~oddstream_server.application.ports.Change`."""

    def __init__(self, transaction: Transaction) -> None:
        self.requests = AnsweredRequests(transaction)
        self.audit = AuditAppender(transaction)
        self.keys = KeyRecords(transaction)
        self.subjects = SubjectRecords(transaction)
        self.controls = SignalControls(transaction)
        self.runs = PipelineRunRecords(transaction)
        self.backtests = RunChanges(transaction)
        self.retention = RetentionRules(transaction)
        self.links = LinkRecords(transaction)
        self.executions = ExecutionRecords(transaction)


class PostgresChanges:
    """Fulfils :class:`~oddstream_server.application.ports.Changes`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Change]:
        async with self._database.transaction() as transaction:
            yield PostgresChange(transaction)
