"""A stage's events, markets, books and trades as Kalshi's REST rows and socket messages."""

import hashlib
import uuid
from typing import Any

from oddstream_server.domain.market import Declared, Event, Market, MarketState
from oddstream_server.domain.money import MICROS
from oddstream_server.venues.simulated.world import Printed
from tests.emulator.stage import MirrorBook
from tests.emulator.wire import decimals, iso

STATUS = {
    MarketState.UNOPENED: "initialized",
    MarketState.OPEN: "active",
    MarketState.PAUSED: "inactive",
    MarketState.CLOSED: "closed",
    MarketState.DETERMINED: "determined",
    MarketState.DISPUTED: "disputed",
    MarketState.SETTLED: "finalized",
}


def series_row(event: Event, market: Market) -> dict[str, Any]:
    fees = market.fee_schedules[0]
    makers = fees.maker_rate_ppm > 0
    return {
        "ticker": event.series_id,
        "title": event.title,
        "category": event.category.capitalize(),
        "categories": [event.category.capitalize()],
        "tags": None,
        "frequency": "custom",
        "settlement_sources": None,
        "contract_url": "https://emulator.invalid/contract.pdf",
        "contract_terms_url": "https://emulator.invalid/terms.pdf",
        "fee_type": "quadratic_with_maker_fees" if makers else "quadratic",
        "fee_multiplier": fees.multiplier_ppm / MICROS,
        "additional_prohibitions": [],
        "product_metadata": {},
        "volume_fp": "0.00",
        "last_updated_ts": iso(market.open_time_us or 0),
    }


def event_row(event: Event, updated_us: int) -> dict[str, Any]:
    return {
        "event_ticker": event.venue_event_id,
        "series_ticker": event.series_id,
        "title": event.title,
        "sub_title": event.title,
        "mutually_exclusive": event.exclusivity is Declared.YES,
        "collateral_return_type": "MECNET" if event.exclusivity is Declared.YES else "",
        "category": event.category.capitalize(),
        "available_on_brokers": False,
        "strike_period": "",
        "settlement_sources": None,
        "exchange_index": 0,
        "last_updated_ts": iso(updated_us),
        "product_metadata": {},
    }


