"""Gamma's events and markets as rows of the domain."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from oddstream_server.domain.fees import FeeSchedule
from oddstream_server.domain.market import CollateralRule, Declared, Event, Market, Outcome, PriceRange, Strike, Venue
from oddstream_server.domain.money import MICROS
from oddstream_server.venues.decimals import micros, rounded_micros
from oddstream_server.venues.polymarket.fees import fee_schedules
from oddstream_server.venues.polymarket.settlements import market_state, settlement, stringified
from oddstream_server.venues.polymarket.strikes import up_or_down
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

SIZE_STEP_MICROS = 10_000
"""Order sizes have two decimals."""
_PLACEHOLDER = re.compile(r"[A-Z][a-z]+ [A-Z]{1,2}")
_NEG_RISK_SOURCE = "Polymarket negRisk rule: exactly one outcome of the event resolves to YES"
_CONDITION = re.compile(r"0x[0-9a-fA-F]{64}")


def market_key(condition_id: str) -> str:
    return f"polymarket:{condition_id}"


def event_key(gamma_event_id: str) -> str:
    return f"polymarket:{gamma_event_id}"


def event(row: object, market_ids: Sequence[str]) -> Event:
    """A Gamma event. Only a neg-risk event that isn't augmented is exclusive and exhaustive by the venue's rule."""
    row = as_object(row, "event")
    gamma_id = text(row, "id")
    neg_risk = flag(row, "negRisk") or flag(row, "enableNegRisk")
    augmented = flag(row, "negRiskAugmented")
    by_rule = neg_risk and not augmented
    return Event(
        event_id=event_key(gamma_id),
        venue=Venue.POLYMARKET,
        venue_event_id=gamma_id,
        title=optional_text(row, "title") or gamma_id,
        category=_category(row),
        series_id=_series(row),
        market_ids=tuple(market_ids),
        exclusivity=Declared.YES if by_rule else Declared.UNKNOWN,
        exclusivity_source=_NEG_RISK_SOURCE if by_rule else "",
        exhaustiveness=Declared.YES if by_rule else Declared.UNKNOWN,
        exhaustiveness_source=_NEG_RISK_SOURCE if by_rule else "",
        collateral_rule=CollateralRule.NEG_RISK if neg_risk else CollateralRule.NONE,
        neg_risk_augmented=augmented,
        venue_ids=_ids(
            event_id=gamma_id,
            slug=optional_text(row, "slug"),
            ticker=optional_text(row, "ticker"),
            neg_risk_market_id=optional_text(row, "negRiskMarketID"),
        ),
    )


def market(row: object, event_row: Mapping[str, Any] | None, quarantine: Quarantine, receive_time_us: int) -> Market:
    """A Gamma market, nested in an event or alone (then it names its event itself).

    :raises RowError: the market can't be traded on as it stands; a fee rule that isn't known is quarantined alone and
        leaves the market without a schedule, and so does an opening that can't be read with the strike.
    """
    row = as_object(row, "market")
    condition_id = text(row, "conditionId")
    if not _CONDITION.fullmatch(condition_id):
        raise RowError(QuarantineReason.IDENTITY_MISSING, "conditionId is no 0x and 64 hexadecimal digits")
    above = event_row if event_row is not None else _own_event(row)
    created_us = optional_iso_us(row.get("createdAt"), "createdAt")
    schedules: tuple[FeeSchedule, ...] = ()
    with quarantine.guard(row):
        schedules = fee_schedules(row, created_us)
    strike: Strike | None = None
    with quarantine.guard(row):
        strike = up_or_down(row, above)
    neg_risk = flag(row, "negRisk")
    return Market(
        market_id=market_key(condition_id),
        venue=Venue.POLYMARKET,
        venue_market_id=condition_id,
        event_id=event_key(text(above, "id")) if above else None,
        title=optional_text(row, "question") or optional_text(row, "slug") or condition_id,
        outcomes=_outcomes(row),
        state=market_state(row),
        price_ranges=price_ranges(row.get("orderPriceMinTickSize")),
        minimum_size_micros=_minimum_size(row),
        size_step_micros=SIZE_STEP_MICROS,
        fee_schedules=schedules,
        neg_risk=neg_risk,
        taker_delay_us=_taker_delay(row),
        rules_text=optional_text(row, "description"),
        category=optional_text(row, "category") or (_category(above) if above else ""),
        series_id=_series(above) if above else "",
        venue_ids=_ids(
            condition_id=condition_id,
            gamma_id=optional_text(row, "id"),
            question_id=optional_text(row, "questionID"),
            slug=optional_text(row, "slug"),
            neg_risk_market_id=optional_text(row, "negRiskMarketID"),
        ),
        open_time_us=optional_iso_us(row.get("startDate"), "startDate") or created_us,
        close_time_us=optional_iso_us(row.get("endDate"), "endDate"),
        settlement=settlement(row, receive_time_us),
        strike=strike,
        volume_micros=_volume(row),
        placeholder=_is_placeholder(row, above),
    )


def price_ranges(tick_size: object) -> tuple[PriceRange, ...]:
    """One range of the whole price axis; empty for a market without an order book, which names no tick."""
    if tick_size is None:
        return ()
    tick = micros(tick_size, "tick size")
    if not 0 < tick < MICROS:
        raise RowError(QuarantineReason.PRICE_OUT_OF_RANGE, "the tick size is not between 0 and 1")
    return (PriceRange(0, MICROS, tick),)


def _outcomes(row: Mapping[str, Any]) -> tuple[Outcome, ...]:
    labels, tokens = stringified(row, "outcomes"), stringified(row, "clobTokenIds")
    if labels is None or len(labels) < 2:
        raise RowError(QuarantineReason.OUTCOMES_INCONSISTENT, "outcomes names fewer than two")
    if tokens is None:
        raise RowError(QuarantineReason.IDENTITY_MISSING, "clobTokenIds is missing: the market has no tokens to trade")
    if len(tokens) != len(labels) or len(set(tokens)) != len(tokens):
        raise RowError(QuarantineReason.OUTCOMES_INCONSISTENT, "clobTokenIds and outcomes don't correspond")
    if not all(token.isascii() and token.isdigit() and len(token) <= 78 for token in tokens):
        raise RowError(QuarantineReason.IDENTITY_MISSING, "a token id is no decimal of at most 78 digits")
    return tuple(Outcome(i, label, token) for i, (label, token) in enumerate(zip(labels, tokens, strict=True)))


def _minimum_size(row: Mapping[str, Any]) -> int:
    value = row.get("orderMinSize")
    if value is None:
        return SIZE_STEP_MICROS
    size = micros(value, "orderMinSize")
    if size < 0:
        raise RowError(QuarantineReason.SIZE_OUT_OF_RANGE, "orderMinSize is negative")
    return max(size, SIZE_STEP_MICROS)


def _taker_delay(row: Mapping[str, Any]) -> int:
    value = row.get("secondsDelay")
    if value is None:
        return 0
    delay_us = micros(value, "secondsDelay")
    if delay_us < 0:
        raise RowError(QuarantineReason.TIME_INVALID, "secondsDelay is negative")
    return delay_us


def _volume(row: Mapping[str, Any]) -> int | None:
    value = row.get("volume")
    if value is None:
        value = row.get("volumeNum")
    return None if value is None or value == "" else rounded_micros(value, "volume")


def _is_placeholder(row: Mapping[str, Any], above: Mapping[str, Any] | None) -> bool:
    if flag(row, "negRiskOther"):
        return True
    augmented = above is not None and flag(above, "negRiskAugmented")
    return augmented and _PLACEHOLDER.fullmatch(optional_text(row, "groupItemTitle")) is not None


def _own_event(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    events = row.get("events")
    if not isinstance(events, list) or not events:
        return None
    return as_object(events[0], "the market's event")


def _category(row: Mapping[str, Any]) -> str:
    """The event's category of old, or its first tag's label."""
    own = optional_text(row, "category")
    tags = row.get("tags")
    if own or not isinstance(tags, list) or not tags:
        return own
    return optional_text(as_object(tags[0], "tag"), "label")


def _series(row: Mapping[str, Any]) -> str:
    several = row.get("series")
    if not isinstance(several, list) or not several:
        return ""
    return optional_text(as_object(several[0], "series"), "slug")


def _ids(**ids: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in ids.items() if value))


def nested_markets(row: Mapping[str, Any]) -> list[Any]:
    """The markets inside an event; none where the venue sends none."""
    nested = row.get("markets")
    return [] if nested is None else as_list(nested, "markets")
