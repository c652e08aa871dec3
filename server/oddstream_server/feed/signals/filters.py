"""Signal filters, compiled once, and the facts of an event that they look at.

Every comparison is with what is fixed when an opportunity opens, so whoever saw an opportunity open sees it end.
ListSignals lets the same signals pass.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields

from oddstream_server.application.ports import SignalFilter
from oddstream_server.domain.signal import DataOrigin, SignalEvent, SignalEventType


@dataclass(frozen=True, slots=True)
class EventFacts:
    """What filters compare; kept in place of the event, which is far bigger."""

    venues: frozenset[str]
    """Of the signal's first leg and of each leg."""
    event_id: str | None
    market_ids: frozenset[str]
    """Of each leg."""
    kind: str
    strategy_id: str
    direction: str
    opening_strength_ppm: int
    opening_net_edge_micros: int | None
    data_origin: DataOrigin
    offers: bool
    """True for CREATED and REVISED: what may be left out once it has expired."""
    expire_time_us: int


def facts_of(event: SignalEvent) -> EventFacts:
    signal = event.signal
    markets = [leg.market_id for leg in signal.legs]
    return EventFacts(
        venues=frozenset([signal.venue.value, *(m.partition(":")[0] for m in markets)]),
        event_id=signal.event_id,
        market_ids=frozenset(markets),
        kind=signal.kind,
        strategy_id=signal.strategy_id,
        direction=signal.direction.value,
        opening_strength_ppm=event.opening_strength_ppm,
        opening_net_edge_micros=event.opening_net_edge_micros,
        data_origin=signal.data_origin,
        offers=event.type in (SignalEventType.CREATED, SignalEventType.REVISED),
        expire_time_us=signal.expire_time_us,
    )


Test = Callable[[EventFacts], bool]


def filter_digest(where: SignalFilter) -> bytes:
    """16 bytes that are equal for filters that let the same events pass, however their values are ordered."""
    body = {}
    for f in fields(where):
        value = getattr(where, f.name)
        if f.name == "within_venues" and not value:
            continue  # tokens given out before there was such a thing stay good
        body[f.name] = sorted(set(value)) if isinstance(value, tuple) else value
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()[:16]


class CompiledFilter:
    """A filter as the few tests that it really asks for, the cheapest first."""

    __slots__ = ("_tests", "digest", "index_by", "index_keys", "shows_simulated", "venues")

    def __init__(self, where: SignalFilter) -> None:
        self.digest = filter_digest(where)
        self.venues = frozenset(v.value for v in where.venues or where.within_venues)
        self.shows_simulated = where.include_simulated
        self._tests = tuple(_tests_of(where))
        self.index_by, self.index_keys = _index_of(where)

    def matches(self, facts: EventFacts) -> bool:
        for test in self._tests:  # noqa: SIM110  # all() over a generator takes twice as long, and this is the hot loop
            if not test(facts):
                return False
        return True


def _tests_of(where: SignalFilter) -> list[Test]:
    hidden = set()
    if not where.include_simulated:
        hidden.add(DataOrigin.SIMULATED)
    if not where.include_replay:
        hidden.add(DataOrigin.REPLAY)
    tests: list[Test] = []
    if hidden:
        tests.append(lambda facts: facts.data_origin not in hidden)
    if where.minimum_strength_ppm > 0:
        strength = where.minimum_strength_ppm
        tests.append(lambda facts: facts.opening_strength_ppm >= strength)
    if where.minimum_net_edge_micros is not None:
        tests.append(_edge_test(where.minimum_net_edge_micros))
    if where.directions:
        directions = frozenset(d.value for d in where.directions)
        tests.append(lambda facts: facts.direction in directions)
    if where.kinds:
        kinds = frozenset(where.kinds)
        tests.append(lambda facts: facts.kind in kinds)
    if where.strategy_ids:
        strategies = frozenset(where.strategy_ids)
        tests.append(lambda facts: facts.strategy_id in strategies)
    if where.venues:
        venues = frozenset(v.value for v in where.venues)
        tests.append(lambda facts: not venues.isdisjoint(facts.venues))
    if where.within_venues:
        within = frozenset(v.value for v in where.within_venues)
        tests.append(lambda facts: facts.venues <= within)
    if where.event_ids:
        events = frozenset(where.event_ids)
        tests.append(lambda facts: facts.event_id in events)
    if where.market_ids:
        markets = frozenset(where.market_ids)
        tests.append(lambda facts: not markets.isdisjoint(facts.market_ids))
    return tests


def _edge_test(least: int) -> Test:
    def test(facts: EventFacts) -> bool:
        edge = facts.opening_net_edge_micros
        return edge is not None and edge >= least

    return test


def _index_of(where: SignalFilter) -> tuple[str, tuple[str, ...]]:
    """The field that lets the fewest events pass, with its values: only events that carry one of them are tested."""
    if where.market_ids:
        return "market", tuple(set(where.market_ids))
    if where.event_ids:
        return "event", tuple(set(where.event_ids))
    if where.strategy_ids:
        return "strategy", tuple(set(where.strategy_ids))
    if where.kinds:
        return "kind", tuple(set(where.kinds))
    return "", ()
