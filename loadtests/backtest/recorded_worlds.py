"""Recorded data as a backtest reads it: Kalshi's hourly crypto ladders and ten days of Polymarket US.

What strategies may see comes from the quote files alone, by the forms of the import command, which name no outcome
column. Outcomes come from files of their own and reach settlements only.
"""

import csv
import gzip
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow.parquet as pq

from oddstream_server.backtesting.records.columns import BookRows, PriceRows, QuoteRows, Shard, TradeRows
from oddstream_server.backtesting.records.universe import Universe, recorded
from oddstream_server.domain.market import (
    Declared,
    Event,
    Market,
    Settlement,
    SettlementState,
    Venue,
    underlying_id,
)
from oddstream_server.pipeline.imports.columns import local_to_utc_us, read_rows
from oddstream_server.pipeline.imports.forms import form_named

MINUTE_US: Final = 60_000_000
HOUR_US: Final = 60 * MINUTE_US
LADDER_RESULT_US: Final = 10 * MINUTE_US
"""From a ladder's close to its result, which the file gives without a time: assumed."""
US_RESULT_US: Final = HOUR_US
"""From the last quote of a Polymarket US market to its result: assumed, since the file says only the former."""
SHARDS: Final = 64
US_RESULTS: Final = "polymarket_us/outcomes.parquet"
LADDERS: Final = "kalshi/history/crypto_hourly_flat.csv.gz"
LADDER_RESULTS: Final = "kalshi/history/crypto_hourly_results.csv.gz"
_SPOOLED: Final = np.dtype(
    [("market", "<i4"), ("time_us", "<i8"), ("bid", "<i4"), ("ask", "<i4"), ("epoch", "<i4"), ("row", "<i8")]
)


@dataclass(frozen=True, slots=True)
class Result:
    """What outcome 0 of a market paid, and when that became known."""

    payout_micros: int
    known_us: int


Outcomes = Mapping[str, Result]
"""By the venue's own id."""


def data_folder() -> Path:
    return Path(os.environ.get("ODDSTREAM_REAL_DATA", "../shared/data"))


@dataclass(frozen=True)
class RecordedWorld:
    """Markets with their rows; :meth:`shards` reads them one after another."""

    name: str
    universe: Universe
    start_us: int
    end_us: int
    parts: Sequence[Any]
    """One array of _SPOOLED a shard, or the file that holds it; markets are dense indices."""
    members: Sequence[tuple[int, ...]]
    """Markets of each shard."""
    prices: PriceRows

    def shards(self) -> Iterator[Shard]:
        for markets, part in zip(self.members, self.parts, strict=True):
            rows = np.fromfile(part, dtype=_SPOOLED) if isinstance(part, Path) else part
            rows = rows[np.lexsort((rows["row"], rows["time_us"]))]
            quotes = QuoteRows(
                market=rows["market"].astype(np.int32),
                receive_time_us=rows["time_us"].astype(np.int64),
                ingest_sequence=rows["row"].astype(np.int64),
                bid_price_micros=rows["bid"].astype(np.int32),
                bid_size_micros=np.full(len(rows), -1, dtype=np.int64),
                ask_price_micros=rows["ask"].astype(np.int32),
                ask_size_micros=np.full(len(rows), -1, dtype=np.int64),
                epoch=rows["epoch"].astype(np.int32),
            )
            del rows  # the columns are copies, and this stands still while the shard is played
            yield Shard(markets, quotes, TradeRows.none(), BookRows.none(), self.prices)


# --- Kalshi's ladders ---


def ladder_outcomes(folder: Path) -> Mapping[str, int]:
    """What outcome 0 paid by the results file; a market whose result isn't yes or no is left out."""
    with gzip.open(folder / LADDER_RESULTS, "rt") as file:
        rows = list(csv.DictReader(file))
    return {r["ticker"]: int(r["result"] == "yes") * 1_000_000 for r in rows if r["result"] in ("yes", "no")}


