"""A signal looked at again: its formula, its fees and its books, beside what it said."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from oddstream.cli import json_lines
from oddstream.cli.views.markets import fee_in_force
from oddstream.fees import FeeStep, taker_fee_micros, taker_fee_working
from oddstream.recompute import CannotRecompute, Recomputed, recompute, strength_ppm
from oddstream.v1 import disclaimer_pb2, fee_schedule_pb2, market_pb2, market_service_pb2, signal_pb2

MICROS = 1_000_000


@dataclass(frozen=True, slots=True)
class LegCheck:
    """One leg, its market and its book now; None with words where the server didn't answer."""

    leg: signal_pb2.SignalLeg
    market: market_pb2.Market | None
    market_words: str
    book: market_service_pb2.GetOrderBookResponse | None
    book_words: str

    @property
    def fee_size_micros(self) -> int:
        """What the expected fee is for: the available size, or one contract where that is unknown."""
        return self.leg.available_size_micros if self.leg.HasField("available_size_micros") else MICROS

    @property
    def schedule(self) -> fee_schedule_pb2.FeeSchedule | None:
        """The one in force when the leg's book was received."""
        return None if self.market is None else fee_in_force(self.market, self.leg.receive_time.ToMicroseconds())

    def fee_working(self) -> list[FeeStep]:
        """Empty where no schedule is known."""
        schedule = self.schedule
        if schedule is None or self.market is None:
            return []
        return taker_fee_working(
            schedule, self.leg.limit_price_micros, self.fee_size_micros, self.market.payout_micros or MICROS
        )

    def fee_micros(self) -> int | None:
        schedule = self.schedule
        if schedule is None or self.market is None:
            return None
        return taker_fee_micros(
            schedule, self.leg.limit_price_micros, self.fee_size_micros, self.market.payout_micros or MICROS
        )

    @property
    def fee_equal(self) -> bool | None:
        """None where there is nothing to compare."""
        fee = self.fee_micros()
        return (
            None if fee is None or not self.leg.HasField("expected_fee_micros") else fee == self.leg.expected_fee_micros
        )

    def now(self) -> tuple[int | None, int | None]:
        """Best price now, of outcome 0, on the side that the leg takes from; and the size at or inside the limit."""
        if self.book is None:
            return None, None
        takes_bids = self.leg.book_side == signal_pb2.BOOK_SIDE_BID
        side = self.book.order_book.bids if takes_bids else self.book.order_book.asks
        limit = self.leg.book_price_micros
        inside = sum(
            level.size_micros
            for level in side
            if (level.price_micros >= limit if takes_bids else level.price_micros <= limit)
        )
        return (side[0].price_micros if side else None), inside


@dataclass(frozen=True, slots=True)
class SignalCheck:
    """:ivar recomputed: None where it can't be, and then ``words`` say why."""

    signal: signal_pb2.Signal
    sequence: int
    recomputed: Recomputed | None
    words: str
    legs: tuple[LegCheck, ...]
    disclaimer: disclaimer_pb2.Disclaimer

    @property
    def equal(self) -> bool | None:
        return None if self.recomputed is None else self.recomputed.equals(self.signal)


def check(answer: Any, legs: Sequence[LegCheck]) -> SignalCheck:
    """:param answer: a ``GetSignalResponse`` in the FULL view."""
    recomputed, words = None, ""
    try:
        recomputed = recompute(answer.signal)
    except CannotRecompute as reason:
        words = str(reason)
    return SignalCheck(answer.signal, answer.sequence, recomputed, words, tuple(legs), answer.disclaimer)


def as_json(checked: SignalCheck) -> dict[str, Any]:
    """One JSON object; see :mod:`oddstream.cli.json_lines` for the form of what comes from messages."""
    again = checked.recomputed
    return {
        "sequence": checked.sequence,
        "signal": json_lines.plain(checked.signal),
        "computed_again": {
            "net_edge_micros": again.net_edge_micros if again else None,
            "strength_ppm": again.strength_ppm if again else None,
            "stated_strength_ppm": strength_ppm(checked.signal),
            "equal": checked.equal,
            "why_not": checked.words or None,
        },
        "legs_now": [_leg_json(leg) for leg in checked.legs],
    }


def _leg_json(checked: LegCheck) -> dict[str, Any]:
    best, inside = checked.now()
    return {
        "leg_number": checked.leg.leg_number,
        "market_id": checked.leg.market_id,
        "best_book_price_micros": best,
        "size_inside_limit_micros": inside,
        "book_epoch": checked.book.order_book.epoch if checked.book else None,
        "book_age_us": checked.book.age.ToMicroseconds() if checked.book else None,
        "fee_micros": checked.fee_micros(),
        "fee_equal": checked.fee_equal,
        "fee_working": [{"expression": s.expression, "result_usd": s.result} for s in checked.fee_working()],
    }
