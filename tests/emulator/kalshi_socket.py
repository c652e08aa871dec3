"""Kalshi's WebSocket from the venue's side: sids, one seq a sid that ``ok`` frames take part in, snapshots, deltas."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import orjson

from oddstream_server.domain.market import MarketState, SettlementState
from oddstream_server.domain.money import MICROS
from oddstream_server.venues.simulated.world import Listed, Printed, Resolved
from tests.emulator.kalshi_rows import levels, market_uuid, result, trade_message
from tests.emulator.serving import Connection
from tests.emulator.stage import BookMoved, Stage, StageItem
from tests.emulator.wire import decimals, iso

BOOKS, TRADES, LIFECYCLE, TICKER = "orderbook_delta", "trade", "market_lifecycle_v2", "ticker"
CHANNELS = (BOOKS, TRADES, LIFECYCLE, TICKER)
PREFIX = "simulated:"


@dataclass(slots=True)
class Subscription:
    channel: str
    sid: int
    tickers: set[str] = field(default_factory=set)
    everything: bool = False
    seq: int = 0
    use_yes_price: bool = False
    lose: int = 0
    """Book frames that take a number and are not sent."""

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def has(self, ticker: str) -> bool:
        return self.everything or ticker in self.tickers


class KalshiSession:
    """One client: its subscriptions, and what the stage's items become on them."""

    def __init__(self, stage: Stage, connection: Connection) -> None:
        self._stage = stage
        self.connection = connection
        self.subscriptions: dict[int, Subscription] = {}

    # --- commands ---------------------------------------------------------------------------------------------------

    def command(self, frame: str) -> None:
        try:
            command = orjson.loads(frame)
            name, parameters, command_id = command["cmd"], command.get("params", {}), command.get("id")
        except (orjson.JSONDecodeError, KeyError, TypeError):
            self._error(None, 1, "Unable to process message")
            return
        if name == "subscribe":
            self._subscribe(command_id, parameters)
        elif name == "update_subscription":
            self._update(command_id, parameters)
        elif name == "unsubscribe":
            for sid in parameters.get("sids", []):
                subscription = self.subscriptions.pop(sid, None)
                if subscription is None:
                    self._error(command_id, 12, "Unknown subscription ID")
                else:
                    self._send({"id": command_id, "type": "unsubscribed", "sid": sid, "seq": subscription.next_seq()})
        elif name == "list_subscriptions":
            rows = [{"channel": s.channel, "sid": s.sid} for s in self.subscriptions.values()]
            self._send({"id": command_id, "type": "ok", "subscriptions": rows})
        else:
            self._error(command_id, 5, "Unknown command")

    def _subscribe(self, command_id: Any, parameters: dict[str, Any]) -> None:
        channels = parameters.get("channels")
        if not channels:
            self._error(command_id, 2, "Params required")
            return
        tickers = list(parameters.get("market_tickers") or [])
        if parameters.get("market_ticker"):
            tickers.append(parameters["market_ticker"])
        for channel in channels:
            if channel not in CHANNELS:
                self._error(command_id, 8, "Unknown channel name")
                continue
            if channel == BOOKS and not tickers:
                self._error(command_id, 14, "Market ticker required")
                continue
            known = next((s for s in self.subscriptions.values() if s.channel == channel), None)
            if known is None:
                sid = len(self.subscriptions) + 1
                known = self.subscriptions[sid] = Subscription(channel, sid)
                known.use_yes_price = bool(parameters.get("use_yes_price", False))
                known.everything = not tickers
                self._send({"id": command_id, "type": "subscribed", "msg": {"channel": channel, "sid": sid}})
                self._add(known, tickers)
            else:  # a repeated subscription merges, and answers on the same sid
                self._add(known, tickers)
                self._ok(command_id, known)

    def _update(self, command_id: Any, parameters: dict[str, Any]) -> None:
        sids = parameters.get("sids") or [parameters.get("sid")]
        subscription = self.subscriptions.get(sids[0]) if len(sids) == 1 else None
        if subscription is None:
            self._error(command_id, 12, "Unknown subscription ID")
            return
        tickers = list(parameters.get("market_tickers") or [])
        action = parameters.get("action")
        if action == "add_markets":
            self._ok(command_id, subscription, also=tickers)
            self._add(subscription, tickers)
        elif action == "delete_markets":
            subscription.tickers.difference_update(tickers)
            self._ok(command_id, subscription)
        elif action == "get_snapshot":
            for ticker in tickers:
                if subscription.has(ticker):
                    self._snapshot(subscription, ticker)
        else:
            self._error(command_id, 13, "Unknown update subscription action")

    def _add(self, subscription: Subscription, tickers: Iterable[str]) -> None:
        for ticker in tickers:
            fresh = ticker not in subscription.tickers
            subscription.tickers.add(ticker)
            if subscription.channel == BOOKS and fresh:
                self._snapshot(subscription, ticker)

    def _ok(self, command_id: Any, subscription: Subscription, also: Iterable[str] = ()) -> None:
        tickers = sorted(subscription.tickers.union(also))
        self._send(
            {
                "id": command_id,
                "type": "ok",
                "sid": subscription.sid,
                "seq": subscription.next_seq(),
                "msg": {"market_tickers": tickers},
            }
        )

    def _error(self, command_id: Any, code: int, text: str) -> None:
        self._send({"id": command_id, "type": "error", "msg": {"code": code, "msg": text}})

    def _snapshot(self, subscription: Subscription, ticker: str) -> None:
        yes, no = levels(self._stage.book(PREFIX + ticker))
        if subscription.use_yes_price:
            no = [[decimals(MICROS - int(Decimal(price) * MICROS), 4), size] for price, size in no]
        message: dict[str, Any] = {"market_ticker": ticker, "market_id": market_uuid(ticker)}
        if yes:  # an empty side's key is absent
            message["yes_dollars_fp"] = yes
        if no:
            message["no_dollars_fp"] = no
        self._send(
            {
                "type": "orderbook_snapshot",
                "sid": subscription.sid,
                "seq": subscription.next_seq(),
                "msg": message,
            }
        )

    # --- the stage's items --------------------------------------------------------------------------------------------

    def show(self, item: StageItem) -> None:
        for subscription in self.subscriptions.values():
            if isinstance(item, BookMoved) and subscription.channel == BOOKS:
                self._deltas(subscription, item)
            elif isinstance(item, Printed) and subscription.channel == TRADES:
                if subscription.has(item.market_id.removeprefix(PREFIX)):
                    self._send({"type": "trade", "sid": subscription.sid, "msg": trade_message(item)})
            elif subscription.channel == LIFECYCLE:
                if isinstance(item, Resolved):
                    self._resolved(subscription, item)
                elif isinstance(item, Listed):
                    for market in item.markets:
                        self._lifecycle(subscription, market.venue_market_id, "created", open_ts=item.time_us // MICROS)

    def _deltas(self, subscription: Subscription, item: BookMoved) -> None:
        ticker = item.market_id.removeprefix(PREFIX)
        if not subscription.has(ticker):
            return
        for move in item.moves:
            price = move.price_micros
            if not move.bid and not subscription.use_yes_price:
                price = MICROS - price
            frame = {
                "type": "orderbook_delta",
                "sid": subscription.sid,
                "seq": subscription.next_seq(),
                "msg": {
                    "market_ticker": ticker,
                    "market_id": market_uuid(ticker),
                    "price_dollars": decimals(price, 4),
                    "delta_fp": decimals(move.after_micros - move.before_micros, 2),
                    "side": "yes" if move.bid else "no",
                    "ts": iso(item.time_us),
                    "ts_ms": item.time_us // 1_000,
                },
            }
            if subscription.lose:
                subscription.lose -= 1
            else:
                self._send(frame)

    def _resolved(self, subscription: Subscription, item: Resolved) -> None:
        ticker = item.update.market_id.removeprefix(PREFIX)
        market = self._stage.world.market(item.update.market_id)
        if item.update.state is MarketState.CLOSED or market is None:
            return  # the venue tells a close by its close time alone
        settled = item.update.settlement
        assert settled is not None
        at_s = item.time_us // MICROS
        word, value = result(replace(market, settlement=settled))
        if settled.state in (SettlementState.PROVISIONAL, SettlementState.AMENDED):
            self._lifecycle(
                subscription, ticker, "determined", determination_ts=at_s, result=word, settlement_value=value
            )
        if settled.state in (SettlementState.FINAL, SettlementState.AMENDED):
            self._lifecycle(subscription, ticker, "settled", settled_ts=at_s)

    def _lifecycle(self, subscription: Subscription, ticker: str, kind: str, **more: Any) -> None:
        if subscription.has(ticker):
            message = {"market_ticker": ticker, "event_type": kind, **more}
            self._send({"type": "market_lifecycle_v2", "sid": subscription.sid, "msg": message})

    def _send(self, frame: dict[str, Any]) -> None:
        self.connection.put(orjson.dumps(frame).decode())
