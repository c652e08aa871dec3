"""Every mutation of AdminService, executed while its caller gets an error: one effect a request id, one answer."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
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
from oddstream_server.application.calls.mutations import Answered, MutationRequest, Mutations, Prepare, Work
from oddstream_server.domain.errors import Unavailable
from oddstream_server.domain.principal import Role, Scopes
from oddstream_server.transport.contract import load_contract
from tests.grpc.administered import Administered, administered, request_id
from tests.grpc.running_server import bearer, failure_of
from tests.grpc.test_authentication import bad_credentials

pb = admin_service_pb2
CONTRACT = load_contract()
SERVICE = "/oddstream.v1.AdminService/"
ROUNDS = 42
"""Times twelve mutations, each sent twice, and what they need: over a thousand calls."""
SIGNAL = "sig_" + "a" * 32
MUTATIONS = {
    "CreateApiKey",
    "UpdateApiKey",
    "RotateApiKey",
    "RevokeApiKey",
    "RunPipeline",
    "UpdateStrategy",
    "WithdrawSignals",
    "HaltSignals",
    "ResumeSignals",
    "UpdateRetentionPolicy",
    "RunRetention",
    "EraseSubjectData",
}


class LosesAnswers:
    """Mutations that commit, and whose answer is lost in one of ten."""

    def __init__(self, inner: Mutations, seed: int) -> None:
        self._inner = inner
        self._random = random.Random(seed)
        self.lost = 0

    async def run(self, request: MutationRequest, work: Work, prepare: Prepare | None = None) -> Answered:
        answered = await self._inner.run(request, work, prepare)
        if self._random.random() < 0.1:
            self.lost += 1
            raise Unavailable("the answer was lost on the way", retry_after_us=1)
        return answered


@pytest.fixture
async def office(database_url: str, tmp_path: Path) -> AsyncIterator[Administered]:
    def lossy(use_cases: Any) -> Any:
        return replace(use_cases, mutations=LosesAnswers(use_cases.mutations, 7))

    async with administered(database_url, tmp_path, lossy) as office:
        yield office


async def until_answered(office: Administered, method: str, request: Any) -> Any:
    """As a client does that repeats what it doesn't know the end of."""
    while True:
        try:
            return await getattr(office.admin, method)(request, metadata=office.auth)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise


async def made_key(office: Administered, **more: Any) -> str:
    fields = {"display_name": "bot", "role": access_pb2.ROLE_VIEWER, "request_id": request_id(), **more}
    answer = await until_answered(office, "CreateApiKey", pb.CreateApiKeyRequest(**fields))
    return str(answer.api_key.api_key_id)


async def every_mutation(office: Administered, number: int) -> list[tuple[str, Any]]:
    """A request of each method that changes something, each with a request id and an effect of its own."""
    mail = f"owner{number}@example.org"
    key, owned = await made_key(office), await made_key(office, owner_email=mail)
    halt = pb.HaltSignalsRequest(scope=halt_pb2.HaltScope(kind=f"test.lifted{number}"), note="x")
    halt.request_id = request_id()
    lifted = (await until_answered(office, "HaltSignals", halt)).halt.halt_id
    await office.rows("UPDATE pipeline_runs SET state = 'succeeded'")
    rule = retention_policy_pb2.RetentionRule(
        subject=retention_policy_pb2.RETENTION_SUBJECT_QUARANTINE,
        keep=Duration(seconds=86_400 * (number + 1)),
        basis=str(number),
    )
    strategy = strategy_pb2.Strategy(strategy_id="arb.event_sum", enabled=number % 2 == 0)
    renamed = api_key_pb2.ApiKey(api_key_id=key, display_name=f"bot {number}")
    requests = [
        ("CreateApiKey", pb.CreateApiKeyRequest(display_name="bot", role=access_pb2.ROLE_VIEWER)),
        ("UpdateApiKey", pb.UpdateApiKeyRequest(api_key=renamed, update_mask=FieldMask(paths=["display_name"]))),
        ("RotateApiKey", pb.RotateApiKeyRequest(api_key_id=key)),
        ("RevokeApiKey", pb.RevokeApiKeyRequest(api_key_id=owned)),
        ("RunPipeline", pb.RunPipelineRequest(stage=pipeline_run_pb2.PIPELINE_STAGE_GRADE)),
        ("UpdateStrategy", pb.UpdateStrategyRequest(strategy=strategy, update_mask=FieldMask(paths=["enabled"]))),
        ("WithdrawSignals", pb.WithdrawSignalsRequest(signal_ids=[SIGNAL], note="x")),
        ("HaltSignals", pb.HaltSignalsRequest(scope=halt_pb2.HaltScope(kind=f"test.kind{number}"), note="x")),
        ("ResumeSignals", pb.ResumeSignalsRequest(halt_id=lifted)),
        (
            "UpdateRetentionPolicy",
            pb.UpdateRetentionPolicyRequest(
                retention_policy=retention_policy_pb2.RetentionPolicy(rules=[rule]),
                update_mask=FieldMask(paths=["rules"]),
            ),
        ),
        ("RunRetention", pb.RunRetentionRequest(dry_run=True)),
        (
            "EraseSubjectData",
            pb.EraseSubjectDataRequest(subject=pb.SubjectIdentity(owner_email=mail), note="x"),
        ),
    ]
    for _, request in requests:
        request.request_id = request_id()  # type: ignore[attr-defined]  # every mutation has it
    return requests


