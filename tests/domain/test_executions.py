"""What a reported fill cost and earned, by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oddstream_server.domain.execution import (
    Fill,
    FillLiquidity,
    estimated_fee_micros,
    realized_profit_micros,
    slippage_micros,
)
from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.market import Outcome, Settlement, SettlementState, Venue
from oddstream_server.domain.signal import Action
from tests.grpc.stored_world import MARKET, T0, market, signal

FINAL = Settlement(SettlementState.FINAL, 1_000_000, 1)
FILL = Fill(
    venue=Venue.KALSHI, venue_fill_id="f", market_id=MARKET, outcome_index=0, action=Action.BUY, price_micros=400_000,
    size_micros=10_000_000, fee_micros=None, liquidity=FillLiquidity.TAKER, venue_time_us=T0, signal_id=None,
    leg_number=None, venue_order_id="", client_order_id="",
)  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "action", "paid", "profit"),
    [
        # Ten contracts at 0.40 with a fee of 0.17.
        (0, Action.BUY, 1_000_000, 6_000_000 - 170_000),
        (0, Action.BUY, 0, -4_000_000 - 170_000),
        (1, Action.BUY, 0, 6_000_000 - 170_000),
        (0, Action.SELL, 1_000_000, -6_000_000 - 170_000),
        (1, Action.SELL, 1_000_000, 4_000_000 - 170_000),
        (0, Action.BUY, 500_000, 1_000_000 - 170_000),
        (0, Action.BUY, None, -170_000),
    ],
)
def test_a_fill_earns_the_payout_less_price_and_fee(
    outcome: int, action: Action, paid: int | None, profit: int
) -> None:
    fill = replace(FILL, outcome_index=outcome, action=action)
    settled = Settlement(SettlementState.FINAL, paid, 1, void=paid is None)
    assert realized_profit_micros(fill, 170_000, settled, 1_000_000) == profit


def test_nothing_is_earned_before_a_final_settlement_or_without_a_fee() -> None:
    provisional = Settlement(SettlementState.PROVISIONAL, 0, 1)
    assert realized_profit_micros(FILL, 0, None, 1_000_000) is None
    assert realized_profit_micros(FILL, 0, provisional, 1_000_000) is None
    assert realized_profit_micros(FILL, None, FINAL, 1_000_000) is None


@given(
    price=st.integers(1, 1_000_000),
    size=st.integers(1, 10**13),
    fee=st.integers(-(10**12), 10**12),
    paid=st.integers(0, 1_000_000),
)
def test_buying_and_selling_the_same_earns_the_fees_back_to_the_micro(
    price: int, size: int, fee: int, paid: int
) -> None:
    bought = replace(FILL, price_micros=price, size_micros=size)
    settled = Settlement(SettlementState.FINAL, paid, 1)
    both = [realized_profit_micros(replace(bought, action=action), fee, settled, 1_000_000) or 0 for action in Action]
    assert -2 * fee - 1 <= sum(both) <= -2 * fee, "each is rounded down"


def test_the_fee_is_that_of_the_schedule_of_the_fill() -> None:
    old = FeeSchedule(FeeFormula.FLAT, 10_000, 0, valid_to_us=T0)
    new = FeeSchedule(FeeFormula.QUADRATIC, 70_000, 17_500, rounding_step_micros=10_000, valid_from_us=T0)
    dated = market(MARKET, fee_schedules=(old, new))
    assert estimated_fee_micros(FILL, dated) == 170_000  # 0.07 x 10 x 0.4 x 0.6 = 0.168, up to the cent
    assert estimated_fee_micros(replace(FILL, liquidity=FillLiquidity.MAKER), dated) == 50_000
    assert estimated_fee_micros(replace(FILL, liquidity=FillLiquidity.UNSPECIFIED), dated) == 170_000
    assert estimated_fee_micros(replace(FILL, venue_time_us=T0 - 1), dated) == 100_000
    assert estimated_fee_micros(FILL, market(MARKET, fee_schedules=())) is None


@pytest.mark.parametrize(
    ("outcome", "action", "price", "slippage"),
    [
        # The leg buys outcome 1 at 0.59, which is selling outcome 0 at 0.41.
        (1, Action.BUY, 600_000, 10_000),
        (1, Action.BUY, 580_000, -10_000),
        (0, Action.SELL, 400_000, 10_000),
        (0, Action.SELL, 420_000, -10_000),
        (1, Action.SELL, 600_000, None),
        (0, Action.BUY, 400_000, None),
    ],
)
def test_slippage_is_against_the_legs_limit_and_absent_for_a_close(
    outcome: int, action: Action, price: int, slippage: int | None
) -> None:
    fill = replace(FILL, outcome_index=outcome, action=action, price_micros=price)
    assert slippage_micros(fill, signal(1).legs[0], market(MARKET)) == slippage


def test_another_of_three_outcomes_says_nothing_about_the_legs() -> None:
    three = market(MARKET, outcomes=tuple(Outcome(n, str(n), "x") for n in range(3)))
    leg = signal(1).legs[0]
    assert slippage_micros(replace(FILL, outcome_index=1, price_micros=600_000), leg, three) == 10_000
    assert slippage_micros(replace(FILL, outcome_index=0, action=Action.SELL), leg, three) is None
