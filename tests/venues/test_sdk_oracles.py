"""The venues' official SDKs accept what the emulator serves, and read the same values out of it.

The SDKs need another Python, so they run in an environment of their own; without that Python or without the package
index the tests are skipped.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from oddstream_server.domain.market import MarketState
from oddstream_server.venues.simulated import SimulatedConfig
from tests.emulator.kalshi import KalshiEmulator
from tests.emulator.polymarket import PolymarketEmulator
from tests.emulator.polymarket_rows import condition_id, token_id
from tests.emulator.signatures import TestKey
from tests.emulator.stage import Stage
from tests.venues import sdk_environment

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(360)]

WORLD = SimulatedConfig(seed=21, events=9, gap_interval_us=None, voids_ppm=300_000, amendments_ppm=0, depth_levels=4)
KEY = TestKey()


@pytest.fixture(scope="module", autouse=True)
def _environment() -> None:
    try:
        sdk_environment.python()
    except sdk_environment.NotAvailable as reason:
        pytest.skip(f"the SDKs' environment can't be made here: {reason}")


def a_stage(config: SimulatedConfig = WORLD) -> Stage:
    five_minutes_us = 300_000_000
    stage = Stage(config, time.time_ns() // 1_000 // five_minutes_us * five_minutes_us + 120_000_000)
    stage.play(120_000_000)
    return stage


class Asked:
    """Bodies by name, with the model that has to accept each."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.questions: list[dict[str, Any]] = []
        self.bodies: dict[str, Any] = {}

    def add(self, name: str, model: str, body: Any) -> None:
        self.bodies[name] = body
        self.questions.append({"name": name, "model": model, "body": body})

    async def get(self, url: str, **query: str) -> Any:
        async with self._session.get(url, params=query) as response:
            assert response.status == 200, (url, response.status)
            return await response.json()

    def answers(self) -> dict[str, Any]:
        told = sdk_environment.ask(self.questions)
        refused = {name: answer["error"] for name, answer in told.items() if answer["error"]}
        assert refused == {}
        assert told.keys() == self.bodies.keys()
        return {name: answer["value"] for name, answer in told.items()}


@asynccontextmanager
async def asking() -> AsyncIterator[Asked]:
    async with aiohttp.ClientSession() as session:
        yield Asked(session)


async def test_kalshis_sdk_reads_every_rest_body() -> None:
    stage = a_stage()
    ticker = next(m.venue_market_id for m in stage.markets() if m.state is MarketState.OPEN)
    event = next(e.venue_event_id for e, _ in stage.entries())
    models = "kalshi_python_async:"
    async with KalshiEmulator(stage, KEY) as venue, asking() as asked:
        base = venue.rest_url
        asked.add("events", models + "GetEventsResponse", await asked.get(f"{base}/events", with_nested_markets="true"))
        asked.add("event", models + "GetEventResponse", await asked.get(f"{base}/events/{event}"))
        asked.add("markets", models + "GetMarketsResponse", await asked.get(f"{base}/markets", limit="1000"))
        asked.add("market", models + "GetMarketResponse", await asked.get(f"{base}/markets/{ticker}"))
        asked.add("trades", models + "GetTradesResponse", await asked.get(f"{base}/markets/trades", limit="50"))
        asked.add("series", models + "GetSeriesListResponse", await asked.get(f"{base}/series"))
        asked.add("fees", models + "GetSeriesFeeChangesResponse", await asked.get(f"{base}/series/fee_changes"))
        asked.add("status", models + "ExchangeStatus", await asked.get(f"{base}/exchange/status"))
        asked.add("cutoff", models + "GetHistoricalCutoffResponse", await asked.get(f"{base}/historical/cutoff"))
        book = await asked.get(f"{base}/markets/{ticker}/orderbook")
        asked.add("book", models + "GetMarketOrderbookResponse", book)
        books = await asked.get(f"{base}/markets/orderbooks", tickers=ticker)
        asked.add("books", models + "GetMarketOrderbooksResponse", books)
        told = asked.answers()

    served = {m["ticker"]: m for m in asked.bodies["markets"]["markets"]}
    read = {m["ticker"]: m for m in told["markets"]["markets"]}
    assert served.keys() == read.keys()
    assert {m["status"] for m in read.values()} >= {"active", "finalized"}
    for name in ("yes_bid_dollars", "yes_ask_dollars", "volume_fp", "result", "status"):
        assert {t: m[name] for t, m in read.items()} == {t: m[name] for t, m in served.items()}, name
    assert told["book"]["orderbook_fp"] == asked.bodies["book"]["orderbook_fp"]
    trade_ids = [t["trade_id"] for t in asked.bodies["trades"]["trades"]]
    assert [t["trade_id"] for t in told["trades"]["trades"]] == trade_ids
    assert len(told["trades"]["trades"]) == 50


