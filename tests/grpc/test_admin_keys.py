"""Keys over the wire: made, listed, changed, rotated, revoked, and never shown again."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from oddstream.v1 import access_pb2, admin_service_pb2, api_key_pb2, error_reason_pb2, market_service_pb2, venue_pb2
from oddstream_server.domain.market import Venue
from oddstream_server.domain.principal import Role, Scopes
from tests.grpc.administered import Administered, administered, request_id
from tests.grpc.running_server import bearer, failure_of

pb = admin_service_pb2
LIST = "/oddstream.v1.MarketService/ListMarkets"
NAME, EMAIL = "Ada Planted-Lovelace", "ada.planted@example.org"


@pytest.fixture
async def office(database_url: str, tmp_path: Path) -> AsyncIterator[Administered]:
    async with administered(database_url, tmp_path) as office:
        yield office


def order(**more: Any) -> pb.CreateApiKeyRequest:
    fields = {"display_name": "bot", "owner_name": NAME, "owner_email": EMAIL, "role": access_pb2.ROLE_TRADER, **more}
    return pb.CreateApiKeyRequest(**fields)


async def is_good(office: Administered, secret: str) -> bool:
    call = office.server.markets.ListMarkets(market_service_pb2.ListMarketsRequest(), metadata=bearer(secret))
    code = await call.code()
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED)
    return bool(code is grpc.StatusCode.OK)


async def until_refused(office: Administered, secret: str) -> None:
    async with asyncio.timeout(1):
        while await is_good(office, secret):
            await asyncio.sleep(0.01)


async def test_a_key_lives_from_creation_over_rotation_to_revocation(office: Administered) -> None:
    made = await office.admin.CreateApiKey(order(), metadata=office.auth)
    key = made.api_key
    assert await is_good(office, made.secret)
    assert made.secret.startswith(key.prefix)
    assert (key.owner_name, key.owner_email, key.state) == (NAME, EMAIL, api_key_pb2.API_KEY_STATE_ACTIVE)

    listed = await office.admin.ListApiKeys(
        pb.ListApiKeysRequest(filter=pb.ApiKeyFilter(owner_email=EMAIL.upper())), metadata=office.auth
    )
    assert [k.api_key_id for k in listed.api_keys] == [key.api_key_id]
    assert listed.api_keys[0].owner_name == NAME

    rotated = await office.admin.RotateApiKey(pb.RotateApiKeyRequest(api_key_id=key.api_key_id), metadata=office.auth)
    assert rotated.api_key.state == api_key_pb2.API_KEY_STATE_ROTATING
    assert await is_good(office, made.secret)
    assert await is_good(office, rotated.secret)

    again = await office.admin.RotateApiKey(
        pb.RotateApiKeyRequest(api_key_id=key.api_key_id, overlap=Duration()), metadata=office.auth
    )
    await until_refused(office, made.secret)
    await until_refused(office, rotated.secret)
    assert await is_good(office, again.secret)

    revoke = pb.RevokeApiKeyRequest(api_key_id=key.api_key_id, note="lost")
    first = await office.admin.RevokeApiKey(revoke, metadata=office.auth)
    await until_refused(office, again.secret)
    second = await office.admin.RevokeApiKey(revoke, metadata=office.auth)
    assert first.api_key.revoke_time == second.api_key.revoke_time
    failure = await failure_of(
        office.admin.RotateApiKey(pb.RotateApiKeyRequest(api_key_id=key.api_key_id), metadata=office.auth)
    )
    assert failure.reason == "API_KEY_NOT_ACTIVE"


async def test_an_update_needs_the_present_etag_and_changes_what_the_mask_names(office: Administered) -> None:
    key = (await office.admin.CreateApiKey(order(), metadata=office.auth)).api_key
    changed = api_key_pb2.ApiKey(api_key_id=key.api_key_id, display_name="other", role=access_pb2.ROLE_VIEWER)
    mask = FieldMask(paths=["role"])
    update = pb.UpdateApiKeyRequest(api_key=changed, update_mask=mask, etag=key.etag)
    after = (await office.admin.UpdateApiKey(update, metadata=office.auth)).api_key
    assert (after.role, after.display_name, after.owner_email) == (access_pb2.ROLE_VIEWER, "bot", EMAIL)
    assert (await failure_of(office.admin.UpdateApiKey(update, metadata=office.auth))).reason == "ETAG_MISMATCH"
    changed.expire_time.CopyFrom(Timestamp(seconds=key.create_time.seconds + 366 * 86_400))
    too_long = pb.UpdateApiKeyRequest(api_key=changed, update_mask=FieldMask(paths=["expire_time"]))
    failure = await failure_of(office.admin.UpdateApiKey(too_long, metadata=office.auth))
    assert list(failure.fields) == ["api_key.expire_time"]


async def test_the_last_admin_key_keeps_its_power_even_when_two_revoke_each_other(office: Administered) -> None:
    keys = [
        (await office.admin.CreateApiKey(order(role=access_pb2.ROLE_ADMIN), metadata=office.auth)).api_key
        for _ in range(2)
    ]
    calls = [
        office.admin.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=key.api_key_id), metadata=office.auth)
        for key in keys
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [r for r in results if isinstance(r, grpc.aio.AioRpcError)]
    assert len(refused) == 1
    assert refused[0].code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_the_same_request_id_has_one_effect_and_one_answer_under_concurrency(office: Administered) -> None:
    request = order(request_id=request_id())
    answers = await asyncio.gather(*(office.admin.CreateApiKey(request, metadata=office.auth) for _ in range(32)))
    assert len({a.SerializeToString(deterministic=True) for a in answers}) == 1
    assert answers[0].secret
    assert len(await office.rows("SELECT key_id FROM api_keys")) == 1
    other = order(request_id=request.request_id, display_name="another")
    assert (await failure_of(office.admin.CreateApiKey(other, metadata=office.auth))).reason == "REQUEST_ID_REUSED"


async def test_a_secret_is_shown_for_ten_minutes_and_the_key_for_a_day(office: Administered) -> None:
    request = order(request_id=request_id())
    first = await office.admin.CreateApiKey(request, metadata=office.auth)
    await office.rows("UPDATE idempotency_requests SET create_time = create_time - interval '601 seconds'")
    later = await office.admin.CreateApiKey(request, metadata=office.auth)
    assert later.api_key == first.api_key
    assert not later.HasField("secret")
    assert later.secret_absent_reason == error_reason_pb2.ERROR_REASON_SECRET_ALREADY_SHOWN
    await office.rows("UPDATE idempotency_requests SET create_time = create_time - interval '1 day'")
    anew = await office.admin.CreateApiKey(request, metadata=office.auth)
    assert anew.api_key.api_key_id != first.api_key.api_key_id


async def test_nothing_personal_and_no_secret_stands_readable_in_any_table(office: Administered) -> None:
    made = await office.admin.CreateApiKey(order(request_id=request_id()), metadata=office.auth)
    tables = await office.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for (table,) in tables:
        for row in await office.rows(f"SELECT * FROM {table}"):
            text = " ".join(
                bytes(value).decode("latin-1") if isinstance(value, bytes) else str(value) for value in row.values()
            )
            for planted in (NAME, EMAIL, "Planted", made.secret[-49:]):
                assert planted not in text, table


async def test_every_change_is_a_row_of_the_audit_log_with_before_and_after(office: Administered) -> None:
    made = await office.admin.CreateApiKey(order(), metadata=(*office.auth, ("x-correlation-id", "from-a-bot-1")))
    key_id = made.api_key.api_key_id
    await office.admin.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=key_id, note="lost"), metadata=office.auth)
    where = pb.AuditFilter(resources=[f"ApiKey/{key_id}"])
    entries = (
        await office.admin.ListAuditEntries(pb.ListAuditEntriesRequest(filter=where), metadata=office.auth)
    ).audit_entries
    assert [e.method.rpartition("/")[2] for e in entries] == ["CreateApiKey", "RevokeApiKey"]
    assert entries[0].correlation_id == "from-a-bot-1"
    assert entries[0].peer_network == "127.0.0.0/24"
    assert entries[0].actor == entries[0].api_key_id == office.server.key.key.key_id
    assert not entries[0].HasField("before")
    assert entries[0].after["role"] == "trader"
    assert entries[1].after["note"] == "lost"


async def test_a_row_that_the_tables_owner_changed_is_found_with_its_number(office: Administered) -> None:
    for _ in range(5):
        await office.admin.CreateApiKey(order(), metadata=office.auth)
    verify = pb.VerifyAuditLogRequest()
    good = await office.admin.VerifyAuditLog(verify, metadata=office.auth)
    assert (good.intact, good.verified_count) == (True, 5)
    with pytest.raises(Exception, match="append-only"):
        await office.rows("UPDATE audit_entries SET actor = 'nobody' WHERE sequence = 3")
    with pytest.raises(Exception, match="append-only"):
        await office.rows("DELETE FROM audit_entries WHERE sequence = 3")
    await office.rows("ALTER TABLE audit_entries DISABLE TRIGGER USER")
    await office.rows("UPDATE audit_entries SET actor = 'nobody' WHERE sequence = 3")
    bad = await office.admin.VerifyAuditLog(verify, metadata=office.auth)
    assert (bad.intact, bad.first_broken_sequence, bad.verified_count) == (False, 3, 2)
    await office.rows("DELETE FROM audit_entries WHERE sequence = 3")
    gone = await office.admin.VerifyAuditLog(verify, metadata=office.auth)
    assert (gone.first_broken_sequence, gone.detail) == (3, "the row is missing")


async def test_an_anchor_finds_a_chain_that_was_written_anew(office: Administered) -> None:
    await office.admin.CreateApiKey(order(), metadata=office.auth)
    assert await office.use_cases.audit.anchor() is not None
    assert await office.use_cases.audit.anchor() is None, "the head has not moved"
    await office.rows("ALTER TABLE audit_entries DISABLE TRIGGER USER")
    await office.rows("DELETE FROM audit_entries")
    await office.rows("UPDATE audit_head SET sequence = 0, hash = decode(repeat('00', 32), 'hex')")
    await office.rows("ALTER TABLE audit_entries ENABLE TRIGGER USER")
    await office.admin.CreateApiKey(order(display_name="x"), metadata=office.auth)
    found = await office.admin.VerifyAuditLog(pb.VerifyAuditLogRequest(), metadata=office.auth)
    assert (found.intact, found.first_broken_sequence) == (False, 1)


async def test_a_denied_call_is_a_row_and_denials_can_not_flood_the_log(office: Administered) -> None:
    viewer = office.auth_of(Role.VIEWER)
    reasons = [
        (await failure_of(office.admin.ListApiKeys(pb.ListApiKeysRequest(), metadata=viewer))).reason for _ in range(70)
    ]
    assert set(reasons[:60]) == {"PERMISSION_DENIED"}
    assert set(reasons[60:]) == {"RATE_LIMITED"}
    rows = await office.rows("SELECT outcome, method, resource FROM audit_entries")
    assert len(rows) == 60
    assert set(map(tuple, rows)) == {("denied", "/oddstream.v1.AdminService/ListApiKeys", "Denial/PERMISSION_DENIED")}


NARROW = Scopes(
    services=("AdminService", "MarketService"),
    venues=(Venue.KALSHI, Venue.SIMULATED),
    networks=("127.0.0.0/8", "10.0.0.0/8"),
    calls_per_minute=10_000,
    stream_limit=3,
)
WITHIN = api_key_pb2.ApiKeyScopes(
    services=["MarketService"],
    venues=[venue_pb2.VENUE_KALSHI],
    networks=["10.1.0.0/16", "127.0.0.1/32"],
    calls_per_minute=10_000,
    stream_limit=0,
)


def wider(**scopes: Any) -> api_key_pb2.ApiKeyScopes:
    """Within but for one scope."""
    made = api_key_pb2.ApiKeyScopes()
    made.CopyFrom(WITHIN)
    for name, value in scopes.items():
        made.ClearField(name)  # type: ignore[arg-type]  # a field's name
        if isinstance(value, list):
            getattr(made, name).extend(value)
        elif value is not None:
            setattr(made, name, value)
    return made


WIDER = {
    "no service named": wider(services=[]),
    "another service": wider(services=["MarketService", "SignalService"]),
    "no venue named": wider(venues=[]),
    "another venue": wider(venues=[venue_pb2.VENUE_POLYMARKET]),
    "no network named": wider(networks=[]),
    "a network around it": wider(networks=["10.0.0.0/7"]),
    "a network of the other kind": wider(networks=["::/0"]),
    "more calls": wider(calls_per_minute=10_001),
    "calls left open": wider(calls_per_minute=None),
    "streams left open": wider(stream_limit=None),
}


async def test_no_key_grants_more_than_the_key_that_makes_changes_or_rotates_it(office: Administered) -> None:
    narrow = bearer(office.server.world.issue(Role.ADMIN, scopes=NARROW).key.text)
    wide = (await office.admin.CreateApiKey(order(), metadata=office.auth)).api_key
    mine = (await office.admin.CreateApiKey(order(scopes=WITHIN), metadata=narrow)).api_key
    mask = FieldMask(paths=["scopes"])
    attempts = [
        ("rotate one that is wider", office.admin.RotateApiKey, pb.RotateApiKeyRequest(api_key_id=wide.api_key_id))
    ]
    for kind, scopes in WIDER.items():
        changed = api_key_pb2.ApiKey(api_key_id=mine.api_key_id, scopes=scopes)
        attempts.append((f"create: {kind}", office.admin.CreateApiKey, order(scopes=scopes)))
        attempts.append(
            (f"update: {kind}", office.admin.UpdateApiKey, pb.UpdateApiKeyRequest(api_key=changed, update_mask=mask))
        )
    longer = api_key_pb2.ApiKey(
        api_key_id=wide.api_key_id, expire_time=Timestamp(seconds=wide.expire_time.seconds + 60)
    )
    request = pb.UpdateApiKeyRequest(api_key=longer, update_mask=FieldMask(paths=["expire_time"]))
    attempts.append(("a longer life for one that is wider", office.admin.UpdateApiKey, request))
    for kind, method, request in attempts:
        failure = await failure_of(method(request, metadata=narrow))
        assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_DENIED"), kind
        wanted = "leave out polymarket" if kind.endswith("another venue") else "never grants more than its maker has"
        assert wanted in failure.text, kind  # venues that a request names are looked at before any use case
    denied = await office.rows("SELECT resource FROM audit_entries WHERE outcome = 'denied'")
    assert [row["resource"] for row in denied] == ["Denial/SCOPE_DENIED"] * len(attempts)
    # What a narrow admin may do: narrow a wide one to what is its own, and end it.
    narrowed = api_key_pb2.ApiKey(api_key_id=wide.api_key_id, scopes=WITHIN)
    await office.admin.UpdateApiKey(pb.UpdateApiKeyRequest(api_key=narrowed, update_mask=mask), metadata=narrow)
    await office.admin.RotateApiKey(pb.RotateApiKeyRequest(api_key_id=wide.api_key_id), metadata=narrow)
    await office.admin.RevokeApiKey(pb.RevokeApiKeyRequest(api_key_id=wide.api_key_id), metadata=narrow)
