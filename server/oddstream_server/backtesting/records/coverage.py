"""How much of the markets' open time the rows cover, and the last quote of each market at given instants."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from oddstream_server.backtesting.acceleration import compiled
from oddstream_server.backtesting.records.columns import MISSING, QuoteRows
from oddstream_server.backtesting.records.universe import Universe

_US_A_DAY: Final = 86_400_000_000
_US_AN_HOUR: Final = 3_600_000_000
_HOURLY_UP_TO_DAYS: Final = 62


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of the markets' open time within the range, what lies after their first row and outside of gaps."""

    open_us: int
    uncovered_us: int
    market_count: int
    """Markets with rows."""
    row_count: int
    gap_count: int

    @property
    def ratio(self) -> float:
        """From 0 to 1; 0 where no market was open."""
        return (self.open_us - self.uncovered_us) / self.open_us if self.open_us else 0.0

    def plus(self, other: "Coverage") -> "Coverage":
        return Coverage(
            self.open_us + other.open_us,
            self.uncovered_us + other.uncovered_us,
            self.market_count + other.market_count,
            self.row_count + other.row_count,
            self.gap_count + other.gap_count,
        )


NOTHING: Final = Coverage(0, 0, 0, 0, 0)

SPAN: Final = np.dtype(
    [(n, np.int64) for n in ("rows", "epoch", "open_since_us", "open_us", "open_at_last_us", "uncovered_us", "gaps")]
)


def equity_instants(start_us: int, end_us: int, wanted_us: Sequence[int] = ()) -> Any:
    """When the equity is taken: full hours of UTC (full days for more than 62 days), those wanted, and the end."""
    step = _US_AN_HOUR if end_us - start_us <= _HOURLY_UP_TO_DAYS * _US_A_DAY else _US_A_DAY
    regular = np.arange((start_us // step + 1) * step, end_us, step, dtype=np.int64)
    within = [t for t in wanted_us if start_us < t < end_us]
    return np.unique(np.concatenate([regular, np.array([*within, end_us], dtype=np.int64)]))


def open_until(span: Any, status: Any, now: Any, start_us: Any, end_us: Any) -> Any:
    """Open time within the range up to an instant."""
    if status != 2:
        return span["open_us"]
    return span["open_us"] + max(min(now, end_us) - max(span["open_since_us"], start_us), 0)


def change_status(spans: Any, status: Any, market: Any, new: Any, now: Any, start_us: Any, end_us: Any) -> None:
    span = spans[market]
    span["open_us"] = open_until(span, status[market], now, start_us, end_us)
    if new == 2:
        span["open_since_us"] = now
    status[market] = new


def copy_marks(marks: Any, last: Any) -> None:
    for place in range(len(last)):
        marks[place, 0] = last[place, 0]
        marks[place, 1] = last[place, 1]


def survey(
    market: Any,
    receive_time_us: Any,
    bid_price: Any,
    ask_price: Any,
    epoch: Any,
    changes: Any,
    place_of: Any,
    instants: Any,
    status: Any,
    spans: Any,
    last: Any,
    marks: Any,
    start_us: Any,
    end_us: Any,
) -> None:
    """One walk over a shard's rows.

    :param place_of: a market's place in the shard, -1 for those of other shards.
    :param marks: [instant, place, bid or ask] to fill with the last quote as of each instant.
    """
    change, g = 0, 0
    for i in range(len(market)):
        now = receive_time_us[i]
        while g < len(instants) and instants[g] < now:
            copy_marks(marks[g], last)
            g += 1
        while change < len(changes) and changes[change]["time_us"] <= now:
            place = place_of[changes[change]["market"]]
            if place >= 0:
                change_status(
                    spans, status, place, changes[change]["status"], changes[change]["time_us"], start_us, end_us
                )
            change += 1
        place = place_of[market[i]]
        if status[place] == 0:
            continue
        span = spans[place]
        opened = open_until(span, status[place], now, start_us, end_us)
        if span["rows"] == 0:
            span["uncovered_us"] += opened
        elif span["epoch"] != epoch[i]:
            span["uncovered_us"] += opened - span["open_at_last_us"]
            span["gaps"] += 1
        span["rows"] += 1
        span["epoch"] = epoch[i]
        span["open_at_last_us"] = opened
        last[place, 0] = bid_price[i]
        last[place, 1] = ask_price[i]
    while g < len(instants):
        copy_marks(marks[g], last)
        g += 1
    while change < len(changes) and changes[change]["time_us"] <= end_us:
        place = place_of[changes[change]["market"]]
        if place >= 0:
            change_status(spans, status, place, changes[change]["status"], changes[change]["time_us"], start_us, end_us)
        change += 1
    for place in range(len(spans)):
        span = spans[place]
        span["open_us"] = open_until(span, status[place], end_us, start_us, end_us)
        if span["rows"] == 0:
            span["uncovered_us"] = span["open_us"]


def survey_quotes(
    quotes: QuoteRows,
    markets: tuple[int, ...],
    universe: Universe,
    instants: Any,
    start_us: int,
    end_us: int,
    *,
    plain: bool = False,
) -> tuple[Coverage, Any]:
    """Coverage of a shard, and bid and ask of its markets at the instants: int32 [instant, place in shard, side]."""
    count = len(markets)
    place_of = np.full(max(len(universe), 1), -1, dtype=np.int64)
    place_of[list(markets)] = np.arange(count)
    spans = np.zeros(count, dtype=SPAN)
    marks = np.full((len(instants), count, 2), MISSING, dtype=np.int32)
    walk: Callable[..., Any] = compiled(survey, plain=plain)
    walk(
        quotes.market,
        quotes.receive_time_us,
        quotes.bid_price_micros,
        quotes.ask_price_micros,
        quotes.epoch,
        universe.changes,
        place_of,
        instants,
        np.zeros(count, dtype=np.int64),
        spans,
        np.full((count, 2), MISSING, dtype=np.int32),
        marks,
        start_us,
        end_us,
    )
    covered = Coverage(
        int(spans["open_us"].sum()),
        int(spans["uncovered_us"].sum()),
        int(np.count_nonzero(spans["rows"])),
        len(quotes),
        int(spans["gaps"].sum()),
    )
    return covered, marks
