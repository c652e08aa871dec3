"""What the feed asks of Kalshi's socket: subscriptions in batches, snapshots, and what to do when one is refused."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

_TOO_MANY_COMMANDS = 27
_ALREADY_SUBSCRIBED = 6
QUIET_ERRORS = frozenset({_TOO_MANY_COMMANDS, _ALREADY_SUBSCRIBED})
"""Errors that a later command mends; nothing is refused by them."""
_COMMAND_PAUSE_US = 1_000_000


class Channel(StrEnum):
    BOOKS = "orderbook_delta"
    TRADES = "trade"
    LIFECYCLE = "market_lifecycle_v2"
    INDICES = "cfbenchmarks_value"
    """Prices of what crypto ladders are about; its tickers are ids of indices."""
    PYTH = "pyth_value"
    """Prices of what ladders of metals are about; its tickers are Pyth's."""


PRICES = (Channel.INDICES, Channel.PYTH)
_TICKERS_KEY = {Channel.INDICES: "index_ids", Channel.PYTH: "underlying_tickers"}


@dataclass(slots=True)
class _Subscription:
    """One channel: its sid once the venue told it, and the markets still to be added."""

    channel: Channel
    sid: int | None = None
    asked: bool = False
    """True while a subscribe command is on its way."""
    waiting: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Sent:
    channel: Channel
    command: str
    tickers: tuple[str, ...]


