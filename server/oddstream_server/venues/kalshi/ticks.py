"""Kalshi's books, quotes and trades of REST bodies as rows of the domain."""

from collections.abc import Iterable, Mapping
from typing import Any

from oddstream_server.domain.market import Venue
from oddstream_server.domain.money import MICROS
from oddstream_server.domain.quote import Quote, SourceKind, TickSource, Trade
from oddstream_server.venues.books import PriceLevels
from oddstream_server.venues.decimals import cents, micros
from oddstream_server.venues.digests import signed_key
from oddstream_server.venues.kalshi.prices import in_range, market_key, optional_count, optional_price, price
from oddstream_server.venues.rows import QuarantineReason, RowError, as_list, as_object, flag, optional_text, text
from oddstream_server.venues.times import iso_us, milliseconds_us, seconds_us

TRADES = TickSource(Venue.KALSHI, SourceKind.TRADES, "trades")
"""One name for REST and WebSocket: a trade that comes by both has the same id and is stored once."""


def levels(side: object, field: str, in_cents: bool = False) -> Iterable[tuple[int, int]]:
    """(price, size) in micros of a side's ``[[price, size], …]``; null is an empty side."""
    if side is None:
        return []
    result = []
    for level in as_list(side, field):
        if not isinstance(level, list) or len(level) != 2:
            raise RowError(QuarantineReason.FIELD_TYPE, f"a level of {field} must be [price, size]")
        level_price = cents(level[0], field) if in_cents else micros(level[0], field)
        size = micros(level[1], field)
        if not 0 < level_price < MICROS:
            raise RowError(QuarantineReason.PRICE_OUT_OF_RANGE, f"a price of {field} is not between 0 and the payout")
        if size < 0:
            raise RowError(QuarantineReason.SIZE_OUT_OF_RANGE, f"a size of {field} is negative")
        result.append((level_price, size))
    return result


def price_levels(yes: Iterable[tuple[int, int]], no: Iterable[tuple[int, int]], use_yes_price: bool) -> PriceLevels:
    """One book in YES prices of Kalshi's bids: a NO bid at q is a YES ask at 1 - q.

    :param use_yes_price: True where the NO side already comes in YES prices.
    """
    return PriceLevels(yes, no if use_yes_price else [(MICROS - bid, size) for bid, size in no])


def rest_book(body: object) -> PriceLevels:
    """The book of ``GET /markets/{ticker}/orderbook`` or of a row of ``GET /markets/orderbooks``.

    :raises RowError: the book's or a side's key is missing: that is another format, not an empty book.
    """
    row = as_object(body, "orderbook answer")
    if "orderbook_fp" in row:
        book = as_object(row["orderbook_fp"], "orderbook_fp")
        yes_key, no_key, in_cents = "yes_dollars", "no_dollars", False
    elif "orderbook" in row:
        book = as_object(row["orderbook"], "orderbook")
        in_cents = not ("yes_dollars" in book and "no_dollars" in book)
        yes_key, no_key = ("yes", "no") if in_cents else ("yes_dollars", "no_dollars")
    else:
        raise RowError(QuarantineReason.FIELD_MISSING, "neither orderbook_fp nor orderbook is there")
    if yes_key not in book or no_key not in book:
        raise RowError(QuarantineReason.FIELD_MISSING, "a side of the book is missing")
    built = price_levels(
        levels(book[yes_key], yes_key, in_cents), levels(book[no_key], no_key, in_cents), use_yes_price=False
    )
    if built.crossed:
        raise RowError(QuarantineReason.BOOK_CROSSED, "best bid is not below best ask")
    return built


def polled_quote(row: Mapping[str, Any], source: TickSource, slot: int, receive_time_us: int, epoch: int) -> Quote:
    """The top of a market row of ``GET /markets``: 0 and the payout mean an empty side, as the venue writes it.

    :param slot: number of the poll; with the content it makes the quote's identity.
    """
    ticker = text(row, "ticker")
    bid, ask = _side(row, "yes_bid"), _side(row, "yes_ask")
    bid_size = None if bid is None else optional_count(row, "yes_bid_size")
    ask_size = None if ask is None else optional_count(row, "yes_ask_size")
    return Quote(
        market_id=market_key(ticker),
        receive_time_us=receive_time_us,
        bid_price_micros=bid,
        bid_size_micros=bid_size,
        ask_price_micros=ask,
        ask_size_micros=ask_size,
        source=source,
        source_key=signed_key(slot, bid, bid_size, ask, ask_size),
        epoch=epoch,
    )


def _side(row: Mapping[str, Any], name: str) -> int | None:
    value = price(row, name)
    return value if 0 < value < MICROS else None


def trade(row: object, receive_time_us: int) -> Trade:
    """A row of ``GET /markets/trades`` or the message of a ``trade`` frame, in any dialect."""
    row = as_object(row, "trade")
    ticker = optional_text(row, "ticker") or text(row, "market_ticker")
    yes, no = optional_price(row, "yes_price"), optional_price(row, "no_price")
    if yes is None and no is not None:
        yes = MICROS - no
    if yes is None:
        raise RowError(QuarantineReason.FIELD_MISSING, "neither yes_price_dollars nor yes_price is there")
    if no is not None and yes + no != MICROS:
        raise RowError(QuarantineReason.PRICES_INCONSISTENT, "YES and NO price don't add up to the payout")
    size = optional_count(row, "count")
    if size is None:
        raise RowError(QuarantineReason.FIELD_MISSING, "neither count_fp nor count is there")
    if size == 0:
        raise RowError(QuarantineReason.SIZE_OUT_OF_RANGE, "count is 0")
    return Trade(
        market_id=market_key(ticker),
        receive_time_us=receive_time_us,
        price_micros=in_range(yes, "yes_price"),
        size_micros=size,
        taker_outcome_index=_taker_outcome(row),
        source=TRADES,
        source_key=text(row, "trade_id"),
        venue_time_us=_trade_time(row),
        block=flag(row, "is_block_trade"),
    )


def _taker_outcome(row: Mapping[str, Any]) -> int | None:
    side = optional_text(row, "taker_outcome_side") or optional_text(row, "taker_side")
    if side == "":
        return None
    if side not in ("yes", "no"):
        raise RowError(QuarantineReason.ENUM_UNKNOWN, "the taker's side is neither yes nor no")
    return 0 if side == "yes" else 1


def _trade_time(row: Mapping[str, Any]) -> int:
    if row.get("created_time") is not None:
        return iso_us(row["created_time"], "created_time")
    if row.get("ts_ms") is not None:
        return milliseconds_us(row["ts_ms"], "ts_ms")
    return seconds_us(row.get("ts"), "ts")
