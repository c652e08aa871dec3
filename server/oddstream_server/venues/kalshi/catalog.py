"""Kalshi's events, markets and series as rows of the domain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from oddstream_server.domain.fees import FeeSchedule
from oddstream_server.domain.market import (
    CollateralRule,
    Declared,
    Event,
    Market,
    Outcome,
    PriceRange,
    Strike,
    Venue,
)
from oddstream_server.domain.money import MICROS
from oddstream_server.venues.decimals import cents, micros
from oddstream_server.venues.kalshi.fees import SeriesFee, event_fee, fee_schedules, series_fee
from oddstream_server.venues.kalshi.indices import about
from oddstream_server.venues.kalshi.prices import market_key, optional_count, optional_price
from oddstream_server.venues.kalshi.settlements import market_state, settlement
from oddstream_server.venues.rows import (
    Quarantine,
    QuarantineReason,
    RowError,
    as_list,
    as_object,
    flag,
    optional_text,
    text,
)
from oddstream_server.venues.times import optional_iso_us

HUNDREDTH_MICROS = 10_000
"""The smallest step of a fractional contract."""

_COLLATERAL = {
    "": CollateralRule.NONE,
    "MECNET": CollateralRule.MUTUALLY_EXCLUSIVE,
    "DIRECNET": CollateralRule.DIRECTIONAL,
}
_NUMERIC_STRIKES = frozenset({"greater", "greater_or_equal", "less", "less_or_equal", "between"})
_OTHER_STRIKES = frozenset({"", "functional", "custom", "structured"})


@dataclass(frozen=True, slots=True)
class Series:
    """What a market takes from its series."""

    ticker: str
    category: str
    fees: tuple[SeriesFee, ...]
    """Empty where they are unknown: such a market has no schedule and no edge is computed for it."""

    def fees_from(self, instant_us: int) -> "Series":
        """The same series, with fees that hold from an instant on only."""
        return replace(self, fees=tuple(replace(fee, valid_from_us=instant_us) for fee in self.fees))


def series(row: object, quarantine: Quarantine) -> Series:
    """A row of ``GET /series``; fee fields that can't be read are quarantined and leave it without fees."""
    row = as_object(row, "series")
    fees: tuple[SeriesFee, ...] = ()
    with quarantine.guard(row):
        fees = (series_fee(row),)
    return Series(text(row, "ticker"), optional_text(row, "category"), fees)


def event(row: object, market_tickers: Sequence[str], quarantine: Quarantine) -> Event:
    """An event row; its markets come nested or apart, so their tickers are told."""
    row = as_object(row, "event")
    ticker = text(row, "event_ticker")
    exclusive = row.get("mutually_exclusive")
    if exclusive is not None and not isinstance(exclusive, bool):
        raise RowError(QuarantineReason.FIELD_TYPE, "mutually_exclusive must be true or false")
    rule = CollateralRule.NONE
    with quarantine.guard(row):
        rule = _collateral_rule(row)
    return Event(
        event_id=market_key(ticker),
        venue=Venue.KALSHI,
        venue_event_id=ticker,
        title=optional_text(row, "title") or ticker,
        category=optional_text(row, "category"),
        series_id=optional_text(row, "series_ticker"),
        market_ids=tuple(market_key(t) for t in market_tickers),
        exclusivity=Declared.UNKNOWN if exclusive is None else Declared.YES if exclusive else Declared.NO,
        exclusivity_source="" if exclusive is None else "Kalshi event field mutually_exclusive",
        collateral_rule=rule,
        venue_ids=(("event_ticker", ticker),),
    )


def _collateral_rule(row: Mapping[str, Any]) -> CollateralRule:
    rule = _COLLATERAL.get(optional_text(row, "collateral_return_type"))
    if rule is None:
        raise RowError(QuarantineReason.ENUM_UNKNOWN, "collateral_return_type is none that the venue documents")
    return rule


