"""Keys, halts and rows of the audit log on a terminal."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from oddstream.cli.json_lines import rfc3339
from oddstream.cli.views.tables import FOLD, KEEP, RIGHT, facts, rows_table
from oddstream.cli.words import enum_word
from oddstream.v1 import access_pb2, admin_service_pb2, api_key_pb2, audit_entry_pb2, halt_pb2, venue_pb2

_GOOD = api_key_pb2.API_KEY_STATE_ACTIVE


def _minute(time: Timestamp) -> str:
    return rfc3339(time)[:16].replace("T", " ") if time.seconds else "-"


def _state(key: api_key_pb2.ApiKey) -> Text:
    word = str(enum_word(api_key_pb2.ApiKeyState.DESCRIPTOR, key.state)).lower()
    return Text(word, style="green" if key.state == _GOOD else "yellow")


def keys_table(keys: Iterable[api_key_pb2.ApiKey]) -> Table:
    table = rows_table(("id", KEEP), "name", "owner", "role", "state", ("expires", KEEP), ("last used", KEEP))
    for key in keys:
        role = str(enum_word(access_pb2.Role.DESCRIPTOR, key.role)).lower()
        owner = key.owner_email or key.owner_name
        table.add_row(
            key.api_key_id,
            Text(key.display_name),
            Text(owner),
            role,
            _state(key),
            _minute(key.expire_time),
            _minute(key.last_used_time),
        )
    return table


def key_page(key: api_key_pb2.ApiKey) -> Table:
    scopes = key.scopes
    narrowed = [*scopes.services, *scopes.networks]
    narrowed += [str(enum_word(venue_pb2.Venue.DESCRIPTOR, venue)).lower() for venue in scopes.venues]
    return facts(
        [
            ("id", key.api_key_id),
            ("begins with", key.prefix),
            ("name", key.display_name),
            ("role", str(enum_word(access_pb2.Role.DESCRIPTOR, key.role)).lower()),
            ("state", _state(key)),
            ("only", ", ".join(narrowed)),
            ("expires", _minute(key.expire_time)),
            ("old secret until", _minute(key.overlap_end_time) if key.HasField("overlap_end_time") else ""),
        ]
    )


def scope_words(scope: halt_pb2.HaltScope) -> str:
    match scope.WhichOneof("reach"):
        case "venue":
            return f"venue {str(enum_word(venue_pb2.Venue.DESCRIPTOR, scope.venue)).lower()}"
        case "kind":
            return f"kind {scope.kind}"
        case _:
            return "everything"


def halt_page(halt: halt_pb2.Halt, withdrawn: int | None) -> Table:
    return facts(
        [
            ("halt", halt.halt_id),
            ("reaches", scope_words(halt.scope)),
            ("why", halt.note),
            ("since", _minute(halt.create_time)),
            ("lifted", _minute(halt.lift_time) if halt.HasField("lift_time") else ""),
            ("withdrawn", withdrawn),
        ]
    )


@dataclass
class AuditTable:
    """Rows as they come."""

    table: Table = field(
        default_factory=lambda: rows_table(
            ("no", RIGHT), ("time", KEEP), ("actor", KEEP), "method", ("resource", FOLD), "outcome"
        )
    )

    def add(self, entry: audit_entry_pb2.AuditEntry) -> None:
        denied = entry.outcome == audit_entry_pb2.AUDIT_OUTCOME_DENIED
        outcome = str(enum_word(audit_entry_pb2.AuditOutcome.DESCRIPTOR, entry.outcome)).lower()
        self.table.add_row(
            str(entry.sequence),
            rfc3339(entry.create_time)[:19].replace("T", " "),
            entry.actor,
            entry.method.rpartition("/")[2],
            Text(entry.resource),
            Text(outcome, style="red" if denied else ""),
        )


def audit_table() -> AuditTable:
    return AuditTable()


def verification_words(found: admin_service_pb2.VerifyAuditLogResponse) -> Text:
    if found.intact:
        return Text(f"intact: {found.verified_count} rows fit; the last one's hash is {found.head_hash}", style="green")
    return Text(
        f"broken at row {found.first_broken_sequence}: {found.detail} ({found.verified_count} rows before it fit)",
        style="bold red",
    )
