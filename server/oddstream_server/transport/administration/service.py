"""AdminService: from a request to a use case and back."""

from dataclasses import dataclass
from typing import Any

import grpc

from oddstream.v1 import admin_service_pb2 as pb
from oddstream.v1 import admin_service_pb2_grpc
from oddstream_server.application.calls.mutations import Mutation, Mutations
from oddstream_server.application.keys.administration import ApiKeys
from oddstream_server.application.operations.audit import Audit
from oddstream_server.application.operations.halts import halt_signals, resume_signals, withdraw_signals
from oddstream_server.application.operations.pipeline_runs import PipelineRuns
from oddstream_server.application.operations.strategy_settings import update_strategy
from oddstream_server.application.operations.system_status import SystemStatuses
from oddstream_server.application.ports import Clock, StrategyRules
from oddstream_server.application.privacy.retention import Retention
from oddstream_server.application.privacy.subjects import Subjects
from oddstream_server.transport.administration import api_keys, audit, controls, privacy
from oddstream_server.transport.administration.answers import Answers, digest_of
from oddstream_server.transport.administration.system_status import system_status_message
from oddstream_server.transport.converters.strategies import strategy_message
from oddstream_server.transport.converters.values import chosen, stamp, word
from oddstream_server.transport.tokens import next_page_token, page_request

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Administration:
    """The use cases behind the service."""

    mutations: Mutations
    api_keys: ApiKeys
    audit: Audit
    runs: PipelineRuns
    strategies: StrategyRules
    retention: Retention
    subjects: Subjects
    status: SystemStatuses


