"""Opportunities over time: from what a kernel says of a subject, row by row, to the events of the signal log.

Rules, all of them pure functions of the open opportunity and the row:

- an opportunity opens (CREATED) and keeps its id, a hash of kind, version, parameters, subject and the opening rows;
- it is REVISED when a leg's price moved by its tick or more, or its size by a fifth or more, and not otherwise;
- another direction or another set of legs is another opportunity: SUPERSEDED, then CREATED;
- it is WITHDRAWN when the condition ends or a gate shuts;
- past its expire time, judged by the row's time, it is over without an event from here: the expiry sweep appends
  EXPIRED, outside of what a replay has to reproduce;
- every event carries the strength and edge at the opening.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from oddstream_server.domain.market import Venue
from oddstream_server.domain.signal import (
    DataOrigin,
    Direction,
    Evidence,
    Leg,
    Signal,
    SignalEvent,
    SignalEventType,
    content_id,
    plain,
    signal_event_from_plain,
)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a strategy looks at, and under which name and parameters it does."""

    strategy_id: str
    kind: str
    version: int
    params_digest: str
    subject_id: str
    event_id: str | None
    data_origin: DataOrigin
    confidence_ppm: int | None = None
    """Of the strategy's signals graded so far; None where those are too few."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the kernel says of the subject as of one row, with the orders that would use it."""

    direction: Direction
    opens: bool
    """False where the condition suffices to keep an opportunity but not to open one."""
    strength_ppm: int
    net_edge_micros: int | None
    fair_value_micros: int | None
    time_to_live_us: int
    legs: tuple[Leg, ...]
    evidence: tuple[Evidence, ...]
    input_time_us: int
    input_digest: Callable[[], str]
    """Asked only when the verdict becomes a signal."""
    venue: Venue
    all_or_none: bool
    lockup_until_us: int | None


CONDITION_ENDED = "CONDITION_ENDED"
STRATEGY_CHANGED = "STRATEGY_CHANGED"
HALTED = "HALTED"


def observe(
    subject: Subject,
    opened: SignalEvent | None,
    verdict: Verdict | None,
    row_time_us: int,
    reason: str = CONDITION_ENDED,
) -> tuple[SignalEvent | None, tuple[SignalEvent, ...]]:
    """One row's effect.

    :param opened: the last CREATED or REVISED event of the subject's open opportunity.
    :param verdict: None where the kernel says nothing, and then ``reason`` says why an open one ends.
    :returns: the opportunity that is open afterwards, and the events of this row in order.
    """
    opened = unexpired(opened, row_time_us)
    if verdict is None:
        return (None, ()) if opened is None else (None, (withdrawn(opened, reason),))
    if opened is None:
        if not verdict.opens:
            return None, ()
        created = _created(subject, verdict)
        return created, (created,)
    if verdict.direction is not opened.signal.direction or _leg_keys(verdict.legs) != _leg_keys(opened.signal.legs):
        if not verdict.opens:
            return None, (withdrawn(opened, CONDITION_ENDED),)
        created = _created(subject, verdict)
        superseded = replace(
            opened,
            type=SignalEventType.SUPERSEDED,
            superseded_by_opportunity_id=created.signal.opportunity_id,
        )
        return created, (superseded, created)
    if not any(_moved(old, new) for old, new in zip(_sorted(opened.signal.legs), _sorted(verdict.legs), strict=True)):
        return opened, ()
    revised = _revised(subject, opened, verdict)
    return revised, (revised,)


def unexpired(opened: SignalEvent | None, row_time_us: int) -> SignalEvent | None:
    """The open opportunity, unless its expire time has come by the row's time."""
    return None if opened is None or opened.signal.expire_time_us <= row_time_us else opened


def checkpoint(opened: SignalEvent | None) -> bytes:
    """The open opportunity as bytes for a checkpoint; empty where there is none."""
    return b"" if opened is None else json.dumps(plain(opened), sort_keys=True, separators=(",", ":")).encode()


def from_checkpoint(stored: bytes) -> SignalEvent | None:
    return signal_event_from_plain(json.loads(stored)) if stored else None


def _created(subject: Subject, verdict: Verdict) -> SignalEvent:
    digest = verdict.input_digest()
    opportunity_id = content_id("opp", subject.kind, subject.version, subject.params_digest, subject.subject_id, digest)
    return SignalEvent(
        type=SignalEventType.CREATED,
        signal=_signal(subject, verdict, opportunity_id, 1, digest, None),
        opening_strength_ppm=verdict.strength_ppm,
        opening_net_edge_micros=verdict.net_edge_micros,
    )


def _revised(subject: Subject, opened: SignalEvent, verdict: Verdict) -> SignalEvent:
    last = opened.signal
    return replace(
        opened,
        type=SignalEventType.REVISED,
        signal=_signal(
            subject, verdict, last.opportunity_id, last.revision + 1, verdict.input_digest(), last.signal_id
        ),
    )


def withdrawn(opened: SignalEvent, reason: str) -> SignalEvent:
    """The event that ends an open opportunity."""
    return replace(opened, type=SignalEventType.WITHDRAWN, reason=reason)


def _signal(
    subject: Subject, verdict: Verdict, opportunity_id: str, revision: int, digest: str, supersedes: str | None
) -> Signal:
    return Signal(
        opportunity_id=opportunity_id,
        revision=revision,
        kind=subject.kind,
        version=subject.version,
        strategy_id=subject.strategy_id,
        params_digest=subject.params_digest,
        subject_id=subject.subject_id,
        venue=verdict.venue,
        event_id=subject.event_id,
        direction=verdict.direction,
        legs=verdict.legs,
        all_or_none=verdict.all_or_none,
        strength_ppm=verdict.strength_ppm,
        net_edge_micros=verdict.net_edge_micros,
        fair_value_micros=verdict.fair_value_micros,
        input_time_us=verdict.input_time_us,
        input_digest=digest,
        expire_time_us=verdict.input_time_us + verdict.time_to_live_us,
        lockup_until_us=verdict.lockup_until_us,
        data_origin=subject.data_origin,
        evidence=verdict.evidence,
        confidence_ppm=subject.confidence_ppm,
        supersedes_signal_id=supersedes,
    ).identified()


def _leg_keys(legs: tuple[Leg, ...]) -> frozenset[tuple[str, int, str]]:
    return frozenset((leg.market_id, leg.outcome_index, leg.action.value) for leg in legs)


def _sorted(legs: tuple[Leg, ...]) -> list[Leg]:
    return sorted(legs, key=lambda leg: (leg.market_id, leg.outcome_index, leg.action.value))


def _moved(old: Leg, new: Leg) -> bool:
    if abs(new.limit_price_micros - old.limit_price_micros) >= old.tick_micros:
        return True
    before, after = old.available_size_micros, new.available_size_micros
    if before is None or after is None:
        return (before is None) != (after is None)
    return abs(after - before) * 5 >= before
