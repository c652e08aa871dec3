"""Halts and withdrawals: signals stop at once, and whoever holds one is told on the stream."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from oddstream_server.application.calls.mutations import Mutation
from oddstream_server.domain.errors import AlreadyExists, FailedPrecondition, NotFound
from oddstream_server.domain.halt import Halt, HaltScope
from oddstream_server.domain.market import split_market_id
from oddstream_server.domain.signal import SignalEvent, SignalEventType

HALTED = "HALTED"
OPERATOR = "OPERATOR"
"""Reasons on the WITHDRAWN events."""


@dataclass(frozen=True, slots=True)
class Halted:
    halt: Halt
    withdrawn: int
    """Opportunities."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    count: int
    sequence: int | None
    """Of the last event; None where there was none."""


async def halt_signals(mutation: Mutation, scope: HaltScope, note: str) -> Halted:
    """Stop new opportunities within a scope and withdraw the active ones.

    It holds from the commit on: the leader's next batch is decided with it.

    :raises AlreadyExists: HALT_ALREADY_ACTIVE; the metadata names the halt.
    """
    controls = mutation.change.controls
    await controls.lock()
    for halt in await controls.halts_in_force():
        if halt.scope == scope:
            raise AlreadyExists("Halt", halt.halt_id, reason="HALT_ALREADY_ACTIVE", metadata={"halt_id": halt.halt_id})
    halt = await controls.add_halt(scope, note, mutation.principal.subject, mutation.now_us)
    covered = [event for event in await controls.active_signals() if is_covered(event, [scope])]
    after = {"scope": str(scope), "note": note, "withdrawn": len(covered)}
    await mutation.audit(f"Halt/{halt.halt_id}", None, after)
    await controls.append(withdrawals(covered, HALTED))
    return Halted(halt, len(covered))


async def resume_signals(mutation: Mutation, halt_id: str, note: str) -> Halt:
    """Lift a halt; what was withdrawn stays so.

    :raises NotFound: HALT_NOT_FOUND.
    :raises FailedPrecondition: HALT_NOT_ACTIVE.
    """
    controls = mutation.change.controls
    await controls.lock()
    halt = await controls.get_halt(halt_id)
    if halt is None:
        raise NotFound("Halt", halt_id)
    if halt.lift_time_us is not None:
        raise FailedPrecondition("the halt was lifted before", subject=f"Halt/{halt_id}", reason="HALT_NOT_ACTIVE")
    await controls.lift_halt(halt_id, mutation.now_us)
    scope = str(halt.scope)
    await mutation.audit(f"Halt/{halt_id}", {"scope": scope}, {"scope": scope, "note": note, "lifted": True})
    return replace(halt, lift_time_us=mutation.now_us)


async def withdraw_signals(mutation: Mutation, signal_ids: Sequence[str], note: str) -> Withdrawn:
    """Withdraw the opportunities of signals; those that had ended are left as they are.

    :raises NotFound: SIGNAL_NOT_FOUND, for the first that is not known.
    """
    controls = mutation.change.controls
    await controls.lock()
    opportunities = await controls.opportunities_of(signal_ids)
    unknown = next((signal_id for signal_id in signal_ids if signal_id not in opportunities), None)
    if unknown is not None:
        raise NotFound("Signal", unknown)
    wanted = set(opportunities.values())
    active = [event for event in await controls.active_signals() if event.signal.opportunity_id in wanted]
    after = {"note": note, "opportunity_ids": sorted(event.signal.opportunity_id for event in active)}
    await mutation.audit("Signals/" + (signal_ids[0] if len(signal_ids) == 1 else str(len(signal_ids))), None, after)
    appended = await controls.append(withdrawals(active, OPERATOR))
    return Withdrawn(len(active), appended[-1].sequence if appended else None)


def withdrawals(events: Iterable[SignalEvent], reason: str) -> list[SignalEvent]:
    """The events that end open opportunities."""
    return [
        replace(event, type=SignalEventType.WITHDRAWN, reason=reason, sequence=0, create_time_us=0) for event in events
    ]


def is_covered(event: SignalEvent, scopes: Iterable[HaltScope]) -> bool:
    venues = {event.signal.venue, *(split_market_id(leg.market_id)[0] for leg in event.signal.legs)}
    return any(scope.covers(event.signal.kind, venues) for scope in scopes)
