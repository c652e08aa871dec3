"""What the adapters ask for beside the usual: dated fee changes, missed trades, results that Gamma doesn't tell."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aiohttp import web

from oddstream_server.application.ports import CatalogPage, SettlementUpdate, VenueItem
from oddstream_server.domain.fees import schedule_at
from oddstream_server.domain.market import Market, MarketState, SettlementState
from oddstream_server.domain.quote import FeedState, FeedStatus, Trade
from oddstream_server.venues.http import HttpConfig
from oddstream_server.venues.kalshi import KalshiAdapter, KalshiConfig
from oddstream_server.venues.polymarket import PolymarketAdapter, PolymarketConfig
from oddstream_server.venues.socket import SocketConfig
from oddstream_server.venues.times import utc_us
from tests.venues.bodies import (
    CONDITION,
    NO_TOKEN,
    YES_TOKEN,
    clob_book,
    gamma_event_row,
    gamma_market_row,
    kalshi_event_row,
    kalshi_market_row,
    kalshi_series_row,
    polymarket_market,
)
from tests.venues.running_venue import running_venue, until

NOW = utc_us(2026, 8, 6)
_QUICK = HttpConfig(timeout_s=2, attempts=2, backoff_initial_s=0.005, backoff_maximum_s=0.01)


class Sink:
    def __init__(self) -> None:
        self.items: list[VenueItem] = []

    async def put(self, item: VenueItem) -> None:
        self.items.append(item)

    @property
    def markets(self) -> list[Market]:
        return [market for item in self.items if isinstance(item, CatalogPage) for market in item.markets]


# --- Kalshi ---------------------------------------------------------------------------------------------------------


async def kalshi_market_with(changes: Callable[[], web.Response]) -> Market:
    """The one market that a Kalshi finds whose fee changes are answered so."""

    async def serve(request: web.Request) -> web.Response:
        match request.path:
            case "/series":
                return web.json_response({"series": [kalshi_series_row()]})
            case "/series/fee_changes":
                assert request.query["show_historical"] == "true"
                return changes()
            case "/events":
                row = kalshi_event_row(markets=[kalshi_market_row()])
                return web.json_response({"events": [row], "cursor": ""})
            case _:
                return web.json_response({"markets": [], "cursor": ""})

    async with running_venue(serve) as address:
        adapter, sink = (
            KalshiAdapter(KalshiConfig(rest_url=f"http://{address}", clock=lambda: NOW, http=_QUICK)),
            Sink(),
        )
        await adapter.discover(sink)
        await adapter.close()
    (market,) = sink.markets
    return market


async def test_dated_fee_changes_of_a_series_date_its_markets_schedules() -> None:
    rows = [
        {
            "series_ticker": "KXRAIN",
            "fee_type": "quadratic",
            "fee_multiplier": 2,
            "scheduled_ts": "2026-07-10T00:00:00Z",
        },
        {
            "series_ticker": "KXRAIN",
            "fee_type": "quadratic",
            "fee_multiplier": 1,
            "scheduled_ts": "2026-08-10T00:00:00Z",
        },
        {
            "series_ticker": "KXGONE",
            "fee_type": "quadratic",
            "fee_multiplier": 1,
            "scheduled_ts": "2026-08-10T00:00:00Z",
        },
    ]
    market = await kalshi_market_with(lambda: web.json_response({"series_fee_change_arr": rows}))
    held = [schedule_at(market.fee_schedules, at) for at in (utc_us(2026, 7, 9), NOW, utc_us(2026, 8, 10))]
    assert [schedule.multiplier_ppm if schedule else None for schedule in held] == [None, 2_000_000, 1_000_000]


async def test_without_the_dated_changes_a_fee_is_known_from_now_on_only() -> None:
    market = await kalshi_market_with(lambda: web.Response(status=404))
    assert schedule_at(market.fee_schedules, NOW - 1) is None
    assert schedule_at(market.fee_schedules, NOW) is not None


# --- Polymarket -----------------------------------------------------------------------------------------------------


def polymarket_config(address: str, **changes: Any) -> PolymarketConfig:
    settings: dict[str, Any] = {
        "gamma_url": f"http://{address}/gamma",
        "clob_url": f"http://{address}/clob",
        "data_url": f"http://{address}/data",
        "ws_url": f"ws://{address}/ws/market",
        "http": _QUICK,
        "socket": SocketConfig(backoff_initial_s=0.01, backoff_maximum_s=0.02, quiet_flush_s=0.005),
        "requests_per_s": 10_000.0,
        "request_burst": 10_000.0,
        "first_epoch": 0,
    }
    return PolymarketConfig(**(settings | changes))


async def test_a_market_that_left_the_open_ones_is_read_with_its_result_from_whoever_tells_it() -> None:
    asked: list[str] = []
    resolutions: list[dict[str, Any]] = []
    still_open = True

    async def serve(request: web.Request) -> web.Response:
        asked.append(request.path)
        if request.path == "/gamma/events/keyset":
            markets = [gamma_market_row()] if still_open else []
            return web.json_response({"events": [gamma_event_row(markets=markets)]})
        if request.path == "/gamma/markets/keyset":
            assert request.query.getall("condition_ids") == [CONDITION]
            assert request.query["closed"] == "true"
            row = gamma_market_row(closed=True, umaResolutionStatus="resolved", outcomePrices='["0", "0"]')
            return web.json_response({"markets": [row]})
        if request.path == "/data/v2/resolutions":
            return web.json_response({"data": resolutions, "pagination": {"has_more": False}})
        assert request.path == f"/clob/markets/{CONDITION}"
        tokens = [{"token_id": YES_TOKEN, "winner": False}, {"token_id": NO_TOKEN, "winner": True}]
        return web.json_response({"closed": True, "tokens": tokens})

    async with running_venue(serve) as address:
        adapter, first = PolymarketAdapter(polymarket_config(address)), Sink()
        await adapter.discover(first)
        assert [m.state for m in first.markets] == [MarketState.OPEN]
        still_open = False
        second = Sink()
        report = await adapter.discover(second)
        third = Sink()
        await adapter.discover(third)
        await adapter.close()
        resolutions.append({"status": "resolved", "payouts": [500_000, 500_000]})
        again, still_open = PolymarketAdapter(polymarket_config(address)), True
        await again.discover(Sink())
        still_open = False
        fourth = Sink()
        await again.discover(fourth)
        await again.close()
    (market,) = second.markets
    assert market.settlement is not None
    assert (market.state, market.settlement.yes_payout_micros) == (MarketState.SETTLED, 0)
    assert market.settlement.state is SettlementState.FINAL
    (update,) = [item for item in second.items if isinstance(item, SettlementUpdate)]
    assert update.settlement == market.settlement
    assert report.requests == 4
    assert third.markets == [], "told once"
    assert [m.settlement.yes_payout_micros for m in fourth.markets if m.settlement] == [500_000]


async def test_trades_of_a_lost_connections_time_are_read_from_the_data_api_and_counted_once() -> None:
    connections = 0
    spans: list[tuple[int, int]] = []

    def fill(transaction: str, size: float = 3) -> dict[str, Any]:
        return {
            "token_id": YES_TOKEN,
            "condition_id": CONDITION,
            "side": "BUY",
            "price": 0.42,
            "size": size,
            "timestamp": 1_786_000_000,
            "transaction_hash": transaction,
        }

    async def serve(request: web.Request) -> web.StreamResponse:
        nonlocal connections
        if request.path == "/data/v2/trades":
            spans.append((int(request.query["start"]), int(request.query["end"])))
            assert request.query["condition_id"] == CONDITION
            if "cursor" not in request.query:
                page = {"data": [fill("0x3"), fill("0x2")], "pagination": {"has_more": True, "next_cursor": "c"}}
                return web.json_response(page)
            rows = [fill("0x2"), fill("0x1"), {"token_id": "", "transaction_hash": "0x0"}]
            return web.json_response({"data": rows, "pagination": {"has_more": False}})
        if request.path.startswith("/gamma"):
            return web.json_response({"markets": []})
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        connections += 1
        await socket.send_json([clob_book([("0.40", "1")], [("0.45", "1")])])
        if connections == 1:
            printed = {
                "event_type": "last_trade_price",
                "asset_id": YES_TOKEN,
                "price": "0.42",
                "size": "3",
                "side": "BUY",
                "timestamp": "1786000000000",
                "transaction_hash": "0x1",
            }
            await socket.send_json(printed)
            await asyncio.sleep(0.05)
            await socket.close()
        async for _ in socket:
            continue
        return socket

    async with running_venue(serve) as address:
        adapter, sink = PolymarketAdapter(polymarket_config(address)), Sink()
        await adapter.subscribe([polymarket_market()])
        task = asyncio.create_task(adapter.follow(sink))
        await until(lambda: len(spans) == 2, "both pages were read")
        await until(lambda: len([i for i in sink.items if isinstance(i, Trade)]) >= 4, "the missed trades came")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await adapter.close()
    keys = [item.source_key for item in sink.items if isinstance(item, Trade)]
    assert len(keys) == len(set(keys)) == 4, "the print of 0x1 counts once; the two equal fills of 0x2 are two"
    assert spans[0][0] <= spans[0][1]
    states = [item.state for item in sink.items if isinstance(item, FeedStatus)]
    assert states == [FeedState.LIVE, FeedState.DOWN, FeedState.GAP, FeedState.LIVE]
    assert [item.reason for item in sink.items if hasattr(item, "reason")] == ["field_missing"]


async def test_states_of_followed_markets_are_asked_for_and_told_when_they_change() -> None:
    row = gamma_market_row()

    async def serve(request: web.Request) -> web.StreamResponse:
        if request.path == "/gamma/markets/keyset":
            asked_closed = request.query["closed"] == "true"
            return web.json_response({"markets": [row] if row["closed"] is asked_closed else []})
        if request.path == "/data/v2/resolutions":
            return web.Response(status=404, text=json.dumps({"error": "not found"}))
        if request.path.startswith("/clob"):
            return web.Response(status=404)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for _ in socket:
            continue
        return socket

    def told() -> list[tuple[MarketState, int | None]]:
        updates = [item for item in sink.items if isinstance(item, SettlementUpdate)]
        return [(u.state, u.settlement.yes_payout_micros if u.settlement else None) for u in updates]

    async with running_venue(serve) as address:
        adapter, sink = PolymarketAdapter(polymarket_config(address, status_interval_s=0.05)), Sink()
        await adapter.subscribe([replace(polymarket_market(), state=MarketState.OPEN)])
        task = asyncio.create_task(adapter.follow(sink))
        await asyncio.sleep(0.2)
        assert told() == [], "what is known already is no news"
        row.update(closed=True, umaResolutionStatus="proposed")
        await until(lambda: told() == [(MarketState.CLOSED, None)], "the close was told")
        row.update(umaResolutionStatus="resolved", outcomePrices='["1", "0"]')
        await until(lambda: told()[1:] == [(MarketState.SETTLED, 1_000_000)], "the result was told")
        await asyncio.sleep(0.2)
        assert len(told()) == 2
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await adapter.close()
