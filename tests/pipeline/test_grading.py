"""What a grade says of one contract of each leg, by hand."""

from dataclasses import replace

import pytest

from oddstream_server.domain.market import Settlement, SettlementState
from oddstream_server.domain.signal import Action
from oddstream_server.pipeline.grading import grade_of
from tests.grpc.stored_world import MARKET, T0, market, signal


@pytest.mark.parametrize(
    ("action", "yes_payout_micros", "edge_micros"),
    [
        # Outcome 1 at 0.59; the fee of one contract is 0.07 x 0.59 x 0.41 = 0.016933, up to the cent: 0.02.
        (Action.BUY, 0, 1_000_000 - 590_000 - 20_000),
        (Action.BUY, 1_000_000, 0 - 590_000 - 20_000),
        (Action.SELL, 0, 590_000 - 1_000_000 - 20_000),
        (Action.SELL, 1_000_000, 590_000 - 0 - 20_000),
    ],
)
def test_a_sold_leg_earns_what_a_bought_one_loses_and_pays_its_fee_too(
    action: Action, yes_payout_micros: int, edge_micros: int
) -> None:
    made = signal(1)
    made = replace(made, legs=(replace(made.legs[0], action=action),))
    settled = market(MARKET, settlement=Settlement(SettlementState.FINAL, yes_payout_micros, 1))
    grade = grade_of(made, {MARKET: settled}, 1, T0)
    assert grade is not None
    assert (grade.realized_edge_micros, grade.correct) == (edge_micros, edge_micros > 0)
