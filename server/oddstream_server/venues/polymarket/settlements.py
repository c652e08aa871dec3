"""What a Polymarket market pays: from its resolution, never from the prices of a market that isn't resolved."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from oddstream_server.domain.market import MarketState, Settlement, SettlementState
from oddstream_server.domain.money import MICROS
from oddstream_server.venues.decimals import rounded_micros
from oddstream_server.venues.rows import QuarantineReason, RowError, as_list, as_object, exact_json, flag, optional_text
from oddstream_server.venues.times import day_us, iso_us

_RESOLVED = frozenset({"resolved", "settled"})
_STATUSES = frozenset({"", "requested", "proposed", "disputed"}) | _RESOLVED
_NEAR_MICROS = 1_000
"""Markets of the automated market maker's time (to 2022) show 0.9999996 for 1 after their resolution."""


def stringified(row: Mapping[str, Any], field: str) -> list[str] | None:
    """A list of texts that Gamma sends as a text; None where it is absent or null."""
    value = row.get(field)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        value = exact_json(value)
    values = as_list(value, field)
    if not all(isinstance(v, str | int | Decimal) and not isinstance(v, bool) for v in values):
        raise RowError(QuarantineReason.FIELD_TYPE, f"{field} must hold texts")
    return [str(v) for v in values]


def market_state(row: Mapping[str, Any]) -> MarketState:
    """``active`` stays true after closing and a past ``endDate`` says nothing, so neither decides here."""
    status = optional_text(row, "umaResolutionStatus")
    if status not in _STATUSES:
        raise RowError(QuarantineReason.ENUM_UNKNOWN, "umaResolutionStatus is none that the venue documents")
    if flag(row, "closed"):
        if status in _RESOLVED:
            return MarketState.SETTLED
        return MarketState.DISPUTED if status == "disputed" else MarketState.CLOSED
    if status == "disputed":
        return MarketState.DISPUTED
    if flag(row, "archived"):
        return MarketState.CLOSED
    if not flag(row, "active"):
        return MarketState.UNOPENED
    # trading often goes on while a result is proposed
    return MarketState.OPEN if flag(row, "acceptingOrders", default=True) else MarketState.PAUSED


def settlement(row: Mapping[str, Any], known_time_us: int) -> Settlement | None:
    """The settlement of a Gamma row: closed, resolved, and prices that are payouts.

    None where the row doesn't tell, e.g. the old ``["0", "0"]``: the CLOB or the Data API has to be asked.
    """
    if not flag(row, "closed") or optional_text(row, "umaResolutionStatus") not in _RESOLVED:
        return None
    prices = stringified(row, "outcomePrices")
    if prices is None:
        return None
    payouts = [rounded_micros(price, "outcomePrices") for price in prices]
    paid = _payout(payouts)
    if paid is None:
        return None
    ended = optional_text(row, "umaEndDate")
    closed = optional_text(row, "closedTime")
    return Settlement(
        state=SettlementState.FINAL,
        yes_payout_micros=paid,
        revision=1,
        determined_time_us=day_us(ended, "umaEndDate") if ended else None,
        known_time_us=known_time_us,
        paid_time_us=iso_us(closed, "closedTime") if closed else None,
    )


def _payout(payouts: Sequence[int]) -> int | None:
    """Outcome 0's payout of prices that are payouts, None of others. They add up to 1, or they are none."""
    rounded = [_rounded(payout) for payout in payouts]
    if len(rounded) < 2 or None in rounded or sum(p for p in rounded if p is not None) != MICROS:
        return None
    return rounded[0]


def _rounded(payout: int) -> int | None:
    for honest in (0, MICROS // 2, MICROS):
        if abs(payout - honest) < _NEAR_MICROS:
            return honest
    return None


def clob_settlement(row: object, first_token: str, known_time_us: int) -> Settlement | None:
    """The settlement of ``GET /markets/{condition_id}`` of the CLOB by its tokens' ``winner``; None without a winner.

    :param first_token: the token id of outcome 0.
    """
    row = as_object(row, "market")
    if not flag(row, "closed"):
        return None
    tokens = [as_object(token, "token") for token in as_list(row.get("tokens"), "tokens")]
    if first_token not in [token.get("token_id") for token in tokens]:
        raise RowError(QuarantineReason.OUTCOMES_INCONSISTENT, "the market's first token is not among its tokens")
    if flag(row, "is_50_50_outcome"):
        paid = MICROS // 2
    else:
        winners = [token["token_id"] for token in tokens if flag(token, "winner")]
        if len(winners) != 1:
            return None
        paid = MICROS if winners == [first_token] else 0
    return Settlement(SettlementState.FINAL, paid, 1, known_time_us=known_time_us)


def resolution_settlement(row: object, known_time_us: int) -> Settlement | None:
    """The settlement of a row of ``GET /v2/resolutions``: payouts in millionths by outcome; None while not resolved."""
    row = as_object(row, "resolution")
    if optional_text(row, "status") != "resolved":
        return None
    payouts = as_list(row.get("payouts"), "payouts")
    if len(payouts) < 2 or not all(isinstance(p, int) and not isinstance(p, bool) and p >= 0 for p in payouts):
        raise RowError(QuarantineReason.SETTLEMENT_INCONSISTENT, "payouts must be whole numbers of 0 or more")
    total = sum(payouts)
    if total != MICROS:
        raise RowError(QuarantineReason.SETTLEMENT_INCONSISTENT, "payouts don't add up to one million")
    return Settlement(SettlementState.FINAL, payouts[0], 1, known_time_us=known_time_us)
