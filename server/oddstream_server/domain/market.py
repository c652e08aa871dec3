"""Markets, events, their outcomes, price grid, life and settlement."""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.domain.fees import FeeSchedule
from oddstream_server.domain.money import MICROS


class Venue(StrEnum):
    KALSHI = "kalshi"
    POLYMARKET = "polymarket"
    POLYMARKET_US = "polymarket_us"
    SIMULATED = "simulated"

    @property
    def clock(self) -> str:
        """Name of the clock that stamps its ticks: the simulated venue has its own, which may run ahead."""
        return self.value if self is Venue.SIMULATED else "own"


class MarketState(StrEnum):
    UNOPENED = "unopened"
    OPEN = "open"
    PAUSED = "paused"
    CLOSED = "closed"
    DETERMINED = "determined"
    DISPUTED = "disputed"
    SETTLED = "settled"


class Declared(StrEnum):
    """What is known of a yes-or-no property that only a venue or a reviewer may declare."""

    UNKNOWN = "unknown"
    YES = "yes"
    NO = "no"


class CollateralRule(StrEnum):
    """How a venue margins positions of one event together."""

    NONE = "none"
    MUTUALLY_EXCLUSIVE = "mutually_exclusive"  # Kalshi MECNET: a set of NO positions is margined once
    DIRECTIONAL = "directional"  # Kalshi DIRECNET: nested ladders
    NEG_RISK = "neg_risk"  # Polymarket: a NO share converts into YES of all others


class SettlementState(StrEnum):
    PROVISIONAL = "provisional"
    FINAL = "final"
    AMENDED = "amended"


def market_id(venue: Venue, venue_market_id: str) -> str:
    """The market's id: ``<venue>:<the venue's own market id>``."""
    return f"{venue.value}:{venue_market_id}"


_VENUES = {venue.value: venue for venue in Venue}


def split_market_id(value: str, field_name: str = "market_id") -> tuple[Venue, str]:
    """A market id or event id split at its first colon.

    :raises InvalidArgument: the venue is unknown or the rest is empty; the violation names ``field_name``.
    """
    name, _, native = value.partition(":")
    venue = _VENUES.get(name)
    if venue is None or not native:
        raise InvalidArgument(
            [
                FieldViolation(
                    field_name,
                    f"must be <venue>:<id> with a venue of {', '.join(_VENUES)}, e.g. kalshi:KXBTC-26JUL0302-B50750",
                )
            ]
        )
    return venue, native


@dataclass(frozen=True, slots=True)
class Outcome:
    """One outcome of a market. Outcome 0 is the one that the market's prices speak of."""

    index: int
    label: str
    venue_instrument_id: str
    """Kalshi: the ticker; Polymarket: the token id as a decimal string of up to 78 digits."""


@dataclass(frozen=True, slots=True)
class PriceRange:
    """A stretch [start, end] of prices with one tick size."""

    start_micros: int
    end_micros: int
    tick_micros: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a market paid, or is going to pay; a later revision replaces an earlier one."""

    state: SettlementState
    yes_payout_micros: int | None
    """Payout of one contract of outcome 0, 0 to the market's payout; absent where stakes are returned."""
    revision: int
    """1 for the first, one more at each change."""
    determined_time_us: int | None = None
    known_time_us: int | None = None
    """When this service learnt of it; nothing before this instant may use it."""
    paid_time_us: int | None = None
    void: bool = False


@dataclass(frozen=True, slots=True)
class Strike:
    """The numeric bounds of a ladder's market, in micros of the underlying's unit."""

    kind: str
    """greater, greater_or_equal, less, less_or_equal or between."""
    floor_micros: int | None = None
    cap_micros: int | None = None
    underlying_id: str = ""
    """Id of the price that the market is about, ``<venue>:underlying.<symbol>``; empty where no feed has it."""
    averaging_us: int = 0
    """Length of the average before the close that the market settles on; 0 for a single price."""
    opening_time_us: int | None = None
    """Where the market compares its end with the price of an earlier instant: that instant. The floor is that price
    then, an average of the same length before it included, and absent until it is known."""

    @property
    def is_known(self) -> bool:
        """True where all the bounds that its kind needs are there."""
        above = self.kind not in ("less", "less_or_equal")
        below = self.kind not in ("greater", "greater_or_equal")
        return not (above and self.floor_micros is None) and not (below and self.cap_micros is None)


