"""What strategies want, as records, and what both kinds of passes over quotes share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from oddstream_server.backtesting.accounts.charges import NO_SCHEDULE, ORDER, balance_rounding, raw_fee, stepped_fee
from oddstream_server.backtesting.accounts.wide import LIMBS
from oddstream_server.backtesting.records.columns import MISSING
from oddstream_server.backtesting.records.universe import Universe
from oddstream_server.domain.errors import FieldViolation, InvalidArgument

INTENT: Final = np.dtype(
    [
        (name, np.int64)
        for name in (
            "kind",
            "row",
            "time_us",
            "phase",
            "sequence",
            "strategy",
            "subject",
            "market",
            "outcome",
            "basket",
            "legs",
            "strength_ppm",
            "net_edge_micros",
            "fair_micros",
            "expire_us",
            "price_micros",
            "size_micros",
            "fee_micros",
        )
    ]
)
"""One leg of what a strategy wants. ``kind``: 1 to enter, 2 to leave. ``outcome`` is the one to buy or to sell; price,
size, fair value and the fee of one contract are in its terms, at the signal. ``basket`` numbers intents that belong
together, ``legs`` of them. ``subject`` is the market's index, or for a group the number of markets plus the event's."""


def segment_schedule(segments: Any, begin: Any, end: Any, now_us: Any) -> Any:
    """The schedule that holds at an instant, of the segments from ``begin`` to ``end``."""
    place = end - 1
    while place > begin and segments[place]["from_us"] > now_us:
        place -= 1
    if place < begin:
        return NO_SCHEDULE
    return segments[place]["schedule"]


def touch_fee(
    terms: Any, segments: Any, schedules: Any, memo: Any, order: Any, limbs: Any, price_micros: Any, now_us: Any
) -> Any:
    """Taker fee of one contract at a price by the schedule known then; MISSING where none is.

    :param memo: fees by schedule and hundredth of a cent, -2 where not yet computed.
    """
    place = segment_schedule(segments, terms["known_segment_begin"], terms["known_segment_end"], now_us)
    if place == NO_SCHEDULE:
        return MISSING
    slot = price_micros // 100
    fits = place < memo.shape[0] and slot < memo.shape[1] and slot * 100 == price_micros
    if fits and terms["payout_micros"] == 1_000_000 and memo[place, slot] != -2:
        return memo[place, slot]
    raw = raw_fee(schedules[place], 0, price_micros, 1_000_000, terms["payout_micros"], limbs)
    fee = stepped_fee(schedules[place], order[0], raw)
    fee += balance_rounding(schedules[place], 1, price_micros, 1_000_000, fee)
    if fits and terms["payout_micros"] == 1_000_000:
        memo[place, slot] = fee
    return fee


def revision_at(revisions: Any, revision_bounds: Any, market: Any, now_us: Any) -> Any:
    """Place of the revision of a market's terms that holds at an instant; -1 while the first terms do."""
    place = revision_bounds[market + 1] - 1
    while place >= revision_bounds[market] and revisions[place]["time_us"] > now_us:
        place -= 1
    return place if place >= revision_bounds[market] else -1


def tick_at(
    terms: Any, ranges: Any, revisions: Any, revision_bounds: Any, market: Any, price_micros: Any, now_us: Any
) -> Any:
    """The finest tick that holds at an outcome-0 price; 1 outside of all ranges."""
    begin, end = terms[market]["range_begin"], terms[market]["range_end"]
    revision = revision_at(revisions, revision_bounds, market, now_us)
    if revision >= 0:
        begin, end = revisions[revision]["range_begin"], revisions[revision]["range_end"]
    tick = 0
    for place in range(begin, end):
        inside = ranges[place]["start_micros"] <= price_micros <= ranges[place]["end_micros"]
        if inside and (tick == 0 or ranges[place]["tick_micros"] < tick):
            tick = ranges[place]["tick_micros"]
    return max(tick, 1)


