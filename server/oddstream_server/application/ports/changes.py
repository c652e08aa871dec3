"""Changes: one transaction that holds what is changed, its row of the audit log and the answer to its request id."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from oddstream_server.application.ports.audit import AuditAppender
from oddstream_server.application.ports.backtests import RunChanges
from oddstream_server.application.ports.executions import ExecutionRecords
from oddstream_server.application.ports.keys import StoredKey
from oddstream_server.application.ports.pages import Key, Page
from oddstream_server.application.ports.privacy import RetentionRules
from oddstream_server.domain.api_key import ApiKey, ApiKeyState
from oddstream_server.domain.halt import Halt, HaltScope
from oddstream_server.domain.market import Market, MarketLink, Venue
from oddstream_server.domain.pipeline_run import PipelineRun, PipelineRunState, PipelineStage
from oddstream_server.domain.principal import Role, Scopes
from oddstream_server.domain.signal import SignalEvent
from oddstream_server.domain.strategy import StrategySetting


@dataclass(frozen=True, slots=True)
class RequestName:
    """Whose request with which id to which method."""

    subject: str
    method: str
    request_id: str


@dataclass(frozen=True, slots=True, repr=False)
class FirstAnswer:
    """What a request id got the first time."""

    request_digest: bytes
    sealed_answer: bytes
    sealed_secret: bytes | None
    create_time_us: int


class AnsweredRequests(Protocol):
    async def find(self, name: RequestName, horizon_us: int) -> FirstAnswer | None:
        """The first answer where somebody had it after ``horizon_us``; takes nothing and waits for nobody."""
        ...

    async def claim(self, name: RequestName, digest: bytes, now_us: int, horizon_us: int) -> FirstAnswer | None:
        """Take a request id for this change; the first answer where somebody had it after ``horizon_us``.

        Waits for a change under way with the same id.
        """
        ...

    async def answer(
        self, name: RequestName, sealed_answer: bytes, sealed_secret: bytes | None, subject_id: str | None
    ) -> None: ...

    async def forget_subject(self, subject_id: str) -> None:
        """Drop the answers that tell of a person."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class SealedSubject:
    """A person as stored: sealed fields and a blind index."""

    subject_id: str
    email_index: bytes | None
    name_sealed: bytes | None
    email_sealed: bytes | None
    create_time_us: int


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What UpdateApiKey can change, all of it as it is to be."""

    display_name: str
    role: Role
    scopes: Scopes
    subject_id: str | None
    expire_time_us: int | None


class KeyRecords(Protocol):
    """Keys within a change. Changes of keys follow each other under the audit log's lock."""

    async def get(self, key_id: str) -> ApiKey | None: ...

    async def all_admins(self) -> Sequence[ApiKey]:
        """Every key with the role ADMIN that wasn't revoked."""
        ...

    async def of_subject(self, subject_id: str) -> Sequence[ApiKey]: ...

    async def add(self, key: StoredKey, environment: str, subject_id: str | None) -> None: ...

    async def update(self, key_id: str, change: KeyChange) -> None: ...

    async def rotate(
        self,
        key_id: str,
        secret_hmac: bytes,
        pepper_version: int,
        now_us: int,
        overlap_end_us: int,
        expire_time_us: int | None,
    ) -> None:
        """Replace the secret; the one before stays good until ``overlap_end_us``."""
        ...

    async def revoke(self, key_id: str, now_us: int) -> None: ...


class SubjectRecords(Protocol):
    async def find_by_email(self, indexes: Sequence[bytes]) -> SealedSubject | None:
        """:param indexes: of the address, under each version of the key that is held."""
        ...

    async def get(self, subject_id: str) -> SealedSubject | None: ...

    async def put(self, subject: SealedSubject) -> None:
        """Add or replace."""
        ...

    async def remove(self, subject_id: str) -> None: ...

    async def record_erasure(self, subject_id: str, key_ids: Sequence[str], now_us: int) -> None: ...


