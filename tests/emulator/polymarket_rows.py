"""A stage's events, markets, books and trades as Gamma's, the CLOB's and the Data API's rows and messages."""

import hashlib
import json
from typing import Any

from oddstream_server.domain.market import Declared, Event, Market, MarketState
from oddstream_server.domain.money import MICROS
from oddstream_server.venues.simulated.world import Printed
from tests.emulator.stage import MirrorBook
from tests.emulator.wire import iso, shortest


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def condition_id(market_id: str) -> str:
    return f"0x{_digest(market_id)}"


def token_id(market_id: str, outcome_index: int) -> str:
    """A decimal of up to 78 digits."""
    return str(int(_digest(f"{market_id}/{outcome_index}"), 16))


def gamma_id(name: str) -> str:
    return str(int(_digest(name)[:10], 16))


def slug(name: str) -> str:
    return name.partition(":")[2].lower()


def neg_risk(event: Event) -> bool:
    """Exclusive and exhaustive by the venue's own rule."""
    return event.exclusivity is Declared.YES and event.exhaustiveness is Declared.YES and len(event.market_ids) > 1


def is_closed(market: Market) -> bool:
    return market.state is MarketState.SETTLED


def payouts(market: Market) -> list[str]:
    settled = market.settlement
    if settled is None or settled.void or settled.yes_payout_micros is None:
        return ["0.5", "0.5"]
    return ["1", "0"] if settled.yes_payout_micros == MICROS else ["0", "1"]


def event_row(event: Event, markets: list[dict[str, Any]], closed: bool, updated_us: int) -> dict[str, Any]:
    risk = neg_risk(event)
    row: dict[str, Any] = {
        "id": gamma_id(event.event_id),
        "ticker": slug(event.event_id),
        "slug": slug(event.event_id),
        "title": event.title,
        "description": event.title,
        "resolutionSource": "",
        "startDate": iso(updated_us),
        "endDate": iso(updated_us),
        "createdAt": iso(updated_us),
        "updatedAt": iso(updated_us),
        "active": True,
        "closed": closed,
        "archived": False,
        "new": False,
        "featured": False,
        "restricted": True,
        "liquidity": 0,
        "volume": 0,
        "enableOrderBook": True,
        "negRisk": risk,
        "enableNegRisk": risk,
        "negRiskAugmented": False,
        "tags": [{"id": "1", "label": event.category.capitalize(), "slug": event.category}],
        "series": [{"id": gamma_id(event.series_id), "slug": event.series_id.lower(), "title": event.series_id}],
        "markets": markets,
    }
    if risk:
        row["negRiskMarketID"] = f"0x{_digest(event.event_id + '/negrisk')}"
    return row


def market_row(
    market: Market, event: Event, book: MirrorBook, last_price_micros: int | None, updated_us: int
) -> dict[str, Any]:
    bid, ask = book.best_bid, book.best_ask
    closed = is_closed(market)
    middle = ((bid or 0) + (MICROS if ask is None else ask)) // 20_000 * 10_000
    prices = payouts(market) if closed else [shortest(middle), shortest(MICROS - middle)]
    fees = market.fee_schedules[0]
    row: dict[str, Any] = {
        "id": gamma_id(market.market_id),
        "question": market.title,
        "conditionId": condition_id(market.market_id),
        "questionID": f"0x{_digest(market.market_id + '/question')}",
        "slug": slug(market.market_id),
        "description": market.rules_text,
        "resolutionSource": "",
        "outcomes": json.dumps([o.label for o in market.outcomes]),
        "outcomePrices": json.dumps(prices),
        "clobTokenIds": json.dumps([token_id(market.market_id, o.index) for o in market.outcomes]),
        "startDate": iso(market.open_time_us or 0),
        "endDate": iso(market.close_time_us or 0),
        "createdAt": iso(market.open_time_us or 0),
        "updatedAt": iso(updated_us),
        "volume": shortest(market.volume_micros or 0),
        "volumeNum": (market.volume_micros or 0) / MICROS,
        "liquidity": "0",
        "liquidityNum": 0,
        "active": True,
        "closed": closed,
        "archived": False,
        "restricted": True,
        "enableOrderBook": True,
        "acceptingOrders": market.state is MarketState.OPEN,
        "orderPriceMinTickSize": min(r.tick_micros for r in market.price_ranges) / MICROS,
        "orderMinSize": 5,
        "groupItemTitle": market.outcomes[0].label,
        "negRisk": neg_risk(event),
        "negRiskOther": False,
        "feesEnabled": True,
        "feeType": f"{market.category}_fees",
        "feeSchedule": {
            "exponent": 1,
            "rate": fees.taker_rate_ppm * fees.multiplier_ppm // MICROS / MICROS,
            "takerOnly": True,
            "rebateRate": 0.2,
        },
        "makerBaseFee": 1000,
        "takerBaseFee": 1000,
        "secondsDelay": market.taker_delay_us // MICROS,
    }
    if bid is not None:
        row["bestBid"] = bid / MICROS
    if ask is not None:
        row["bestAsk"] = ask / MICROS
    if last_price_micros is not None:
        row["lastTradePrice"] = last_price_micros / MICROS
    if market.state in (MarketState.DETERMINED, MarketState.SETTLED):
        row["umaResolutionStatus"] = "resolved" if closed else "proposed"
    if closed and market.settlement is not None and market.settlement.paid_time_us is not None:
        row["closedTime"] = iso(market.settlement.paid_time_us).replace("T", " ").removesuffix("Z") + "+00"
        row["umaEndDate"] = iso(market.settlement.determined_time_us or market.settlement.paid_time_us)
    return row


