"""Messages of markets are made once, and anew as soon as they would be others."""

from dataclasses import replace

from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.market import Strike
from oddstream_server.transport.converters.market_messages import MarketMessages
from oddstream_server.transport.converters.markets import market_message
from tests.grpc.stored_world import MARKET, market

BEFORE = FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, valid_to_us=1_000, source="old")
AFTER = FeeSchedule(FeeFormula.QUADRATIC, 10_000, 0, valid_from_us=1_000, valid_to_us=2_000, source="new")


def test_a_message_is_kept_while_market_and_fees_stay_the_same() -> None:
    now = [0]
    messages = MarketMessages(lambda: now[0])
    priced = market(MARKET, fee_schedules=(BEFORE, AFTER))
    first = messages.answer(priced, full=True)
    assert first.market == market_message(priced, full=True, now_us=0)
    now[0] = 999
    assert messages.answer(priced, full=True) is first
    basic = messages.message(priced, full=False)
    assert basic == market_message(priced, full=False, now_us=999)
    assert not basic.rules_text


def test_it_is_made_anew_when_another_schedule_comes_into_force_or_the_last_one_ends() -> None:
    now = [0]
    messages = MarketMessages(lambda: now[0])
    priced = market(MARKET, fee_schedules=(BEFORE, AFTER))
    for instant, source in ((0, "old"), (999, "old"), (1_000, "new"), (1_999, "new"), (2_000, "")):
        now[0] = instant
        assert messages.message(priced, full=False).fee_schedule.source == source


def test_it_is_made_anew_for_a_market_that_changed() -> None:
    messages = MarketMessages(lambda: 0)
    first = messages.message(market(MARKET), full=True)
    changed = replace(market(MARKET), title="another")
    assert messages.message(changed, full=True).title == "another"
    assert first.title != "another", "what was answered stays as it was"


def test_a_strike_that_is_the_price_of_an_instant_tells_the_instant_before_the_price_is_known() -> None:
    strike = Strike("greater_or_equal", underlying_id="polymarket:underlying.btc-usd", opening_time_us=1_500_000)
    waiting = market_message(market(MARKET, strike=strike), full=False, now_us=0).strike
    assert not waiting.HasField("floor_value_micros")
    assert waiting.opening_time.ToMicroseconds() == 1_500_000
    known = market_message(market(MARKET, strike=replace(strike, floor_micros=7)), full=False, now_us=0).strike
    assert (known.floor_value_micros, known.opening_time) == (7, waiting.opening_time)
    fixed = market_message(market(MARKET, strike=Strike("greater", 7)), full=False, now_us=0).strike
    assert not fixed.HasField("opening_time")
