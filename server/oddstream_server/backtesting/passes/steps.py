"""The rows that a single-market strategy is stepped on, with whatever it needs besides the quote.

A strategy of quotes alone is stepped on the recorded columns as they are. Others get rows of their own: a print or a
price of the underlying becomes a row with the market's quote as of it, ordered by (receive_time, ingest_sequence), at
one place prices before quotes before prints. Columns of terms and of fitted objects are laid beside, as of each row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from oddstream_server.backtesting.acceleration import compiled
from oddstream_server.backtesting.passes.intents import revision_at
from oddstream_server.backtesting.records.columns import MISSING, Integers, QuoteRows, Shard
from oddstream_server.backtesting.records.universe import Status, Universe
from oddstream_server.domain.fitted import FittedName, FittedObject
from oddstream_server.strategies import underlying
from oddstream_server.strategies.fitting import (
    BAND_MICROS,
    HORIZONS_US,
    HOUR_US,
    PRIOR_SAMPLES,
    baseline_key,
    calibration_key,
)
from oddstream_server.strategies.kernel import (
    FITTED_COLUMNS,
    PRINT_COLUMNS,
    TERMS_COLUMNS,
    UNDERLYING_COLUMNS,
    StrategyKind,
)

PRICE, QUOTE, PRINT = 0, 1, 2
"""What made a row, in the order of one place."""
_HOURS: Final = 168
_BANDS: Final = 1_000_000 // BAND_MICROS


@dataclass(frozen=True, slots=True)
class Steps:
    """Rows for a strategy."""

    quotes: QuoteRows
    """The market's quote as of each row; time and sequence are the row's own."""
    extra: Any
    """int64 [row, names] of the columns that quotes don't have."""
    names: tuple[str, ...]
    made_by: Any
    """int64: PRICE, QUOTE or PRINT; empty where all are quotes."""
    quote_row: Integers
    """The last quote of the shard, of whatever market, at or before the row; empty where rows are quotes."""

    def __len__(self) -> int:
        return len(self.quotes)

    @classmethod
    def of_quotes(cls, quotes: QuoteRows) -> "Steps":
        """The recorded quotes as they are."""
        nothing = np.empty(0, dtype=np.int64)
        return cls(quotes, np.empty((0, 0), dtype=np.int64), (), nothing, nothing)


def steps_of(kind: StrategyKind, universe: Universe, shard: Shard, *, plain: bool = False) -> Steps:
    """The rows that a kind is stepped on."""
    names = tuple(
        name
        for names in (PRINT_COLUMNS, TERMS_COLUMNS, UNDERLYING_COLUMNS, FITTED_COLUMNS)
        for name in names
        if name in kind.columns
    )
    if not names:
        return Steps.of_quotes(shard.quotes)
    quotes, made_by, quote_row, extra = shard.quotes, np.empty(0, np.int64), np.empty(0, np.int64), dict[str, Any]()
    if kind.wants_prints or kind.wants_underlying:
        merged = _merged(shard, universe, kind, plain=plain)
        quotes, made_by, quote_row, extra = merged
    if not TERMS_COLUMNS.keys().isdisjoint(names):
        for place, name in enumerate(TERMS_COLUMNS):
            extra[name] = terms_as_of(universe, quotes, place, plain=plain)
    if any(name.startswith("calibrat") for name in names):
        extra |= _calibration(quotes, universe, plain=plain)
    if any(name.startswith("baseline") for name in names):
        extra |= _baseline(quotes, universe)
    columns = np.stack([np.asarray(extra[name], dtype=np.int64) for name in names], axis=1)
    return Steps(quotes, np.ascontiguousarray(columns), names, made_by, quote_row)


def find_revisions(market: Any, times: Any, revisions: Any, revision_bounds: Any, found: Any) -> None:
    """Place of the revision of terms that holds at each row; -1 while the first terms do."""
    for i in range(len(market)):
        found[i] = revision_at(revisions, revision_bounds, market[i], times[i])


def terms_as_of(universe: Universe, quotes: QuoteRows, column: int, *, plain: bool) -> Any:
    """A column of the markets' terms as they were known at each row."""
    values = universe.market_terms[quotes.market, column]
    if not len(universe.revisions):
        return values
    found = np.empty(len(quotes), dtype=np.int64)
    walk: Callable[..., Any] = compiled(find_revisions, plain=plain)
    walk(quotes.market, quotes.receive_time_us, universe.revisions, universe.revision_bounds, found)
    return np.where(found >= 0, universe.revised_terms[found, column], values)


def bound_price_step(state: Any, time_us: Any, price_micros: Any) -> None:
    """Stands for the step of an underlying's volatility, which is bound in its place."""
    raise NotImplementedError


