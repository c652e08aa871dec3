"""Recorded REST bodies served page by page over HTTP to the adapters' own discovery."""

from typing import Any

from oddstream_server.domain.market import MarketState
from oddstream_server.venues.kalshi import KalshiAdapter, KalshiConfig
from oddstream_server.venues.polymarket import PolymarketAdapter, PolymarketConfig
from tests.emulator.collecting import CollectingSink
from tests.emulator.recorded import RecordedBodies
from tests.venues.recorded import needs_recordings, plain_json

pytestmark = needs_recordings


async def test_recorded_kalshi_events_and_settled_markets_are_discovered_without_a_row_lost() -> None:
    sports = plain_json("kalshi/rest/events_sports_nested.json")
    preseason = plain_json("kalshi/rest/events_nfl_preseason.json")["events"]
    settled = plain_json("kalshi/rest/markets_settled.json")["markets"]
    fees = [p["series"] for p in plain_json("kalshi/rest/series_fee_fields.json")["payloads"].values()]
    base = "/trade-api/v2"
    bodies: dict[str, list[Any]] = {
        f"{base}/series": [{"series": fees}],
        f"{base}/series/fee_changes": [{"series_fee_change_arr": []}],
        f"{base}/events": [{"events": sports[:20]}, {"events": sports[20:]}, {"events": preseason}],
        f"{base}/markets": [{"markets": settled}],
    }
    async with RecordedBodies(bodies, cursor_key="cursor", cursor_query="cursor") as venue:
        adapter, sink = KalshiAdapter(KalshiConfig(rest_url=venue.http + base, tokens_per_s=1e6)), CollectingSink()
        report = await adapter.discover(sink)
        await adapter.close()

    events = {e["event_ticker"]: e for e in [*sports, *preseason]}
    rows = {m["ticker"]: m for e in events.values() for m in e["markets"]} | {m["ticker"]: m for m in settled}
    combinations = {t for t, m in rows.items() if m.get("mve_collection_ticker")}
    assert sink.quarantined == []
    assert report.quarantined == 0
    assert {m.venue_market_id for m in sink.markets.values()} == rows.keys() - combinations
    assert {e.venue_event_id for e in sink.events.values()} == events.keys()
    paid = {m.venue_market_id: m.settlement for m in sink.markets.values()}
    for row in settled:
        if row["ticker"] not in combinations and row["status"] == "finalized":
            settlement = paid[row["ticker"]]
            assert settlement is not None
            assert settlement.yes_payout_micros == round(float(row["settlement_value_dollars"]) * 1_000_000)


async def test_recorded_gamma_events_are_discovered_without_a_row_lost() -> None:
    events = [*plain_json("polymarket/gamma/gamma_events.json"), *plain_json("polymarket/gamma/fed-chair-events.json")]
    bodies = {"/gamma/events/keyset": [{"events": [event]} for event in events]}
    async with RecordedBodies(bodies, cursor_key="next_cursor", cursor_query="after_cursor") as venue:
        adapter = PolymarketAdapter(
            PolymarketConfig(gamma_url=f"{venue.http}/gamma", clob_url=venue.http, data_url=venue.http)
        )
        sink = CollectingSink()
        report = await adapter.discover(sink)
        await adapter.close()

    rows = [market for event in events for market in event["markets"]]
    assert {e.venue_event_id for e in sink.events.values()} == {event["id"] for event in events}
    assert sink.quarantined == []
    assert len(sink.markets) == report.markets == len(rows)
    augmented = [e for e in sink.events.values() if e.neg_risk_augmented]
    assert len(augmented) == 1
    assert any(m.placeholder for m in sink.markets.values())
    assert any(m.state is MarketState.OPEN for m in sink.markets.values())
