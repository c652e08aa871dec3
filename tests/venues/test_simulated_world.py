"""The simulated world: the same for the same seed, sound at every instant, and as lively as the recorded venues."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddstream_server.application.ports import CatalogPage, SettlementUpdate, VenueItem
from oddstream_server.domain.errors import InvalidArgument
from oddstream_server.domain.fees import schedule_at
from oddstream_server.domain.market import Declared, Event, Market, MarketState, SettlementState
from oddstream_server.domain.money import MICROS
from oddstream_server.domain.quote import FeedState, FeedStatus, Quote, Trade
from oddstream_server.venues.simulated import Feed, SimulatedConfig, World
from oddstream_server.venues.simulated.maker import price_grid
from oddstream_server.venues.simulated.series import KINDS, all_series, listing
from oddstream_server.venues.simulated.world import BookChanged, Listed, Printed, Resolved

pytestmark = pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines

START_US = 1_795_000_500_000_000
MINUTE_US = 60_000_000
QUIET = SimulatedConfig(seed=3, gap_interval_us=None, duplicates_ppm=0, mispricing_interval_us=None)


def digest(items: Iterable[object]) -> str:
    return hashlib.sha256("\n".join(repr(item) for item in items).encode()).hexdigest()


def received(config: SimulatedConfig, minutes: int = 2, start_us: int = START_US) -> list[VenueItem]:
    return Feed(World(config, start_us)).advance(start_us + minutes * MINUTE_US)


# --- the same again ---------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_ticks_bit_for_bit() -> None:
    assert digest(received(SimulatedConfig(seed=5))) == digest(received(SimulatedConfig(seed=5)))


def test_another_seed_gives_another_world() -> None:
    assert digest(received(SimulatedConfig(seed=5))) != digest(received(SimulatedConfig(seed=6)))


def test_the_first_minutes_of_seed_1_are_the_ones_they_have_always_been() -> None:
    """A change of this digest is a change of everybody's simulated data: say so in the changelog."""
    assert digest(received(SimulatedConfig(seed=1), minutes=1)) == GOLDEN_DIGEST


GOLDEN_DIGEST = "7c60945dcb2e704af535931783da40796100e3d8a04b5546378199111c040e0c"


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 60 * 1_000_000), max_size=12), seed=st.integers(0, 2**63 - 1))
def test_how_time_is_cut_into_calls_makes_no_difference(cuts: list[int], seed: int) -> None:
    config = SimulatedConfig(seed=seed, events=6, gap_interval_us=10_000_000, duplicates_ppm=50_000, crossed_ppm=10_000)
    whole = Feed(World(config, START_US)).advance(START_US + 60_000_000)
    feed = Feed(World(config, START_US))
    pieces: list[VenueItem] = []
    for cut in sorted(cuts):
        pieces += feed.advance(START_US + cut)
    pieces += feed.advance(START_US + 60_000_000)
    assert _without_pages(pieces) == _without_pages(whole)


def _without_pages(items: Iterable[VenueItem]) -> list[VenueItem]:
    """Pages are cut by calls; what they hold is the same."""
    return [item for item in items if not isinstance(item, CatalogPage)]


def test_a_world_that_starts_later_has_the_same_events_paths_and_results() -> None:
    config = replace(QUIET, kinds=("SIMPAIR", "SIMTHREE", "SIMMATCH", "SIMCOINH"), events=9)
    early, late = World(config, START_US), World(config, START_US + 7 * MINUTE_US)
    early.advance(START_US + 7 * MINUTE_US)

    def opened(world: World) -> dict[str, Event]:
        return {e.event_id: e for e, ms in world.catalog() if any(m.state is MarketState.OPEN for m in ms)}

    assert opened(early) == opened(late)
    end_us = START_US + 60 * MINUTE_US
    early.advance(end_us)
    late.advance(end_us)
    results = {m.market_id: m.settlement for _, markets in early.catalog() for m in markets}
    again = {m.market_id: m.settlement for _, markets in late.catalog() for m in markets}
    common = results.keys() & again.keys()
    assert {k: results[k] for k in common} == {k: again[k] for k in common}
    assert sum(results[k] is not None for k in common) > 20