def kalshi_ladders(folder: Path) -> RecordedWorld:
    """161,116 quotes of hourly ladders on bitcoin and ether, July 2026, one an hour and market.

    Their events are declared exclusive and exhaustive, as the contract terms say: adjoining ranges with open ends.
    """
    path = folder / LADDERS
    form = form_named("kalshi_ladder")
    markets: dict[str, Market] = {}
    events: dict[str, Event] = {}
    pieces = []
    for rows in read_rows(path, form):
        table = {name: rows.table[name].to_pylist() for name in rows.table.column_names}
        _, first = np.unique(rows.market_codes, return_index=True)
        for place in first.tolist():
            native = rows.natives[rows.market_codes[place]]
            if native not in markets:
                market, event = form.describe({name: values[place] for name, values in table.items()})
                assert market.strike is not None
                assert event is not None
                about = underlying_id(Venue.KALSHI, market.series_id)
                markets[native] = replace(market, strike=replace(market.strike, underlying_id=about))
                events.setdefault(event.event_id, event)
        pieces.append((np.array(rows.natives)[rows.market_codes], _spooled(rows, 0)))
    by_event: dict[str, list[str]] = {}
    for market in markets.values():
        by_event.setdefault(market.event_id or "", []).append(market.market_id)
    said = "contract terms: adjoining ranges with open ends, one of which holds the price"
    declared = [
        replace(
            event,
            market_ids=tuple(sorted(by_event[event_id])),
            exclusivity=Declared.YES,
            exclusivity_source=said,
            exhaustiveness=Declared.YES,
            exhaustiveness_source=said,
        )
        for event_id, event in events.items()
    ]
    results = ladder_outcomes(folder)
    rows_of = np.concatenate([piece for _, piece in pieces])
    natives = np.concatenate([names for names, _ in pieces])
    first_rows = {n: int(rows_of["time_us"][at]) for n, at in zip(*np.unique(natives, return_index=True), strict=True)}
    settled = []
    for native, market in markets.items():
        known_us = (market.close_time_us or 0) + LADDER_RESULT_US
        result = Result(results[native], known_us) if native in results else None
        settled.append(recorded(replace(market, settlement=_settlement(result)), first_rows[native]))
    universe = Universe(settled, declared)
    rows_of["market"] = [universe.index[markets[n].market_id] for n in natives.tolist()]
    everything = tuple(range(len(universe)))
    end_us = int(max(rows_of["time_us"].max(), max(m.close_time_us or 0 for m in markets.values()))) + HOUR_US
    return RecordedWorld(
        "Kalshi, hourly crypto ladders",
        universe,
        int(rows_of["time_us"].min()) // HOUR_US * HOUR_US,
        end_us,
        [rows_of],
        [everything],
        _ladder_prices(path, universe),
    )


def _ladder_prices(path: Path, universe: Universe) -> PriceRows:
    """The spot price beside each capture: what the ladders are about, as known then."""
    seen: dict[tuple[int, int], int] = {}
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            if row["spot"]:
                time_us = round(datetime.fromisoformat(row["captured_at"]).timestamp() * 1_000_000)
                instrument = universe.instrument_index[underlying_id(Venue.KALSHI, row["series"])]
                seen.setdefault((time_us, instrument), round(float(row["spot"]) * 1_000_000))
    keys = sorted(seen)
    return PriceRows(
        market=np.array([k[1] for k in keys], dtype=np.int32),
        receive_time_us=np.array([k[0] for k in keys], dtype=np.int64),
        ingest_sequence=np.arange(-len(keys), 0, dtype=np.int64),  # before the quotes of their capture
        price_micros=np.array([seen[k] for k in keys], dtype=np.int64),
    )


# --- Polymarket US ---


def us_outcomes(folder: Path) -> Outcomes:
    """The file says when the last quote came, by the wall clock of New York, and not when the result did."""
    table = pq.read_table(folder / US_RESULTS)
    local = table["last_ts"].to_numpy().astype("datetime64[us]").astype(np.int64)
    known = local_to_utc_us(local, ZoneInfo("America/New_York")) + US_RESULT_US
    rows = zip(table["slug"].to_pylist(), table["outcome_yes"].to_pylist(), known.tolist(), strict=True)
    return {slug: Result(yes * 1_000_000, known_us) for slug, yes, known_us in rows}


