from datetime import UTC

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from oddstream.cli import words
from oddstream.v1 import signal_pb2, venue_pb2
from tests.client.cli.messages import NOW_US, a_leg, a_signal


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (430_000, "0.43"),
        (0, "0"),
        (1, "0.000001"),
        (-12_500, "-0.0125"),
        (120_000_000, "120"),
        (1_234_567_000_000, "1,234,567"),
    ],
)
def test_a_number_of_micros_reads_as_its_shortest_exact_decimal(micros, text):
    assert words.decimal(micros) == text


@given(st.integers(-(2**63), 2**63 - 1))
def test_no_digit_is_ever_lost(micros):
    sign, text = (-1, words.decimal(micros)[1:]) if micros < 0 else (1, words.decimal(micros))
    whole, _, rest = text.replace(",", "").partition(".")
    assert sign * (int(whole) * 1_000_000 + int(rest.ljust(6, "0"))) == micros


def test_a_signed_number_shows_its_plus():
    assert [words.decimal(n, signed=True) for n in (5, 0, -5)] == ["+0.000005", "0", "-0.000005"]
    assert words.absent(None) == "-"


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (12, "12µs"),
        (850_000, "850ms"),
        (12_900_000, "12s"),
        (245_000_000, "4m 05s"),
        (12_000_000_000, "3h 20m"),
        (187_200_000_000, "2d 4h"),
        (-12_000_000, "-12s"),
    ],
)
def test_a_span_reads_in_two_units_at_most(us, text):
    assert words.span(us) == text


def test_a_moment_has_its_zone_and_its_age():
    time = Timestamp()
    time.FromMicroseconds(NOW_US - 12_000_000)
    assert words.moment(time, NOW_US, UTC) == "2026-05-28 20:26:28 UTC (12s ago)"
    assert words.moment(time, NOW_US - 24_000_000, UTC).endswith("(in 12s)")


def test_enum_values_read_without_their_prefix_and_unknown_ones_as_their_number():
    assert words.word(signal_pb2.SignalEventType, signal_pb2.SIGNAL_EVENT_TYPE_CREATED) == "CREATED"
    assert words.word(signal_pb2.SignalEventType, 77) == "77"
    assert words.venue(venue_pb2.VENUE_POLYMARKET_US) == "polymarket_us"


def test_one_leg_reads_as_an_order():
    assert words.to_do(a_signal()) == 'BUY "Lakers" ≤ 0.43 × 120'
    assert words.to_do(a_signal(legs=[a_leg(size=None)])) == 'BUY "Lakers" ≤ 0.43'
    sell = a_signal(legs=[a_leg(action=signal_pb2.LEG_ACTION_SELL)])
    assert words.to_do(sell) == 'SELL "Lakers" ≥ 0.43 × 120'


def test_a_basket_reads_as_the_sum_of_its_limits():
    same = a_signal(legs=[a_leg(i, "Yes", p) for i, p in enumerate((200_000, 310_000, 420_000))])
    assert words.to_do(same) == 'BUY 3 "Yes", sum ≤ 0.93 × 120'
    named = a_signal(legs=[a_leg(0, "A", 200_000), a_leg(1, "B", 310_000)])
    assert words.to_do(named) == 'BUY 2 legs, sum ≤ 0.51 × 120: "A" 0.2 + "B" 0.31'
    mixed = a_signal(legs=[a_leg(0, "A"), a_leg(1, "B", action=signal_pb2.LEG_ACTION_SELL)])
    assert words.to_do(mixed) == '2 legs: BUY "A" ≤ 0.43 × 120 + SELL "B" ≥ 0.43 × 120'
    assert words.to_do(signal_pb2.Signal()) == "nothing to trade"
