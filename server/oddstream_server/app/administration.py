"""The administration of a serving process, put together: keys, audit log, halts, settings, privacy."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from oddstream_server.app.process import data_folder, now_us
from oddstream_server.application.calls.mutations import Mutations
from oddstream_server.application.keys.administration import ApiKeys
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.application.operations.audit import Audit
from oddstream_server.application.operations.pipeline_runs import PipelineRuns
from oddstream_server.application.operations.system_status import SystemStatuses
from oddstream_server.application.ports import OwnProcess, SignalLog
from oddstream_server.application.privacy.people import People
from oddstream_server.application.privacy.retention import Retention
from oddstream_server.application.privacy.subjects import Subjects
from oddstream_server.application.secrets.sealing import Sealer
from oddstream_server.domain.retention import DAY_S, DEFAULTS, RetentionRule, RetentionSubject
from oddstream_server.embedded.keys import Keyring
from oddstream_server.feed.signals.feed import SignalFeed
from oddstream_server.secrets.held import HeldSecrets
from oddstream_server.settings import Settings
from oddstream_server.shared_state.connection import SharedState
from oddstream_server.storage.administration.anchors import JsonLinesAnchors
from oddstream_server.storage.administration.audit_log import AuditLogStore
from oddstream_server.storage.administration.changes import PostgresChanges
from oddstream_server.storage.administration.controls import ControlsReader
from oddstream_server.storage.administration.holdings import ErasureStore, JsonLinesErasures, SubjectHoldings
from oddstream_server.storage.administration.key_records import KeyDirectory
from oddstream_server.storage.administration.retention import RetentionStore
from oddstream_server.storage.administration.runs import PipelineRunStore
from oddstream_server.storage.administration.system import SystemRecords
from oddstream_server.storage.backtests.archive import Archive
from oddstream_server.storage.database import Database
from oddstream_server.strategies.registry import Registry
from oddstream_server.transport.administration.service import Administration


def version() -> str:
    return importlib.metadata.version("oddstream-server")


@dataclass(frozen=True, slots=True)
class ServingProcess:
    """Fulfils :class:`~oddstream_server.application.ports.OwnProcess`."""

    database: Database
    shared_state: SharedState
    feed: SignalFeed
    secrets: HeldSecrets

    def redis_away(self) -> bool:
        return self.shared_state.away

    def connections(self) -> tuple[int, int]:
        return self.database.connections_in_use(), self.database.maximum_connections

    def streams(self) -> tuple[int, int]:
        return self.feed.streams()

    def held_secrets(self) -> str:
        away = sorted(name for name, state in self.secrets.state().items() if not state["up"])
        return f"{', '.join(away)} can't be reached: the service goes on with what it holds" if away else ""


def records_folder(settings: Settings) -> Path:
    """Where the audit log's anchors and the list of erasures are: beside the database, to be shipped away."""
    return data_folder(settings).root


def retention_defaults(settings: Settings) -> Mapping[RetentionSubject, RetentionRule]:
    ticks = replace(DEFAULTS[RetentionSubject.TICKS], keep_seconds=settings.tick_retention_days * DAY_S)
    return {**DEFAULTS, RetentionSubject.TICKS: ticks}


@dataclass(frozen=True, slots=True)
class Records:
    """What both serving and leading processes do with records: prove them, keep them, end them."""

    people: People
    audit: Audit
    retention: Retention
    subjects: Subjects


def records_of(
    database: Database,
    folder: Path,
    retention: Mapping[RetentionSubject, RetentionRule],
    keyring: Keyring,
    archive: Path | None = None,
    token_issuer: str = "",
) -> Records:
    """:param folder: see :func:`records_folder`.
    :param retention: how long things are kept where operators set no rule.
    :param archive: the archive's folder, ``archive`` in ``folder`` by default: old ticks go there before they go.
    :param token_issuer: whose access tokens are taken; people are found by their subjects.
    """
    people = People(Sealer(keyring.data_keys), KeyDirectory(database), token_issuer)
    log = AuditLogStore(database)
    old = RetentionStore(database, Archive(database, archive or folder / "archive"))
    return Records(
        people=people,
        audit=Audit(log, JsonLinesAnchors(folder / "audit-anchors.jsonl"), now_us),
        retention=Retention(old, log, retention, now_us),
        subjects=Subjects(
            PostgresChanges(database),
            people,
            log,
            SubjectHoldings(database),
            JsonLinesErasures(folder / "erasures.jsonl"),
            ErasureStore(database),
            now_us,
        ),
    )


def administration(
    database: Database,
    keyring: Keyring,
    strategies: Registry,
    signal_log: SignalLog,
    folder: Path,
    process: OwnProcess,
    retention: Mapping[RetentionSubject, RetentionRule] = DEFAULTS,
    archive: Path | None = None,
    token_issuer: str = "",
) -> Administration:
    records = records_of(database, folder, retention, keyring, archive, token_issuer)
    runs = PipelineRunStore(database)
    return Administration(
        mutations=Mutations(PostgresChanges(database), Sealer(keyring.data_keys), now_us),
        api_keys=ApiKeys(KeyDirectory(database), records.people, Peppers(keyring.peppers), now_us),
        audit=records.audit,
        runs=PipelineRuns(runs, signal_log),
        strategies=strategies,
        retention=records.retention,
        subjects=records.subjects,
        status=SystemStatuses(
            SystemRecords(database),
            runs,
            ControlsReader(database),
            signal_log,
            process,
            version=version(),
            start_time_us=now_us(),
            now=now_us,
        ),
    )