@contextmanager
def polymarket_us(folder: Path, days: int | None = None) -> Iterator[RecordedWorld]:
    """53 million quotes of 57,114 markets, ten days of July 2026; the rows are on disk while the world is used.

    :param days: the first so many files; None for all.
    """
    form = form_named("polymarket_us")
    files = sorted((folder / "polymarket_us/quotes").rglob("*.parquet"))[:days]
    catalog = pq.read_table(folder / "polymarket_us/markets.parquet")
    described = {row["slug"]: form.describe(row)[0] for row in catalog.to_pylist()}
    codes: dict[str, int] = {}
    firsts: dict[int, int] = {}
    row, start_us, end_us = 0, 2**62, 0
    with tempfile.TemporaryDirectory(prefix="oddstream-worlds-") as spool:
        outputs = [(Path(spool) / f"{k}.rows").open("wb") for k in range(SHARDS)]
        try:
            for file in files:
                epoch = int(pq.ParquetFile(file).read_row_group(0, columns=["segment"])["segment"][0].as_py())
                for rows in read_rows(file, form):
                    for native in rows.natives:
                        codes.setdefault(native, len(codes))
                    part = _spooled(rows, row, epoch)
                    row += len(rows)
                    places = np.array([codes[n] for n in rows.natives], dtype=np.int32)
                    part["market"] = places[rows.market_codes]
                    _note_firsts(firsts, part)
                    start_us = min(start_us, int(part["time_us"].min()))
                    end_us = max(end_us, int(part["time_us"].max()))
                    shard_of = (part["market"] % SHARDS).astype(np.uint8)
                    part = part[np.argsort(shard_of, kind="stable")]
                    ends = np.cumsum(np.bincount(shard_of, minlength=SHARDS))
                    for k, output in enumerate(outputs):
                        part[ends[k - 1] if k else 0 : ends[k]].tofile(output)
        finally:
            for output in outputs:
                output.close()
        results = us_outcomes(folder)
        settled = []
        for native, code in codes.items():
            market = described.get(native) or form.describe({"slug": native})[0]
            settled.append(recorded(replace(market, settlement=_settlement(results.get(native))), firsts[code]))
        universe = Universe(settled)
        del described, results, settled, firsts  # by the tens of thousands, and read no more
        dense = np.array([universe.index[f"{form.venue.value}:{native}"] for native in codes], dtype=np.int32)
        parts, members = [], []
        for k in range(SHARDS):
            rows_of = np.fromfile(Path(spool) / f"{k}.rows", dtype=_SPOOLED)
            rows_of["market"] = dense[rows_of["market"]]
            rows_of.tofile(Path(spool) / f"{k}.rows")
            parts.append(Path(spool) / f"{k}.rows")
            members.append(tuple(sorted(dense[k::SHARDS].tolist())))
        yield RecordedWorld(
            "Polymarket US, all markets",
            universe,
            start_us // HOUR_US * HOUR_US,
            end_us + 2 * US_RESULT_US,
            parts,
            members,
            PriceRows.none(),
        )


def _note_firsts(firsts: dict[int, int], part: Any) -> None:
    """When each market was first seen; files follow each other in time, rows within them don't."""
    order = np.argsort(part["market"], kind="stable")
    markets, begins = np.unique(part["market"][order], return_index=True)
    lows = np.minimum.reduceat(part["time_us"][order], begins)
    for market, low in zip(markets.tolist(), lows.tolist(), strict=True):
        firsts[market] = min(firsts.get(market, low), low)


def _spooled(rows: Any, before: int, epoch: int = 0) -> Any:
    made = np.zeros(len(rows), dtype=_SPOOLED)
    made["time_us"] = rows.receive_time_us
    made["bid"], made["ask"] = rows.bid_price_micros, rows.ask_price_micros
    made["epoch"] = epoch
    made["row"] = np.arange(before or rows.first_row, (before or rows.first_row) + len(rows))
    return made


def _settlement(result: Result | None) -> Settlement | None:
    if result is None:
        return None
    known_us = result.known_us
    return Settlement(SettlementState.FINAL, result.payout_micros, 1, known_time_us=known_us, paid_time_us=known_us)
