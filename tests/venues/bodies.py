"""Bodies and frames in the venues' shapes, with made-up content."""

import json
from typing import Any

from oddstream_server.domain.market import Market, MarketState, Outcome, PriceRange, Venue

CONDITION = "0x" + "ab" * 32
YES_TOKEN = "7" * 77
NO_TOKEN = "8" * 77


def kalshi_market_row(ticker: str = "KXRAIN-26AUG01-T2", **fields: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "ticker": ticker,
        "event_ticker": "KXRAIN-26AUG01",
        "market_type": "binary",
        "yes_sub_title": "Above 2 inches",
        "no_sub_title": "Above 2 inches",
        "title": "Will it rain more than 2 inches?",
        "open_time": "2026-07-30T14:00:00Z",
        "close_time": "2026-08-02T03:59:00Z",
        "expected_expiration_time": "2026-08-02T14:00:00.5Z",
        "status": "active",
        "result": "",
        "yes_bid_dollars": "0.4100",
        "yes_bid_size_fp": "120.50",
        "yes_ask_dollars": "0.4300",
        "yes_ask_size_fp": "10.00",
        "no_bid_dollars": "0.5700",
        "no_ask_dollars": "0.5900",
        "volume_fp": "1204.25",
        "open_interest_fp": "700.00",
        "notional_value_dollars": "1.0000",
        "strike_type": "greater",
        "floor_strike": 2.5,
        "rules_primary": "If it rains more than 2.5 inches, the market resolves to Yes.",
        "rules_secondary": "",
        "price_level_structure": "tapered",
        "price_ranges": [
            {"start": "0.1000", "end": "0.9000", "step": "0.0100"},
            {"start": "0.0000", "end": "0.1000", "step": "0.0010"},
            {"start": "0.9000", "end": "1.0000", "step": "0.0010"},
        ],
    }
    row.update(fields)
    return row


def kalshi_event_row(**fields: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "event_ticker": "KXRAIN-26AUG01",
        "series_ticker": "KXRAIN",
        "title": "Rain on 1 August",
        "sub_title": "1 August",
        "mutually_exclusive": True,
        "collateral_return_type": "MECNET",
        "category": "Climate and Weather",
    }
    row.update(fields)
    return row


def kalshi_series_row(**fields: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "ticker": "KXRAIN",
        "title": "Rain",
        "category": "Climate and Weather",
        "tags": None,
        "settlement_sources": None,
        "fee_type": "quadratic",
        "fee_multiplier": 1,
    }
    row.update(fields)
    return row


def kalshi_market(ticker: str) -> Market:
    return Market(
        market_id=f"kalshi:{ticker}",
        venue=Venue.KALSHI,
        venue_market_id=ticker,
        event_id="kalshi:E",
        title=ticker,
        outcomes=(Outcome(0, "Yes", ticker), Outcome(1, "No", ticker)),
        state=MarketState.OPEN,
        price_ranges=(PriceRange(0, 1_000_000, 10_000),),
        minimum_size_micros=10_000,
        size_step_micros=10_000,
    )


def subscribed(channel: str, sid: int, command_id: int) -> str:
    return json.dumps({"type": "subscribed", "id": command_id, "msg": {"channel": channel, "sid": sid}})


def snapshot(
    ticker: str, seq: int, yes: list[list[str]] | None = None, no: list[list[str]] | None = None, sid: int = 1
) -> str:
    message: dict[str, Any] = {"market_ticker": ticker, "market_id": "m"}
    if yes:
        message["yes_dollars_fp"] = yes
    if no:
        message["no_dollars_fp"] = no
    return json.dumps({"type": "orderbook_snapshot", "sid": sid, "seq": seq, "msg": message})


def delta(
    ticker: str, seq: int, side: str, price: str, change: str, ts_ms: int | None = 1_786_000_000_000, sid: int = 1
) -> str:
    message: dict[str, Any] = {
        "market_ticker": ticker,
        "market_id": "m",
        "price_dollars": price,
        "delta_fp": change,
        "side": side,
    }
    if ts_ms is not None:
        message["ts_ms"] = ts_ms
    return json.dumps({"type": "orderbook_delta", "sid": sid, "seq": seq, "msg": message})


def gamma_market_row(**fields: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": "501",
        "conditionId": CONDITION,
        "questionID": "0x" + "cd" * 32,
        "slug": "will-the-bridge-open",
        "question": "Will the bridge open in May?",
        "description": "Resolves to Yes if the bridge opens.",
        "outcomes": '["Yes", "No"]',
        "outcomePrices": '["0.505", "0.495"]',
        "clobTokenIds": json.dumps([YES_TOKEN, NO_TOKEN]),
        "volume": "123456.789012345",
        "active": True,
        "closed": False,
        "archived": False,
        "acceptingOrders": True,
        "negRisk": False,
        "startDate": "2026-04-02T10:00:00.123Z",
        "endDate": "2026-05-31T12:00:00Z",
        "createdAt": "2026-04-01T09:00:00Z",
        "orderPriceMinTickSize": 0.001,
        "orderMinSize": 5,
        "feesEnabled": True,
        "feeType": "culture_fees",
        "feeSchedule": {"rate": 0.05, "exponent": 1, "takerOnly": True, "rebateRate": 0.2},
        "secondsDelay": 3,
        "umaResolutionStatuses": "[]",
    }
    row.update(fields)
    return row


def gamma_event_row(**fields: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": "77",
        "slug": "bridges",
        "ticker": "bridges",
        "title": "Which bridge opens first?",
        "negRisk": True,
        "enableNegRisk": True,
        "negRiskAugmented": False,
        "tags": [{"id": "1", "label": "Infrastructure", "slug": "infrastructure"}],
        "series": [{"slug": "bridges-series"}],
    }
    row.update(fields)
    return row


def polymarket_market(condition: str = CONDITION, tokens: tuple[str, str] = (YES_TOKEN, NO_TOKEN)) -> Market:
    return Market(
        market_id=f"polymarket:{condition}",
        venue=Venue.POLYMARKET,
        venue_market_id=condition,
        event_id="polymarket:77",
        title="Will the bridge open?",
        outcomes=(Outcome(0, "Yes", tokens[0]), Outcome(1, "No", tokens[1])),
        state=MarketState.OPEN,
        price_ranges=(PriceRange(0, 1_000_000, 10_000),),
        minimum_size_micros=5_000_000,
        size_step_micros=10_000,
    )


def clob_book(
    bids: list[tuple[str, str]],
    asks: list[tuple[str, str]],
    token: str = YES_TOKEN,
    timestamp: int = 1_786_000_000_000,
    names: tuple[str, str] = ("bids", "asks"),
) -> dict[str, Any]:
    def levels(side: list[tuple[str, str]]) -> list[dict[str, str]]:
        return [{"price": p, "size": s} for p, s in side]

    return {
        "event_type": "book",
        "market": CONDITION,
        "asset_id": token,
        "timestamp": str(timestamp),
        "hash": "0",
        names[0]: levels(bids),
        names[1]: levels(asks),
    }


def price_change(
    changes: list[dict[str, str]], timestamp: int = 1_786_000_000_001, best: tuple[str, str] | None = None
) -> dict[str, Any]:
    rows = [
        {"asset_id": YES_TOKEN, **c, **({"best_bid": best[0], "best_ask": best[1]} if best else {})} for c in changes
    ]
    return {"event_type": "price_change", "market": CONDITION, "timestamp": str(timestamp), "price_changes": rows}
