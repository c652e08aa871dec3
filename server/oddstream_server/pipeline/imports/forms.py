"""The named forms of quote files: which column is what, in which time zone, and what is known of their markets.

A form never names an outcome column: results of markets are not read from quote files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Protocol

from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.market import (
    CollateralRule,
    Event,
    Market,
    MarketState,
    Outcome,
    PriceRange,
    Strike,
    Venue,
    market_id,
)
from oddstream_server.domain.money import MICROS

Row = Mapping[str, Any]


class TableForm(Protocol):
    """Which columns of a file are times, words and numbers."""

    @property
    def name(self) -> str: ...

    @property
    def time_column(self) -> str: ...

    @property
    def time_zone(self) -> str | None:
        """IANA name where times carry no zone; None where they do, or are UTC."""
        ...

    @property
    def word_columns(self) -> tuple[str, ...]: ...

    @property
    def number_columns(self) -> tuple[str, ...]: ...


def columns_of(form: TableForm) -> list[str]:
    return list(dict.fromkeys((form.time_column, *form.word_columns, *form.number_columns)))


@dataclass(frozen=True, slots=True)
class QuoteForm:
    """One form of file of quotes.

    :param time_zone: IANA name where times carry no zone; None where they do, or are UTC.
    :param details: further columns that ``describe`` reads.
    :param describe: the market (and its event) that a row of the file, or of a markets file, tells of.
    """

    name: str
    venue: Venue
    summary: str
    time_column: str
    time_zone: str | None
    market_column: str
    bid_column: str
    ask_column: str
    describe: Callable[[Row], tuple[Market, Event | None]]
    details: tuple[str, ...] = ()
    bid_size_column: str | None = None
    ask_size_column: str | None = None

    @property
    def word_columns(self) -> tuple[str, ...]:
        return self.market_column, *self.details

    @property
    def number_columns(self) -> tuple[str, ...]:
        sizes = (c for c in (self.bid_size_column, self.ask_size_column) if c is not None)
        return self.bid_column, self.ask_column, *sizes

    def market_id(self, native: str) -> str:
        return market_id(self.venue, native)


_UNKNOWN_FEES: Final = FeeSchedule(
    FeeFormula.NONE,
    0,
    0,
    source="assumed for imports: this venue's fees are not known here, so edges are before fees",
)

_KALSHI_FEES: Final = FeeSchedule(
    FeeFormula.QUADRATIC,
    taker_rate_ppm=70_000,
    maker_rate_ppm=0,
    rounding_step_micros=100,
    source="Kalshi fee schedule of July 2026: 0.07 x C x P x (1 - P), up to the next 0.0001 USD",
)


def _polymarket_us(row: Row) -> tuple[Market, Event | None]:
    slug = str(row["slug"])
    return (
        Market(
            market_id=market_id(Venue.POLYMARKET_US, slug),
            venue=Venue.POLYMARKET_US,
            venue_market_id=slug,
            event_id=None,
            title=str(row.get("question") or slug),
            outcomes=(Outcome(0, "Yes", slug), Outcome(1, "No", slug)),
            state=MarketState.CLOSED,
            price_ranges=(PriceRange(0, MICROS, 1_000),),
            minimum_size_micros=MICROS,
            size_step_micros=MICROS,
            fee_schedules=(_UNKNOWN_FEES,),
            category=str(row.get("category") or ""),
            venue_ids=(("slug", slug),),
        ),
        None,
    )


def _kalshi_ladder(row: Row) -> tuple[Market, Event | None]:
    ticker, event_ticker = str(row["ticker"]), str(row["event_ticker"])
    event_id = market_id(Venue.KALSHI, event_ticker)
    kind, floor, cap = str(row["strike_type"]), _micros(row["floor_strike"]), _micros(row["cap_strike"])
    close_us = _instant_us(row["close_time"])
    return (
        Market(
            market_id=market_id(Venue.KALSHI, ticker),
            venue=Venue.KALSHI,
            venue_market_id=ticker,
            event_id=event_id,
            title=f"{event_ticker} {kind} {row['floor_strike'] or ''} {row['cap_strike'] or ''}".strip(),
            outcomes=(Outcome(0, "Yes", ticker), Outcome(1, "No", ticker)),
            state=MarketState.CLOSED,
            price_ranges=(PriceRange(0, MICROS, 10_000),),
            minimum_size_micros=10_000,
            size_step_micros=10_000,
            fee_schedules=(_KALSHI_FEES,),
            series_id=str(row["series"]),
            category="Crypto",
            venue_ids=(("ticker", ticker),),
            close_time_us=close_us,
            strike=Strike(kind, floor, cap),
        ),
        Event(
            event_id=event_id,
            venue=Venue.KALSHI,
            venue_event_id=event_ticker,
            title=event_ticker,
            category="Crypto",
            series_id=str(row["series"]),
            collateral_rule=CollateralRule.MUTUALLY_EXCLUSIVE,
        ),
    )


def _micros(text: object) -> int | None:
    if text is None or text == "":
        return None
    try:
        return int(Decimal(str(text)) * MICROS)
    except InvalidOperation:
        return None


def _instant_us(value: object) -> int | None:
    if value is None or value == "":
        return None
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return round(moment.timestamp() * 1_000_000)


FORMS: Final[Mapping[str, QuoteForm]] = {
    form.name: form
    for form in (
        QuoteForm(
            name="polymarket_us",
            venue=Venue.POLYMARKET_US,
            summary="ts (US Eastern, without a zone), slug, bid, ask: top of book, Parquet or CSV",
            time_column="ts",
            time_zone="America/New_York",
            market_column="slug",
            bid_column="bid",
            ask_column="ask",
            describe=_polymarket_us,
            details=("category",),
        ),
        QuoteForm(
            name="kalshi_ladder",
            venue=Venue.KALSHI,
            summary="captured_at (with zone), series, event_ticker, ticker, strike, yes_bid, yes_ask, close_time: CSV",
            time_column="captured_at",
            time_zone=None,
            market_column="ticker",
            bid_column="yes_bid",
            ask_column="yes_ask",
            describe=_kalshi_ladder,
            details=("series", "event_ticker", "strike_type", "floor_strike", "cap_strike", "close_time"),
        ),
    )
}


def form_named(name: str) -> QuoteForm:
    """:raises InvalidArgument: there is no such form; the violation lists those there are."""
    if name not in FORMS:
        known = "; ".join(f"{form.name}: {form.summary}" for form in FORMS.values())
        raise InvalidArgument([FieldViolation("form", f"{name!r} is not a form of quote files; use one of {known}")])
    return FORMS[name]
