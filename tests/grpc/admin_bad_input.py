"""Bad input of AdminService's methods."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from oddstream.v1 import (
    access_pb2,
    admin_service_pb2,
    api_key_pb2,
    halt_pb2,
    pipeline_run_pb2,
    retention_policy_pb2,
    strategy_pb2,
)

pb = admin_service_pb2
KEY = "key_aaaaaaaaaaaa"
NOT_A_UUID = "11111111-1111-1111-1111-111111111111"


def admin_cases() -> Iterator[tuple[Any, ...]]:
    """(method, request, field) of what each method refuses."""
    viewer = {"display_name": "bot", "role": access_pb2.ROLE_VIEWER}
    yield "CreateApiKey", pb.CreateApiKeyRequest(role=access_pb2.ROLE_VIEWER), "display_name"
    yield "CreateApiKey", pb.CreateApiKeyRequest(display_name="bot"), "role"
    yield "CreateApiKey", pb.CreateApiKeyRequest(owner_email="no address", **viewer), "owner_email"
    yield "CreateApiKey", pb.CreateApiKeyRequest(owner_name="a\0b", **viewer), "owner_name"
    yield "CreateApiKey", pb.CreateApiKeyRequest(request_id=NOT_A_UUID, **viewer), "request_id"
    yield "CreateApiKey", pb.CreateApiKeyRequest(time_to_live=Duration(seconds=60), **viewer), "time_to_live"
    networks = api_key_pb2.ApiKeyScopes(networks=["10.0.0.0/8", "garden"])
    yield "CreateApiKey", pb.CreateApiKeyRequest(scopes=networks, **viewer), "scopes.networks[1]"
    key = api_key_pb2.ApiKey(api_key_id=KEY)
    yield "UpdateApiKey", pb.UpdateApiKeyRequest(api_key=key), "update_mask"
    mask = FieldMask(paths=["prefix"])
    yield "UpdateApiKey", pb.UpdateApiKeyRequest(api_key=key, update_mask=mask), "update_mask"
    mask = FieldMask(paths=["role"])
    yield "UpdateApiKey", pb.UpdateApiKeyRequest(api_key=key, update_mask=mask), "api_key.role"
    yield "RotateApiKey", pb.RotateApiKeyRequest(api_key_id="1"), "api_key_id"
    week = Duration(seconds=8 * 86_400)
    yield "RotateApiKey", pb.RotateApiKeyRequest(api_key_id=KEY, overlap=week), "overlap"
    yield "RevokeApiKey", pb.RevokeApiKeyRequest(), "api_key_id"
    yield "RunPipeline", pb.RunPipelineRequest(stage=pipeline_run_pb2.PIPELINE_STAGE_STORE), "stage"
    nameless = strategy_pb2.Strategy(strategy_id="Nope!")
    enabled = FieldMask(paths=["enabled"])
    yield (
        "UpdateStrategy",
        pb.UpdateStrategyRequest(strategy=nameless, update_mask=enabled),
        "strategy.strategy_id",
    )
    yield "WithdrawSignals", pb.WithdrawSignalsRequest(note="x"), "signal_ids"
    yield "HaltSignals", pb.HaltSignalsRequest(note="x"), "scope"
    yield "HaltSignals", pb.HaltSignalsRequest(note="x", scope=halt_pb2.HaltScope()), "scope.reach"
    yield "ResumeSignals", pb.ResumeSignalsRequest(halt_id="1"), "halt_id"
    yield "VerifyAuditLog", pb.VerifyAuditLogRequest(start_sequence=-1), "start_sequence"
    rule = retention_policy_pb2.RetentionRule(
        subject=retention_policy_pb2.RETENTION_SUBJECT_AUDIT, keep=Duration(seconds=1)
    )
    policy = retention_policy_pb2.RetentionPolicy(rules=[rule])
    rules = FieldMask(paths=["rules"])
    yield (
        "UpdateRetentionPolicy",
        pb.UpdateRetentionPolicyRequest(retention_policy=policy, update_mask=rules),
        "retention_policy.rules[0].keep",
    )
    yield "RunRetention", pb.RunRetentionRequest(subjects=[0]), "subjects[0]"
    yield "ExportSubjectData", pb.ExportSubjectDataRequest(), "subject"
    yield "ExportSubjectData", pb.ExportSubjectDataRequest(subject=pb.SubjectIdentity()), "subject.identity"
    yield "EraseSubjectData", pb.EraseSubjectDataRequest(subject=pb.SubjectIdentity(api_key_id=KEY)), "note"


PAGED = (
    ("ListApiKeys", pb.ListApiKeysRequest()),
    ("ListPipelineRuns", pb.ListPipelineRunsRequest()),
    ("ListAuditEntries", pb.ListAuditEntriesRequest()),
)
EMPTY = frozenset({"GetRetentionPolicy", "GetSystemStatus"})
"""Requests without a field, so that nothing in them can be wrong."""