def write_intent(
    intents: Any, at: Any, kind: Any, row: Any, now_us: Any, sequence: Any, strategy: Any, market: Any, outcome: Any
) -> None:
    """An intent of a single market with everything that entries and exits share."""
    intent = intents[at]
    intent["kind"] = kind
    intent["row"] = row
    intent["time_us"] = now_us
    intent["phase"] = 0
    intent["sequence"] = sequence
    intent["strategy"] = strategy
    intent["subject"] = market
    intent["market"] = market
    intent["outcome"] = outcome
    intent["basket"] = at
    intent["legs"] = 1
    intent["strength_ppm"] = 0
    intent["net_edge_micros"] = 0
    intent["fair_micros"] = MISSING
    intent["expire_us"] = now_us
    intent["price_micros"] = MISSING
    intent["size_micros"] = MISSING
    intent["fee_micros"] = MISSING


@dataclass(frozen=True, slots=True)
class Found:
    """What a pass found in some rows."""

    intents: Any
    """Array of :data:`INTENT` in the order of rows."""
    created_count: int
    revised_count: int
    ended_count: int
    warm_row_count: int


def compact(records: Any) -> Any:
    """Records as they are, or copied where they keep more than four times their own memory from being freed."""
    return records if records.base is None or 4 * records.nbytes > records.base.nbytes else records.copy()


def joined(parts: Sequence[Any], dtype: np.dtype[Any]) -> Any:
    """Parts of records of int64 behind each other; whole ones are copied, since numpy would go field by field.

    To pick records ``take`` does the same, where an index goes field by field too.
    """
    if len(parts) == 1:
        return parts[0]
    if not len(parts):
        return np.empty(0, dtype=dtype)
    return np.concatenate([part.view(np.int64) for part in parts]).view(dtype)


def found_in(chunks: Sequence[Any], counts: Any) -> Found:
    """What a call found, with baskets numbered through.

    :param counts: created, revised, ended, rows that spoke, warm-up rows.
    """
    written = 0
    for chunk in chunks:
        chunk["basket"] += written
        written += len(chunk)
    created, revised, ended, _, warm = counts.tolist()
    intents = joined(chunks, INTENT)
    return Found(compact(intents) if len(chunks) == 1 else intents, created, revised, ended, warm)


def row_layout(names: tuple[str, ...], cells: tuple[str, ...]) -> np.dtype[Any]:
    """A record of int64 that shows the named ones of some cells.

    :raises InvalidArgument: a column isn't recorded for backtests.
    """
    foreign = sorted(set(names) - set(cells))
    if foreign:
        raise InvalidArgument(
            [FieldViolation("strategies", f"backtests have no column {', '.join(foreign)}; leave out what needs it")]
        )
    return np.dtype(
        {
            "names": list(names),
            "formats": [np.int64] * len(names),
            "offsets": [8 * cells.index(name) for name in names],
            "itemsize": 8 * len(cells),
        }
    )


class Terms:
    """A universe's tables and the scratch that goes with them, as the passes want them."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe
        count = min(len(universe.schedules), 64)
        self.memo = np.full((count, 10_001), -2, dtype=np.int64)
        self.order = np.zeros(1, dtype=ORDER)
        self.limbs = np.zeros(LIMBS, dtype=np.int64)

    @property
    def tables(self) -> tuple[Any, ...]:
        u = self.universe
        changed = (u.revisions, u.revision_bounds, u.revised_terms)
        return (u.terms, u.ranges, *changed, u.segments, u.schedules, u.changes, self.memo, self.order, self.limbs)


def load_arrays(arrays: Sequence[Any], stored: bytes) -> None:
    """Fill arrays from their bytes one after another.

    :raises ValueError: the bytes are not of these arrays.
    """
    if len(stored) != sum(array.nbytes for array in arrays):
        raise ValueError("the checkpoint is not of this strategy and universe; start the pass anew")
    place = 0
    for array in arrays:
        piece = np.frombuffer(stored, dtype=array.dtype, count=array.size, offset=place)
        array[...] = piece.reshape(array.shape)
        place += array.nbytes
