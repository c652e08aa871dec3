"""What a run reads: its markets as they were known, and their rows shard by shard."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from oddstream_server.application.as_of import as_it_became_known
from oddstream_server.application.ports.backtests import Columns, MarketHistory, MarketRows, RecordedData
from oddstream_server.backtesting.records.columns import BookRows, PriceRows, QuoteRows, Shard, TradeRows
from oddstream_server.backtesting.records.universe import LinkSpan, RecordedMarket, Universe, recorded, spans_of
from oddstream_server.domain.backtest import BacktestSpec
from oddstream_server.domain.errors import FailedPrecondition
from oddstream_server.domain.fitted import FittedObject
from oddstream_server.domain.market import Event, Market, MarketState


@dataclass(frozen=True, slots=True)
class RunData:
    """The markets of a run with their rows counted, cut into shards of whole events."""

    universe: Universe
    shards: tuple[tuple[int, ...], ...]
    """Dense indices of markets."""
    row_counts: tuple[int, ...]
    """By shard."""
    first_us: int
    """First instant that is read: before the range for what warms strategies up."""
    end_us: int

    def market_ids(self, shard: Sequence[int]) -> list[str]:
        return [self.universe.market_ids[i] for i in shard]


async def find_data(data: RecordedData, spec: BacktestSpec, warm_up_us: int, shard_rows: int) -> RunData:
    """:raises FailedPrecondition: BACKTEST_WITHOUT_DATA."""
    first_us = max(spec.start_us - warm_up_us, 0)
    rows = await data.count_rows(spec.markets, first_us, spec.end_us, simulated=spec.simulated)
    if not any(r.quote_count for r in rows):
        raise without_data()
    universe = await build_universe(data, rows, spec.end_us)
    counts = {r.market_id: r.quote_count + r.trade_count + r.level_count for r in rows}
    by_index = [counts[market_id] for market_id in universe.market_ids]
    shards = universe.shards(by_index, shard_rows)
    return RunData(
        universe, tuple(shards), tuple(sum(by_index[i] for i in shard) for shard in shards), first_us, spec.end_us
    )


def without_data() -> FailedPrecondition:
    return FailedPrecondition(
        "no quote of the selected markets was recorded within the range; ListQuotes and the markets' open times tell "
        "what there is (simulated markets take part only where simulated is set, and no others do then)",
        subject="config.range",
        reason="BACKTEST_WITHOUT_DATA",
    )


@dataclass(frozen=True, slots=True)
class FrozenMarkets:
    """A universe as it was known once; every part of a sweep has the same."""

    markets: tuple[RecordedMarket, ...]
    events: tuple[Event, ...]
    links: tuple[LinkSpan, ...]
    fitted: tuple[FittedObject, ...]

    @classmethod
    def of(cls, universe: Universe) -> "FrozenMarkets":
        return cls(universe.markets, universe.events, universe.spans, universe.fitted)

    def to_bytes(self) -> bytes:
        return zlib.compress(_FROZEN.dump_json(self))

    @classmethod
    def from_bytes(cls, stored: bytes) -> Universe:
        held = _FROZEN.validate_json(zlib.decompress(stored))
        return Universe(held.markets, held.events, held.links, held.fitted)


_FROZEN: Final = TypeAdapter(FrozenMarkets)


async def build_universe(data: RecordedData, rows: Sequence[MarketRows], end_us: int) -> Universe:
    """What is known of the markets before the end of a run; each fact with the instant from which it was."""
    first_rows = {r.market_id: r.first_time_us for r in rows}
    ids = sorted(first_rows)
    histories = await data.histories(ids)
    events = await data.events(ids)
    links = [span for link in await data.links(ids) for span in spans_of(link.link, link.changes)]
    fitted = [found for found in await data.fitted() if found.effective_time_us < end_us]
    return Universe(
        [as_known(h, first_rows[h.market.market_id]) for h in histories],
        events,
        [span for span in links if span.from_us < end_us],
        fitted,
    )


def as_known(history: MarketHistory, first_row_us: int) -> RecordedMarket:
    """A market as a live run knew it; one that no live run saw (imports) was known from when the catalog had it, or
    from its first row, if that came before."""
    if history.versions:
        states = [(time_us, version.state) for time_us, version in history.versions]
        if first_row_us < states[0][0]:
            states.insert(0, (first_row_us, MarketState.OPEN))  # an import reaches back before the live run
        changes = [states[0], *(after for before, after in pairwise(states) if before[1] is not after[1])]
        first, *later = history.versions
        revisions = [row for before, row in pairwise((first, *later)) if _terms(before[1]) != _terms(row[1])]
        return RecordedMarket(first[1], tuple(changes), history.settlements, tuple(revisions))
    market = replace(history.market, settlement=history.settlements[0] if history.settlements else None)
    known = recorded(market, min(history.first_seen_us, first_row_us))
    # the close that the catalog has may be one that nobody knew beforehand: it shuts the market, and is no term of it
    versions = as_it_became_known(market)
    return replace(known, market=versions[0][1], settlements=history.settlements, revisions=tuple(versions[1:]))


def _terms(market: Market) -> tuple[object, ...]:
    """What a revision may change; see :class:`RecordedMarket`."""
    return market.price_ranges, market.fee_schedules, market.close_time_us, market.strike


async def read_shard(data: RecordedData, run: RunData, shard: Sequence[int]) -> Shard:
    """The rows of some markets as the engine wants them."""
    ids = run.market_ids(shard)
    places = np.array(shard, dtype=np.int32)
    quotes = await data.quotes(ids, run.first_us, run.end_us)
    trades = await data.trades(ids, run.first_us, run.end_us)
    levels = await data.books(ids, run.first_us, run.end_us)
    instruments = np.unique(run.universe.instrument_of[places])
    about = instruments[instruments >= 0].astype(np.int32)
    prices = await data.quotes([run.universe.instruments[i] for i in about], run.first_us, run.end_us)
    return Shard(
        tuple(shard),
        QuoteRows(**_as(QuoteRows, quotes, places)),
        TradeRows(**_as(TradeRows, trades, places)),
        _books(levels, places),
        PriceRows(**_as(PriceRows, {**prices, "price_micros": prices["bid_price_micros"]}, about)),
    )


def _books(levels: Columns, places: npt.NDArray[np.int32]) -> BookRows:
    """Levels numbered by the book that they belong to: a market's at one instant."""
    times, market = levels["receive_time_us"], levels["market"]
    begins = np.ones(len(times), dtype=bool)
    begins[1:] = (times[1:] != times[:-1]) | (market[1:] != market[:-1])
    numbered = {
        **levels,
        "ingest_sequence": np.arange(len(times), dtype=np.int64),
        "book": np.cumsum(begins) - 1,
    }
    return BookRows(**_as(BookRows, numbered, places))


def _as(
    rows: type[QuoteRows] | type[TradeRows] | type[PriceRows] | type[BookRows],
    columns: Columns,
    places: npt.NDArray[np.int32],
) -> Columns:
    """The columns in the types that the engine declares, with markets by their index in the universe."""
    placed = {**columns, "market": places[columns["market"]]}
    wanted = {column.name for column in fields(rows)}
    return {
        name: values.astype(np.int32 if name in rows._narrow else np.int64)
        for name, values in placed.items()
        if name in wanted
    }
