import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddstream_server.domain.market import Market, MarketState
from oddstream_server.strategies.gate import Gate, GateParams, Shut, shut_by_state, stale_after_us
from oddstream_server.strategies.kernel import MISSING
from tests.strategies.worlds import START_US, a_market

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("bid", "ask", "shut"),
    [
        (490_000, 510_000, Shut.OPEN),
        (510_000, 490_000, Shut.CROSSED),
        (500_000, 500_000, Shut.CROSSED),
        (10_000, 990_000, Shut.STALE),
        (10_000, 980_000, Shut.OPEN),
        (MISSING, 990_000, Shut.OPEN),
        (500_000, MISSING, Shut.OPEN),
    ],
)
def test_the_gate_judges_each_quote(bid: int, ask: int, shut: Shut) -> None:
    gate = Gate(GateParams())
    assert gate.step(gate.new_state(), START_US, 1, bid, ask, 1_000_000) == (shut, False)


def test_a_fresh_quote_opens_the_gate_again() -> None:
    gate = Gate(GateParams())
    state = gate.new_state()
    assert gate.step(state, START_US, 1, 510_000, 490_000, 1_000_000)[0] is Shut.CROSSED
    assert gate.step(state, START_US + 1, 1, 490_000, 510_000, 1_000_000)[0] is Shut.OPEN


def test_a_new_epoch_voids_windows_but_the_first_one_does_not() -> None:
    gate = Gate(GateParams())
    state = gate.new_state()
    voids = [gate.step(state, START_US + i, e, 490_000, 510_000, 1_000_000)[1] for i, e in enumerate((5, 5, 6, 6, 9))]
    assert voids == [False, False, True, False, True]


def test_staleness_is_a_multiple_of_the_median_gap_and_never_below_the_floor() -> None:
    gate = Gate(GateParams(stale_gaps=10, stale_floor_us=5 * SECOND, minimum_gaps=3))
    state, now = gate.new_state(), START_US
    bounds = []
    for gap in (0, 2, 2, 300, 2, 2):
        now += gap * SECOND
        gate.step(state, now, 1, 490_000, 510_000, 1_000_000)
        bounds.append(gate.stale_after_us(state))
    assert bounds[0] == bounds[2] > 10**15, "three gaps are needed to judge"
    assert bounds[3:] == [20 * SECOND] * 3
    for _ in range(20):
        now += 1
        gate.step(state, now, 1, 490_000, 510_000, 1_000_000)
    assert gate.stale_after_us(state) == 5 * SECOND


@given(st.lists(st.integers(1, 10**12), max_size=40), st.integers(2, 10_000), st.integers(1, 15))
def test_staleness_on_plain_numbers_is_the_compiled_functions(gaps: list[int], factor: int, minimum: int) -> None:
    gate = Gate(GateParams(stale_gaps=factor, minimum_gaps=minimum))
    state, now = gate.new_state(), START_US
    for gap in (0, *gaps):
        now += gap
        gate.step(state, now, 1, 490_000, 510_000, 1_000_000)
    assert gate.stale_after_us(state) == stale_after_us(state[0], gate.params.record())


def test_the_gates_state_goes_through_bytes() -> None:
    gate = Gate(GateParams())
    state = gate.new_state()
    for i in range(5):
        gate.step(state, START_US + i, 1, 490_000, 510_000, 1_000_000)
    assert gate.load_state(state.tobytes()) == state


@pytest.mark.parametrize(
    ("market", "shut"),
    [
        (a_market(), Shut.OPEN),
        (a_market(state=MarketState.PAUSED), Shut.MARKET_CLOSED),
        (a_market(state=MarketState.CLOSED), Shut.MARKET_CLOSED),
        (a_market(state=MarketState.UNOPENED), Shut.MARKET_CLOSED),
        (a_market(state=MarketState.SETTLED), Shut.MARKET_CLOSED),
        (a_market(state=MarketState.DISPUTED), Shut.RESOLUTION_RISK),
        (a_market(placeholder=True), Shut.RESOLUTION_RISK),
    ],
)
def test_nothing_is_said_of_a_market_that_is_not_simply_open(market: Market, shut: Shut) -> None:
    assert shut_by_state(market) is shut


def test_each_shut_has_a_reason_of_the_contract() -> None:
    assert {s.reason for s in Shut if s is not Shut.OPEN} == {
        "GATE_CROSSED",
        "GATE_STALE",
        "GATE_GAP",
        "MARKET_CLOSED",
        "GATE_RESOLUTION_RISK",
    }
