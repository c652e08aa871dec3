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
    LinkRelation,
    LinkState,
    Market,
    MarketLink,
    MarketState,
    Outcome,
    PriceRange,
    Strike,
    Venue,
)
from oddstream_server.domain.signal import plain

Fact = Event | Market | MarketLink
"""What strategies depend on and didn't come as a tick."""
Subject = TypeVar("Subject", Market, Event, MarketLink)

MARKETS_ID: Final = "runner.markets"
EVENTS_ID: Final = "runner.events"
LINKS_ID: Final = "runner.links"
"""Names under which the journal is kept among the checkpoints, by the id of its subject."""

ALWAYS: Final = 0
"""Effective time of facts that hold from the beginning."""
TOLD_AFTER_US: Final = 5_000_000
"""So long after an instant its price counts as known where nobody saw when it came; feeds are a second or two late."""


def essential_market(market: Market) -> Market:
    """The market without what no strategy reads and what the future would leak through."""
    return replace(
        market,
        title="",
        rules_text="",
        venue_ids=(),
        settlement=None,
        volume_micros=None,
        open_interest_micros=None,
        update_time_us=None,
    )


def essential_event(event: Event) -> Event:
    return replace(event, title="", category="", venue_ids=(), update_time_us=None)


def essential_link(link: MarketLink) -> MarketLink:
    return replace(link, reviewer="", note="", create_time_us=None, review_time_us=None, evidence=(), revision=1)


def fact_key(fact: Fact) -> tuple[int, str]:
    """Rank and id: events are learnt before markets, markets before links."""
    if isinstance(fact, Event):
        return 0, fact.event_id
    return (1, fact.market_id) if isinstance(fact, Market) else (2, fact.link_id)


def fact_venue(fact: Fact) -> str:
    """Of a link, that of its first market."""
    return fact.market_id.partition(":")[0] if isinstance(fact, MarketLink) else fact.venue.value


@dataclass(slots=True)
class Journal:
    """Versions of events, markets and links by the receive time from which they held."""

    markets: dict[str, list[tuple[int, Market]]] = field(default_factory=dict)
    events: dict[str, list[tuple[int, Event]]] = field(default_factory=dict)
    links: dict[str, list[tuple[int, MarketLink]]] = field(default_factory=dict)

    def changes(self) -> list[tuple[int, Fact]]:
        """All versions in the order in which they took effect, events before markets before links, then by id."""
        found: list[tuple[int, Fact]] = [row for versions in self.events.values() for row in versions]
        found += [row for versions in self.markets.values() for row in versions]
        found += [row for versions in self.links.values() for row in versions]
        found.sort(key=lambda row: (row[0], *fact_key(row[1])))
        return found


def from_catalog(markets: Iterable[Market], events: Iterable[Event]) -> Journal:
    """A journal for ticks that came without one (imports): today's facts, taken as holding from the beginning.

    The state is set to OPEN, because today's would tell how the market ended. So would the close of a market that could
    close early: only that of a price ladder, whose terms fix it, is kept. A strike that is the price of an instant is
    not known before it.
    """
    return Journal(
        markets={m.market_id: [(t, essential_market(v)) for t, v in as_it_became_known(m)] for m in markets},
        events={e.event_id: [(ALWAYS, essential_event(e))] for e in events},
    )


def before_its_end(market: Market) -> Market:
    """The market without what tells how it ended: its state, and a close that could come early."""
    close_time_us = None if market.strike is None else market.close_time_us
    return replace(market, state=MarketState.OPEN, close_time_us=close_time_us)


def as_it_became_known(market: Market) -> list[tuple[int, Market]]:
    """Today's market without what tells how it ended, by the time from which each version of it was known."""
    whole = before_its_end(market)
    strike = whole.strike
    if strike is None or strike.opening_time_us is None or strike.floor_micros is None:
        return [(ALWAYS, whole)]
    before = replace(whole, strike=replace(strike, floor_micros=None))
    return [(ALWAYS, before), (strike.opening_time_us + TOLD_AFTER_US, whole)]


def encode(versions: list[tuple[int, Subject]]) -> bytes:
    body = [[time, type(version).__name__, plain(version)] for time, version in versions]
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def decode(stored: bytes) -> list[tuple[int, Fact]]:
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


def _link(body: Mapping[str, Any]) -> MarketLink:
    return MarketLink(
        **{
            **body,
            "relation": LinkRelation(body["relation"]),
            "state": LinkState(body["state"]),
            "outcome_map": tuple((own, other) for own, other in body["outcome_map"]),
            "evidence": (),
        }
    )


_READERS: Final[Mapping[str, Any]] = {"Market": _market, "Event": _event, "MarketLink": _link}
