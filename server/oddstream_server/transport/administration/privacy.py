"""Retention and what is held about a person, as messages and from them."""

from oddstream.v1 import admin_service_pb2, retention_policy_pb2
from oddstream_server.application.privacy.retention import RetentionOutcome, policy_etag
from oddstream_server.application.privacy.subjects import Identity, SubjectData
from oddstream_server.domain.retention import RetentionPolicy, RetentionRule, RetentionSubject
from oddstream_server.transport.administration.api_keys import api_key_message
from oddstream_server.transport.administration.audit import audit_entry_message
from oddstream_server.transport.converters.executions import execution_message
from oddstream_server.transport.converters.values import (
    duration,
    enum_table,
    one,
    stamp,
    timestamp,
    word,
)

SUBJECTS = enum_table(RetentionSubject, retention_policy_pb2.RetentionSubject, "RETENTION_SUBJECT")
_SECOND_US = 1_000_000


def policy_message(policy: RetentionPolicy) -> retention_policy_pb2.RetentionPolicy:
    rules = sorted(policy.rules.items(), key=lambda item: SUBJECTS[item[0]])
    return retention_policy_pb2.RetentionPolicy(
        rules=[
            retention_policy_pb2.RetentionRule(
                subject=SUBJECTS[subject],
                keep=duration(None if rule.keep_seconds is None else rule.keep_seconds * _SECOND_US),
                basis=rule.basis,
            )
            for subject, rule in rules
        ],
        update_time=timestamp(policy.update_time_us),
        etag=policy_etag(policy),
    )


def rules_of(message: retention_policy_pb2.RetentionPolicy) -> dict[RetentionSubject, RetentionRule]:
    rules = {}
    for index, rule in enumerate(message.rules):
        path = f"retention_policy.rules[{index}]"
        subject = one(SUBJECTS, rule.subject, f"{path}.subject")
        keep_seconds = rule.keep.seconds if rule.HasField("keep") else None
        rules[subject] = RetentionRule(keep_seconds, word(rule.basis, f"{path}.basis"))
    return rules


def outcome_message(outcome: RetentionOutcome) -> admin_service_pb2.RetentionOutcome:
    return admin_service_pb2.RetentionOutcome(
        subject=SUBJECTS[outcome.subject],
        cutoff_time=timestamp(outcome.cutoff_time_us),
        row_count=outcome.rows,
        partition_count=outcome.partitions,
    )


def identity_of(message: admin_service_pb2.SubjectIdentity) -> Identity:
    return Identity(
        email=word(message.owner_email, "subject.owner_email"),
        key_id=message.api_key_id,
        token_subject=word(message.token_subject, "subject.token_subject"),
    )


def subject_data_message(data: SubjectData) -> admin_service_pb2.ExportSubjectDataResponse:
    return admin_service_pb2.ExportSubjectDataResponse(
        api_keys=[api_key_message(key, data.export_time_us) for key in data.keys],
        executions=map(execution_message, data.holdings.executions),
        audit_entries=map(audit_entry_message, data.audit_entries),
        backtest_ids=data.holdings.run_ids,
        execution_count=data.holdings.execution_count,
        audit_entry_count=data.audit_entry_count,
        export_time=stamp(data.export_time_us),
    )
