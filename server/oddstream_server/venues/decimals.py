"""Exact decimals of the wire as integer micros. No value ever passes through a float."""

from decimal import Decimal, InvalidOperation
from functools import lru_cache

from oddstream_server.domain.money import Rounding, divide
from oddstream_server.venues.rows import QuarantineReason, RowError

WireNumber = str | int | Decimal
"""A number as the exact JSON reader gives it: decimal text, an integer, or a Decimal made from the number's text."""

_DECIMALS = 6
_LONGEST = 64  # no honest price, size or volume needs more characters; guards against absurd exponents


def micros(value: object, field: str) -> int:
    """The value in micros, exactly.

    :raises RowError: it is no decimal (``number_invalid``) or has more than six decimals (``number_inexact``).
    """
    if type(value) is str:
        return _micros_of_text(value, field)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise not_a_number(value, field)
    if isinstance(value, int):
        return value * 1_000_000
    return _exact(value, field)


def rounded_micros(value: object, field: str, rounding: Rounding = Rounding.HALF_UP) -> int:
    """The value in micros where the venue itself sends more digits than it means, e.g. an average fill price."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise not_a_number(value, field)
    numerator, denominator = _decimal(value, field).as_integer_ratio()
    return divide(numerator * 1_000_000, denominator, rounding)


def cents(value: object, field: str) -> int:
    """Integer cents (the venue's dialect before March 2026) in micros of a dollar."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise not_a_number(value, field)
    return value * 10_000


def not_a_number(value: object, field: str) -> RowError:
    if isinstance(value, float):
        return InexactNumber(field)
    return RowError(QuarantineReason.NUMBER_INVALID, f"{field} must be a decimal, got {type(value).__name__}")


class InexactNumber(RowError):
    """A JSON number was read into a float; its frame has to be read again with the exact reader."""

    def __init__(self, field: str) -> None:
        super().__init__(QuarantineReason.NUMBER_INVALID, f"{field} was read as a float")


@lru_cache(maxsize=1 << 16)  # a venue's prices and usual sizes repeat endlessly; raising calls are not kept
def _micros_of_text(text: str, field: str) -> int:
    whole, point, fraction = text.partition(".")
    if len(text) <= _LONGEST and text.isascii():
        sign = -1 if whole.startswith("-") else 1
        digits = whole.removeprefix("-")
        fraction = fraction.rstrip("0")
        readable = (digits.isdigit() or (not digits and point)) and (not fraction or fraction.isdigit())
        if readable and len(fraction) <= _DECIMALS and (digits or fraction):
            return sign * (int(digits or "0") * 1_000_000 + int(fraction.ljust(_DECIMALS, "0")))
    return _exact(_decimal(text, field), field)


def _exact(number: Decimal, field: str) -> int:
    numerator, denominator = number.as_integer_ratio()
    result, rest = divmod(numerator * 1_000_000, denominator)
    if rest:
        raise RowError(QuarantineReason.NUMBER_INEXACT, f"{field} has more than {_DECIMALS} decimals")
    return result


def _decimal(value: str | int | Decimal, field: str) -> Decimal:
    try:
        number = Decimal(value) if not isinstance(value, str) or value.isascii() else None
    except InvalidOperation:
        number = None
    if number is None:
        raise RowError(QuarantineReason.NUMBER_INVALID, f"{field} is no decimal")
    if not number.is_finite() or abs(number.adjusted()) > _LONGEST:
        raise RowError(QuarantineReason.NUMBER_INVALID, f"{field} is out of every range")
    return number
