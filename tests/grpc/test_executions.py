"""Fills that bots report: stored once, told to their owners alone, and on record."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from oddstream.v1 import admin_service_pb2, execution_pb2, signal_pb2, signal_service_pb2, time_range_pb2, venue_pb2
from oddstream_server.app.administration import records_of
from oddstream_server.application.ports import SettlementUpdate
from oddstream_server.domain.market import MarketState, Settlement, SettlementState, Venue
from oddstream_server.domain.principal import Role, Scopes
from oddstream_server.domain.retention import DEFAULTS
from oddstream_server.storage.markets.catalog import CatalogStore
from tests.grpc.administered import KEYRING, administered
from tests.grpc.running_server import bearer, failure_of
from tests.grpc.stored_world import FEE, MARKET, OTHER, T0, StoredWorld, market, signal

pb = signal_service_pb2
Auth = tuple[tuple[str, str], ...]


def fill(number: int = 1, **more: Any) -> execution_pb2.Fill:
    fields = {
        "venue": venue_pb2.VENUE_KALSHI, "venue_fill_id": f"fill-{number}", "market_id": MARKET, "outcome_index": 1,
        "action": signal_pb2.LEG_ACTION_BUY, "price_micros": 600_000, "size_micros": 10_000_000,
        "fee_micros": 160_000, "liquidity": execution_pb2.FILL_LIQUIDITY_TAKER,
        "venue_time": Timestamp(seconds=T0 // 1_000_000), "signal_id": signal(0).signal_id, "leg_number": 0,
        "venue_order_id": "order-7", "client_order_id": "bot-7", **more,
    }  # fmt: skip
    return execution_pb2.Fill(**{name: value for name, value in fields.items() if value is not None})


def trader(stored: StoredWorld, **more: Any) -> Auth:
    return bearer(stored.server.world.issue(Role.TRADER, **more).key.text)


async def report(stored: StoredWorld, auth: Auth, *fills: execution_pb2.Fill, **more: Any) -> Any:
    return await stored.server.signals.ReportExecutions(pb.ReportExecutionsRequest(fills=fills, **more), metadata=auth)


async def refusal(stored: StoredWorld, auth: Auth, *fills: execution_pb2.Fill) -> Any:
    call = stored.server.signals.ReportExecutions(pb.ReportExecutionsRequest(fills=fills), metadata=auth)
    return await failure_of(call)


async def listed(stored: StoredWorld, auth: Auth, **filters: Any) -> list[Any]:
    request = pb.ListExecutionsRequest(filter=pb.ExecutionFilter(**filters))
    return list((await stored.server.signals.ListExecutions(request, metadata=auth)).executions)


async def rows(stored: StoredWorld, query: str) -> list[Any]:
    async with stored.database.reading() as transaction:
        return list(await transaction.driver.fetch(query))


async def test_a_fill_that_is_reported_twice_is_one_row_with_one_answer(stored: StoredWorld) -> None:
    auth = trader(stored)
    first = (await report(stored, auth, fill())).results[0]
    again = (await report(stored, auth, fill(2), fill(), fill(2))).results
    assert [result.already_reported for result in (first, *again)] == [False, False, True, True]
    assert again[1].execution == first.execution
    assert again[2].execution == again[0].execution
    assert len(await rows(stored, "SELECT * FROM executions")) == 2
    execution = first.execution
    assert execution.fill == fill()
    assert execution.strategy_id == "stat.mean_reversion"
    assert execution.estimated_fee_micros == FEE.fill_fee_micros(600_000, 10_000_000) == 170_000
    assert execution.slippage_micros == 10_000, "0.60 paid, and the leg's limit is 0.59"
    assert not execution.HasField("realized_profit_micros")


async def test_many_who_report_the_same_fills_at_once_store_each_once(stored: StoredWorld) -> None:
    auth = trader(stored)
    calls = [report(stored, auth, *(fill(n) for n in range(k, k + 20)[:: 1 if k % 2 else -1])) for k in range(8)]
    results = [result for answer in await asyncio.gather(*calls) for result in answer.results]
    assert sum(not result.already_reported for result in results) == 27
    assert len(await rows(stored, "SELECT * FROM executions")) == 27


async def test_other_content_or_another_owner_is_a_conflict_and_nothing_is_stored(stored: StoredWorld) -> None:
    auth = trader(stored)
    await report(stored, auth, fill())
    for failure in (
        await refusal(stored, auth, fill(2), fill(price_micros=610_000)),
        await refusal(stored, trader(stored), fill(2), fill()),
    ):
        assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "EXECUTION_CONFLICT")
        assert failure.metadata == {"venue": "kalshi", "venue_fill_id": "fill-1"}
    assert len(await rows(stored, "SELECT * FROM executions")) == 1


async def test_the_same_request_id_gets_the_first_answer(stored: StoredWorld) -> None:
    auth, request_id = trader(stored), str(uuid4())
    first = await report(stored, auth, fill(), request_id=request_id)
    assert await report(stored, auth, fill(), request_id=request_id) == first
    request = pb.ReportExecutionsRequest(fills=[fill(2)], request_id=request_id)
    failure = await failure_of(stored.server.signals.ReportExecutions(request, metadata=auth))
    assert failure.reason == "REQUEST_ID_REUSED"


async def test_each_report_is_in_the_audit_log_of_its_own_transaction(stored: StoredWorld) -> None:
    auth = trader(stored)
    done = (await report(stored, auth, fill(1), fill(2))).results
    await report(stored, auth, fill(1))
    await refusal(stored, auth, fill(1, price_micros=1))
    entries = await rows(
        stored,
        "SELECT actor, resource, after FROM audit_entries WHERE method LIKE '%ReportExecutions' ORDER BY sequence",
    )
    ids = [result.execution.execution_id for result in done]
    assert [row["resource"] for row in entries] == [f"Execution/{ids[0]}+1", f"Execution/{ids[0]}"]
    assert [row["after"] for row in entries] == [
        {"execution_ids": ids, "already_reported": 0},
        {"execution_ids": [], "already_reported": 1},
    ]
    assert {row["actor"] for row in entries} == {done[0].execution.owner}


@pytest.mark.parametrize(
    ("wrong", "field", "rule"),
    [
        ({"outcome_index": 2}, "outcome_index", "0 to 1"),
        ({"price_micros": 1_000_001}, "price_micros", "at most the market's payout, 1000000"),
        ({"leg_number": 1}, "leg_number", "0 to 0"),
        ({"market_id": "kalshi:KXRAIN-26JUL02-T2"}, "market_id", f"the signal's leg, {MARKET}"),
    ],
)
async def test_what_the_market_or_the_signal_rules_out_names_its_field(
    stored: StoredWorld, wrong: dict[str, Any], field: str, rule: str
) -> None:
    failure = await refusal(stored, trader(stored), fill(), fill(2, **wrong))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert rule in failure.fields[f"fills[1].{field}"]


async def test_unknown_markets_and_signals_are_not_found(stored: StoredWorld) -> None:
    auth = trader(stored)
    assert (await refusal(stored, auth, fill(market_id="kalshi:NOPE"))).reason == "MARKET_NOT_FOUND"
    assert (await refusal(stored, auth, fill(signal_id="sig_" + "a" * 32))).reason == "SIGNAL_NOT_FOUND"


async def test_an_owner_sees_its_own_and_an_admin_sees_all(stored: StoredWorld) -> None:
    one, other = trader(stored), trader(stored)
    admin = bearer(stored.server.world.issue(Role.ADMIN).key.text)
    mine = (await report(stored, one, fill(1))).results[0].execution
    theirs = (await report(stored, other, fill(2, signal_id=None, leg_number=None))).results[0].execution
    assert await listed(stored, one) == [mine]
    assert await listed(stored, other) == [theirs]
    assert await listed(stored, admin) == [theirs, mine]
    assert await listed(stored, admin, owners=[mine.owner]) == [mine]
    assert await listed(stored, one, owners=[mine.owner]) == [mine]
    request = pb.ListExecutionsRequest(filter=pb.ExecutionFilter(owners=[theirs.owner]))
    failure = await failure_of(stored.server.signals.ListExecutions(request, metadata=one))
    assert (failure.reason, failure.metadata["required_role"]) == ("PERMISSION_DENIED", "admin")


async def test_filters_join_by_and_and_pages_neither_skip_nor_repeat(stored: StoredWorld) -> None:
    auth = trader(stored)
    for n in range(5):
        await report(stored, auth, *(fill(10 * n + k) for k in range(3)))
    bare = fill(99, market_id=OTHER, venue=venue_pb2.VENUE_POLYMARKET, signal_id=None, leg_number=None, outcome_index=0,
                venue_time=Timestamp(seconds=T0 // 1_000_000 + 60))  # fmt: skip
    await report(stored, auth, bare)
    everything = await listed(stored, auth)
    assert len(everything) == 16
    times = [(e.create_time.ToMicroseconds(), e.execution_id) for e in everything]
    assert times == sorted(times, reverse=True)
    paged, token = [], ""
    while True:
        request = pb.ListExecutionsRequest(page_size=4, page_token=token)
        page = await stored.server.signals.ListExecutions(request, metadata=auth)
        paged += page.executions
        token = page.next_page_token
        if not token:
            break
    assert paged == everything
    late = time_range_pb2.TimeRange(start_time=Timestamp(seconds=T0 // 1_000_000 + 1))
    assert await listed(stored, auth, venue_time_range=late) == everything[:1]
    assert await listed(stored, auth, venues=[venue_pb2.VENUE_POLYMARKET]) == everything[:1]
    assert await listed(stored, auth, market_ids=[MARKET, OTHER]) == everything
    assert await listed(stored, auth, signal_ids=[signal(0).signal_id]) == everything[1:]
    assert await listed(stored, auth, strategy_ids=["stat.mean_reversion"]) == everything[1:]
    assert await listed(stored, auth, strategy_ids=["arb.event_sum"]) == []
    assert await listed(stored, auth, market_ids=[MARKET], venues=[venue_pb2.VENUE_POLYMARKET]) == []


async def test_a_key_of_other_venues_neither_reports_nor_sees(stored: StoredWorld) -> None:
    issued = stored.server.world.issue(Role.ADMIN, scopes=Scopes(venues=(Venue.POLYMARKET,)))
    scoped = bearer(issued.key.text)
    assert (await refusal(stored, scoped, fill())).reason == "SCOPE_DENIED"
    elsewhere = fill(3, market_id=OTHER, venue=venue_pb2.VENUE_POLYMARKET)
    assert (await refusal(stored, scoped, elsewhere)).reason == "SCOPE_DENIED", "the signal's leg is on kalshi"
    await report(stored, trader(stored), fill())
    assert await listed(stored, scoped) == []


async def test_an_amended_settlement_changes_what_was_earned(stored: StoredWorld) -> None:
    auth = trader(stored)
    await report(stored, auth, fill(), fill(2, fee_micros=None))
    earned = []
    for revision, (state, paid) in enumerate(
        [(SettlementState.PROVISIONAL, 0), (SettlementState.FINAL, 0), (SettlementState.AMENDED, 1_000_000)], 1
    ):
        settlement = Settlement(state, paid, revision, T0, T0 + revision)
        await stored.catalog.record_settlements([SettlementUpdate(MARKET, MarketState.SETTLED, settlement)], T0)
        earned.append(
            {
                e.fill.venue_fill_id: e.realized_profit_micros if e.HasField("realized_profit_micros") else None
                for e in await listed(stored, auth)
            }
        )
    assert earned == [
        {"fill-1": None, "fill-2": None},
        {"fill-1": 4_000_000 - 160_000, "fill-2": 4_000_000 - 170_000},
        {"fill-1": -6_000_000 - 160_000, "fill-2": -6_000_000 - 170_000},
    ]


async def test_exports_hold_executions_and_an_erasure_takes_the_order_ids(database_url: str, tmp_path: Path) -> None:
    async with administered(database_url, tmp_path) as office:
        await CatalogStore(office.database).upsert([], [market(MARKET)], T0)
        create = admin_service_pb2.CreateApiKeyRequest(
            display_name="bot", owner_email="ada@example.org", role=3, request_id=str(uuid4())
        )
        made = await office.admin.CreateApiKey(create, metadata=office.auth)
        bare = fill(signal_id=None, leg_number=None)
        reporting = office.server.signals.ReportExecutions(
            pb.ReportExecutionsRequest(fills=[bare]), metadata=bearer(made.secret)
        )
        execution = (await reporting).results[0].execution
        ada = admin_service_pb2.SubjectIdentity(owner_email="ada@example.org")
        export = admin_service_pb2.ExportSubjectDataRequest(subject=ada)
        data = await office.admin.ExportSubjectData(export, metadata=office.auth)
        assert list(data.executions) == [execution]
        assert data.execution_count == 1
        erase = admin_service_pb2.EraseSubjectDataRequest(subject=ada, note="asked", request_id=str(uuid4()))
        await office.admin.EraseSubjectData(erase, metadata=office.auth)
        (left,) = await office.rows("SELECT owner, venue_fill_id, venue_order_id, client_order_id FROM executions")
        assert tuple(left) == (execution.owner, "fill-1", "", "")
        # A restore from a backup brings them back, and the list of erasures is followed again.
        await office.rows("UPDATE executions SET client_order_id = 'ada-7'")
        await records_of(office.database, tmp_path, DEFAULTS, KEYRING).subjects.erase_again()
        assert [tuple(row) for row in await office.rows("SELECT client_order_id FROM executions")] == [("",)]
