"""Operators and the leader: a halt holds from its answer on, and a changed strategy begins anew."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from oddstream_server.application.calls.mutations import Mutation, MutationRequest
from oddstream_server.application.calls.request import RequestContext, current_request
from oddstream_server.application.operations.halts import halt_signals, resume_signals, withdraw_signals
from oddstream_server.application.operations.strategy_settings import ParameterInput, StrategyUpdate, update_strategy
from oddstream_server.domain.errors import AlreadyExists, FailedPrecondition, NotFound
from oddstream_server.domain.halt import HaltScope, Reach
from oddstream_server.domain.principal import Principal, Role
from oddstream_server.domain.signal import SignalEvent, SignalEventType, SignalState
from oddstream_server.pipeline.leader import Pipeline
from oddstream_server.storage.administration.changes import PostgresChanges
from oddstream_server.storage.administration.controls import ControlsReader
from oddstream_server.strategies.registry import Registry
from tests.pipeline.conftest import ScriptedVenue, Stores, Watcher
from tests.pipeline.test_leadership import FAST, a_venue, discovered, now_us, recent, running
from tests.strategies.worlds import World, a_world

ADMIN = Principal("key_aaaaaaaaaaaa", Role.ADMIN, key_id="key_aaaaaaaaaaaa")
EVERYTHING = HaltScope(Reach.EVERYTHING)
CALM = replace(FAST, sweep_seconds=3_600, lease_seconds=60)
"""Without the sweep, so that what is open stays so until the test ends it, and with a lease that outlasts a busy
machine: what a leader held when it lost the lead is the venue's to send again, which a script doesn't."""


@pytest.fixture(autouse=True)
def call() -> Iterator[None]:
    token = current_request.set(RequestContext("/oddstream.v1.AdminService/Test", "c-1", "", "127.0.0.1", ADMIN))
    yield
    current_request.reset(token)


@asynccontextmanager
async def a_change(stores: Stores) -> AsyncIterator[Mutation]:
    async with PostgresChanges(stores.database).begin() as change:
        yield Mutation(change, ADMIN, MutationRequest("/oddstream.v1.AdminService/Test", "", b""), now_us())


def a_pipeline(stores: Stores, venue: ScriptedVenue, watcher: Watcher) -> Pipeline:
    registry = Registry()
    return Pipeline(
        holder="one",
        store=stores.store,
        catalog=stores.catalog,
        adapters=[venue],
        strategies=registry.configured(()),
        clock=now_us,
        log=stores.log,
        observer=watcher,
        settings=CALM,
        controls=ControlsReader(stores.database),
        configure=registry.configured,
    )


async def fed(watcher: Watcher, venue: ScriptedVenue, world: World, first: int, last: int) -> None:
    venue.say(*world.quotes[first:last])
    await watcher.until(lambda: watcher.quotes == last)


def kinds_of(events: Sequence[SignalEvent]) -> set[SignalEventType]:
    return {event.type for event in events}


async def test_a_halt_withdraws_what_is_open_and_nothing_opens_until_it_is_lifted(
    stores: Stores, watcher: Watcher
) -> None:
    world = recent(a_world(21))
    venue = a_venue(world)
    third = len(world.quotes) // 3
    async with running(a_pipeline(stores, venue, watcher)):
        await discovered(venue, watcher)
        await fed(watcher, venue, world, 0, third)
        async with a_change(stores) as mutation:
            halted = await halt_signals(mutation, EVERYTHING, "a test")
        _, active = await stores.log.active_snapshot()
        assert active == []
        before = await stores.logged()
        await fed(watcher, venue, world, third, 2 * third)
        during = (await stores.logged())[len(before) :]
        assert kinds_of(during) <= {SignalEventType.GRADED}
        async with a_change(stores) as mutation:
            await resume_signals(mutation, halted.halt.halt_id, "")
        await fed(watcher, venue, world, 2 * third, len(world.quotes))
    after = (await stores.logged())[len(before) + len(during) :]
    assert SignalEventType.CREATED in kinds_of(after)
    opened_before = {e.signal.opportunity_id for e in before}
    assert not opened_before & {e.signal.opportunity_id for e in after}, "what a halt withdrew stays withdrawn"
    withdrawn = [e for e in before if e.reason == "HALTED"]
    assert len(withdrawn) == halted.withdrawn


async def test_a_halt_of_a_kind_leaves_the_others_alone(stores: Stores, watcher: Watcher) -> None:
    world = recent(a_world(21))
    venue = a_venue(world)
    async with a_change(stores) as mutation:
        await halt_signals(mutation, HaltScope(Reach.KIND, "arb.event_sum"), "a test")
    async with running(a_pipeline(stores, venue, watcher)):
        await discovered(venue, watcher)
        await fed(watcher, venue, world, 0, len(world.quotes))
    kinds = {e.signal.kind for e in await stores.logged()}
    assert "stat.mean_reversion" in kinds
    assert "arb.event_sum" not in kinds


async def test_two_halts_of_one_scope_and_two_lifts_are_refused(stores: Stores) -> None:
    async with a_change(stores) as mutation:
        first = await halt_signals(mutation, EVERYTHING, "a test")
    with pytest.raises(AlreadyExists) as twice:
        async with a_change(stores) as mutation:
            await halt_signals(mutation, EVERYTHING, "a test")
    assert (twice.value.reason, twice.value.metadata) == ("HALT_ALREADY_ACTIVE", {"halt_id": first.halt.halt_id})
    async with a_change(stores) as mutation:
        lifted = await resume_signals(mutation, first.halt.halt_id, "")
    assert lifted.lift_time_us is not None
    with pytest.raises(FailedPrecondition) as again:
        async with a_change(stores) as mutation:
            await resume_signals(mutation, first.halt.halt_id, "")
    assert again.value.reason == "HALT_NOT_ACTIVE"
    with pytest.raises(NotFound):
        async with a_change(stores) as mutation:
            await resume_signals(mutation, "hlt_" + "a" * 32, "")


async def test_withdrawing_ends_whole_opportunities_once(stores: Stores, watcher: Watcher) -> None:
    world = recent(a_world(21))
    venue = a_venue(world)
    async with running(a_pipeline(stores, venue, watcher)):
        await discovered(venue, watcher)
        size = len(world.quotes) // 3
        await fed(watcher, venue, world, 0, size)
        _, active = await stores.log.active_snapshot()
        ids = [event.signal.signal_id for event in active]
        async with a_change(stores) as mutation:
            withdrawn = await withdraw_signals(mutation, ids, "a test")
        assert withdrawn.count > 0, "the world has to have something open here"
        async with a_change(stores) as mutation:
            again = await withdraw_signals(mutation, ids, "a test")
        assert (again.count, again.sequence) == (0, None)
        await fed(watcher, venue, world, size, len(world.quotes))
    # The sweep may have been faster with one or another.
    states = [stored.state for i in ids if (stored := await stores.log.get_signal(i))]
    assert states.count(SignalState.WITHDRAWN) == withdrawn.count
    assert set(states) <= {SignalState.WITHDRAWN, SignalState.EXPIRED}
    ended = {e.signal.opportunity_id for e in active}
    later = [e for e in await stores.logged() if e.sequence > (withdrawn.sequence or 0)]
    assert not ended & {e.signal.opportunity_id for e in later if e.type is not SignalEventType.GRADED}


async def test_a_strategy_is_switched_off_and_on_and_gets_other_parameters_without_a_restart(
    stores: Stores, watcher: Watcher
) -> None:
    world = recent(a_world(21))
    venue = a_venue(world)
    registry = Registry()
    quarter = len(world.quotes) // 4
    kind = "stat.mean_reversion"

    async def made_by(first: int, last: int) -> set[tuple[str, str]]:
        """Kinds and digests of parameters of the signals that a part of the world leads to."""
        cut = len(await stores.logged())
        await fed(watcher, venue, world, first, last)
        events = (await stores.logged())[cut:]
        return {(e.signal.kind, e.signal.params_digest) for e in events if e.type is SignalEventType.CREATED}

    async with running(a_pipeline(stores, venue, watcher)):
        await discovered(venue, watcher)
        (before,) = {digest for k, digest in await made_by(0, quarter) if k == kind}
        async with a_change(stores) as mutation:
            off = await update_strategy(mutation, registry, kind, StrategyUpdate(enabled=False))
        assert not off.enabled
        assert kind not in {k for k, _ in await made_by(quarter, 2 * quarter)}
        async with a_change(stores) as mutation:
            params = {"minimum_rows": ParameterInput("integer", 8)}
            on = await update_strategy(mutation, registry, kind, StrategyUpdate(enabled=True, params=params))
        assert (on.enabled, on.params_revision) == (True, 2)
        after = {digest for k, digest in await made_by(2 * quarter, len(world.quotes)) if k == kind}
        assert after == {on.params_digest}, "it opens again, with the new parameters alone"
        assert before != on.params_digest
