"""People's data: exported whole, erased for good, and everything kept no longer than said."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from oddstream.v1 import access_pb2, admin_service_pb2, api_key_pb2, retention_policy_pb2, system_status_pb2
from oddstream_server.app.administration import records_of
from oddstream_server.application.privacy.people import token_pseudonym
from oddstream_server.application.secrets.sealing import Sealer
from oddstream_server.domain.principal import Principal, Role
from oddstream_server.domain.retention import DEFAULTS
from oddstream_server.storage.administration.audit_log import AuditLogStore
from tests.grpc.administered import KEYRING, Administered, administered, request_id
from tests.grpc.running_server import bearer, failure_of

pb = admin_service_pb2
NAME, EMAIL = "Ada Planted-Lovelace", "ada.planted@example.org"
ADA = pb.SubjectIdentity(owner_email=EMAIL)


@pytest.fixture
async def office(database_url: str, tmp_path: Path) -> AsyncIterator[Administered]:
    async with administered(database_url, tmp_path) as office:
        yield office


async def make_key(office: Administered, **more: Any) -> api_key_pb2.ApiKey:
    fields = {"display_name": "bot", "owner_name": NAME, "owner_email": EMAIL, "role": access_pb2.ROLE_TRADER, **more}
    request = pb.CreateApiKeyRequest(request_id=request_id(), **fields)
    return (await office.admin.CreateApiKey(request, metadata=office.auth)).api_key


async def erase(office: Administered) -> pb.EraseSubjectDataResponse:
    request = pb.EraseSubjectDataRequest(subject=ADA, note="asked by letter", request_id=request_id())
    return await office.admin.EraseSubjectData(request, metadata=office.auth)


async def test_an_export_holds_the_persons_keys_and_is_itself_on_record(office: Administered) -> None:
    keys = {(await make_key(office)).api_key_id for _ in range(2)}
    await make_key(office, owner_email="someone@example.org")
    for subject in (ADA, pb.SubjectIdentity(api_key_id=min(keys))):
        data = await office.admin.ExportSubjectData(pb.ExportSubjectDataRequest(subject=subject), metadata=office.auth)
        assert {key.api_key_id for key in data.api_keys} == keys
        assert {(key.owner_name, key.owner_email) for key in data.api_keys} == {(NAME, EMAIL)}
    acts = await office.rows("SELECT resource FROM audit_entries WHERE method LIKE '%ExportSubjectData'")
    assert len(acts) == 2
    assert all(row["resource"].startswith("Subject/sub_") for row in acts)
    unknown = pb.ExportSubjectDataRequest(subject=pb.SubjectIdentity(owner_email="nobody@example.org"))
    assert (await failure_of(office.admin.ExportSubjectData(unknown, metadata=office.auth))).reason == (
        "SUBJECT_NOT_FOUND"
    )


async def test_what_was_erased_does_not_come_back_with_a_restore(office: Administered, tmp_path: Path) -> None:
    key = await make_key(office)
    tables = ("subjects", "api_keys", "idempotency_requests")
    backup = {table: await office.rows(f"SELECT * FROM {table}") for table in tables}
    done = await erase(office)
    assert (done.erased_key_count, done.pseudonym[:4]) == (1, "sub_")
    assert await office.rows("SELECT * FROM subjects") == []
    gone = await office.admin.ListApiKeys(pb.ListApiKeysRequest(), metadata=office.auth)
    assert [(k.owner_name, k.owner_email, k.display_name) for k in gone.api_keys] == [("", "", "erased")]
    assert gone.api_keys[0].state == api_key_pb2.API_KEY_STATE_REVOKED
    again = pb.ExportSubjectDataRequest(subject=ADA)
    assert (await failure_of(office.admin.ExportSubjectData(again, metadata=office.auth))).reason == "SUBJECT_NOT_FOUND"

    # The rows of before the erasure, as a restore from a backup would bring them back.
    await office.rows("DELETE FROM api_keys")
    await office.rows("DELETE FROM erasures")
    for table, rows in backup.items():
        for row in rows:
            marks = ", ".join(f"${i}" for i in range(1, len(row) + 1))
            names = ", ".join(row.keys())
            await office.rows(f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING", *row.values())
    assert (await office.rows("SELECT count(*) FROM subjects"))[0][0] == 1
    records = records_of(office.database, tmp_path, DEFAULTS, KEYRING)
    assert await records.subjects.erase_again() == 1
    assert await records.subjects.erase_again() == 0
    assert await office.rows("SELECT * FROM subjects") == []
    assert (await office.rows("SELECT count(*) FROM idempotency_requests WHERE subject_id IS NOT NULL"))[0][0] == 0
    (stored,) = await office.rows("SELECT owner, revoke_time FROM api_keys WHERE key_id = $1", key.api_key_id)
    assert stored["owner"] == "erased"
    assert stored["revoke_time"] is not None


async def test_the_rows_of_the_audit_log_stay_and_fit_after_an_erasure(office: Administered) -> None:
    await make_key(office)
    done = await erase(office)
    found = await office.admin.VerifyAuditLog(pb.VerifyAuditLogRequest(), metadata=office.auth)
    assert (found.intact, found.verified_count) == (True, 2)
    where = pb.AuditFilter(resources=[f"Subject/{done.pseudonym}"])
    entries = await office.admin.ListAuditEntries(pb.ListAuditEntriesRequest(filter=where), metadata=office.auth)
    assert len(entries.audit_entries) == 1


async def test_a_policy_shows_its_defaults_and_changes_one_rule_at_a_time(office: Administered) -> None:
    get = pb.GetRetentionPolicyRequest()
    policy = (await office.admin.GetRetentionPolicy(get, metadata=office.auth)).retention_policy
    assert len(policy.rules) == len(DEFAULTS)
    assert not policy.HasField("update_time")
    assert all(rule.basis for rule in policy.rules)
    rule = retention_policy_pb2.RetentionRule(
        subject=retention_policy_pb2.RETENTION_SUBJECT_QUARANTINE, keep=Duration(seconds=7200), basis="a test"
    )
    update = pb.UpdateRetentionPolicyRequest(
        retention_policy=retention_policy_pb2.RetentionPolicy(rules=[rule]),
        update_mask=FieldMask(paths=["rules"]),
        etag=policy.etag,
    )
    after = (await office.admin.UpdateRetentionPolicy(update, metadata=office.auth)).retention_policy
    assert after.HasField("update_time")
    assert [r for r in after.rules if r not in policy.rules] == [rule]
    failure = await failure_of(office.admin.UpdateRetentionPolicy(update, metadata=office.auth))
    assert failure.reason == "ETAG_MISMATCH"


async def test_a_dry_run_tells_what_a_run_then_deletes(office: Administered) -> None:
    await office.rows(
        "INSERT INTO pipeline_runs (run_id, stage, state, create_time) "
        "SELECT 'run_' || n, 'discover', 'succeeded', now() - n * interval '40 days' FROM generate_series(0, 4) AS n"
    )
    old = await make_key(office)
    await office.rows("UPDATE api_keys SET revoke_time = now() - interval '2 years' WHERE key_id = $1", old.api_key_id)

    async def run(dry: bool) -> dict[int, int]:
        answer = await office.admin.RunRetention(pb.RunRetentionRequest(dry_run=dry), metadata=office.auth)
        return {outcome.subject: outcome.row_count for outcome in answer.outcomes if outcome.row_count}

    expected = {
        retention_policy_pb2.RETENTION_SUBJECT_PIPELINE_RUNS: 2,
        retention_policy_pb2.RETENTION_SUBJECT_API_KEYS: 1,
    }
    assert await run(dry=True) == expected
    assert await run(dry=True) == expected
    assert await run(dry=False) == expected
    assert await run(dry=False) == {}
    assert await office.rows("SELECT * FROM subjects") == [], "nobody owns a key any more"


async def test_old_rows_of_the_audit_log_go_and_the_rest_still_fits(office: Administered) -> None:
    for _ in range(4):
        await make_key(office)
    (third,) = await office.rows("SELECT create_time FROM audit_entries WHERE sequence = 3")
    third_us = int(third["create_time"].timestamp() * 1_000_000)
    assert await AuditLogStore(office.database).trim(third_us) == 2
    found = await office.admin.VerifyAuditLog(pb.VerifyAuditLogRequest(), metadata=office.auth)
    assert (found.intact, found.verified_count) == (True, 2)


async def test_the_status_names_what_does_not_work(office: Administered) -> None:
    status = (await office.admin.GetSystemStatus(pb.GetSystemStatusRequest(), metadata=office.auth)).status
    parts = {component.name: component.state for component in status.components}
    assert parts["pipeline"] == system_status_pb2.COMPONENT_STATE_DOWN
    assert parts["database"] == system_status_pb2.COMPONENT_STATE_UP
    assert any(words.startswith("pipeline: nobody leads") for words in status.degraded_features)
    assert (status.signal_log.stream_count, status.signal_log.maximum_stream_lag) == (3, 7)
    assert status.schema_revision
    assert status.signal_log.oldest_sequence == 1


async def test_who_came_by_a_token_is_exported_and_erased_by_its_subject(office: Administered, tmp_path: Path) -> None:
    token_subject = "ada.planted@example.org"
    pseudonym = token_pseudonym(Sealer(KEYRING.data_keys), "", token_subject)
    issued = office.server.world.issue(Role.ADMIN)
    keys = office.server.world.keys.keys
    keys[issued.key.key_id] = replace(issued.stored, principal=Principal(pseudonym, Role.ADMIN))
    request = pb.CreateApiKeyRequest(display_name="bot", role=access_pb2.ROLE_VIEWER, request_id=request_id())
    await office.admin.CreateApiKey(request, metadata=bearer(issued.key.text))

    ada = pb.SubjectIdentity(token_subject=token_subject)
    data = await office.admin.ExportSubjectData(pb.ExportSubjectDataRequest(subject=ada), metadata=office.auth)
    assert [entry.actor for entry in data.audit_entries] == [pseudonym]
    assert await office.rows("SELECT 1 FROM idempotency_requests WHERE principal = $1", pseudonym)
    kept = await office.rows("SELECT * FROM idempotency_requests WHERE principal = $1", pseudonym)

    erasure = pb.EraseSubjectDataRequest(subject=ada, note="asked by letter", request_id=request_id())
    done = await office.admin.EraseSubjectData(erasure, metadata=office.auth)
    assert done.pseudonym == pseudonym
    of_ada = "SELECT 1 FROM idempotency_requests WHERE principal = $1"
    assert not await office.rows(of_ada, pseudonym)
    for table, column in (("audit_entries", "actor"), ("audit_entries", "resource"), ("erasures", "subject_id")):
        assert not await office.rows(f"SELECT 1 FROM {table} WHERE {column} LIKE '%ada.planted%'")

    # A restore brings the kept answer back; the list takes it away again.
    marks = ", ".join(f"${i}" for i in range(1, len(kept[0]) + 1))
    await office.rows(
        f"INSERT INTO idempotency_requests ({', '.join(kept[0].keys())}) VALUES ({marks})", *kept[0].values()
    )
    await records_of(office.database, tmp_path, DEFAULTS, KEYRING).subjects.erase_again()
    assert not await office.rows(of_ada, pseudonym)

    nobody = pb.EraseSubjectDataRequest(subject=pb.SubjectIdentity(token_subject="never.seen"), note="x")
    assert (await failure_of(office.admin.EraseSubjectData(nobody, metadata=office.auth))).reason == "SUBJECT_NOT_FOUND"


async def test_an_open_breaker_is_told_in_words(office: Administered) -> None:
    await office.rows(
        "UPDATE leases SET holder = 'test', expire_time = now() + interval '1 minute', report = $1::jsonb "
        "WHERE name = 'pipeline'",
        '{"venues": {"kalshi": {"breaker": "open"}}, "last_batch_age_us": 5, "queue": 2}',
    )
    await office.rows(
        "INSERT INTO feed_status (venue, state, last_receive_time, epoch, change_time, detail, market_ids) "
        "VALUES ('kalshi', 'live', now(), 1, now(), '', '{}')"
    )
    status = (await office.admin.GetSystemStatus(pb.GetSystemStatusRequest(), metadata=office.auth)).status
    assert status.leader.holder == "test"
    assert "kalshi: the breaker before its REST endpoints is open" in status.degraded_features
    assert status.venues[0].breaker_state == system_status_pb2.BREAKER_STATE_OPEN
    pipeline = next(part for part in status.components if part.name == "pipeline")
    assert pipeline.lag.ToMicroseconds() == 5
