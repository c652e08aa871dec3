"""Gates of groups, facts that change between ticks, and kernels that break."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from oddstream_server.domain.market import Declared, Event, Market, MarketState, Venue
from oddstream_server.domain.quote import Quote
from oddstream_server.domain.signal import SignalEvent
from oddstream_server.domain.strategy import StrategyOrigin
from oddstream_server.pipeline.deciding.replay import journal_of
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from oddstream_server.strategies.gate import Gate, GateParams
from oddstream_server.strategies.kernel import Kernel
from oddstream_server.strategies.kinds.event_sum import EVENT_SUM
from oddstream_server.strategies.registry import ConfiguredStrategy, Registry
from tests.strategies.worlds import START_US, a_market, a_quote, an_event

SECOND = 1_000_000
MARKETS = (a_market(0), a_market(1))
EVENT = an_event(MARKETS)


def a_runner(event: Event = EVENT, markets: Sequence[Market] = MARKETS, **params: int) -> StrategyRunner:
    strategy = Registry().configure("arb.event_sum", {"time_to_live_us": 3_600 * SECOND, **params})
    runner = StrategyRunner([strategy])
    runner.offer_catalog([event], markets)
    return runner


def cheap(number: int, at_us: int, ask: int = 400_000, **more: Any) -> Quote:
    return a_quote(MARKETS[number].market_id, at_us, ask - 20_000, ask, **more)


def decided(runner: StrategyRunner, *quotes: Quote) -> list[SignalEvent]:
    events = list(runner.decide(quotes).events)
    runner.commit()
    return events


def words(events: Sequence[SignalEvent]) -> list[str]:
    return [f"{e.type.value} {e.reason}".strip() for e in events]


def opened(runner: StrategyRunner) -> SignalEvent:
    (event,) = decided(runner, cheap(0, START_US), cheap(1, START_US))
    return event


def test_a_basket_names_every_leg_its_size_and_its_fees() -> None:
    event = opened(a_runner())
    signal = event.signal
    assert signal.net_edge_micros == 1_000_000 - 2 * 400_000 - 2 * 16_800
    assert [leg.market_id for leg in signal.legs] == ["kalshi:M0", "kalshi:M1"]
    assert {leg.available_size_micros for leg in signal.legs} == {50_000_000}
    assert {leg.expected_fee_micros for leg in signal.legs} == {840_000}
    assert signal.all_or_none
    assert (signal.subject_id, signal.event_id) == ("kalshi:E", "kalshi:E")
    assert signal.lockup_until_us == START_US + 86_400 * SECOND


def test_members_of_one_instant_are_looked_at_once_and_together() -> None:
    runner = a_runner()
    decided(runner, cheap(0, START_US, ask=520_000), cheap(1, START_US, ask=520_000))
    later = START_US + SECOND
    assert decided(runner, cheap(0, later, ask=300_000), cheap(1, later, ask=700_000)) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"ask": 370_000, "epoch": 5}, ["withdrawn GATE_GAP", "created"]),
        ({"ask": 10_000}, ["revised"]),
        ({"ask": 590_000}, ["withdrawn CONDITION_ENDED"]),
        ({"ask": 700_000}, ["superseded", "created"]),  # both bids together now cost more than one payout
    ],
)
def test_what_a_members_row_does_to_the_basket(change: dict[str, int], found: list[str]) -> None:
    runner = a_runner()
    opened(runner)
    assert words(decided(runner, cheap(0, START_US + SECOND, **change))) == found


def test_a_crossed_member_withdraws_the_basket_until_it_is_fresh_again() -> None:
    runner = a_runner()
    opened(runner)
    crossed = a_quote("kalshi:M0", START_US + SECOND, 410_000, 400_000)
    assert words(decided(runner, crossed)) == ["withdrawn GATE_CROSSED"]
    assert decided(runner, cheap(1, START_US + 2 * SECOND, ask=390_000)) == []
    assert words(decided(runner, cheap(0, START_US + 3 * SECOND))) == ["created"]


def test_a_member_that_fell_silent_makes_the_basket_stale() -> None:
    runner = a_runner()
    now = START_US
    for _ in range(5):
        now += SECOND
        decided(runner, cheap(0, now, ask=520_000), cheap(1, now, ask=520_000))
    assert words(decided(runner, cheap(0, now + SECOND), cheap(1, now + SECOND))) == ["created"]
    quiet = now + SECOND + 299 * SECOND
    assert words(decided(runner, cheap(0, quiet, ask=390_000))) == ["revised"]
    assert words(decided(runner, cheap(0, now + 302 * SECOND, ask=380_000))) == ["withdrawn GATE_STALE"]
    assert words(decided(runner, cheap(1, now + 303 * SECOND))) == ["created"]


@pytest.mark.parametrize(
    "event",
    [
        replace(EVENT, exclusivity=Declared.UNKNOWN, exhaustiveness=Declared.UNKNOWN),
        replace(EVENT, exclusivity=Declared.YES, exhaustiveness=Declared.NO),
        replace(EVENT, neg_risk_augmented=True),
        replace(EVENT, market_ids=("kalshi:M0", "kalshi:M1", "kalshi:M2")),
        replace(EVENT, market_ids=("kalshi:M0",)),
    ],
    ids=["undeclared", "not exhaustive", "augmented", "a member without a quote", "one member"],
)
def test_nothing_is_said_of_an_event_that_need_not_pay(event: Event) -> None:
    assert decided(a_runner(event), cheap(0, START_US), cheap(1, START_US)) == []


@pytest.mark.parametrize("changed", [{"fee_schedules": ()}, {"placeholder": True}, {"state": MarketState.DISPUTED}])
def test_nothing_is_said_with_a_member_of_unknown_fee_or_doubtful_resolution(changed: dict[str, Any]) -> None:
    markets = (MARKETS[0], replace(MARKETS[1], **changed))
    assert decided(a_runner(markets=markets), cheap(0, START_US), cheap(1, START_US)) == []


def test_a_dispute_withdraws_the_basket_with_its_reason() -> None:
    runner = a_runner()
    opened(runner)
    runner.offer_catalog([], [replace(MARKETS[1], state=MarketState.DISPUTED)])
    assert words(runner.decide([], START_US + SECOND).events) == ["withdrawn GATE_RESOLUTION_RISK"]


def test_an_event_that_becomes_augmented_ends_its_basket() -> None:
    runner = a_runner()
    opened(runner)
    runner.offer_catalog([replace(EVENT, neg_risk_augmented=True)], [])
    assert words(runner.decide([], START_US + SECOND).events) == ["withdrawn CONDITION_ENDED"]


def test_a_member_that_joins_needs_a_quote_before_the_event_is_exhaustive_again() -> None:
    runner = a_runner()
    opened(runner)
    third = a_market(2)
    runner.offer_catalog([replace(EVENT, market_ids=(*EVENT.market_ids, third.market_id))], [third])
    assert words(decided(runner, cheap(0, START_US + SECOND))) == ["withdrawn CONDITION_ENDED"]
    joined = a_quote(third.market_id, START_US + 2 * SECOND, 10_000, 30_000)
    (event,) = decided(runner, joined)
    assert len(event.signal.legs) == 3


def test_a_market_that_nobody_knows_does_not_exist() -> None:
    runner = StrategyRunner([Registry().configure("arb.event_sum")])
    assert runner.decide([cheap(0, START_US)]).events == ()
    runner.commit()
    assert runner.journal.markets == {}


def test_facts_are_journalled_from_the_first_tick_on_and_undone_with_the_batch() -> None:
    runner = a_runner()
    states = runner.decide([cheap(0, START_US), cheap(1, START_US)]).states
    journal = journal_of(states)
    assert [time for time, _ in journal.markets["kalshi:M0"]] == [START_US]
    assert journal.changes()[0] == (START_US, replace(EVENT, title=""))
    runner.rollback()
    assert runner.journal.markets == {}
    assert runner.position_us(Venue.KALSHI) == 0
    assert words(decided(runner, cheap(0, START_US), cheap(1, START_US))) == ["created"]
    runner.offer_catalog([], [replace(MARKETS[0], state=MarketState.PAUSED)])
    runner.decide([], START_US + SECOND)
    runner.commit()
    assert [time for time, _ in runner.journal.markets["kalshi:M0"]] == [START_US, START_US + SECOND]


def test_a_kernel_that_raises_ends_its_own_opportunity_and_hurts_nobody_else() -> None:
    def broken(state: Any, params: Any, rows: Any, out: Any, chosen: Any) -> None:
        if rows[0]["ask_price_micros"] == 350_000:
            raise ZeroDivisionError("somebody else's bug")
        assert EVENT_SUM.step_group is not None
        EVENT_SUM.step_group(state, params, rows, out, chosen)

    kind = replace(EVENT_SUM, kind="test.broken", step_group=broken)
    third_party = ConfiguredStrategy(
        "test.broken", Kernel(kind, kind.params_type()), Gate(GateParams()), StrategyOrigin.ENTRY_POINT
    )
    failures: list[tuple[str, str]] = []
    runner = StrategyRunner(
        [Registry().configure("arb.event_sum"), third_party],
        on_failure=lambda strategy, subject, error: failures.append((strategy, subject)),
    )
    runner.offer_catalog([EVENT], MARKETS)
    assert words(decided(runner, cheap(0, START_US), cheap(1, START_US))) == ["created", "created"]
    events = decided(runner, cheap(0, START_US + SECOND, ask=350_000))
    assert [(e.signal.kind, e.type.value) for e in events] == [
        ("arb.event_sum", "revised"),
        ("test.broken", "withdrawn"),
    ]
    assert failures == [("test.broken", "kalshi:E")]


def test_strategies_with_different_gates_do_not_share_a_runner() -> None:
    registry = Registry()
    with pytest.raises(ValueError, match="share one gate"):
        StrategyRunner(
            [
                registry.configure("arb.event_sum"),
                registry.configure("stat.mean_reversion", gate=GateParams(stale_gaps=5)),
            ]
        )
