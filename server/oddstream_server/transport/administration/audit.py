"""Rows of the audit log, as messages."""

from typing import Any

from google.protobuf.struct_pb2 import Struct

from oddstream.v1 import admin_service_pb2, audit_entry_pb2
from oddstream_server.application.operations.audit import Verification
from oddstream_server.application.ports import AuditFilter
from oddstream_server.domain.audit import AuditEntry, AuditOutcome
from oddstream_server.transport.converters.values import chosen, enum_table, span, stamp, words

OUTCOMES = enum_table(AuditOutcome, audit_entry_pb2.AuditOutcome, "AUDIT_OUTCOME")


def audit_entry_message(entry: AuditEntry) -> audit_entry_pb2.AuditEntry:
    record = entry.record
    return audit_entry_pb2.AuditEntry(
        sequence=entry.sequence,
        create_time=stamp(entry.create_time_us),
        actor=record.actor,
        api_key_id=record.api_key_id,
        peer_network=record.peer_network,
        method=record.method,
        # A row that was tampered with is shown all the same.
        outcome=OUTCOMES.get(record.outcome, audit_entry_pb2.AUDIT_OUTCOME_UNSPECIFIED),
        request_digest=record.request_digest,
        resource=record.resource,
        before=_struct(record.before),
        after=_struct(record.after),
        correlation_id=record.correlation_id,
        previous_hash=entry.previous_hash,
        hash=entry.hash,
    )


def _struct(document: object) -> Struct | None:
    if not isinstance(document, dict):
        return None
    made = Struct()
    made.update({name: _value(value) for name, value in document.items()})
    return made


def _value(value: object) -> Any:
    """Struct's numbers are doubles: what one of them can't hold exactly goes as a text."""
    if isinstance(value, dict):
        return {name: _value(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_value(inner) for inner in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        return str(value)
    return value


def audit_filter_of(message: admin_service_pb2.AuditFilter) -> AuditFilter:
    range_of = span(message.create_time_range, "filter.create_time_range")
    return AuditFilter(
        actors=words(message.actors, "filter.actors"),
        api_key_ids=words(message.api_key_ids, "filter.api_key_ids"),
        methods=words(message.methods, "filter.methods"),
        outcomes=chosen(OUTCOMES, message.outcomes, "filter.outcomes"),
        resources=words(message.resources, "filter.resources"),
        create_time_from_us=range_of.from_us,
        create_time_to_us=range_of.to_us,
    )


def verification_message(found: Verification) -> admin_service_pb2.VerifyAuditLogResponse:
    return admin_service_pb2.VerifyAuditLogResponse(
        intact=found.intact,
        verified_count=found.verified,
        first_broken_sequence=found.broken_sequence,
        detail=found.detail,
        head_hash=found.head_hash,
    )