def test_the_settlement_of_a_market_that_no_one_remembers_is_still_known() -> None:
    config = replace(QUIET, kinds=("SIMPAIR",), events=1)
    world = World(config, START_US)
    market_id = next(iter(world.catalog()))[1][0].market_id
    updates = [i.update for i in world.advance(START_US + 20 * MINUTE_US) if isinstance(i, Resolved)]
    final = [u for u in updates if u.market_id == market_id][-1]
    later = World(config, START_US + 24 * 60 * MINUTE_US)
    assert later.market(market_id) is None
    assert later.settlement_of(market_id) == final
    for unknown in ("simulated:SIMPAIR-99999999-HOME", "simulated:NONE-1-X", "simulated:SIMPAIR-1", "kalshi:X"):
        assert later.settlement_of(unknown) is None


# --- sound at every instant -------------------------------------------------------------------------------------------


def test_books_are_on_the_grid_positive_and_never_crossed() -> None:
    world = World(replace(QUIET, events=18, mispricing_interval_us=2_000_000), START_US)
    markets: dict[str, Market] = {m.market_id: m for _, ms in world.catalog() for m in ms}
    bids: dict[str, dict[int, int]] = defaultdict(dict)
    asks: dict[str, dict[int, int]] = defaultdict(dict)
    last: dict[str, int] = {}
    changes = 0
    for item in world.advance(START_US + 5 * MINUTE_US):
        if isinstance(item, Listed):
            markets |= {m.market_id: m for m in item.markets}
        elif isinstance(item, BookChanged):
            changes += 1
            grid = price_grid(markets[item.market_id].price_ranges)
            assert item.time_us > last.get(item.market_id, -1), "one change of a book an instant"
            last[item.market_id] = item.time_us
            for change in item.changes:
                side = (bids if change.bid else asks)[item.market_id]
                assert change.price_micros in grid
                assert change.size_micros % markets[item.market_id].size_step_micros == 0
                assert change.size_micros >= 0
                side.pop(change.price_micros, None)
                if change.size_micros:
                    side[change.price_micros] = change.size_micros
            best_bid = max(bids[item.market_id], default=None)
            best_ask = min(asks[item.market_id], default=None)
            assert best_bid is None or best_ask is None or best_bid < best_ask
            assert (item.bid.price_micros if item.bid else None) == best_bid
            assert (item.ask.price_micros if item.ask else None) == best_ask
    assert changes > 5_000
    for market_id in world.market_ids():
        book = world.order_book(market_id)
        assert book is not None
        assert {b.price_micros: b.size_micros for b in book.bids} == bids[market_id]
        assert {a.price_micros: a.size_micros for a in book.asks} == asks[market_id]


def test_trades_hit_the_book_at_prices_that_stood_in_it() -> None:
    world = World(replace(QUIET, events=9), START_US)
    standing: dict[str, dict[tuple[bool, int], int]] = defaultdict(dict)
    trades = 0
    volume: Counter[str] = Counter()
    for item in world.advance(START_US + 10 * MINUTE_US):
        if isinstance(item, BookChanged):
            for change in item.changes:
                standing[item.market_id][change.bid, change.price_micros] = change.size_micros
        elif isinstance(item, Printed):
            trades += 1
            volume[item.market_id] += item.fill.size_micros
            rested = standing[item.market_id].get((not item.fill.taker_bought, item.fill.price_micros), 0)
            assert 0 < item.fill.size_micros <= rested
    assert trades > 500
    for market_id, traded in volume.items():
        market = world.market(market_id)
        assert market is None or market.volume_micros == traded


def test_exactly_one_market_of_an_exclusive_exhaustive_event_wins_unless_it_is_void() -> None:
    config = replace(QUIET, voids_ppm=200_000, amendments_ppm=300_000)
    kinds = Counter[str]()
    for series in all_series(config):
        for number in range(1_000, 1_030):
            item, _ = listing(config, series, number)
            winners = item.payouts(item.end)
            if item.event.exhaustiveness is Declared.YES:
                assert item.event.exclusivity is Declared.YES
                assert sum(winners) == 1
                assert sum(item.payouts(item.wrong_end())) == 1
            assert item.payouts(item.wrong_end()) != winners
            kinds["void" if item.void else "amended" if item.amended else "plain"] += 1
    assert min(kinds.values()) > 30, kinds


