"""The audit log's rows: who did what, chained so that no row can change, go or come in between unnoticed.

A row's hash is SHA-256 over the canonical JSON of all its other fields, the hash of the row before among them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

FIRST_PREVIOUS_HASH: Final = "0" * 64
SYSTEM: Final = "system"
"""The actor of what nobody asked for."""


class AuditOutcome(StrEnum):
    DONE = "done"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """What is to be told of an act. It holds no secret and nothing personal: people stand in it by pseudonym."""

    actor: str
    """The subject of a key or token, or ``system``."""
    method: str
    """Full name of the rpc, or the system's act, e.g. ``pipeline.signals``."""
    outcome: AuditOutcome
    resource: str
    """Type and id, e.g. ``ApiKey/key_ab12cd34ef56``."""
    api_key_id: str | None = None
    peer_network: str = ""
    request_digest: str = ""
    """SHA-256 of the request in lower-case hex; empty for the system."""
    before: Mapping[str, Any] | None = None
    """JSON values without floats, so that they read back as they were written."""
    after: Mapping[str, Any] | None = None
    correlation_id: str = ""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A row of the log."""

    sequence: int
    create_time_us: int
    record: AuditRecord
    previous_hash: str
    hash: str

    @property
    def fits(self) -> bool:
        """True where the hash is that of the row."""
        return self.hash == _hash(self.sequence, self.create_time_us, self.record, self.previous_hash)


def chained(record: AuditRecord, sequence: int, create_time_us: int, previous_hash: str) -> AuditEntry:
    """The row that follows the one with ``previous_hash``."""
    return AuditEntry(
        sequence, create_time_us, record, previous_hash, _hash(sequence, create_time_us, record, previous_hash)
    )


def _hash(sequence: int, create_time_us: int, record: AuditRecord, previous_hash: str) -> str:
    body = {
        **asdict(record),
        "outcome": str(record.outcome),
        "sequence": sequence,
        "create_time_us": create_time_us,
        "previous_hash": previous_hash,
    }
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