def market(
    row: object,
    event_row: Mapping[str, Any] | None,
    of_series: Series | None,
    quarantine: Quarantine,
    receive_time_us: int,
    balance_step_micros: int = HUNDREDTH_MICROS,
) -> Market:
    """A market row of any of the three dialects.

    :param event_row: its event, None where it isn't known.
    :param of_series: its series, None where it isn't known: the market then has no fee schedule.
    :raises RowError: the market can't be traded on as it stands; fields that can be left out are quarantined alone.
    """
    row = as_object(row, "market")
    ticker = text(row, "ticker")
    if text(row, "market_type") not in ("binary", "scalar"):
        raise RowError(QuarantineReason.ENUM_UNKNOWN, "market_type is neither binary nor scalar")
    payout_micros = optional_price(row, "notional_value")
    if payout_micros is None:
        payout_micros = MICROS
    if payout_micros <= 0:
        raise RowError(QuarantineReason.PRICE_OUT_OF_RANGE, "notional_value must be greater than 0")
    size_step = _size_step(row)
    schedules: tuple[FeeSchedule, ...] = ()
    strike: Strike | None = None
    with quarantine.guard(row):
        schedules = _schedules(row, event_row, of_series, balance_step_micros)
    with quarantine.guard(row):
        strike = _strike(row)
    event_ticker = optional_text(row, "event_ticker")
    series_ticker = of_series.ticker if of_series else optional_text(event_row or {}, "series_ticker")
    if strike is not None:
        strike = about(strike, series_ticker)
    return Market(
        market_id=market_key(ticker),
        venue=Venue.KALSHI,
        venue_market_id=ticker,
        event_id=market_key(event_ticker) if event_ticker else None,
        title=_title(row, event_row),
        outcomes=_outcomes(row, ticker),
        state=market_state(row),
        price_ranges=_price_ranges(row, payout_micros),
        minimum_size_micros=size_step,
        size_step_micros=size_step,
        fee_schedules=schedules,
        payout_micros=payout_micros,
        rules_text="\n\n".join(
            t for t in (optional_text(row, "rules_primary"), optional_text(row, "rules_secondary")) if t
        ),
        category=optional_text(event_row or {}, "category") or (of_series.category if of_series else ""),
        series_id=series_ticker,
        venue_ids=(("event_ticker", event_ticker), ("ticker", ticker)) if event_ticker else (("ticker", ticker),),
        open_time_us=optional_iso_us(row.get("open_time"), "open_time"),
        close_time_us=optional_iso_us(row.get("close_time"), "close_time"),
        expected_settlement_time_us=optional_iso_us(row.get("expected_expiration_time"), "expected_expiration_time"),
        settlement=settlement(row, receive_time_us, payout_micros),
        strike=strike,
        volume_micros=optional_count(row, "volume"),
        open_interest_micros=optional_count(row, "open_interest"),
    )


def is_combination(row: Mapping[str, Any]) -> bool:
    """True for a multivariate (combo) market, which the catalog leaves out."""
    return bool(row.get("mve_collection_ticker"))


def _title(row: Mapping[str, Any], event_row: Mapping[str, Any] | None) -> str:
    own, side = optional_text(row, "title"), optional_text(row, "yes_sub_title")
    if own:
        return own
    above = optional_text(event_row or {}, "title")
    return f"{above}: {side}" if above and side else above or side or text(row, "ticker")


def _outcomes(row: Mapping[str, Any], ticker: str) -> tuple[Outcome, Outcome]:
    yes, no = optional_text(row, "yes_sub_title") or "Yes", optional_text(row, "no_sub_title") or "No"
    if yes == no:  # the venue often repeats the YES side's text on the NO side
        no = "No"
    return Outcome(0, yes, ticker), Outcome(1, no, ticker)


def _size_step(row: Mapping[str, Any]) -> int:
    fractional = flag(row, "fractional_trading_enabled", default="volume_fp" in row)
    return HUNDREDTH_MICROS if fractional else MICROS


def _price_ranges(row: Mapping[str, Any], payout_micros: int) -> tuple[PriceRange, ...]:
    ranges = row.get("price_ranges")
    if ranges is None:
        tick = row.get("tick_size")
        if tick is None:
            raise RowError(QuarantineReason.FIELD_MISSING, "neither price_ranges nor tick_size is there")
        return (_price_range(0, payout_micros, cents(tick, "tick_size")),)
    rows = [as_object(r, "price range") for r in as_list(ranges, "price_ranges")]
    if not rows:
        raise RowError(QuarantineReason.FIELD_MISSING, "price_ranges is empty")
    return tuple(
        sorted(
            (
                _price_range(*(micros(r.get(key), f"price_ranges {key}") for key in ("start", "end", "step")))
                for r in rows
            ),
            key=lambda r: r.start_micros,
        )
    )


def _price_range(start: int, end: int, tick: int) -> PriceRange:
    if not 0 <= start < end or tick <= 0:
        raise RowError(QuarantineReason.PRICE_OUT_OF_RANGE, "a price range must rise and have a tick greater than 0")
    return PriceRange(start, end, tick)


def _strike(row: Mapping[str, Any]) -> Strike | None:
    kind = optional_text(row, "strike_type")
    if kind in _OTHER_STRIKES:
        return None
    if kind not in _NUMERIC_STRIKES:
        raise RowError(QuarantineReason.ENUM_UNKNOWN, "strike_type is none that the venue documents")
    floor, cap = row.get("floor_strike"), row.get("cap_strike")
    return Strike(
        kind=kind,
        floor_micros=None if floor is None else micros(floor, "floor_strike"),
        cap_micros=None if cap is None else micros(cap, "cap_strike"),
    )


def _schedules(
    row: Mapping[str, Any], event_row: Mapping[str, Any] | None, of_series: Series | None, balance_step_micros: int
) -> tuple[FeeSchedule, ...]:
    if of_series is None or not of_series.fees:
        return ()
    fees = event_fee(event_row, of_series.fees) if event_row else of_series.fees
    waiver = optional_iso_us(row.get("fee_waiver_expiration_time"), "fee_waiver_expiration_time")
    return fee_schedules(fees, of_series.ticker, balance_step_micros, waiver)
