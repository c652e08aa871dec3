"""Markets and events are kept as venues describe them; what was known is not lost."""

import random
from dataclasses import replace
from typing import Any

import pytest

from oddstream_server.application.ports import (
    CatalogChange,
    EventFilter,
    Key,
    MarketFilter,
    MarketLinkFilter,
    SettlementUpdate,
)
from oddstream_server.domain.market import (
    Declared,
    LinkRelation,
    LinkState,
    Market,
    MarketLink,
    MarketState,
    Settlement,
    SettlementState,
    Strike,
    Venue,
)
from oddstream_server.storage.markets.catalog import CatalogStore


async def test_a_market_and_an_event_come_back_as_they_went_in(samples: Any, catalog: CatalogStore) -> None:
    market = samples.market(
        "kalshi:A",
        event_id="kalshi:E",
        strike=Strike("between", 1, 2),
        volume_micros=7,
        open_interest_micros=None,
        category="weather",
    )
    event = samples.event("kalshi:E", market_ids=("kalshi:A",), exclusivity=Declared.YES, venue_ids=(("slug", "x"),))
    assert await catalog.upsert([event], [market], samples.t0) == CatalogChange(2, 0, 0)
    assert await catalog.markets_by_id(["kalshi:A", "kalshi:none"]) == {
        "kalshi:A": replace(market, update_time_us=samples.t0)
    }
    assert await catalog.events_by_id(["kalshi:E"]) == {"kalshi:E": replace(event, update_time_us=samples.t0)}


async def test_an_unchanged_description_changes_nothing(samples: Any, catalog: CatalogStore) -> None:
    market, event = samples.market("kalshi:A"), samples.event("kalshi:E")
    await catalog.upsert([event], [market], samples.t0)
    assert await catalog.upsert([event], [market], samples.t0 + 1) == CatalogChange(0, 0, 2)
    busier = replace(market, volume_micros=5)
    assert await catalog.upsert([], [busier], samples.t0 + 2) == CatalogChange(0, 0, 1)
    assert (await catalog.markets_by_id(["kalshi:A"]))["kalshi:A"] == replace(busier, update_time_us=samples.t0)
    retitled = replace(busier, title="Will it pour in Paris?")
    assert await catalog.upsert([], [retitled, retitled], samples.t0 + 3) == CatalogChange(0, 1, 0)
    assert (await catalog.markets_by_id(["kalshi:A"]))["kalshi:A"] == replace(retitled, update_time_us=samples.t0 + 3)


async def test_every_text_of_the_rules_is_kept(samples: Any, catalog: CatalogStore) -> None:
    market = samples.market("kalshi:A")
    for n, rules in enumerate(["It rains.", "It rains at the airport.", "It rains."]):
        await catalog.upsert([], [replace(market, rules_text=rules)], samples.t0 + n)
    history = await catalog.rules_history("kalshi:A")
    assert [(r.rules_text, r.first_seen_time_us - samples.t0) for r in history] == [
        ("It rains.", 0),
        ("It rains at the airport.", 1),
    ]
    assert history[0].rules_digest == market.rules_digest


async def test_a_settlement_that_differs_is_the_next_revision_and_an_amendment(
    samples: Any, catalog: CatalogStore
) -> None:
    await catalog.upsert([], [samples.market("kalshi:A")], samples.t0)
    final = Settlement(SettlementState.FINAL, 1_000_000, 1, determined_time_us=samples.t0)

    async def record(settlement: Settlement, now: int) -> list[str]:
        update = SettlementUpdate("kalshi:A", MarketState.SETTLED, settlement)
        unknown = SettlementUpdate("kalshi:none", MarketState.SETTLED, settlement)
        return list(await catalog.record_settlements([update, unknown], samples.t0 + now))

    assert await record(final, 1) == ["kalshi:A"]
    assert await record(final, 2) == []
    assert await record(replace(final, yes_payout_micros=0), 3) == ["kalshi:A"]
    market = (await catalog.markets_by_id(["kalshi:A"]))["kalshi:A"]
    assert market.state is MarketState.SETTLED
    assert market.settlement == Settlement(
        SettlementState.AMENDED, 0, 2, determined_time_us=samples.t0, known_time_us=samples.t0 + 3
    )
    assert await catalog.settlement_history("kalshi:A") == [
        replace(final, known_time_us=samples.t0 + 1),
        market.settlement,
    ]


