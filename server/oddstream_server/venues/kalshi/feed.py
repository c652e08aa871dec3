"""Kalshi's WebSocket protocol without I/O: frames in; quotes, trades, settlements, feed states and commands out.

One counter ``seq`` runs per subscription (sid) over all its markets; ``ok`` and ``unsubscribed`` frames take numbers of
it too. Frames are told apart by sid and market, never by the order of replies. The deltas of one venue timestamp are
one change of the book.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from oddstream_server.application.ports import SettlementUpdate, VenueItem
from oddstream_server.domain.market import UNDERLYING_PREFIX, Market, Settlement, Venue
from oddstream_server.domain.quote import FeedState, OrderBook, SourceKind, TickSource
from oddstream_server.venues.decimals import InexactNumber
from oddstream_server.venues.feed_state import FeedMonitor
from oddstream_server.venues.kalshi.book_lines import BookLine, DataLost
from oddstream_server.venues.kalshi.commands import QUIET_ERRORS, Channel, Commands
from oddstream_server.venues.kalshi.indices import PYTH, index_price, pyth_price
from oddstream_server.venues.kalshi.settlements import lifecycle_update
from oddstream_server.venues.kalshi.ticks import trade
from oddstream_server.venues.rows import (
    Quarantine,
    QuarantineReason,
    RowError,
    as_object,
    exact_json,
    text,
    whole_number,
)
from oddstream_server.venues.socket import SocketConfig

_ENDING_ERRORS = frozenset({10, 17, 25})
"""The subscription's channel, its server or its buffer failed: the subscription is over."""
_SNAPSHOT_TRIES = 3
_WITHOUT_NEWS = frozenset({"ticker", "event_lifecycle", "event_fee_update"})
_NO_DATA = ('"ok"', '"subscribed"', '"unsubscribed"', '"error"', '"cfbenchmarks', '"pyth_value')
"""Marks of frames that don't show that the markets' data comes: prices of underlyings go on while books stand still."""