class SignalControls(Protocol):
    """What the pipeline's leader obeys. ``lock`` comes first in a change that uses any of it: the leader's batches and
    such a change follow each other, so a batch never decides against a halt that was answered."""

    async def lock(self) -> None:
        """Wait for the batch under way, and let no other begin until the change is over."""
        ...

    async def halts_in_force(self) -> Sequence[Halt]: ...

    async def get_halt(self, halt_id: str) -> Halt | None: ...

    async def add_halt(self, scope: HaltScope, note: str, ordered_by: str, now_us: int) -> Halt: ...

    async def lift_halt(self, halt_id: str, now_us: int) -> None: ...

    async def active_signals(self) -> Sequence[SignalEvent]:
        """The last CREATED or REVISED event of every ACTIVE opportunity; none of them ends until the change is over."""
        ...

    async def opportunities_of(self, signal_ids: Sequence[str]) -> Mapping[str, str]:
        """The opportunity of each signal that is known."""
        ...

    async def append(self, events: Sequence[SignalEvent]) -> Sequence[SignalEvent]:
        """Append to the signal log. After the change's row of the audit log, or its lock."""
        ...

    async def strategy_setting(self, strategy_id: str) -> StrategySetting | None: ...

    async def put_strategy_setting(self, setting: StrategySetting) -> None:
        """Keep it, and its revision for ever; the strategy's states are dropped."""
        ...


class PipelineRunRecords(Protocol):
    async def queue(
        self, venue: Venue | None, stage: PipelineStage, requested_by: str, now_us: int
    ) -> PipelineRun | None:
        """None where one of the stage and venue is queued or running."""
        ...


class LinkRecords(Protocol):
    """Links between markets, locked while a change works on them."""

    async def get(self, link_id: str) -> tuple[MarketLink, Sequence[Market]] | None:
        """A link with its markets as they are now, in its order; markets that are gone are left out."""
        ...

    async def put(self, link: MarketLink) -> None: ...


class Change(Protocol):
    """What one change works on; all of it commits together or not at all."""

    @property
    def requests(self) -> AnsweredRequests: ...

    @property
    def audit(self) -> AuditAppender: ...

    @property
    def keys(self) -> KeyRecords: ...

    @property
    def subjects(self) -> SubjectRecords: ...

    @property
    def controls(self) -> SignalControls: ...

    @property
    def runs(self) -> PipelineRunRecords: ...

    @property
    def backtests(self) -> RunChanges: ...

    @property
    def retention(self) -> RetentionRules: ...

    @property
    def links(self) -> LinkRecords: ...

    @property
    def executions(self) -> ExecutionRecords: ...


class Changes(Protocol):
    def begin(self) -> AbstractAsyncContextManager[Change]:
        """One change: committed at the end of the block, undone by any exception."""
        ...


@dataclass(frozen=True, slots=True)
class ApiKeyFilter:
    """AND between fields, OR inside one; empty means any."""

    states: tuple[ApiKeyState, ...] = ()
    roles: tuple[Role, ...] = ()
    subject_id: str | None = None


class KeyDirectory(Protocol):
    """Keys and people for reading."""

    async def list_keys(self, where: ApiKeyFilter, after: Key | None, limit: int, now_us: int) -> Page[ApiKey]:
        """By ascending key id, without owners."""
        ...

    async def subjects(self, subject_ids: Sequence[str]) -> Mapping[str, SealedSubject]: ...

    async def subject_by_email(self, indexes: Sequence[bytes]) -> SealedSubject | None: ...


@dataclass(frozen=True, slots=True)
class Controls:
    """What the pipeline's leader has to obey, as of a revision."""

    revision: int
    halts: tuple[Halt, ...] = ()
    """In force."""
    settings: tuple[StrategySetting, ...] = ()
    """Of the strategies that don't run with their defaults."""


class ControlsReader(Protocol):
    async def controls(self) -> Controls: ...


@dataclass(frozen=True, slots=True)
class PipelineRunFilter:
    """AND between fields, OR inside one; empty means any."""

    venues: tuple[Venue, ...] = ()
    stages: tuple[PipelineStage, ...] = ()
    states: tuple[PipelineRunState, ...] = ()
    create_time_from_us: int | None = None
    create_time_to_us: int | None = None


class PipelineRunStore(Protocol):
    async def take_queued(self, venues: Sequence[Venue], now_us: int) -> Sequence[PipelineRun]:
        """Move the queued runs of some venues (and of no venue) to RUNNING; answers them, oldest first."""
        ...

    async def list_runs(self, where: PipelineRunFilter, after: Key | None, limit: int) -> Page[PipelineRun]:
        """By descending create time."""
        ...

    async def last_runs(self) -> Sequence[PipelineRun]:
        """The latest run of each stage and venue."""
        ...
