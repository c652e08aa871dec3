"""Every mutation of every service, executed while its caller gets an error: one effect a request id, one answer.

What is a mutation is read from the contract's descriptors: whatever takes a request id. One without a row in the table
below fails.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from oddstream.v1 import (
    access_pb2,
    admin_service_pb2,
    api_key_pb2,
    backtest_service_pb2,
    execution_pb2,
    halt_pb2,
    market_link_pb2,
    market_service_pb2,
    pipeline_run_pb2,
    retention_policy_pb2,
    signal_pb2,
    signal_service_pb2,
    strategy_pb2,
    venue_pb2,
)
from oddstream_server.application.calls.mutations import Answered, MutationRequest, Mutations, Prepare, Work
from oddstream_server.application.ports import Decision
from oddstream_server.domain.errors import Unavailable
from oddstream_server.domain.market import LinkRelation, LinkState, MarketLink
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.transport.contract import load_contract
from tests.grpc.administered import Administered, administered, request_id
from tests.grpc.backtest_cases import good_config, good_sweep
from tests.jobs.bench import SECOND, T0, market, quotes

admin, backtests, markets, signals = (
    admin_service_pb2, backtest_service_pb2, market_service_pb2, signal_service_pb2,
)  # fmt: skip
CONTRACT = load_contract()
SIGNAL, LINK = "sig_" + "a" * 32, "lnk_" + "a" * 32
SERVICES = [f"oddstream.v1.{name}Service" for name in ("Market", "Signal", "Backtest", "Admin")]
CONTRACT_METHODS = {
    method.name: method
    for service in map(descriptor_pool.Default().FindServiceByName, SERVICES)
    for method in service.methods
    if "request_id" in method.input_type.fields_by_name
}


class LosesAnswers:
    """Mutations that commit, and whose answer is lost in one of ten."""

    def __init__(self, inner: Mutations, seed: int) -> None:
        self._inner = inner
        self._random = random.Random(seed)
        self.runs = self.lost = 0

    async def run(self, request: MutationRequest, work: Work, prepare: Prepare | None = None) -> Answered:
        answered = await self._inner.run(request, work, prepare)
        self.runs += 1
        if self._random.random() < 0.1:
            self.lost += 1
            raise Unavailable("the answer was lost on the way", retry_after_us=1)
        return answered


@dataclass
class Callers:
    """They repeat what they don't know the end of, and count what they asked for."""

    office: Administered
    asked: Counter[str] = field(default_factory=Counter)

    async def answer(self, method: str, request: Any) -> Any:
        service = CONTRACT_METHODS[method]
        stub: Any = self.office.server.channel.unary_unary(
            f"/{service.containing_service.full_name}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(service.output_type).FromString,
        )
        while True:
            try:
                return await stub(request, metadata=self.office.auth)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise

    async def done(self, method: str, request: Any) -> Any:
        """What a row of the table needs before; it counts among what was asked for."""
        request.request_id = request_id()
        self.asked[method] += 1
        return await self.answer(method, request)

    async def key(self, **more: Any) -> str:
        fields = {"display_name": "bot", "role": access_pb2.ROLE_VIEWER, **more}
        return str((await self.done("CreateApiKey", admin.CreateApiKeyRequest(**fields))).api_key.api_key_id)

    async def backtest(self) -> str:
        request = backtests.CreateBacktestRequest(config=good_config())
        return str((await self.done("CreateBacktest", request)).backtest.backtest_id)


Row = Callable[[Callers, int], Awaitable[Any]]
TABLE: dict[str, Row] = {}
"""By method: a request with an effect of its own for each number."""


def row(make: Row) -> Row:
    TABLE["".join(word.capitalize() for word in make.__name__.split("_"))] = make
    return make


@row
async def create_api_key(callers: Callers, number: int) -> Any:
    return admin.CreateApiKeyRequest(display_name="bot", role=access_pb2.ROLE_VIEWER)


