"""What a backtest knows of its markets, as tables of integers: terms, life, fees by date, and settlements.

Each fact has the instant from which it was known. Strategies see none of these tables: settlements and later states
reach the bankroll alone.
"""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any, Final

import numpy as np

from oddstream_server.backtesting.accounts.charges import NO_SCHEDULE, schedule_records
from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.domain.fees import FeeSchedule, schedule_at
from oddstream_server.domain.fitted import FittedObject
from oddstream_server.domain.market import (
    CollateralRule,
    Event,
    LinkState,
    Market,
    MarketLink,
    MarketState,
    Settlement,
)
from oddstream_server.domain.signal import plain
from oddstream_server.strategies.gate import Shut
from oddstream_server.strategies.kernel import TERMS_COLUMNS
from oddstream_server.strategies.legs import orderable
from oddstream_server.strategies.verdicts import terms_values

BEGINNING: Final = -(2**62)
MAXIMUM_PAYOUT_MICROS: Final = 10_000_000


class Status(IntEnum):
    """What may be done with a market as of an instant."""

    UNKNOWN = 0
    """It doesn't exist yet."""
    SHUT = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class RecordedMarket:
    """A market with the history of what is known of it."""

    market: Market
    """Terms as they were known first. State and settlement have no say."""
    states: tuple[tuple[int, MarketState], ...]
    """(from this instant, state), ascending. Before the first one the market is unknown."""
    settlements: tuple[Settlement, ...] = ()
    """Revisions, ascending; those without a known time are refused."""
    revisions: tuple[tuple[int, Market], ...] = ()
    """(from this instant, terms), ascending: what the venue changed later of price ranges, fees, the close, the strike
    or its average. Payout, sizes, taker delay, event and category stay those of the first."""


@dataclass(frozen=True, slots=True)
class LinkSpan:
    """A link for as long as one confirmation of it held."""

    link: MarketLink
    from_us: int
    to_us: int | None = None
    """From when on it was confirmed no longer; None where it still is."""


def spans_of(link: MarketLink, changes: Sequence[tuple[int, LinkState]]) -> list[LinkSpan]:
    """The spans in which a link was confirmed.

    :param changes: (from this instant, state), ascending.
    """
    spans: list[LinkSpan] = []
    begun: int | None = None
    for time_us, state in changes:
        if state is LinkState.CONFIRMED:
            begun = time_us if begun is None else begun
        elif begun is not None:
            spans.append(LinkSpan(link, begun, max(time_us, begun)))
            begun = None
    return spans if begun is None else [*spans, LinkSpan(link, begun)]


TERMS: Final = np.dtype(
    [
        (name, np.int64)
        for name in (
            "payout_micros",
            "minimum_size_micros",
            "size_step_micros",
            "taker_delay_us",
            "event",
            "orderable",
            "range_begin",
            "range_end",
            "segment_begin",
            "segment_end",
            "known_segment_begin",
            "known_segment_end",
        )
    ]
)
"""One record a market; ``event`` is dense, -1 for none. ``*_begin`` and ``*_end`` bound rows of other tables."""

REVISION: Final = np.dtype([(name, np.int64) for name in ("time_us", "range_begin", "range_end")])
"""Terms of a market that hold from an instant on; its columns are in a table beside."""

RANGE: Final = np.dtype([("start_micros", np.int64), ("end_micros", np.int64), ("tick_micros", np.int64)])
SEGMENT: Final = np.dtype([("from_us", np.int64), ("schedule", np.int64)])
"""A market's fee schedule from an instant until the next segment's; NO_SCHEDULE where none holds."""
CHANGE: Final = np.dtype([("time_us", np.int64), ("market", np.int64), ("status", np.int64)])
PAYMENT: Final = np.dtype(
    [("time_us", np.int64), ("market", np.int64), ("pays", np.int64), ("void", np.int64), ("payout_micros", np.int64)]
)
"""``pays`` 0: the payout became known. 1: what is known by then is paid. A payout of -1 returns the stakes."""


