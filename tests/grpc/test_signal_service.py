"""SignalService's unary calls over a real channel and PostgreSQL."""

from dataclasses import replace
from typing import Any

import grpc
import pytest

from oddstream.v1 import signal_pb2, signal_service_pb2, strategy_pb2, venue_pb2
from oddstream_server.domain.signal import Grade, SignalEvent, SignalEventType, SignalState
from oddstream_server.transport.converters.signals import signal_event_message
from tests.grpc.running_server import World, failure_of, running
from tests.grpc.stored_world import DAY, EVENT, MARKET, MINUTE, T0, StoredWorld, signal

pb = signal_service_pb2


async def ask(world: StoredWorld, name: str, request: Any) -> Any:
    return await getattr(world.server.signals, name)(request, metadata=world.server.auth)


async def fail(world: StoredWorld, name: str, request: Any) -> Any:
    return await failure_of(getattr(world.server.signals, name)(request, metadata=world.server.auth))


async def test_a_signal_has_all_that_an_order_needs_and_its_evidence(stored: StoredWorld) -> None:
    answer = await ask(stored, "GetSignal", pb.GetSignalRequest(signal_id=stored.signal_ids[1]))
    found = answer.signal
    assert answer.sequence == 2
    assert found.signal_id == stored.signal_ids[1]
    assert found.state == signal_pb2.SIGNAL_STATE_ACTIVE
    assert (found.kind, found.kind_version, found.strategy_id) == ("stat.mean_reversion", 2, "stat.mean_reversion")
    assert found.direction == signal_pb2.SIGNAL_DIRECTION_DOWN
    assert (found.subject_id, found.event_id) == (MARKET, EVENT)
    assert found.strength == 0.625
    assert found.net_edge_micros == 20_000
    assert found.fair_value_micros == 380_000
    assert not found.HasField("confidence")
    assert not found.HasField("grade")
    assert not found.HasField("end_time")
    assert found.trigger_time.ToMicroseconds() == T0
    assert found.expire_time.ToMicroseconds() == T0 + MINUTE
    assert found.lock_up.ToMicroseconds() == DAY
    assert found.create_time.ToMicroseconds() > T0
    assert found.data_origin == venue_pb2.DATA_ORIGIN_LIVE
    assert found.disclaimer_code == answer.disclaimer.code == "RISK_3"
    assert "can be lost whole" in answer.disclaimer.text
    assert [(e.name, e.value, e.unit) for e in found.evidence] == [
        ("mean_micros", 380_000, signal_pb2.EVIDENCE_UNIT_MICROS),
        ("count", 30, signal_pb2.EVIDENCE_UNIT_COUNT),
    ]
    (leg,) = found.legs
    assert (leg.leg_number, leg.market_id, leg.venue) == (0, MARKET, venue_pb2.VENUE_KALSHI)
    assert (leg.outcome_index, leg.outcome_label, leg.action) == (1, "No", signal_pb2.LEG_ACTION_BUY)
    assert leg.book_side == signal_pb2.BOOK_SIDE_BID
    assert (leg.limit_price_micros, leg.book_price_micros) == (590_000, 410_000)
    assert (leg.available_size_micros, leg.tick_size_micros, leg.expected_fee_micros) == (12_000_000, 10_000, 210_000)
    assert (leg.book_epoch, leg.receive_time.ToMicroseconds()) == (3, T0)
    assert not leg.HasField("venue_time")
    assert not leg.HasField("taker_delay")
    assert found.leg_order == signal_pb2.LEG_ORDER_UNSPECIFIED


async def test_the_basic_view_leaves_the_evidence_out_and_lists_use_it(stored: StoredWorld) -> None:
    request = pb.GetSignalRequest(signal_id=stored.signal_ids[1], view=signal_pb2.SIGNAL_VIEW_BASIC)
    assert not (await ask(stored, "GetSignal", request)).signal.evidence
    listed = await ask(stored, "ListSignals", pb.ListSignalsRequest())
    assert not any(s.evidence for s in listed.signals)
    listed = await ask(stored, "ListSignals", pb.ListSignalsRequest(view=signal_pb2.SIGNAL_VIEW_FULL))
    assert all(s.evidence for s in listed.signals)


