"""Retention and what is held about a person, as messages and from them."""

from oddstream.v1 import admin_service_pb2, execution_pb2, retention_policy_pb2
from oddstream_server.application.privacy.retention import RetentionOutcome, policy_etag
from oddstream_server.application.privacy.subjects import Identity, SubjectData
from oddstream_server.domain.execution import Execution, FillLiquidity
from oddstream_server.domain.retention import RetentionPolicy, RetentionRule, RetentionSubject
from oddstream_server.transport.administration.api_keys import api_key_message
from oddstream_server.transport.administration.audit import audit_entry_message
from oddstream_server.transport.converters.signals import ACTIONS
from oddstream_server.transport.converters.values import (
    VENUES,
    duration,
    enum_table,
    one,
    stamp,
    timestamp,
    word,
)

SUBJECTS = enum_table(RetentionSubject, retention_policy_pb2.RetentionSubject, "RETENTION_SUBJECT")
LIQUIDITIES = enum_table(FillLiquidity, execution_pb2.FillLiquidity, "FILL_LIQUIDITY")
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


def execution_message(execution: Execution) -> execution_pb2.Execution:
    fill = execution.fill
    return execution_pb2.Execution(
        execution_id=execution.execution_id,
        fill=execution_pb2.Fill(
            venue=VENUES[fill.venue],
            venue_fill_id=fill.venue_fill_id,
            market_id=fill.market_id,
            outcome_index=fill.outcome_index,
            action=ACTIONS[fill.action],
            price_micros=fill.price_micros,
            size_micros=fill.size_micros,
            fee_micros=fill.fee_micros,
            liquidity=LIQUIDITIES[fill.liquidity],
            venue_time=stamp(fill.venue_time_us),
            signal_id=fill.signal_id,
            leg_number=fill.leg_number,
            venue_order_id=fill.venue_order_id,
            client_order_id=fill.client_order_id,
        ),
        owner=execution.owner,
        create_time=stamp(execution.create_time_us),
        realized_profit_micros=execution.realized_profit_micros,
        slippage_micros=execution.slippage_micros,
    )