def carry(
    made_by: Any, subject: Any, source: Any, times: Any, prices: Any, instrument_of: Any, states: Any, last: Any,
    as_of: Any, around: Any,
) -> None:  # fmt: skip
    """Fill in the quote as of each row and the underlying as of each row; -1 where there is none yet.

    :param subject: the market of a row, or -1 - the instrument of a price that reaches no market by itself.
    """
    for i in range(len(made_by)):
        s = subject[i]
        if s < 0:
            bound_price_step(states[-1 - s], times[i], prices[source[i]])
            as_of[i] = -1
            continue
        if made_by[i] == 1:
            last[s] = source[i]
        as_of[i] = last[s]
        instrument = instrument_of[s]
        if instrument >= 0 and states[instrument]["time_us"] != 0:
            around[i, 0] = states[instrument]["price_micros"]
            around[i, 1] = states[instrument]["time_us"]
            around[i, 2] = states[instrument]["volatility_ppb"]


def _merged(
    shard: Shard, universe: Universe, kind: StrategyKind, *, plain: bool
) -> tuple[QuoteRows, Any, Any, dict[str, Any]]:
    quotes, prints, prices = shard.quotes, shard.trades, shard.prices
    parts: list[tuple[int, Any, Any, Any, Any]] = [
        (QUOTE, quotes.market.astype(np.int64), quotes.receive_time_us, quotes.ingest_sequence, np.arange(len(quotes)))
    ]
    if kind.wants_prints:
        parts.append(
            (
                PRINT,
                prints.market.astype(np.int64),
                prints.receive_time_us,
                prints.ingest_sequence,
                np.arange(len(prints)),
            )
        )
    if kind.wants_underlying and len(prices):
        real = prices.price_micros > 0
        times, sequences, source = prices.receive_time_us[real], prices.ingest_sequence[real], np.flatnonzero(real)
        instruments = prices.market.astype(np.int64)[real]
        parts.append((PRICE, -1 - instruments, times, sequences, source))
        firsts, ends = _lives(quotes, universe)
        for instrument in np.unique(instruments):
            own = np.flatnonzero(instruments == instrument)
            about = [m for m in shard.markets if universe.instrument_of[m] == instrument]
            begins = np.searchsorted(times[own], firsts[about], side="left")
            counts = np.maximum(np.searchsorted(times[own], ends[about], side="right") - begins, 0)
            before = np.cumsum(counts) - counts
            taken = own[np.arange(int(counts.sum())) + np.repeat(begins - before, counts)]
            subjects = np.repeat(np.array(about, dtype=np.int64), counts)
            parts.append((PRICE, subjects, times[taken], sequences[taken], source[taken]))
    made_by = np.concatenate([np.full(len(part[1]), part[0], dtype=np.int64) for part in parts])
    subject, times, sequences, source = (np.concatenate([part[k] for part in parts]) for k in range(1, 5))
    # at one place the price itself, which is below 0, then what it makes of the markets by index
    order = np.lexsort((subject, made_by, sequences, times))
    made_by, subject, times, sequences, source = (a[order] for a in (made_by, subject, times, sequences, source))
    as_of = np.full(len(order), -1, dtype=np.int64)
    around = np.full((len(order), 3), MISSING, dtype=np.int64)
    count = max(len(universe), 1)
    walk: Callable[..., Any] = compiled(carry, plain=plain, bound_price_step=underlying.price_step)
    walk(
        made_by,
        subject,
        source,
        times,
        prices.price_micros,
        universe.instrument_of,
        np.zeros(max(len(universe.instruments), 1), dtype=underlying.STATE),
        np.full(count, -1, dtype=np.int64),
        as_of,
        around,
    )
    before = np.cumsum(made_by == QUOTE) - 1
    # a print comes after all books of its instant, whatever their sequence: so the fills have it
    quote_row = np.where(made_by == PRINT, np.searchsorted(quotes.receive_time_us, times, side="right") - 1, before)
    kept = as_of >= 0
    made_by, times, sequences, source, quote_row, around = (
        a[kept] for a in (made_by, times, sequences, source, quote_row, around)
    )
    shown = quotes.taken(as_of[kept])
    rows = QuoteRows.unchecked(shown, np.ascontiguousarray(times), np.ascontiguousarray(sequences))
    extra: dict[str, Any] = dict(zip(UNDERLYING_COLUMNS, around.T, strict=True))
    printed = made_by == PRINT
    at = np.where(printed, source, 0)
    for name, column in (("trade_price_micros", prints.price_micros), ("trade_size_micros", prints.size_micros)):
        extra[name] = np.where(printed, column[at], MISSING) if len(prints) else np.full(len(at), MISSING)
    taker = prints.taker_outcome[at] if len(prints) else np.full(len(at), MISSING)
    extra["trade_outcome"] = np.where(printed & ((taker == 0) | (taker == 1)), taker + 1, 0)
    return rows, np.ascontiguousarray(made_by), np.ascontiguousarray(quote_row), extra