async def test_signals_are_listed_newest_first_without_simulated_ones(stored: StoredWorld) -> None:
    listed = await ask(stored, "ListSignals", pb.ListSignalsRequest())
    assert [s.signal_id for s in listed.signals] == stored.signal_ids[::-1]
    assert listed.as_of_sequence == 5
    assert listed.data_set_id.startswith("ds_")
    everything = await ask(stored, "ListSignals", pb.ListSignalsRequest(include_simulated=True))
    assert len(everything.signals) == 4
    assert everything.signals[0].data_origin == venue_pb2.DATA_ORIGIN_SIMULATED


async def test_a_withdrawn_signal_says_when_it_ended(stored: StoredWorld) -> None:
    history = pb.SignalHistoryFilter(states=[signal_pb2.SIGNAL_STATE_WITHDRAWN])
    listed = await ask(stored, "ListSignals", pb.ListSignalsRequest(history=history))
    assert [s.signal_id for s in listed.signals] == [stored.signal_ids[0]]
    assert listed.signals[0].HasField("end_time")


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_pages_of_signals_make_the_whole_list(stored: StoredWorld, size: int) -> None:
    found: list[str] = []
    request = pb.ListSignalsRequest(page_size=size)
    while True:
        page = await ask(stored, "ListSignals", request)
        found += [s.signal_id for s in page.signals]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == stored.signal_ids[::-1]


async def test_filters_compare_with_what_is_fixed_at_the_opening(stored: StoredWorld) -> None:
    async def count(**fields: Any) -> int:
        request = pb.ListSignalsRequest(filter=signal_pb2.SignalFilter(**fields))
        return len((await ask(stored, "ListSignals", request)).signals)

    assert await count(venues=[venue_pb2.VENUE_KALSHI]) == 3
    assert await count(venues=[venue_pb2.VENUE_POLYMARKET]) == 0
    assert await count(market_ids=[MARKET], kinds=["stat.mean_reversion"]) == 3
    assert await count(kinds=["arb.event_sum"]) == 0
    assert await count(minimum_strength=0.625) == 3
    assert await count(minimum_strength=0.6250001) == 0
    assert await count(minimum_net_edge_micros=20_000) == 3
    assert await count(minimum_net_edge_micros=20_001) == 0
    assert await count(directions=[signal_pb2.SIGNAL_DIRECTION_UP, signal_pb2.SIGNAL_DIRECTION_DOWN]) == 3
    assert await count(directions=[signal_pb2.SIGNAL_DIRECTION_NONE]) == 0


async def test_an_unknown_signal_is_not_found(stored: StoredWorld) -> None:
    failure = await fail(stored, "GetSignal", pb.GetSignalRequest(signal_id="sig_" + "a" * 32))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "SIGNAL_NOT_FOUND")


async def test_strategies_show_their_parameters_with_values_bounds_and_units(stored: StoredWorld) -> None:
    request = pb.GetStrategyRequest(strategy_id="stat.mean_reversion")
    strategy = (await ask(stored, "GetStrategy", request)).strategy
    assert strategy.enabled
    assert strategy.origin == strategy_pb2.STRATEGY_ORIGIN_BUILT_IN
    assert strategy.params["entry_z_ppm"].micros_value == 2_000_000
    assert strategy.params["window_us"].duration_value.ToMicroseconds() == 60 * MINUTE
    assert strategy.params["minimum_count"].integer_value == 30
    assert strategy.params["both_sides"].boolean_value
    declared = {p.name: p for p in strategy.parameters}
    assert declared["window_us"].default_value.duration_value.ToMicroseconds() == 30 * MINUTE
    assert declared["minimum_count"].maximum_value.integer_value == 1000
    assert strategy.etag


