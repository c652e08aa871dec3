"""Polymarket's recorded bodies through the production readers. Skips, saying so, where they are absent."""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from oddstream_server.domain.market import MarketState, Venue
from oddstream_server.venues.polymarket import catalog
from oddstream_server.venues.polymarket.settlements import clob_settlement
from oddstream_server.venues.polymarket.ticks import FillKeys, Token, book, book_hash_holds, data_trade
from oddstream_server.venues.rows import Quarantine, exact_json
from tests.venues.recorded import body, lines, names, needs_recordings

pytestmark = needs_recordings

_BITCOIN = "polymarket/gamma/BTC-5m-markets-2026-07-24.jsonl.gz"

_GAMMA: dict[str, dict[str, int]] = {
    _BITCOIN: {"market": 292},
    "polymarket/gamma/active-markets.json": {"market": 100, "event": 100},
    "polymarket/gamma/active_market.json": {"market": 4, "event": 1},
    "polymarket/gamma/fed-chair-events.json": {"market": 39, "event": 1},
    "polymarket/gamma/fed-chair-markets.json": {"market": 39},
    "polymarket/gamma/gamma_events.json": {"market": 1, "event": 1},
    "polymarket/gamma/gamma_market_condition.json": {"market": 20, "event": 20},
    "polymarket/gamma/market_debug.json": {"market": 5, "event": 5},
    "polymarket/gamma/market_full.json": {"market": 1},
    "polymarket/gamma/markets.json": {"market": 10, "event": 10},
    "polymarket/gamma/markets_600.json": {"market": 600, "event": 599},
    "polymarket/gamma/markets_raw.json": {"market": 500, "event": 499},
}
"""Rows of each Gamma body."""

_QUARANTINED: dict[str, list[tuple[str, str]]] = {
    "polymarket/gamma/markets_raw.json": [
        ("115", "identity_missing"),
        ("91437", "identity_missing"),
        ("103999", "identity_missing"),
        ("206736", "identity_missing"),
    ]
}
"""Rows that can't be read, with the Gamma id and the reason: four markets of 2020 and 2021 that never had tokens."""

_OTHER_BODIES = {
    "polymarket/gamma/gamma_sports.json": "sports of the venue's site",
    "polymarket/gamma/gamma_tags.json": "tags",
    "polymarket/clob/active_prices_1d.json": "a price history, which is no quote and no trade",
    "polymarket/clob/active_prices_1h.json": "a price history",
    "polymarket/clob/active_prices_1m_f10.json": "a price history",
    "polymarket/clob/active_prices_1w_f5.json": "a price history",
    "polymarket/clob/clob_prices_history_all.json": "a price history",
    "polymarket/clob/clob_simplified.json": "a shorter form of the CLOB's markets",
    "polymarket/clob/fed-chair-clob-meta.json": "the recorder's own note",
    "polymarket/data_api/data_api_root.json": "only that it answers",
}
"""Bodies of endpoints that no adapter reads; they have to be JSON."""


