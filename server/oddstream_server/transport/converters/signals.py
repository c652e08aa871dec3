"""Signals, their events and their grades, as messages; their filters, from messages."""

import math

from google.protobuf.duration_pb2 import Duration

from oddstream.v1 import signal_pb2, signal_service_pb2
from oddstream_server.application.ports import SignalFilter, SignalListFilter, StoredSignal
from oddstream_server.domain.market import split_market_id
from oddstream_server.domain.signal import (
    Action,
    BookSide,
    Direction,
    Evidence,
    Grade,
    Leg,
    Signal,
    SignalEvent,
    SignalEventType,
    SignalState,
)
from oddstream_server.transport.converters.values import (
    DATA_ORIGINS,
    VENUES,
    chosen,
    duration,
    enum_table,
    span,
    stamp,
    timestamp,
)

DIRECTIONS = enum_table(Direction, signal_pb2.SignalDirection, "SIGNAL_DIRECTION")
STATES = enum_table(SignalState, signal_pb2.SignalState, "SIGNAL_STATE")
ACTIONS = enum_table(Action, signal_pb2.LegAction, "LEG_ACTION")
BOOK_SIDES = enum_table(BookSide, signal_pb2.BookSide, "BOOK_SIDE")
EVENT_TYPES = enum_table(SignalEventType, signal_pb2.SignalEventType, "SIGNAL_EVENT_TYPE")
EVIDENCE_UNITS = {
    "micros": signal_pb2.EVIDENCE_UNIT_MICROS,
    "us": signal_pb2.EVIDENCE_UNIT_MICROSECONDS,
    "count": signal_pb2.EVIDENCE_UNIT_COUNT,
    "ppm": signal_pb2.EVIDENCE_UNIT_PARTS_PER_MILLION,
    "bool": signal_pb2.EVIDENCE_UNIT_BOOLEAN,
}
_OPENING = (SignalEventType.CREATED, SignalEventType.REVISED)
_PPM = 1_000_000


def signal_message(signal: Signal, *, full: bool) -> signal_pb2.Signal:
    """What never changes of a signal.

    :param full: with the evidence.
    """
    return signal_pb2.Signal(
        signal_id=signal.signal_id,
        opportunity_id=signal.opportunity_id,
        revision=signal.revision,
        kind=signal.kind,
        kind_version=signal.version,
        strategy_id=signal.strategy_id,
        direction=DIRECTIONS[signal.direction],
        subject_id=signal.subject_id,
        event_id=signal.event_id,
        legs=[_leg(number, leg) for number, leg in enumerate(signal.legs)],
        leg_order=signal_pb2.LEG_ORDER_SEQUENTIAL if len(signal.legs) > 1 else signal_pb2.LEG_ORDER_UNSPECIFIED,
        all_or_none=signal.all_or_none,
        strength=signal.strength_ppm / _PPM,
        net_edge_micros=signal.net_edge_micros,
        confidence=None if signal.confidence_ppm is None else signal.confidence_ppm / _PPM,
        fair_value_micros=signal.fair_value_micros,
        trigger_time=timestamp(signal.input_time_us),
        expire_time=timestamp(signal.expire_time_us),
        lock_up=_lock_up(signal),
        data_origin=DATA_ORIGINS[signal.data_origin],
        supersedes_signal_id=signal.supersedes_signal_id,
        params_digest=signal.params_digest,
        input_digest=signal.input_digest,
        disclaimer_code=signal.disclaimer_code,
        evidence=[_evidence(e) for e in signal.evidence] if full else (),
    )


def _lock_up(signal: Signal) -> Duration | None:
    until_us = signal.lockup_until_us
    return None if until_us is None else duration(max(0, until_us - signal.input_time_us))