def _lives(quotes: QuoteRows, universe: Universe) -> tuple[Any, Any]:
    """By market, its first quote's time and the time from which it is shut for good: prices outside say nothing of it,
    and with thousands of short-lived markets on one price they would be nearly all rows."""
    count = max(len(universe), 1)
    firsts, ends = np.full(count, 2**62, dtype=np.int64), np.full(count, 2**62, dtype=np.int64)
    seen, rows = np.unique(quotes.market, return_index=True)
    firsts[seen] = quotes.receive_time_us[rows]
    changes = universe.changes
    for time_us, market, status in changes.tolist():  # ascending: the last one stays
        ends[market] = 2**62 if status == Status.OPEN else time_us
    return firsts, ends


def _objects(universe: Universe, name: FittedName) -> list[FittedObject]:
    """Of a name, in the order of their effect."""
    return sorted((o for o in universe.fitted if o.name is name), key=lambda o: (o.effective_time_us, o.version))


def _in_effect(objects: Sequence[FittedObject], times: Any) -> Any:
    """Place of the object that is used at each instant: the last one that took effect before it; -1 for none."""
    effective = np.array([o.effective_time_us for o in objects], dtype=np.int64)
    return np.searchsorted(effective, times, side="left") - 1


def _calibration(quotes: QuoteRows, universe: Universe, *, plain: bool) -> dict[str, Any]:
    """The columns of :meth:`~oddstream_server.strategies.fitting.FittedTables.calibration_values`."""
    times = quotes.receive_time_us
    closes = terms_as_of(universe, quotes, list(TERMS_COLUMNS).index("close_time_us"), plain=plain)
    payouts = universe.terms["payout_micros"][quotes.market]
    bid, ask = quotes.bid_price_micros.astype(np.int64), quotes.ask_price_micros.astype(np.int64)
    mids = np.where((bid == MISSING) | (ask == MISSING), MISSING, (bid + ask) // 2)
    left = closes - times
    objects = _objects(universe, FittedName.CALIBRATION)
    which = _in_effect(objects, times)
    usable = (which >= 0) & (closes != MISSING) & (left > 0) & (mids > 0)
    fair = np.full(len(times), MISSING, dtype=np.int64)
    count = np.zeros(len(times), dtype=np.int64)
    fitted_at = np.full(len(times), MISSING, dtype=np.int64)
    scaled = np.where(usable, mids * 1_000_000 // payouts, 0)
    horizon = np.searchsorted(np.array(HORIZONS_US), left, side="right")
    band = np.minimum(scaled, 999_999) // BAND_MICROS
    category = universe.category_of[quotes.market]
    for k, held in enumerate(objects):
        table = np.zeros((len(universe.categories), len(HORIZONS_US) + 1, _BANDS, 3), dtype=np.int64)
        for c, name in enumerate(universe.categories):
            for h in range(len(HORIZONS_US) + 1):
                for b in range(_BANDS):
                    table[c, h, b] = held.cells.get(calibration_key(name, h, b * BAND_MICROS), (0, 0, 0))
        rows = np.flatnonzero(usable & (which == k))
        cells = table[category[rows], horizon[rows], band[rows]]
        shift = (cells[:, 2] - cells[:, 1]) // (cells[:, 0] + PRIOR_SAMPLES)
        fair[rows] = np.clip(scaled[rows] + shift, 0, 1_000_000) * payouts[rows] // 1_000_000
        count[rows] = cells[:, 0]
        fitted_at[rows] = held.fit_time_us
    return {"calibrated_price_micros": fair, "calibration_count": count, "calibration_fit_time_us": fitted_at}


def _baseline(quotes: QuoteRows, universe: Universe) -> dict[str, Any]:
    """The columns of :meth:`~oddstream_server.strategies.fitting.FittedTables.baseline_values`."""
    times = quotes.receive_time_us
    objects = _objects(universe, FittedName.VOLUME_BASELINE)
    which = _in_effect(objects, times)
    found = {
        "baseline_median_e4": np.full(len(times), MISSING, dtype=np.int64),
        "baseline_deviation_e4": np.full(len(times), MISSING, dtype=np.int64),
        "baseline_count": np.zeros(len(times), dtype=np.int64),
        "baseline_fit_time_us": np.full(len(times), MISSING, dtype=np.int64),
    }
    hours = times // HOUR_US % _HOURS
    place = universe.venue_category_of[quotes.market]
    for k, held in enumerate(objects):
        table = np.full((len(universe.venue_categories), _HOURS, 4), MISSING, dtype=np.int64)
        for p, (venue, category) in enumerate(universe.venue_categories):
            for hour in range(_HOURS):
                cell = held.cells.get(baseline_key(venue, category, hour * HOUR_US))
                if cell is not None:
                    table[p, hour] = (cell[1], cell[2], cell[0], held.fit_time_us)
        rows = np.flatnonzero(which == k)
        cells = table[place[rows], hours[rows]]
        known = cells[:, 3] != MISSING
        for j, name in enumerate(
            ("baseline_median_e4", "baseline_deviation_e4", "baseline_count", "baseline_fit_time_us")
        ):
            found[name][rows[known]] = cells[known, j]
    return found
