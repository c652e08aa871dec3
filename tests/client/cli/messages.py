"""Messages of the contract with sensible fields, for tests of the command."""

from oddstream.v1 import (
    disclaimer_pb2,
    execution_pb2,
    fee_schedule_pb2,
    feed_status_pb2,
    market_pb2,
    market_service_pb2,
    order_book_pb2,
    signal_pb2,
    strategy_pb2,
    venue_pb2,
)
from oddstream.v1.signal_service_pb2 import WatchSignalsResponse

DATA_SET = "ds_aaaaaaaaaaaaaaaa"
NOW_US = 1_780_000_000_000_000


def sig(n):
    return f"sig_{'abcdefghijklmnopqrstuvwxyz234567'[n % 32] * 26}"


def opp(n):
    return f"opp_{'abcdefghijklmnopqrstuvwxyz234567'[n % 32] * 26}"


def a_leg(number=0, label="Lakers", price=430_000, size=120_000_000, market="kalshi:NBA", **changes):
    leg = signal_pb2.SignalLeg(
        leg_number=number,
        market_id=market,
        venue=changes.pop("venue", venue_pb2.VENUE_KALSHI),
        venue_instrument_id=market.partition(":")[2],
        action=signal_pb2.LEG_ACTION_BUY,
        limit_price_micros=price,
        book_side=signal_pb2.BOOK_SIDE_ASK,
        book_price_micros=price,
        tick_size_micros=10_000,
        minimum_size_micros=1_000_000,
        size_step_micros=10_000,
        expected_fee_micros=2_060_000,
        book_epoch=3,
        outcome_label=label,
    )
    if size is not None:
        leg.available_size_micros = size
    leg.receive_time.FromMicroseconds(NOW_US - 4_000_000)
    leg.MergeFrom(signal_pb2.SignalLeg(**changes))
    return leg


def a_fill(fill_id="f1", **changes):
    fill = execution_pb2.Fill(
        venue=venue_pb2.VENUE_KALSHI,
        venue_fill_id=fill_id,
        market_id="kalshi:NBA",
        outcome_index=1,
        action=signal_pb2.LEG_ACTION_BUY,
        price_micros=430_000,
        size_micros=120_000_000,
    )
    fill.venue_time.FromMicroseconds(NOW_US - 7_200_000_000)
    fill.MergeFrom(execution_pb2.Fill(**changes))
    return fill


def an_execution(fill, **changes):
    execution = execution_pb2.Execution(
        execution_id=f"exe_{'a' * 32}", fill=fill, owner="key_a", estimated_fee_micros=2_060_000, slippage_micros=10_000
    )
    execution.create_time.FromMicroseconds(NOW_US)
    execution.MergeFrom(execution_pb2.Execution(**changes))
    return execution


def some_figures(graded=1_000, **changes):
    figures = strategy_pb2.PerformanceFigures(
        signal_count=1_234, graded_count=graded, void_count=34, hit_rate=0.55, hit_rate_low=0.519, hit_rate_high=0.581,
        brier=0.2134, brier_crowd=0.2201, mean_realized_edge_micros=12_345, mean_next_quote_edge_micros=-2_345,
        realized_edge_low_micros=3_210, realized_edge_high_micros=21_480, execution_count=12,
        executed_profit_micros=-3_400_000,
    )  # fmt: skip
    for number in range(20):
        start = number * 50_000
        bin_ = figures.calibration.add(start_price_micros=start, end_price_micros=start + 50_000, count=number)
        if number:
            bin_.mean_forecast, bin_.frequency = (number + 0.5) / 20, number / 20
    figures.MergeFrom(strategy_pb2.PerformanceFigures(**changes))
    return figures


def a_record(strategy_id="calib.longshot"):
    record = strategy_pb2.StrategyPerformance(
        strategy_id=strategy_id,
        kind_version=2,
        overall=some_figures(),
        slices=[
            strategy_pb2.PerformanceSlice(venue=venue_pb2.VENUE_POLYMARKET_US, figures=some_figures(400)),
            strategy_pb2.PerformanceSlice(
                horizon=strategy_pb2.PERFORMANCE_HORIZON_WEEK_OR_MORE, figures=strategy_pb2.PerformanceFigures()
            ),
        ],
        disclaimer=disclaimer_pb2.Disclaimer(code="RISK_2", text="Past results need not come again."),
    )
    record.period.start_time.FromMicroseconds(NOW_US - 86_400_000_000)
    record.period.end_time.FromMicroseconds(NOW_US)
    record.compute_time.FromMicroseconds(NOW_US)
    return record


def a_signal(n=0, *, legs=None, simulated=False, at_us=NOW_US - 3_000_000, lives_us=600_000_000, **changes):
    made = signal_pb2.Signal(
        signal_id=sig(n),
        opportunity_id=opp(n),
        revision=1,
        kind="stat.mean_reversion",
        kind_version=1,
        strategy_id="stat.mean_reversion",
        state=signal_pb2.SIGNAL_STATE_ACTIVE,
        direction=signal_pb2.SIGNAL_DIRECTION_UP,
        subject_id="kalshi:NBA",
        legs=legs or [a_leg()],
        strength=0.625,
        net_edge_micros=12_500,
        fair_value_micros=462_500,
        data_origin=venue_pb2.DATA_ORIGIN_SIMULATED if simulated else venue_pb2.DATA_ORIGIN_LIVE,
        disclaimer_code="RISK_3",
    )
    made.trigger_time.FromMicroseconds(at_us - 40_000)
    made.create_time.FromMicroseconds(at_us)
    made.expire_time.FromMicroseconds(at_us + lives_us)
    made.MergeFrom(signal_pb2.Signal(**changes))
    return made