def test_a_ladders_thresholds_pay_in_the_order_of_their_strikes() -> None:
    config = replace(QUIET, kinds=("SIMCOIN4H",), events=1)
    (series,) = all_series(config)
    for number in range(500, 540):
        item, _ = listing(config, series, number)
        strikes = [m.strike.floor_micros or 0 for m in item.markets if m.strike]
        assert strikes == sorted(strikes)
        wins = item.payouts(item.end)
        assert list(wins) == sorted(wins, reverse=True)


def test_a_market_lives_from_open_to_its_last_settlement_in_order() -> None:
    config = replace(QUIET, kinds=("SIMPAIR",), events=4, voids_ppm=250_000, amendments_ppm=400_000)
    lives: dict[str, list[SettlementUpdate]] = defaultdict(list)
    for item in World(config, START_US).advance(START_US + 90 * MINUTE_US):
        if isinstance(item, Resolved):
            lives[item.update.market_id].append(item.update)
    seen = Counter[str]()
    for updates in lives.values():
        if updates[0].state is not MarketState.CLOSED:
            continue  # it had closed before the world began
        states = [(u.state, u.settlement.state if u.settlement else None) for u in updates]
        whole = [
            (MarketState.CLOSED, None),
            (MarketState.DETERMINED, SettlementState.PROVISIONAL),
            (MarketState.SETTLED, SettlementState.FINAL),
            (MarketState.SETTLED, SettlementState.AMENDED),
        ]
        assert states == whole[: len(states)]
        settlements = [u.settlement for u in updates if u.settlement]
        assert [s.revision for s in settlements] == list(range(1, len(settlements) + 1))
        known = [s.known_time_us or 0 for s in settlements]
        assert known == sorted(known)
        if len(settlements) == 3:
            assert not settlements[0].void
            seen["amended"] += settlements[1].yes_payout_micros != settlements[2].yes_payout_micros
        for settled in settlements:
            assert (settled.yes_payout_micros is None) is settled.void
            seen["void"] += settled.void
    assert seen["amended"] > 4
    assert seen["void"] > 4


def test_new_markets_open_as_old_ones_close() -> None:
    config = replace(QUIET, events=9)
    feed = Feed(World(config, START_US))
    for minute in range(1, 16):
        feed.advance(START_US + minute * MINUTE_US)
        open_events = {m.event_id for page in feed.pages() for m in page.markets if m.state is MarketState.OPEN}
        assert len(open_events) == 9


# --- the feed's faults ------------------------------------------------------------------------------------------------


def test_a_gap_raises_the_epoch_and_shows_every_open_book_again() -> None:
    config = replace(QUIET, gap_interval_us=30_000_000, gap_length_us=1_000_000)
    items = received(config, minutes=3)
    gaps = [(n, i) for n, i in enumerate(items) if isinstance(i, FeedStatus) and i.state is FeedState.GAP]
    assert len(gaps) >= 3
    epochs = [i.epoch for i in items if isinstance(i, Quote)]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) == len(gaps) + 1
    number, first = gaps[0]
    before = {i.market_id for i in items[:number] if isinstance(i, Quote)}
    ending = next(n for n in range(number, len(items)) if getattr(items[n], "state", None) is FeedState.LIVE)
    again = {i.market_id for i in items[number:ending] if isinstance(i, Quote)}
    assert again == before
    lost = [
        i
        for i in items
        if isinstance(i, Quote)
        and i.venue_time_us is not None
        and first.change_time_us - 1_000_000 < i.venue_time_us < first.change_time_us
        and i.epoch < first.epoch
    ]
    assert lost == []


def test_duplicate_rows_come_with_the_same_key_and_only_if_asked_for() -> None:
    def repeated(config: SimulatedConfig) -> int:
        ticks = [i for i in received(config) if isinstance(i, Quote | Trade)]
        keys = Counter((i.market_id, i.source, i.source_key) for i in ticks)
        contents = {(i.market_id, i.source, i.source_key, i.receive_time_us) for i in ticks}
        assert len(contents) == len(keys), "a repeated row has the same content"
        return sum(count - 1 for count in keys.values())

    assert repeated(QUIET) == 0
    share = repeated(replace(QUIET, duplicates_ppm=100_000))
    assert share > 100


