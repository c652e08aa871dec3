"""The audit log: appended to by changes, read and verified."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from oddstream_server.application.ports.pages import Key, Page
from oddstream_server.domain.audit import AuditEntry, AuditOutcome, AuditRecord


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """AND between fields, OR inside one; empty means any."""

    actors: tuple[str, ...] = ()
    api_key_ids: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    outcomes: tuple[AuditOutcome, ...] = ()
    resources: tuple[str, ...] = ()
    create_time_from_us: int | None = None
    create_time_to_us: int | None = None


@dataclass(frozen=True, slots=True)
class AuditHead:
    """Where the log ends and where it begins."""

    sequence: int
    """0 in an empty log."""
    hash: str
    oldest_sequence: int
    oldest_previous_hash: str


class AuditAppender(Protocol):
    """The log within a change. Nothing else of the change may lock the signal log's head before it."""

    async def lock(self) -> None:
        """Let nobody else append until the change is over; idempotent."""
        ...

    async def append(self, record: AuditRecord) -> AuditEntry: ...


class AuditLog(Protocol):
    """The log outside of changes."""

    async def record(self, record: AuditRecord) -> None:
        """Append in a transaction of its own."""
        ...

    async def head(self) -> AuditHead: ...

    async def read(self, first_sequence: int, limit: int) -> Sequence[AuditEntry]:
        """Rows from a sequence on, in order."""
        ...

    async def list_entries(self, where: AuditFilter, after: Key | None, limit: int) -> Page[AuditEntry]:
        """By ascending sequence."""
        ...

    async def latest(self, where: AuditFilter, limit: int) -> Sequence[AuditEntry]:
        """Newest first."""
        ...

    async def count(self, where: AuditFilter) -> int: ...


@dataclass(frozen=True, slots=True)
class Anchor:
    """The chain's hash at a sequence, kept where the database can't reach it."""

    sequence: int
    hash: str
    time_us: int


class AnchorFile(Protocol):
    """Appended to alone; operations ship it away."""

    def read(self) -> Sequence[Anchor]:
        """In the order written."""
        ...

    def append(self, anchor: Anchor) -> None:
        """It is on the disk when the call returns."""
        ...
