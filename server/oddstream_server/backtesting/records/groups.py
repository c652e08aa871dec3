"""What group strategies look at together: the events, or the confirmed links, of a universe as tables."""

from typing import Final

import numpy as np

from oddstream_server.backtesting.records.universe import BEGINNING, Universe
from oddstream_server.domain.market import Declared, LinkRelation
from oddstream_server.strategies.kernel import MISSING, Grouping

_RELATIONS: Final = {
    LinkRelation.EQUIVALENT: 1,
    LinkRelation.INVERSE: 2,
    LinkRelation.IMPLIES: 3,
    LinkRelation.IMPLIED_BY: 4,
}
_NEVER: Final = 2**62


class Groups:
    """The events, or the confirmed links, of a universe as tables: members in their order, and what relates them."""

    def __init__(self, universe: Universe, grouping: Grouping) -> None:
        linked = grouping is Grouping.LINK
        index = universe.index
        if linked:
            links = [span.link for span in universe.spans]
            members = [[index.get(link.market_id, -1), index.get(link.other_market_id, -1)] for link in links]
        else:
            members = [[index.get(m, -1) for m in sorted(set(e.market_ids))] for e in universe.events]
        self.bounds = np.zeros(len(members) + 1, dtype=np.int64)
        self.bounds[1:] = np.cumsum([len(m) for m in members])
        self.members = np.array([i for m in members for i in m], dtype=np.int64)
        self.group_of = np.repeat(np.arange(len(members)), np.diff(self.bounds))
        self.first_subject = len(universe) + (len(universe.events) if linked else 0)
        """Subject of the first group: subjects are the markets, then the events, then the links."""
        self.needed = 0 if grouping is Grouping.PARTITION else 2
        """How many members must have shown a quote: of a link both, of a ladder two with a strike."""
        self.weights = np.ones(len(self.members), dtype=np.int64)
        if grouping is Grouping.LADDER:
            self.weights = np.where(self.members >= 0, universe.has_strike[self.members], 0)
        payouts = [[int(universe.terms["payout_micros"][i]) for i in m if i >= 0] for m in members]
        events = universe.events
        self.cells = {
            "payout_micros": np.array([p[0] if p else MISSING for p in payouts], dtype=np.int64),
            "exclusive": np.zeros(len(members), dtype=np.int64),
            "exhaustive": np.zeros(len(members), dtype=np.int64),
            "relation": np.full(len(members), MISSING, dtype=np.int64),
        }
        if linked:
            spans = universe.spans
            self.cells["relation"] = np.array([_RELATIONS[s.link.relation] for s in spans], dtype=np.int64)
            froms = [span.from_us for span in spans]
            tos = [_NEVER if span.to_us is None else span.to_us for span in spans]
        else:
            self.cells["exclusive"] = np.array([e.exclusivity is Declared.YES for e in events], dtype=np.int64)
            self.cells["exhaustive"] = np.array([e.exhaustiveness is Declared.YES for e in events], dtype=np.int64)
            froms = [
                BEGINNING
                if len(m) > 1
                and not e.neg_risk_augmented
                and (grouping is Grouping.LADDER or Declared.YES in (e.exclusivity, e.exhaustiveness))
                else _NEVER
                for e, m in zip(events, members, strict=True)
            ]
            tos = [_NEVER] * len(froms)
        self.valid_us = np.array(list(zip(froms, tos, strict=True)), dtype=np.int64).reshape(-1, 2)
        """[from, to) of each group: when something may be said of it."""
        self._place_markets(universe, linked)

    def _place_markets(self, universe: Universe, linked: bool) -> None:
        places: list[list[int]] = [[] for _ in range(len(universe))]
        for place, (market, group) in enumerate(zip(self.members.tolist(), self.group_of.tolist(), strict=True)):
            if market >= 0 and (linked or universe.terms["event"][market] == group):
                places[market].append(place)
        self.place_bounds = np.zeros(len(universe) + 1, dtype=np.int64)
        self.place_bounds[1:] = np.cumsum([len(p) for p in places])
        self.places = np.array([p for some in places for p in some], dtype=np.int64)
