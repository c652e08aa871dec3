"""Signals as strategies make them: two legs, evidence, a content id. Enough of them to fill any log."""

from oddstream_server.domain.market import Venue
from oddstream_server.domain.signal import (
    Action,
    BookSide,
    DataOrigin,
    Direction,
    Evidence,
    Leg,
    Signal,
    SignalEvent,
    SignalEventType,
    content_id,
)

STRATEGIES = ("arb.event_sum", "stat.mean_reversion")
EVENTS = 50
"""Each with two markets; signal n is about event n modulo this."""


def event_id(number: int) -> str:
    return f"kalshi:KXBENCH-26NOV{number % EVENTS:02}"


def market_ids(number: int) -> tuple[str, str]:
    return f"{event_id(number)}-T1", f"{event_id(number)}-T2"


def made_event(number: int, now_us: int, name: str = "made") -> SignalEvent:
    """The CREATED event of the signal with that name and number; the same one again for the same arguments' ids."""
    kind = STRATEGIES[number % 2]
    legs = tuple(_leg(market_id, place, now_us) for place, market_id in enumerate(market_ids(number)))
    signal = Signal(
        opportunity_id=content_id("opp", name, number),
        revision=1,
        kind=kind,
        version=1,
        strategy_id=kind,
        params_digest="1" * 64,
        subject_id=event_id(number),
        venue=Venue.KALSHI,
        event_id=event_id(number),
        direction=Direction.BASKET,
        legs=legs,
        all_or_none=True,
        strength_ppm=100_000 + number * 7_919 % 900_000,
        net_edge_micros=5_000 + number * 1_009 % 40_000,
        fair_value_micros=None,
        input_time_us=now_us,
        input_digest=f"{number:064x}",
        expire_time_us=now_us + 60_000_000,
        lockup_until_us=now_us + 86_400_000_000,
        data_origin=DataOrigin.LIVE,
        evidence=(
            Evidence("ask_micros", 430_000, "micros", legs[0].market_id),
            Evidence("ask_micros", 520_000, "micros", legs[1].market_id),
            Evidence("sum_micros", 950_000, "micros", "derived"),
            Evidence("fees_micros", 34_300, "micros", "derived"),
            Evidence("minimum_edge_micros", 5_000, "micros", "params"),
        ),
    ).identified()
    return SignalEvent(SignalEventType.CREATED, signal, signal.strength_ppm, signal.net_edge_micros)


def _leg(market_id: str, place: int, now_us: int) -> Leg:
    return Leg(
        market_id=market_id,
        outcome_index=0,
        venue_instrument_id=market_id.partition(":")[2],
        action=Action.BUY,
        limit_price_micros=430_000 + 90_000 * place,
        book_side=BookSide.ASK,
        book_price_micros=430_000 + 90_000 * place,
        available_size_micros=120_000_000,
        tick_micros=10_000,
        minimum_size_micros=1_000_000,
        size_step_micros=1_000_000,
        neg_risk=False,
        taker_delay_us=0,
        expected_fee_micros=2_060_000,
        book_epoch=3,
        book_receive_time_us=now_us - 900,
        book_venue_time_us=now_us - 2_400,
        outcome_label="Yes",
    )
