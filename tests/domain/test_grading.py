"""Touches and forecasts of a signal's leg, by hand."""

from dataclasses import replace

import pytest

from oddstream_server.domain.grading import Forecast, Touch, forecast_of, touch_edge_micros
from oddstream_server.domain.market import Market, Settlement, SettlementState
from oddstream_server.domain.signal import Action
from oddstream_server.domain.track_record import Horizon, horizon_of
from tests.grpc.stored_world import MARKET, T0, market, signal

TOUCH = Touch(380_000, 420_000, T0 + 1)
HOUR = 3_600_000_000


def paid(yes: int | None, **more: object) -> dict[str, Market]:
    void = yes is None
    return {MARKET: market(MARKET, settlement=Settlement(SettlementState.FINAL, yes, 1, void=void), **more)}


@pytest.mark.parametrize(
    ("outcome", "action", "price"),
    [(0, Action.BUY, 420_000), (0, Action.SELL, 380_000), (1, Action.BUY, 620_000), (1, Action.SELL, 580_000)],
)
def test_a_leg_takes_the_side_of_the_book_that_it_needs(outcome: int, action: Action, price: int) -> None:
    leg = replace(signal(1).legs[0], outcome_index=outcome, action=action)
    assert TOUCH.price_micros(leg, 1_000_000) == price


def test_the_edge_at_the_touch_is_payout_less_price_less_fee_of_that_price() -> None:
    # The leg buys outcome 1: 0.62 at the touch, with a fee of 0.07 x 0.62 x 0.38 = 0.016492, up to the cent.
    assert touch_edge_micros(signal(1), {0: TOUCH}, paid(0)) == 1_000_000 - 620_000 - 20_000
    assert touch_edge_micros(signal(1), {0: TOUCH}, paid(1_000_000)) == -620_000 - 20_000
    assert touch_edge_micros(signal(1), {}, paid(0)) is None
    assert touch_edge_micros(signal(1), {0: TOUCH}, paid(None)) is None
    assert touch_edge_micros(signal(1), {0: TOUCH}, {}) is None


def test_a_leg_of_outcome_one_forecasts_what_is_left_of_the_payout() -> None:
    # Fair value of outcome 0 is 0.38, and outcome 1 is bought at 0.59.
    assert forecast_of(signal(1), paid(0)) == Forecast(590_000, 620_000, happened=True)
    assert forecast_of(signal(1), paid(1_000_000)) == Forecast(590_000, 620_000, happened=False)
    unvalued = replace(signal(1), fair_value_micros=None)
    assert forecast_of(unvalued, paid(0)) == Forecast(590_000, None, happened=True)


def test_prices_of_another_payout_are_taken_to_one_usd() -> None:
    assert forecast_of(signal(1), paid(0, payout_micros=2_000_000)) == Forecast(295_000, 810_000, happened=True)


def test_baskets_voids_and_split_payouts_forecast_nothing() -> None:
    assert forecast_of(signal(1), paid(500_000)) is None
    assert forecast_of(signal(1), paid(None)) is None
    assert forecast_of(signal(1), {}) is None
    assert forecast_of(replace(signal(1), legs=signal(1).legs * 2), paid(0)) is None


@pytest.mark.parametrize(
    ("left_us", "horizon"),
    [
        (None, None),
        (-1, Horizon.UNDER_HOUR),
        (HOUR - 1, Horizon.UNDER_HOUR),
        (HOUR, Horizon.UNDER_DAY),
        (24 * HOUR, Horizon.UNDER_WEEK),
        (168 * HOUR, Horizon.WEEK_OR_MORE),
    ],
)
def test_the_horizon_is_the_time_to_the_expected_settlement(left_us: int | None, horizon: Horizon | None) -> None:
    made = replace(signal(1), lockup_until_us=None if left_us is None else T0 + left_us)
    assert horizon_of(made) is horizon