UNDERLYING_PREFIX: Final = "underlying."


def underlying_id(venue: Venue, symbol: str) -> str:
    """Id under which the prices of an underlying are stored: as quotes whose bid and ask are the price."""
    return f"{venue.value}:{UNDERLYING_PREFIX}{symbol}"


def is_underlying(instrument_id: str) -> bool:
    """True for the id of an underlying, which is no market: it isn't listed, traded or signalled on."""
    return instrument_id.partition(":")[2].startswith(UNDERLYING_PREFIX)


@dataclass(frozen=True, slots=True)
class Market:
    """One tradable yes-or-no (or scalar) contract of a venue."""

    market_id: str
    venue: Venue
    venue_market_id: str
    event_id: str | None
    title: str
    outcomes: tuple[Outcome, ...]
    state: MarketState
    price_ranges: tuple[PriceRange, ...]
    minimum_size_micros: int
    size_step_micros: int
    fee_schedules: tuple[FeeSchedule, ...] = ()
    payout_micros: int = MICROS
    neg_risk: bool = False
    taker_delay_us: int = 0
    rules_text: str = ""
    category: str = ""
    series_id: str = ""
    venue_ids: tuple[tuple[str, str], ...] = ()
    """The venue's other ids as (name, id), sorted by name: condition_id, gamma_id, question_id, slug, ticker."""
    open_time_us: int | None = None
    close_time_us: int | None = None
    expected_settlement_time_us: int | None = None
    settlement: Settlement | None = None
    strike: Strike | None = None
    volume_micros: int | None = None
    """Contracts traded so far as the venue reports them."""
    open_interest_micros: int | None = None
    placeholder: bool = False
    """True for an augmented neg-risk event's outcome whose meaning may change ("Other", "Person A")."""
    update_time_us: int | None = None
    """When this service last saw a change; set by storage."""

    @property
    def rules_digest(self) -> str:
        """SHA-256 of the rules text in lower-case hex."""
        return hashlib.sha256(self.rules_text.encode()).hexdigest()

    def tick_micros(self, price_micros: int) -> int:
        """The tick size that holds at a price; the finer one on a boundary."""
        sizes = [r.tick_micros for r in self.price_ranges if r.start_micros <= price_micros <= r.end_micros]
        if not sizes:
            raise ValueError(f"{self.market_id} has no price range at {price_micros}")
        return min(sizes)


@dataclass(frozen=True, slots=True)
class Event:
    """A question with one or more markets."""

    event_id: str
    """``<venue>:<the venue's own event id>``."""
    venue: Venue
    venue_event_id: str
    title: str
    category: str = ""
    series_id: str = ""
    market_ids: tuple[str, ...] = ()
    exclusivity: Declared = Declared.UNKNOWN
    """YES: at most one of the markets resolves to its outcome 0."""
    exclusivity_source: str = ""
    exhaustiveness: Declared = Declared.UNKNOWN
    """YES: at least one of them does. Declared by the venue or a reviewer, never read off results."""
    exhaustiveness_source: str = ""
    collateral_rule: CollateralRule = CollateralRule.NONE
    neg_risk_augmented: bool = False
    venue_ids: tuple[tuple[str, str], ...] = ()
    update_time_us: int | None = None


class LinkRelation(StrEnum):
    EQUIVALENT = "equivalent"
    INVERSE = "inverse"
    IMPLIES = "implies"
    IMPLIED_BY = "implied_by"


class LinkState(StrEnum):
    PROPOSED = "proposed"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class MarketLink:
    """A reviewed statement of how the outcomes of two markets relate; only a CONFIRMED one may be traded on."""

    link_id: str
    market_id: str
    other_market_id: str
    relation: LinkRelation
    outcome_map: tuple[tuple[int, int], ...]
    rules_digest: str
    other_rules_digest: str
    state: LinkState = LinkState.PROPOSED
    reviewer: str = ""
    note: str = ""
    create_time_us: int | None = None
    review_time_us: int | None = None
    evidence: tuple[tuple[str, str], ...] = field(default=())
    """What was compared, and what that gave, in words."""
    revision: int = 1
    """Grows at each change; the link's etag is made of it."""

    @property
    def tradable(self) -> bool:
        """Only what a reviewer confirmed may be traded on."""
        return self.state is LinkState.CONFIRMED