def book_body(market: Market, book: MirrorBook, outcome_index: int, now_us: int) -> dict[str, Any]:
    """The book of one token: bids ascending and asks descending, so that the best is last."""
    bids, asks = book.bids, book.asks
    if outcome_index == 1:
        bids, asks = (
            {MICROS - p: size for p, size in book.asks.items()},
            {MICROS - p: size for p, size in book.bids.items()},
        )
    body = {
        "market": condition_id(market.market_id),
        "asset_id": token_id(market.market_id, outcome_index),
        "timestamp": str(now_us // 1_000),
        "hash": "",
        "bids": [{"price": shortest(p), "size": shortest(bids[p])} for p in sorted(bids)],
        "asks": [{"price": shortest(p), "size": shortest(asks[p])} for p in sorted(asks, reverse=True)],
        "min_order_size": "5",
        "tick_size": shortest(min(r.tick_micros for r in market.price_ranges)),
        "neg_risk": False,
        "last_trade_price": "0.5",
    }
    compact = json.dumps(body, separators=(",", ":"))
    return {**body, "hash": hashlib.sha1(compact.encode(), usedforsecurity=False).hexdigest()}


def transaction_hash(print_: Printed) -> str:
    return f"0x{_digest(f'{print_.market_id}/{print_.time_us}/tx')}"


def taker(print_: Printed) -> tuple[int, int]:
    """(outcome bought, its price): a taker who sells outcome 0 buys outcome 1."""
    price = print_.fill.price_micros
    return (0, price) if print_.fill.taker_bought else (1, MICROS - price)


def trade_row(print_: Printed, market: Market, event: Event) -> dict[str, Any]:
    """A row of ``GET /v2/trades``."""
    outcome, price = taker(print_)
    return {
        "proxy_wallet": f"0x{_digest(f'{print_.market_id}/{print_.trade_number}')[:40]}",
        "side": "BUY",
        "token_id": token_id(print_.market_id, outcome),
        "condition_id": condition_id(print_.market_id),
        "size": print_.fill.size_micros / MICROS,
        "price": price / MICROS,
        "timestamp": print_.time_us // MICROS,
        "title": market.title,
        "slug": slug(print_.market_id),
        "icon": "",
        "event_slug": slug(event.event_id),
        "outcome": market.outcomes[outcome].label,
        "outcome_index": outcome,
        "name": "",
        "pseudonym": "",
        "bio": "",
        "profile_image": "",
        "transaction_hash": transaction_hash(print_),
    }


def trade_message(print_: Printed) -> dict[str, Any]:
    outcome, price = taker(print_)
    return {
        "event_type": "last_trade_price",
        "market": condition_id(print_.market_id),
        "asset_id": token_id(print_.market_id, outcome),
        "price": shortest(price),
        "size": shortest(print_.fill.size_micros),
        "side": "BUY",
        "fee_rate_bps": "0",
        "timestamp": str(print_.time_us // 1_000),
        "transaction_hash": transaction_hash(print_),
    }


def _seconds(instant_us: int | None) -> int:
    return (instant_us or 0) // MICROS


def resolution_row(market: Market) -> dict[str, Any]:
    """A row of ``GET /v2/resolutions``: payouts in millionths."""
    resolved = is_closed(market)
    settled = market.settlement
    row: dict[str, Any] = {
        "condition_id": condition_id(market.market_id),
        "question_id": f"0x{_digest(market.market_id + '/question')}",
        "status": "resolved" if resolved else ("proposed" if settled else "initialized"),
        "reporter": "UMA_OO",
        "was_disputed": False,
        "new_version_q": False,
        "extended_review": False,
        "last_update_timestamp": _seconds(settled.known_time_us if settled else market.open_time_us),
    }
    if resolved and settled is not None:
        yes = MICROS // 2 if settled.yes_payout_micros is None else settled.yes_payout_micros
        row["payouts"] = [yes, MICROS - yes]
    return row
