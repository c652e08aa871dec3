"""The CLOB's market channel without I/O: frames in; quotes, trades, settlements, feed states and commands out.

There is no sequence number. A fresh connection brings fresh books, so each one is a new epoch; within a connection the
best prices that the venue names beside a change tell whether ours is still its book.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from oddstream_server.application.ports import CatalogPage, SettlementUpdate, VenueItem
from oddstream_server.domain.market import Market, MarketState, Settlement, SettlementState, Venue
from oddstream_server.domain.money import MICROS
from oddstream_server.domain.quote import FeedState, OrderBook, SourceKind, TickSource
from oddstream_server.venues.decimals import InexactNumber, micros
from oddstream_server.venues.feed_state import FeedMonitor
from oddstream_server.venues.polymarket.book_lines import Best, BookLine, Level
from oddstream_server.venues.polymarket.catalog import price_ranges
from oddstream_server.venues.polymarket.fills import ToldFills
from oddstream_server.venues.polymarket.ticks import FillKeys, Token, book, price, printed_trade, tokens_of
from oddstream_server.venues.rows import (
    Quarantine,
    QuarantineReason,
    RowError,
    as_list,
    as_object,
    exact_json,
    optional_text,
    text,
)
from oddstream_server.venues.socket import SocketConfig
from oddstream_server.venues.times import milliseconds_us

_WITHOUT_NEWS = frozenset({"best_bid_ask", "new_market"})
_TRANSACTIONS_REMEMBERED = 10_000


class PolymarketFeed:
    """The protocol on one connection.

    :param stream: the connection's name for the operator.
    :param keys: shared by everything that reads trades, so that a fill has one key whoever brings it.
    """

    def __init__(
        self,
        monitor: FeedMonitor,
        config: SocketConfig,
        keys: FillKeys,
        stream: str = "polymarket websocket",
        mismatches_to_resnapshot: int = 3,
    ) -> None:
        self.stream = stream
        self._monitor = monitor
        self._config = config
        self._keys = keys
        self._mismatches_allowed = mismatches_to_resnapshot
        self._markets: dict[str, Market] = {}
        self._tokens: dict[str, Token] = {}
        self._lines: dict[str, BookLine] = {}
        self._holding: dict[str, BookLine] = {}  # those with a timestamp held back
        self._source = TickSource(Venue.POLYMARKET, SourceKind.WEBSOCKET, "")
        self._emitted = 0
        self._queue: list[str] = []
        self._open = False
        self._connections = 0
        self._awaiting: set[str] = set()
        self._gap_since_us: int | None = None
        self._gap_at_book = False
        self.told = ToldFills()
        """What was told of each transaction, by the socket and by whoever fetches what it missed."""
        self._taker_tokens: OrderedDict[tuple[object, ...], str] = OrderedDict()
        self._last_receive_us: int | None = None
        self._prints_are_named = True
        self._missed: tuple[int, int] | None = None
        self.lookups: set[str] = set()
        """Ids of followed markets whose settlement has to be read by REST; the adapter empties it."""

    # --- what is followed -----------------------------------------------------------------------------------------

    @property
    def markets(self) -> Sequence[Market]:
        return list(self._markets.values())

    def follow(self, markets: Sequence[Market]) -> None:
        """Replace the set of markets; commands for the difference are made at once."""
        wanted = {market.market_id: market for market in markets if len(market.outcomes) == 2}
        gone = [market for market_id, market in self._markets.items() if market_id not in wanted]
        new = [market for market_id, market in wanted.items() if market_id not in self._markets]
        self._markets = wanted
        self._tokens = tokens_of(wanted.values())
        for market in gone:
            self._lines.pop(market.market_id, None)
            self._holding.pop(market.market_id, None)
            self._awaiting.discard(market.market_id)
            self.lookups.discard(market.market_id)
        if self._open:
            self._operate("unsubscribe", gone)
            self._operate("subscribe", new)

    def take_strike(self, market_id: str, floor_micros: int) -> Market | None:
        """The market with the floor of its strike, which prices made known; None where it isn't followed here."""
        market = self._markets.get(market_id)
        if market is None or market.strike is None:
            return None
        market = replace(market, strike=replace(market.strike, floor_micros=floor_micros))
        self._markets[market_id] = market
        return market

    def order_book(self, market_id: str) -> OrderBook | None:
        line = self._lines.get(market_id)
        return line.order_book() if line else None

    # --- the connection -------------------------------------------------------------------------------------------

    def wanted(self) -> bool:
        return bool(self._markets)

    def watched(self) -> bool:
        return bool(self._markets)

    def opening_frames(self) -> int:
        return 2 * len(self._markets)

    def is_data(self, frame: str | bytes) -> bool:
        return len(frame) > 2  # an empty array answers a subscription to unknown tokens

    def opened(self, session: str, now_us: int) -> Sequence[VenueItem]:
        self._source = TickSource(Venue.POLYMARKET, SourceKind.WEBSOCKET, session)
        self._emitted = 0
        self._lines.clear()
        self._holding.clear()
        self._open = True
        self._awaiting = set(self._markets)
        self._gap_since_us = now_us
        self._gap_at_book = self._connections > 0  # nothing was missed before the first connection
        self._connections += 1
        if self._last_receive_us is not None:
            # a print without its transaction can't be told from the Data API's row of it: leave out the edges then
            edge_us = 0 if self._prints_are_named else 1_000_000
            since_us, until_us = self._last_receive_us + edge_us, now_us - edge_us
            self._missed = (since_us, until_us) if since_us < until_us else None
        self._monitor.raise_epoch()
        subscription = {"assets_ids": list(self._tokens), "type": "market", "custom_feature_enabled": True}
        self._queue = [orjson.dumps(subscription).decode()]
        return []

    def closed(self, now_us: int) -> Sequence[VenueItem]:
        items: list[VenueItem] = []
        for line in self._lines.values():
            self._flush(line, now_us, items)
        self._lines.clear()
        self._holding.clear()
        self._queue.clear()
        self._open = False
        return items

    def take_commands(self) -> Sequence[str]:
        queued, self._queue = self._queue, []
        return queued

    def take_missed(self) -> tuple[int, int] | None:
        """The span between the last data and the reconnect, once; None where nothing was missed."""
        missed, self._missed = self._missed, None
        return missed

    def tick(self, now_us: int) -> Sequence[VenueItem]:
        items: list[VenueItem] = []
        quiet_us, crossed_us = int(self._config.quiet_flush_s * 1e6), int(self._config.crossed_wait_s * 1e6)
        for market_id, line in list(self._holding.items()):
            if not line.pending:
                del self._holding[market_id]
            elif line.whole_by_silence(now_us, quiet_us, crossed_us):
                self._flush(line, now_us, items)
        self._live_again(now_us, items)
        return items

    def _operate(self, operation: str, markets: Sequence[Market]) -> None:
        tokens = [outcome.venue_instrument_id for market in markets for outcome in market.outcomes]
        if tokens:
            self._queue.append(orjson.dumps({"operation": operation, "assets_ids": tokens}).decode())

    # --- frames ---------------------------------------------------------------------------------------------------

    def receive(self, frame: str | bytes, now_us: int) -> Sequence[VenueItem]:
        """What a frame tells, in order: one message or an array of them; what can't be read is quarantined."""
        quarantine = Quarantine(Venue.POLYMARKET, "websocket market", now_us)
        self._last_receive_us = now_us
        items: list[VenueItem] = []
        with quarantine.guard(frame):
            content = _fast_json(frame)
            exact: Any = None
            for index, message in enumerate(content if isinstance(content, list) else [content]):
                with quarantine.guard(message):
                    try:
                        self._read(as_object(message, "message"), now_us, items)
                    except InexactNumber:  # a number where the protocol has texts: read again with its digits kept
                        exact = exact_json(frame) if exact is None else exact
                        self._read(exact[index] if isinstance(exact, list) else exact, now_us, items)
        items += quarantine.rows
        return items

    def _read(self, message: dict[str, Any], now_us: int, items: list[VenueItem]) -> None:
        kind = message.get("event_type")
        if kind == "price_change":
            self._price_change(message, now_us, items)
        elif kind == "book":
            self._book(message, now_us, items)
        elif kind == "last_trade_price":
            self._trade(message, now_us, items)
        elif kind == "tick_size_change":
            self._tick_size(message, items)
        elif kind == "market_resolved":
            self._resolved(message, now_us, items)
        elif kind not in _WITHOUT_NEWS:
            raise RowError(QuarantineReason.ENUM_UNKNOWN, "event_type is none that the venue documents")

    def _book(self, message: dict[str, Any], now_us: int, items: list[VenueItem]) -> None:
        token = self._tokens.get(text(message, "asset_id"))
        if token is None or token.outcome_index != 0:
            return  # not followed any more, or the mirror of the book that outcome 0's message brings
        levels = book(message, 0)
        venue_time_us = milliseconds_us(message.get("timestamp"), "timestamp")
        line = self._lines.get(token.market_id)
        if line is None:
            line = self._lines[token.market_id] = BookLine(token.market_id, epoch=self._monitor.epoch)
        if not line.belongs_to_pending(venue_time_us):
            self._flush(line, now_us, items)
        if self._gap_at_book:
            self._gap_at_book = False
            items += self._monitor.change(self.stream, FeedState.GAP, now_us, "reconnected; books are taken anew")
        quote = line.replace(levels, venue_time_us, now_us, self._source, self._next_key())
        if quote is not None:
            items.append(quote)
        self._awaiting.discard(token.market_id)
        self._live_again(now_us, items)

    def _price_change(self, message: dict[str, Any], now_us: int, items: list[VenueItem]) -> None:
        venue_time_us = milliseconds_us(message.get("timestamp"), "timestamp")
        if "price_changes" in message:
            rows = [as_object(r, "price change") for r in as_list(message["price_changes"], "price_changes")]
        else:  # before 2025-09-15: one token, named once
            asset = text(message, "asset_id")
            rows = [{"asset_id": asset, **as_object(r, "change")} for r in as_list(message.get("changes"), "changes")]
        by_market: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            token = self._tokens.get(text(row, "asset_id"))
            if token is not None and token.outcome_index == 0:
                by_market.setdefault(token.market_id, []).append(row)
        for market_id, changed in by_market.items():
            line = self._lines.get(market_id)
            if line is None or not line.known:
                continue  # without a book a change means nothing
            try:
                levels, best = [_level(row) for row in changed], _best(changed[-1])
            except InexactNumber:
                raise
            except RowError:
                self._take_anew(line, "a change of the book couldn't be read", now_us, items)
                raise
            if not line.belongs_to_pending(venue_time_us):
                self._flush(line, now_us, items)
            if line.known:
                line.hold(levels, best, venue_time_us, now_us)
                self._holding[market_id] = line

    def _flush(self, line: BookLine, now_us: int, items: list[VenueItem]) -> None:
        quote = line.show(now_us, self._source, self._next_key())
        if quote is not None:
            items.append(quote)
        if line.mismatches >= self._mismatches_allowed:
            self._take_anew(line, "our best prices are not the venue's", now_us, items)

    def _take_anew(self, line: BookLine, detail: str, now_us: int, items: list[VenueItem]) -> None:
        """Something was missed: forget the book, say so, subscribe again, which brings a whole one."""
        line.forget(self._monitor.raise_epoch())
        market = self._markets.get(line.market_id)
        if market is not None and self._open:
            self._operate("unsubscribe", [market])
            self._operate("subscribe", [market])
        self._awaiting.add(line.market_id)
        self._gap_since_us = now_us
        items += self._monitor.change(self.stream, FeedState.GAP, now_us, detail, [line.market_id])

    def _live_again(self, now_us: int, items: list[VenueItem]) -> None:
        """LIVE once all books came, or after the wait: a market without a book must not hold the others back."""
        since = self._gap_since_us
        if since is None or not self._lines or self._gap_at_book:
            return
        if self._awaiting and now_us - since < int(self._config.resnapshot_wait_s * 1e6):
            return
        self._gap_since_us = None
        items += self._monitor.change(self.stream, FeedState.LIVE, now_us)

    def _trade(self, message: dict[str, Any], now_us: int, items: list[VenueItem]) -> None:
        asset = text(message, "asset_id")
        token = self._tokens.get(asset)
        if token is None or self._is_mirrored_print(message, token, asset):
            return
        if not optional_text(message, "transaction_hash"):
            self._prints_are_named = False
        printed = printed_trade(message, token, self._keys, now_us)
        new = self.told.printed(token.market_id, optional_text(message, "transaction_hash"), printed.size_micros)
        if new:
            items.append(replace(printed, size_micros=new))

    def _is_mirrored_print(self, message: dict[str, Any], token: Token, asset: str) -> bool:
        """True for the other token's print of a match that was seen by its first token: a taker trades one token."""
        transaction = optional_text(message, "transaction_hash")
        match: tuple[object, ...] = (token.market_id, transaction)
        if not transaction:
            own = micros(message.get("price"), "price")
            told = own if token.outcome_index == 0 else MICROS - own
            match = (token.market_id, message.get("timestamp"), message.get("size"), told)
        first = self._taker_tokens.setdefault(match, asset)
        if len(self._taker_tokens) > _TRANSACTIONS_REMEMBERED:
            self._taker_tokens.popitem(last=False)
        return first != asset

    def _tick_size(self, message: dict[str, Any], items: list[VenueItem]) -> None:
        token = self._tokens.get(text(message, "asset_id"))
        market = self._markets.get(token.market_id) if token else None
        if market is None:
            return
        ranges = price_ranges(message.get("new_tick_size"))
        if not ranges:
            raise RowError(QuarantineReason.FIELD_MISSING, "new_tick_size is missing")
        if ranges != market.price_ranges:  # both tokens tell it
            self._markets[market.market_id] = replace(market, price_ranges=ranges)
            items.append(CatalogPage(Venue.POLYMARKET, (), (self._markets[market.market_id],)))

    def _resolved(self, message: dict[str, Any], now_us: int, items: list[VenueItem]) -> None:
        market = self._markets.get(f"polymarket:{text(message, 'market')}")
        if market is None:
            return
        winner = optional_text(message, "winning_asset_id")
        if not winner:
            self.lookups.add(market.market_id)
            return
        winners = [outcome.index for outcome in market.outcomes if outcome.venue_instrument_id == winner]
        if not winners:
            raise RowError(QuarantineReason.OUTCOMES_INCONSISTENT, "the winning token is none of the market's")
        stamp = message.get("timestamp")
        settled = Settlement(
            state=SettlementState.FINAL,
            yes_payout_micros=market.payout_micros if winners == [0] else 0,
            revision=1,
            determined_time_us=None if stamp is None else milliseconds_us(stamp, "timestamp"),
            known_time_us=now_us,
        )
        items.append(SettlementUpdate(market.market_id, MarketState.SETTLED, settled))

    def _next_key(self) -> int:
        self._emitted += 1
        return self._emitted


def _level(row: dict[str, Any]) -> Level:
    side = row.get("side")
    if side != "BUY" and side != "SELL":
        raise RowError(QuarantineReason.ENUM_UNKNOWN, "side is neither BUY nor SELL")
    size = micros(row.get("size"), "size")
    if size < 0:
        raise RowError(QuarantineReason.SIZE_OUT_OF_RANGE, "size is negative")
    return Level(side == "BUY", price(row.get("price"), "price"), size)


def _best(row: dict[str, Any]) -> Best | None:
    """The best prices beside a change; an empty side is 0 or 1 there. None where they aren't sent."""
    if row.get("best_bid") is None or row.get("best_ask") is None:
        return None
    bid, ask = micros(row["best_bid"], "best_bid"), micros(row["best_ask"], "best_ask")
    return Best(bid if 0 < bid < MICROS else None, ask if 0 < ask < MICROS else None)


def _fast_json(frame: str | bytes) -> Any:
    try:
        return orjson.loads(frame)
    except orjson.JSONDecodeError:
        raise RowError(QuarantineReason.NOT_JSON, "the frame is no JSON") from None