async def test_a_provisional_settlement_that_becomes_final_is_no_amendment(samples: Any, catalog: CatalogStore) -> None:
    await catalog.upsert([], [samples.market("kalshi:A")], samples.t0)
    provisional = Settlement(SettlementState.PROVISIONAL, 1_000_000, 1)
    for settlement in (provisional, replace(provisional, state=SettlementState.FINAL, yes_payout_micros=0)):
        update = SettlementUpdate("kalshi:A", MarketState.DETERMINED, settlement)
        await catalog.record_settlements([update], samples.t0 + 1)
    stored = (await catalog.markets_by_id(["kalshi:A"]))["kalshi:A"].settlement
    assert stored is not None
    assert (stored.state, stored.revision) == (SettlementState.FINAL, 2)


async def test_a_page_that_does_not_tell_the_settlement_does_not_lose_it(samples: Any, catalog: CatalogStore) -> None:
    market = samples.market("kalshi:A")
    settled = replace(
        market,
        state=MarketState.SETTLED,
        settlement=Settlement(SettlementState.FINAL, 1_000_000, 1, known_time_us=samples.t0),
    )
    await catalog.upsert([], [settled], samples.t0)
    stale = replace(market, title="Rain?")
    assert await catalog.upsert([], [stale], samples.t0 + 1) == CatalogChange(0, 1, 0)
    assert (await catalog.markets_by_id(["kalshi:A"]))["kalshi:A"] == replace(
        settled, title="Rain?", update_time_us=samples.t0 + 1
    )


async def test_each_filter_of_markets_takes_what_it_names(samples: Any, catalog: CatalogStore) -> None:
    await catalog.upsert(
        [],
        [
            samples.market("kalshi:A", event_id="kalshi:E", category="weather", series_id="RAIN"),
            samples.market("kalshi:B", event_id="kalshi:E", state=MarketState.CLOSED, close_time_us=samples.t0),
            samples.market("polymarket:0x1", title="Lakers to win; the 'Finals' (2026)", category="sports"),
        ],
        samples.t0,
    )

    async def found(**where: Any) -> list[str]:
        page = await catalog.list_markets(MarketFilter(**where), None, 10)
        return [m.market_id for m in page.items]

    assert await found() == ["kalshi:A", "kalshi:B", "polymarket:0x1"]
    assert await found(venues=(Venue.KALSHI,)) == ["kalshi:A", "kalshi:B"]
    assert await found(venues=(Venue.KALSHI, Venue.POLYMARKET), states=(MarketState.OPEN,)) == [
        "kalshi:A",
        "polymarket:0x1",
    ]
    assert await found(event_ids=("kalshi:E",), states=(MarketState.CLOSED,)) == ["kalshi:B"]
    assert await found(categories=("weather", "sports")) == ["kalshi:A", "polymarket:0x1"]
    assert await found(series_ids=("RAIN",)) == ["kalshi:A"]
    assert await found(close_time_from_us=samples.t0, close_time_to_us=samples.t0 + 1) == ["kalshi:B"]
    assert await found(text="RAIN par") == ["kalshi:A", "kalshi:B"]
    assert await found(text="finals' & !:* (lak") == ["polymarket:0x1"]
    assert await found(text="ain") == []
    assert await found(text="%_'") == [], "signs alone begin no word"