class Universe:
    """The markets and events of a backtest; a market's dense index is its place by ascending id.

    :raises InvalidArgument: two markets share an id, or a market's terms can't be held in the engine's integers.
    """

    def __init__(
        self,
        markets: Sequence[RecordedMarket],
        events: Sequence[Event] = (),
        links: Sequence[MarketLink | LinkSpan] = (),
        fitted: Sequence[FittedObject] = (),
    ) -> None:
        self.markets = tuple(sorted(markets, key=lambda m: m.market.market_id))
        self.events = tuple(sorted(events, key=lambda e: e.event_id))
        spans = [
            link if isinstance(link, LinkSpan) else LinkSpan(link, link.review_time_us or BEGINNING)
            for link in links
            if isinstance(link, LinkSpan) or link.tradable
        ]
        self.spans = tuple(sorted(spans, key=lambda s: (s.link.link_id, s.from_us)))
        self.fitted = tuple(sorted(fitted, key=lambda o: (o.name.value, o.effective_time_us, o.version)))
        self.market_ids = tuple(m.market.market_id for m in self.markets)
        self.index = {market_id: i for i, market_id in enumerate(self.market_ids)}
        self.event_index = {e.event_id: i for i, e in enumerate(self.events)}
        if len(self.index) < len(self.markets):
            raise InvalidArgument([FieldViolation("markets", "must not name a market twice")])
        self._schedules: dict[FeeSchedule, int] = {}
        self._build()

    def __len__(self) -> int:
        return len(self.markets)

    def _build(self) -> None:
        count = len(self.markets)
        self.terms = np.zeros(count, dtype=TERMS)
        ranges: list[tuple[int, int, int]] = []
        segments: list[tuple[int, int]] = []
        revisions: list[tuple[int, int, int]] = []
        revised: list[list[int]] = []
        self.revision_bounds = np.zeros(count + 1, dtype=np.int64)
        for i, recorded in enumerate(self.markets):
            market, row = recorded.market, self.terms[i]
            if not 0 < market.payout_micros <= MAXIMUM_PAYOUT_MICROS:
                raise InvalidArgument(
                    [
                        FieldViolation(
                            "markets", f"{market.market_id}: payout must be up to 10 USD, leave the market out"
                        )
                    ]
                )
            row["payout_micros"] = market.payout_micros
            row["minimum_size_micros"] = market.minimum_size_micros
            row["size_step_micros"] = max(market.size_step_micros, 1)
            row["taker_delay_us"] = market.taker_delay_us
            row["event"] = self._event_of(market)
            row["orderable"] = int(orderable(market))
            row["range_begin"] = len(ranges)
            ranges += [(r.start_micros, r.end_micros, r.tick_micros) for r in market.price_ranges]
            row["range_end"] = len(ranges)
            row["segment_begin"] = len(segments)
            segments += self._segments(recorded, known=False)
            row["segment_end"] = row["known_segment_begin"] = len(segments)
            segments += self._segments(recorded, known=True)
            row["known_segment_end"] = len(segments)
            for time_us, later in recorded.revisions:
                begin = len(ranges)
                ranges += [(r.start_micros, r.end_micros, r.tick_micros) for r in later.price_ranges]
                revisions.append((time_us, begin, len(ranges)))
                revised.append([terms_values(later)[name] for name in TERMS_COLUMNS])
            self.revision_bounds[i + 1] = len(revisions)
        self.revisions = np.array(revisions, dtype=REVISION)
        self.revised_terms = np.array(revised, dtype=np.int64).reshape(-1, len(TERMS_COLUMNS))
        self.ranges = np.array(ranges, dtype=RANGE)
        self.segments = np.array(segments, dtype=SEGMENT)
        self.schedules = schedule_records(list(self._schedules), [m.market.payout_micros for m in self.markets])
        self.changes = self._changes()
        self._build_inputs()
        self.payments = self._payments()
        self._build_groups()

    def _event_of(self, market: Market) -> int:
        place = self.event_index.get(market.event_id or "", -1)
        return place if place >= 0 and market.market_id in self.events[place].market_ids else -1

    def _segments(self, recorded: RecordedMarket, *, known: bool) -> list[tuple[int, int]]:
        """As :meth:`_segments_of`, from the schedules that the market's terms had at each instant."""
        spans = [(BEGINNING, recorded.market), *recorded.revisions]
        found: list[tuple[int, int]] = []
        for place, (from_us, market) in enumerate(spans):
            to_us = spans[place + 1][0] if place + 1 < len(spans) else 2**62
            for instant, number in self._segments_of(market.fee_schedules, known=known):
                begin = max(instant, from_us)
                if begin >= to_us:
                    break
                if found and found[-1][0] == begin:
                    found.pop()
                if not found or found[-1][1] != number:
                    found.append((begin, number))
        return found

    def _segments_of(self, schedules: tuple[FeeSchedule, ...], *, known: bool) -> list[tuple[int, int]]:
        """The schedule that holds from each instant on; with ``known`` only from the instant it was made public."""
        instants = {BEGINNING}
        for s in schedules:
            instants |= {
                t for t in (s.valid_from_us, s.valid_to_us, s.known_from_us if known else None) if t is not None
            }
        found: list[tuple[int, int]] = []
        for instant in sorted(instants):
            public = tuple(s for s in schedules if not known or s.known_from_us is None or s.known_from_us <= instant)
            holding = schedule_at(public, instant)
            number = NO_SCHEDULE if holding is None else self._schedules.setdefault(holding, len(self._schedules))
            if not found or found[-1][1] != number:
                found.append((instant, number))
        return found

    def _changes(self) -> Any:
        rows = []
        for i, recorded in enumerate(self.markets):
            for time_us, state in recorded.states:
                shut = Shut.RESOLUTION_RISK if recorded.market.placeholder else _shut(state)
                rows.append((time_us, int(Status.OPEN if shut is Shut.OPEN else Status.SHUT), i))
        # close before open at the same instant, and by market, so that the order is one
        return np.array([(t, i, s) for t, s, i in sorted(rows)], dtype=CHANGE)

    def _payments(self) -> Any:
        rows: list[tuple[int, int, int, int, int, int]] = []
        for i, recorded in enumerate(self.markets):
            paid_before = False
            for revision in recorded.settlements:
                known = revision.known_time_us
                if known is None:
                    raise InvalidArgument(
                        [FieldViolation("settlements", f"{self.market_ids[i]}: a revision must have its known time")]
                    )
                payout = -1 if revision.yes_payout_micros is None else revision.yes_payout_micros
                rows.append((known, 0, i, revision.revision, int(revision.void), payout))
                paid = revision.paid_time_us
                if paid is None and paid_before:
                    paid = known  # the venue corrects what it has already paid
                if paid is not None:
                    rows.append((max(paid, known), 1, i, revision.revision, 0, 0))
                    paid_before = True
        return np.array([(t, i, pays, void, p) for t, pays, i, _, void, p in sorted(rows)], dtype=PAYMENT)

    def _build_inputs(self) -> None:
        """What strategies see of the markets besides quotes: terms, category, the instrument that they are about."""
        markets = [m.market for m in self.markets]
        ids = {m.strike.underlying_id for m in markets if m.strike is not None and m.strike.underlying_id}
        self.instruments = tuple(sorted(ids))
        self.instrument_index = {name: i for i, name in enumerate(self.instruments)}
        self.instrument_of = np.full(max(len(self), 1), -1, dtype=np.int64)
        self.market_terms = np.zeros((max(len(self), 1), len(TERMS_COLUMNS)), dtype=np.int64)
        self.has_strike = np.zeros(max(len(self), 1), dtype=np.int64)
        for i, market in enumerate(markets):
            self.market_terms[i] = [terms_values(market)[name] for name in TERMS_COLUMNS]
            self.has_strike[i] = int(market.strike is not None)
            if market.strike is not None and market.strike.underlying_id:
                self.instrument_of[i] = self.instrument_index[market.strike.underlying_id]
        self.categories = tuple(sorted({m.category for m in markets})) or ("",)
        self.category_of = np.array([self.categories.index(m.category) for m in markets] or [0], dtype=np.int64)
        pairs = [(m.venue.value, m.category) for m in markets]
        self.venue_categories = tuple(sorted(set(pairs))) or (("", ""),)
        self.venue_category_of = np.array([self.venue_categories.index(p) for p in pairs] or [0], dtype=np.int64)

    def _build_groups(self) -> None:
        """Members of each event by ascending id (-1 for one that isn't part of the backtest)."""
        members = [[self.index.get(m, -1) for m in sorted(set(e.market_ids))] for e in self.events]
        self.member_bounds = np.zeros(len(self.events) + 1, dtype=np.int64)
        self.member_bounds[1:] = np.cumsum([len(m) for m in members])
        self.members = np.array([i for m in members for i in m], dtype=np.int64)
        rules = (CollateralRule.MUTUALLY_EXCLUSIVE, CollateralRule.NEG_RISK)
        self.margined = np.array([int(e.collateral_rule in rules) for e in self.events], dtype=np.int64)

    def index_of(self, market_id: str) -> int:
        """:raises InvalidArgument: the market isn't part of the backtest."""
        place = bisect_left(self.market_ids, market_id)
        if place == len(self) or self.market_ids[place] != market_id:
            raise InvalidArgument([FieldViolation("market_id", f"{market_id!r} is not a market of this backtest")])
        return place

    @cached_property
    def terms_digest(self) -> str:
        """SHA-256 of everything known of the markets but fees, in hex."""
        facts: list[object] = [self.market_ids, [plain(e) for e in self.events], [plain(s) for s in self.spans]]
        facts += [self.instruments, self.categories, self.venue_categories]
        facts += [[o.name.value, o.version, o.fit_time_us, sorted(o.cells.items())] for o in self.fitted]
        digest = hashlib.sha256(json.dumps(facts).encode())
        names = [n for n in TERMS.names or () if not n.endswith(("begin", "end"))]
        inputs = (self.market_terms, self.instrument_of, self.category_of, self.venue_category_of)
        for table in (*(self.terms[name] for name in names), self.ranges, self.changes, self.payments, *inputs):
            digest.update(np.ascontiguousarray(table).tobytes())
        if len(self.revisions):
            for table in (self.revision_bounds, self.revisions, self.revised_terms):
                digest.update(table.tobytes())
        return digest.hexdigest()

    @cached_property
    def fee_table_digest(self) -> str:
        """SHA-256 of the fee schedules that are used, and of which market uses which when, in hex."""
        bounds = [self.terms[name].tolist() for name in ("segment_begin", "segment_end", "known_segment_end")]
        body = json.dumps([[plain(s) for s in self._schedules], self.segments.tolist(), bounds], sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()

    def shards(self, row_counts: Sequence[int], maximum_rows: int) -> list[tuple[int, ...]]:
        """Markets cut into shards of whole events, each of about ``maximum_rows`` rows at most, in a fixed order.

        Events that a link joins go together.
        """
        joined: dict[tuple[int, int], tuple[int, int]] = {}

        def first_of(key: tuple[int, int]) -> tuple[int, int]:
            while key in joined:
                key = joined[key]
            return key

        keys = [(0, int(row["event"])) if row["event"] >= 0 else (1, i) for i, row in enumerate(self.terms)]
        for span in self.spans:
            places = [self.index.get(m) for m in (span.link.market_id, span.link.other_market_id)]
            ends = sorted({first_of(keys[place]) for place in places if place is not None})
            if len(ends) > 1:
                joined[ends[1]] = ends[0]
        groups: dict[tuple[int, int], list[int]] = {}
        for i, key in enumerate(keys):
            groups.setdefault(first_of(key), []).append(i)
        shards: list[list[int]] = []
        filled = 0
        for key in sorted(groups):
            rows = sum(int(row_counts[i]) for i in groups[key])
            if not shards or (filled and filled + rows > maximum_rows):
                shards.append([])
                filled = 0
            shards[-1] += groups[key]
            filled += rows
        return [tuple(sorted(shard)) for shard in shards]


def _shut(state: MarketState) -> Shut:
    if state is MarketState.DISPUTED:
        return Shut.RESOLUTION_RISK
    return Shut.OPEN if state is MarketState.OPEN else Shut.MARKET_CLOSED


def recorded(market: Market, known_from_us: int = 0) -> RecordedMarket:
    """A market of which the catalog has one version: OPEN from then on until it closes or its result is known.

    :param known_from_us: when this service first saw it.
    """
    states = [(known_from_us, MarketState.OPEN)]
    ends = [t for t in (market.close_time_us, market.settlement and market.settlement.known_time_us) if t]
    if ends:
        states.append((max(min(ends), known_from_us), MarketState.CLOSED))
    if market.open_time_us is not None and market.open_time_us > known_from_us:
        states[0] = (known_from_us, MarketState.UNOPENED)
        states.insert(1, (market.open_time_us, MarketState.OPEN))
    settlements = () if market.settlement is None else (market.settlement,)
    return RecordedMarket(market, tuple(sorted(states)), settlements)