@row
async def update_api_key(callers: Callers, number: int) -> Any:
    renamed = api_key_pb2.ApiKey(api_key_id=await callers.key(), display_name=f"bot {number}")
    return admin.UpdateApiKeyRequest(api_key=renamed, update_mask=FieldMask(paths=["display_name"]))


@row
async def rotate_api_key(callers: Callers, number: int) -> Any:
    return admin.RotateApiKeyRequest(api_key_id=await callers.key())


@row
async def revoke_api_key(callers: Callers, number: int) -> Any:
    return admin.RevokeApiKeyRequest(api_key_id=await callers.key())


@row
async def run_pipeline(callers: Callers, number: int) -> Any:
    await callers.office.rows("UPDATE pipeline_runs SET state = 'succeeded'")  # one at a time may be under way
    return admin.RunPipelineRequest(stage=pipeline_run_pb2.PIPELINE_STAGE_GRADE)


@row
async def update_strategy(callers: Callers, number: int) -> Any:
    strategy = strategy_pb2.Strategy(strategy_id="arb.event_sum", enabled=number % 2 == 0)
    return admin.UpdateStrategyRequest(strategy=strategy, update_mask=FieldMask(paths=["enabled"]))


@row
async def withdraw_signals(callers: Callers, number: int) -> Any:
    return admin.WithdrawSignalsRequest(signal_ids=[SIGNAL], note="x")


@row
async def halt_signals(callers: Callers, number: int) -> Any:
    return admin.HaltSignalsRequest(scope=halt_pb2.HaltScope(kind=f"test.kind{number}"), note="x")


@row
async def resume_signals(callers: Callers, number: int) -> Any:
    halt = admin.HaltSignalsRequest(scope=halt_pb2.HaltScope(kind=f"test.lifted{number}"), note="x")
    return admin.ResumeSignalsRequest(halt_id=(await callers.done("HaltSignals", halt)).halt.halt_id)


@row
async def update_retention_policy(callers: Callers, number: int) -> Any:
    rule = retention_policy_pb2.RetentionRule(
        subject=retention_policy_pb2.RETENTION_SUBJECT_QUARANTINE,
        keep=Duration(seconds=86_400 * (number + 1)),
        basis=str(number),
    )
    return admin.UpdateRetentionPolicyRequest(
        retention_policy=retention_policy_pb2.RetentionPolicy(rules=[rule]), update_mask=FieldMask(paths=["rules"])
    )


@row
async def run_retention(callers: Callers, number: int) -> Any:
    return admin.RunRetentionRequest(dry_run=True)


@row
async def erase_subject_data(callers: Callers, number: int) -> Any:
    mail = f"owner{number}@example.org"
    await callers.key(owner_email=mail)
    return admin.EraseSubjectDataRequest(subject=admin.SubjectIdentity(owner_email=mail), note="x")


@row
async def review_market_link(callers: Callers, number: int) -> Any:
    decisions = (market_link_pb2.LINK_STATE_CONFIRMED, market_link_pb2.LINK_STATE_REJECTED)
    return markets.ReviewMarketLinkRequest(
        market_link_id=LINK,
        decision=decisions[number % 2],
        rules_digest=market(0).rules_digest,
        other_rules_digest=market(1).rules_digest,
        note=str(number),
    )