def test_crossed_quotes_come_only_if_asked_for() -> None:
    def crossed(config: SimulatedConfig) -> int:
        return sum(
            1
            for i in received(config)
            if isinstance(i, Quote)
            and i.bid_price_micros is not None
            and i.ask_price_micros is not None
            and i.bid_price_micros >= i.ask_price_micros
        )

    assert crossed(QUIET) == 0
    assert crossed(replace(QUIET, crossed_ppm=50_000)) > 50


def test_only_subscribed_markets_bring_ticks_and_a_new_one_shows_its_quote_at_once() -> None:
    feed = Feed(World(QUIET, START_US))
    markets = [m for page in feed.pages() for m in page.markets if m.state is MarketState.OPEN]
    feed.subscribe(markets[:2])
    items = feed.advance(START_US + MINUTE_US)
    followed = {m.market_id for m in markets[:2]}
    assert {i.market_id for i in items if isinstance(i, Quote | Trade)} <= followed
    feed.subscribe(markets[:3])
    added = markets[2].market_id
    assert [i.market_id for i in feed.advance(START_US + MINUTE_US) if isinstance(i, Quote)] == [added]


def test_receive_times_never_go_back() -> None:
    ticks = [i for i in received(SimulatedConfig(seed=9, gap_interval_us=20_000_000)) if isinstance(i, Quote | Trade)]
    times = [t.receive_time_us for t in ticks]
    assert times == sorted(times)


# --- opportunities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(1, 6))
def test_within_thirty_seconds_an_exclusive_event_costs_less_than_it_pays_after_fees(seed: int) -> None:
    world_items = received(SimulatedConfig(seed=seed, warm_up_us=0), minutes=1)
    tops: dict[str, Quote] = {}
    events: dict[str, list[Market]] = {}
    of_market: dict[str, str] = {}
    for item in world_items:
        if isinstance(item, CatalogPage):
            for event in item.events:
                if event.exhaustiveness is Declared.YES:
                    events[event.event_id] = [m for m in item.markets if m.event_id == event.event_id]
                    of_market |= dict.fromkeys(event.market_ids, event.event_id)
        elif isinstance(item, Quote):
            if item.receive_time_us > START_US + 30_000_000:
                break
            tops[item.market_id] = item
            if item.market_id in of_market and _cost(events[of_market[item.market_id]], tops) < MICROS:
                return
    raise AssertionError("no basket was worth its price")


def _cost(markets: list[Market], tops: dict[str, Quote]) -> int:
    """Asks and taker fees of one contract of each market; more than any payout where one is missing."""
    total = 0
    for market in markets:
        quote = tops.get(market.market_id)
        if quote is None or quote.ask_price_micros is None:
            return 2 * MICROS
        schedule = schedule_at(market.fee_schedules, quote.receive_time_us)
        assert schedule is not None
        total += quote.ask_price_micros + schedule.fill_fee_micros(quote.ask_price_micros, MICROS)
    return total


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"events": 0}, "events"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"speed": 0}, "speed"),
        ({"voids_ppm": 1_000_001}, "voids_ppm"),
        ({"depth_levels": 0}, "depth_levels"),
        ({"gap_length_us": 0}, "gap_length_us"),
    ],
)
def test_a_setting_out_of_its_bounds_is_refused_by_name(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        SimulatedConfig(**changes)  # type: ignore[arg-type]  # the wrong types are the test
    assert [v.field for v in refused.value.violations] == [field]


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidArgument, match="SIMPAIR") as refused:
        World(SimulatedConfig(kinds=("NONE",)), START_US)
    assert [v.field for v in refused.value.violations] == ["kinds"]


@pytest.mark.parametrize("kind", [kind.code for kind in KINDS])
def test_every_kind_lists_markets_that_are_whole(kind: str) -> None:
    feed = Feed(World(replace(QUIET, kinds=(kind,), events=2), START_US))
    for page in feed.pages():
        for market in page.markets:
            assert market.fee_schedules
            assert market.rules_text
            assert len(market.outcomes) == 2
            assert market.open_time_us is not None
            assert market.close_time_us is not None
            assert market.open_time_us < market.close_time_us
        ids = [m.market_id for m in page.markets]
        assert len(ids) == len(set(ids))
        assert sorted(i for e in page.events for i in e.market_ids) == sorted(ids)
