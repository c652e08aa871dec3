"""Decimals and instants of the wire, read exactly."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddstream_server.domain.money import Rounding
from oddstream_server.venues.decimals import InexactNumber, cents, micros, rounded_micros
from oddstream_server.venues.rows import PAYLOAD_LIMIT, QuarantineReason, RowError, exact_json, payload_bytes
from oddstream_server.venues.times import day_us, iso_us, milliseconds_us, optional_iso_us, seconds_us


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0.5600", 560_000),
        (".48", 480_000),
        ("1", 1_000_000),
        ("1.", 1_000_000),
        ("0.000001", 1),
        ("0.0000010000", 1),
        ("-50.00", -50_000_000),
        ("-0.5", -500_000),
        ("966425.00", 966_425_000_000),
        ("1e-3", 1_000),
        (3, 3_000_000),
        (Decimal("0.001"), 1_000),
        (Decimal("1E+2"), 100_000_000),
    ],
)
def test_a_decimal_becomes_micros_exactly(written: object, expected: int) -> None:
    assert micros(written, "price") == expected


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("0.0000001", QuarantineReason.NUMBER_INEXACT),
        (Decimal("0.21999995306666104"), QuarantineReason.NUMBER_INEXACT),
        ("", QuarantineReason.NUMBER_INVALID),
        (".", QuarantineReason.NUMBER_INVALID),
        ("-", QuarantineReason.NUMBER_INVALID),
        ("1.2.3", QuarantineReason.NUMBER_INVALID),
        ("NaN", QuarantineReason.NUMBER_INVALID),
        ("Infinity", QuarantineReason.NUMBER_INVALID),
        ("1e999999999", QuarantineReason.NUMBER_INVALID),
        ("\u0661\u0662", QuarantineReason.NUMBER_INVALID),
        (True, QuarantineReason.NUMBER_INVALID),
        (None, QuarantineReason.NUMBER_INVALID),
        ([1], QuarantineReason.NUMBER_INVALID),
    ],
)
def test_what_is_no_exact_decimal_is_refused_with_its_field(written: object, reason: QuarantineReason) -> None:
    with pytest.raises(RowError) as refused:
        micros(written, "price_dollars")
    assert refused.value.reason is reason
    assert "price_dollars" in refused.value.detail


def test_a_float_is_never_a_number() -> None:
    with pytest.raises(InexactNumber):
        micros(0.5, "price")


def test_an_average_price_is_rounded_to_the_micro_once() -> None:
    assert rounded_micros(Decimal("0.21999995306666104"), "price") == 220_000
    assert rounded_micros("0.0000005", "price") == 1
    assert rounded_micros("0.0000005", "price", Rounding.DOWN) == 0


def test_cents_are_ten_thousand_micros_and_nothing_else() -> None:
    assert cents(1, "yes_bid") == 10_000
    for wrong in (True, "1", Decimal(1)):
        with pytest.raises(RowError):
            cents(wrong, "yes_bid")


@given(st.integers(-(10**15), 10**15))
def test_every_amount_of_micros_survives_its_text(amount: int) -> None:
    written = f"{'-' if amount < 0 else ''}{abs(amount) // 1_000_000}.{abs(amount) % 1_000_000:06d}"
    assert micros(written, "x") == amount
    assert micros(Decimal(written), "x") == amount


def test_json_numbers_keep_their_digits_and_a_byte_order_mark_is_skipped() -> None:
    read = exact_json(b'\xef\xbb\xbf{"bid": 0.001, "id": 123456789012345678901234567890}')
    assert read == {"bid": Decimal("0.001"), "id": 123456789012345678901234567890}
    assert not isinstance(read["bid"], float)


def test_an_html_page_is_no_json() -> None:
    with pytest.raises(RowError) as refused:
        exact_json("<html>gateway</html>")
    assert refused.value.reason is QuarantineReason.NOT_JSON


def test_a_quarantined_payload_is_cut_at_its_limit() -> None:
    assert len(payload_bytes({"text": "x" * (2 * PAYLOAD_LIMIT)})) == PAYLOAD_LIMIT
    assert payload_bytes({"price": Decimal("0.1")}) == b'{"price":"0.1"}'


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("1970-01-01T00:00:00.5Z", 500_000),
        ("1970-01-01T00:00:00.123456789Z", 123_456),
        ("1970-01-01 00:00:11+00", 11_000_000),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1969-12-31T19:00:00-0500", 0),
        ("2026-08-08T22:57:45.764968Z", 1_786_229_865_764_968),
    ],
)
def test_both_forms_of_a_time_are_read(written: str, expected: int) -> None:
    assert iso_us(written, "close_time") == expected


@pytest.mark.parametrize("written", ["", "2026-08-08T22:57:45", "2026-02-30T00:00:00Z", "yesterday", 5, None])
def test_a_time_that_can_not_be_known_is_refused(written: object) -> None:
    with pytest.raises(RowError) as refused:
        iso_us(written, "close_time")
    assert refused.value.reason is QuarantineReason.TIME_INVALID
    assert optional_iso_us(None, "x") is None


def test_days_and_counts_of_time_are_read() -> None:
    assert day_us("January 2, 1970", "umaEndDate") == 86_400_000_000
    assert day_us("1970-01-02T00:00:00Z", "umaEndDate") == 86_400_000_000
    assert seconds_us(5, "ts") == 5_000_000
    assert seconds_us("5", "ts") == 5_000_000
    assert milliseconds_us("1769173094794", "timestamp") == 1_769_173_094_794_000
    for wrong in (-1, True, "x", 10**18, 1.5, None):
        with pytest.raises(RowError):
            seconds_us(wrong, "ts")
    with pytest.raises(RowError):
        day_us("Smarch 2, 1970", "umaEndDate")
    with pytest.raises(RowError):
        day_us("February 31, 1970", "umaEndDate")