def evidence():
    """Of the signal above: 0.4625 - 0.43 - 0.02 = 0.0125, and (3.25 - 2) / (4 - 2) = 0.625."""
    ppm, micros = signal_pb2.EVIDENCE_UNIT_PARTS_PER_MILLION, signal_pb2.EVIDENCE_UNIT_MICROS
    rows = [
        ("z_ppm", 3_250_000, ppm, "derived"),
        ("z_enter_ppm", 2_000_000, ppm, "params"),
        ("z_full_ppm", 4_000_000, ppm, "params"),
        ("window_rows", 44, signal_pb2.EVIDENCE_UNIT_COUNT, "derived"),
        ("ask_price_micros", 430_000, micros, "kalshi:NBA"),
        ("ask_fee_micros", 20_000, micros, "kalshi:NBA"),
    ]
    return [signal_pb2.Evidence(name=n, value=v, unit=u, source=s) for n, v, u, s in rows]


def an_event(sequence, signal=None, type_=signal_pb2.SIGNAL_EVENT_TYPE_CREATED):
    made = signal_pb2.SignalEvent(
        sequence=sequence,
        type=type_,
        opening_strength=0.625,
        opening_net_edge_micros=12_500,
        signal=signal or a_signal(sequence),
    )
    made.create_time.FromMicroseconds(NOW_US)
    return made


def a_stretch(after, through, events=(), *, head=None, started=False, feeds=()):
    message = WatchSignalsResponse(
        after_sequence=after,
        through_sequence=through,
        head_sequence=through if head is None else head,
        events=events,
        feed_statuses=feeds,
        resume_token=f"t{through}",
    )
    if started:
        message.started.data_set_id = DATA_SET
        message.started.start_sequence = after
    return message


def a_feed(state=feed_status_pb2.FEED_STATE_LIVE, venue=venue_pb2.VENUE_KALSHI, last_us=NOW_US - 12_000_000, **more):
    status = feed_status_pb2.FeedStatus(venue=venue, state=state, epoch=7, **more)
    status.last_receive_time.FromMicroseconds(last_us)
    return status


def a_schedule(rate=70_000, start_us=None, end_us=None, source="fee schedule of July 2026", **changes):
    made = fee_schedule_pb2.FeeSchedule(
        venue=venue_pb2.VENUE_KALSHI,
        scope=fee_schedule_pb2.FEE_SCOPE_MARKET,
        formula=fee_schedule_pb2.FEE_FORMULA_QUADRATIC,
        taker_rate_ppm=rate,
        multiplier_ppm=1_000_000,
        exponent=1,
        rounding_step_micros=10_000,
        source=source,
        **changes,
    )
    if start_us is not None:
        made.valid_from_time.FromMicroseconds(start_us)
    if end_us is not None:
        made.valid_to_time.FromMicroseconds(end_us)
    return made


def a_market(market_id="kalshi:NBA", **changes):
    changed_us = NOW_US - 30 * 86_400_000_000
    made = market_pb2.Market(
        market_id=market_id,
        venue=venue_pb2.VENUE_KALSHI,
        venue_market_id="NBA",
        event_id="kalshi:NBA-FINAL",
        series_id="KXNBA",
        title="Will the Lakers win?",
        outcomes=[
            market_pb2.Outcome(index=0, label="Lakers", venue_instrument_id="NBA"),
            market_pb2.Outcome(index=1, label="Celtics", venue_instrument_id="NBA"),
        ],
        venue_ids={"ticker": "NBA-26"},
        state=market_pb2.MARKET_STATE_OPEN,
        price_ranges=[
            market_pb2.PriceRange(start_price_micros=0, end_price_micros=100_000, tick_size_micros=1_000),
            market_pb2.PriceRange(start_price_micros=100_000, end_price_micros=1_000_000, tick_size_micros=10_000),
        ],
        minimum_size_micros=1_000_000,
        size_step_micros=10_000,
        payout_micros=1_000_000,
        fee_schedules=[
            a_schedule(35_000, None, changed_us, "fee schedule of 2025"),
            a_schedule(70_000, changed_us),
        ],
        rules_text="If the Lakers win the final, this resolves to Lakers.",
        rules_digest="ab" * 32,
        data_origin=venue_pb2.DATA_ORIGIN_LIVE,
    )
    made.taker_delay.FromMilliseconds(3_000)
    made.close_time.FromMicroseconds(NOW_US + 7_200_000_000)
    made.fee_schedule.CopyFrom(made.fee_schedules[1])
    made.MergeFrom(market_pb2.Market(**changes))
    return made


def a_book(age_ms=1_500, top_only=False):
    answer = market_service_pb2.GetOrderBookResponse(
        order_book=order_book_pb2.OrderBook(
            market_id="kalshi:NBA",
            bids=[order_book_pb2.BookLevel(price_micros=410_000, size_micros=50_000_000)],
            asks=[
                order_book_pb2.BookLevel(price_micros=420_000, size_micros=30_500_000),
                order_book_pb2.BookLevel(price_micros=430_000, size_micros=10_000_000),
                order_book_pb2.BookLevel(price_micros=440_000, size_micros=99_000_000),
            ],
            epoch=4,
        ),
        top_only=top_only,
    )
    answer.age.FromMilliseconds(age_ms)
    return answer