class KalshiFeed:
    """The protocol on one connection.

    :param use_yes_price: sent with each book subscription; how NO levels are then read.
    """

    stream = "kalshi websocket"

    def __init__(
        self, monitor: FeedMonitor, config: SocketConfig, use_yes_price: bool = False, tickers_per_command: int = 100
    ) -> None:
        self._monitor = monitor
        self._config = config
        self._use_yes_price = use_yes_price
        self._commands = Commands(tickers_per_command, use_yes_price)
        self._markets: dict[str, str] = {}  # ticker -> market id
        self._lines: dict[str, BookLine] = {}
        self._holding: dict[str, BookLine] = {}  # those with a timestamp held back
        self._market_ids: set[str] = set()
        self._sequence: dict[int, int] = {}  # sid -> last seq
        self._determined: dict[str, Settlement] = {}
        self._session = ""
        self._connections = 0
        self._underlyings: set[str] = set()
        self._awaiting: set[str] = set()  # tickers whose book is being taken anew after a gap
        self._gap_since_us: int | None = None
        self._gap_at_snapshot = False
        self.lookups: set[str] = set()
        """Tickers of followed markets whose settlement has to be read by REST; the adapter empties it."""

    # --- what is followed -----------------------------------------------------------------------------------------

    def follow(self, markets: Sequence[Market]) -> None:
        """Replace the set of markets; commands for the difference are made at once."""
        wanted = {market.venue_market_id: market.market_id for market in markets}
        gone = [ticker for ticker in self._markets if ticker not in wanted]
        new = [ticker for ticker in wanted if ticker not in self._markets]
        self._markets = wanted
        self._market_ids = set(wanted.values())
        for ticker in gone:
            self._lines.pop(ticker, None)
            self._holding.pop(ticker, None)
            self._awaiting.discard(ticker)
            self._determined.pop(ticker, None)
            self.lookups.discard(ticker)
        about = (market.strike.underlying_id for market in markets if market.strike is not None)
        self._underlyings = {name.partition(UNDERLYING_PREFIX)[2] for name in about if name}
        self._commands.remove(gone)
        self._commands.add(new)
        self._follow_prices()

    def _follow_prices(self) -> None:
        pyth = {name for name in self._underlyings if name.startswith(PYTH)}
        self._commands.follow_prices(Channel.INDICES, self._underlyings - pyth)
        self._commands.follow_prices(Channel.PYTH, (name.removeprefix(PYTH) for name in pyth))

    def streamed(self) -> set[str]:
        """Tickers whose book is known from this connection."""
        return {ticker for ticker, line in self._lines.items() if line.known}

    def order_book(self, ticker: str) -> OrderBook | None:
        line = self._lines.get(ticker)
        return line.order_book() if line else None

    # --- the connection -------------------------------------------------------------------------------------------

    def wanted(self) -> bool:
        return bool(self._markets)

    def watched(self) -> bool:
        return bool(self._markets)

    def opening_frames(self) -> int:
        return len(self._markets)

    def is_data(self, frame: str | bytes) -> bool:
        head = frame[:160] if isinstance(frame, str) else frame[:160].decode("latin-1")
        return not any(mark in head for mark in _NO_DATA)

    def opened(self, session: str, now_us: int) -> Sequence[VenueItem]:
        self._session = session
        self._sequence.clear()
        self._lines.clear()
        self._holding.clear()
        self._awaiting = set(self._markets)
        self._gap_since_us = now_us
        self._gap_at_snapshot = self._connections > 0  # nothing was missed before the first connection
        self._connections += 1
        self._monitor.raise_epoch()
        self._commands.opened(list(self._markets))
        self._follow_prices()
        return []

    def closed(self, now_us: int) -> Sequence[VenueItem]:
        items: list[VenueItem] = []
        for line in list(self._lines.values()):
            self._flush(line, now_us, items)
        self._lines.clear()
        self._holding.clear()
        self._commands.closed()
        return items

    def take_commands(self) -> Sequence[str]:
        return self._commands.take()

    def tick(self, now_us: int) -> Sequence[VenueItem]:
        items: list[VenueItem] = []
        quiet_us, crossed_us = int(self._config.quiet_flush_s * 1e6), int(self._config.crossed_wait_s * 1e6)
        for ticker, line in list(self._holding.items()):
            if not line.pending:
                del self._holding[ticker]
            elif line.whole_by_silence(now_us, quiet_us, crossed_us):
                self._flush(line, now_us, items)
        self._commands.tick(now_us)
        self._live_again(now_us, items)
        return items

    # --- frames ---------------------------------------------------------------------------------------------------

    def receive(self, frame: str | bytes, now_us: int) -> Sequence[VenueItem]:
        """What a frame tells, in order. A frame that can't be read comes back as a quarantined row."""
        quarantine = Quarantine(Venue.KALSHI, "websocket", now_us)
        items: list[VenueItem] = []
        with quarantine.guard(frame):
            row = as_object(_fast_json(frame), "frame")
            if "seq" in row:
                self._count(row, now_us, items)
            try:
                self._read(row, now_us, items)
            except InexactNumber:  # a number where the protocol has texts: read again with its digits kept
                self._read(exact_json(frame), now_us, items)
        items += quarantine.rows
        return items

    def _read(self, row: dict[str, Any], now_us: int, items: list[VenueItem]) -> None:
        kind = row.get("type")
        if kind == "orderbook_delta":
            self._delta(row, now_us, items)
        elif kind == "orderbook_snapshot":
            self._snapshot(row, now_us, items)
        elif kind == "trade":
            printed = trade(row.get("msg"), now_us)
            if printed.market_id in self._market_ids:
                items.append(printed)
        elif kind == "cfbenchmarks_value":
            items.append(index_price(row.get("msg"), self._session, now_us))
        elif kind == "pyth_value":
            items.append(pyth_price(row.get("msg"), self._session, now_us))
        elif kind == "market_lifecycle_v2":
            self._lifecycle(as_object(row.get("msg"), "msg"), now_us, items)
        elif kind == "subscribed":
            message = as_object(row.get("msg"), "msg")
            self._commands.answered(row.get("id"))
            self._commands.subscribed(text(message, "channel"), whole_number(message, "sid"))
        elif kind == "error":
            self._error(row, now_us, items)
        elif kind in ("ok", "unsubscribed"):
            self._commands.answered(row.get("id"))
        elif kind not in _WITHOUT_NEWS:
            raise RowError(QuarantineReason.ENUM_UNKNOWN, "type is none that the venue documents")

    def _count(self, row: dict[str, Any], now_us: int, items: list[VenueItem]) -> None:
        """Follow the subscription's counter; a number that is skipped is lost data of all its markets."""
        sid, seq = whole_number(row, "sid"), whole_number(row, "seq")
        last = self._sequence.get(sid)
        self._sequence[sid] = seq
        if last is None or seq == last + 1:
            return
        lost = [ticker for ticker, line in self._lines.items() if line.sid == sid]
        self._lose(lost, f"the sequence went from {last} to {seq}", now_us, items)

    def _snapshot(self, row: dict[str, Any], now_us: int, items: list[VenueItem]) -> None:
        sid, seq = whole_number(row, "sid"), whole_number(row, "seq")
        message = as_object(row.get("msg"), "msg")
        ticker = text(message, "market_ticker")
        market_id = self._markets.get(ticker)
        if market_id is None:
            return  # it was unsubscribed while the frame was on its way
        line = self._lines.get(ticker)
        if line is None or line.sid != sid:
            source = TickSource(Venue.KALSHI, SourceKind.WEBSOCKET, f"{self._session}:{sid}")
            line = self._lines[ticker] = BookLine(ticker, market_id, sid, source, self._monitor.epoch)
        self._flush(line, now_us, items)
        try:
            quote = line.snapshot(message, seq, now_us, self._use_yes_price)
        except RowError:
            if line.tries < _SNAPSHOT_TRIES:
                line.tries += 1
                self._commands.snapshot(sid, [ticker])
            raise
        if self._gap_at_snapshot:
            self._gap_at_snapshot = False
            items += self._monitor.change(self.stream, FeedState.GAP, now_us, "reconnected; books are taken anew")
        self._awaiting.discard(ticker)
        items.append(quote)
        self._live_again(now_us, items)

    def _delta(self, row: dict[str, Any], now_us: int, items: list[VenueItem]) -> None:
        message = as_object(row.get("msg"), "msg")
        line = self._lines.get(text(message, "market_ticker"))
        if line is None or not line.known or line.sid != row.get("sid"):
            return  # without a snapshot a change means nothing
        try:
            change = line.read_delta(message, self._use_yes_price)
            seq = whole_number(row, "seq")
        except InexactNumber:
            raise
        except RowError:
            self._lose([line.ticker], "a change of the book couldn't be read", now_us, items)
            raise
        if not line.belongs_to_pending(change):
            self._flush(line, now_us, items)
            if not line.known:
                return
        line.hold(change, seq, now_us)
        self._holding[line.ticker] = line

    def _flush(self, line: BookLine, now_us: int, items: list[VenueItem]) -> None:
        try:
            quote = line.show(now_us)
        except DataLost as lost:
            self._lose([line.ticker], lost.detail, now_us, items)
            return
        if quote is not None:
            items.append(quote)

    def _lose(self, tickers: Sequence[str], detail: str, now_us: int, items: list[VenueItem]) -> None:
        """Data of these markets was missed: forget their books and what was held back, say so, ask for new ones."""
        if not tickers:
            return
        epoch = self._monitor.raise_epoch()
        by_sid: dict[int, list[str]] = {}
        for ticker in tickers:
            line = self._lines[ticker]
            line.forget(epoch)
            by_sid.setdefault(line.sid, []).append(ticker)
        for sid, of_sid in by_sid.items():
            self._commands.snapshot(sid, of_sid)
        self._awaiting.update(tickers)
        self._gap_since_us = now_us
        market_ids = [self._markets[ticker] for ticker in tickers if ticker in self._markets]
        items += self._monitor.change(self.stream, FeedState.GAP, now_us, detail, market_ids)

    def _live_again(self, now_us: int, items: list[VenueItem]) -> None:
        """LIVE once all books came, or after the wait: a market without a book must not hold the others back."""
        since = self._gap_since_us
        if since is None or not self._lines or self._gap_at_snapshot:
            return
        if self._awaiting and now_us - since < int(self._config.resnapshot_wait_s * 1e6):
            return
        self._gap_since_us = None
        items += self._monitor.change(self.stream, FeedState.LIVE, now_us)

    def _lifecycle(self, message: dict[str, Any], now_us: int, items: list[VenueItem]) -> None:
        ticker = text(message, "market_ticker")
        if ticker not in self._markets:
            return
        update = lifecycle_update(message, self._determined.get(ticker), now_us)
        if update is None:
            return
        if update.settlement is not None:
            self._determined[ticker] = update.settlement
        elif message.get("event_type") in ("determined", "settled"):
            self.lookups.add(ticker)
        items.append(SettlementUpdate(self._markets[ticker], update.state, update.settlement))

    def _error(self, row: dict[str, Any], now_us: int, items: list[VenueItem]) -> None:
        message = as_object(row.get("msg"), "msg")
        code = whole_number(message, "code")
        if code in _ENDING_ERRORS:
            sid = row.get("sid") if isinstance(row.get("sid"), int) else None
            ended = [t for t, line in self._lines.items() if sid is None or line.sid == sid]
            self._lose(ended, f"the venue ended the subscription (code {code})", now_us, items)
            for ticker in ended:
                del self._lines[ticker]
                self._holding.pop(ticker, None)
            if sid is None:
                self._sequence.clear()
            else:
                self._sequence.pop(sid, None)
            self._commands.ended(sid, list(self._markets))
            return
        refused = self._commands.refused(row.get("id"), code, message.get("market_ticker"), now_us)
        self._awaiting.difference_update(refused)
        if refused or code not in QUIET_ERRORS:
            raise RowError(QuarantineReason.REFUSED, f"the venue refused a command (code {code})")


def _fast_json(frame: str | bytes) -> Any:
    try:
        return orjson.loads(frame)
    except orjson.JSONDecodeError:
        raise RowError(QuarantineReason.NOT_JSON, "the frame is no JSON") from None