async def test_polymarkets_sdk_reads_every_rest_body() -> None:
    stage = a_stage()
    traded = stage.trades[-1].market_id
    settled = next(m for m in stage.markets() if m.state is MarketState.SETTLED)
    async with PolymarketEmulator(stage) as venue, asking() as asked:
        events = await asked.get(f"{venue.gamma_url}/events/keyset", limit="500")
        for number, row in enumerate(events["events"]):
            asked.add(f"event {number}", "polymarket.models.gamma:Event", row)
        for closed in ("false", "true"):
            markets = await asked.get(f"{venue.gamma_url}/markets/keyset", limit="100", closed=closed)
            assert markets["markets"]
            for number, row in enumerate(markets["markets"]):
                asked.add(f"market {closed} {number}", "polymarket.models.gamma:Market", row)
        book = await asked.get(f"{venue.clob_url}/book", token_id=token_id(traded, 0))
        asked.add("book", "polymarket.models.clob:OrderBook", book)
        trades = await asked.get(f"{venue.data_url}/v2/trades", condition_id=condition_id(traded), start="1")
        assert trades["data"]
        for number, row in enumerate(trades["data"]):
            asked.add(f"trade {number}", "polymarket.models.data:Trade", row)
        found = await asked.get(f"{venue.data_url}/v2/resolutions", condition_id=condition_id(settled.market_id))
        asked.add("resolution", "polymarket.models.data:Resolution", found["data"][0])
        told = asked.answers()

    assert [Decimal(level["price"]) for level in told["book"]["bids"]] == [
        Decimal(level["price"]) for level in asked.bodies["book"]["bids"]
    ]
    for name, value in told.items():
        if name.startswith("trade "):
            assert Decimal(value["price"]) == Decimal(str(asked.bodies[name]["price"]))
            assert value["asset_id"] == asked.bodies[name]["token_id"]


async def test_polymarkets_sdk_reads_every_message_of_the_market_channel() -> None:
    stage = a_stage(replace(WORLD, voids_ppm=0))  # a void names no winner on the socket
    tokens = [token_id(m.market_id, i) for m in stage.markets() if m.state is MarketState.OPEN for i in (0, 1)]
    wanted = {"book", "price_change", "last_trade_price", "new_market", "market_resolved"}
    last_us = stage.now_us + 600_000_000
    seen: dict[str, list[Any]] = {kind: [] for kind in wanted}
    async with PolymarketEmulator(stage) as venue, asking() as asked, aiohttp.ClientSession() as session:
        async with session.ws_connect(venue.ws_url) as socket:
            await socket.send_json({"assets_ids": tokens, "type": "market", "custom_feature_enabled": True})
            first = json.loads((await socket.receive(timeout=10)).data)
            seen["book"] += first
            assert len(first) == len(tokens)

            async def read() -> None:
                while not all(seen.values()):
                    message = json.loads((await socket.receive(timeout=10)).data)
                    seen[message["event_type"]].append(message)

            reader = asyncio.create_task(read())
            while not reader.done() and stage.now_us < last_us:
                stage.play(1_000_000)
                await asyncio.sleep(0)
            await reader
        for kind, messages in seen.items():
            for number, message in enumerate(messages[:20]):
                asked.add(f"{kind} {number}", "polymarket.models.clob.market_events:parse_market_event", message)
        asked.answers()


def test_the_oracle_refuses_a_body_that_is_wrong() -> None:
    answers = sdk_environment.ask(
        [
            {"name": "k", "model": "kalshi_python_async:GetMarketsResponse", "body": {"markets": [{"ticker": 7}]}},
            {"name": "p", "model": "polymarket.models.clob:OrderBook", "body": {"market": "0x"}},
        ]
    )
    assert all(answer["error"] for answer in answers.values())
