"""The client's formulas and fees against the server's, on signals that the server's strategies make."""

import itertools
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddstream.fees import schedule_at, taker_fee_micros, taker_fee_working
from oddstream.recompute import CannotRecompute, recompute, strength_ppm
from oddstream.v1 import fee_schedule_pb2, signal_pb2
from oddstream_server.domain import fees as domain_fees
from oddstream_server.domain.market import Venue
from oddstream_server.domain.signal import SignalEventType
from oddstream_server.transport.converters.markets import fee_schedule_message
from oddstream_server.transport.converters.signals import signal_message
from tests.strategies.test_every_strategy import KINDS, a_runner
from tests.strategies.worlds import a_world_for


@cache
def bodies(kind):
    """Of one kind's signals, made once for all the tests that look at them."""
    made = []
    for seed in (1, 2):
        world = a_world_for(kind, seed)
        made += [
            event.signal
            for event in a_runner(kind, world).decide(world.ticks).events
            if event.type in (SignalEventType.CREATED, SignalEventType.REVISED)
        ]
    assert len(made) > 20
    return [signal_message(signal, full=True).SerializeToString() for signal in made]


def generated(kind):
    """The messages, anew each time since tests change them."""
    return [signal_pb2.Signal.FromString(body) for body in bodies(kind)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_generated_signal_computes_to_itself_again(kind):
    for message in generated(kind):
        again = recompute(message)
        stated = message.net_edge_micros if message.HasField("net_edge_micros") else None
        assert (again.net_edge_micros, again.strength_ppm) == (stated, strength_ppm(message))
        assert again.terms
        if again.net_edge_micros is not None:
            assert sum(term.value_micros for term in again.terms) == again.net_edge_micros
        assert again.equals(message)


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_that_was_changed_by_one_millionth_is_found_out(kind):
    message = generated(kind)[0]
    if message.HasField("net_edge_micros"):
        message.net_edge_micros += 1
        assert not recompute(message).equals(message)
        message.net_edge_micros -= 1
    message.strength += 1e-6 if message.strength < 0.5 else -1e-6
    assert not recompute(message).equals(message)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_evidence_and_unknown_formulas_are_said_in_words(kind):
    message = generated(kind)[0]
    message.kind_version += 1
    with pytest.raises(CannotRecompute, match="doesn't know the formula"):
        recompute(message)
    message.kind_version -= 1
    lacking = ("_fee_micros", "deviation_logit_micros", "depth_contracts", "depth_notional_cents", "deviation_e4")
    kept = [e for e in message.evidence if not e.name.endswith(lacking)]
    del message.evidence[:]
    with pytest.raises(CannotRecompute, match="FULL view"):
        recompute(message)
    message.evidence.extend(kept)
    with pytest.raises(CannotRecompute, match="lacks"):
        recompute(message)


@pytest.mark.parametrize("kind", KINDS)
def test_the_expected_fee_of_every_leg_follows_from_the_market_s_schedule(kind):
    schedules = {m.market_id: m.fee_schedules[0] for m in a_world_for(kind, 1).markets}
    for message in generated(kind):
        for leg in message.legs:
            schedule = fee_schedule_message(schedules[leg.market_id], Venue.KALSHI)
            size = leg.available_size_micros if leg.HasField("available_size_micros") else 1_000_000
            assert taker_fee_micros(schedule, leg.limit_price_micros, size) == leg.expected_fee_micros


SCHEDULES = st.builds(
    domain_fees.FeeSchedule,
    formula=st.sampled_from(domain_fees.FeeFormula),
    taker_rate_ppm=st.integers(0, 300_000),
    maker_rate_ppm=st.just(0),
    multiplier_ppm=st.sampled_from((0, 500_000, 1_000_000, 1_250_000)),
    exponent=st.integers(1, 3),
    rounding_step_micros=st.sampled_from((1, 10, 100, 10_000)),
    minimum_micros=st.sampled_from((0, 0, 10, 20_000)),
)


@given(
    SCHEDULES, st.integers(0, 1_000_000), st.integers(0, 10_000_000_000_000), st.sampled_from((1_000_000, 2_000_000))
)
def test_fees_agree_with_the_server_to_the_micro_and_their_working_ends_in_them(schedule, price, size, payout):
    message = fee_schedule_message(schedule, Venue.KALSHI)
    expected = schedule.fill_fee_micros(price, size, payout_micros=payout)
    assert taker_fee_micros(message, price, size, payout) == expected
    whole, _, rest = taker_fee_working(message, price, size, payout)[-1].result.partition(".")
    assert int(whole) * 1_000_000 + int(rest.ljust(6, "0")) == expected


def test_the_working_of_a_fee_reads_as_one_would_do_it_by_hand():
    schedule = fee_schedule_pb2.FeeSchedule(
        formula=fee_schedule_pb2.FEE_FORMULA_QUADRATIC,
        taker_rate_ppm=70_000,
        multiplier_ppm=1_000_000,
        rounding_step_micros=10_000,
    )
    steps = taker_fee_working(schedule, 430_000, 120_000_000)
    assert [(s.expression, s.result) for s in steps] == [
        ("0.07 x 120 x 0.43 x 0.57", "2.05884"),
        ("rounded up to a multiple of 0.01", "2.06"),
    ]


def test_of_several_schedules_in_force_the_narrowest_wins_and_then_the_latest():
    def row(scope, start_us, end_us=None):
        made = fee_schedule_pb2.FeeSchedule(scope=scope)
        if start_us is not None:
            made.valid_from_time.FromMicroseconds(start_us)
        if end_us is not None:
            made.valid_to_time.FromMicroseconds(end_us)
        return made

    always = row(fee_schedule_pb2.FEE_SCOPE_VENUE, None)
    series = row(fee_schedule_pb2.FEE_SCOPE_SERIES, 10, 20)
    later = row(fee_schedule_pb2.FEE_SCOPE_VENUE, 15)
    for order in itertools.permutations([always, series, later]):
        assert [schedule_at(order, t) for t in (9, 10, 19, 20)] == [always, series, series, later]
    assert schedule_at([series], 20) is None