async def test_strategies_are_listed_by_id_and_filtered(stored: StoredWorld) -> None:
    async def ids(**fields: Any) -> list[str]:
        page = await ask(stored, "ListStrategies", pb.ListStrategiesRequest(filter=pb.StrategyFilter(**fields)))
        return [s.strategy_id for s in page.strategies]

    assert await ids() == ["arb.event_sum", "stat.mean_reversion"]
    assert await ids(enabled=True) == ["stat.mean_reversion"]
    assert await ids(enabled=False) == ["arb.event_sum"]
    assert await ids(kinds=["arb.event_sum"]) == ["arb.event_sum"]
    first = await ask(stored, "ListStrategies", pb.ListStrategiesRequest(page_size=1))
    second = pb.ListStrategiesRequest(page_size=1, page_token=first.next_page_token)
    page = await ask(stored, "ListStrategies", second)
    assert [s.strategy_id for s in page.strategies] == ["stat.mean_reversion"]
    assert page.next_page_token == ""


async def test_an_unknown_strategy_is_not_found(stored: StoredWorld) -> None:
    failure = await fail(stored, "GetStrategy", pb.GetStrategyRequest(strategy_id="no.such"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "STRATEGY_NOT_FOUND")


async def test_signals_are_watched_by_what_serves_streams() -> None:
    async def watch(request: Any, context: Any) -> None:
        await context.write(pb.WatchSignalsResponse(head_sequence=7).SerializeToString())

    async with running(World(watch_signals=watch)) as server:
        call = server.signals.WatchSignals(pb.WatchSignalsRequest(), metadata=server.auth)
        assert [m.head_sequence async for m in call] == [7]


# --- events of the log as messages ---


def event(kind: SignalEventType, **more: Any) -> signal_pb2.SignalEvent:
    made = SignalEvent(kind, signal(1), 500_000, 10_000, sequence=9, create_time_us=T0 + 1, **more)
    return signal_event_message(made, full=False)


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (SignalEventType.CREATED, "ACTIVE"),
        (SignalEventType.REVISED, "ACTIVE"),
        (SignalEventType.SUPERSEDED, "SUPERSEDED"),
        (SignalEventType.WITHDRAWN, "WITHDRAWN"),
        (SignalEventType.EXPIRED, "EXPIRED"),
    ],
)
def test_an_event_carries_its_signal_as_it_stands_after_it(kind: SignalEventType, state: str) -> None:
    message = event(kind)
    assert message.type == signal_pb2.SignalEventType.Value(f"SIGNAL_EVENT_TYPE_{kind.name}")
    assert message.signal.state == signal_pb2.SignalState.Value(f"SIGNAL_STATE_{state}")
    assert message.sequence == 9
    assert message.create_time.ToMicroseconds() == T0 + 1
    assert (message.opening_strength, message.opening_net_edge_micros) == (0.5, 10_000)
    assert message.signal.HasField("create_time") == (state == "ACTIVE")
    assert message.signal.HasField("end_time") == (state != "ACTIVE")


@pytest.mark.parametrize(
    "reason",
    ["CONDITION_ENDED", "GATE_STALE", "GATE_CROSSED", "GATE_GAP", "MARKET_CLOSED", "HALTED", "OPERATOR"],
)
def test_every_reason_of_a_withdrawal_is_in_the_contract(reason: str) -> None:
    message = event(SignalEventType.WITHDRAWN, reason=reason)
    assert message.signal.withdraw_reason == signal_pb2.WithdrawReason.Value(f"WITHDRAW_REASON_{reason}")


def test_a_grade_keeps_what_a_void_lacks_absent() -> None:
    grade = Grade(2, None, None, True, T0)
    message = event(SignalEventType.GRADED, grade=grade).signal.grade
    assert (message.revision, message.void) == (2, True)
    assert not message.HasField("realized_edge_micros")
    assert not message.HasField("correct")
    message = event(SignalEventType.GRADED, grade=replace(grade, realized_edge_micros=-5, correct=False)).signal.grade
    assert message.realized_edge_micros == -5
    assert message.HasField("correct")


@pytest.mark.parametrize("state", list(SignalState))
def test_a_grade_shows_the_state_that_the_signal_has_however_it_ended(state: SignalState) -> None:
    ended = None if state is SignalState.ACTIVE else T0 - 7
    message = event(
        SignalEventType.GRADED, grade=Grade(1, 5, True, False, T0), graded_state=state, graded_end_time_us=ended
    ).signal
    assert message.state == signal_pb2.SignalState.Value(f"SIGNAL_STATE_{state.name}")
    assert message.HasField("end_time") == (ended is not None)
    assert ended is None or message.end_time.ToMicroseconds() == ended