class Commands:
    """Makes commands and remembers what each asked for, so that an error names the markets it concerns."""

    def __init__(self, tickers_per_command: int, use_yes_price: bool) -> None:
        self._batch = tickers_per_command
        self._use_yes_price = use_yes_price
        self._open = False
        self._next_id = 1
        self._queue: list[str] = []
        self._sent: dict[int, _Sent] = {}
        self._later: list[tuple[int, _Sent]] = []
        self._subscriptions = {channel: _Subscription(channel) for channel in Channel}
        self._prices: dict[Channel, set[str]] = {channel: set() for channel in PRICES}

    def opened(self, tickers: Sequence[str]) -> None:
        self.closed()
        self._open = True
        self._send(_Sent(Channel.LIFECYCLE, "subscribe", ()))
        self.add(tickers)

    def closed(self) -> None:
        self._open = False
        self._queue.clear()
        self._sent.clear()
        self._later.clear()
        self._prices = {channel: set() for channel in PRICES}
        self._subscriptions = {channel: _Subscription(channel) for channel in Channel}

    def follow_prices(self, channel: Channel, tickers: Iterable[str]) -> None:
        """Ask for prices that weren't asked for yet; a repeated subscription adds to the one there is."""
        new = set(tickers) - self._prices[channel]
        if self._open and new:
            self._prices[channel] |= new
            self._send(_Sent(channel, "subscribe", tuple(sorted(new))))

    def add(self, tickers: Sequence[str]) -> None:
        if not self._open or not tickers:
            return
        for channel in (Channel.BOOKS, Channel.TRADES):
            self._subscriptions[channel].waiting += tickers
            self._advance(channel)

    def remove(self, tickers: Sequence[str]) -> None:
        if not self._open or not tickers:
            return
        gone = set(tickers)
        for channel in (Channel.BOOKS, Channel.TRADES):
            subscription = self._subscriptions[channel]
            subscription.waiting = [t for t in subscription.waiting if t not in gone]
            if subscription.sid is not None:
                for batch in self._batches(tickers):
                    self._send(_Sent(channel, "delete_markets", batch))

    def snapshot(self, sid: int, tickers: Sequence[str]) -> None:
        if self._open and self._subscriptions[Channel.BOOKS].sid == sid:
            for batch in self._batches(tickers):
                self._send(_Sent(Channel.BOOKS, "get_snapshot", batch))

    def subscribed(self, channel: str, sid: int) -> None:
        if channel not in list(Channel):
            return
        subscription = self._subscriptions[Channel(channel)]
        subscription.sid, subscription.asked = sid, False
        self._advance(subscription.channel)

    def ended(self, sid: int | None, tickers: Sequence[str]) -> None:
        """The venue ended a subscription (or says not which: then all): ask for it again with all its markets."""
        for channel, subscription in list(self._subscriptions.items()):
            if sid is None or subscription.sid == sid:
                self._subscriptions[channel] = _Subscription(channel)
                if channel is Channel.LIFECYCLE:
                    self._send(_Sent(channel, "subscribe", ()))
                elif channel in PRICES:
                    again, self._prices[channel] = self._prices[channel], set()
                    self.follow_prices(channel, again)
                else:
                    self._subscriptions[channel].waiting = list(tickers)
                    self._advance(channel)

    def channel(self, sid: int) -> Channel | None:
        return next((c for c, s in self._subscriptions.items() if s.sid == sid), None)

    def answered(self, command_id: object) -> None:
        if isinstance(command_id, int):
            self._sent.pop(command_id, None)

    def refused(self, command_id: object, code: int, ticker: object, now_us: int) -> Sequence[str]:
        """An error came for a command; the markets whose books can't be had by this connection."""
        sent = self._sent.pop(command_id, None) if isinstance(command_id, int) else None
        if sent is None:
            return [ticker] if isinstance(ticker, str) else []
        subscription = self._subscriptions[sent.channel]
        if code == _TOO_MANY_COMMANDS:
            self._later.append((now_us + _COMMAND_PAUSE_US, sent))
            return []
        if sent.command == "subscribe":
            subscription.asked = False
        if code == _ALREADY_SUBSCRIBED:
            return []
        refused = [ticker] if isinstance(ticker, str) and ticker in sent.tickers else list(sent.tickers)
        others = [t for t in sent.tickers if t not in refused]
        if others and sent.command in ("subscribe", "add_markets"):
            subscription.waiting = others + subscription.waiting
        if sent.channel in (Channel.BOOKS, Channel.TRADES):
            self._advance(sent.channel)
        return refused if sent.channel is Channel.BOOKS and sent.command in ("subscribe", "add_markets") else []

    def tick(self, now_us: int) -> None:
        due = [sent for at_us, sent in self._later if at_us <= now_us]
        self._later = [(at_us, sent) for at_us, sent in self._later if at_us > now_us]
        for sent in due:
            self._send(sent)

    def take(self) -> Sequence[str]:
        queued, self._queue = self._queue, []
        return queued

    def _advance(self, channel: Channel) -> None:
        """Subscribe with the first batch; add the others once the subscription's id is known."""
        subscription = self._subscriptions[channel]
        if subscription.asked or not subscription.waiting:
            return
        if subscription.sid is None:
            batch = tuple(subscription.waiting[: self._batch])
            subscription.waiting = subscription.waiting[self._batch :]
            subscription.asked = True
            self._send(_Sent(channel, "subscribe", batch))
        else:
            waiting, subscription.waiting = subscription.waiting, []
            for batch in self._batches(waiting):
                self._send(_Sent(channel, "add_markets", batch))

    def _send(self, sent: _Sent) -> None:
        command_id = self._next_id
        self._next_id += 1
        parameters: dict[str, Any]
        if sent.command == "subscribe":
            parameters = {"channels": [sent.channel.value]}
            if sent.tickers:
                parameters[_TICKERS_KEY.get(sent.channel, "market_tickers")] = list(sent.tickers)
            if sent.channel is Channel.BOOKS:
                parameters["use_yes_price"] = self._use_yes_price
            name = "subscribe"
        else:
            sid = self._subscriptions[sent.channel].sid
            if sid is None:
                return  # the subscription ended meanwhile; a new one carries these markets
            parameters = {"sids": [sid], "market_tickers": list(sent.tickers), "action": sent.command}
            name = "update_subscription"
        self._sent[command_id] = sent
        self._queue.append(orjson.dumps({"id": command_id, "cmd": name, "params": parameters}).decode())

    def _batches(self, tickers: Sequence[str]) -> Iterator[tuple[str, ...]]:
        for start in range(0, len(tickers), self._batch):
            yield tuple(tickers[start : start + self._batch])
