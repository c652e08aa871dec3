"""Personal data and its end: what is held about a person, how long things are kept, and what was erased."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from oddstream_server.domain.execution import Execution
from oddstream_server.domain.retention import RetentionRule, RetentionSubject


@dataclass(frozen=True, slots=True)
class Purge:
    """What a purge deleted, or would."""

    rows: int = 0
    partitions: int = 0


@dataclass(frozen=True, slots=True)
class StoredRules:
    """The rules that operators set."""

    rules: Mapping[RetentionSubject, RetentionRule]
    update_time_us: int | None


class RetentionRules(Protocol):
    """The rules within a change."""

    async def stored(self) -> StoredRules: ...

    async def put(self, subject: RetentionSubject, rule: RetentionRule, now_us: int) -> None: ...


class RetentionStore(Protocol):
    async def stored(self) -> StoredRules: ...

    async def purge(self, subject: RetentionSubject, before_us: int, *, dry_run: bool) -> Purge:
        """Delete what of a kind is older than an instant, in transactions of its own; or only count it."""
        ...


@dataclass(frozen=True, slots=True)
class Holdings:
    """What is held under some owners besides keys."""

    executions: tuple[Execution, ...]
    """The latest."""
    execution_count: int
    run_ids: tuple[str, ...]
    """Of backtests and sweeps."""


class SubjectHoldings(Protocol):
    async def of_owners(self, owners: Sequence[str], limit: int) -> Holdings: ...


@dataclass(frozen=True, slots=True)
class Erasure:
    """Who was erased, by pseudonym alone."""

    subject_id: str
    key_ids: tuple[str, ...]
    time_us: int


class ErasureFile(Protocol):
    """The erasures where a restore of the database can't undo them."""

    def read(self) -> Sequence[Erasure]: ...

    def append(self, erasure: Erasure) -> None:
        """It is on the disk when the call returns."""
        ...


class ErasureStore(Protocol):
    async def apply(self, erasures: Sequence[Erasure], now_us: int) -> int:
        """Erase again whom a restore brought back; answers how many people those were."""
        ...
