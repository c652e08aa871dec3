"""Rows as a venue sends them: typed reading, the reasons to refuse one, and the quarantine they go to."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from enum import StrEnum
from typing import Any

from oddstream_server.application.ports import QuarantinedRow
from oddstream_server.domain.market import Venue

PAYLOAD_LIMIT = 64 * 1024
"""Bytes of a quarantined row that are kept."""


class QuarantineReason(StrEnum):
    """Why a row can't be read; the label of a metric, so a small set."""

    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    FIELD_MISSING = "field_missing"
    FIELD_TYPE = "field_type"
    NUMBER_INVALID = "number_invalid"
    NUMBER_INEXACT = "number_inexact"
    PRICE_OUT_OF_RANGE = "price_out_of_range"
    PRICES_INCONSISTENT = "prices_inconsistent"
    SIZE_OUT_OF_RANGE = "size_out_of_range"
    TIME_INVALID = "time_invalid"
    ENUM_UNKNOWN = "enum_unknown"
    FEE_UNKNOWN = "fee_unknown"
    IDENTITY_MISSING = "identity_missing"
    OUTCOMES_INCONSISTENT = "outcomes_inconsistent"
    SETTLEMENT_INCONSISTENT = "settlement_inconsistent"
    BOOK_CROSSED = "book_crossed"
    BOOK_HASH = "book_hash"
    PAGE_REPEATED = "page_repeated"
    REFUSED = "refused"


class RowError(Exception):
    """A row, or a field of it, breaks a rule of its format."""

    def __init__(self, reason: QuarantineReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def exact_json(body: bytes | str) -> Any:
    """JSON whose numbers keep their text: integers as int, others as Decimal. A byte-order mark is skipped.

    :raises RowError: the body is no JSON (``not_json``), e.g. an edge's HTML page.
    """
    try:
        return json.loads(body, parse_float=Decimal)
    except (ValueError, RecursionError):
        raise RowError(QuarantineReason.NOT_JSON, "the body is no JSON") from None


def as_object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowError(QuarantineReason.NOT_AN_OBJECT, f"{what} must be an object, got {type(value).__name__}")
    return value


def as_list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise RowError(QuarantineReason.FIELD_TYPE, f"{what} must be a list, got {type(value).__name__}")
    return value


def text(row: Mapping[str, Any], field: str) -> str:
    """A text that has to be there and not be empty."""
    value = row.get(field)
    if value is None or value == "":
        raise RowError(QuarantineReason.FIELD_MISSING, f"{field} is missing")
    if not isinstance(value, str):
        raise RowError(QuarantineReason.FIELD_TYPE, f"{field} must be a text, got {type(value).__name__}")
    return value


def optional_text(row: Mapping[str, Any], field: str) -> str:
    """A text that may be absent, null or empty: then ``""``."""
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(QuarantineReason.FIELD_TYPE, f"{field} must be a text, got {type(value).__name__}")
    return value


def flag(row: Mapping[str, Any], field: str, default: bool = False) -> bool:
    value = row.get(field)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RowError(QuarantineReason.FIELD_TYPE, f"{field} must be true or false, got {type(value).__name__}")
    return value


def whole_number(row: Mapping[str, Any], field: str) -> int:
    value = row.get(field)
    if value is None:
        raise RowError(QuarantineReason.FIELD_MISSING, f"{field} is missing")
    if isinstance(value, bool) or not isinstance(value, int):
        raise RowError(QuarantineReason.FIELD_TYPE, f"{field} must be a whole number, got {type(value).__name__}")
    return value


class Quarantine:
    """Collects the rows of one body or frame that can't be read."""

    def __init__(self, venue: Venue, source: str, receive_time_us: int) -> None:
        self._venue = venue
        self._source = source
        self._receive_time_us = receive_time_us
        self.rows: list[QuarantinedRow] = []

    def add(self, reason: QuarantineReason, detail: str, payload: object) -> None:
        """Keep a row, or a field of a row that is otherwise good, with its reason."""
        self.rows.append(
            QuarantinedRow(
                venue=self._venue,
                source=self._source,
                reason=reason.value,
                detail=detail,
                payload=payload_bytes(payload),
                receive_time_us=self._receive_time_us,
            )
        )

    @contextmanager
    def guard(self, payload: object) -> Iterator[None]:
        """Whatever row error the block raises ends the block and quarantines ``payload``."""
        try:
            yield
        except RowError as error:
            self.add(error.reason, error.detail, payload)


def payload_bytes(payload: object) -> bytes:
    """A row as bytes, at most 64 KiB."""
    if isinstance(payload, bytes):
        return payload[:PAYLOAD_LIMIT]
    if isinstance(payload, str):
        return payload.encode(errors="replace")[:PAYLOAD_LIMIT]
    return json.dumps(payload, default=str, separators=(",", ":")).encode(errors="replace")[:PAYLOAD_LIMIT]
