"""Kalshi's numbers in three dialects: cents, both, dollars alone. The key decides, never the size of the number."""

from collections.abc import Mapping
from typing import Any

from oddstream_server.domain.money import MICROS
from oddstream_server.venues.decimals import cents, micros
from oddstream_server.venues.rows import QuarantineReason, RowError


def optional_price(row: Mapping[str, Any], name: str) -> int | None:
    """``<name>_dollars`` or, in the old dialect, ``<name>`` in cents; in micros."""
    value = row.get(f"{name}_dollars")
    if value is not None:
        return micros(value, f"{name}_dollars")
    value = row.get(name)
    return None if value is None else cents(value, name)


def price(row: Mapping[str, Any], name: str) -> int:
    """As :func:`optional_price`, and it has to be there and lie within 0 and the payout."""
    value = optional_price(row, name)
    if value is None:
        raise RowError(QuarantineReason.FIELD_MISSING, f"neither {name}_dollars nor {name} is there")
    return in_range(value, name)


def in_range(price_micros: int, name: str, payout_micros: int = MICROS) -> int:
    if not 0 <= price_micros <= payout_micros:
        raise RowError(QuarantineReason.PRICE_OUT_OF_RANGE, f"{name} is not between 0 and the payout")
    return price_micros


def optional_count(row: Mapping[str, Any], name: str) -> int | None:
    """``<name>_fp`` as text or, in the old dialect, ``<name>`` in whole contracts; in micros of a contract."""
    value = row.get(f"{name}_fp")
    field = f"{name}_fp"
    if value is None:
        value, field = row.get(name), name
    if value is None:
        return None
    size = micros(value, field)
    if size < 0:
        raise RowError(QuarantineReason.SIZE_OUT_OF_RANGE, f"{field} is negative")
    return size


def market_key(ticker: str) -> str:
    return f"kalshi:{ticker}"
