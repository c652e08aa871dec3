"""The client's fee of a fill is the server's, whatever the venue rounds: fee, order or balance."""

from hypothesis import given
from hypothesis import strategies as st

from oddstream.fees import taker_fee_micros, taker_fee_working
from oddstream_server.application.fee_working import fee_working
from oddstream_server.domain.fees import FeeFormula, FeeSchedule, Liquidity
from oddstream_server.domain.market import Venue
from oddstream_server.transport.converters.markets import fee_schedule_message
from oddstream_server.venues.kalshi.fees import SeriesFee, fee_schedules

SCHEDULES = st.builds(
    FeeSchedule,
    formula=st.sampled_from([FeeFormula.QUADRATIC, FeeFormula.QUADRATIC_POWER, FeeFormula.FLAT]),
    taker_rate_ppm=st.integers(0, 250_000),
    maker_rate_ppm=st.just(0),
    multiplier_ppm=st.sampled_from([0, 500_000, 1_000_000]),
    exponent=st.sampled_from([1, 2]),
    rounding_step_micros=st.sampled_from([1, 10, 100, 10_000]),
    minimum_micros=st.sampled_from([0, 10]),
    balance_step_micros=st.sampled_from([0, 100, 10_000]),
)


@given(SCHEDULES, st.integers(1, 999_999), st.integers(0, 10_000_000_000_000))
def test_client_and_server_charge_the_same(schedule: FeeSchedule, price: int, size: int) -> None:
    message = fee_schedule_message(schedule, Venue.KALSHI)
    assert taker_fee_micros(message, price, size) == schedule.fill_fee_micros(price, size)


@given(st.integers(1, 999), st.integers(1, 1_000_000), st.sampled_from([100, 10_000]))
def test_kalshis_balance_moves_in_whole_steps_and_the_workings_end_in_the_fee(
    mills: int, hundredths: int, step: int
) -> None:
    schedule = fee_schedules((SeriesFee("quadratic", 1_000_000),), "KXRAIN", balance_step_micros=step)[-1]
    price, size = mills * 1_000, hundredths * 10_000
    fee = schedule.fill_fee_micros(price, size)
    model = -(-70_000 * size * price * (1_000_000 - price) // 10**18)
    assert (-(-price * size // 1_000_000) + fee) % step == 0
    assert model <= fee < model + step
    message = fee_schedule_message(schedule, Venue.KALSHI)
    assert message.balance_step_micros == step
    last = fee_working(schedule, price, size, Liquidity.TAKER, 1_000_000)[-1].result
    assert taker_fee_working(message, price, size)[-1].result == last
    assert round(float(last) * 1_000_000) == fee
