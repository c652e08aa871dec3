"""What a Kalshi market pays: from its REST row and from lifecycle messages; never from a price."""

from collections.abc import Mapping
from typing import Any

from oddstream_server.application.ports import SettlementUpdate
from oddstream_server.domain.market import MarketState, Settlement, SettlementState
from oddstream_server.domain.money import MICROS
from oddstream_server.venues.decimals import micros
from oddstream_server.venues.kalshi.prices import market_key
from oddstream_server.venues.rows import QuarantineReason, RowError, optional_text, text
from oddstream_server.venues.times import optional_iso_us, seconds_us

STATES = {
    "initialized": MarketState.UNOPENED,
    "inactive": MarketState.PAUSED,
    "active": MarketState.OPEN,
    "closed": MarketState.CLOSED,
    "determined": MarketState.DETERMINED,
    "disputed": MarketState.DISPUTED,
    "amended": MarketState.DETERMINED,
    "finalized": MarketState.SETTLED,
}

_SETTLEMENT_STATES = {
    "determined": SettlementState.PROVISIONAL,
    "disputed": SettlementState.PROVISIONAL,
    "amended": SettlementState.AMENDED,
    "finalized": SettlementState.FINAL,
}


def market_state(row: Mapping[str, Any]) -> MarketState:
    status = text(row, "status")
    state = STATES.get(status)
    if state is None:
        raise RowError(QuarantineReason.ENUM_UNKNOWN, "status is none that the venue documents")
    return state


def settlement(row: Mapping[str, Any], known_time_us: int, payout_micros: int = MICROS) -> Settlement | None:
    """The settlement of a market row, None while its status has none.

    :raises RowError: ``settlement_inconsistent``: result and value contradict each other.
    """
    state = _SETTLEMENT_STATES.get(text(row, "status"))
    if state is None:
        return None
    result, value = optional_text(row, "result"), row.get("settlement_value_dollars")
    if not result and value is None:
        return None  # settled without a word: the value has to come from a later read
    paid, void = payout(result, value, payout_micros)
    return Settlement(
        state=state,
        yes_payout_micros=paid,
        revision=1,
        known_time_us=known_time_us,
        paid_time_us=optional_iso_us(row.get("settlement_ts"), "settlement_ts"),
        void=void,
    )


def payout(result: str, value: object, payout_micros: int = MICROS) -> tuple[int | None, bool]:
    """(payout of one YES contract in micros, void) from a result word and a settlement value in dollars."""
    stated = None if value is None or value == "" else micros(value, "settlement value")
    if stated is not None and not 0 <= stated <= payout_micros:
        raise RowError(QuarantineReason.SETTLEMENT_INCONSISTENT, "the settlement value is not between 0 and the payout")
    if result in ("yes", "no"):
        implied = payout_micros if result == "yes" else 0
        if stated is not None and stated != implied:
            raise RowError(QuarantineReason.SETTLEMENT_INCONSISTENT, "the settlement value contradicts the result")
        return implied, False
    if result == "void":
        return None, True
    if result not in ("scalar", ""):
        raise RowError(QuarantineReason.ENUM_UNKNOWN, "result is none that the venue documents")
    if stated is None:
        raise RowError(QuarantineReason.SETTLEMENT_INCONSISTENT, "a scalar result comes without its value")
    return stated, False


def settlement_update(row: Mapping[str, Any], known_time_us: int) -> SettlementUpdate:
    """State and settlement of a market row."""
    return SettlementUpdate(market_key(text(row, "ticker")), market_state(row), settlement(row, known_time_us))


_LIFECYCLE_STATES = {
    "activated": MarketState.OPEN,
    "deactivated": MarketState.PAUSED,
    "determined": MarketState.DETERMINED,
    "settled": MarketState.SETTLED,
}
_LIFECYCLE_WITHOUT_STATE = frozenset(
    {"created", "close_date_updated", "price_level_structure_updated", "metadata_updated"}
)


def lifecycle_update(
    message: Mapping[str, Any], determined: Settlement | None, known_time_us: int
) -> SettlementUpdate | None:
    """State and settlement that a ``market_lifecycle_v2`` message tells; None where it tells none.

    :param determined: what the market's own ``determined`` message said; ``settled`` makes it final.
    """
    kind = text(message, "event_type")
    state = _LIFECYCLE_STATES.get(kind)
    if state is None:
        if kind in _LIFECYCLE_WITHOUT_STATE:
            return None
        raise RowError(QuarantineReason.ENUM_UNKNOWN, "event_type is none that the venue documents")
    told: Settlement | None = None
    if kind in ("determined", "settled"):
        told = determined
        result, value = optional_text(message, "result"), message.get("settlement_value")
        if result or value is not None:
            paid, void = payout(result, value)
            told = Settlement(SettlementState.PROVISIONAL, paid, 1, known_time_us=known_time_us, void=void)
        if told is not None:
            told = Settlement(
                state=SettlementState.FINAL if kind == "settled" else SettlementState.PROVISIONAL,
                yes_payout_micros=told.yes_payout_micros,
                revision=1,
                determined_time_us=_second(message, "determination_ts") or told.determined_time_us,
                known_time_us=told.known_time_us,
                paid_time_us=_second(message, "settled_ts") if kind == "settled" else None,
                void=told.void,
            )
    return SettlementUpdate(market_key(text(message, "market_ticker")), state, told)


def _second(message: Mapping[str, Any], field: str) -> int | None:
    value = message.get(field)
    return None if value is None else seconds_us(value, field)
