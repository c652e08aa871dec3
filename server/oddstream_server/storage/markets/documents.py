"""Catalog entries as JSON documents: the domain's dataclasses as they are, and back."""

import hashlib
from typing import Any

import orjson

from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.market import (
    CollateralRule,
    Declared,
    Event,
    LinkRelation,
    LinkState,
    Market,
    MarketLink,
    MarketState,
    Outcome,
    PriceRange,
    Settlement,
    SettlementState,
    Strike,
    Venue,
)

Document = dict[str, Any]

_OWN_COLUMNS = ("state", "settlement", "volume_micros", "open_interest_micros", "update_time_us")


def document_of(value: object) -> Document:
    """A dataclass as JSON values."""
    found: Document = orjson.loads(orjson.dumps(value))
    return found


def market_body(market: Market) -> Document:
    """A market without what has columns of its own: what is left changes rarely."""
    body = document_of(market)
    for name in _OWN_COLUMNS:
        del body[name]
    return body


def event_body(event: Event) -> Document:
    body = document_of(event)
    del body["update_time_us"]
    return body


def digest_of(body: Document) -> bytes:
    """SHA-256 of a document, the same for equal ones."""
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()


def market_of(row: Any) -> Market:
    """A row of ``markets``."""
    body = row.body
    return Market(
        **{
            **body,
            "venue": Venue(body["venue"]),
            "outcomes": tuple(Outcome(**o) for o in body["outcomes"]),
            "price_ranges": tuple(PriceRange(**r) for r in body["price_ranges"]),
            "fee_schedules": tuple(
                FeeSchedule(**{**f, "formula": FeeFormula(f["formula"])}) for f in body["fee_schedules"]
            ),
            "venue_ids": _pairs(body["venue_ids"]),
            "strike": None if body["strike"] is None else Strike(**body["strike"]),
            "state": MarketState(row.state),
            "settlement": None if row.settlement is None else settlement_of(row.settlement),
            "volume_micros": row.volume_micros,
            "open_interest_micros": row.open_interest_micros,
            "update_time_us": row.update_time,
        }
    )


def settlement_of(document: Document) -> Settlement:
    return Settlement(**{**document, "state": SettlementState(document["state"])})


def event_of(row: Any, market_ids: tuple[str, ...]) -> Event:
    """A row of ``events``, with the ids of the markets that name it."""
    body = row.body
    return Event(
        **{
            **body,
            "venue": Venue(body["venue"]),
            "market_ids": tuple(dict.fromkeys((*body["market_ids"], *market_ids))),
            "exclusivity": Declared(body["exclusivity"]),
            "exhaustiveness": Declared(body["exhaustiveness"]),
            "collateral_rule": CollateralRule(body["collateral_rule"]),
            "venue_ids": _pairs(body["venue_ids"]),
            "update_time_us": row.update_time,
        }
    )


def link_of(body: Document) -> MarketLink:
    return MarketLink(
        **{
            **body,
            "relation": LinkRelation(body["relation"]),
            "state": LinkState(body["state"]),
            "outcome_map": _pairs(body["outcome_map"]),
            "evidence": _pairs(body["evidence"]),
        }
    )


def _pairs(values: list[list[Any]]) -> Any:
    return tuple((first, second) for first, second in values)