class AdminService(admin_service_pb2_grpc.AdminServiceServicer):
    def __init__(self, administration: Administration, now: Clock) -> None:
        self._keys = administration.api_keys
        self._audit = administration.audit
        self._runs = administration.runs
        self._strategies = administration.strategies
        self._retention = administration.retention
        self._subjects = administration.subjects
        self._status = administration.status
        self._answers = Answers(administration.mutations)
        self._now = now

    # --- keys -----------------------------------------------------------------------------------------------------

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Context) -> pb.CreateApiKeyResponse:
        order = api_keys.new_key_of(request)

        async def work(mutation: Mutation) -> pb.CreateApiKeyResponse:
            shown = await self._keys.create(mutation, order)
            key = api_keys.api_key_message(shown.key, mutation.now_us)
            return pb.CreateApiKeyResponse(api_key=key, secret=shown.text)

        return await self._answers.once_with_secret(request, pb.CreateApiKeyResponse, work)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Context) -> pb.ListApiKeysResponse:
        where, email = api_keys.key_filter_of(request.filter), word(request.filter.owner_email, "filter.owner_email")
        found = await self._keys.list_keys(where, email, page_request(request, str))
        return pb.ListApiKeysResponse(
            api_keys=[api_keys.api_key_message(key, self._now()) for key in found.items],
            next_page_token=next_page_token(request, found.next_key),
        )

    async def UpdateApiKey(self, request: pb.UpdateApiKeyRequest, context: Context) -> pb.UpdateApiKeyResponse:
        update = api_keys.key_update_of(request)

        async def work(mutation: Mutation) -> pb.UpdateApiKeyResponse:
            key = await self._keys.update(mutation, request.api_key.api_key_id, update)
            return pb.UpdateApiKeyResponse(api_key=api_keys.api_key_message(key, mutation.now_us))

        return await self._answers.once(request, pb.UpdateApiKeyResponse, work)

    async def RotateApiKey(self, request: pb.RotateApiKeyRequest, context: Context) -> pb.RotateApiKeyResponse:
        async def work(mutation: Mutation) -> pb.RotateApiKeyResponse:
            overlap = request.overlap.ToMicroseconds() if request.HasField("overlap") else None
            life = request.time_to_live.ToMicroseconds() if request.HasField("time_to_live") else None
            shown = await self._keys.rotate(mutation, request.api_key_id, overlap, life)
            key = api_keys.api_key_message(shown.key, mutation.now_us)
            return pb.RotateApiKeyResponse(api_key=key, secret=shown.text)

        return await self._answers.once_with_secret(request, pb.RotateApiKeyResponse, work)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Context) -> pb.RevokeApiKeyResponse:
        note = word(request.note, "note")

        async def work(mutation: Mutation) -> pb.RevokeApiKeyResponse:
            key = await self._keys.revoke(mutation, request.api_key_id, note)
            return pb.RevokeApiKeyResponse(api_key=api_keys.api_key_message(key, mutation.now_us))

        return await self._answers.once(request, pb.RevokeApiKeyResponse, work)

    # --- the pipeline ---------------------------------------------------------------------------------------------

    async def ListPipelineRuns(
        self, request: pb.ListPipelineRunsRequest, context: Context
    ) -> pb.ListPipelineRunsResponse:
        found = await self._runs.list_runs(controls.run_filter_of(request.filter), page_request(request, int, str))
        return pb.ListPipelineRunsResponse(
            pipeline_runs=[controls.run_message(run, self._now()) for run in found.items],
            next_page_token=next_page_token(request, found.next_key),
        )

    async def RunPipeline(self, request: pb.RunPipelineRequest, context: Context) -> pb.RunPipelineResponse:
        stage, venue = controls.asked_run_of(request)

        async def work(mutation: Mutation) -> pb.RunPipelineResponse:
            runs = await self._runs.run(mutation, stage, venue)
            return pb.RunPipelineResponse(pipeline_runs=[controls.run_message(run, mutation.now_us) for run in runs])

        return await self._answers.once(request, pb.RunPipelineResponse, work)

    async def UpdateStrategy(self, request: pb.UpdateStrategyRequest, context: Context) -> pb.UpdateStrategyResponse:
        update, strategy_id = controls.strategy_update_of(request), request.strategy.strategy_id

        async def work(mutation: Mutation) -> pb.UpdateStrategyResponse:
            strategy = await update_strategy(mutation, self._strategies, strategy_id, update)
            return pb.UpdateStrategyResponse(strategy=strategy_message(strategy))

        return await self._answers.once(request, pb.UpdateStrategyResponse, work)

    # --- signals --------------------------------------------------------------------------------------------------

    async def WithdrawSignals(self, request: pb.WithdrawSignalsRequest, context: Context) -> pb.WithdrawSignalsResponse:
        note = word(request.note, "note")

        async def work(mutation: Mutation) -> pb.WithdrawSignalsResponse:
            done = await withdraw_signals(mutation, list(request.signal_ids), note)
            return pb.WithdrawSignalsResponse(withdrawn_count=done.count, sequence=done.sequence)

        return await self._answers.once(request, pb.WithdrawSignalsResponse, work)

    async def HaltSignals(self, request: pb.HaltSignalsRequest, context: Context) -> pb.HaltSignalsResponse:
        scope, note = controls.scope_of(request.scope), word(request.note, "note")

        async def work(mutation: Mutation) -> pb.HaltSignalsResponse:
            done = await halt_signals(mutation, scope, note)
            return pb.HaltSignalsResponse(halt=controls.halt_message(done.halt), withdrawn_count=done.withdrawn)

        return await self._answers.once(request, pb.HaltSignalsResponse, work)

    async def ResumeSignals(self, request: pb.ResumeSignalsRequest, context: Context) -> pb.ResumeSignalsResponse:
        note = word(request.note, "note")

        async def work(mutation: Mutation) -> pb.ResumeSignalsResponse:
            halt = await resume_signals(mutation, request.halt_id, note)
            return pb.ResumeSignalsResponse(halt=controls.halt_message(halt))

        return await self._answers.once(request, pb.ResumeSignalsResponse, work)

    # --- the audit log --------------------------------------------------------------------------------------------

    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        found = await self._audit.list_entries(audit.audit_filter_of(request.filter), page_request(request, int))
        return pb.ListAuditEntriesResponse(
            audit_entries=map(audit.audit_entry_message, found.items),
            next_page_token=next_page_token(request, found.next_key),
        )

    async def VerifyAuditLog(self, request: pb.VerifyAuditLogRequest, context: Context) -> pb.VerifyAuditLogResponse:
        found = await self._audit.verify(request.start_sequence, request.end_sequence)
        return audit.verification_message(found)

    # --- privacy --------------------------------------------------------------------------------------------------

    async def GetRetentionPolicy(
        self, request: pb.GetRetentionPolicyRequest, context: Context
    ) -> pb.GetRetentionPolicyResponse:
        return pb.GetRetentionPolicyResponse(retention_policy=privacy.policy_message(await self._retention.policy()))

    async def UpdateRetentionPolicy(
        self, request: pb.UpdateRetentionPolicyRequest, context: Context
    ) -> pb.UpdateRetentionPolicyResponse:
        rules = privacy.rules_of(request.retention_policy)

        async def work(mutation: Mutation) -> pb.UpdateRetentionPolicyResponse:
            policy = await self._retention.update(mutation, rules, request.etag)
            return pb.UpdateRetentionPolicyResponse(retention_policy=privacy.policy_message(policy))

        return await self._answers.once(request, pb.UpdateRetentionPolicyResponse, work)

    async def RunRetention(self, request: pb.RunRetentionRequest, context: Context) -> pb.RunRetentionResponse:
        subjects = chosen(privacy.SUBJECTS, request.subjects, "subjects")

        async def work(mutation: Mutation) -> pb.RunRetentionResponse:
            outcomes = await self._retention.run_on_request(mutation, subjects, dry_run=request.dry_run)
            return pb.RunRetentionResponse(outcomes=map(privacy.outcome_message, outcomes), dry_run=request.dry_run)

        return await self._answers.once(request, pb.RunRetentionResponse, work)

    async def ExportSubjectData(
        self, request: pb.ExportSubjectDataRequest, context: Context
    ) -> pb.ExportSubjectDataResponse:
        data = await self._subjects.export(privacy.identity_of(request.subject), digest_of(request))
        return privacy.subject_data_message(data)

    async def EraseSubjectData(
        self, request: pb.EraseSubjectDataRequest, context: Context
    ) -> pb.EraseSubjectDataResponse:
        identity, note = privacy.identity_of(request.subject), word(request.note, "note")

        async def work(mutation: Mutation) -> pb.EraseSubjectDataResponse:
            done = await self._subjects.erase(mutation, identity, note)
            return pb.EraseSubjectDataResponse(
                erased_key_count=done.keys, pseudonym=done.pseudonym, erase_time=stamp(done.time_us)
            )

        return await self._answers.once(request, pb.EraseSubjectDataResponse, work)

    # --- the service itself ---------------------------------------------------------------------------------------

    async def GetSystemStatus(self, request: pb.GetSystemStatusRequest, context: Context) -> pb.GetSystemStatusResponse:
        return pb.GetSystemStatusResponse(status=system_status_message(await self._status.status()))