def _leg(number: int, leg: Leg) -> signal_pb2.SignalLeg:
    venue, _ = split_market_id(leg.market_id)
    return signal_pb2.SignalLeg(
        leg_number=number,
        market_id=leg.market_id,
        venue=VENUES[venue],
        outcome_index=leg.outcome_index,
        venue_instrument_id=leg.venue_instrument_id,
        action=ACTIONS[leg.action],
        limit_price_micros=leg.limit_price_micros,
        book_side=BOOK_SIDES[leg.book_side],
        book_price_micros=leg.book_price_micros,
        available_size_micros=leg.available_size_micros,
        tick_size_micros=leg.tick_micros,
        minimum_size_micros=leg.minimum_size_micros,
        size_step_micros=leg.size_step_micros,
        neg_risk=leg.neg_risk,
        taker_delay=duration(leg.taker_delay_us or None),
        expected_fee_micros=leg.expected_fee_micros,
        book_epoch=leg.book_epoch,
        venue_time=timestamp(leg.book_venue_time_us),
        receive_time=timestamp(leg.book_receive_time_us),
        outcome_label=leg.outcome_label,
    )


def _evidence(evidence: Evidence) -> signal_pb2.Evidence:
    return signal_pb2.Evidence(
        name=evidence.name, value=evidence.value, unit=EVIDENCE_UNITS[evidence.unit], source=evidence.source
    )


def grade_message(grade: Grade) -> signal_pb2.SignalGrade:
    return signal_pb2.SignalGrade(
        revision=grade.revision,
        realized_edge_micros=grade.realized_edge_micros,
        correct=grade.correct,
        void=grade.void,
        grade_time=timestamp(grade.grade_time_us),
    )


def signal_event_message(event: SignalEvent, *, full: bool) -> signal_pb2.SignalEvent:
    """One entry of the log, with its signal as it stands after it."""
    signal = signal_message(event.signal, full=full)
    signal.state = STATES[event.state_after]
    if event.type in _OPENING:
        signal.create_time.CopyFrom(stamp(event.create_time_us))
    elif event.end_time_us is not None:
        signal.end_time.CopyFrom(stamp(event.end_time_us))
    if event.type is SignalEventType.WITHDRAWN and event.reason:
        signal.withdraw_reason = signal_pb2.WithdrawReason.Value(f"WITHDRAW_REASON_{event.reason}")
    if event.superseded_by_opportunity_id is not None:
        signal.superseded_by_opportunity_id = event.superseded_by_opportunity_id
    if event.grade is not None:
        signal.grade.CopyFrom(grade_message(event.grade))
    return signal_pb2.SignalEvent(
        sequence=event.sequence,
        type=EVENT_TYPES[event.type],
        create_time=timestamp(event.create_time_us),
        opening_strength=event.opening_strength_ppm / _PPM,
        opening_net_edge_micros=event.opening_net_edge_micros,
        signal=signal,
    )


def stored_signal_message(stored: StoredSignal, *, full: bool) -> signal_pb2.Signal:
    """A signal with its life up to now."""
    message = signal_message(stored.signal, full=full)
    message.state = STATES[stored.state]
    message.create_time.CopyFrom(stamp(stored.create_time_us))
    if stored.end_time_us is not None:
        message.end_time.CopyFrom(stamp(stored.end_time_us))
    if stored.grade is not None:
        message.grade.CopyFrom(grade_message(stored.grade))
    return message


def signal_filter(given: signal_pb2.SignalFilter, *, include_simulated: bool, include_replay: bool) -> SignalFilter:
    return SignalFilter(
        venues=chosen(VENUES, given.venues, "filter.venues"),
        event_ids=tuple(given.event_ids),
        market_ids=tuple(given.market_ids),
        kinds=tuple(given.kinds),
        strategy_ids=tuple(given.strategy_ids),
        directions=chosen(DIRECTIONS, given.directions, "filter.directions"),
        # Strengths come in steps of a millionth, so a bound between two steps is the upper one.
        minimum_strength_ppm=math.ceil(given.minimum_strength * _PPM - 1e-6),
        minimum_net_edge_micros=(given.minimum_net_edge_micros if given.HasField("minimum_net_edge_micros") else None),
        include_simulated=include_simulated,
        include_replay=include_replay,
    )


def signal_list_filter(given: signal_service_pb2.ListSignalsRequest) -> SignalListFilter:
    created = span(given.history.create_time_range, "history.create_time_range")
    return SignalListFilter(
        match=signal_filter(
            given.filter, include_simulated=given.include_simulated, include_replay=given.include_replay
        ),
        states=chosen(STATES, given.history.states, "history.states"),
        opportunity_ids=tuple(given.history.opportunity_ids),
        create_time_from_us=created.from_us,
        create_time_to_us=created.to_us,
    )
