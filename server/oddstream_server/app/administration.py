"""The administration of a serving process, put together: keys, audit log, halts, settings, privacy."""

from pathlib import Path

from oddstream_server.app.process import data_folder, now_us
from oddstream_server.application.audit import Audit
from oddstream_server.application.keys.administration import ApiKeys
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.application.mutations import Mutations
from oddstream_server.application.pipeline_runs import PipelineRuns
from oddstream_server.application.ports import SignalLog
from oddstream_server.application.privacy.people import People
from oddstream_server.application.sealing import Sealer
from oddstream_server.embedded.keys import Keyring
from oddstream_server.settings import Settings
from oddstream_server.storage.administration.anchors import JsonLinesAnchors
from oddstream_server.storage.administration.audit_log import AuditLogStore
from oddstream_server.storage.administration.changes import PostgresChanges
from oddstream_server.storage.administration.key_records import KeyDirectory
from oddstream_server.storage.administration.runs import PipelineRunStore
from oddstream_server.storage.database import Database
from oddstream_server.strategies.registry import Registry
from oddstream_server.transport.administration.service import Administration


def anchors_path(settings: Settings) -> Path:
    return data_folder(settings).root / "audit-anchors.jsonl"


def administration(
    database: Database, keyring: Keyring, strategies: Registry, signal_log: SignalLog, anchors: Path | None
) -> Administration:
    """:param anchors: where the audit log's anchors are kept; None for no file."""
    sealer = Sealer(keyring.data_keys)
    changes = PostgresChanges(database)
    directory = KeyDirectory(database)
    people = People(sealer, directory)
    log = AuditLogStore(database)
    return Administration(
        mutations=Mutations(changes, sealer, now_us),
        api_keys=ApiKeys(directory, people, Peppers(keyring.peppers), now_us),
        audit=Audit(log, JsonLinesAnchors(anchors) if anchors else None, now_us),
        runs=PipelineRuns(PipelineRunStore(database), signal_log),
        strategies=strategies,
    )