def rows(content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(content, dict):
        if "conditionId" in content and "outcomes" in content:
            yield "market", content
        elif {"slug", "ticker", "title", "active"} <= content.keys() and "seriesType" not in content:
            yield "event", content
        for value in content.values():
            yield from rows(value)
    elif isinstance(content, list):
        for value in content:
            yield from rows(value)


def contents(path: str) -> list[Any]:
    return [exact_json(line) for line in lines(path)] if path.endswith(".gz") else [exact_json(body(path))]


def test_every_recorded_body_is_in_one_of_the_lists() -> None:
    read = {
        "polymarket/clob/clob_response_bytes.json",
        "polymarket/clob/clob_sampling.json",
        "polymarket/clob/fed-chair-clob-book.json",
        "polymarket/data_api/data_api_trades.json",
    }
    found = {name for kind in ("gamma", "clob", "data_api") for name in names(f"polymarket/{kind}")}
    assert found == _GAMMA.keys() | _OTHER_BODIES.keys() | read


@pytest.mark.parametrize("path", sorted(_OTHER_BODIES))
def test_bodies_that_no_adapter_reads_are_json(path: str) -> None:
    exact_json(body(path))


@pytest.mark.parametrize("path", sorted(_GAMMA))
def test_every_row_of_a_recorded_gamma_body_is_read(path: str) -> None:
    quarantine = Quarantine(Venue.POLYMARKET, path, 1)
    counts: Counter[str] = Counter()
    refused: list[tuple[str, str]] = []
    for content in contents(path):
        for kind, row in rows(content):
            counts[kind] += 1
            before = len(quarantine.rows)
            with quarantine.guard(row):
                if kind == "market":
                    catalog.market(row, None, quarantine, 1)
                else:
                    catalog.event(row, [])
            refused += [(row["id"], r.reason) for r in quarantine.rows[before:]]
    assert refused == _QUARANTINED.get(path, [])
    assert counts == _GAMMA[path]


def test_the_292_bitcoin_markets_are_settled_by_their_resolution_and_carry_their_own_fee() -> None:
    quarantine = Quarantine(Venue.POLYMARKET, "", 1)
    paid: Counter[int | None] = Counter()
    contradicted = 0
    for content in contents(_BITCOIN):
        for kind, row in rows(content):
            if kind != "market":
                continue
            market = catalog.market(row, None, quarantine, 1)
            assert market.state is MarketState.SETTLED
            assert market.settlement is not None
            assert [s.taker_rate_ppm for s in market.fee_schedules] == [70_000]
            up = market.settlement.yes_payout_micros
            paid[up] += 1
            if "lastTradePrice" in row:
                contradicted += (row["lastTradePrice"] > Decimal("0.5")) != (up == 1_000_000)
    assert paid == {1_000_000: 140, 0: 152}
    assert contradicted > 0, "the last trade is no result: some of them were on the wrong side"


def test_markets_of_the_market_makers_time_are_rounded_when_resolved_and_not_settled_when_not() -> None:
    quarantine = Quarantine(Venue.POLYMARKET, "", 1)
    paid: Counter[tuple[MarketState, int | None]] = Counter()
    for path in ("polymarket/gamma/markets_600.json", "polymarket/gamma/markets_raw.json"):
        for kind, row in rows(contents(path)[0]):
            if kind == "market":
                with quarantine.guard(row):
                    market = catalog.market(row, None, quarantine, 1)
                    settled = market.settlement
                    paid[market.state, settled.yes_payout_micros if settled else None] += 1
    assert paid == {
        (MarketState.SETTLED, 1_000_000): 110,
        (MarketState.SETTLED, 0): 183,
        (MarketState.SETTLED, 500_000): 1,
        (MarketState.OPEN, None): 299,
        (MarketState.DISPUTED, None): 1,
        (MarketState.CLOSED, None): 502,
    }


def test_the_fed_chair_event_is_augmented_and_its_unnamed_outcomes_are_placeholders() -> None:
    (content,) = contents("polymarket/gamma/fed-chair-events.json")
    event_row = content[0]
    quarantine = Quarantine(Venue.POLYMARKET, "", 1)
    markets = [catalog.market(row, event_row, quarantine, 1) for row in event_row["markets"]]
    event = catalog.event(event_row, [m.market_id for m in markets])
    assert event.neg_risk_augmented
    assert len(event.market_ids) == 39
    named = {row["groupItemTitle"] for row, m in zip(event_row["markets"], markets, strict=True) if m.placeholder}
    assert named == {"Other", *(f"Individual {letter}" for letter in "PQRSTUVWXYZ")}


def test_the_recorded_book_is_read_and_its_hash_holds() -> None:
    row = exact_json(body("polymarket/clob/fed-chair-clob-book.json"))
    assert book_hash_holds(row)
    own, mirrored = book(row, 0), book(row, 1)
    assert len(own.asks) == 38
    assert not own.bids
    assert {1_000_000 - price: size for price, size in own.asks.items()} == mirrored.bids


def test_2000_recorded_clob_markets_settle_by_their_winner_or_not_at_all() -> None:
    paid: Counter[int | None] = Counter()
    for path in ("polymarket/clob/clob_response_bytes.json", "polymarket/clob/clob_sampling.json"):
        for row in exact_json(body(path))["data"]:
            settled = clob_settlement(row, row["tokens"][0]["token_id"], 1)
            paid[settled.yes_payout_micros if settled else None] += 1
    winners = paid[1_000_000] + paid[0]
    assert (winners, paid[500_000], paid[None]) == (579, 7, 1_414)


def test_100_recorded_trades_are_100_fills_in_outcome_0_prices() -> None:
    trades = exact_json(body("polymarket/data_api/data_api_trades.json"))
    tokens = {row["asset"]: Token(f"polymarket:{row['conditionId']}", row["outcomeIndex"]) for row in trades}
    keys = FillKeys()
    read = [data_trade(row, tokens, keys, 1) for row in trades]
    assert len({trade.source_key for trade in read if trade is not None}) == 100
    assert all(trade is not None and 0 < trade.price_micros < 1_000_000 for trade in read)