async def with_a_known_signal(office: Administered) -> None:
    await office.rows(
        "INSERT INTO signals (signal_id, sequence, opportunity_id, kind, strategy_id, direction, data_origin, state, "
        "made_by, venues, market_ids, opening_strength_ppm, create_time, body) "
        "VALUES ($1, 1, 'opp', 'k', 's', 'up', 'live', 'withdrawn', 'created', '{}', '{}', 1, now(), '{}')",
        SIGNAL,
    )


async def effects(office: Administered) -> Counter[str]:
    """Each effect commits with its row of the audit log, so the rows are the effects."""
    rows = await office.rows("SELECT method FROM audit_entries WHERE outcome = 'done'")
    return Counter(row["method"].removeprefix(SERVICE) for row in rows)


def test_the_list_of_mutations_is_the_contracts() -> None:
    wanted = {m.name for m in CONTRACT.methods.values() if m.service == "AdminService" and not m.read_only}
    assert wanted == MUTATIONS


def test_every_mutation_of_every_service_takes_a_request_id() -> None:
    pool = descriptor_pool.Default()
    without = []
    for method in CONTRACT.methods.values():
        service = pool.FindServiceByName(f"oddstream.v1.{method.service}")
        fields = service.methods_by_name[method.name].input_type.fields_by_name
        if not method.read_only and "request_id" not in fields:
            without.append(method.full_name)
    assert without == []


async def test_lost_answers_lead_to_no_second_effect(office: Administered) -> None:
    await with_a_known_signal(office)
    asked: Counter[str] = Counter()
    for number in range(ROUNDS):
        requests = await every_mutation(office, number)
        asked.update({"CreateApiKey": 2, "HaltSignals": 1})
        for method, request in requests:
            first = await until_answered(office, method, request)
            again = await until_answered(office, method, request)
            assert again == first
            asked[method] += 1
    assert set(asked) == MUTATIONS
    assert await effects(office) == asked
    assert office.use_cases.mutations.lost > ROUNDS, "too few answers were lost to prove anything"


async def test_thirty_two_at_once_have_one_effect_and_one_answer(office: Administered) -> None:
    await with_a_known_signal(office)
    asked: Counter[str] = Counter({"CreateApiKey": 2, "HaltSignals": 1})
    for method, request in await every_mutation(office, 0):
        answers = await asyncio.gather(*(until_answered(office, method, request) for _ in range(32)))
        assert all(answer == answers[0] for answer in answers), method
        asked[method] += 1
    assert await effects(office) == asked


async def test_no_method_accepts_a_bad_key_and_all_bad_keys_are_answered_alike(office: Administered) -> None:
    world = office.server.world
    bad = bad_credentials(world)
    for method in CONTRACT.methods:
        for kind, metadata in bad.items():
            failure = await failure_of(office.server.channel.unary_stream(method)(b"", metadata=metadata))
            if failure.reason == "RATE_LIMITED":  # the address has used up what strangers have
                world.limiter.taken.clear()  # type: ignore[attr-defined]  # the limiter in memory
                failure = await failure_of(office.server.channel.unary_stream(method)(b"", metadata=metadata))
            answer = (failure.code, failure.reason, failure.text)
            assert answer == (
                grpc.StatusCode.UNAUTHENTICATED,
                "API_KEY_INVALID",
                "the API key is not valid; ask an admin for a new one",
            ), (method, kind)


async def test_no_method_accepts_a_key_whose_role_or_scopes_leave_it_out(office: Administered) -> None:
    world = office.server.world
    limited = {
        "MARKETS": Scopes(services=("MarketService",)),
        "OTHERS": Scopes(services=("SignalService", "BacktestService", "AdminService")),
        "ELSEWHERE": Scopes(networks=("203.0.113.0/24",)),
    }
    keys = {name: world.issue(Role.ADMIN, scopes=scopes) for name, scopes in limited.items()}
    by_role = {role: world.issue(role) for role in Role}

    async def reason(method: str, key: Any) -> str:
        world.limiter.taken.clear()  # type: ignore[attr-defined]  # the limiter in memory
        call = office.server.channel.unary_stream(method)(b"\xff\xff", metadata=bearer(key.key.text))
        return (await failure_of(call)).reason

    for name, method in CONTRACT.methods.items():
        scoped_out = keys["OTHERS"] if method.service == "MarketService" else keys["MARKETS"]
        assert await reason(name, scoped_out) == "SCOPE_DENIED", name
        assert await reason(name, keys["ELSEWHERE"]) == "NETWORK_DENIED", name
        for role, key in by_role.items():
            expected = "MALFORMED_REQUEST" if role >= method.role else "PERMISSION_DENIED"
            assert await reason(name, key) == expected, (name, role)
