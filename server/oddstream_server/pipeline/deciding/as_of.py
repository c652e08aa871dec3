"""The catalog as it was known when a row came, so that a replay sees what the live run saw.

Each market and event that ticks were seen of has a journal: versions of what strategies depend on, each with the
receive time from which it held. The journal is saved in the transaction of the batch that first used a version.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.market import (
    CollateralRule,
    Declared,
    Event,
    Market,
    MarketState,
    Outcome,
    PriceRange,
    Strike,
    Venue,
)
from oddstream_server.domain.signal import plain

Subject = TypeVar("Subject", Market, Event)

ALWAYS: Final = 0
"""Effective time of facts that hold from the beginning."""


def essential_market(market: Market) -> Market:
    """The market without what no strategy reads and what the future would leak through."""
    return replace(
        market,
        title="",
        rules_text="",
        category="",
        venue_ids=(),
        settlement=None,
        volume_micros=None,
        open_interest_micros=None,
        update_time_us=None,
    )


def essential_event(event: Event) -> Event:
    return replace(event, title="", category="", venue_ids=(), update_time_us=None)


@dataclass(slots=True)
class Journal:
    """Versions of markets and events by the receive time from which they held."""

    markets: dict[str, list[tuple[int, Market]]] = field(default_factory=dict)
    events: dict[str, list[tuple[int, Event]]] = field(default_factory=dict)

    def changes(self) -> list[tuple[int, Market | Event]]:
        """All versions in the order in which they took effect, events before markets, then by id."""
        found: list[tuple[int, int, str, Market | Event]] = [
            (time, 0, key, e) for key, versions in self.events.items() for time, e in versions
        ]
        found += [(time, 1, key, m) for key, versions in self.markets.items() for time, m in versions]
        found.sort(key=lambda row: row[:3])
        return [(time, version) for time, _, _, version in found]


def from_catalog(markets: Iterable[Market], events: Iterable[Event]) -> Journal:
    """A journal for ticks that came without one (imports): today's facts, taken as holding from the beginning.

    The state is set to OPEN, because today's would tell how the market ended.
    """
    return Journal(
        markets={m.market_id: [(ALWAYS, essential_market(replace(m, state=MarketState.OPEN)))] for m in markets},
        events={e.event_id: [(ALWAYS, essential_event(e))] for e in events},
    )


def encode(versions: list[tuple[int, Subject]]) -> bytes:
    body = [[time, type(version).__name__, plain(version)] for time, version in versions]
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def decode(stored: bytes) -> list[tuple[int, Market | Event]]:
    return [(time, _READERS[name](body)) for time, name, body in json.loads(stored)]


def _market(body: Mapping[str, Any]) -> Market:
    strike = body["strike"]
    return Market(
        **{
            **body,
            "venue": Venue(body["venue"]),
            "state": MarketState(body["state"]),
            "outcomes": tuple(Outcome(**o) for o in body["outcomes"]),
            "price_ranges": tuple(PriceRange(**r) for r in body["price_ranges"]),
            "fee_schedules": tuple(
                FeeSchedule(**{**f, "formula": FeeFormula(f["formula"])}) for f in body["fee_schedules"]
            ),
            "venue_ids": (),
            "strike": Strike(**strike) if strike else None,
        }
    )


def _event(body: Mapping[str, Any]) -> Event:
    return Event(
        **{
            **body,
            "venue": Venue(body["venue"]),
            "market_ids": tuple(body["market_ids"]),
            "exclusivity": Declared(body["exclusivity"]),
            "exhaustiveness": Declared(body["exhaustiveness"]),
            "collateral_rule": CollateralRule(body["collateral_rule"]),
            "venue_ids": (),
        }
    )


_READERS: Final[Mapping[str, Any]] = {"Market": _market, "Event": _event}