def market_row(market: Market, book: MirrorBook, last_price_micros: int | None, now_us: int) -> dict[str, Any]:
    bid, ask = book.best_bid, book.best_ask
    yes, no = market.outcomes
    settled = market.settlement
    row: dict[str, Any] = {
        "ticker": market.venue_market_id,
        "event_ticker": (market.event_id or "").partition(":")[2],
        "market_type": "binary",
        "title": market.title,
        "subtitle": yes.label,
        "yes_sub_title": yes.label,
        "no_sub_title": no.label,
        "created_time": iso(market.open_time_us or 0),
        "updated_time": iso(now_us),
        "open_time": iso(market.open_time_us or 0),
        "close_time": iso(market.close_time_us or 0),
        "expected_expiration_time": iso(market.expected_settlement_time_us or 0),
        "expiration_time": iso(market.expected_settlement_time_us or 0),
        "latest_expiration_time": iso(market.expected_settlement_time_us or 0),
        "settlement_timer_seconds": 60,
        "settlement_bounds_type": "default",
        "status": STATUS[market.state],
        "yes_bid_dollars": decimals(bid or 0, 4),
        "yes_bid_size_fp": decimals(book.bids[bid] if bid is not None else 0, 2),
        "yes_ask_dollars": decimals(MICROS if ask is None else ask, 4),
        "yes_ask_size_fp": decimals(book.asks[ask] if ask is not None else 0, 2),
        "no_bid_dollars": decimals(0 if ask is None else MICROS - ask, 4),
        "no_ask_dollars": decimals(MICROS - (bid or 0), 4),
        "last_price_dollars": decimals(last_price_micros or 0, 4),
        "previous_yes_bid_dollars": "0.0000",
        "previous_yes_ask_dollars": "0.0000",
        "previous_price_dollars": "0.0000",
        "volume_fp": decimals(market.volume_micros or 0, 2),
        "volume_24h_fp": decimals(market.volume_micros or 0, 2),
        "open_interest_fp": decimals((market.open_interest_micros or 0) // 10_000 * 10_000, 2),
        "notional_value_dollars": "1.0000",
        "liquidity_dollars": "0.0000",
        "result": "",
        "can_close_early": False,
        "expiration_value": "",
        "rules_primary": market.rules_text,
        "rules_secondary": "",
        "price_level_structure": "linear_cent" if len(market.price_ranges) == 1 else "tapered_deci_cent",
        "price_ranges": [
            {
                "start": decimals(r.start_micros, 4),
                "end": decimals(r.end_micros, 4),
                "step": decimals(r.tick_micros, 4),
            }
            for r in market.price_ranges
        ],
        "exchange_index": 0,
    }
    if market.strike is not None:
        row["strike_type"] = market.strike.kind
        row["floor_strike"] = None if market.strike.floor_micros is None else market.strike.floor_micros / MICROS
        row["cap_strike"] = None if market.strike.cap_micros is None else market.strike.cap_micros / MICROS
    else:
        row["strike_type"] = "custom"
        row["custom_strike"] = {"outcome": yes.label}
    if settled is not None:
        row["result"], row["settlement_value_dollars"] = result(market)
        if settled.paid_time_us is not None:
            row["settlement_ts"] = iso(settled.paid_time_us)
    return row


def result(market: Market) -> tuple[str, str]:
    """(result word, settlement value) of a market that has a settlement: a void pays a fair price as a scalar."""
    settled = market.settlement
    assert settled is not None
    if settled.void or settled.yes_payout_micros is None:
        return "scalar", "0.5000"
    return ("yes" if settled.yes_payout_micros == MICROS else "no"), decimals(settled.yes_payout_micros, 4)


def levels(book: MirrorBook) -> tuple[list[list[str]], list[list[str]]]:
    """(yes, no) bids, ascending, each in its own side's price."""
    yes = [[decimals(price, 4), decimals(book.bids[price], 2)] for price in sorted(book.bids)]
    no = [[decimals(MICROS - price, 4), decimals(book.asks[price], 2)] for price in sorted(book.asks, reverse=True)]
    return yes, no


def orderbook(book: MirrorBook) -> dict[str, Any]:
    yes, no = levels(book)
    return {"yes_dollars": yes, "no_dollars": no}


def trade_id(print_: Printed) -> str:
    name = f"{print_.market_id}/{print_.time_us}/{print_.trade_number}"
    return str(uuid.UUID(bytes=hashlib.sha256(name.encode()).digest()[:16]))


def trade_row(print_: Printed) -> dict[str, Any]:
    fill = print_.fill
    side = "yes" if fill.taker_bought else "no"
    return {
        "trade_id": trade_id(print_),
        "ticker": print_.market_id.partition(":")[2],
        "count_fp": decimals(fill.size_micros, 2),
        "yes_price_dollars": decimals(fill.price_micros, 4),
        "no_price_dollars": decimals(MICROS - fill.price_micros, 4),
        "taker_side": side,
        "taker_outcome_side": side,
        "taker_book_side": "bid" if fill.taker_bought else "ask",
        "created_time": iso(print_.time_us),
        "is_block_trade": False,
    }


def trade_message(print_: Printed) -> dict[str, Any]:
    row = trade_row(print_)
    return {
        "trade_id": row["trade_id"],
        "market_ticker": row["ticker"],
        "yes_price_dollars": row["yes_price_dollars"],
        "no_price_dollars": row["no_price_dollars"],
        "count_fp": row["count_fp"],
        "taker_side": row["taker_side"],
        "taker_outcome_side": row["taker_outcome_side"],
        "taker_book_side": row["taker_book_side"],
        "ts": print_.time_us // 1_000_000,
        "ts_ms": print_.time_us // 1_000,
    }


def market_uuid(ticker: str) -> str:
    return str(uuid.UUID(bytes=hashlib.sha256(ticker.encode()).digest()[:16]))