@pytest.mark.parametrize("size", [1, 5, 16, 53, 100])
async def test_pages_of_the_catalog_are_the_whole_list_while_markets_are_added(
    samples: Any, catalog: CatalogStore, seeded: random.Random, size: int
) -> None:
    # Capitals, digits and signs: the order of ids is that of their bytes, whatever the locale says.
    ids = sorted({f"kalshi:{seeded.choice('aBcD_-.9')}{n}" for n in range(120)})
    await catalog.upsert([samples.event(i) for i in ids], [samples.market(i, event_id=i) for i in ids], samples.t0)

    async def market_page(after: Key | None) -> tuple[list[str], Key | None]:
        page = await catalog.list_markets(MarketFilter(), after, size)
        return [m.market_id for m in page.items], page.next_key

    async def event_page(after: Key | None) -> tuple[list[str], Key | None]:
        page = await catalog.list_events(EventFilter(), after, size)
        return [e.event_id for e in page.items], page.next_key

    for page_after in (market_page, event_page):
        paged: list[str] = []
        after: Key | None = None
        extra = 0
        while True:
            found, after = await page_after(after)
            paged += found
            if after is None:
                break
            if extra < 5:
                extra += 1
                more = f"simulated:{extra}"
                await catalog.upsert([samples.event(more)], [samples.market(more)], samples.t0)
        assert [i for i in paged if i.startswith("kalshi")] == ids
        assert len(set(paged)) == len(paged)
    assert [m.market_id async for m in catalog.all_markets([MarketState.OPEN], [Venue.KALSHI])] == ids
    assert [m async for m in catalog.all_markets([MarketState.PAUSED], [])] == []


async def test_an_event_names_the_markets_that_came_without_it(samples: Any, catalog: CatalogStore) -> None:
    await catalog.upsert([samples.event("kalshi:E", market_ids=("kalshi:B",))], [], samples.t0)
    await catalog.upsert([], [samples.market(i, event_id="kalshi:E") for i in ("kalshi:B", "kalshi:A")], samples.t0)
    event = (await catalog.events_by_id(["kalshi:E"]))["kalshi:E"]
    assert event.market_ids == ("kalshi:B", "kalshi:A")


async def test_links_are_found_from_either_side(samples: Any, catalog: CatalogStore) -> None:
    def link(number: int, one: str, other: str, **more: Any) -> MarketLink:
        base = MarketLink(f"link_{number}", one, other, LinkRelation.EQUIVALENT, ((0, 0), (1, 1)), "d1", "d2")
        return replace(base, **more)

    links = [
        link(1, "kalshi:A", "polymarket:0x1"),
        link(2, "polymarket:0x2", "kalshi:A", relation=LinkRelation.INVERSE, evidence=(("title", "0.9"),)),
        link(3, "kalshi:B", "polymarket:0x3"),
    ]
    for one in links:
        await catalog.save_link(one)
    reviewed = replace(links[2], state=LinkState.CONFIRMED, reviewer="key_1", review_time_us=samples.t0)
    await catalog.save_link(reviewed)
    assert (await catalog.list_links(MarketLinkFilter(), None, 10)).items == (links[0], links[1], reviewed)
    page = await catalog.list_links(MarketLinkFilter(market_ids=("kalshi:A",)), None, 1)
    assert page.items == (links[0],)
    rest = await catalog.list_links(MarketLinkFilter(market_ids=("kalshi:A",)), page.next_key, 1)
    assert (rest.items, rest.next_key) == ((links[1],), None)
    assert (await catalog.list_links(MarketLinkFilter(states=(LinkState.CONFIRMED,)), None, 9)).items == (reviewed,)
    assert (await catalog.list_links(MarketLinkFilter(relations=(LinkRelation.INVERSE,)), None, 9)).items == (links[1],)


async def test_a_market_is_the_same_object_while_its_row_is_and_another_after_each_change(
    samples: Any, catalog: CatalogStore
) -> None:
    made = samples.market("kalshi:A", volume_micros=1)
    await catalog.upsert([], [made], samples.t0)

    async def read() -> Market:
        return (await catalog.markets_by_id(["kalshi:A"]))["kalshi:A"]

    first = await read()
    assert await read() is first
    busier = replace(made, volume_micros=7)
    await catalog.upsert([], [busier], samples.t0 + 1)
    second = await read()
    assert (second.volume_micros, first.volume_micros) == (7, 1)
    assert await read() is second
    await catalog.upsert([], [replace(busier, title="another")], samples.t0 + 2)
    assert (await read()).title == "another"
