"""Links from proposal to trade and back, and fitted objects: what reviewers and fits decide, the pipeline uses."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from oddstream_server.app.fitting import fit
from oddstream_server.application.calls.mutations import Mutation, MutationRequest
from oddstream_server.application.calls.request import RequestContext, current_request
from oddstream_server.application.link_review import LinkReview, link_etag, review_link
from oddstream_server.application.ports import Decision, MarketLinkFilter
from oddstream_server.domain.errors import Aborted, FailedPrecondition, NotFound
from oddstream_server.domain.fitted import FittedName
from oddstream_server.domain.market import LinkState, MarketLink, MarketState, Settlement, SettlementState
from oddstream_server.domain.principal import Principal, Role
from oddstream_server.domain.quote import Quote
from oddstream_server.domain.signal import SignalEventType
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from oddstream_server.storage.administration.changes import PostgresChanges
from oddstream_server.storage.fitted import FittedStore
from oddstream_server.strategies.fitting import EFFECT_DELAY_US, HOUR_US, FittedTables
from oddstream_server.strategies.registry import Registry
from tests.pipeline.conftest import Stores
from tests.strategies.worlds import START_US, World, a_market, a_quote, a_world, with_a_link

ANALYST = Principal("key_bbbbbbbbbbbb", Role.ANALYST, key_id="key_bbbbbbbbbbbb")


@pytest.fixture(autouse=True)
def call() -> Iterator[None]:
    method = "/oddstream.v1.MarketService/ReviewMarketLink"
    token = current_request.set(RequestContext(method, "c-1", "", "127.0.0.1", ANALYST))
    yield
    current_request.reset(token)


@asynccontextmanager
async def a_change(stores: Stores) -> AsyncIterator[Mutation]:
    async with PostgresChanges(stores.database).begin() as change:
        yield Mutation(change, ANALYST, MutationRequest("/x", "", b""), START_US)


async def proposed(stores: Stores) -> tuple[World, MarketLink]:
    world = with_a_link(a_world(3))
    link = replace(world.links[0], state=LinkState.PROPOSED)
    await stores.catalog.upsert([world.event], world.markets, START_US)
    assert await stores.catalog.propose_links([link]) == 1
    return world, link


def confirmation(link: MarketLink) -> LinkReview:
    return LinkReview(link.link_id, LinkState.CONFIRMED, link.rules_digest, link.other_rules_digest, "same source")


async def stored(stores: Stores) -> MarketLink:
    (link,) = (await stores.catalog.list_links(MarketLinkFilter(), None, 10)).items
    return link


async def test_a_confirmed_link_is_signed_and_a_changed_rules_text_sends_it_back(stores: Stores) -> None:
    world, link = await proposed(stores)
    async with a_change(stores) as mutation:
        reviewed = await review_link(mutation, replace(confirmation(link), etag=link_etag(link)))
    assert (reviewed.state, reviewed.reviewer, reviewed.review_time_us) == (
        LinkState.CONFIRMED,
        "key_bbbbbbbbbbbb",
        START_US,
    )
    assert await stored(stores) == reviewed
    assert await stores.catalog.propose_links([link]) == 0, "a proposal doesn't undo a review"
    retitled = replace(world.markets[1], title="another title, the same rules")
    await stores.catalog.upsert([], [retitled], START_US + 1)
    assert await stored(stores) == reviewed
    await stores.catalog.upsert([], [replace(retitled, rules_text="now it needs overtime too")], START_US + 2)
    doubted = await stored(stores)
    assert (doubted.state, doubted.reviewer, doubted.review_time_us) == (LinkState.PROPOSED, "", None)
    assert doubted.rules_digest != link.rules_digest
    assert link_etag(doubted) != link_etag(reviewed)


async def test_a_review_of_other_rules_another_version_or_no_link_is_refused(stores: Stores) -> None:
    _, link = await proposed(stores)
    for wrong, error, reason in (
        (replace(confirmation(link), rules_digest="0" * 64), FailedPrecondition, "MARKET_RULES_CHANGED"),
        (replace(confirmation(link), etag="0" * 16), Aborted, "ETAG_MISMATCH"),
        (replace(confirmation(link), link_id="lnk_" + "b" * 26), NotFound, "MARKET_LINK_NOT_FOUND"),
    ):
        with pytest.raises(error) as caught:
            async with a_change(stores) as mutation:
                await review_link(mutation, wrong)
        assert getattr(caught.value, "reason", reason) == reason
    assert await stored(stores) == link


def ended(world: World) -> list[Quote]:
    """Quotes that make the pair cheap."""
    return [
        a_quote(world.markets[1].market_id, START_US, 600_000, 610_000),
        replace(a_quote(world.markets[2].market_id, START_US, 400_000, 410_000), source=world.quotes[0].source),
    ]


@pytest.mark.parametrize("state", list(LinkState))
def test_only_a_confirmed_link_trades(state: LinkState) -> None:
    world = with_a_link(a_world(3))
    runner = StrategyRunner([Registry().configure("arb.cross_venue")])
    runner.offer_catalog([world.event], world.markets, [replace(world.links[0], state=state)])
    found = [event.type for event in runner.decide(ended(world)).events]
    assert found == ([SignalEventType.CREATED] if state is LinkState.CONFIRMED else [])


def test_a_link_that_loses_its_confirmation_ends_what_it_had_open() -> None:
    world = with_a_link(a_world(3))
    runner = StrategyRunner([Registry().configure("arb.cross_venue")])
    runner.offer_catalog([world.event], world.markets, world.links)
    (created,) = runner.decide(ended(world)).events
    runner.commit()
    assert created.signal.subject_id == world.links[0].link_id
    assert {leg.market_id for leg in created.signal.legs} == {"kalshi:M1", "polymarket:0x2"}
    assert created.signal.net_edge_micros == 600_000 - 16_800 - 410_000 - 17_000
    runner.offer_catalog([], [], [replace(world.links[0], state=LinkState.PROPOSED)])
    assert runner.has_news
    (event,) = runner.decide([], START_US + 1).events
    assert (event.type, event.reason) == (SignalEventType.WITHDRAWN, "CONDITION_ENDED")
    runner.commit()
    assert [v.state for _, v in runner.journal.links[world.links[0].link_id]] == [
        LinkState.CONFIRMED,
        LinkState.PROPOSED,
    ]


async def test_a_fit_sees_only_what_was_known_before_it_and_is_used_only_after_its_effect(stores: Stores) -> None:
    close_us = START_US // HOUR_US * HOUR_US
    fit_us = close_us + 10 * HOUR_US
    lease = await stores.store.acquire_lease("test", 60_000_000)
    assert lease is not None
    markets = []
    for number in range(3):
        known_us = fit_us - 1 if number < 2 else fit_us  # the third one settles too late to be known
        markets.append(
            a_market(
                number,
                category="crypto",
                close_time_us=close_us,
                state=MarketState.SETTLED,
                settlement=Settlement(SettlementState.FINAL, 1_000_000, 1, known_time_us=known_us),
            )
        )
    quotes = [a_quote(m.market_id, close_us - 90 * 60_000_000, 200_000, 220_000) for m in markets]
    await stores.store.store_batch(lease, quotes, lambda ticks: Decision())
    for market in markets:
        assert market.settlement is not None
        await stores.catalog.upsert([], [market], market.settlement.known_time_us or 0)
    made = await fit(stores.database, FittedName.CALIBRATION, fit_us)
    # the hour from two to one before the close is the last whole one at half an hour and at an hour before it
    assert made.samples == 4
    assert made.cells == {"0/4/crypto": (2, 420_000, 2_000_000), "1/4/crypto": (2, 420_000, 2_000_000)}
    again = await fit(stores.database, FittedName.CALIBRATION, fit_us + HOUR_US)
    assert (made.version, again.version, again.samples) == (1, 2, 6)
    kept = await FittedStore(stores.database).all()
    assert kept == [made, again]
    tables = FittedTables(kept)
    effects = [(fit_us + EFFECT_DELAY_US, None), (fit_us + EFFECT_DELAY_US + 1, made), (fit_us + 3 * HOUR_US, again)]
    for at_us, expected in effects:
        assert tables.at(FittedName.CALIBRATION, at_us) == expected
