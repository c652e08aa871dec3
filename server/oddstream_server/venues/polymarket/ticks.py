"""Books and trades of the CLOB and the Data API as rows of the domain, in outcome-0 prices.

A market's two tokens share one book: to buy one at p is to sell the other at 1 - p. So outcome 0's side is read and
outcome 1's is its mirror, and no depth is counted twice.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from oddstream_server.domain.market import Market, Venue
from oddstream_server.domain.money import MICROS
from oddstream_server.domain.quote import SourceKind, TickSource, Trade
from oddstream_server.venues.books import PriceLevels
from oddstream_server.venues.decimals import micros, rounded_micros
from oddstream_server.venues.digests import fill_key
from oddstream_server.venues.rows import QuarantineReason, RowError, as_list, as_object, optional_text, text
from oddstream_server.venues.seen import RecentlySeen
from oddstream_server.venues.times import milliseconds_us, seconds_us

TRADES = TickSource(Venue.POLYMARKET, SourceKind.TRADES, "trades")
"""One name for socket and Data API: both give the same fill the same key."""


@dataclass(frozen=True, slots=True)
class Token:
    """Which market and outcome a token id stands for."""

    market_id: str
    outcome_index: int


def tokens_of(markets: Iterable[Market]) -> dict[str, Token]:
    """Token id to market and outcome, of two-outcome markets: only their tokens share a book."""
    return {
        outcome.venue_instrument_id: Token(market.market_id, outcome.index)
        for market in markets
        if len(market.outcomes) == 2
        for outcome in market.outcomes
    }


def price(value: object, field: str) -> int:
    """A price of the book, ``".48"`` included."""
    result = micros(value, field)
    if not 0 < result < MICROS:
        raise RowError(QuarantineReason.PRICE_OUT_OF_RANGE, f"{field} is not between 0 and 1")
    return result


def _levels(side: object, field: str) -> list[tuple[int, int]]:
    result = []
    for level in as_list(side, field):
        row = as_object(level, f"a level of {field}")
        size = micros(row.get("size"), f"size of {field}")
        if size < 0:
            raise RowError(QuarantineReason.SIZE_OUT_OF_RANGE, f"a size of {field} is negative")
        result.append((price(row.get("price"), f"price of {field}"), size))
    return result


def book(row: Mapping[str, Any], outcome_index: int) -> PriceLevels:
    """A ``book`` message or the body of ``GET /book``, under the new or the old names of its sides.

    :param outcome_index: whose token's book it is; that of outcome 1 is mirrored.
    :raises RowError: a side's key is missing: that is another format, not an empty side.
    """
    bids_key, asks_key = ("bids", "asks") if "bids" in row or "asks" in row else ("buys", "sells")
    if bids_key not in row or asks_key not in row:
        raise RowError(QuarantineReason.FIELD_MISSING, "a side of the book is missing")
    bids, asks = _levels(row[bids_key], bids_key), _levels(row[asks_key], asks_key)
    if outcome_index == 0:
        return PriceLevels(bids, asks)
    return PriceLevels(
        [(MICROS - level, size) for level, size in asks], [(MICROS - level, size) for level, size in bids]
    )


def book_hash_holds(row: Mapping[str, Any]) -> bool:
    """True when a REST book's ``hash`` is the SHA-1 of its compact JSON with an empty hash, in its own key order.

    So it was on the recorded books; of socket messages, which carry other fields, it isn't known.
    """
    content = json.dumps({**row, "hash": ""}, separators=(",", ":"), default=str)
    return hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest() == row.get("hash")


class FillKeys:
    """Gives fills their keys. One transaction can hold fills that look the same: each gets a number of its own.

    :param capacity: how many fills are remembered to number the next one like them.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        self._seen = RecentlySeen(capacity)

    def key(self, *parts: object) -> str:
        return fill_key(self._seen.add(parts), *parts)


def taker_outcome(side: object, outcome_index: int) -> int:
    """The outcome that the taker bought: selling one is buying the other."""
    if side != "BUY" and side != "SELL":
        raise RowError(QuarantineReason.ENUM_UNKNOWN, "side is neither BUY nor SELL")
    return outcome_index if side == "BUY" else 1 - outcome_index


def printed_trade(row: Mapping[str, Any], token: Token, keys: FillKeys, receive_time_us: int) -> Trade:
    """A ``last_trade_price`` message: a print of one token, told in outcome-0 prices."""
    own_price, size = micros(row.get("price"), "price"), micros(row.get("size"), "size")
    transaction = optional_text(row, "transaction_hash")
    venue_time_us = milliseconds_us(row.get("timestamp"), "timestamp")
    return _trade(
        token,
        row.get("side"),
        own_price,
        size,
        venue_time_us,
        transaction,
        text(row, "asset_id"),
        keys,
        receive_time_us,
    )


def data_transaction(row: object) -> str:
    """The transaction of a row of the Data API, v2 or v1; empty where it names none."""
    row = as_object(row, "trade")
    return optional_text(row, "transaction_hash") or optional_text(row, "transactionHash")


def data_trade(row: object, tokens: Mapping[str, Token], keys: FillKeys, receive_time_us: int) -> Trade | None:
    """A taker's row of the Data API, v2 (snake_case) or v1 (camelCase); None for a token that isn't followed.

    Prices there are averages with float noise, so they are rounded to the micro.
    """
    row = as_object(row, "trade")
    asset = optional_text(row, "token_id") or text(row, "asset")
    transaction = data_transaction(row)
    token = tokens.get(asset)
    if token is None:
        return None
    own_price, size = rounded_micros(row.get("price"), "price"), rounded_micros(row.get("size"), "size")
    venue_time_us = seconds_us(row.get("timestamp"), "timestamp")
    return _trade(token, row.get("side"), own_price, size, venue_time_us, transaction, asset, keys, receive_time_us)


def _trade(
    token: Token,
    side: object,
    own_price: int,
    size: int,
    venue_time_us: int,
    transaction: str,
    asset: str,
    keys: FillKeys,
    receive_time_us: int,
) -> Trade:
    if not 0 <= own_price <= MICROS:
        raise RowError(QuarantineReason.PRICE_OUT_OF_RANGE, "price is not between 0 and 1")
    if size <= 0:
        raise RowError(QuarantineReason.SIZE_OUT_OF_RANGE, "size is not greater than 0")
    bought = taker_outcome(side, token.outcome_index)
    identity = transaction or venue_time_us
    return Trade(
        market_id=token.market_id,
        receive_time_us=receive_time_us,
        price_micros=own_price if token.outcome_index == 0 else MICROS - own_price,
        size_micros=size,
        taker_outcome_index=bought,
        source=TRADES,
        source_key=keys.key(identity, asset, side, own_price, size),
        venue_time_us=venue_time_us,
    )