@row
async def report_executions(callers: Callers, number: int) -> Any:
    fill = execution_pb2.Fill(
        venue=venue_pb2.VENUE_KALSHI,
        venue_fill_id=f"fill-{number}",
        market_id=market(0).market_id,
        action=signal_pb2.LEG_ACTION_BUY,
        price_micros=400_000,
        size_micros=1_000_000,
        venue_time=Timestamp(seconds=T0 // SECOND),
    )
    return signals.ReportExecutionsRequest(fills=[fill])


@row
async def create_backtest(callers: Callers, number: int) -> Any:
    return backtests.CreateBacktestRequest(config=good_config(), display_name=str(number))


@row
async def cancel_backtest(callers: Callers, number: int) -> Any:
    return backtests.CancelBacktestRequest(backtest_id=await callers.backtest())


@row
async def delete_backtest(callers: Callers, number: int) -> Any:
    run = await callers.backtest()
    await callers.done("CancelBacktest", backtests.CancelBacktestRequest(backtest_id=run))
    return backtests.DeleteBacktestRequest(backtest_id=run)


@row
async def create_sweep(callers: Callers, number: int) -> Any:
    return backtests.CreateSweepRequest(config=good_sweep(), display_name=str(number))


@row
async def cancel_sweep(callers: Callers, number: int) -> Any:
    made = await callers.done("CreateSweep", backtests.CreateSweepRequest(config=good_sweep()))
    return backtests.CancelSweepRequest(sweep_id=made.sweep.sweep_id)


ROUNDS = 1000 // (2 * len(CONTRACT_METHODS)) + 1


@pytest.fixture
async def callers(database_url: str, tmp_path: Path) -> AsyncIterator[Callers]:
    def lossy(use_cases: Any) -> Any:
        return replace(use_cases, mutations=LosesAnswers(use_cases.mutations, 7))

    async with administered(database_url, tmp_path, lossy) as office:
        await _something_to_change(office)
        yield Callers(office)


async def _something_to_change(office: Administered) -> None:
    """A signal, a link between two markets, quotes for backtests."""
    await office.rows(
        "INSERT INTO signals (signal_id, sequence, opportunity_id, kind, strategy_id, direction, data_origin, state, "
        "made_by, venues, market_ids, opening_strength_ppm, create_time, body) "
        "VALUES ($1, 1, 'opp', 'k', 's', 'up', 'live', 'withdrawn', 'created', '{}', '{}', 1, now(), '{}')",
        SIGNAL,
    )
    one, other = market(0), market(1)
    catalog = CatalogStore(office.database)
    await catalog.upsert([], [one, other], T0)
    await catalog.save_link(
        MarketLink(
            LINK, one.market_id, other.market_id, LinkRelation.INVERSE, ((0, 1), (1, 0)),
            one.rules_digest, other.rules_digest, LinkState.PROPOSED,
        )
    )  # fmt: skip
    store = PostgresPipelineStore(office.database)
    lease = await store.acquire_lease("test", 60 * SECOND)
    assert lease is not None
    await store.store_batch(lease, list(quotes(0, 20)), lambda _: Decision())


async def effects(office: Administered) -> Counter[str]:
    """Each effect commits with its row of the audit log, so the rows are the effects."""
    rows = await office.rows("SELECT method FROM audit_entries WHERE outcome = 'done'")
    return Counter(row["method"].rpartition("/")[2] for row in rows)


def test_every_mutation_of_the_contract_has_a_row_here_and_no_other_method_has() -> None:
    assert set(TABLE) == set(CONTRACT_METHODS)


def test_every_method_that_changes_something_takes_a_request_id_and_no_other_does() -> None:
    assert {m.name for m in CONTRACT.methods.values() if not m.read_only} == set(CONTRACT_METHODS)


@pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines
async def test_lost_answers_lead_to_no_second_effect(callers: Callers) -> None:
    lossy = callers.office.use_cases.mutations
    for number in range(ROUNDS):
        for method, make in TABLE.items():
            request = await make(callers, number)
            request.request_id = request_id()
            callers.asked[method] += 1
            first = await callers.answer(method, request)
            assert await callers.answer(method, request) == first, method
    assert await effects(callers.office) == callers.asked
    assert lossy.runs >= 1000
    assert lossy.lost >= lossy.runs / 20, "too few answers were lost to prove anything"


@pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines
async def test_thirty_two_at_once_have_one_effect_and_one_answer(callers: Callers) -> None:
    for method, make in TABLE.items():
        request = await make(callers, 0)
        request.request_id = request_id()
        callers.asked[method] += 1
        answers = await asyncio.gather(*(callers.answer(method, request) for _ in range(32)))
        assert all(answer == answers[0] for answer in answers), method
    assert await effects(callers.office) == callers.asked
